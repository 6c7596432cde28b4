"""What can go wrong in a training step, said in one sentence that names the remedy. The last checkpoint stays as it is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from gss_lite.preset_fields import Schedule


def check_shares(schedule: Schedule, processes: int) -> int:
    """Pictures of one micro-batch, all processes together.

    Raises:
        ValueError: the batch cannot be shared out evenly among micro-batches and processes.
    """
    if schedule.accumulate < 1 or schedule.batch % (schedule.accumulate * processes):
        raise ValueError(
            f"a batch of {schedule.batch} cannot be shared out among {schedule.accumulate} micro-batches on {processes} process(es); "
            f"choose a batch that is a multiple of {max(1, schedule.accumulate) * processes}"
        )
    return schedule.batch // schedule.accumulate


def check_finite(loss: float, step: int, schedule: Schedule, checkpoint: Path) -> None:
    """Raises FloatingPointError if the loss is NaN or infinite."""
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"the loss became {loss} at step {step}; lower the learning rate (now {schedule.lr:g}) or lengthen "
            f"the warm-up. The last checkpoint, {checkpoint}, is intact."
        )


@contextmanager
def memory_explained(step: int, schedule: Schedule, checkpoint: Path) -> Iterator[None]:
    """Turns a GPU's out-of-memory error inside the block into a MemoryError that says what to change."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        height, width = schedule.crop
        remedies = [
            f"accumulate={2 * schedule.accumulate} (smaller micro-batches, the same step)",
            *([] if schedule.checkpointing else ["checkpointing=True (a third more time)"]),
            *([] if schedule.precision != "no" else ['precision="bf16"']),
        ]
        raise MemoryError(
            f"the GPU ran out of memory at step {step}, with micro-batches of {schedule.batch // schedule.accumulate} crops of "
            f"{width}×{height} over all processes. Set in the preset's schedule: {', or '.join(remedies)}. "
            f"The last checkpoint, {checkpoint}, is intact. (torch: {str(error).splitlines()[0]})"
        ) from error


@contextmanager
def workers_explained(workers: int, checkpoint: Path) -> Iterator[None]:
    """Turns the death of a DataLoader's worker process into a ChildProcessError that says what to change.

    torch reports it from a signal handler, so it can come up anywhere in the block.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise ChildProcessError(
            f"a process that loads data died ({str(error).splitlines()[0]}), as a rule because the machine ran out of memory. "
            f"Use fewer of them (--workers, now {workers}), or 0. The last checkpoint, {checkpoint}, is intact: "
            "the same command goes on from it."
        ) from error
