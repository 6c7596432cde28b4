"""Reliability, and risk against coverage: by hand, by brute force, and for calibrated models."""

import math

import pytest
import torch

from gss_lite.metrics import calibration, risk_coverage


def test_two_bins_by_hand():
    top = torch.tensor([0.9, 0.8, 0.7, 0.6, 1.0])
    probabilities = torch.stack([top, 1 - top])[None, :, None]  # (1, 2, 1, 5): class 0 everywhere
    mask = torch.tensor([[[0, 1, 0, 1, 255]]])
    result = calibration(probabilities, mask, bins=4)  # (0.5, 0.75] and (0.75, 1]
    assert result.share.tolist() == [0, 0, 0.5, 0.5]
    assert result.confidence[2:].tolist() == pytest.approx([0.65, 0.85]) and result.accuracy[
        2:
    ].tolist() == [0.5, 0.5]
    assert result.ece == pytest.approx(0.5 * 0.15 + 0.5 * 0.35)
    assert bool(result.confidence[:2].isnan().all()) and bool(result.accuracy[:2].isnan().all())


def test_brute_force():
    torch.manual_seed(0)
    probabilities, mask = (3 * torch.randn(2, 5, 6, 7)).softmax(1), torch.randint(0, 5, (2, 6, 7))
    mask[0, :2] = 255
    bins, gap, total = [[] for _ in range(10)], 0.0, 0
    for b in range(2):
        for y in range(6):
            for x in range(7):
                if mask[b, y, x] != 255:
                    p = probabilities[b, :, y, x].tolist()
                    bins[math.ceil(max(p) * 10) - 1].append(
                        (max(p), p.index(max(p)) == mask[b, y, x])
                    )
                    total += 1
    for entries in bins:
        if entries:
            gap += abs(sum(c for c, _ in entries) - sum(int(r) for _, r in entries)) / total
    assert calibration(probabilities, mask, 10).ece == pytest.approx(gap, abs=1e-6)


def test_a_model_whose_labels_are_drawn_from_it_is_calibrated_and_a_sharpened_one_is_not():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(1, 6, 200, 200, generator=generator)
    mask = torch.multinomial(logits.softmax(1)[0].flatten(1).T, 1, generator=generator).view(
        1, 200, 200
    )
    honest, sharp = calibration(logits.softmax(1), mask), calibration((3 * logits).softmax(1), mask)
    assert honest.ece < 0.01 and sharp.ece > 0.15
    full = honest.share > 0.02
    # 3 standard errors of 800 pixels
    torch.testing.assert_close(honest.accuracy[full], honest.confidence[full], atol=0.05, rtol=0)
    assert bool((sharp.confidence - sharp.accuracy)[sharp.share > 0.02].gt(0.05).all())


def test_certainty_on_a_border_is_in_the_bin_below_and_one_in_the_last():
    probabilities = torch.tensor([[1.0, 0.0], [0.5, 0.5]]).T[None, :, None]  # confidences 1 and 0.5
    assert calibration(probabilities, torch.zeros(1, 1, 2).long(), 2).share.tolist() == [0.5, 0.5]


def test_there_are_fifteen_bins():
    result = calibration(torch.full((1, 2, 3, 3), 0.5), torch.zeros(1, 3, 3).long())
    assert [len(part) for part in result[:3]] == [15, 15, 15]


def test_risk_falls_with_coverage_where_uncertainty_knows():
    wrong = torch.rand(50, 40, generator=torch.Generator().manual_seed(0)) < 0.2
    rate = float(wrong.float().mean())
    knows = wrong.float() + 0.001 * torch.rand(50, 40)
    assert risk_coverage(knows, wrong, [0.5, 1.0]) == pytest.approx([0.0, rate])
    # all equal: their order plays no role
    assert risk_coverage(torch.zeros(50, 40), wrong, [0.3, 0.7, 1.0]) == pytest.approx([rate] * 3)
    order = torch.randperm(2000, generator=torch.Generator().manual_seed(1)).view(50, 40)
    kept = wrong.flatten()[order.flatten().argsort()[:500]]
    assert risk_coverage(order, wrong, [0.25])[0] == pytest.approx(float(kept.float().mean()))


def test_pixels_of_equal_uncertainty_count_with_the_share_that_is_taken():
    uncertainty = torch.tensor([0.7, 0.2, 0.7, 0.2, 0.9])
    wrong = torch.tensor([True, False, False, True, True])
    # 0.2: one of two wrong; 0.7: one of two; 0.9: one of one
    rates = risk_coverage(uncertainty, wrong, [0.2, 0.4, 0.6, 0.8, 0.9, 1.0])
    expected = [0.5, 1 / 2, 1.5 / 3, 2 / 4, 2.5 / 4.5, 3 / 5]
    assert rates == pytest.approx(expected)
    certain_is_wrong = risk_coverage(-uncertainty, wrong, [0.2, 0.6])
    assert certain_is_wrong == pytest.approx([1.0, 2 / 3])


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda: calibration(torch.ones(1, 2, 3, 3), torch.zeros(1, 3, 3).long()),
            "sum to 1 over the classes",
        ),
        (
            lambda: calibration(torch.ones(1, 1, 3, 3), torch.zeros(1, 3, 4).long()),
            r"got \(1, 1, 3, 3\) and \(1, 3, 4\)",
        ),
        (
            lambda: calibration(torch.ones(1, 1, 3, 3), torch.full((1, 3, 3), 255)),
            "no pixel of the mask is labelled",
        ),
        (
            lambda: calibration(
                torch.tensor([1.2, -0.2]).view(1, 2, 1, 1), torch.zeros(1, 1, 1).long()
            ),
            "must be at least 0",
        ),
        (
            lambda: risk_coverage(torch.zeros(0), torch.zeros(0).bool(), [1.0]),
            "a pixel at least",
        ),
        (
            lambda: risk_coverage(torch.zeros(3), torch.zeros(3).bool(), [0.5, 1.1]),
            r"at most 1; got \[0.5, 1.1\]",
        ),
        (
            lambda: risk_coverage(torch.zeros(3), torch.zeros(4).bool(), [1.0]),
            "must have one shape",
        ),
        (
            lambda: risk_coverage(torch.zeros(3), torch.zeros(3).bool(), [0.0]),
            r"above 0 and at most 1; got \[0.0\]",
        ),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
