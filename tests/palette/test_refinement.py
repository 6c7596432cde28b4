"""(iv): only improvements are kept, the worst class moves first, the new colours are vivid."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gss_lite.palette import (
    Palette,
    blend_collisions,
    border_lengths,
    by_neighbours,
    random_palette,
)
from gss_lite.palette.refinement import VIVID, refine_palette


def separation(palette: Palette) -> torch.Tensor:
    """A stand-in for reconstruction: a class's IoU grows with the distance to its nearest neighbour."""
    table = torch.cdist(palette.colors.double(), palette.colors.double()).fill_diagonal_(9)
    return (table.amin(1) / 1.8).clamp(0, 1)


class Recorder:
    """An evaluation that remembers every palette it was asked about."""

    def __init__(self, function) -> None:
        self.function, self.asked = function, []

    def __call__(self, palette: Palette) -> torch.Tensor:
        self.asked.append(palette)
        return self.function(palette)


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
