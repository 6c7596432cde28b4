"""Vividness, rank correlation and its p-value, against formulas and against all permutations."""

from __future__ import annotations

import colorsys
from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gss_lite.palette import chroma, lightness
from gss_lite.palette.statistics import (
    class_shares,
    permutation_test,
    rank_correlation,
    ranks,
    saturation,
)


def test_grey_has_no_chroma_and_black_no_lightness():
    greys = torch.linspace(0, 1, 5)[:, None].expand(5, 3)
    assert chroma(greys).max() < 1e-3 and saturation(greys).max() == 0
    assert lightness(greys)[0] == 0 and lightness(greys)[-1] == pytest.approx(100, abs=1e-3)
    assert bool((lightness(greys).diff() > 0).all())


def test_the_primaries_in_oklab():
    primaries = torch.eye(3)
    # Ottosson's
    assert lightness(primaries).tolist() == pytest.approx([62.80, 86.64, 45.20], abs=0.01)
    assert chroma(primaries).tolist() == pytest.approx([25.77, 29.48, 31.32], abs=0.01)


@given(st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3))
def test_saturation_is_that_of_hsv(channels):
    assert float(saturation(torch.tensor(channels))) == pytest.approx(
        colorsys.rgb_to_hsv(*channels)[1], abs=1e-6
    )


def test_shares_leave_ignored_pixels_out():
    masks = torch.tensor([[[0, 0, 2, 255], [2, 2, 255, 2]]], dtype=torch.uint8)
    assert class_shares(masks, 4).tolist() == pytest.approx([2 / 6, 0, 4 / 6, 0])


@pytest.mark.parametrize("masks", [torch.full((1, 2, 2), 255), torch.tensor([[[0, 4]]])])
def test_masks_without_classes_are_refused(masks):
    with pytest.raises(ValueError, match="expected masks"):
        class_shares(masks, 4)


def test_equal_values_share_their_rank():
    assert ranks(torch.tensor([5.0, 1.0, 5.0, 7.0])).tolist() == [2.5, 1.0, 2.5, 4.0]


@given(st.permutations(range(9)), st.permutations(range(9)))
def test_spearman_by_its_formula_for_ranks_without_ties(a, b):
    expected = 1 - 6 * sum((x - y) ** 2 for x, y in zip(a, b)) / (9 * (81 - 1))
    assert float(rank_correlation(torch.tensor(a), torch.tensor(b))) == pytest.approx(expected)
    grown = torch.tensor(a).double().exp()  # any increasing map leaves ranks as they are
    assert float(rank_correlation(grown, torch.tensor(b))) == pytest.approx(expected)


def test_p_against_all_permutations():
    torch.manual_seed(3)
    values, against = torch.rand(2, 6), torch.rand(6)
    found = permutation_test(values, against, draws=20_000)
    everything = torch.stack(
        [rank_correlation(values, against[list(order)]).mean() for order in permutations(range(6))]
    )
    assert found.mean == pytest.approx(float(rank_correlation(values, against).mean()))
    assert found.p == pytest.approx(
        float((everything.abs() >= abs(found.mean) - 1e-12).double().mean()), abs=0.015
    )


def test_copies_of_one_palette_are_no_further_evidence():
    torch.manual_seed(0)
    one, against = torch.rand(1, 12), torch.rand(12)
    assert permutation_test(one.expand(8, 12), against).p == permutation_test(one, against).p


def test_a_perfect_order_is_found_whichever_way_it_runs():
    line = torch.arange(10.0)
    for values in (line, -line):
        found = permutation_test(values[None], line)
        assert abs(found.mean) == pytest.approx(1) and found.p < 0.001


@pytest.mark.parametrize(
    ("values", "against"),
    [
        (torch.rand(4), torch.rand(4)),
        (torch.rand(2, 4), torch.rand(5)),
        (torch.rand(1, 2), torch.rand(2)),
    ],
)
def test_shapes_that_do_not_fit(values, against):
    with pytest.raises(ValueError, match="expected values"):
        permutation_test(values, against)
