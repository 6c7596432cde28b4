"""From a preset to its parts: data sets, palette, tokenizer, prior, and the assembled GSS with its weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch.utils.data import Dataset

from gss_lite.data.camvid import CamVid
from gss_lite.data.scenes import Scenes
from gss_lite.gss import GSS
from gss_lite.inverse import NearestColor
from gss_lite.palette import Palette, farthest_point_palette
from gss_lite.presets import Preset
from gss_lite.prior import Prior, build_backbone
from gss_lite.training.checkpoints import load_weights
from gss_lite.vqvae import VQVAE

SHIPPED = Path(__file__).parent / "weights"
CLASSES = {"scenes": Scenes.classes, "camvid": CamVid.classes}


def dataset_for(
    preset: Preset, split: str, *, folder: str | Path | None = None, transform: Callable | None = None,
) -> Dataset:
    """The preset's data set: split "train", "val" or "test"; `folder` says where a set that is on disk lies."""
    if preset.data == "camvid":
        return CamVid(split, folder, transform=transform)
    length = preset.train_pictures if split == "train" else preset.eval_pictures
    return Scenes(length, split=split, seed=preset.seed, height=preset.size[0], width=preset.size[1], transform=transform)


def build_palette(preset: Preset, weights: str | Path = SHIPPED) -> Palette:
    """The palette of the preset's classes: constructed, or read from folder `weights` where its making looked at masks."""
    if preset.palette == "assigned":
        return Palette.load(Path(weights) / f"{preset.name}.palette.json")
    return farthest_point_palette(len(CLASSES[preset.data]))


def build_tokenizer(preset: Preset) -> VQVAE:
    """The preset's VQ-VAE, untrained."""
    return VQVAE(**preset.tokenizer)


def build_gss(preset: Preset, tokenizer: VQVAE | None = None, weights: str | Path = SHIPPED) -> GSS:
    """The preset's whole model (GSS-FF: nearest colour), untrained but for the tokenizer given and the palette in `weights`."""
    palette = build_palette(preset, weights)
    tokenizer = tokenizer or build_tokenizer(preset)
    backbone = build_backbone(preset.backbone, **preset.backbone_args)
    prior = Prior(backbone, tokenizer.vocab_size, len(palette), **preset.head)
    return GSS(palette, tokenizer, prior, NearestColor(palette.colors))


def load_tokenizer(preset: Preset, weights: str | Path = SHIPPED) -> VQVAE:
    """The preset's VQ-VAE with the weights in folder `weights` (default: the ones that come with the package), in eval mode."""
    tokenizer = build_tokenizer(preset)
    load_weights(Path(weights) / f"{preset.name}.vqvae.safetensors", tokenizer)
    return tokenizer.eval()


def load_gss(preset: Preset, weights: str | Path = SHIPPED) -> GSS:
    """The preset's trained model from folder `weights` (default: the ones that come with the package), in eval mode."""
    gss = build_gss(preset, load_tokenizer(preset, weights), weights)
    load_weights(Path(weights) / f"{preset.name}.prior.safetensors", gss.prior)
    return gss.eval()
