"""Which class gets which colour: category-specific refinement (section B, iv) made automatic for neighbours.

A decoder blurs the border between two classes, so that its pixels take colours on the line between
their two colours. Where a third colour lies near that line, nearest colour reads a *stranger*: a
class that is nowhere near. Max-min distance does not see this, because it treats all classes alike.
Here the set of colours stays as it is, and the classes exchange colours until classes with long
common borders have few strangers between them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gss_lite.palette import IGNORE, Palette

SAMPLES = 15  # points looked at between two colours


def border_lengths(masks: Tensor, num_classes: int) -> Tensor:
    """Masks (N, H, W) → (K, K), symmetric: pairs of adjacent pixels of classes i and j, over the smaller class's pixels.

    Dividing by the area gives small objects their due: a border of 30 pixels is nothing to a road
        and everything to a pole.
    """
    masks = masks.long()
    counts = torch.zeros(num_classes * num_classes, dtype=torch.double)
    for one, other in ((masks[:, :, 1:], masks[:, :, :-1]), (masks[:, 1:], masks[:, :-1])):
        border = (one != other) & (one != IGNORE) & (other != IGNORE)
        counts += torch.bincount(one[border] * num_classes + other[border], minlength=len(counts))
    lengths = counts.view(num_classes, num_classes)
    area = torch.bincount(masks.flatten(), minlength=IGNORE + 1)[:num_classes].clamp(min=1)
    return (lengths + lengths.T) / torch.minimum(area[:, None], area[None, :])


def strangers(colors: Tensor) -> Tensor:
    """β (K, D) → (K, K): the share of the line between two colours whose nearest colour is a third one."""
    count = len(colors)
    ids = torch.arange(count)
    total = torch.zeros(count, count, dtype=torch.double)
    for t in torch.linspace(0.15, 0.85, SAMPLES, dtype=torch.double):
        between = (1 - t) * colors[:, None].double() + t * colors[None].double()  # (K, K, D)
        nearest = torch.cdist(between.flatten(0, 1), colors.double()).argmin(1).view(count, count)
        total += (nearest != ids[:, None]) & (nearest != ids[None, :])
    return total / SAMPLES


def assign_colors(
    palette: Palette, masks: Tensor, *, seed: int = 0, rounds: int = 20_000
) -> Palette:
    """Permute a palette's rows so that Σ border(i, j) · strangers(i, j) over `masks` (N, H, W) is small.

    Random exchanges of two classes, kept when the sum falls; seeded. The set of colours, and so its
    least distance, does not change.
    """
    generator = torch.Generator().manual_seed(seed)
    border, between = border_lengths(masks, len(palette)), strangers(palette.colors)
    order = torch.arange(len(palette))
    cost = float((border * between).sum())
    for first, second in torch.randint(len(palette), (rounds, 2), generator=generator).tolist():
        trial = order.clone()
        trial[first], trial[second] = order[second], order[first]
        new = float((border * between[trial][:, trial]).sum())
        if new < cost:
            order, cost = trial, new
    return Palette(
        palette.colors[order], f"{palette.name}, assigned by neighbours", palette.ignore_color
    )
