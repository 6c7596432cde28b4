"""Stage I judged alone: masks painted, encoded, decoded and read back, with any palette and tokenizer."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gss_lite.inverse import NearestColor
from gss_lite.metrics import Scores, SegmentationMetrics
from gss_lite.palette import IGNORE, Palette
from gss_lite.palette_assignment import strangers as between_strangers


class Reconstruction(NamedTuple):
    """The scores, and of all labelled pixels the share (0–1) that was read as a class absent from their surroundings."""

    scores: Scores
    strangers: float


@torch.no_grad()
def reconstruct(palette: Palette, tokenizer: nn.Module, masks: Tensor) -> Tensor:
    """Masks (B, H, W), sides multiples of the stride → class ids (B, H, W) by nearest colour."""
    return NearestColor(palette.colors).classify(
        tokenizer.decode(tokenizer.encode(palette.paint(masks)))
    )


def evaluate_palette(
    palette: Palette, tokenizer: nn.Module, masks: Tensor, *, batch: int = 8
) -> Reconstruction:
    """mIoU, aAcc and strangers of the reconstruction of masks (N, H, W)."""
    metrics, strange, labelled = SegmentationMetrics(len(palette)), 0, 0
    for part in masks.split(batch):
        part = part.long()
        ids = reconstruct(palette, tokenizer, part)
        metrics.update(ids, part)
        strange += int(stranger_pixels(ids, part, tokenizer.stride).sum())
        labelled += int((part != IGNORE).sum())
    return Reconstruction(metrics.compute(), strange / labelled)


def stranger_pixels(ids: Tensor, mask: Tensor, reach: int) -> Tensor:
    """Where the class read, ids (B, H, W), occurs nowhere in the true mask within `reach` pixels along each axis → bool.

    A border that moved gives wrong pixels of the class next door. A stranger has another cause: its
        colour lies between the
    colours that met there. Ignored pixels are never strangers.
    """
    height, width = mask.shape[1:]
    around = F.pad(mask, (reach,) * 4, value=-1)
    found = torch.zeros_like(mask, dtype=torch.bool)
    for down in range(2 * reach + 1):
        for right in range(2 * reach + 1):
            found |= ids == around[:, down : down + height, right : right + width]
    return ~found & (mask != IGNORE)


def blended_strangers(colors: Tensor, border: Tensor) -> float:
    """Share (0–1) of the blends at class borders whose nearest colour belongs to a third class.

    Pairs count by their common border, `border_lengths(masks, K)`: the cost that `assign_colors`
    lowers, as a share.
    """
    return float((border * between_strangers(colors)).sum() / border.sum())
