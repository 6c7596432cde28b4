"""Metrics against counts made by hand."""

import json
import math

import pytest
import torch

from gss_lite.metrics import (
    SegmentationMetrics,
    boundary_iou,
    confusion_matrix,
    harmonic_mean,
    paired_bootstrap,
    scores_from_confusion,
)


def test_scores_against_a_hand_count():
    metrics = SegmentationMetrics(3)
    truth = torch.tensor([[[0, 0, 1, 1], [1, 1, 255, 255]]])
    guess = torch.tensor([[[0, 1, 1, 1], [1, 0, 0, 2]]])
    metrics.update(guess, truth)
    scores = metrics.compute()
    # the two pixels of true id 255 count nowhere
    assert scores.iou[:2] == pytest.approx((1 / 3, 3 / 5))
    assert math.isnan(scores.iou[2])
    assert scores.miou == pytest.approx((1 / 3 + 3 / 5) / 2)
    assert scores.macc == pytest.approx((1 / 2 + 3 / 4) / 2)
    assert scores.aacc == pytest.approx(4 / 6)


def test_a_class_only_predicted_counts_as_zero():
    metrics = SegmentationMetrics(2)
    metrics.update(torch.tensor([[[1, 0]]]), torch.tensor([[[0, 0]]]))
    assert metrics.compute().miou == pytest.approx((0.5 + 0) / 2)


def test_batches_add_up():
    truth, guess = torch.randint(0, 4, (6, 5, 7)), torch.randint(0, 4, (6, 5, 7))
    whole, parts = SegmentationMetrics(4), SegmentationMetrics(4)
    whole.update(guess, truth)
    for i in range(6):
        parts.update(guess[i : i + 1], truth[i : i + 1])
    assert whole.compute() == parts.compute()
    parts.reset()
    parts.update(truth, truth)
    assert parts.compute().miou == 1.0


def test_brute_force_iou():
    truth, guess = torch.randint(0, 5, (2, 20, 20)), torch.randint(0, 5, (2, 20, 20))
    metrics = SegmentationMetrics(5)
    metrics.update(guess, truth)
    for k, value in enumerate(metrics.compute().iou):
        assert value == pytest.approx(
            float(((truth == k) & (guess == k)).sum() / ((truth == k) | (guess == k)).sum())
        )


def test_records_hold_no_nan():
    metrics = SegmentationMetrics(3)
    metrics.update(torch.tensor([[[0]]]), torch.tensor([[[0]]]))
    assert json.loads(json.dumps(metrics.compute().as_dict(), allow_nan=False))["iou"] == [
        1.0,
        None,
        None,
    ]


def test_table_names_every_class():
    metrics = SegmentationMetrics(2)
    metrics.update(torch.tensor([[[0, 1]]]), torch.tensor([[[0, 0]]]))
    table = metrics.compute().table(("Road", "Sky"))
    assert "Road" in table and " 50.00" in table
    with pytest.raises(ValueError, match="1 class names for 2"):
        metrics.compute().table(("Road",))


def test_classes_that_the_truth_lacks_are_named_not_scored_in_silence():
    metrics = SegmentationMetrics(4)
    # 1 and 3 nowhere, 2 in the prediction only
    metrics.update(torch.tensor([[[0, 0, 2]]]), torch.tensor([[[0, 0, 0]]]))
    scores, names = metrics.compute(), ("Road", "Sky", "Car", "Pole")
    assert scores.absent == (1, 2, 3) and scores.iou[2] == 0 and math.isnan(scores.iou[1])
    assert scores.miou == pytest.approx((2 / 3 + 0) / 2) and scores.macc == pytest.approx(2 / 3)
    line = "no true pixel of Sky, Car, Pole: not measured (–), but Car predicted, which counts as IoU 0"
    assert scores.absence(names) == line and scores.table(names).splitlines()[-1] == line
    metrics.update(torch.tensor([[[1, 2, 3]]]), torch.tensor([[[1, 2, 3]]]))
    assert (
        metrics.compute().absent == ()
        and metrics.compute().absence(names) == ""
        and len(metrics.compute().table(names).splitlines()) == 5
    )


def test_nothing_labelled_is_an_error_not_a_nan():
    metrics = SegmentationMetrics(3)
    metrics.update(torch.tensor([[[0, 1]]]), torch.tensor([[[255, 255]]]))
    with pytest.raises(
        ValueError, match=r"nothing to score: no pixel was counted, as where every true id is 255"
    ):
        metrics.compute()


def test_different_sizes_are_refused():
    with pytest.raises(ValueError, match="same size"):
        SegmentationMetrics(2).update(torch.zeros(1, 4, 4).long(), torch.zeros(1, 4, 5).long())


@pytest.mark.parametrize(
    "guess, truth, message",
    [
        (3, 0, "the prediction holds id 3; expected 0…2 for 3 classes"),
        (-1, 0, "the prediction holds id -1"),
        (255, 0, "the prediction holds id 255"),
        (0, 3, "the mask holds id 3; expected 0…2 for 3 classes, or 255 for ignored pixels"),
        (0, -1, "the mask holds id -1"),
        (0.5, 0, "the prediction holds torch.float32 values; expected class ids"),
    ],
)
def test_strange_ids_are_refused(guess, truth, message):
    guess, truth = torch.tensor([[[0, guess]]]), torch.tensor([[[2, truth]]])
    metrics = SegmentationMetrics(3)
    with pytest.raises(ValueError, match=message):
        metrics.update(guess, truth)
    with pytest.raises(ValueError, match=message):
        confusion_matrix(guess[0], truth[0], 3)
    metrics.update(
        torch.tensor([[[2, 1]]], dtype=torch.uint8), torch.tensor([[[2, 255]]], dtype=torch.uint8)
    )
    assert metrics.compute().aacc == 1  # and nothing of what was refused has been counted


def test_harmonic_mean_gives_the_papers_figure():
    # Table 6 (paper): GSS-FT-W, Swin-L, prints 61.9 for these six data sets.
    assert harmonic_mean([79.5, 47.7, 75.9, 65.3, 68.0, 49.7]) == pytest.approx(61.9, abs=0.05)
    with pytest.raises(ValueError, match="positive"):
        harmonic_mean([1.0, 0.0])


def rim_pixel_by_pixel(picture, k, width):
    """Cheng et al.'s definition in loops: the pixels of class k near one that is not, or near the picture's edge."""
    height, length = len(picture), len(picture[0])
    near = range(-width, width + 1)
    return {
        (r, c)
        for r in range(height)
        for c in range(length)
        if picture[r][c] == k
        and any(
            not (0 <= r + i < height and 0 <= c + j < length) or picture[r + i][c + j] != k
            for i in near
            for j in near
        )
    }


@pytest.mark.parametrize("width", [1, 2, 3])
def test_boundary_iou_against_brute_force(width):
    torch.manual_seed(width)
    # patches, so that classes have an inside
    mask = torch.randint(0, 4, (2, 4, 5)).repeat_interleave(4, 1).repeat_interleave(4, 2)
    ids = torch.where(
        torch.rand(mask.shape) < 0.05, torch.randint(0, 4, mask.shape), mask.roll(1, 2)
    )
    mask[0, 3:9, 2:7] = 255
    hidden = torch.where(mask == 255, 255, ids)
    for k, value in enumerate(boundary_iou(ids, mask, 4, width)):
        pairs = [
            (rim_pixel_by_pixel(t, k, width), rim_pixel_by_pixel(p, k, width))
            for t, p in zip(mask.tolist(), hidden.tolist())
        ]
        assert 0 < value < 1
        assert float(value) == pytest.approx(
            sum(len(t & p) for t, p in pairs) / sum(len(t | p) for t, p in pairs)
        )


def test_boundary_iou_sees_what_iou_hides():
    mask = torch.zeros(1, 40, 40, dtype=torch.long)
    mask[:, 8:32, 8:32], guess = 1, mask.clone()
    guess[:, 9:31, 9:31] = 1  # one ring of pixels short
    assert float(boundary_iou(guess, mask, 2, 1)[1]) == 0.0
    # Of width 2, the rims hold 4·23 + 4·21 and 4·21 + 4·19 pixels and share one ring of 4·21.
    assert float(boundary_iou(guess, mask, 2, 2)[1]) == pytest.approx(84 / (92 + 84 + 76))
    metrics = SegmentationMetrics(2)
    metrics.update(guess, mask)
    assert metrics.compute().iou[1] == pytest.approx(22**2 / 24**2)
    # nothing but rim
    assert float(boundary_iou(guess, mask, 2, 12)[1]) == pytest.approx(22**2 / 24**2)


def test_boundary_iou_counts_no_ignored_pixel_and_leaves_absent_classes_out():
    mask = torch.zeros(1, 8, 8, dtype=torch.long)
    mask[:, :, 5:] = 255
    guess = mask.clone()
    guess[:, :, 5:] = 1
    values = boundary_iou(guess, mask, 3, 1)
    assert float(values[0]) == 1.0 and bool(values[1:].isnan().all())


@pytest.mark.parametrize(
    "width, guess, message",
    [
        (0, torch.zeros(1, 4, 4).long(), "at least 1 pixel wide; got 0"),
        (1, torch.full((1, 4, 4), 3), "the prediction holds id 3"),
        (1, torch.zeros(1, 4, 5).long(), "same size"),
    ],
)
def test_boundary_iou_refuses(width, guess, message):
    with pytest.raises(ValueError, match=message):
        boundary_iou(guess, torch.zeros(1, 4, 4).long(), 3, width)


def test_paired_bootstrap_against_one_by_hand():
    generator = torch.Generator().manual_seed(3)
    one = torch.randint(1, 50, (12, 3, 3), generator=generator)
    other = one + 20 * torch.eye(3).long()
    picked = torch.randint(12, (200, 12), generator=torch.Generator().manual_seed(7))
    gains = torch.tensor(
        [
            scores_from_confusion(other[p].sum(0)).miou - scores_from_confusion(one[p].sum(0)).miou
            for p in picked
        ],
        dtype=torch.float64,
    )
    expected = torch.quantile(gains, torch.tensor([0.025, 0.975], dtype=torch.float64))
    assert paired_bootstrap(one, other, draws=200, seed=7) == pytest.approx(
        expected.tolist(), abs=1e-12
    )
    assert 0 < paired_bootstrap(one, other)[0] < paired_bootstrap(one, other)[1]


def test_paired_bootstrap_of_equals_is_zero_whatever_the_pictures_are():
    counts = torch.randint(1, 50, (5, 4, 4), generator=torch.Generator().manual_seed(0))
    assert paired_bootstrap(counts, counts) == (0.0, 0.0)
    with pytest.raises(ValueError, match="one shape"):
        paired_bootstrap(counts, counts[:4])
