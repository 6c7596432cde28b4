"""The constructions one by one: seeds, the paper's formulas, the released grids.

The sweep over K is in test_palette.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_palette import QUICK

from gss_lite.palette.constructions import (
    CONSTRUCTIONS,
    STARTS,
    T,
    _redraw_twins,
    arithmetic_colors,
    arithmetic_palette,
    misaligned_palette,
    random_additive_palette,
    random_palette,
    released_ade20k_palette,
    released_cityscapes_palette,
    released_mseg_palette,
    shuffled,
    unequal_intervals,
)
from gss_lite.palette.palette import Palette

SEEDED = ("random", "random additive", "max-min RGB", "max-min OKLab")


def levels(palette: Palette) -> torch.Tensor:
    """Colours as whole numbers (K, 3), after checking that they are whole."""
    scaled = 255 * palette.colors.double()
    assert float((scaled - scaled.round()).abs().max()) < 1e-4
    return scaled.round().long()


@pytest.mark.parametrize("name", SEEDED)
def test_another_seed_gives_another_palette(name):
    assert not torch.equal(QUICK[name](19, 0).colors, QUICK[name](19, 1).colors)


@pytest.mark.parametrize("name", CONSTRUCTIONS)
@pytest.mark.parametrize("k", [1, 0, -5, 2.5])
def test_a_number_of_classes_that_makes_no_sense_is_refused(name, k):
    with pytest.raises(ValueError, match="whole number of classes"):
        CONSTRUCTIONS[name](k, 0)


def test_drawing_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    for construct in QUICK.values():
        construct(11, 3)
    released_ade20k_palette(1), released_mseg_palette(1), shuffled(random_palette(5), 2)
    assert torch.equal(state, torch.get_rng_state())


# (ii) misaligned starts


@given(st.integers(2, 1000))
def test_misaligned_channels_share_no_value(k):
    """(S.12): with starts 0, 1, 2 and an interval above 2, no value occurs in two channels."""
    colors = levels(misaligned_palette(k))
    r, g, b = (set(colors[:, c].tolist()) for c in range(3))
    assert colors[0].tolist() == [0, 1, 2] and not (r & g or g & b or r & b)


def test_misaligned_is_the_arithmetic_grid_moved():
    assert torch.equal(
        levels(misaligned_palette(216, (45, 45, 45))),
        arithmetic_colors(216, (45, 45, 45)) + torch.tensor(STARTS),
    )


# (iii) random additive factors


@settings(deadline=None)
@given(st.integers(2, 1000), st.integers(0, 2**31), st.integers(0, 60))
def test_random_factors_lie_between_0_and_t_above_the_grid(k, seed, largest):
    factors = levels(random_additive_palette(k, seed, largest)) - arithmetic_colors(
        k, None, STARTS, room=largest
    )
    assert int(factors.min()) >= 0 and int(factors.max()) <= largest


def test_the_factors_are_uniform_and_independent_of_the_colour_before():
    factors = torch.cat(
        [levels(random_additive_palette(1000, seed)) for seed in range(20)]
    ) - arithmetic_colors(1000, None, STARTS, T).repeat(20, 1)
    counts = torch.bincount(factors.flatten(), minlength=T + 1).double()
    expected = counts.sum() / (T + 1)
    assert len(counts) == T + 1
    # χ² with 15 degrees of freedom: 1e-4 lies at 44.3
    assert float(((counts - expected) ** 2 / expected).sum()) < 45
    assert abs(float(torch.corrcoef(factors.double().T)[0, 1])) < 0.03


def test_t_is_15_and_the_starts_are_0_1_2_as_the_paper_says():
    assert (T, STARTS) == (15, (0, 1, 2))
    palette = random_additive_palette(1000)
    assert palette.name == "random additive, T = 15"
    grid = arithmetic_colors(1000, None, (0, 1, 2), room=15)
    factors = levels(palette) - grid
    assert factors.unique().tolist() == list(range(16))
    assert torch.equal(misaligned_palette(9).colors[0], torch.tensor([0.0, 1, 2]) / 255)


def test_the_largest_factor_still_fits():
    colors = levels(random_additive_palette(2, 0, 253, (1, 1, 1)))
    assert int(colors.max()) <= 255
    assert int(levels(random_additive_palette(6, 1, 253, (1, 1, 1))).max()) > 200


def test_t_zero_is_the_misaligned_palette():
    assert torch.equal(random_additive_palette(150, 3, 0).colors, misaligned_palette(150).colors)


@pytest.mark.parametrize("largest", [-1, 254])
def test_t_out_of_range_is_refused(largest):
    with pytest.raises(ValueError, match="0…253"):
        random_additive_palette(8, 0, largest)


def test_of_two_equal_colours_the_later_is_drawn_again():
    draws = iter([[[1], [1], [2], [1]], [[8], [2], [9], [7]], [[0], [0], [5], [0]]])
    assert _redraw_twins(lambda: torch.tensor(next(draws))).tolist() == [[1], [2], [5], [7]]


def test_colours_that_cannot_be_made_distinct_are_refused():
    # T above the interval is no obstacle in itself
    assert len(random_additive_palette(1000, 0, 60, (20, 20, 20))) == 1000
    with pytest.raises(ValueError, match="choose smaller intervals"):
        random_additive_palette(1000, 0, 253)
    with pytest.raises(ValueError, match="distinct colours were not found"):
        _redraw_twins(lambda: torch.zeros(8, 3, dtype=torch.long))


# random and released


def test_random_palettes_take_every_level():
    seen = torch.cat([levels(random_palette(1000, seed)) for seed in range(5)])
    assert all(seen[:, c].unique().tolist() == list(range(256)) for c in range(3))


def test_random_palettes_fill_the_cube_evenly():
    colors = torch.cat([random_palette(1000, seed).colors for seed in range(5)]).double()
    assert float((colors.mean(0) - 0.5).abs().max()) < 0.02
    assert float((colors.std(0) - (1 / 12) ** 0.5).abs().max()) < 0.01


@settings(deadline=None)
@given(st.integers(0, 2**31))
def test_the_released_grids_as_coded(seed):
    """Facts §2.9: the grids, the jitter's range, the number of colours."""
    ade = [
        [r, g, b]
        for r in range(15, 240, 51)
        for g in range(16, 239, 40)
        for b in range(17, 238, 45)
    ]
    off = levels(released_ade20k_palette(seed)) - torch.tensor(ade)
    assert len(ade) == 150 and int(off.min()) >= -15 and int(off.max()) <= 15
    mseg = [
        [r, g, b]
        for r in range(15, 255, 55)
        for g in range(16, 255, 51)
        for b in range(17, 255, 33)
    ][6:]
    off = levels(released_mseg_palette(seed)) - torch.tensor(mseg)
    assert len(mseg) == 194 and int(off.min()) >= -15 and int(off.max()) <= 0


def test_cityscapes_has_19_colours_and_the_published_least_distance():
    assert len(released_cityscapes_palette()) == 19
    assert released_cityscapes_palette().least_distance() == pytest.approx(20.0, abs=1e-4)


def test_cityscapes_colours_are_the_published_ones():
    colors = levels(released_cityscapes_palette()).tolist()
    named = {0: [128, 64, 128], 2: [70, 70, 70], 8: [107, 142, 35], 11: [220, 20, 60]}
    named |= {
        13: [0, 0, 142],
        18: [119, 11, 32],
    }  # road, building, vegetation, person, car, bicycle
    assert {k: colors[k] for k in named} == named


def test_released_palettes_are_drawn_over_their_whole_range():
    """Over 40 seeds every jitter occurs: −15…15 on ADE20K's grid, −15…0 on MSeg's."""
    ade = torch.cartesian_prod(
        torch.arange(15, 240, 51), torch.arange(16, 239, 40), torch.arange(17, 238, 45)
    )
    off = torch.cat([levels(released_ade20k_palette(seed)) - ade for seed in range(40)])
    assert off.unique().tolist() == list(range(-15, 16))
    mseg = torch.cartesian_prod(
        torch.arange(15, 255, 55), torch.arange(16, 255, 51), torch.arange(17, 255, 33)
    )[6:]
    off = torch.cat([levels(released_mseg_palette(seed)) - mseg for seed in range(40)])
    assert off.unique().tolist() == list(range(-15, 1))


def test_shuffling_gives_the_same_colours_to_other_classes():
    palette = Palette(arithmetic_palette(50).colors, "mine", (0.1, 0.2, 0.3))
    other = shuffled(palette, 4)
    assert not torch.equal(other.colors, palette.colors)
    assert not torch.equal(other.colors, shuffled(palette, 5).colors)
    assert torch.equal(other.colors.unique(dim=0), palette.colors.unique(dim=0))
    assert other.name == "mine" and torch.equal(other.ignore_color, palette.ignore_color)


@pytest.mark.parametrize("channels", [1, 2, 4, 16])
def test_random_palettes_of_other_channels(channels):
    palette = random_palette(100, 3, channels=channels)
    assert palette.colors.shape == (100, channels)
    levels(palette)
    with pytest.raises(ValueError, match="number of channels, from 1 to 16"):
        random_palette(10, channels=channels + 16)


@pytest.mark.parametrize("k", [2, 8, 9, 11, 19, 27, 28, 64, 150, 194, 1000])
def test_unequal_intervals_are_no_smaller_than_equal_ones_and_no_larger_fit(k):
    red, green, blue = unequal_intervals(k)
    steps = {int(step) for step in arithmetic_colors(k).diff(dim=0).abs().unique()} - {0}
    assert red >= blue >= green
    assert len(arithmetic_palette(k, (red, green, blue))) == k
    if k > 8:  # eight corners of the cube need no step within a channel
        assert green == min(steps)
    for i in range(3):
        larger = [red, green, blue]
        larger[i] += 1
        if larger[i] < 256:
            with pytest.raises(ValueError, match="choose smaller intervals"):
                arithmetic_colors(k, tuple(larger))


def test_unequal_intervals_hold_150_colours_without_rest():
    intervals = unequal_intervals(150)
    assert intervals == (63, 51, 63)  # 5 · 6 · 5 colours
    with pytest.raises(ValueError, match="give 150 colours"):
        arithmetic_colors(151, intervals)
