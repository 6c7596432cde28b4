"""Several processes: what they have to agree on for their step to be that of one on the whole batch, and who writes."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from torch import Tensor


def several() -> bool:
    """Whether this process works together with others."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


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
        return device
    state = PartialState(cpu=device.type == "cpu" or parse_flag_from_env("ACCELERATE_USE_CPU"))
    return state.device


def mean_over_processes(count: Tensor) -> Tensor:
    """A count (scalar), averaged over all training processes; as it is where there is one process.

    Gradients are averaged over the processes. A sum divided by *this* count then has the gradient of (all sums) / (all counts),
    where each process dividing by its own would give positions in pictures with many ignored pixels more weight.
    """
    if not several():
        return count
    total = count.detach().to(torch.float64 if count.device.type == "cpu" else torch.float32).clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()
