"""(iv) Category-specific refinement (section B), which the authors did by hand, as a search that judges itself.

The class that is rebuilt worst gets a vivid colour, away from grey and far from all others; the
change stays only if the reconstruction improves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gss_lite.palette import Palette

VIVID = 0.75  # a vivid colour's channels "vary at large degrees": their range, in [0, 1]
_SIDE = 9  # candidates per channel
_SHORTLIST = 8  # of the farthest vivid colours, from which one is drawn


class Trial(NamedTuple):
    """One change tried: the class, its new colour (3,) in [0, 1], the mIoU that it gave, and whether it was kept."""

    class_id: int
    color: tuple[float, ...]
    miou: float
    kept: bool


class Refinement(NamedTuple):
    """The refined palette, the mIoU it began and ended with, and every trial in order."""

    palette: Palette
    start: float
    end: float
    trials: list[Trial]


def refine_palette(
    palette: Palette,
    evaluate: Callable[[Palette], Sequence[float] | Tensor],
    *,
    trials: int = 20,
    patience: int = 2,
    seed: int = 0,
) -> Refinement:
    """Move the classes with the lowest reconstruction IoU to vivid, far colours, keeping only what raises the mIoU.

    Args:
        evaluate: palette → IoU of each class in [0, 1], NaN for one that does not occur. Use
            pictures on which no result is reported: the refinement is fitted to them.
        trials: calls of `evaluate`, beside the first. patience: failed trials after which a class
            is left alone.

    Raises:
        ValueError: `evaluate` does not return K values, or none of them is a number; or trials or
            patience below 1.
    """
    if trials < 1 or patience < 1:
        raise ValueError(f"trials and patience must be at least 1; got {trials} and {patience}")
    generator = torch.Generator().manual_seed(seed)
    iou = _checked(evaluate(palette), len(palette))
    start = best = float(iou.nanmean())
    failures, history = torch.zeros(len(palette)), []
    while len(history) < trials:
        open_classes = iou.masked_fill(failures >= patience, torch.nan).nan_to_num(torch.inf)
        if not bool(open_classes.isfinite().any()):
            break  # every class has had its trials
        worst = int(open_classes.argmin())
        changed = _with_color(palette, worst, _vivid_color(palette.colors, worst, generator))
        new_iou = _checked(evaluate(changed), len(palette))
        miou = float(new_iou.nanmean())
        kept = miou > best
        history.append(Trial(worst, tuple(changed.colors[worst].tolist()), miou, kept))
        if kept:
            palette, iou, best = changed, new_iou, miou
            failures[worst] = 0
        else:
            failures[worst] += 1
    return Refinement(palette, start, best, history)


def _vivid_color(colors: Tensor, class_id: int, generator: torch.Generator) -> Tensor:
    """One of the vivid colours (3,) that lie farthest from the other classes' colours."""
    axis = torch.linspace(0, 1, _SIDE)
    grid = torch.cartesian_prod(axis, axis, axis)
    # A little jitter, so that two trials for one class differ and no candidate coincides with a
    # colour in use.
    grid = (grid + (torch.rand(grid.shape, generator=generator) - 0.5) / _SIDE).clamp(0, 1)
    vivid = grid[grid.amax(1) - grid.amin(1) >= VIVID]
    others = torch.cat([colors[:class_id], colors[class_id + 1 :]])
    farthest = torch.cdist(vivid, others).amin(1).topk(_SHORTLIST).indices
    return vivid[farthest[torch.randint(_SHORTLIST, (), generator=generator)]]


def _with_color(palette: Palette, class_id: int, color: Tensor) -> Palette:
    colors = palette.colors.clone()
    colors[class_id] = color
    name = palette.name if palette.name.endswith(", refined") else f"{palette.name}, refined"
    return Palette(colors, name, palette.ignore_color)


def _checked(iou: Sequence[float] | Tensor, num_classes: int) -> Tensor:
    iou = torch.as_tensor(iou, dtype=torch.float64)
    if iou.shape != (num_classes,) or not bool(iou.isfinite().any()):
        raise ValueError(
            f"evaluate must return the IoU of each of the {num_classes} classes, NaN for a class "
            "that does not occur; "
            f"got shape {tuple(iou.shape)}, {int(iou.isfinite().sum())} of them numbers"
        )
    return iou
