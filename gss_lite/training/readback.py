"""Reading classes back from a rebuilt maskige, as a loss of stage I: (S.2)'s measure with D.i's cross-entropy."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gss_lite.inverse import TEMPERATURE
from gss_lite.palette import IGNORE
from gss_lite.processes import processes, total_over_processes


def readback_loss(scores: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy of class scores (B, K, H, W), in squared distances of colour, against the mask (B, H, W); 0 where no pixel is labelled.

    Classes weigh 1/√share of the whole batch: a pedestrian's few pixels count in mIoU as much as
    the road's many.
    """
    share = total_over_processes(
        torch.bincount(mask.flatten(), minlength=IGNORE + 1)[: scores.shape[1]]
    )
    weight = share.clamp(min=1).float().rsqrt()
    total = F.cross_entropy(
        scores.float() / TEMPERATURE, mask, weight, ignore_index=IGNORE, reduction="sum"
    )
    # gradients are averaged over processes
    return total * processes() / (share * weight).sum().clamp(min=1).to(total.dtype)
