"""The paper's hand-made palettes as functions of K (section B, i–iii), the released ones, random.

These functions compute with whole numbers from 0 to 255; a `Palette` holds colours in [0, 1]. The
same `seed` always gives the same palette.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from gss_lite.color_table import first_of_equals
from gss_lite.palette.maxmin import farthest_point_palette, max_min_palette
from gss_lite.palette.palette import Palette, check_size

STARTS = (0, 1, 2)  # (S.12), "in practice"
T = 15  # (S.13), "in practical terms"

_REDRAWS = 100

# Cityscapes' standard colours in the order of its train ids.
_CITYSCAPES = """
804080 f423e8 464646 66669c be9999 999999 faaa1e dcdc00 6b8e23 98fb98
4682b4 dc143c ff0000 00008e 000046 003c64 005064 0000e6 770b20
"""


def arithmetic_colors(
    num_classes: int,
    intervals: tuple[int, int, int] | None = None,
    starts: tuple[int, int, int] = (0, 0, 0),
    room: int = 0,
) -> Tensor:
    """The first K colours of the product of three arithmetic sequences (S.9–S.11), (K, 3).

    Args:
        num_classes: K.
        intervals: k for R, G and B. By default all three are the largest whole number whose grid
            has K colours.
        starts: a_1 for R, G and B.
        room: the grid ends at 255 − room, so that up to `room` can be added later.

    Returns:
        Whole numbers from 0 to 255.

    Raises:
        ValueError: K, the starts or the intervals are out of range, or the grid has fewer than K
            colours.
    """
    check_size(num_classes)
    tops = [255 - room - start for start in starts]
    if min(tops) < 0 or min(starts) < 0:
        raise ValueError(
            f"starts {starts} and {room} levels of room at the top must fit into 0…255"
        )
    if intervals is None:
        k = 255
        while k > 1 and math.prod(top // k + 1 for top in tops) < num_classes:
            k -= 1
        intervals = (k, k, k)
    if len(intervals) != 3 or min(intervals) < 1:
        raise ValueError(
            "intervals must be three whole numbers ≥ 1, one for each of R, G and B; got "
            f"{intervals}"
        )
    axes = [torch.arange(start, 256 - room, step) for start, step in zip(starts, intervals)]
    held = math.prod(map(len, axes))
    if held < num_classes:
        raise ValueError(
            f"intervals {tuple(intervals)} give {held} colours, fewer than the {num_classes} "
            "classes; choose smaller intervals"
        )
    return torch.cartesian_prod(*axes)[:num_classes]


def unequal_intervals(num_classes: int) -> tuple[int, int, int]:
    """Intervals for R, G and B whose grid holds K colours with little left over.

    The supplement allows another interval for each channel (S.9). One after the other, each
    interval is the largest that leaves room for K colours. Green gets the smallest one, as in the
    authors' grid for ADE20K. For K = 150 the grid has 5 · 6 · 5 colours, where equal intervals need
    6 · 6 · 6.
    """
    check_size(num_classes)
    intervals: list[int] = []
    for channels_left in (3, 2, 1):
        held = math.prod(255 // k + 1 for k in intervals)
        fitting = (
            k for k in range(255, 0, -1) if held * (255 // k + 1) ** channels_left >= num_classes
        )
        intervals.append(next(fitting))
    green, blue, red = intervals
    return red, green, blue


def arithmetic_palette(num_classes: int, intervals: tuple[int, int, int] | None = None) -> Palette:
    """(i) The product of arithmetic sequences that start at 0 (S.9–S.11); see arithmetic_colors."""
    return Palette(arithmetic_colors(num_classes, intervals) / 255, "arithmetic")


def misaligned_palette(num_classes: int, intervals: tuple[int, int, int] | None = None) -> Palette:
    """(ii) The same with sequences that start at 0, 1 and 2 for R, G and B (S.12)."""
    return Palette(arithmetic_colors(num_classes, intervals, STARTS) / 255, "misaligned")


def random_additive_palette(
    num_classes: int,
    seed: int = 0,
    largest: int = T,
    intervals: tuple[int, int, int] | None = None,
) -> Palette:
    """(iii) The misaligned grid plus t ∈ {0, …, T}, drawn for each colour and channel (S.13).

    The grid ends at 255 − T, so that no sum is above 255. If T is at least the interval, two
    colours can become equal; the later one is then drawn again.

    Args:
        num_classes: K.
        seed: of the draws.
        largest: T, from 0 to 253.
        intervals: as in arithmetic_colors.

    Raises:
        ValueError: T is out of range, or the colours cannot be made distinct.
    """
    if not 0 <= largest <= 253:
        raise ValueError(
            f"T must lie in 0…253, since a channel that starts at 2 ends at 255; got {largest}"
        )
    base = arithmetic_colors(num_classes, intervals, STARTS, room=largest)
    generator = torch.Generator().manual_seed(seed)
    colors = _redraw_twins(
        lambda: base + torch.randint(largest + 1, base.shape, generator=generator)
    )
    return Palette(colors / 255, f"random additive, T = {largest}")


def random_palette(num_classes: int, seed: int = 0, *, channels: int = 3) -> Palette:
    """GSS-FF-R: every colour drawn uniformly from the 256^D 8-bit ones, without repetition."""
    check_size(num_classes, channels)
    generator = torch.Generator().manual_seed(seed)
    colors = _redraw_twins(lambda: torch.randint(256, (num_classes, channels), generator=generator))
    return Palette(colors / 255, "random")


def _redraw_twins(draw: Callable[[], Tensor]) -> Tensor:
    """Draw colours (K, D), then draw the later one of two equal colours again until all differ."""
    colors = draw()
    for _ in range(_REDRAWS):
        twin = first_of_equals(colors) != torch.arange(len(colors))
        if not bool(twin.any()):
            return colors
        colors = torch.where(twin[:, None], draw(), colors)
    raise ValueError(
        f"{len(colors)} distinct colours were not found in {_REDRAWS} draws; choose fewer classes "
        "or another T"
    )


def released_ade20k_palette(seed: int = 0) -> Palette:
    """The grid of the released ADE20K palette as coded: 150 colours, each channel ± up to 15.

    The authors published no seed and then edited five colours by hand: rows 119, 120, 145, 148
    (black) and 149 (white). So the colours differ from the released ones, whose least distance is
    20.02.
    """
    axes = torch.arange(15, 240, 51), torch.arange(16, 239, 40), torch.arange(17, 238, 45)
    grid = torch.cartesian_prod(*axes)  # 5 · 6 · 5 colours
    jitter = torch.randint(-15, 16, grid.shape, generator=torch.Generator().manual_seed(seed))
    return Palette((grid + jitter) / 255, "released ADE20K grid")


def released_mseg_palette(seed: int = 0) -> Palette:
    """The grid of the released MSeg palette as coded: 194 colours, each channel 0 to 15 lower.

    The seed of the released colours was not published, so these are others. None of the released
    ones was edited by hand. Their least distance is 18.68.
    """
    axes = torch.arange(15, 255, 55), torch.arange(16, 255, 51), torch.arange(17, 255, 33)
    grid = torch.cartesian_prod(*axes)  # 5 · 5 · 8 colours, of which the first 6 are dropped
    jitter = torch.randint(-15, 1, grid.shape, generator=torch.Generator().manual_seed(seed))
    return Palette((grid + jitter)[6:] / 255, "released MSeg grid")


def released_cityscapes_palette() -> Palette:
    """Cityscapes' standard colours, as in the released configuration (19 classes)."""
    colors = torch.tensor([list(bytes.fromhex(color)) for color in _CITYSCAPES.split()])
    return Palette(colors / 255, "Cityscapes standard")


def shuffled(palette: Palette, seed: int) -> Palette:
    """The same colours in a random order of the classes."""
    order = torch.randperm(len(palette), generator=torch.Generator().manual_seed(seed))
    return Palette(palette.colors[order], palette.name, palette.ignore_color)


CONSTRUCTIONS: Mapping[str, Callable[[int, int], Palette]] = MappingProxyType(
    {
        "random": random_palette,
        "arithmetic": lambda num_classes, seed: arithmetic_palette(num_classes),
        "arithmetic, unequal intervals": lambda num_classes, seed: arithmetic_palette(
            num_classes, unequal_intervals(num_classes)
        ),
        "misaligned": lambda num_classes, seed: misaligned_palette(num_classes),
        "random additive": random_additive_palette,
        "greedy": lambda num_classes, seed: farthest_point_palette(num_classes),
        "max-min RGB": lambda num_classes, seed: max_min_palette(num_classes, "RGB", seed=seed),
        "max-min OKLab": lambda num_classes, seed: max_min_palette(num_classes, "OKLab", seed=seed),
    }
)
"""Name → function (K, seed) → Palette. Constructions without randomness ignore the seed."""
