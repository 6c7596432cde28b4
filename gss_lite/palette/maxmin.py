"""The maximal distance assumption (section B): K colours whose least distance is large.

`farthest_point_palette` is greedy. `max_min_palette` searches for a larger least distance, which is
the packing of K equal balls in the cube [0, 1]^D. It begins with several sets of colours. Colours
closer than a growing target distance push each other apart, and colours that leave the cube are put
back on its surface (after Lubachevsky and Stillinger, 1990). The result need not be the optimum.

Distances are measured in RGB, as in the paper, or in OKLab (Ottosson, 2020), where equal distances
look about equally different to people.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations_with_replacement
from typing import NamedTuple

import torch
from torch import Tensor

from gss_lite.palette.palette import Palette, check_size

_CANDIDATES = 18**3  # points of the grid from which greedy colours are chosen
_INNER = 5  # pushes before the pairs of near colours are found anew


def farthest_point_palette(
    num_classes: int, grid: int | None = None, *, channels: int = 3
) -> Palette:
    """Max-min distance, greedily: each new colour is the grid point farthest from all before.

    The least distance is at least half of the best possible one on this grid (Gonzalez, 1985). The
    first colour is black, and nothing is random.

    Args:
        num_classes: K.
        grid: points along each channel; by default 18 for three channels, and about as many points
            in all for another number. It is doubled until there are K points.
        channels: D.
    """
    check_size(num_classes, channels)
    grid = grid or _side(channels)
    while grid**channels < num_classes:
        grid *= 2
    candidates = _grid(grid, channels)
    return Palette(candidates[farthest_points(candidates, num_classes)], "max-min (greedy)")


def farthest_points(candidates: Tensor, count: int) -> list[int]:
    """Candidates (N, D) → `count` row numbers: row 0, then always the row farthest from all chosen.

    The first row wins a tie.
    """
    chosen = [0]
    distance = (candidates - candidates[0]).square().sum(1)  # to the nearest chosen one, (N,)
    for _ in range(count - 1):
        chosen.append(int(distance.argmax()))
        distance = torch.minimum(distance, (candidates - candidates[chosen[-1]]).square().sum(1))
    return chosen


def max_min_palette(
    num_classes: int,
    space: str = "RGB",
    *,
    channels: int = 3,
    seed: int = 0,
    restarts: int = 6,
    rounds: int = 200,
) -> Palette:
    """K colours with a large least distance, found by a search.

    Args:
        num_classes: K.
        space: where the distance is measured: "RGB", the cube itself, or "OKLab".
        channels: D; OKLab has three.
        seed: of the random starts and of the order of the colours.
        restarts: random starts, beside the greedy one and the lattice.
        rounds: of growing and pushing, for each start.

    Raises:
        ValueError: K or D is out of range, there is no such space, or it does not have D channels.
    """
    check_size(num_classes, channels)
    chosen = get_space(space)
    generator = torch.Generator().manual_seed(seed)
    starts = [
        greedy_start(num_classes, chosen, channels),
        lattice_start(num_classes, generator, channels),
    ]
    starts += [
        torch.rand(num_classes, channels, generator=generator, dtype=torch.float64)
        for _ in range(restarts)
    ]
    spreads = [spread(start, chosen, rounds) for start in starts]
    best = max(spreads, key=lambda colors: _least(chosen.from_rgb(colors)))
    # Shuffled, so that neighbours in the lattice do not become neighbouring classes.
    order = torch.randperm(num_classes, generator=generator)
    name = chosen.name if channels == 3 else f"D = {channels}"
    return Palette(best[order].clamp(0, 1), f"max-min ({name})")


def spread(colors: Tensor, space: ColorSpace, rounds: int = 200) -> Tensor:
    """Push colours (K, D) in [0, 1] apart; return the best state (K, D) on the way.

    The best state has the largest least distance in `space`. In every round the target is the best
    least distance so far plus a margin. The margin falls from 25 %, which can leave a poor
    arrangement, to 0.01 %, which refines a good one.
    """
    points = space.from_rgb(colors.double())
    best, kept = _least(points), colors.double()
    for step in range(rounds):
        target = best * (1.0001 + 0.25 * (1 - step / rounds) ** 2)
        close = torch.cdist(points, points) < 1.3 * target
        near = torch.triu(close, diagonal=1).nonzero().T  # (2, pairs)
        for _ in range(_INNER):
            rgb = space.to_rgb(_push(points, near, target)).clamp(0, 1)
            points = space.from_rgb(rgb)
        least = _least(points)
        if least > best:
            best, kept = least, rgb
    return kept


def _push(points: Tensor, near: Tensor, target: float) -> Tensor:
    """Push the pairs `near` (2, pairs) apart by 90 % of what their distances lack to `target`."""
    gap = points[near[0]] - points[near[1]]
    length = gap.norm(dim=1, keepdim=True).clamp_min(1e-9)
    step = 0.45 * (target - length).clamp_min(0) * gap / length
    return points.index_add(0, near[0], step).index_add(0, near[1], -step)


def _least(points: Tensor) -> float:
    return float(torch.pdist(points).min())


def greedy_start(num_classes: int, space: ColorSpace, channels: int = 3) -> Tensor:
    """Farthest-point colours (K, D), as in `farthest_point_palette` but measured in `space`."""
    candidates = _grid(_side(channels, num_classes), channels, torch.float64)
    return candidates[farthest_points(space.from_rgb(candidates), num_classes)]


def lattice_start(num_classes: int, generator: torch.Generator, channels: int = 3) -> Tensor:
    """Every second point of a grid that fills the cube, as black fields of a chessboard, (K, D).

    In three dimensions this is the densest packing (face-centred cubic), stretched a little to fit.
    Of all grids with enough points, the one with the largest least distance is taken. Surplus
    points are dropped at random.
    """
    best, sides = 0.0, None
    most = math.ceil((2 * num_classes) ** (1 / channels)) + 2
    for tried in combinations_with_replacement(range(2, most + 1), channels):
        if (math.prod(tried) + 1) // 2 < num_classes:
            continue
        steps = [1 / (side - 1) for side in tried]  # between neighbours in the grid, falling
        # The nearest black fields are one step away along two axes, or two steps along one.
        least = min(math.hypot(*steps[-2:]) if channels > 1 else math.inf, 2 * steps[-1])
        if least > best:
            best, sides = least, tried
    grid = torch.cartesian_prod(*map(torch.arange, sides)).view(-1, channels)
    black = grid[grid.sum(1) % 2 == 0].double() / (torch.tensor(sides) - 1)
    return black[torch.randperm(len(black), generator=generator)[:num_classes]]


def _side(channels: int, num_classes: int = 0) -> int:
    """Points along each channel of a grid with about 18³ points, or at least 1.5³ per class."""
    return math.ceil(max(_CANDIDATES, 1.5**3 * num_classes) ** (1 / channels))


def _grid(side: int, channels: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """All points of a grid of the cube [0, 1]^D, (side^D, D), black first."""
    axis = torch.linspace(0, 1, side, dtype=dtype)
    return torch.cartesian_prod(*[axis] * channels).view(-1, channels)


class ColorSpace(NamedTuple):
    """Coordinates in which the distance between colours is measured.

    Attributes:
        name: "RGB" or "OKLab".
        from_rgb: colours (…, D) in [0, 1] → coordinates.
        to_rgb: coordinates → colours; values may lie outside [0, 1].
        unit: a distance times this is on the usual scale, 0–255 or 0–100.
    """

    name: str
    from_rgb: Callable[[Tensor], Tensor]
    to_rgb: Callable[[Tensor], Tensor]
    unit: float


_LMS = torch.tensor(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ],
    dtype=torch.float64,
)
_LAB = torch.tensor(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ],
    dtype=torch.float64,
)


def srgb_to_linear(colors: Tensor) -> Tensor:
    """Turn sRGB into linear light, both in [0, 1], elementwise (IEC 61966-2-1)."""
    curve = ((colors.clamp_min(0) + 0.055) / 1.055) ** 2.4
    return torch.where(colors <= 0.04045, colors / 12.92, curve)


def linear_to_srgb(colors: Tensor) -> Tensor:
    """Turn linear light into sRGB, elementwise; values below 0 stay below 0."""
    curve = 1.055 * colors.clamp_min(0) ** (1 / 2.4) - 0.055
    return torch.where(colors <= 0.0031308, 12.92 * colors, curve)


def srgb_to_oklab(colors: Tensor) -> Tensor:
    """RGB (…, 3) in [0, 1] → OKLab (…, 3): L in [0, 1], a and b about −0.4 … 0.4."""
    if colors.shape[-1] != 3:
        raise ValueError(
            f"OKLab describes colours with three channels; these have {colors.shape[-1]}. Measure "
            'them in "RGB"'
        )
    lms = srgb_to_linear(colors) @ _LMS.to(colors).T
    return torch.copysign(lms.abs() ** (1 / 3), lms) @ _LAB.to(colors).T


def oklab_to_srgb(colors: Tensor) -> Tensor:
    """OKLab (…, 3) → RGB (…, 3); outside [0, 1] where the colour is outside the RGB gamut."""
    lms = (colors @ torch.linalg.inv(_LAB).to(colors).T) ** 3
    return linear_to_srgb(lms @ torch.linalg.inv(_LMS).to(colors).T)


SPACES = {
    "RGB": ColorSpace("RGB", torch.clone, torch.clone, 255.0),  # the paper's 0–255 scale
    "OKLab": ColorSpace("OKLab", srgb_to_oklab, oklab_to_srgb, 100.0),  # lightness up to 100
}


def get_space(name: str) -> ColorSpace:
    """A colour space by name, or ValueError with the names there are."""
    if name not in SPACES:
        raise ValueError(f"no colour space named {name!r}; there are: {', '.join(SPACES)}")
    return SPACES[name]


def distances(colors: Tensor, space: str = "RGB") -> Tensor:
    """All K(K−1)/2 distances between colours (K, D) in [0, 1], in the unit of the space.

    That is the 0–255 scale for RGB, and for OKLab a scale on which black and white are 100 apart.
    """
    chosen = get_space(space)
    return chosen.unit * torch.pdist(chosen.from_rgb(colors.double()))


def chroma(colors: Tensor) -> Tensor:
    """Distance from grey of the same lightness in OKLab, L from 0 to 100: (…, 3) → (…)."""
    return 100 * srgb_to_oklab(colors.double())[..., 1:].norm(dim=-1)


def lightness(colors: Tensor) -> Tensor:
    """OKLab's L, from 0 (black) to 100 (white): (…, 3) in [0, 1] → (…)."""
    return 100 * srgb_to_oklab(colors.double())[..., 0]
