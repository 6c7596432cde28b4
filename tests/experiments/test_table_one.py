"""Table 1's command at toy size: every row, its figures against evaluation's own, the record."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch.utils.data import Subset

import gss_lite as gss
from gss_lite.palette import random_palette
from gss_lite.training.run import Job
from notebooks.experiments import table_one
from notebooks.experiments.runner import picture_names, subset, without_broken
from notebooks.experiments.table_one import PAPER, judge, load_model, miou, table
from notebooks.experiments.table_one_rows import NOISY, ROWS, Budget, build_rows

TINY = gss.get_preset("scenes-tiny")
SHORT = Budget(steps=2, palette_steps=2, joint_steps=2, fit_pictures=4)
QUIET = gss.LoopOptions(progress=False)


def rows_of(model, folder, only, budget=SHORT):
    return list(build_rows(model, Job(TINY, folder, options=QUIET), budget, only))


@pytest.fixture(scope="module")
def record(tiny_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    table_one.main(
        "--preset scenes-tiny --seeds 2 --steps 2 --palette-steps 2 --joint-steps 3 "
        f"--prior-steps 2 --fit-pictures 4 --quiet --weights {tiny_run} --work {folder}/work "
        f"--record {folder}/record.json".split()
    )
    return json.loads((folder / "record.json").read_text())


@pytest.mark.slow
def test_every_row_has_every_column(record):
    rows = record["metrics"]["rows"]
    assert list(rows) == list(ROWS) and set(PAPER) <= set(rows)
    for row in rows.values():
        assert len(row["reconstruction"]) == len(row["final"]) == len(row["seconds"]) == 2
        assert all(0 <= v <= 100 for v in row["reconstruction"] + row["final"])
    trained = {name: (row["x_trained"], row["inverse_trained"]) for name, row in rows.items()}
    assert trained["FF-R"] == trained["FF"] == trained["Gaussian"] == (False, False)
    assert trained["FT"] == trained["FT-W"] == (False, True)
    assert trained["TF"] == (True, False) and trained["TT"] == (True, True)
    assert rows["TF"]["x_parameters"] == 33
    assert rows["FF"]["inverse_parameters"] == 0
    assert rows["Gaussian"]["inverse_parameters"] == 11 * 9


@pytest.mark.slow
def test_gains_carry_an_interval_over_the_pictures(record):
    rows = record["metrics"]["rows"]
    assert list(rows["FF"]["gain"]) == ["FT-W"] and list(rows["FT-W"]["gain"]) == ["FF"]
    assert list(rows["FT"]["gain"]) == ["FF", "FT-W"]
    for column in ("reconstruction", "final"):
        for seed, (low, high) in enumerate(rows["FT"]["gain"]["FF"][column]):
            gain = rows["FT"][column][seed] - rows["FF"][column][seed]
            # few pictures: the whole set's gain need not lie inside, but it is near
            assert low <= high and low - 5 < gain < high + 5
        mirrored = [[-high, -low] for low, high in rows["FF"]["gain"]["FT-W"][column]]
        expected = [pytest.approx(pair, abs=0.01) for pair in mirrored]
        assert rows["FT-W"]["gain"]["FF"][column] == expected


@pytest.mark.slow
def test_the_record_says_how_it_was_made(record):
    command = "python -m notebooks.experiments.table_one --preset scenes-tiny"
    assert record["command"].startswith(command)
    assert record["kind"] == "table one" and record["preset"] == "scenes-tiny"
    assert record["metrics"]["prior_steps"] == 2


@pytest.mark.slow
def test_the_colours_of_the_first_seeds_joint_training(record):
    film = record["metrics"]["rows"]["TT"]["film"]
    assert film["steps"] == [0, 3] and len(film["colors"]) == 2 and len(film["colors"][0]) == 11


@pytest.mark.slow
def test_seeds_change_what_is_random_and_nothing_else(record):
    rows = record["metrics"]["rows"]
    assert rows["FF"]["reconstruction"][0] == rows["FF"]["reconstruction"][1]
    assert rows["FF-R"]["least_distance"][0] != rows["FF-R"]["least_distance"][1]


def test_figures_are_those_of_evaluate(tiny_model, tmp_path):
    dataset = Subset(gss.create_dataset(TINY, "val"), range(3))
    rows = rows_of(tiny_model, tmp_path, ("FF", "FT", "Gaussian"))
    matrices = judge(rows, dataset, batch=2)
    for row in rows:
        model = tiny_model.with_inverse(row.model.inverse)
        expected = gss.evaluate(model, dataset, progress=False)
        for column, answer in (("reconstruction", "reconstruction"), ("final", "prediction")):
            found = miou(matrices, row.name, column)
            assert found == pytest.approx(100 * expected[answer].miou, abs=1e-7)
        assert len(matrices[row.name, "final"]) == 3


def test_without_prior_steps_rows_with_other_tokens_have_no_final_figure(tiny_model, tmp_path):
    names = ("FF-R", "TF", "expected code")
    rows = rows_of(tiny_model, tmp_path, names)
    matrices = judge(rows, gss.create_dataset(TINY, "val"))
    empty = [miou(matrices, name, "final") is None for name in names]
    assert empty == [True, True, False]


def test_tuning_a_copy_leaves_the_prior_alone(tiny_model, tmp_path):
    before = {k: v.clone() for k, v in tiny_model.state_dict().items()}
    (row,) = rows_of(tiny_model, tmp_path, ("FF-R",), replace(SHORT, prior_steps=2))
    tuned = row.model.prior.state_dict()
    assert row.model.prior is not tiny_model.prior
    assert any(not torch.equal(v, before["prior." + k]) for k, v in tuned.items())
    assert all(torch.equal(v, before[k]) for k, v in tiny_model.state_dict().items())


def test_another_tokenizer_has_no_prior_and_no_rows_that_need_one(tiny_run, tmp_path):
    model = load_model(replace(TINY, name="other"), tiny_run, "scenes-tiny")
    assert model.prior is None and load_model(TINY, tiny_run, "scenes-tiny").prior is not None
    names = ("FF-R", "FF", "FT, clean", *NOISY, "code table")
    rows = rows_of(model, tmp_path, names, replace(SHORT, prior_steps=2))
    assert [row.name for row in rows] == ["FF-R", "FF", "FT, clean", "code table"]
    matrices = judge(rows, gss.create_dataset(TINY, "val"))
    for row in rows:
        assert miou(matrices, row.name, "final") is None
        assert miou(matrices, row.name, "reconstruction") > 0


def test_a_tokenizer_alone_gets_many_classes(tiny_run, monkeypatch):
    # the real ones take seconds
    monkeypatch.setattr(gss, "max_min_palette", lambda classes: random_palette(classes, 0))
    monkeypatch.setattr(table_one, "by_neighbours", lambda palette, masks, seed: palette)
    data = replace(TINY.data, name="many-scenes", num_classes=150, train_pictures=3)
    preset = replace(TINY, data=data, palette=None, prior=None)
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
    assert "81.00 ± 1.41" in lines[1] and "15.0 " in lines[1] and " 1.5 " in lines[1]
    assert lines[1].endswith("86.10") and "1234" in lines[1]
    assert "70.50 ± 0.71" in lines[2] and lines[2].endswith("–")


def test_the_corrupt_frame_is_left_out_and_the_others_keep_their_names(camvid):
    dataset = gss.create_dataset("camvid", "test", folder=camvid)
    whole = without_broken(dataset)
    names = picture_names(whole)
    assert len(names) == 232 and "Seq05VD_f02610" not in names
    assert picture_names(subset(whole, 3)) == [names[0], names[116], names[231]]
    streets = gss.create_dataset("scenes-tiny", "test")
    assert without_broken(streets) is streets
