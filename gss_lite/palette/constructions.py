"""X, the palette: one colour per class (supplement, section B).

A palette is the matrix β of the paper, K rows of D = 3 colour channels. Painting a mask of class
ids with it, x = cβ for one-hot c, gives the *maskige*: a picture that an image tokenizer can
encode.

The plain arithmetic construction and a greedy max-min one live here; `palette_constructions`,
`palette_search` and `palette_learned` hold the others.

The paper's hand-made palettes as functions of K (supplement, section B), the released ones, and a table of all.

Whole numbers 0–255 inside, [0, 1] in the Palette. Everything random is drawn from `seed` alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from gss_lite.contracts import check_num_classes
from gss_lite.palette.maxmin import farthest_point_palette, max_min_palette
from gss_lite.palette.palette import Palette


def arithmetic_colors(
    num_classes: int,
    intervals: tuple[int, int, int] | None = None,
    starts: tuple[int, int, int] = (0, 0, 0),
    room: int = 0,
) -> Tensor:
    """The first K colours, as whole numbers 0–255 (K, 3), of the Cartesian product of three arithmetic sequences (S.9–S.11).

    Args:
        intervals: k for R, G and B; default: the same for all, the largest whole number whose grid
            holds K colours.
        starts: a_1 for R, G and B. room: levels left free at the top, for what is added later.

    Raises:
        ValueError: K out of range, intervals or starts that are no colour steps, or a grid of fewer
            than K colours.
    """
    check_num_classes(num_classes)
    tops = [255 - room - start for start in starts]
    if min(tops) < 0 or min(starts) < 0:
        raise ValueError(
            f"starts {starts} and {room} levels of room at the top must fit into 0…255"
        )
    if intervals is None:
        fits = (
            k for k in range(255, 0, -1) if math.prod(top // k + 1 for top in tops) >= num_classes
        )
        k = next(fits, 1)
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


def arithmetic_palette(num_classes: int, intervals: tuple[int, int, int] | None = None) -> Palette:
    """(i) Arithmetic sequences per channel and their Cartesian product, starting at 0 (S.9–S.11); see arithmetic_colors."""
    return Palette(arithmetic_colors(num_classes, intervals) / 255, "arithmetic")


STARTS = (0, 1, 2)  # (S.12), "in practice"


T = 15  # (S.13), "in practical terms"


_REDRAWS = 100


# Cityscapes' standard colours in train-id order: the released Cityscapes palette.
_CITYSCAPES = (
    (128, 64, 128),
    (244, 35, 232),
    (70, 70, 70),
    (102, 102, 156),
    (190, 153, 153),
    (153, 153, 153),
    (250, 170, 30),
    (220, 220, 0),
    (107, 142, 35),
    (152, 251, 152),
    (70, 130, 180),
    (220, 20, 60),
    (255, 0, 0),
    (0, 0, 142),
    (0, 0, 70),
    (0, 60, 100),
    (0, 80, 100),
    (0, 0, 230),
    (119, 11, 32),
)


def misaligned_palette(num_classes: int, intervals: tuple[int, int, int] | None = None) -> Palette:
    """(ii) Arithmetic sequences that start at 0, 1 and 2 for R, G and B (S.12); see arithmetic_colors for the intervals."""
    return Palette(arithmetic_colors(num_classes, intervals, STARTS) / 255, "misaligned")


def random_additive_palette(
    num_classes: int,
    seed: int = 0,
    largest: int = T,
    intervals: tuple[int, int, int] | None = None,
) -> Palette:
    """(iii) The misaligned grid plus t ∈ {0, …, T}, drawn for each colour and channel (S.13).

    The grid ends at 255 − T, so that no sum leaves the range. Where T reaches the interval two
    colours can meet; such colours are drawn again.

    Args:
        largest: T.

    Raises:
        ValueError: T out of range, or the colours cannot be made distinct.
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


def random_palette(num_classes: int, seed: int = 0) -> Palette:
    """GSS-FF-R: every colour drawn uniformly from the 256³, without repetition."""
    check_num_classes(num_classes)
    generator = torch.Generator().manual_seed(seed)
    return Palette(
        _redraw_twins(lambda: torch.randint(256, (num_classes, 3), generator=generator)) / 255,
        "random",
    )


def released_ade20k_palette(seed: int = 0) -> Palette:
    """The grid of the released ADE20K palette as coded: 5 · 6 · 5 = 150 colours, each channel ± a whole number up to 15.

    The authors then edited colours of classes with low IoU by hand and published no seed, so this
    is a palette of the same making, not the released one (least distance 20.02).
    """
    grid = torch.cartesian_prod(
        torch.arange(15, 240, 51), torch.arange(16, 239, 40), torch.arange(17, 238, 45)
    )
    jitter = torch.randint(-15, 16, grid.shape, generator=torch.Generator().manual_seed(seed))
    return Palette((grid + jitter) / 255, "released ADE20K grid")


def released_mseg_palette(seed: int = 0) -> Palette:
    """The grid of the released MSeg palette as coded: 5 · 5 · 8 = 200 colours, each channel 0 to 15 lower, the first 6 dropped.

    As with ADE20K, the hand edits and the seed are unknown (least distance of the released palette:
    18.68).
    """
    grid = torch.cartesian_prod(
        torch.arange(15, 255, 55), torch.arange(16, 255, 51), torch.arange(17, 255, 33)
    )
    jitter = torch.randint(-15, 1, grid.shape, generator=torch.Generator().manual_seed(seed))
    return Palette((grid + jitter)[6:] / 255, "released MSeg grid")


def released_cityscapes_palette() -> Palette:
    """Cityscapes' standard colours, which the released configuration uses unchanged (19 classes, least distance 20)."""
    return Palette(torch.tensor(_CITYSCAPES) / 255, "Cityscapes standard")


def shuffled(palette: Palette, seed: int) -> Palette:
    """The same colours dealt out to the classes in another order."""
    order = torch.randperm(len(palette), generator=torch.Generator().manual_seed(seed))
    return Palette(palette.colors[order], palette.name, palette.ignore_color)


def _redraw_twins(draw: Callable[[], Tensor]) -> Tensor:
    # Only the later of two equal colours is drawn again, so that palettes without twins are left as
    # first drawn.
    colors = draw()
    for _ in range(_REDRAWS):
        _, owner = colors.unique(dim=0, return_inverse=True)
        first = torch.full((len(colors),), len(colors)).scatter_reduce(
            0, owner, torch.arange(len(colors)), "amin"
        )
        twin = first[owner] != torch.arange(len(colors))
        if not bool(twin.any()):
            return colors
        colors = torch.where(twin[:, None], draw(), colors)
    raise ValueError(
        f"{len(colors)} distinct colours were not found in {_REDRAWS} draws; choose fewer classes "
        "or another T"
    )


CONSTRUCTIONS: Mapping[str, Callable[[int, int], Palette]] = MappingProxyType(
    {
        "random": random_palette,
        "arithmetic": lambda num_classes, seed: arithmetic_palette(num_classes),
        "misaligned": lambda num_classes, seed: misaligned_palette(num_classes),
        "random additive": random_additive_palette,
        "greedy": lambda num_classes, seed: farthest_point_palette(num_classes),
        "max-min RGB": lambda num_classes, seed: max_min_palette(num_classes, "RGB", seed=seed),
        "max-min OKLab": lambda num_classes, seed: max_min_palette(num_classes, "OKLab", seed=seed),
    }
)
"""Name → (K, seed) → Palette, for the constructions that need nothing else. The unseeded ones ignore the seed."""
