"""Sums, means and copies over several processes, for the same step as one process would take.

With one process these functions return their arguments unchanged.
"""

from __future__ import annotations

import os
import warnings

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from torch import Tensor


def is_distributed() -> bool:
    """Whether this process works together with others."""
    return world_size() > 1


def world_size() -> int:
    """Return how many processes work together, including this one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_index() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if is_distributed() else 0


def is_main() -> bool:
    """Whether this process is the one that prints and writes files."""
    return process_index() == 0


def wait_for_all() -> None:
    """Wait until every process has called this function."""
    if is_distributed():
        dist.barrier()


def init_distributed(device: torch.device) -> torch.device:
    """Connect to the other processes of the launcher → the device of this process.

    A process that was started alone keeps `device`.
    """
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        return PartialState(cpu=on_cpu or device.type == "cpu").device
    # `accelerate launch --cpu --num_processes 2` sets an address, but starts one process only.
    if on_cpu and "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ:
        warnings.warn(
            "accelerate launch --cpu starts one process, whatever --num_processes says (without "
            "mpirun). For several on the CPU: ACCELERATE_USE_CPU=true accelerate launch "
            "--multi_gpu --num_processes 2 -m gss_lite …",
            stacklevel=2,
        )
    return device


def sum_over_processes(count: Tensor) -> Tensor:
    """Add counts up over all processes. On a GPU the sums must be whole numbers below 2²⁴."""
    if not is_distributed():
        return count
    exact = torch.float64 if count.device.type == "cpu" else torch.float32
    total = count.detach().to(exact, copy=True)
    dist.all_reduce(total)
    return total


def mean_over_processes(count: Tensor) -> Tensor:
    """Average a count over all processes.

    Gradients are averaged over the processes. A sum divided by this count therefore has the
    gradient of (all sums) / (all counts). If each process divided by its own count, pixels of
    pictures with many ignored pixels would have a larger weight.
    """
    return sum_over_processes(count) / world_size() if is_distributed() else count


def all_gather(rows: Tensor) -> Tensor:
    """Concatenate the rows (N, …) of all n processes → (n·N, …)."""
    if not is_distributed():
        return rows
    rows = rows.contiguous()
    parts = [torch.empty_like(rows) for _ in range(world_size())]
    dist.all_gather(parts, rows)
    return torch.cat(parts)


def broadcast_(*tensors: Tensor) -> None:
    """Overwrite the tensors, in every process, with those of the first process."""
    for tensor in tensors if is_distributed() else ():
        dist.broadcast(tensor, 0)
