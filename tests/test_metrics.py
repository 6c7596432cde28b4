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


def test_rows_of_the_confusion_matrix_are_true_and_columns_predicted():
    truth = torch.tensor([[0, 0, 0, 1], [2, 2, 255, 255]])
    guess = torch.tensor([[0, 1, 1, 1], [0, 2, 0, 1]])
    expected = [[1, 2, 0], [0, 1, 0], [1, 0, 1]]
    assert confusion_matrix(guess, truth, 3).tolist() == expected
    as_bytes = confusion_matrix(guess.to(torch.uint8), truth.to(torch.uint8), 3)
    assert as_bytes.tolist() == expected
    metrics = SegmentationMetrics(3)
    metrics.update(guess[None], truth[None])
    assert metrics.compute() == scores_from_confusion(torch.tensor(expected))


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


def test_records_keep_six_digits():
    metrics = SegmentationMetrics(2)
    metrics.update(torch.tensor([[[0, 0, 1, 1, 1, 1, 1]]]), torch.tensor([[[0, 1, 1, 1, 1, 1, 1]]]))
    assert metrics.compute().as_dict() == {
        "miou": 0.666667,  # of 1/2 and 5/6
        "macc": 0.916667,  # of 1 and 5/6
        "aacc": 0.857143,  # 6/7
        "iou": [0.5, 0.833333],
        "recall": [1.0, 0.833333],
    }


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
    line = (
        "no true pixel of Sky, Car, Pole: not measured (–), "
        "but Car predicted, which counts as IoU 0"
    )
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
    assert harmonic_mean(torch.tensor([1.0, 3.0])) == pytest.approx(1.5)
    with pytest.raises(ValueError, match="positive"):
        harmonic_mean([1.0, 0.0])


def boundary_pixel_by_pixel(picture, k, width):
    """Cheng et al.'s definition in loops: pixels of class k near one that is not, or the edge."""
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
            (boundary_pixel_by_pixel(t, k, width), boundary_pixel_by_pixel(p, k, width))
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
    # Of width 2, the boundaries hold 4·23 + 4·21 and 4·21 + 4·19 pixels; they share a ring of 4·21.
    assert float(boundary_iou(guess, mask, 2, 2)[1]) == pytest.approx(84 / (92 + 84 + 76))
    metrics = SegmentationMetrics(2)
    metrics.update(guess, mask)
    assert metrics.compute().iou[1] == pytest.approx(22**2 / 24**2)
    # nothing but boundary
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
    assert paired_bootstrap(one, other) == paired_bootstrap(one, other, draws=1000, seed=0, block=1)


def miou_of_both(one, other):
    """Mean IoU of two summed matrices over the classes that have one in both, in plain loops."""
    pairs = []
    for k in range(len(one)):
        values = []
        for matrix in (one.tolist(), other.tolist()):
            union = sum(matrix[k]) + sum(row[k] for row in matrix) - matrix[k][k]
            values.append(matrix[k][k] / union if union else None)
        if None not in values:
            pairs.append(values)
    return [sum(column) / len(pairs) for column in zip(*pairs)]


def test_paired_bootstrap_judges_both_on_the_classes_that_both_have():
    """Class 2 is true in one picture only, and model `one` alone sees it where it is not."""
    one = torch.tensor(
        [[[4, 1, 0], [1, 4, 0], [0, 1, 4]]] + [[[8, 0, 2], [0, 9, 1], [0, 0, 0]]] * 3
    )
    other = torch.tensor(
        [[[4, 1, 0], [1, 4, 0], [0, 1, 4]]] + [[[9, 1, 0], [1, 9, 0], [0, 0, 0]]] * 3
    )
    picked = torch.randint(4, (100, 4), generator=torch.Generator().manual_seed(0))
    without = int((picked != 0).all(1).sum())
    assert 10 < without < 90  # draws with the class and without it
    gains = []
    for numbers in picked:
        first, second = miou_of_both(one[numbers].sum(0), other[numbers].sum(0))
        gains.append(second - first)
    expected = torch.quantile(torch.tensor(gains).double(), torch.tensor([0.025, 0.975]).double())
    low, high = paired_bootstrap(one, other, draws=100)
    assert [low, high] == pytest.approx(expected.tolist(), abs=1e-7)
    # Each over its own classes, `one` would be charged a class of IoU 0 and never be the better.
    own = [
        scores_from_confusion(other[p].sum(0)).miou - scores_from_confusion(one[p].sum(0)).miou
        for p in picked
    ]
    assert low < 0 <= min(own)


@pytest.mark.parametrize(
    "block, groups", [(1, [0] * 4 + [1] * 8), (3, None), (4, [7] * 8 + [2] * 4)]
)
def test_blocks_are_runs_of_consecutive_pictures_within_a_drive(block, groups):
    generator = torch.Generator().manual_seed(3)
    one = torch.randint(1, 50, (12, 3, 3), generator=generator)
    other = one + torch.randint(0, 50, (12, 3, 3), generator=generator) * torch.eye(3).long()
    drives = {}
    for number, group in enumerate(groups or [0] * 12):
        drives.setdefault(group, []).append(number)
    generator = torch.Generator().manual_seed(5)
    sets = [[] for _ in range(50)]
    for group in sorted(drives):
        drive = drives[group]
        starts = torch.randint(
            len(drive), (50, math.ceil(len(drive) / block)), generator=generator
        ).tolist()
        for picked, row in zip(sets, starts):
            runs = [drive[(start + i) % len(drive)] for start in row for i in range(block)]
            picked += runs[: len(drive)]
    gains = []
    for picked in sets:
        assert len(picked) == 12
        first, second = miou_of_both(one[picked].sum(0), other[picked].sum(0))
        gains.append(second - first)
    expected = torch.quantile(torch.tensor(gains).double(), torch.tensor([0.025, 0.975]).double())
    result = paired_bootstrap(one, other, groups=groups, block=block, draws=50, seed=5)
    assert result == pytest.approx(expected.tolist(), abs=1e-6)


def test_a_block_as_long_as_its_drive_always_holds_all_of_it():
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randint(1, 50, (2, 9, 4, 4), generator=generator)
    difference = scores_from_confusion(other.sum(0)).miou - scores_from_confusion(one.sum(0)).miou
    assert paired_bootstrap(one, other, block=9) == pytest.approx([difference] * 2)
    groups = torch.arange(9).tolist()  # drives of one picture
    assert paired_bootstrap(one, other, groups=groups) == pytest.approx([difference] * 2)


def test_frames_that_resemble_their_neighbours_have_a_wider_interval_in_blocks():
    one = torch.tensor([[50, 50], [50, 50]]).repeat(100, 1, 1)
    better = torch.tensor([[60, 40], [40, 60]])
    worse = torch.tensor([[40, 60], [60, 40]])
    other = torch.stack([better if i // 10 % 2 else worse for i in range(100)])
    single = paired_bootstrap(one, other)
    blocks = paired_bootstrap(one, other, block=10)
    # √(10 / 3) = 1.8 times: a block's mean is uniform between the two kinds of runs
    assert 1.5 < (blocks[1] - blocks[0]) / (single[1] - single[0]) < 2.1
    assert single[0] < 0 < single[1]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"block": 0}, r"1 … 5 pictures, the size of a drive; got 0"),
        ({"block": 6}, r"1 … 5 pictures, the size of a drive; got 6"),
        ({"block": 3, "groups": [0, 0, 0, 1, 1]}, r"1 … 2 pictures, the size of a drive; got 3"),
        ({"groups": [0, 1]}, "5 pictures need as many groups; got 2"),
    ],
)
def test_blocks_that_do_not_fit_are_refused(options, message):
    counts = torch.ones(5, 2, 2, dtype=torch.long)
    with pytest.raises(ValueError, match=message):
        paired_bootstrap(counts, counts, **options)


def test_paired_bootstrap_of_equals_is_zero_whatever_the_pictures_are():
    counts = torch.randint(1, 50, (5, 4, 4), generator=torch.Generator().manual_seed(0))
    assert paired_bootstrap(counts, counts) == (0.0, 0.0)
    with pytest.raises(ValueError, match="one shape"):
        paired_bootstrap(counts, counts[:4])
