"""Several processes: what they agree on, so that a step is that of one on the whole batch.

All of it costs nothing where there is one process.
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
    """How many processes work together, this one among them."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_index() -> int:
    """The number of this process among those that work together, from 0."""
    return dist.get_rank() if is_distributed() else 0


def is_main() -> bool:
    """Whether this process is the one that prints and writes files."""
    return process_index() == 0


def wait_for_all() -> None:
    """Return when every process has come here."""
    if is_distributed():
        dist.barrier()


def init_distributed(device: torch.device) -> torch.device:
    """Join the processes that a launcher started beside this one → the device of this process.

    A process that was started alone joins nobody, and keeps `device`.
    """
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        return PartialState(cpu=on_cpu or device.type == "cpu").device
    # `accelerate launch --cpu --num_processes 2` leaves an address to meet at, and starts nobody.
    if on_cpu and "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ:
        warnings.warn(
            "accelerate launch --cpu starts one process, whatever --num_processes says (without "
            "mpirun). For several on the CPU: ACCELERATE_USE_CPU=true accelerate launch "
            "--multi_gpu --num_processes 2 -m gss_lite …",
            stacklevel=2,
        )
    return device


def sum_over_processes(count: Tensor) -> Tensor:
    """Counts, added up over all processes; they must be whole numbers below 2²⁴ on a GPU."""
    if not is_distributed():
        return count
    exact = torch.float64 if count.device.type == "cpu" else torch.float32
    total = count.detach().to(exact, copy=True)
    dist.all_reduce(total)
    return total


def mean_over_processes(count: Tensor) -> Tensor:
    """A count, averaged over all processes.

    Gradients are averaged over the processes. A sum divided by this count then has the gradient of
    (all sums) / (all counts). If each process divided by its own count, positions in pictures with
    many ignored pixels would weigh more.
    """
    return sum_over_processes(count) / world_size() if is_distributed() else count


def all_gather(rows: Tensor) -> Tensor:
    """Rows (N, …) → those of all processes, one below the other (n·N, …)."""
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
