"""What is measured of damaged maskige, against evaluation's own figures."""

from __future__ import annotations

import pytest
import torch

import gss_lite as gss
from gss_lite.metrics import boundary_iou
from notebooks.experiments.inverse_robustness import (
    RATES,
    SIGMAS,
    border_iou,
    examine,
    readers,
    table,
)

TINY = gss.get_preset("scenes-tiny")


def test_undamaged_figures_are_those_of_evaluate(tiny_model, table_one_work):
    dataset = gss.create_dataset(TINY, "val")
    inverses = readers(tiny_model, TINY, table_one_work / "seed-0", fit_pictures=2)
    assert list(inverses) == [
        "FF",
        "FT, clean",
        "FT",
        "FT-W, clean",
        "FT-W",
        "Gaussian",
        "Gaussian, noisy",
    ]
    assert isinstance(inverses["FF"], gss.NearestColor)
    some = {name: inverses[name] for name in ("FF", "FT", "Gaussian")}
    for name, figures in examine(some, tiny_model, dataset).items():
        model = tiny_model.with_inverse(some[name])
        expected = gss.evaluate(model, dataset, progress=False).scores()
        undamaged = pytest.approx(100 * expected["reconstruction"].miou)
        assert figures["pixels"][0] == figures["tokens"][0] == undamaged
        assert figures["final"] == pytest.approx(100 * expected["prediction"].miou)
        assert len(figures["pixels"]) == len(SIGMAS) and len(figures["tokens"]) == len(RATES)


def test_border_iou_is_the_mean_over_classes_that_occur():
    ids, mask = torch.zeros(1, 6, 6, dtype=torch.long), torch.zeros(1, 6, 6, dtype=torch.long)
    ids[:, :, 3:], mask[:, :, 2:] = 1, 1
    values = boundary_iou(ids, mask, 3, 1)
    mean = 100 * float(values[:2].mean())
    assert torch.isnan(values[2]) and border_iou(ids, mask, 3) == pytest.approx(mean)


def test_the_table_shows_means_and_the_last_spread():
    rows = {"FF": {"pixels": [[90.0, 50.0], [92.0, 54.0]]}}
    first, second = table(rows, "pixels", (0.0, 0.1)).splitlines()
    assert first.split() == ["pixels", "0.00", "0.10"]
    assert second.split() == ["FF", "91.0", "52.0", "±", "2.8"]
