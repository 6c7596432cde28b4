"""Several processes: what they have to agree on for their step to be that of one on the whole batch, and who writes."""

from __future__ import annotations

import os
import warnings

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from torch import Tensor


def several() -> bool:
    """Whether this process works together with others."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def processes() -> int:
    """How many processes work together, this one among them."""
    return dist.get_world_size() if several() else 1


def is_main() -> bool:
    """Whether this process is the one that prints and writes files: the first, or the only one."""
    return not several() or dist.get_rank() == 0


def wait_for_all() -> None:
    """Returns when every process has come here; at once where there is one."""
    if several():
        dist.barrier()


def join(device: torch.device) -> torch.device:
    """Meet the processes that `accelerate launch` or torchrun started beside this one, if any → the device of this process's share."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        # What `accelerate launch --cpu --num_processes 2` leaves behind: an address to meet at, and
        # nobody to meet.
        if (
            parse_flag_from_env("ACCELERATE_USE_CPU")
            and "MASTER_ADDR" in os.environ
            and "WORLD_SIZE" not in os.environ
        ):
            warnings.warn(
                "accelerate launch --cpu starts one process, whatever --num_processes says "
                "(without mpirun). For several on the CPU: "
                "ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 -m "
                "gss_lite …",
                stacklevel=2,
            )
        return device
    state = PartialState(cpu=device.type == "cpu" or parse_flag_from_env("ACCELERATE_USE_CPU"))
    return state.device


def total_over_processes(count: Tensor) -> Tensor:
    """Counts, added up over all training processes; as they are where there is one process."""
    if not several():
        return count
    total = (
        count.detach().to(torch.float64 if count.device.type == "cpu" else torch.float32).clone()
    )
    dist.all_reduce(total)
    return total


def mean_over_processes(count: Tensor) -> Tensor:
    """A count (scalar), averaged over all training processes; as it is where there is one process.

    Gradients are averaged over the processes. A sum divided by *this* count then has the gradient
    of (all sums) / (all counts), where each process dividing by its own would give positions in
    pictures with many ignored pixels more weight.
    """
    return total_over_processes(count) / processes() if several() else count


def gathered(rows: Tensor) -> Tensor:
    """Rows (N, …), those of all training processes one below the other (n·N, …), in the order of a batch that was shared out."""
    if not several():
        return rows
    parts = [
        torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(processes())
    ]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def take_from_first(*tensors: Tensor) -> None:
    """Overwrite the tensors, in every process, with those of the first: after each drew random numbers of its own."""
    for tensor in tensors if several() else ():
        dist.broadcast(tensor, 0)
