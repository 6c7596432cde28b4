"""What several processes have to agree on for their step to be that of one process on the whole batch."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def mean_over_processes(count: Tensor) -> Tensor:
    """A count (scalar), averaged over all training processes; as it is where there is one process.

    Gradients are averaged over the processes. A sum divided by *this* count then has the gradient of (all sums) / (all counts),
    where each process dividing by its own would give positions in pictures with many ignored pixels more weight.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return count
    total = count.detach().to(torch.float64 if count.device.type == "cpu" else torch.float32).clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()
