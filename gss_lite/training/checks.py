"""The errors and warnings of training: each message says what happened and what to change."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from gss_lite.contracts import IGNORE
from gss_lite.distributed import is_main, sum_over_processes
from gss_lite.presets.parts import Schedule

SKIPS = 50  # fp16 stops with an error after so many skipped steps in a row
WORKER_DIED = "DataLoader worker (pid"  # torch's message about such a process begins like this


def check_shares(schedule: Schedule, processes: int) -> int:
    """Return the number of pictures in one micro-batch, over all processes.

    Raises:
        ValueError: the batch cannot be divided equally among micro-batches and processes.
    """
    shares = max(1, schedule.accumulate) * processes
    if schedule.accumulate < 1 or schedule.batch % shares:
        raise ValueError(
            f"a batch of {schedule.batch} cannot be shared out among {schedule.accumulate} "
            f"micro-batches on {processes} process(es); choose a batch that is a multiple of "
            f"{shares}"
        )
    return schedule.batch // schedule.accumulate


def check_finite(name: str, value: float, step: int, schedule: Schedule) -> None:
    """Raise FloatingPointError if the value of a step is NaN or infinite.

    Args:
        name: "loss" or "gradient".
        value: the loss, or the norm of all gradients together, before any clipping.
    """
    if math.isfinite(value):
        return
    remedies = f"lower the learning rate (now {schedule.lr:g}) or lengthen the warm-up"
    if name == "gradient":
        name = "gradient, with a finite loss,"
        remedies += ", or train with clip from the start"
    raise FloatingPointError(f"the {name} became {value} at step {step}; {remedies}")


def check_skips(skipped: int, step: int, schedule: Schedule) -> None:
    """Raise FloatingPointError after SKIPS steps in a row that fp16's scaler skipped.

    A few skipped steps at the start are normal. Each one halves the scale, which begins at 65,536.
    After 41 of them the scale is smaller than the smallest number of fp16.
    """
    if skipped >= SKIPS:
        raise FloatingPointError(
            f"the gradient was NaN or infinite in the last {skipped} steps, up to step {step}, at "
            "every scale that fp16 tried, so no weight has changed in them. In a new folder, train "
            'with precision="bf16" (--precision bf16), or lower the learning rate '
            f"(now {schedule.lr:g})"
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on a GPU or on the CPU."""
    # The CPU's allocator raises a plain RuntimeError that names it.
    by_name = isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    return by_name or isinstance(error, (MemoryError, torch.OutOfMemoryError))


def memory_error(error: BaseException, step: int, schedule: Schedule) -> MemoryError:
    """For an error that `is_out_of_memory`, make one that says what to change in the schedule."""
    where = "GPU" if isinstance(error, torch.OutOfMemoryError) else "machine"
    height, width = schedule.crop
    doubled = 2 * schedule.accumulate
    remedies = [
        f"accumulate={doubled} (--accumulate {doubled}: smaller micro-batches; batch norm then "
        "sees one of them at a time)"
    ]
    if not schedule.checkpointing:
        remedies.append("checkpointing=True (--checkpointing: a third more time)")
    if schedule.precision == "no":
        remedies.append('precision="bf16" (--precision bf16, in a new folder)')
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return MemoryError(
        f"the {where} ran out of memory at step {step}, with micro-batches of "
        f"{schedule.batch // schedule.accumulate} crops of {width}×{height} over all processes. "
        f"Set in the preset's schedule: {', or '.join(remedies)}. (torch: {reason})"
    )


def worker_that_died(error: BaseException) -> str | None:
    """Return torch's message about a killed process of a DataLoader, if that led to the error.

    Torch's signal handler raises an error in whatever code runs next. This function waits for it.
    Otherwise the handler could interrupt the caller's code later.
    """
    said = [error, error.__cause__]
    try:
        time.sleep(0.2)
    except RuntimeError as late:
        said.append(late)
    lines = [str(one).strip() for one in said]
    return next((line for line in lines if line.startswith(WORKER_DIED)), None)


def check_labelled(dataset: Dataset) -> None:
    """Read (picture, mask) pairs until one shows a labelled pixel. Usually the first one does.

    Raises:
        ValueError: every pixel of every mask is 255, or the data set is empty.
    """
    for index in range(len(dataset)):
        if bool((torch.as_tensor(dataset[index][1]) != IGNORE).any()):
            return
    raise ValueError(
        f"there is nothing to learn from: no pixel of the {len(dataset)} training masks is "
        "labelled, all are 255 (ignore). Is it the right folder of masks, and are their ids mapped "
        "to 0…K−1?"
    )


class ClassWatch:
    """Records which classes have occurred in the training masks.

    Args:
        names: names of the classes 0…K−1; an empty list switches the record off.
        seen: for each class, whether an earlier part of the run has shown it.
        device: the device on which the processes exchange tensors.
    """

    def __init__(
        self,
        names: Sequence[str],
        seen: Sequence[bool] = (),
        device: torch.device | str = "cpu",
    ) -> None:
        self.names = tuple(names)
        self.seen = torch.zeros(len(self.names), dtype=torch.bool, device=device)
        known = list(seen)[: len(self.names)]
        self.seen[: len(known)] = torch.tensor(known, dtype=torch.bool)

    def look(self, mask: Tensor) -> None:
        """Record the classes of a mask: ids of any shape, 255 = ignore."""
        if not bool(self.seen.all()):
            count = torch.bincount(mask.flatten().long(), minlength=IGNORE + 1)
            self.seen |= count[: len(self.names)].to(self.seen.device) > 0

    def share(self) -> list[bool]:
        """Combine the records of all processes. Each of them must call this."""
        self.seen = sum_over_processes(self.seen.int()) > 0
        return self.seen.tolist()

    def warn(self, pictures: int) -> None:
        """Warn about classes that no process has seen in the first `pictures` crops."""
        missing = [name for name, found in zip(self.names, self.share()) if not found]
        if missing and is_main():
            these = "it" if len(missing) == 1 else "these classes"
            warnings.warn(
                f"no pixel of {', '.join(missing)} in the {pictures} crops trained on so far, so "
                f"the model cannot learn {these}. Train for longer, on larger crops, or on "
                f"pictures that show {these}.",
                stacklevel=3,
            )
