"""gss_lite: Generative Semantic Segmentation (Chen et al., CVPR 2023), to read, run and teach.

Use it as `import gss_lite as gss`; the README shows what for.
"""

from gss_lite.baselines.pixel import PixelTwin
from gss_lite.baselines.uvim import UViM
from gss_lite.contracts import IGNORE
from gss_lite.dalle import DalleDVAE, load_dalle
from gss_lite.data import (
    DATASETS,
    LabelMap,
    OwnFolder,
    Relabeled,
    Taxonomy,
    create_dataset,
    with_data,
)
from gss_lite.data.folders import CamVid
from gss_lite.data.pictures import read_image
from gss_lite.data.scenes import ManyScenes, Scenes
from gss_lite.data.transforms import denormalize, normalize
from gss_lite.evaluation import Evaluation, evaluate, evaluate_palette
from gss_lite.export import export_weights
from gss_lite.factory import (
    create_model,
    create_palette,
    create_prior,
    create_tokenizer,
    load_inverse,
)
from gss_lite.gss import GSS, Prediction, Targets, rebuild
from gss_lite.inverse import LeastSquares, NearestColor
from gss_lite.inverse_fitted import CodeTable, ConvInverse, GaussianInverse, SwinInverse
from gss_lite.metrics import SegmentationMetrics
from gss_lite.palette import (
    Palette,
    arithmetic_palette,
    farthest_point_palette,
    max_min_palette,
    paint,
)
from gss_lite.presets import Preset, get_preset, list_presets
from gss_lite.prior import Prior
from gss_lite.training import LoopOptions, Run, train
from gss_lite.vqvae import VQVAE

__all__ = [
    "DATASETS",
    "GSS",
    "IGNORE",
    "VQVAE",
    "CamVid",
    "CodeTable",
    "ConvInverse",
    "DalleDVAE",
    "Evaluation",
    "GaussianInverse",
    "LabelMap",
    "LeastSquares",
    "LoopOptions",
    "ManyScenes",
    "NearestColor",
    "OwnFolder",
    "Palette",
    "PixelTwin",
    "Prediction",
    "Preset",
    "Prior",
    "Relabeled",
    "Run",
    "Scenes",
    "SegmentationMetrics",
    "SwinInverse",
    "Targets",
    "Taxonomy",
    "UViM",
    "arithmetic_palette",
    "create_dataset",
    "create_model",
    "create_palette",
    "create_prior",
    "create_tokenizer",
    "denormalize",
    "evaluate",
    "evaluate_palette",
    "export_weights",
    "farthest_point_palette",
    "get_preset",
    "list_presets",
    "load_dalle",
    "load_inverse",
    "max_min_palette",
    "normalize",
    "paint",
    "plot_log",
    "read_image",
    "rebuild",
    "show",
    "train",
    "with_data",
]


def __getattr__(name: str) -> object:
    """`show` and `plot_log` need matplotlib, which only the notebooks install."""
    if name in ("show", "plot_log"):
        from gss_lite import plotting

        return getattr(plotting, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
