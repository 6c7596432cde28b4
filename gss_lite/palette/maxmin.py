"""X, the palette: one colour per class (supplement, section B).

A palette is the matrix β of the paper, K rows of D = 3 colour channels. Painting a mask of class
ids with it, x = cβ for one-hot c, gives the *maskige*: a picture that an image tokenizer can
encode.

The plain arithmetic construction and a greedy max-min one live here; `palette_constructions`,
`palette_search` and `palette_learned` hold the others.

The maximal distance assumption (section B) solved rather than sketched: K colours whose least distance is as large as found.

The problem is the packing of K equal balls in the RGB cube. From several starts, colours closer
than a growing target distance push each other apart, and what leaves the cube is put back on its
surface (Lubachevsky and Stillinger, 1990, in spirit). Nothing guarantees the optimum; the least
distance reached is what counts, and it is printed in notebook 03.

Colour spaces in which the distance between two palette colours can be measured, and colour vision deficiency.

RGB is what the paper measures in. OKLab (Ottosson, 2020) is built so that equal distances look
about equally different to a person; a tokenizer is no person, which is why notebook 03 compares the
two.

How vivid the colours of a palette are, and whether that goes with how frequent their classes are (supplement B, Figures S.7, S.8).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gss_lite.contracts import check_num_classes
from gss_lite.palette.palette import Palette


def farthest_point_palette(num_classes: int, grid: int = 18) -> Palette:
    """Max-min distance, greedily: each new colour is the point of a grid³ of RGB farthest from all chosen so far.

    This is the maximal distance assumption of section B taken at its word (Gonzalez, 1985: within a
    factor two of the best possible least distance). Deterministic; begins at the corner (0, 0, 0).
    """
    check_num_classes(num_classes)
    while grid**3 < num_classes:
        grid *= 2
    axis = torch.linspace(0, 1, grid)
    candidates = torch.cartesian_prod(axis, axis, axis)
    return Palette(candidates[farthest_points(candidates, num_classes)], "max-min (greedy)")


def farthest_points(candidates: Tensor, count: int) -> list[int]:
    """Row numbers of `count` of the candidates (N, D): row 0, then always the row farthest from all chosen (ties: the first)."""
    chosen = [0]
    distance = (candidates - candidates[0]).square().sum(1)
    for _ in range(count - 1):
        chosen.append(int(distance.argmax()))
        distance = torch.minimum(distance, (candidates - candidates[chosen[-1]]).square().sum(1))
    return chosen


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


# Machado, Oliveira and Fernandes (2009), severity 1.0, on linear RGB.
_DEFICIENCY = {
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


DEFICIENCIES = tuple(_DEFICIENCY)


def srgb_to_linear(colors: Tensor) -> Tensor:
    """SRGB in [0, 1] → linear light in [0, 1], elementwise (IEC 61966-2-1)."""
    return torch.where(
        colors <= 0.04045, colors / 12.92, ((colors.clamp_min(0) + 0.055) / 1.055) ** 2.4
    )


def linear_to_srgb(colors: Tensor) -> Tensor:
    """Linear light → sRGB, elementwise; values below 0 stay below 0."""
    return torch.where(
        colors <= 0.0031308, 12.92 * colors, 1.055 * colors.clamp_min(0) ** (1 / 2.4) - 0.055
    )


def srgb_to_oklab(colors: Tensor) -> Tensor:
    """SRGB (…, 3) in [0, 1] → OKLab (…, 3): L in [0, 1], a and b about −0.4 … 0.4."""
    lms = srgb_to_linear(colors) @ _LMS.to(colors).T
    return torch.copysign(lms.abs() ** (1 / 3), lms) @ _LAB.to(colors).T


def oklab_to_srgb(colors: Tensor) -> Tensor:
    """OKLab (…, 3) → sRGB (…, 3); outside [0, 1] where the colour is outside the RGB gamut."""
    lms = (colors @ torch.linalg.inv(_LAB).to(colors).T) ** 3
    return linear_to_srgb(lms @ torch.linalg.inv(_LMS).to(colors).T)


@dataclass(frozen=True)
class ColorSpace:
    """Coordinates in which distances are Euclidean. `unit` turns a distance into the figure that people quote."""

    name: str
    from_rgb: Callable[[Tensor], Tensor]
    to_rgb: Callable[[Tensor], Tensor]
    unit: float


SPACES = {
    space.name: space
    for space in (
        ColorSpace("RGB", torch.clone, torch.clone, 255.0),  # the paper's 0–255 scale
        ColorSpace("OKLab", srgb_to_oklab, oklab_to_srgb, 100.0),  # lightness from 0 to 100
    )
}


def get_space(name: str) -> ColorSpace:
    """A colour space by name, or ValueError listing the names there are."""
    if name not in SPACES:
        raise ValueError(f"no colour space named {name!r}; there are: {', '.join(SPACES)}")
    return SPACES[name]


def distances(colors: Tensor, space: str = "RGB") -> Tensor:
    """All K(K−1)/2 distances between colours (K, 3) in [0, 1]: on the 0–255 scale for RGB, with L from 0 to 100 for OKLab."""
    chosen = get_space(space)
    return chosen.unit * torch.pdist(chosen.from_rgb(colors.double()))


def simulate_deficiency(colors: Tensor, kind: str) -> Tensor:
    """How sRGB colours (…, 3) look to a person with "protanopia", "deuteranopia" or "tritanopia" (Machado et al., 2009).

    Raises:
        ValueError: another kind.
    """
    if kind not in _DEFICIENCY:
        raise ValueError(
            f"no colour vision deficiency named {kind!r}; there are: {', '.join(DEFICIENCIES)}"
        )
    matrix = torch.tensor(_DEFICIENCY[kind], dtype=colors.dtype, device=colors.device)
    return linear_to_srgb((srgb_to_linear(colors) @ matrix.T).clamp(0, 1))


def chroma(colors: Tensor) -> Tensor:
    """Distance from grey of the same lightness in OKLab, lightness counted from 0 to 100: (…, 3) in [0, 1] → (…)."""
    return 100 * srgb_to_oklab(colors.double())[..., 1:].norm(dim=-1)


def lightness(colors: Tensor) -> Tensor:
    """OKLab's L, from 0 (black) to 100 (white): (…, 3) in [0, 1] → (…)."""
    return 100 * srgb_to_oklab(colors.double())[..., 0]
