"""The max-min search: better than the paper's constructions, optimal where the optimum is known.

Colour spaces, and palettes of other channels than three.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gss_lite.palette import (
    SPACES,
    Palette,
    arithmetic_palette,
    distances,
    farthest_point_palette,
    farthest_points,
    greedy_start,
    max_min_palette,
    misaligned_palette,
    random_additive_palette,
    random_palette,
    released_ade20k_palette,
    released_cityscapes_palette,
    released_mseg_palette,
    spread,
)
from gss_lite.palette.maxmin import (
    _push,
    _side,
    get_space,
    lattice_start,
    linear_to_srgb,
    oklab_to_srgb,
    srgb_to_linear,
    srgb_to_oklab,
)

RELEASED = {19: 20.0, 150: 20.02, 194: 18.68}  # measured on the released palettes, 0–255 scale


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("k", [11, 150])
def test_measured_in_oklab_it_beats_the_rgb_palette_there_and_loses_in_rgb(k):
    rgb, lab = max_min_palette(k, "RGB", restarts=2), max_min_palette(k, "OKLab", restarts=2)
    assert float(distances(lab.colors, "OKLab").min()) > 1.3 * float(
        distances(rgb.colors, "OKLab").min()
    )
    assert float(distances(rgb.colors).min()) > 1.1 * float(distances(lab.colors).min())


@pytest.mark.slow
@settings(deadline=None, max_examples=20)
@given(
    st.integers(2, 60), st.integers(0, 2**31), st.sampled_from(sorted(SPACES)), st.integers(1, 30)
)
def test_spreading_never_makes_it_worse_and_stays_in_the_gamut(k, seed, name, rounds):
    start = torch.rand(k, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    after = spread(start, get_space(name), rounds)
    assert float(after.min()) >= 0 and float(after.max()) <= 1
    assert float(distances(after, name).min()) >= float(distances(start, name).min())


@given(st.integers(2, 40), st.integers(0, 2**31))
def test_pairs_that_are_too_close_move_apart_by_nine_tenths_of_what_is_missing(k, seed):
    points = torch.rand(2, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    gap = float((points[0] - points[1]).norm())
    near = torch.tensor([[0], [1]])
    for target in (gap * (1 + k / 40), gap / 2):
        moved = _push(points, near, target)
        expected = gap + 0.9 * max(0, target - gap)
        assert float((moved[0] - moved[1]).norm()) == pytest.approx(expected)
        assert torch.allclose(moved.mean(0), points.mean(0))


def test_two_pushes_on_one_colour_are_added():
    points = torch.tensor([[0.0, 0.5], [0.5, 0.5], [1.0, 0.5]], dtype=torch.float64)
    moved = _push(points, torch.tensor([[0, 0, 1], [1, 2, 2]]), 0.6)
    # 0 and 1, and 1 and 2, lack 0.1; 0 and 2 lack nothing. The middle one is pushed both ways.
    expected = torch.tensor([[-0.045, 0.5], [0.5, 0.5], [1.045, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(moved, expected)


@pytest.mark.parametrize("space", sorted(SPACES))
@pytest.mark.parametrize("seed", [0, 5])
def test_the_search_keeps_the_best_of_its_starts_and_mixes_the_classes(space, seed):
    """The greedy colours, a lattice and random draws are spread; the best is taken in any order."""
    generator = torch.Generator().manual_seed(seed)
    chosen = get_space(space)
    starts = [greedy_start(9, chosen), lattice_start(9, generator)]
    starts += [torch.rand(9, 3, generator=generator, dtype=torch.float64) for _ in range(3)]
    ends = [spread(start, chosen, 20) for start in starts]
    leasts = [float(distances(end, space).min()) for end in ends]
    best = ends[leasts.index(max(leasts))]
    order = torch.randperm(9, generator=generator)
    palette = max_min_palette(9, space, seed=seed, restarts=3, rounds=20)
    assert torch.equal(palette.colors, best[order].float())
    assert not torch.equal(palette.colors, best.float())


@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_a_round_by_loops(rounds):
    """The target, the pairs within 1.3 of it, five pushes a round, and the cube's walls."""
    start = torch.rand(7, 2, generator=torch.Generator().manual_seed(rounds), dtype=torch.float64)

    def least(rows):
        return min(math.dist(a, b) for i, a in enumerate(rows) for b in rows[:i])

    points = start.tolist()
    best, kept = least(points), points
    for step in range(rounds):
        target = best * (1.0001 + 0.25 * (1 - step / rounds) ** 2)
        pairs = [(i, j) for i in range(7) for j in range(i + 1, 7)]
        near = [(i, j) for i, j in pairs if math.dist(points[i], points[j]) < 1.3 * target]
        for _ in range(5):
            moved = [list(row) for row in points]
            for i, j in near:
                length = math.dist(points[i], points[j])
                for axis in range(2):
                    push = 0.45 * max(0, target - length) / length
                    push *= points[i][axis] - points[j][axis]
                    moved[i][axis] += push
                    moved[j][axis] -= push
            points = [[min(1, max(0, value)) for value in row] for row in moved]
        if least(points) > best:
            best, kept = least(points), points
    torch.testing.assert_close(spread(start, SPACES["RGB"], rounds), torch.tensor(kept).double())


def test_more_rounds_spread_further():
    for seed in range(5):
        start = torch.rand(12, 3, generator=torch.Generator().manual_seed(seed)).double()
        leasts = [float(distances(spread(start, SPACES["RGB"], n)).min()) for n in (1, 10, 60)]
        assert leasts[0] > float(distances(start).min()) and leasts[-1] > 1.5 * leasts[0]


@pytest.mark.parametrize("space", sorted(SPACES))
def test_the_greedy_start_is_farthest_in_its_space(space):
    axis = torch.linspace(0, 1, 18, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis, axis)
    points = get_space(space).from_rgb(grid)
    assert torch.equal(greedy_start(30, get_space(space)), grid[farthest_points(points, 30)])


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 200), st.integers(0, 2**31))
def test_the_lattice_is_the_best_chessboard_that_holds_k(k, seed):
    """Every a ≤ b ≤ c is tried here with its own distances, measured and not derived."""
    points = lattice_start(k, torch.Generator().manual_seed(seed), 3)
    assert points.shape == (k, 3) and len(points.unique(dim=0)) == k
    best, first = 0.0, None
    most = math.ceil((2 * k) ** (1 / 3)) + 2
    for a in range(2, most + 1):
        for b in range(a, most + 1):
            for c in range(b, most + 1):
                if (a * b * c + 1) // 2 >= k:
                    x, y, z = 1 / (a - 1), 1 / (b - 1), 1 / (c - 1)
                    steps = [(x * x + y * y), (x * x + z * z), (y * y + z * z), 4 * z * z]
                    least = math.sqrt(min(steps))
                    if least > best + 1e-12:
                        best, first = least, (a, b, c)
    # whole numbers with an even sum, on the first of the best grids
    numbers = points * (torch.tensor(first) - 1)
    assert torch.allclose(numbers, numbers.round(), atol=1e-9)
    assert bool((numbers.round().sum(1) % 2 == 0).all())
    assert float(torch.pdist(points).min()) >= best - 1e-9
    other = lattice_start(k, torch.Generator().manual_seed(seed + 1), 3)
    assert k < 9 or not torch.equal(points, other)


def test_an_unknown_space_is_refused():
    with pytest.raises(ValueError, match="RGB, OKLab"):
        max_min_palette(5, "CMYK")


# other channels than three


@pytest.mark.parametrize("k", [2, 3, 8, 30])
def test_on_a_line_the_search_finds_even_steps(k):
    palette = max_min_palette(k, channels=1, restarts=1)
    assert palette.colors.shape == (k, 1) and palette.name == "max-min (D = 1)"
    assert palette.least_distance() == pytest.approx(255 / (k - 1), rel=1e-3)


@pytest.mark.parametrize(
    ("k", "channels", "optimum"),
    [
        (4, 2, 1.0),  # the corners of the square
        (5, 2, math.sqrt(1 / 2)),  # and its middle
        (9, 2, 1 / 2),
        (8, 4, math.sqrt(2)),  # every second corner
        (16, 4, 1.0),  # the corners, one of the ways to do it
        (16, 5, math.sqrt(2)),
    ],
)
def test_in_other_dimensions_it_finds_known_packings(k, channels, optimum):
    palette = max_min_palette(k, channels=channels, restarts=2)
    assert palette.colors.shape == (k, channels)
    assert palette.least_distance() >= 255 * optimum * (1 - 2e-3)


@pytest.mark.parametrize("channels", [1, 2, 4, 6, 11, 16])
def test_palettes_of_any_number_of_channels(channels):
    greedy = farthest_point_palette(40, channels=channels)
    searched = max_min_palette(40, channels=channels, restarts=1, rounds=20)
    drawn = random_palette(40, channels=channels)
    for palette in (greedy, searched, drawn):
        assert palette.colors.shape == (40, channels)
        assert palette(torch.full((2, 3, 5), 39)).shape == (2, channels, 3, 5)
    assert greedy.colors[0].tolist() == [0.0] * channels
    assert searched.least_distance() > 2 * drawn.least_distance()
    assert greedy.least_distance() > drawn.least_distance()
    assert searched.least_distance() > 0.999 * greedy.least_distance()


def test_a_grid_too_coarse_for_k_is_doubled():
    palette = farthest_point_palette(30, 2, channels=2)
    assert len(palette) == 30
    assert (palette.colors * 7).round().div(7).sub(palette.colors).abs().max() < 1e-6
    assert len(farthest_point_palette(6000, channels=1)) == 6000
    # a grid of exactly K points is fine enough
    assert farthest_point_palette(4, 2, channels=2).colors.unique().tolist() == [0, 1]


def test_the_greedy_grid_grows_with_the_classes():
    assert _side(3) == _side(3, 1728) == 18 and _side(1) == 18**3
    for k in (1729, 2000, 4096, 10_000):
        assert _side(3, k) == math.ceil(round(1.5 * k ** (1 / 3), 9))


def test_three_channels_are_the_default_and_change_no_palette():
    for k in (11, 19):
        assert torch.equal(
            max_min_palette(k, restarts=1, rounds=5).colors,
            max_min_palette(k, channels=3, restarts=1, rounds=5).colors,
        )
    assert torch.equal(farthest_point_palette(19).colors, farthest_point_palette(19, 18).colors)


@pytest.mark.parametrize("channels", [0, -1, 17, 2.0, True, "3"])
def test_a_number_of_channels_that_makes_no_sense_is_refused(channels):
    for construct in (max_min_palette, farthest_point_palette, random_palette):
        with pytest.raises(ValueError, match="number of channels, from 1 to 16"):
            construct(5, channels=channels)


@pytest.mark.parametrize("channels", [1, 4])
def test_oklab_has_three_channels(channels):
    with pytest.raises(ValueError, match=f"three channels; these have {channels}.*RGB"):
        max_min_palette(5, "OKLab", channels=channels)
    with pytest.raises(ValueError, match="three channels"):
        distances(torch.rand(4, channels), "OKLab")
    assert len(distances(torch.rand(4, channels))) == 6


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


def test_oklab_keeps_the_sign_of_what_is_darker_than_black():
    """The search may leave the cube for a moment; the way back must still be the same colour."""
    dark = torch.tensor([[-0.3, -0.3, -0.3], [-0.02, -0.4, -0.1]], dtype=torch.float64)
    assert float(srgb_to_oklab(dark)[0, 0]) < 0
    torch.testing.assert_close(oklab_to_srgb(srgb_to_oklab(dark)), dark, atol=1e-6, rtol=0)


def test_distances_are_in_the_units_people_quote():
    black_and_white = torch.tensor([[0.0, 0, 0], [1, 1, 1]])
    assert float(distances(black_and_white)) == pytest.approx(255 * math.sqrt(3))
    assert float(distances(black_and_white, "OKLab")) == pytest.approx(100, abs=1e-3)


def test_srgb_is_linear_near_black_and_a_power_above():
    values = torch.tensor([0.0, 0.02, 0.04045, 0.04046, 0.2, 0.5, 1.0], dtype=torch.float64)
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values.tolist()]
    assert srgb_to_linear(values).tolist() == pytest.approx(linear, rel=1e-9)
    assert float(linear_to_srgb(torch.tensor(0.00305).double())) == pytest.approx(12.92 * 0.00305)
    assert linear_to_srgb(srgb_to_linear(values)).tolist() == pytest.approx(values.tolist())
    assert float(linear_to_srgb(torch.tensor(-0.1))) == pytest.approx(-1.292)


def test_palettes_of_the_search_say_their_space():
    for space in SPACES:
        palette = max_min_palette(4, space, restarts=0, rounds=1)
        assert isinstance(palette, Palette) and palette.name == f"max-min ({space})"
