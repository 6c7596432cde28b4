"""Table 1's command at toy size: every row, its figures against evaluation's own, the record."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch.utils.data import Subset

from gss_lite.data import dataset_for
from gss_lite.data.transforms import eval_transform
from gss_lite.evaluation import evaluate
from gss_lite.factory import load_gss
from gss_lite.gss import graft
from gss_lite.palette.constructions import random_palette
from gss_lite.presets import get_preset
from notebooks.experiments import table_one
from notebooks.experiments.table_one import PAPER, judge, load_model, table
from notebooks.experiments.table_one_rows import NOISY, ROWS, build_rows

TINY = get_preset("scenes-tiny")
SHORT = {"steps": 2, "palette_steps": 2, "joint_steps": 2, "fit_pictures": 4}


@pytest.fixture(scope="module")
def record(tiny_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    arguments = [
        "--preset",
        "scenes-tiny",
        "--weights",
        str(tiny_run),
        "--seeds",
        "2",
        "--steps",
        "2",
        "--palette-steps",
        "2",
        "--joint-steps",
        "3",
        "--prior-steps",
        "2",
        "--fit-pictures",
        "4",
        "--work",
        str(folder / "work"),
        "--record",
        str(folder / "record.json"),
    ]
    table_one.main(arguments)
    return json.loads((folder / "record.json").read_text())


def test_every_row_has_every_column(record):
    rows = record["metrics"]["rows"]
    assert list(rows) == list(ROWS) and set(PAPER) <= set(rows)
    for name, row in rows.items():
        assert len(row["reconstruction"]) == len(row["final"]) == len(row["seconds"]) == 2
        assert all(0 <= v <= 100 for v in row["reconstruction"] + row["final"])
    trained = {name: (row["x_trained"], row["inverse_trained"]) for name, row in rows.items()}
    assert trained["FF-R"] == trained["FF"] == trained["Gaussian"] == (False, False)
    assert (
        trained["FT"] == trained["FT-W"] == (False, True)
        and trained["TF"] == (True, False)
        and trained["TT"] == (True, True)
    )
    assert (
        rows["TF"]["x_parameters"] == 33
        and rows["FF"]["inverse_parameters"] == 0
        and rows["Gaussian"]["inverse_parameters"] == 11 * 9
    )


def test_gains_carry_an_interval_over_the_pictures(record):
    rows = record["metrics"]["rows"]
    assert (
        list(rows["FF"]["gain"]) == ["FT-W"]
        and list(rows["FT-W"]["gain"]) == ["FF"]
        and list(rows["FT"]["gain"]) == ["FF", "FT-W"]
    )
    for column in ("reconstruction", "final"):
        for seed, (low, high) in enumerate(rows["FT"]["gain"]["FF"][column]):
            gain = rows["FT"][column][seed] - rows["FF"][column][seed]
            # few pictures: the whole set's gain need not lie inside, but it is near
            assert low <= high and low - 5 < gain < high + 5
        mirrored = [[-high, -low] for low, high in rows["FF"]["gain"]["FT-W"][column]]
        assert rows["FT-W"]["gain"]["FF"][column] == [
            pytest.approx(pair, abs=0.01) for pair in mirrored
        ]


def test_the_record_says_how_it_was_made(record):
    assert record["command"].startswith(
        "python -m notebooks.experiments.table_one --preset scenes-tiny"
    )
    assert (
        record["kind"] == "table one"
        and record["preset"] == "scenes-tiny"
        and record["metrics"]["prior_steps"] == 2
    )


def test_the_film_of_the_first_seed(record):
    film = record["metrics"]["rows"]["TT"]["film"]
    assert film["steps"] == [0, 3] and len(film["colors"]) == 2 and len(film["colors"][0]) == 11


def test_seeds_change_what_is_random_and_nothing_else(record):
    rows = record["metrics"]["rows"]
    assert rows["FF"]["reconstruction"][0] == rows["FF"]["reconstruction"][1]
    assert rows["FF-R"]["least_distance"][0] != rows["FF-R"]["least_distance"][1]


def test_figures_are_those_of_evaluate(tiny_run, tmp_path):
    gss = load_gss(TINY, tiny_run)
    dataset = Subset(dataset_for(TINY, "val", transform=eval_transform()), range(3))
    rows = list(build_rows(gss, TINY, tmp_path, only=("FF", "FT, noisy", "Gaussian"), **SHORT))
    scores = judge(rows, gss, dataset, batch=2)
    for row in rows:
        expected = evaluate(graft(gss, row.reading.inverse), dataset, progress=False).scores()
        assert scores[row.name].miou("reconstruction") == pytest.approx(
            expected["reconstruction"].miou, abs=1e-9
        )
        assert scores[row.name].miou("final") == pytest.approx(
            expected["prediction"].miou, abs=1e-9
        )
        assert len(scores[row.name].final) == 3


def test_without_prior_steps_rows_with_other_tokens_have_no_final_figure(tiny_run, tmp_path):
    gss = load_gss(TINY, tiny_run)
    rows = list(build_rows(gss, TINY, tmp_path, only=("FF-R", "TF", "expected code"), **SHORT))
    scores = judge(rows, gss, dataset_for(TINY, "val", transform=eval_transform()))
    assert [scores[name].miou("final") is None for name in ("FF-R", "TF", "expected code")] == [
        True,
        True,
        False,
    ]


def test_tuning_a_copy_leaves_the_prior_alone(tiny_run, tmp_path):
    gss = load_gss(TINY, tiny_run)
    before = {k: v.clone() for k, v in gss.state_dict().items()}
    (row,) = build_rows(gss, TINY, tmp_path, only=("FF-R",), prior_steps=2, **SHORT)
    assert row.prior is not gss.prior
    assert any(not torch.equal(v, before["prior." + k]) for k, v in row.prior.state_dict().items())
    assert all(torch.equal(v, before[k]) for k, v in gss.state_dict().items())


def test_another_tokenizer_has_no_prior_and_no_rows_that_need_one(tiny_run, tmp_path):
    model = load_model(replace(TINY, name="other"), tiny_run, "scenes-tiny")
    assert model.prior is None and load_model(TINY, tiny_run, "scenes-tiny").prior is not None
    rows = list(
        build_rows(
            model,
            TINY,
            tmp_path,
            prior_steps=2,
            only=("FF-R", "FF", "FT", *NOISY, "code table"),
            **SHORT,
        )
    )
    assert [row.name for row in rows] == ["FF-R", "FF", "FT", "code table"]
    scores = judge(rows, model, dataset_for(TINY, "val", transform=eval_transform()))
    assert all(
        result.final is None and result.miou("reconstruction") > 0 for result in scores.values()
    )


def test_a_tokenizer_alone_gets_many_classes(tiny_run, monkeypatch):
    # the real ones take seconds
    monkeypatch.setattr(table_one, "max_min_palette", lambda classes: random_palette(classes, 0))
    monkeypatch.setattr(table_one, "by_neighbours", lambda palette, masks, seed: palette)
    preset = replace(TINY, data="many-scenes", palette="random", prior=None, train_pictures=3)
    model = load_model(preset, tiny_run)
    assert model.prior is None and model.colors.shape == (150, 3)


def test_the_table_shows_mean_spread_and_the_papers_column():
    row = {
        "x_trained": False,
        "inverse_trained": True,
        "x_parameters": 0,
        "inverse_parameters": 1234,
        "reconstruction": [80.0, 82.0],
        "final": [None, None],
        "seconds": [10.0, 20.0],
        "prior_seconds": [0.0, 3.0],
        "paper": 86.1,
    }
    lines = table({"FT": row, "ours": {**row, "final": [70.0, 71.0], "paper": None}}).splitlines()
    assert (
        "81.00 ± 1.41" in lines[1]
        and "15.0 " in lines[1]
        and " 1.5 " in lines[1]
        and lines[1].endswith("86.10")
        and "1234" in lines[1]
    )
    assert "70.50 ± 0.71" in lines[2] and lines[2].endswith("–")
