"""experiments.generic_tokenizer: the record, the palettes measured, the options."""

import json
import shutil
import sys

import pytest

from gss_lite.evaluation import evaluate_palette
from gss_lite.factory import load_tokenizer
from gss_lite.palette.constructions import random_palette
from gss_lite.presets import get_preset
from notebooks.experiments import generic_tokenizer
from notebooks.experiments.palette_ablation import load_masks


def test_the_record_holds_every_palette_and_how_it_was_made(tmp_path, monkeypatch, capsys):
    path = tmp_path / "record.json"
    monkeypatch.setattr(
        sys, "argv", ["x", "--data", "scenes", "--pictures", "3", "--record", str(path)]
    )
    generic_tokenizer.main()
    record = json.loads(path.read_text())
    metrics = record["metrics"]
    assert record["preset"] == "generic-s4" and record["command"].endswith(
        f"--pictures 3 --record {path}"
    )
    assert (metrics["pictures"], metrics["height"], metrics["width"], metrics["stride"]) == (
        3,
        96,
        128,
        4,
    )
    assert list(metrics["palettes"]) == [
        "greedy",
        "max-min",
        "max-min, assigned",
        *(f"random {seed}" for seed in range(5)),
    ]
    expected = evaluate_palette(
        random_palette(11, 2),
        load_tokenizer(get_preset("generic-s4")),
        load_masks("scenes", "test", 3),
    ).scores
    assert metrics["palettes"]["random 2"]["miou"] == pytest.approx(expected.miou)
    assert metrics["palettes"]["max-min, assigned"]["miou"] > 0.8
    assert "random 4" in capsys.readouterr().out


def test_a_tokenizer_made_for_one_palette_is_measured_with_that_palette(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    shipped = str(generic_tokenizer.SHIPPED)
    other = tmp_path / "copy"
    shutil.copytree(shipped, other)
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "x",
            "--preset",
            "scenes-cpu",
            "--weights",
            str(other),
            "--data",
            "scenes",
            "--pictures",
            "2",
            "--record",
            str(path),
        ],
    )
    generic_tokenizer.main()
    record = json.loads(path.read_text())
    palettes = record["metrics"]["palettes"]
    assert (
        next(iter(palettes)) == "own"
        and f"--preset scenes-cpu --weights {other} --data scenes" in record["command"]
    )
    assert palettes["own"]["miou"] > max(palettes[f"random {seed}"]["miou"] for seed in range(5))
    with pytest.raises(ValueError, match="made for the palette of scenes, and --data is camvid"):
        generic_tokenizer.measure("scenes-cpu", "camvid", "test", 2)


def test_scenes_at_camvids_size():
    assert load_masks("scenes-large", "test", 1).shape == (1, 360, 480)
