"""The comparison of GSS's answers with the discriminative twin's: the figures are those of `evaluate`, the intervals those of the differences."""

import json
import shutil

import pytest
import torch

from gss_lite.baselines.pixel import load_twin
from gss_lite.data import dataset_for
from gss_lite.data.transforms import eval_transform
from gss_lite.evaluation import Evaluation, evaluate, evaluate_pixel, view_of
from gss_lite.factory import load_gss, with_inverse
from gss_lite.metrics import scores_from_confusion
from gss_lite.presets import get_preset
from gss_lite.storage import weights_hash
from gss_lite.training.inverse import train_inverse
from gss_lite.training.prior import train_pixel
from notebooks.experiments import twin_comparison

TINY = get_preset("scenes-tiny")


@pytest.fixture(scope="module")
def folder(tiny_run, tmp_path_factory):
    """The tiny model, its FT-W and its twin."""
    folder = tmp_path_factory.mktemp("twin")
    shutil.copytree(tiny_run, folder, dirs_exist_ok=True)
    train_inverse(TINY, folder, "ft-w", gss=load_gss(TINY, folder), progress=False)
    train_pixel(TINY, folder, progress=False, command="test")
    return folder


def test_the_figures_are_those_of_evaluate(folder, tmp_path, capsys):
    path = tmp_path / "record.json"
    twin_comparison.main(
        [
            "--preset",
            "scenes-tiny",
            "--weights",
            str(folder),
            "--twin",
            str(folder),
            "--record",
            str(path),
        ]
    )
    record = json.loads(path.read_text())
    rows, dataset, view = (
        record["metrics"]["rows"],
        dataset_for(TINY, "test", transform=eval_transform()),
        view_of(flip=True),
    )
    gss, twin = load_gss(TINY, folder), load_twin(TINY, folder)
    expected = {}
    for name, model in (("GSS-FF", gss), ("GSS-FT-W", with_inverse(gss, TINY, "ft-w", folder)[0])):
        for suffix, seen in (("", None), (", views", view)):
            scores = evaluate(
                model, dataset, view=seen, soft=True, batch=1, progress=False
            ).scores()
            expected[name + suffix], expected["auxiliary head" + suffix] = (
                scores["prediction"],
                scores["pixel_head"],
            )
            expected["twin" + suffix] = evaluate_pixel(
                twin, dataset, view=seen, batch=1, progress=False
            ).scores()["prediction"]
    assert rows.keys() == expected.keys()
    for name, scores in expected.items():
        # equal colours are rounded either way
        assert rows[name]["aacc"] == pytest.approx(scores.aacc, abs=1e-3), name
    assert (
        record["metrics"]["prior_sha256"] == weights_hash(gss.prior)
        and record["metrics"]["twin"]["steps"] == TINY.prior.steps
    )
    assert record["command"].startswith(
        "python -m notebooks.experiments.twin_comparison --preset scenes-tiny"
    )
    printed = capsys.readouterr().out
    assert "GSS-FT-W" in printed and f"{100 * rows['twin, views']['miou']:.1f}" in printed


def test_a_difference_lies_in_its_interval_and_the_corrupt_picture_can_be_left_out():
    generator = torch.Generator().manual_seed(0)
    worse, better = torch.zeros(60, 2, 2, dtype=torch.long), torch.zeros(60, 2, 2, dtype=torch.long)
    for matrices, wrong in ((worse, 30), (better, 10)):
        errors = wrong + torch.randint(10, (60,), generator=generator)
        matrices[:, 0, 0], matrices[:, 1, 1], matrices[:, 0, 1] = 100, 100, errors
    better[7, 0] = torch.tensor([0, 10_000])  # the corrupt one
    rows = twin_comparison.summary(
        Evaluation(
            {
                "prediction": better,
                "GSS-FF": better,
                "GSS-FF, views": better,
                "twin": worse,
                "twin, views": worse,
            },
            1.0,
        ),
        [7],
    )
    assert rows["GSS-FF"]["without_corrupt_frame"] > rows["GSS-FF"]["miou"] + 0.2
    kept = [i for i in range(60) if i != 7]
    rows = twin_comparison.summary(
        Evaluation({"prediction": better[kept], "GSS-FF": better[kept], "twin": worse[kept]}, 1.0),
        [],
    )
    gain = 100 * (
        scores_from_confusion(better[kept].sum(0)).miou
        - scores_from_confusion(worse[kept].sum(0)).miou
    )
    low, high = rows["GSS-FF"]["over_twin"]
    assert 0 < low < gain < high < gain + 2 and "over_twin" not in rows["twin"]
