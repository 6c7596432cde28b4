"""gss_lite: Generative Semantic Segmentation (Chen et al., CVPR 2023), to read, to run and to teach with."""

from gss_lite.dalle import DalleDVAE, load_dalle
from gss_lite.data import dataset_for
from gss_lite.factory import build_gss, build_palette, build_tokenizer, load_gss, load_tokenizer
from gss_lite.gss import GSS, Prediction, Targets
from gss_lite.inverse import NearestColor
from gss_lite.metrics import SegmentationMetrics
from gss_lite.palette.constructions import arithmetic_palette
from gss_lite.palette.maxmin import farthest_point_palette
from gss_lite.palette.palette import Palette, paint
from gss_lite.presets import PRESETS, get_preset
from gss_lite.presets.parts import Preset
from gss_lite.prior import Prior
from gss_lite.vqvae import VQVAE

__all__ = [
    "GSS",
    "PRESETS",
    "DalleDVAE",
    "NearestColor",
    "Palette",
    "Prediction",
    "Preset",
    "Prior",
    "SegmentationMetrics",
    "Targets",
    "VQVAE",
    "arithmetic_palette",
    "build_gss",
    "build_palette",
    "build_tokenizer",
    "dataset_for",
    "farthest_point_palette",
    "get_preset",
    "load_dalle",
    "load_gss",
    "load_tokenizer",
    "paint",
]
