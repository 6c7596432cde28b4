"""(iv): only improvements are kept, the worst class moves first, the new colours are vivid.

Who gets which colour: the measures against loops, the search against a plain one.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gss_lite.contracts import IGNORE
from gss_lite.palette import (
    Palette,
    blend_collisions,
    border_lengths,
    by_neighbours,
    random_palette,
)
from gss_lite.palette.refinement import VIVID, refine_palette


def separation(palette: Palette) -> torch.Tensor:
    """A stand-in for reconstruction: a class's IoU grows with the distance to its nearest."""
    table = torch.cdist(palette.colors.double(), palette.colors.double()).fill_diagonal_(9)
    return (table.amin(1) / 1.8).clamp(0, 1)


class Recorder:
    """An evaluation that remembers every palette it was asked about."""

    def __init__(self, function) -> None:
        self.function, self.asked = function, []

    def __call__(self, palette: Palette) -> torch.Tensor:
        self.asked.append(palette)
        return self.function(palette)


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(st.integers(2, 60), st.integers(0, 2**31), st.integers(1, 25))
def test_only_improvements_are_kept(k, seed, trials):
    evaluate = Recorder(separation)
    start = random_palette(k, seed)
    result = refine_palette(start, evaluate, trials=trials, seed=seed)
    assert len(evaluate.asked) == 1 + len(result.trials) <= 1 + trials
    best, colors = float(separation(start).mean()), start.colors.clone()
    assert result.start == pytest.approx(best)
    for trial in result.trials:
        assert trial.kept == (trial.miou > best)
        assert max(trial.color) - min(trial.color) >= VIVID - 1e-6
        if trial.kept:
            best, colors[trial.class_id] = trial.miou, torch.tensor(trial.color)
    assert torch.equal(result.palette.colors, colors) and result.end == best
    assert result.end == float(separation(result.palette).mean())


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 12), st.integers(0, 2**31), st.integers(1, 3))
def test_the_class_tried_is_the_worst_of_the_palette_so_far_that_is_not_given_up(k, seed, patience):
    evaluate = Recorder(separation)
    result = refine_palette(
        random_palette(k, seed), evaluate, trials=25, patience=patience, seed=seed
    )
    iou, failures = separation(evaluate.asked[0]), [0] * k
    for trial, asked in zip(result.trials, evaluate.asked[1:]):
        open_classes = [c for c in range(k) if failures[c] < patience]
        assert trial.class_id == min(open_classes, key=lambda c: float(iou[c]))
        if trial.kept:
            iou, failures[trial.class_id] = separation(asked), 0
        else:
            failures[trial.class_id] += 1
    assert len(result.trials) == 25 or min(failures) >= patience


def test_new_colours_are_far_from_the_others_and_the_moved_class_does_not_count():
    """Black and white: a new colour for white keeps away from black alone, so it is bright."""
    start = Palette(torch.tensor([[0.0, 0, 0], [1, 1, 1]]), "two", (0.1, 0.2, 0.3))
    found = []
    for seed in range(20):
        worst_is_white = [0.9, 0.1]
        result = refine_palette(start, lambda p, w=worst_is_white: w, trials=2, seed=seed)
        colors = torch.tensor([trial.color for trial in result.trials])
        assert float(colors.norm(dim=1).min()) > 1.3
        assert not torch.equal(colors[0], colors[1])
        found.append(colors)
    assert len(torch.cat(found).unique(dim=0)) == 40
    assert len(torch.cat(found).round().unique(dim=0)) == 3  # yellow, magenta and cyan


def test_a_new_colour_is_one_of_the_eight_farthest_vivid_ones(monkeypatch):
    assert VIVID == 0.75
    start = random_palette(9)

    def drawn(shortlist: int) -> list[tuple[float, ...]]:
        monkeypatch.setattr("gss_lite.palette.refinement._SHORTLIST", shortlist)
        return [
            refine_palette(start, separation, trials=1, seed=s).trials[0].color for s in range(20)
        ]

    one, eight, nine = drawn(1), drawn(8), drawn(9)
    assert 10 < sum(a != b for a, b in zip(one, eight)) < 20
    assert eight != nine


def test_the_ignore_colour_stays():
    start = Palette(random_palette(6).colors, "six", (0.1, 0.2, 0.3))
    masks = torch.randint(6, (2, 8, 8))
    for palette in (
        refine_palette(start, separation, trials=5).palette,
        by_neighbours(start, masks, rounds=50),
    ):
        assert torch.equal(palette.ignore_color, start.ignore_color)


def test_a_palette_of_other_channels_has_no_vivid_colours():
    with pytest.raises(ValueError, match="three channels; this palette has 4"):
        refine_palette(random_palette(5, channels=4), separation)


@given(st.integers(2, 30), st.integers(0, 2**31))
def test_a_judge_who_always_says_worse_changes_nothing(k, seed):
    scores = iter(range(1000, 0, -1))
    start = random_palette(k, seed)
    result = refine_palette(
        start, lambda p: torch.full((k,), next(scores) / 1000), trials=9, patience=1
    )
    assert torch.equal(result.palette.colors, start.colors) and result.palette.name == "random"
    assert len(result.trials) == min(9, k)  # every class once, then nobody is left
    assert sorted(t.class_id for t in result.trials) == list(range(min(9, k)))


def test_it_is_fixed_by_its_seed():
    run = [refine_palette(random_palette(12), separation, trials=15, seed=s) for s in (0, 0, 1)]
    assert run[0].trials == run[1].trials != run[2].trials


def test_the_worst_class_is_tried_first_and_absent_classes_never():
    iou = torch.tensor([0.9, 0.2, math.nan, 0.5])
    result = refine_palette(random_palette(4), lambda p: iou, trials=20, patience=2)
    assert [t.class_id for t in result.trials] == [1, 1, 3, 3, 0, 0]


def test_a_grey_class_among_primaries_becomes_vivid_and_far():
    """The paper's example replaces (128, 128, 128) by (0, 128, 255)."""
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)
    start = Palette(
        torch.cat([corners, torch.tensor([[0.5, 0.5, 0.5], [0.55, 0.5, 0.5]])]),
        "corners and two greys",
    )
    result = refine_palette(start, separation, trials=6)
    assert (
        result.end > result.start + 0.02 and result.palette.name == "corners and two greys, refined"
    )
    moved = (result.palette.colors != start.colors).any(1).nonzero().flatten().tolist()
    assert moved and set(moved) <= {8, 9}


@pytest.mark.parametrize("returned", [torch.rand(3), torch.rand(5, 1), torch.full((5,), math.nan)])
def test_an_evaluation_of_another_shape_or_without_numbers_is_refused(returned):
    with pytest.raises(ValueError, match="each of the 5 classes"):
        refine_palette(random_palette(5), lambda p: returned)


@pytest.mark.parametrize("bad", [{"trials": 0}, {"patience": 0}])
def test_no_trials_and_no_patience_are_refused(bad):
    with pytest.raises(ValueError, match="at least 1"):
        refine_palette(random_palette(5), separation, **bad)


# who gets which colour


def test_border_lengths_against_a_hand_count():
    mask = torch.tensor([[[0, 0, 1], [0, 2, 1], [255, 2, 1]]])
    lengths = border_lengths(mask, 3)
    # areas 3, 3, 2; borders: 0|1 once, 0|2 twice, 1|2 twice; the ignored pixel has none
    expected = torch.tensor(
        [[0, 1 / 3, 2 / 2], [1 / 3, 0, 2 / 2], [1.0, 1.0, 0]], dtype=torch.double
    )
    torch.testing.assert_close(lengths, expected)


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 7), st.integers(0, 2**31))
def test_border_lengths_pixel_by_pixel(k, seed):
    """Several masks with ignored pixels; the last class is absent."""
    drawn = torch.randint(k + 1, (3, 5, 4), generator=torch.Generator().manual_seed(seed))
    masks = drawn.masked_fill(drawn == k, IGNORE).masked_fill(drawn == k - 1, 0).byte()
    area = [max(1, int((masks == c).sum())) for c in range(k)]
    expected = torch.zeros(k, k, dtype=torch.double)
    for mask in masks.tolist():
        for y in range(5):
            for x in range(4):
                for below, right in ((1, 0), (0, 1)):
                    if y + below < 5 and x + right < 4:
                        one, other = mask[y][x], mask[y + below][x + right]
                        if one != other and IGNORE not in (one, other):
                            expected[one, other] += 1 / min(area[one], area[other])
                            expected[other, one] += 1 / min(area[one], area[other])
    torch.testing.assert_close(border_lengths(masks, k), expected)


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 9), st.integers(1, 4), st.integers(0, 2**31))
def test_blend_collisions_point_by_point(k, channels, seed):
    """Fifteen points between 15 % and 85 % of the way from one colour to the other."""
    colors = torch.rand(k, channels, generator=torch.Generator().manual_seed(seed)).double()
    expected = torch.zeros(k, k, dtype=torch.double)
    for i in range(k):
        for j in range(k):
            for step in range(15):
                t = 0.15 + 0.7 * step / 14
                point = (1 - t) * colors[i] + t * colors[j]
                nearest = int((colors - point).square().sum(1).argmin())
                expected[i, j] += (nearest not in (i, j)) / 15
    found = blend_collisions(colors)
    torch.testing.assert_close(found, expected, atol=0.07, rtol=0)  # one point may be a tie
    assert float((found - expected).abs().mean()) < 0.005


def cost(colors: torch.Tensor, border: torch.Tensor) -> float:
    """What the exchanges make small, computed from the colours themselves."""
    return float((border * blend_collisions(colors)).sum())


@pytest.mark.parametrize("seed", range(8))
def test_exchanges_are_kept_exactly_if_the_cost_falls(seed):
    """The same exchanges, with every cost computed anew from the colours in their new order."""
    k, rounds = 7, 60
    generator = torch.Generator().manual_seed(seed)
    masks = torch.randint(k, (2, 9, 9), generator=generator)
    palette = Palette(torch.rand(k, 3, generator=generator))
    border = border_lengths(masks, k)
    exchanges = torch.randint(k, (rounds, 2), generator=torch.Generator().manual_seed(seed))
    colors = palette.colors.clone()
    best = cost(colors, border)
    refused = []
    for first, second in exchanges.tolist():
        trial = colors.clone()
        trial[[first, second]] = colors[[second, first]]
        new = cost(trial, border)
        assert abs(new - best) > 1e-9 or first == second or new == best  # else rounding decides
        if new < best:
            colors, best = trial, new
        else:
            refused.append(new / best)
    found = by_neighbours(palette, masks, seed=seed, rounds=rounds)
    assert torch.equal(found.colors, colors)
    assert cost(found.colors, border) < cost(palette.colors, border)
    assert any(1 < ratio < 1.1 for ratio in refused)  # some refused exchanges are slightly worse


def test_an_exchange_that_changes_nothing_is_not_made():
    """Classes that never touch cost nothing in any order, so every class keeps its colour."""
    palette = random_palette(6)
    masks = torch.full((1, 12, 12), IGNORE)
    masks[0, ::2, ::2] = torch.arange(36).view(6, 6) % 6
    assert torch.equal(by_neighbours(palette, masks, rounds=100).colors, palette.colors)


def test_grey_lies_between_black_and_white():
    colors = torch.tensor([[0.0, 0, 0], [1, 1, 1], [0.5, 0.5, 0.5]])
    between = blend_collisions(colors)
    assert between[0, 1] == between[1, 0] > 0.5
    assert between[0, 2] == between[1, 2] == between.diag().max() == 0


def test_exchanging_keeps_the_colours_and_no_third_one_lies_between_neighbours():
    palette = Palette(torch.tensor([[0.0, 0, 0], [1, 1, 1], [0.5, 0.5, 0.5]]))
    # classes 0 and 1 share a long border, 2 touches nothing but a corner of 0
    masks = torch.zeros(1, 8, 8, dtype=torch.long)
    masks[:, :, 4:] = 1
    masks[:, 0, 0] = 2
    exchanged = by_neighbours(palette, masks, rounds=200)
    assert sorted(exchanged.colors.tolist()) == sorted(palette.colors.tolist())
    assert (
        blend_collisions(exchanged.colors)[0, 1] == 0
    )  # black and white no longer meet across grey
    assert exchanged.least_distance() == palette.least_distance()
    again = by_neighbours(palette, masks, rounds=200)
    assert torch.equal(again.colors, exchanged.colors)
    assert exchanged.name == "custom, by neighbours"
    assert torch.equal(by_neighbours(palette, masks, rounds=0).colors, palette.colors)


def test_the_exchanges_are_drawn_from_the_seed_alone():
    state = torch.get_rng_state()
    stripes = torch.arange(12).expand(12, 12)
    palette, masks = random_palette(12), torch.stack([stripes, stripes.T])
    results = [by_neighbours(palette, masks, seed=s, rounds=12).colors for s in (0, 0, 1)]
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])
    assert torch.equal(state, torch.get_rng_state())
