"""The palette: what it refuses, painting, constructions for K = 2…1000."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gss_lite.contracts import IGNORE, check_mask
from gss_lite.palette import (
    CONSTRUCTIONS,
    Palette,
    arithmetic_colors,
    arithmetic_palette,
    farthest_point_palette,
    farthest_points,
    max_min_palette,
    paint,
    random_palette,
)

ANY_K = st.integers(2, 1000)

# The search is cut short for the sweep over K: what it promises at any K does not depend on how
# long it runs.
QUICK = dict(CONSTRUCTIONS) | {
    f"max-min {space}": lambda k, seed, space=space: max_min_palette(
        k, space, seed=seed, restarts=0, rounds=1
    )
    for space in ("RGB", "OKLab")
}


@st.composite
def palettes(draw) -> Palette:
    """Any valid palette: K = 2…60, D = 1…5, with a name and an ignore colour of its own."""
    d = draw(st.integers(1, 5))
    rows = draw(
        st.lists(st.tuples(*[st.floats(0, 1, width=32)] * d), min_size=2, max_size=60, unique=True)
    )
    return Palette(
        torch.tensor(rows),
        draw(st.text(max_size=8)),
        draw(st.tuples(*[st.floats(0, 1, width=32)] * d)),
    )


@pytest.mark.parametrize(
    "colors, complaint",
    [
        (torch.rand(1, 3), "K ≥ 2"),
        (torch.rand(3), "K ≥ 2"),
        (torch.rand(2, 0), "K ≥ 2"),
        (torch.rand(2, 2, 2), "K ≥ 2"),
        (torch.tensor([[0.0, 0, 0], [0, 0, 1.01]]), "divide by 255"),
        (torch.tensor([[0.0, 0, 0], [0, 0, -0.01]]), r"\[0, 1\]"),
        (torch.tensor([[0.0, 0, 0], [0, 0, math.nan]]), r"\[0, 1\]"),
        (torch.tensor([[0.2, 0, 0], [0, 0, 1], [0.2, 0, 0]]), "classes 0 and 2"),
        (torch.tensor([[0.9, 0, 0], [0, 0, 1], [0, 0, 1]]), "classes 1 and 2"),
    ],
)
def test_a_palette_refuses_colours_it_could_not_read_back(colors, complaint):
    with pytest.raises(ValueError, match=complaint):
        Palette(colors)


@pytest.mark.parametrize(
    "ignore", [(0.5, 0.5), (0.5, 0.5, 1.5), (0.5, 0.5, -0.1), (0.5, 0.5, math.nan), [[0.5] * 3]]
)
def test_a_palette_refuses_a_wrong_ignore_colour(ignore):
    with pytest.raises(ValueError, match="ignore colour"):
        Palette(torch.eye(3), "x", ignore)


def test_a_palette_is_a_module_whose_colours_are_buffers_without_a_place_in_state_dicts():
    palette = Palette(torch.rand(4, 2), "four")
    assert {name for name, _ in palette.named_buffers()} == {"colors", "ignore_color"}
    assert not palette.state_dict() and not list(palette.parameters())
    assert palette.to(torch.float64).colors.dtype == torch.float64
    moved = palette.to("meta")
    assert moved.colors.device.type == moved.ignore_color.device.type == "meta"
    assert (
        "four" in repr(palette) and "4 classes" in repr(palette) and "2 channels" in repr(palette)
    )


def test_colours_are_copied_and_need_no_gradient():
    colors = torch.eye(3).requires_grad_()
    ignore = torch.full((3,), 0.25)
    palette = Palette(colors, "x", ignore)
    with torch.no_grad():
        colors.zero_()
        ignore.zero_()
    assert torch.equal(palette.colors, torch.eye(3)) and not palette.colors.requires_grad
    assert palette.ignore_color.tolist() == [0.25] * 3


@pytest.mark.parametrize("channels", [1, 2, 3, 6])
def test_ignored_pixels_are_mid_grey_by_default(channels):
    palette = Palette(torch.eye(7, channels)[: channels + 1])
    mask = torch.tensor([[IGNORE, 0]])
    for painted in (palette(mask), paint(mask, palette.colors)):
        assert painted[:, 0, 0].tolist() == [0.5] * channels
        assert painted[:, 0, 1].tolist() == palette.colors[0].tolist()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_masks_of_any_whole_type_are_painted(dtype):
    palette = random_palette(200)
    mask = torch.tensor([[0, 199], [100, 255]])
    assert torch.equal(palette(mask.to(dtype)), palette(mask))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs GSS_TEST_GPU=1 and a GPU")
def test_the_maskige_lies_where_the_mask_lies():
    palette = random_palette(30)
    mask = torch.randint(30, (2, 8, 8))
    expected = palette(mask)
    assert palette(mask.cuda()).device.type == "cuda"
    assert torch.equal(palette(mask.cuda()).cpu(), expected)
    assert torch.equal(palette.cuda()(mask), expected)
    assert palette.least_distance() == random_palette(30).least_distance()


@given(palettes(), st.integers(0, 2**31))
def test_painting_is_the_product_with_the_one_hot_mask(palette, seed):
    """x = cβ, an ignored pixel counting as one more class."""
    mask = torch.randint(len(palette) + 1, (2, 3, 4), generator=torch.Generator().manual_seed(seed))
    onehot = torch.nn.functional.one_hot(mask, len(palette) + 1).float()
    beta = torch.cat([palette.colors, palette.ignore_color[None]])
    painted = palette(mask.masked_fill(mask == len(palette), IGNORE))
    assert torch.equal(painted, (onehot @ beta).permute(0, 3, 1, 2))


def test_paint_takes_a_single_mask_and_passes_the_gradient_to_the_colours():
    colors = torch.rand(4, 3, requires_grad=True)
    paint(torch.tensor([[0, 1], [1, 255]]), colors).sum().backward()
    assert colors.grad[:, 0].tolist() == [1, 2, 0, 0]


@pytest.mark.parametrize("wrong", [-1, 5, 254, 256])
def test_a_mask_with_a_foreign_id_is_refused_by_name(wrong):
    with pytest.raises(ValueError, match=f"holds id {wrong};"):
        check_mask(torch.tensor([[0, wrong]]), 5)


def test_masks_cannot_hold_255_classes_and_the_ignore_id():
    assert check_mask(torch.tensor([[254, 255]]), 255).tolist() == [[254, 255]]
    with pytest.raises(ValueError, match="at most 255 classes"):
        check_mask(torch.tensor([[0]]), 256)


@given(palettes())
def test_least_distance_is_the_smallest_of_all_pairs(palette):
    rows = (255 * palette.colors.double()).tolist()
    brute = min(math.dist(a, b) for i, a in enumerate(rows) for b in rows[:i])
    assert palette.least_distance() == pytest.approx(brute, rel=1e-9)


# (i) arithmetic, and the greedy construction


@settings(deadline=None)
@given(ANY_K)
def test_the_arithmetic_grid_has_the_largest_interval_that_holds_k_colours(k):
    levels = (255 * arithmetic_palette(k).colors).round().unique()
    interval = int(levels.diff().min())
    assert len(arithmetic_palette(k)) == k
    assert (255 // interval + 1) ** 3 >= k and (
        interval == 255 or (255 // (interval + 1) + 1) ** 3 < k
    )


def test_the_papers_example_of_the_cartesian_product():
    """'If the interval of R, G, B channel k = 45', C is '{(0,0,0), (0,0,45), …, (225,225,225)}'."""
    colors = arithmetic_colors(216, (45, 45, 45)).tolist()
    assert colors[0] == [0, 0, 0] and colors[1] == [0, 0, 45] and colors[-1] == [225, 225, 225]


@settings(max_examples=40)
@given(
    st.tuples(*[st.integers(20, 255)] * 3), st.tuples(*[st.integers(0, 30)] * 3), st.integers(0, 40)
)
def test_intervals_starts_and_room_by_list(intervals, starts, room):
    """(S.10) written out: a_i = a_1 + (i − 1)·k while the value leaves the room at the top."""
    axes = [
        [v for v in range(256) if v >= a and (v - a) % k == 0 and v + room <= 255]
        for a, k in zip(starts, intervals)
    ]
    expected = [[r, g, b] for r in axes[0] for g in axes[1] for b in axes[2]]
    if len(expected) < 2:
        with pytest.raises(ValueError, match="choose smaller intervals"):
            arithmetic_colors(2, intervals, starts, room)
    else:
        assert arithmetic_colors(len(expected), intervals, starts, room).tolist() == expected
        with pytest.raises(ValueError, match=f"give {len(expected)} colours"):
            arithmetic_colors(len(expected) + 1, intervals, starts, room)


@pytest.mark.parametrize(
    "call, complaint",
    [
        (lambda: arithmetic_colors(8, (0, 255, 255)), "≥ 1"),
        (lambda: arithmetic_colors(8, (255, 255)), "three whole numbers"),
        (lambda: arithmetic_colors(8, starts=(0, 0, 256)), "fit into"),
        (lambda: arithmetic_colors(8, starts=(0, 0, -1)), "fit into"),
        (lambda: arithmetic_colors(8, room=256), "fit into"),
    ],
)
def test_impossible_grids_are_refused(call, complaint):
    with pytest.raises(ValueError, match=complaint):
        call()


@settings(deadline=None, max_examples=25)
@given(ANY_K)
def test_greedy_palettes_are_distinct_and_within_a_factor_two_of_any_other(k):
    """Gonzalez (1985): at least half the least distance of any K of the same candidates.

    An even subgrid is among them.
    """
    palette = farthest_point_palette(k)
    assert len(palette) == k
    per_axis = math.ceil(k ** (1 / 3) - 1e-9)
    evenly = min(math.floor(17 / (per_axis - 1)), 17) / 17 * 255 if per_axis > 1 else 255.0
    assert palette.least_distance() >= evenly / 2 - 1e-3


@given(st.integers(2, 12), st.integers(0, 2**31))
def test_farthest_points_against_a_literal_loop(count, seed):
    # many ties
    points = torch.randint(6, (40, 3), generator=torch.Generator().manual_seed(seed)).float()
    chosen = [0]
    while len(chosen) < count:
        distance = [min(math.dist(p, points[c].tolist()) for c in chosen) for p in points.tolist()]
        chosen.append(distance.index(max(distance)))
    assert farthest_points(points, count) == chosen


@pytest.mark.parametrize("k", [1, 0, -3, 2.0, True, 256**3 + 1, "19"])
@pytest.mark.parametrize("construction", [arithmetic_palette, farthest_point_palette])
def test_a_number_of_classes_that_makes_no_sense_is_refused(construction, k):
    with pytest.raises(ValueError, match="whole number of classes"):
        construction(k)


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
@settings(deadline=None, max_examples=15)
@given(k=ANY_K, seed=st.integers(0, 2**31))
def test_every_construction_gives_k_distinct_colours_in_range(name, k, seed):
    colors = QUICK[name](k, seed).colors
    assert colors.shape == (k, 3) and len({tuple(c) for c in colors.tolist()}) == k
    assert float(colors.min()) >= 0 and float(colors.max()) <= 1


@pytest.mark.parametrize("name", QUICK)
@pytest.mark.parametrize("k", [2, 255, 1000])
def test_the_ends_of_the_range_and_determinism(name, k):
    first, again = QUICK[name](k, 7), QUICK[name](k, 7)
    assert len(first) == k and torch.equal(first.colors, again.colors)
