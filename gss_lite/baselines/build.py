"""Make a UViM, or a part of it, from the part `uvim` of a preset."""

from __future__ import annotations

from pathlib import Path

from gss_lite.backbones import create_backbone
from gss_lite.baselines.language_model import Autoregressive, LanguageModel, OnePass
from gss_lite.baselines.uvim import StageOne, UViM
from gss_lite.palette import farthest_point_palette
from gss_lite.presets import PRESETS, Preset, get_preset
from gss_lite.storage import check_rests_on, load_weights, weights_hash


def create_uvim(preset: Preset, folder: Path | None, autoregressive: bool) -> UViM:
    """Make a preset's UViM with the weights in a folder, or with random weights for None.

    Raises:
        ValueError: the preset has no UViM, or its stages were not trained together.
        FileNotFoundError: a file of weights is missing.
    """
    stage_one = create_uvim_base(preset, folder)
    language = create_language_model(preset, autoregressive)
    model = assemble_uvim(preset, stage_one, language)
    if folder is None:
        return model
    stage = "uvim-code-ar" if autoregressive else "uvim-code"
    path = folder / f"{preset.name}.{stage}.safetensors"
    load_weights(path, language)
    check_rests_on(path, uvim_base_hash(stage_one))
    return model.eval()


def assemble_uvim(preset: Preset, stage_one: StageOne, language: LanguageModel | None) -> UViM:
    """Put a UViM together from its parts, with the preset's view for it."""
    colors = farthest_point_palette(preset.data.num_classes).colors
    return UViM(stage_one, language, colors, view=preset.uvim.view)


def create_uvim_base(preset: str | Preset, folder: Path | None = None) -> StageOne:
    """Make UViM's stage I with the weights in a folder, or with random weights for None.

    Raises:
        ValueError: the preset has no UViM; the message names presets that have one.
        FileNotFoundError: the file of weights is missing.
    """
    preset = get_preset(preset)
    if preset.uvim is None:
        names = ", ".join(name for name, other in PRESETS.items() if other.uvim)
        raise ValueError(f"preset {preset.name} has no UViM; these have one: {names}")
    stage_one = StageOne(preset.data.num_classes, **preset.uvim.stage_one)
    if folder is None:
        return stage_one
    load_weights(folder / f"{preset.name}.uvim-base.safetensors", stage_one)
    return stage_one.eval()


def create_language_model(
    preset: str | Preset,
    autoregressive: bool = False,
    *,
    pretrained_backbone: bool | str | Path = False,
) -> LanguageModel:
    """Make UViM's language model on the backbone of the preset's prior, with random weights.

    Its argument `pretrained_backbone` and its errors are those of `create_prior`.
    """
    preset = get_preset(preset)
    spec = preset.uvim
    backbone = create_backbone(preset, pretrained_backbone)
    sizes = (spec.stage_one["vocab_size"], spec.stage_one["code_grid"])
    if autoregressive:
        return Autoregressive(backbone, *sizes, decoder_depth=spec.decoder_depth, **spec.language)
    return OnePass(backbone, *sizes, **spec.language)


def uvim_base_hash(stage_one: StageOne) -> dict[str, str]:
    """Return the hash of the stage I that a language model is trained with."""
    return {"uvim_base_sha256": weights_hash(stage_one)}
