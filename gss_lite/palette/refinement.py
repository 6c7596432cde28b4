"""(iv) Category-specific refinement (section B): colours chosen by the IoU of their classes.

The authors did this by hand. Here two searches do it. `refine_palette` gives the class with the
lowest IoU a vivid colour, far from all others. It keeps the change only if the mean IoU rises.

`by_neighbours` keeps the set of colours and exchanges them among the classes. A decoder blurs the
border between two classes, so pixels there take colours on the line between the two colours. Where
a third colour lies near that line, nearest colour gives a third class, which is absent there. A
large least distance does not prevent this, because it treats all pairs of classes alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gss_lite.contracts import IGNORE
from gss_lite.palette.palette import Palette

VIVID = 0.75  # a vivid colour's channels "vary at large degrees": their range, in [0, 1]
SAMPLES = 15  # points on the line between two colours

_SIDE = 9  # candidates per channel
_SHORTLIST = 8  # of the farthest vivid colours, from which one is drawn


class Trial(NamedTuple):
    """One change that was tried.

    Attributes:
        class_id: the class that was moved.
        color: its new colour, D values in [0, 1].
        miou: the mean IoU that it gave.
        kept: whether it was kept.
    """

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
    """Move the classes with the lowest IoU to vivid, far colours; keep only what raises the mIoU.

    Args:
        palette: the search starts from it. It is not changed.
        evaluate: palette → the IoU of each class in [0, 1], NaN for a class that does not occur.
            The palette is fitted to its pictures, so report no result on them.
        trials: calls of `evaluate` after the first one.
        patience: a class is not tried again after so many failed trials in a row.
        seed: of the random colours.

    Raises:
        ValueError: `evaluate` does not return K values, or none of them is a number; trials or
            patience is below 1; or the palette does not have three channels.
    """
    if trials < 1 or patience < 1:
        raise ValueError(f"trials and patience must be at least 1; got {trials} and {patience}")
    if palette.colors.shape[1] != 3:
        raise ValueError(
            "refinement looks for vivid colours, which have three channels; this palette has "
            f"{palette.colors.shape[1]}"
        )
    generator = torch.Generator().manual_seed(seed)
    iou = _checked(evaluate(palette), len(palette))
    start = best = float(iou.nanmean())
    failures = torch.zeros(len(palette))
    history: list[Trial] = []
    while len(history) < trials:
        open_classes = iou.masked_fill(failures >= patience, torch.nan).nan_to_num(torch.inf)
        if not bool(open_classes.isfinite().any()):
            break  # every class has had its trials
        worst = int(open_classes.argmin())
        changed = _with_color(palette, worst, _vivid_color(palette.colors.cpu(), worst, generator))
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
    grid = torch.cartesian_prod(axis, axis, axis)  # (729, 3)
    # With a little noise two trials for one class differ, and no candidate equals a palette colour.
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
            f"that does not occur; got shape {tuple(iou.shape)}, {int(iou.isfinite().sum())} of "
            "them numbers"
        )
    return iou


def border_lengths(masks: Tensor, num_classes: int) -> Tensor:
    """Masks (N, H, W) → length of the border between two classes, relative to their size, (K, K).

    It is the number of pairs of adjacent pixels of classes i and j, divided by the number of pixels
    of the smaller class. So a border of 30 pixels counts little for a road and much for a pole.
    """
    counts = torch.zeros(num_classes * num_classes, dtype=torch.double)
    area = torch.zeros(num_classes, dtype=torch.long)
    for part in masks.cpu().split(16):  # ids of 64 bits would fill the memory for large masks
        ids = part.long()  # (16, H, W)
        across = ids[:, :, 1:], ids[:, :, :-1]
        down = ids[:, 1:], ids[:, :-1]
        for one, other in (across, down):
            border = (one != other) & (one != IGNORE) & (other != IGNORE)
            pairs = one[border] * num_classes + other[border]
            counts += torch.bincount(pairs, minlength=len(counts))
        area += torch.bincount(ids.flatten(), minlength=IGNORE + 1)[:num_classes]
    lengths = counts.view(num_classes, num_classes)
    area = area.clamp(min=1)
    return (lengths + lengths.T) / torch.minimum(area[:, None], area[None, :])


def blend_collisions(colors: Tensor) -> Tensor:
    """β (K, D) → (K, K): the share of the line between two colours that is nearest to a third."""
    count = len(colors)
    beta = colors.double().cpu()
    ids = torch.arange(count)
    total = torch.zeros(count, count, dtype=torch.double)
    for t in torch.linspace(0.15, 0.85, SAMPLES, dtype=torch.double):
        between = (1 - t) * beta[:, None] + t * beta[None]  # (K, K, D)
        nearest = torch.cdist(between.flatten(0, 1), beta).argmin(1).view(count, count)
        total += (nearest != ids[:, None]) & (nearest != ids[None, :])
    return total / SAMPLES


def by_neighbours(
    palette: Palette, masks: Tensor, *, seed: int = 0, rounds: int = 20_000
) -> Palette:
    """Exchange colours so that a third colour seldom lies between those of adjacent classes.

    Two random classes exchange their colours if that lowers the sum of border(i, j) ·
    collisions(i, j). The set of colours and its least distance stay the same.

    Args:
        palette: the colours.
        masks: (N, H, W), for example training masks, for the borders.
        seed: of the random pairs.
        rounds: number of exchanges that are tried.
    """
    generator = torch.Generator().manual_seed(seed)
    border = border_lengths(masks, len(palette))
    collisions = blend_collisions(palette.colors)
    order = torch.arange(len(palette))
    cost = float((border * collisions).sum())
    for first, second in torch.randint(len(palette), (rounds, 2), generator=generator).tolist():
        trial = order.clone()
        trial[first], trial[second] = order[second], order[first]
        new = float((border * collisions[trial][:, trial]).sum())
        if new < cost:
            order, cost = trial, new
    return Palette(palette.colors[order], f"{palette.name}, by neighbours", palette.ignore_color)
