"""What can go wrong in a training step, said in one sentence that names the remedy. The last checkpoint stays as it is."""

from __future__ import annotations

import gc
import math
import multiprocessing
import signal
import threading
import traceback
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import Dataset

from gss_lite.contracts import IGNORE
from gss_lite.distributed import is_distributed
from gss_lite.presets.parts import Schedule

SKIPS = 50


GONE = (
    "onnection closed by peer",
    "onnection reset by peer",
    "onnection refused",
    "Broken pipe",
    "remote process exited",
    "ncclRemoteError",
)


def check_shares(schedule: Schedule, processes: int) -> int:
    """Pictures of one micro-batch, all processes together.

    Raises:
        ValueError: the batch cannot be shared out evenly among micro-batches and processes.
    """
    if schedule.accumulate < 1 or schedule.batch % (schedule.accumulate * processes):
        raise ValueError(
            f"a batch of {schedule.batch} cannot be shared out among {schedule.accumulate} "
            f"micro-batches on {processes} process(es); "
            f"choose a batch that is a multiple of {max(1, schedule.accumulate) * processes}"
        )
    return schedule.batch // schedule.accumulate


def check_finite(loss: float, step: int, schedule: Schedule, checkpoint: Path) -> None:
    """Raises FloatingPointError if the loss is NaN or infinite."""
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"the loss became {loss} at step {step}; lower the learning rate (now {schedule.lr:g}) "
            "or lengthen "
            f"the warm-up. The last checkpoint, {checkpoint}, is intact."
        )


def gradient_norm(learner: nn.Module) -> Tensor:
    """The Euclidean norm of all gradients together, before any clipping; NaN or infinite if one of them is."""
    return nn.utils.get_total_norm([p.grad for p in learner.parameters() if p.grad is not None])


def check_gradient(norm: float, step: int, schedule: Schedule, checkpoint: Path) -> None:
    """Raises FloatingPointError if the gradient's norm is NaN or infinite, before it reaches weights, average and checkpoint."""
    if not math.isfinite(norm):
        raise FloatingPointError(
            f"the gradient became {norm} at step {step}, with a finite loss; lower the learning "
            f"rate (now {schedule.lr:g}), lengthen the "
            f"warm-up, or train with clip from the start. The last checkpoint, {checkpoint}, is "
            "intact."
        )


def check_skips(skipped: int, step: int, schedule: Schedule, checkpoint: Path) -> None:
    """Raises FloatingPointError after SKIPS steps in a row that fp16's scaler skipped: no scale is small enough for such gradients.

    A few at the start are normal. Each halves the scale, which begins at 65,536: after 41 it is
        below fp16's smallest number.
    """
    if skipped >= SKIPS:
        raise FloatingPointError(
            f"the gradient was NaN or infinite in the last {skipped} steps, up to step {step}, at "
            "every scale that fp16 tried, and no weight has moved in "
            'them. In a new folder, train with precision="bf16" (--precision bf16), or lower the '
            f"learning rate (now {schedule.lr:g}). "
            f"{checkpoint} has the last steps that worked, if there were any."
        )


@contextmanager
def memory_explained(step: int, schedule: Schedule, checkpoint: Path) -> Iterator[None]:
    """Turns an out-of-memory error of torch inside the block, on a GPU or the CPU, into a MemoryError that says what to change."""
    try:
        yield
    # torch.OutOfMemoryError is one; the CPU's allocator raises it by its text alone
    except RuntimeError as error:
        on_gpu = isinstance(error, torch.OutOfMemoryError)
        if not on_gpu and "can't allocate memory" not in str(error):
            raise
        height, width = schedule.crop
        remedies = [
            f"accumulate={2 * schedule.accumulate} (--accumulate {2 * schedule.accumulate}: "
            "smaller micro-batches; batch norm then sees one of them at a time)",
            *(
                []
                if schedule.checkpointing
                else ["checkpointing=True (--checkpointing: a third more time)"]
            ),
            *(
                []
                if schedule.precision != "no"
                else ['precision="bf16" (--precision bf16, in a new folder)']
            ),
        ]
        raise MemoryError(
            f"the {'GPU' if on_gpu else 'machine'} ran out of memory at step {step}, with "
            f"micro-batches of {schedule.batch // schedule.accumulate} crops of "
            f"{width}×{height} over all processes. Set in the preset's schedule: "
            f"{', or '.join(remedies)}. "
            f"The last checkpoint, {checkpoint}, is intact. (torch: {str(error).splitlines()[0]})"
        ) from error


@contextmanager
def peers_explained(checkpoint: Path) -> Iterator[None]:
    """Turns the error of a process that waits for another, which has died, into a ChildProcessError that says what happened.

    By the texts of gloo's errors. With NCCL its watchdog, as a rule, ends the waiting process
    before any Python code can.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_distributed() or not any(text in str(error) for text in GONE):
            raise
        raise ChildProcessError(
            f"another process of this run is gone ({str(error).splitlines()[0][:160]}). Look for "
            "its message above; if there is none, the "
            f"system ended it, as a rule for want of memory. The last checkpoint, {checkpoint}, is "
            "intact: the same command goes on from it."
        ) from error


@contextmanager
def workers_explained(loader: Iterable, workers: int, checkpoint: Path) -> Iterator[Iterator]:
    """An iterator over `loader`; inside, a DataLoader's process that dies is a ChildProcessError that says what to change.

    torch notices the death in a signal handler, which can raise anywhere in the block, also where
    some other code makes an error of its own out of it; or it finds a connection to the dead
    process cut. So the whole chain of errors is read. The loader's other processes have ended when
    the error leaves the block.
    """
    batches = iter(loader)
    try:
        yield batches
    except Exception as error:
        cause = _death_of_a_worker(error)
        if cause is None:
            raise
        _end_workers(batches, error)
        raise ChildProcessError(
            f"a process that loads data died ({cause}), as a rule because the machine ran out of "
            "memory. "
            f"Use fewer of them (--workers, now {workers}), or 0. The last checkpoint, "
            f"{checkpoint}, is intact: "
            "the same command goes on from it."
        ) from error


def _end_workers(batches: Iterator, error: BaseException) -> None:
    """Let go of the loader's iterator, which then ends its processes, and collect the dead ones.

    Until that is done torch's handler would raise again at the end of every child process, here or
    in the caller's code.
    """
    mine = hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGCHLD, signal.SIG_DFL) if mine else None
    try:
        batches.close()  # Accelerate's loaders are generators
        for one in _chain(error):
            # they hold the iterator where the error came up in it
            traceback.clear_frames(one.__traceback__)
        gc.collect()
        multiprocessing.active_children()
    finally:
        if mine:
            signal.signal(signal.SIGCHLD, previous)


def _chain(error: BaseException) -> list[BaseException]:
    """The error and all those that it came from."""
    found: list[BaseException] = []
    waiting = [error]
    while waiting:
        error = waiting.pop()
        if error is not None and error not in found:
            found.append(error)
            waiting += [error.__cause__, error.__context__]
    return found


def _death_of_a_worker(error: BaseException) -> str | None:
    """Torch's line about it, from the error or one that it came from; None if it is about something else."""
    for one in _chain(error):
        # An error *inside* a worker, as of a broken picture, is handed on with "Caught ... in
        # DataLoader worker process".
        first = (str(one).splitlines() or [""])[0].strip()
        if isinstance(one, RuntimeError) and first.startswith("DataLoader worker"):
            return first
        # Its batch is fetched over a socket of its own, which breaks a moment before torch can tell
        # that it is gone.
        fetching = any(
            frame.f_code.co_name == "_try_get_data"
            for frame, _ in traceback.walk_tb(one.__traceback__)
        )
        if fetching and isinstance(one, (ConnectionError, EOFError, FileNotFoundError)):
            return f"DataLoader worker: {type(one).__name__}, {first or 'no more data'}"
    return None


def check_labelled(dataset: Dataset) -> None:
    """Reads pictures until one shows a labelled pixel, as a rule the first; for a set of (picture, mask) pairs.

    Raises:
        ValueError: there is none: every pixel of every mask is 255. Also for an empty set.
    """
    for i in range(len(dataset)):
        if bool((torch.as_tensor(dataset[i][1]) != IGNORE).any()):
            return
    raise ValueError(
        f"there is nothing to learn from: no pixel of the {len(dataset)} training masks is "
        "labelled, all are 255 (ignore). "
        "Is it the right folder of masks, and are their ids mapped to 0…K−1?"
    )


class ClassWatch:
    """Which classes the training pixels have shown so far; costs nothing any more once all have been seen.

    Args:
        names: of the classes 0…K−1; none to watch nothing. seen: what an earlier part of the run
            has shown.
    """

    def __init__(self, names: Sequence[str], seen: Sequence[bool] = ()) -> None:
        self.names = tuple(names)
        self.seen = torch.tensor(
            [*seen, *[False] * (len(self.names) - len(seen))], dtype=torch.bool
        )

    def look(self, mask: Tensor) -> None:
        """Class ids of any shape, 255 = ignore."""
        if not bool(self.seen.all()):
            self.seen |= (
                torch.bincount(mask.flatten().long(), minlength=256)[: len(self.names)].cpu() > 0
            )

    def warn(self, pictures: int) -> None:
        """A UserWarning that names the classes no process has seen; `pictures`: how many crops there have been."""
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            seen = self.seen.int().to("cuda" if dist.get_backend() == "nccl" else "cpu")
            dist.all_reduce(seen, dist.ReduceOp.MAX)
            self.seen = seen.cpu() > 0
            if dist.get_rank():
                return
        missing = [name for name, found in zip(self.names, self.seen.tolist()) if not found]
        if missing:
            warnings.warn(
                f"no pixel of {', '.join(missing)} in the {pictures} crops trained on so far: the "
                "model cannot learn what it is never "
                "shown. Train for longer, on larger crops, or on pictures that show "
                + ("it." if len(missing) == 1 else "these classes."),
                stacklevel=3,
            )
