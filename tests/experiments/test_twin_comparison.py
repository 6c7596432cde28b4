"""GSS beside its twin: the figures are `evaluate`'s, the intervals are those of the differences."""

from __future__ import annotations

import pytest
import torch

import gss_lite as gss
from gss_lite.metrics import scores_from_confusion
from notebooks.experiments import twin_comparison

TINY = gss.get_preset("scenes-tiny")


@pytest.mark.slow
def test_the_figures_are_those_of_evaluate(twin_run):
    dataset = gss.create_dataset(TINY, "test")
    model, windowed = (
        gss.create_model(TINY, pretrained=twin_run, inverse=name) for name in ("ff", "ft-w")
    )
    twin = gss.create_model(TINY, pretrained=twin_run, model="pixel")
    inverses = {"GSS-FF": model.inverse, "GSS-FT-W": windowed.inverse}
    result = twin_comparison.judge(model, inverses, twin, dataset, progress=False)
    rows = twin_comparison.summary(result, [])
    how = {"batch": 1, "progress": False}
    expected = {}
    for suffix, flip in (("", False), (", views", True)):
        for name, one in (("GSS-FF", model), ("GSS-FT-W", windowed)):
            scores = gss.evaluate(one, dataset, flip=flip, **how)
            expected[name + suffix] = scores["prediction"]
            expected["auxiliary head" + suffix] = scores["pixel_head"]
        expected["twin" + suffix] = gss.evaluate(twin, dataset, flip=flip, **how)["prediction"]
    assert rows.keys() == expected.keys()
    for name, scores in expected.items():
        # equal colours are rounded either way
        assert rows[name]["aacc"] == pytest.approx(scores.aacc, abs=1e-3), name


def test_a_difference_lies_in_its_interval_and_the_corrupt_picture_can_be_left_out():
    generator = torch.Generator().manual_seed(0)
    worse, better = torch.zeros(60, 2, 2, dtype=torch.long), torch.zeros(60, 2, 2, dtype=torch.long)
    for matrices, wrong in ((worse, 30), (better, 10)):
        errors = wrong + torch.randint(10, (60,), generator=generator)
        matrices[:, 0, 0], matrices[:, 1, 1], matrices[:, 0, 1] = 100, 100, errors
    better[7, 0] = torch.tensor([0, 10_000])  # the corrupt one
    matrices = {
        "prediction": better,
        "GSS-FF": better,
        "GSS-FF, views": better,
        "twin": worse,
        "twin, views": worse,
    }
    rows = twin_comparison.summary(gss.Evaluation(matrices, 1.0), [7])
    assert rows["GSS-FF"]["without_corrupt_frame"] > rows["GSS-FF"]["miou"] + 0.2
    kept = [i for i in range(60) if i != 7]
    matrices = {"prediction": better[kept], "GSS-FF": better[kept], "twin": worse[kept]}
    rows = twin_comparison.summary(gss.Evaluation(matrices, 1.0), [])
    one, two = (scores_from_confusion(m[kept].sum(0)).miou for m in (worse, better))
    gain = 100 * (two - one)
    low, high = rows["GSS-FF"]["over_twin"]
    assert 0 < low < gain < high < gain + 2 and "over_twin" not in rows["twin"]
