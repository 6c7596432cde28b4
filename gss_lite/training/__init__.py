"""Training: `train` runs every stage. Called again, it continues from the last checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from gss_lite.distributed import init_distributed
from gss_lite.factory import SHIPPED, create_model
from gss_lite.presets import Preset, get_preset, learned_palette
from gss_lite.storage import load_weights, read_json
from gss_lite.training.inverse import (
    decode_pictures,
    fingerprint,
    train_gaussians,
    train_inverse,
)
from gss_lite.training.loop import LoopOptions, fit
from gss_lite.training.palette import train_palette
from gss_lite.training.prior import SegmenterLoss, train_pixel, train_prior
from gss_lite.training.run import Job, middle_path, prepare
from gss_lite.training.tokenizer import VQVAELoss, train_tokenizer
from gss_lite.training.uvim import train_uvim_base, train_uvim_code

__all__ = [
    "STAGES",
    "STAGES_OF",
    "LoopOptions",
    "Run",
    "SegmenterLoss",
    "VQVAELoss",
    "decode_pictures",
    "fingerprint",
    "fit",
    "train",
]

STAGES = {
    "vqvae": "stage I",
    "palette-tf": "the palette of GSS-TF, through the preset's tokenizer",
    "palette-tt": "the palette of GSS-TT, and X⁻¹ with it",
    "prior": "stage II",
    "all": "both (default)",
    "pixel": "the discriminative twin of stage II",
    "inverse-ft": "X⁻¹ of GSS-FT for a trained model",
    "inverse-ft-w": "X⁻¹ of GSS-FT-W",
    "inverse-gaussian": "X⁻¹ by Gaussians, measured and not trained",
    "uvim-base": "UViM's stage I",
    "uvim-code": "UViM's stage II, decoded in one pass",
    "uvim-code-ar": "UViM's stage II, decoded autoregressively",
}
# The stages that stage "all" trains of each model.
STAGES_OF = {
    "gss": ("vqvae", "prior"),
    "pixel": ("pixel",),
    "uvim": ("uvim-base", "uvim-code"),
    "uvim-ar": ("uvim-base", "uvim-code-ar"),
}


@dataclass(frozen=True)
class Run:
    """The folder of a training run; `create_model(preset, pretrained=folder)` loads the model."""

    preset: str
    folder: Path

    @property
    def records(self) -> Mapping[str, dict]:
        """The run records of the finished stages, by the stage's name."""
        found = {}
        for path in sorted(self.folder.glob(f"{self.preset}.*.safetensors")):
            stage = path.name.removeprefix(f"{self.preset}.").removesuffix(".safetensors")
            card = path.with_suffix(".json")
            if card.is_file():
                found[stage] = read_json(card)
        return found


def train(
    preset: str | Preset,
    folder: str | Path,
    *,
    stage: str = "all",
    model: str = "gss",
    seed: int | None = None,
    data: str | Path | None = None,
    stage_one: str | Path | None = None,
    maskige: str = "noisy",
    pretrained_backbone: bool | str | Path = False,
    validate_every: int | None = None,
    keep: str = "last",
    options: LoopOptions | None = None,
    command: str = "",
) -> Run:
    """Train one stage of a preset, or both; called again, it continues from the last checkpoint.

    Args:
        preset: a preset or its name.
        folder: for weights, checkpoints and records.
        stage: a key of STAGES. "all" trains the stages that STAGES_OF names for the model.
        model: what stage "all" trains, a key of STAGES_OF; any other stage names its model itself.
        seed: replaces the preset's seed.
        data: the folder of a data set that is on disk.
        stage_one: the folder with the weights that the stage builds on, by default `folder`.
            Stage "prior" needs palette and tokenizer, "uvim-code" UViM's stage I, and "inverse-…"
            the whole model. "shipped" takes the weights that come with the package.
        maskige: what X⁻¹ is trained on: "noisy" maskige of the tokens that the prior predicts,
            "middle" maskige of the prior's middle checkpoint, see `Schedule.middle`, or "clean"
            maskige of true masks.
        pretrained_backbone: True lets stage II start from the backbone weights that the preset
            names; see `create_prior` for other sources.
        validate_every: stage II measures the validation split's mIoU every so many steps.
        keep: stage II keeps the "last" weights, or the "best" of `validate_every`.
        options: for the loop: checkpoints, workers, progress and more.
        command: the command line, for the run records.

    Raises:
        ValueError: no such preset or stage, or options that do not belong to the stage.
        OSError: nothing can be written to the folder.
    """
    preset = get_preset(preset)
    if seed is not None:
        preset = replace(preset, seed=seed)
    if stage not in STAGES:
        raise ValueError(f"there is no stage {stage!r}; there are: {', '.join(STAGES)}")
    stages = _stages(preset, stage, model)
    inverse = stage.removeprefix("inverse-") if stage.startswith("inverse-") else None
    if stage.startswith("palette-"):
        preset = learned_palette(preset, stage.removeprefix("palette-"))
    if stage_one and not stage.startswith(("prior", "uvim-code", "inverse-")):
        raise ValueError(
            "stage_one is where stage prior finds palette and VQ-VAE, stage uvim-code its stage I, "
            f"and stage inverse-… a trained model; stage {stage} trains them itself. Leave one out"
        )
    if keep == "best" and not validate_every:
        raise ValueError("keep='best' keeps the best of validate_every; give that too")
    # The processes join before anything is written, because only the first one writes.
    device = init_distributed(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    folder = Path(folder)
    prepare(folder)
    job = Job(
        preset,
        folder,
        data=data,
        pretrained_backbone=pretrained_backbone,
        keep=keep,
        validate_every=validate_every,
        options=options or LoopOptions(),
        command=command,
    )
    source = SHIPPED if stage_one == "shipped" else Path(stage_one or folder)
    # Validation and the best weights are stage II's.
    first = replace(job, validate_every=None, keep="last", pretrained_backbone=False)
    if stage.startswith("palette-"):
        train_palette(first)
    for name in stages:
        if name == "vqvae" and preset.learned:
            train_palette(first)
        elif name == "vqvae":
            train_tokenizer(first)
        elif name == "uvim-base":
            train_uvim_base(first)
        elif name == "prior":
            train_prior(job, source)
        elif name == "pixel":
            train_pixel(job)
        elif name.startswith("uvim-code"):
            train_uvim_code(job, source, autoregressive=name == "uvim-code-ar")
    if inverse:
        if not (source / f"{preset.name}.prior.safetensors").is_file():
            raise FileNotFoundError(
                f"no trained prior of {preset.name} in {source}, but X⁻¹ is trained on its "
                f"predictions. Train it first (--stage all --out {source}), or say where it is: "
                "--stage-one FOLDER, or --stage-one shipped for the one in the package"
            )
        gss = create_model(preset, pretrained=source).to(device)
        if maskige == "middle":
            load_weights(middle_path(source, preset), gss.prior)
        if inverse == "gaussian":
            train_gaussians(job, gss, maskige=maskige)
        else:
            train_inverse(job, inverse, gss, maskige=maskige)
    return Run(preset.name, folder)


def _stages(preset: Preset, stage: str, model: str) -> tuple[str, ...]:
    """The stages to train in their order; ValueError if stage and model do not belong together."""
    if model not in STAGES_OF:
        raise ValueError(f"model must be one of {', '.join(STAGES_OF)}; got {model!r}")
    if stage != "all":
        if model != "gss" and stage not in STAGES_OF[model]:
            raise ValueError(
                f"model {model} has no stage {stage!r}; it has {', '.join(STAGES_OF[model])}"
            )
        return (stage,)
    if model == "gss" and not preset.prior:
        return ("vqvae",)
    return STAGES_OF[model]
