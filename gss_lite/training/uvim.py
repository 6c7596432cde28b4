"""UViM's two stages: oracle, dictionary and base model together, then the language model."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from gss_lite.baselines.build import (
    assemble_uvim,
    create_language_model,
    create_uvim_base,
    uvim_base_hash,
)
from gss_lite.baselines.uvim import StageOne, UViM
from gss_lite.distributed import wait_for_all
from gss_lite.training.prior import SegmenterLoss, train_segmenter
from gss_lite.training.run import (
    UVIM_STAGE_ONE,
    Job,
    bring_stage_one,
    check_stage_one,
    run_stage,
)
from gss_lite.training.tokenizer import augmented


def train_uvim_base(job: Job) -> StageOne:
    """Train stage I; NAME.uvim-base.safetensors and its record go to the run's folder."""
    preset = job.preset
    torch.manual_seed(preset.seed)
    stage_one = create_uvim_base(preset)
    schedule = preset.schedule("uvim-base")
    pictures = job.pictures()
    run_stage(
        job,
        "uvim-base",
        SegmenterLoss(stage_one),
        stage_one,
        schedule,
        augmented(job, schedule, pictures),
        pictures=pictures,
        classes=pictures.dataset.classes,
    )
    return stage_one.eval()


def train_uvim_code(job: Job, source: Path, autoregressive: bool) -> UViM:
    """Train a language model on the stage I in `source`.

    NAME.uvim-code.safetensors, or …-ar.safetensors, and its record are written to the run's folder.
    Stage I is copied there.

    Raises:
        ValueError: the run's folder holds another stage I, which would be overwritten.
        FileNotFoundError: there is no trained stage I in `source`.
        Exception: the errors of `run_stage`.
    """
    preset = job.preset
    check_stage_one(preset, source, job.folder, UVIM_STAGE_ONE)
    stage_one = create_uvim_base(preset, source)
    torch.manual_seed(preset.seed)
    model = train_segmenter(
        job,
        "uvim-code-ar" if autoregressive else "uvim-code",
        create_language_model(preset, autoregressive, pretrained_backbone=job.pretrained_backbone),
        partial(assemble_uvim, preset, stage_one),
        preset.schedule("uvim-code"),
        rests_on=uvim_base_hash(stage_one),
    )
    bring_stage_one(preset, source, job.folder, UVIM_STAGE_ONE)
    wait_for_all()
    return model
