"""The max-min search: better than every construction of the paper, optimal where the optimum is known; colour spaces."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gss_lite.palette.constructions import (
    arithmetic_palette,
    misaligned_palette,
    random_additive_palette,
    random_palette,
    released_ade20k_palette,
    released_cityscapes_palette,
    released_mseg_palette,
)
from gss_lite.palette.maxmin import (
    SPACES,
    distances,
    farthest_point_palette,
    get_space,
    max_min_palette,
    oklab_to_srgb,
    spread,
    srgb_to_oklab,
)
from gss_lite.palette.palette import Palette

RELEASED = {19: 20.0, 150: 20.02, 194: 18.68}  # measured on the released palettes, 0–255 scale


@pytest.mark.parametrize("k", RELEASED)
def test_it_beats_the_released_palettes_and_every_construction_of_the_paper(k):
    others = [arithmetic_palette(k), misaligned_palette(k), farthest_point_palette(k)]
    others += [
        construct(k, seed)
        for seed in range(20)
        for construct in (random_palette, random_additive_palette)
    ]
    others += {
        19: [released_cityscapes_palette()],
        150: [released_ade20k_palette(s) for s in range(20)],
        194: [released_mseg_palette(s) for s in range(20)],
    }[k]
    ours = max_min_palette(k).least_distance()
    assert ours > 2.5 * RELEASED[k]
    assert ours > 1.05 * max(p.least_distance() for p in others)


@pytest.mark.parametrize(
    "k, optimum",
    [
        (2, math.sqrt(3)),
        (3, math.sqrt(2)),
        (4, math.sqrt(2)),
        (5, math.sqrt(5) / 2),
        (8, 1.0),
        (9, math.sqrt(3) / 2),
        (14, math.sqrt(2) / 2),
    ],
)
def test_it_finds_the_proven_optimum_where_there_is_one(k, optimum):
    """Packings of K points in the unit cube (Schaer, 1966)."""
    assert max_min_palette(k).least_distance() == pytest.approx(255 * optimum, rel=2e-3)


@pytest.mark.parametrize("k", [11, 150])
def test_measured_in_oklab_it_beats_the_rgb_palette_there_and_loses_in_rgb(k):
    rgb, lab = max_min_palette(k, "RGB", restarts=2), max_min_palette(k, "OKLab", restarts=2)
    assert float(distances(lab.colors, "OKLab").min()) > 1.3 * float(
        distances(rgb.colors, "OKLab").min()
    )
    assert float(distances(rgb.colors).min()) > 1.1 * float(distances(lab.colors).min())


@settings(deadline=None, max_examples=20)
@given(
    st.integers(2, 60), st.integers(0, 2**31), st.sampled_from(sorted(SPACES)), st.integers(1, 30)
)
def test_spreading_never_makes_it_worse_and_stays_in_the_gamut(k, seed, name, rounds):
    start = torch.rand(k, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    after = spread(start, get_space(name), rounds)
    assert float(after.min()) >= 0 and float(after.max()) <= 1
    assert float(distances(after, name).min()) >= float(distances(start, name).min())


def test_an_unknown_space_is_refused():
    with pytest.raises(ValueError, match="RGB, OKLab"):
        max_min_palette(5, "CMYK")


# colour spaces


@pytest.mark.parametrize(
    "rgb, lab",
    [  # Ottosson's published values for the sRGB primaries
        ((1, 1, 1), (1.0, 0.0, 0.0)),
        ((1, 0, 0), (0.62796, 0.22486, 0.12585)),
        ((0, 1, 0), (0.86644, -0.23389, 0.17950)),
        ((0, 0, 1), (0.45201, -0.03246, -0.31153)),
        ((0, 0, 0), (0, 0, 0)),
    ],
)
def test_oklab_of_known_colours(rgb, lab):
    assert srgb_to_oklab(torch.tensor(rgb, dtype=torch.float64)).tolist() == pytest.approx(
        lab, abs=2e-5
    )


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_oklab_there_and_back(color):
    rgb = torch.tensor(color, dtype=torch.float64)
    assert oklab_to_srgb(srgb_to_oklab(rgb)).tolist() == pytest.approx(color, abs=1e-6)


def test_distances_are_in_the_units_people_quote():
    black_and_white = torch.tensor([[0.0, 0, 0], [1, 1, 1]])
    assert float(distances(black_and_white)) == pytest.approx(255 * math.sqrt(3))
    assert float(distances(black_and_white, "OKLab")) == pytest.approx(100, abs=1e-3)


def test_palettes_of_the_search_say_their_space():
    assert (
        isinstance(max_min_palette(4), Palette)
        and max_min_palette(4, "OKLab").name == "max-min (OKLab)"
    )
