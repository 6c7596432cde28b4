"""The maximal distance assumption (section B) solved rather than sketched: K colours whose least distance is as large as found.

The problem is the packing of K equal balls in the RGB cube. From several starts, colours closer
than a growing target distance push each other apart, and what leaves the cube is put back on its
surface (Lubachevsky and Stillinger, 1990, in spirit). Nothing guarantees the optimum; the least
distance reached is what counts, and it is printed in notebook 03.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gss_lite.palette import Palette, check_num_classes, farthest_points
from gss_lite.palette_spaces import ColorSpace, get_space

_INNER = 5  # pushes between two looks at who is near whom


def max_min_palette(
    num_classes: int, space: str = "RGB", *, seed: int = 0, restarts: int = 6, rounds: int = 200
) -> Palette:
    """K colours of the RGB cube with a large least distance, measured in `space` ("RGB" or "OKLab").

    Args:
        restarts: random starts, beside the greedy one and the lattice. rounds: of growing and
            pushing, for each start.

    Raises:
        ValueError: K out of range, or an unknown space.
    """
    check_num_classes(num_classes)
    chosen, generator = get_space(space), torch.Generator().manual_seed(seed)
    starts = [greedy_start(num_classes, chosen), lattice_start(num_classes, generator)]
    starts += [
        torch.rand(num_classes, 3, generator=generator, dtype=torch.float64)
        for _ in range(restarts)
    ]
    best = max(
        (spread(start, chosen, rounds) for start in starts),
        key=lambda colors: _least(chosen.from_rgb(colors)),
    )
    # neighbours in the lattice need not be neighbouring classes
    order = torch.randperm(num_classes, generator=generator)
    return Palette(best[order].clamp(0, 1), f"max-min ({chosen.name})")


def spread(colors: Tensor, space: ColorSpace, rounds: int = 200) -> Tensor:
    """Push colours (K, 3) in [0, 1] apart, and return the state (K, 3) whose least distance in `space` was the largest.

    In every round the target is the best least distance so far, plus a margin that falls from 25 %
    to 0.01 %: wide enough at first to leave a poor arrangement, fine enough at the end to settle a
    good one.
    """
    points = space.from_rgb(colors.double())
    best, kept = _least(points), colors.double()
    for step in range(rounds):
        target = best * (1.0001 + 0.25 * (1 - step / rounds) ** 2)
        # (2, pairs)
        near = torch.triu(torch.cdist(points, points) < 1.3 * target, diagonal=1).nonzero().T
        for _ in range(_INNER):
            rgb = space.to_rgb(_push(points, near, target)).clamp(0, 1)
            points = space.from_rgb(rgb)
        least = _least(points)
        if least > best:
            best, kept = least, rgb
    return kept


def _push(points: Tensor, near: Tensor, target: float) -> Tensor:
    # Each pair that is too close moves apart by 90 % of what is missing, shared between the two.
    gap = points[near[0]] - points[near[1]]
    length = gap.norm(dim=1, keepdim=True).clamp_min(1e-9)
    step = 0.45 * (target - length).clamp_min(0) * gap / length
    return points.index_add(0, near[0], step).index_add(0, near[1], -step)


def _least(points: Tensor) -> float:
    return float(torch.pdist(points).min())


def greedy_start(num_classes: int, space: ColorSpace) -> Tensor:
    """Farthest-point colours (K, 3): every next one is the point of a grid of the cube farthest, in `space`, from all before."""
    side = max(18, math.ceil(1.5 * num_classes ** (1 / 3)))
    axis = torch.linspace(0, 1, side, dtype=torch.float64)
    candidates = torch.cartesian_prod(axis, axis, axis)
    return candidates[farthest_points(space.from_rgb(candidates), num_classes)]


def lattice_start(num_classes: int, generator: torch.Generator) -> Tensor:
    """K of every second point of an a × b × c grid that fills the cube, like the black fields of a chessboard (K, 3).

    That is the densest packing there is, face-centred cubic, stretched a little so that it fits.
    The grid is the one with the largest least distance among those with enough points; surplus
    points are dropped at random.
    """
    best, points = 0.0, None
    side = math.ceil((2 * num_classes) ** (1 / 3)) + 2
    for a in range(2, side + 1):
        for b in range(a, side + 1):
            for c in range(b, side + 1):
                if (a * b * c + 1) // 2 < num_classes:
                    continue
                x, y, z = (1 / (n - 1) for n in (a, b, c))
                least = min(math.hypot(x, y), math.hypot(x, z), math.hypot(y, z), 2 * z)
                if least > best:
                    best, points = least, (a, b, c)
    grid = torch.cartesian_prod(*(torch.arange(n) for n in points))
    black = grid[grid.sum(1) % 2 == 0].double() / (torch.tensor(points) - 1)
    return black[torch.randperm(len(black), generator=generator)[:num_classes]]
