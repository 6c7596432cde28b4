"""Stage II trains the prior on photographs. Its discriminative twin has the same schedule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from gss_lite.baselines.pixel import PixelTwin
from gss_lite.contracts import Segmenter
from gss_lite.data.transforms import eval_transform
from gss_lite.distributed import wait_for_all
from gss_lite.evaluation import validator
from gss_lite.factory import assemble_gss, create_prior, create_stage_one, stage_one_hashes
from gss_lite.gss import GSS
from gss_lite.presets import Schedule
from gss_lite.training.run import Job, bring_stage_one, check_stage_one, run_stage
from gss_lite.training.tokenizer import augmented


class SegmenterLoss(nn.Module):
    """The loss of a segmenter as a module; `arguments` are further arguments of its `losses`."""

    def __init__(self, segmenter: Segmenter, **arguments: object) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.arguments = arguments

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Photographs (B, 3, H, W), masks (B, H, W) → (loss, scalars)."""
        return self.segmenter.losses(image, mask, **self.arguments)


def train_prior(job: Job, stage_one: Path | None = None) -> GSS:
    """Train stage II on the palette and the tokenizer in `stage_one`, by default the run's folder.

    NAME.prior.safetensors and its record are written to the run's folder. Stage I is copied there.

    Raises:
        ValueError: the run's folder holds another stage I, which would be overwritten.
        Exception: the errors of `run_stage`.
    """
    preset = job.preset
    source = Path(stage_one or job.folder)
    check_stage_one(preset, source, job.folder)
    torch.manual_seed(preset.seed)
    palette, tokenizer = create_stage_one(preset, source)
    gss = train_segmenter(
        job,
        "prior",
        create_prior(preset, tokenizer.vocab_size, pretrained_backbone=job.pretrained_backbone),
        partial(assemble_gss, preset, palette, tokenizer),
        preset.schedule("prior"),
        rests_on=stage_one_hashes(palette, tokenizer),
        target_precision=preset.schedule("prior").target_precision,
    )
    bring_stage_one(preset, source, job.folder)
    wait_for_all()
    return gss


def train_pixel(job: Job) -> PixelTwin:
    """Train the preset's discriminative twin by the schedule of stage II.

    NAME.pixel.safetensors and its record are written to the run's folder.
    """
    preset = job.preset
    torch.manual_seed(preset.seed)
    assemble = partial(PixelTwin, view=preset.view)
    network = create_prior(
        preset, preset.data.num_classes, pretrained_backbone=job.pretrained_backbone
    )
    # The twin has no X⁻¹ that is trained at its middle.
    schedule = replace(preset.schedule("prior"), middle=None)
    return train_segmenter(job, "pixel", network, assemble, schedule)


def train_segmenter(
    job: Job,
    stage: str,
    network: nn.Module,
    assemble: Callable[[nn.Module], nn.Module],
    schedule: Schedule,
    rests_on: Mapping[str, str] | None = None,
    **arguments: object,
) -> nn.Module:
    """Train a new network on photographs → the model that `assemble` makes of it.

    Args:
        rests_on: see `run_stage`.
        arguments: see `SegmenterLoss`.
    """
    model = assemble(network)
    network.to(memory_format=torch.channels_last)  # makes convolutions about a quarter faster
    pictures = job.pictures()
    validate = None
    if job.validate_every:
        validate = validator(assemble, job.pictures("val", eval_transform()))
    run_stage(
        job,
        stage,
        SegmenterLoss(model, **arguments),
        network,
        schedule,
        augmented(job, schedule, pictures),
        pictures=pictures,
        classes=pictures.dataset.classes,
        rests_on=rests_on,
        validate=validate,
    )
    return model.eval()
