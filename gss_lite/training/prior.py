"""Stage II: the prior on photographs; and its discriminative twin, on the same schedule."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from gss_lite.baselines.pixel import PixelTwin
from gss_lite.contracts import Segmenter
from gss_lite.data.transforms import eval_transform
from gss_lite.distributed import wait_for_all
from gss_lite.evaluation import validator
from gss_lite.factory import create_prior, create_stage_one, stage_one_hashes
from gss_lite.gss import GSS
from gss_lite.inverse import NearestColor
from gss_lite.training.run import Job, bring_stage_one, check_stage_one, run_stage
from gss_lite.training.tokenizer import augmented


class SegmenterLoss(nn.Module):
    """forward(image, mask) gives a segmenter's loss, with what else its `losses` is to be told."""

    def __init__(self, segmenter: Segmenter, **arguments: object) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.arguments = arguments

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Photographs (B, 3, H, W), masks (B, H, W) → (loss, scalars)."""
        return self.segmenter.losses(image, mask, **self.arguments)


def train_prior(job: Job, stage_one: Path | None = None) -> GSS:
    """Stage II, on the palette and the tokenizer found in `stage_one`, by default the run's folder.

    Leaves NAME.prior.safetensors and its record in the run's folder, with stage I beside them.

    Raises:
        ValueError: the run's folder holds another stage I than `stage_one`, which would be
            overwritten. Otherwise as `run_stage`.
    """
    preset = job.preset
    source = Path(stage_one or job.folder)
    check_stage_one(preset, source, job.folder)
    torch.manual_seed(preset.seed)
    palette, tokenizer = create_stage_one(preset, source)
    prior = create_prior(preset, tokenizer.vocab_size, pretrained_backbone=job.pretrained_backbone)

    def assembled(trained: nn.Module) -> GSS:
        inverse = NearestColor(palette.colors)
        return GSS(
            palette,
            tokenizer,
            trained,
            inverse,
            view=preset.view,
            picture_size=preset.data.size,
        )

    gss = assembled(prior)
    prior.to(memory_format=torch.channels_last)  # convolutions are about a quarter faster so
    schedule = preset.schedule("prior")
    pictures = job.pictures()
    run_stage(
        job,
        "prior",
        SegmenterLoss(gss, target_precision=schedule.target_precision),
        prior,
        schedule,
        augmented(job, schedule, pictures),
        pictures=pictures,
        classes=pictures.dataset.classes,
        rests_on=stage_one_hashes(palette, tokenizer),
        validate=_validation(job, assembled),
    )
    bring_stage_one(preset, source, job.folder)
    wait_for_all()
    return gss.eval()


def train_pixel(job: Job) -> PixelTwin:
    """Train the preset's twin on the schedule of stage II.

    Leaves NAME.pixel.safetensors and its record in the run's folder.
    """
    preset = job.preset
    torch.manual_seed(preset.seed)
    network = create_prior(
        preset, preset.data.num_classes, pretrained_backbone=job.pretrained_backbone
    )

    def assembled(trained: nn.Module) -> PixelTwin:
        return PixelTwin(trained, view=preset.view)

    twin = assembled(network)
    network.to(memory_format=torch.channels_last)
    schedule = preset.schedule("prior")
    pictures = job.pictures()
    run_stage(
        job,
        "pixel",
        SegmenterLoss(twin),
        network,
        schedule,
        augmented(job, schedule, pictures),
        pictures=pictures,
        classes=pictures.dataset.classes,
        validate=_validation(job, assembled),
    )
    return twin.eval()


def _validation(job: Job, assembled: object) -> object:
    """What measures the validation split's mIoU, or None where none is wanted."""
    if not job.validate_every:
        return None
    return validator(assembled, job.pictures("val", eval_transform()))
