"""Every experiment's command at toy size: it runs, and its record says what it found and how."""

from __future__ import annotations

import importlib
import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

import gss_lite as gss
from gss_lite.data import load_masks
from gss_lite.evaluation import evaluate_palette
from gss_lite.palette import random_palette
from gss_lite.palette.statistics import class_shares
from gss_lite.plotting_maps import record_panels
from notebooks.experiments import (
    checkerboard,
    data_hunger,
    inverse_noise,
    inverse_robustness,
    joint_collapse,
    palette_ablation,
    prior_ablation,
    seeds,
    tokenizer_grid,
    twin_comparison,
)

CELL = tokenizer_grid.Cell("scenes", "maskige", 8, 16)


@dataclass
class Toy:
    """A command at toy size, what its record must say, and module values that are made small."""

    arguments: str
    check: Callable[[dict, Path, str], None]
    preset: str = "scenes-tiny"
    kind: str = ""
    patch: dict = field(default_factory=dict)


def codebook_usage_record(record, path, printed):
    first, second = record["metrics"]["runs"]
    assert record["steps"] == 2
    assert len(first["usage"]) == len(first["perplexity"]) == 2
    assert (first["seed"], second["seed"]) == (0, 1)
    assert first["perplexity"] != second["perplexity"]
    assert record["metrics"]["held_out_tokens"] == 2 * 24 * 32
    assert "seed 1: held-out masks: usage" in printed


def gumbel_record(record, path, printed):
    variants = record["metrics"]["variants"]
    assert len(variants) == 5 and record["steps"] == 2
    assert all(0 <= found["miou"] <= 1 and found["log"] == [] for found in variants.values())
    assert all(name in printed for name in variants)


def generic_record(record, path, printed):
    metrics = record["metrics"]
    sizes = (metrics["pictures"], metrics["height"], metrics["width"], metrics["stride"])
    assert sizes == (3, 96, 128, 4)
    assert list(metrics["palettes"]) == [
        "greedy",
        "max-min",
        "max-min, assigned",
        *(f"random {seed}" for seed in range(5)),
    ]
    tokenizer = gss.create_tokenizer("generic-s4", pretrained=True)
    masks = load_masks("scenes", "test", 3)
    expected = evaluate_palette(random_palette(11, 2), tokenizer, masks).scores
    assert metrics["palettes"]["random 2"]["miou"] == pytest.approx(expected.miou)
    assert metrics["palettes"]["max-min, assigned"]["miou"] > 0.8
    assert "random 4" in printed


def palette_record(record, path, printed):
    rows = record["metrics"]["rows"]
    assert {
        "arithmetic",
        "misaligned",
        "random additive",
        "refined",
        "random",
        "learned",
        "max-min RGB, assigned",
        "max-min RGB",
        "max-min OKLab",
    } <= rows.keys()
    assert record["metrics"]["classes"] == 11
    learned = gss.Palette.load(path.parent / "palettes" / "learned-scenes.json")
    words = shlex.split(record["command"])
    folder = Path(words[words.index("--tokenizer") + 1]).parent
    tokenizer = gss.create_tokenizer("scenes-tiny", pretrained=folder)
    again = evaluate_palette(learned, tokenizer, load_masks("scenes", "val", 2))
    assert rows["learned"]["miou"] == [pytest.approx(100 * again.scores.miou, abs=1e-3)]
    assert palette_ablation.table(rows) in printed


def joint_record(record, path, printed):
    rows = record["metrics"]["rows"]
    assert list(rows) == ["TF", "TF, weight 50", "TT", "TT, weight 50"]
    assert [row["weight"] for row in rows.values()] == [0, 50, 0, 50]
    assert len({json.dumps(row["start"]) for row in rows.values()}) == 1  # one start for all
    for row in rows.values():
        end = row["end"][0]
        assert 0 <= end["miou"] <= 100 and end["least"] <= end["mean"]
        # TF's own X⁻¹ is the nearest colour
        assert row["variant"] == "TT" or end["miou"] == end["nearest"]
    assert joint_collapse.table(rows) in printed


def learned_record(record, path, printed):
    found = record["metrics"]
    assert record["steps"] == 2
    assert (found["classes"], found["seeds"], found["pictures"]) == (11, 2, 2)
    start, learned = torch.tensor(found["start"]), torch.tensor(found["learned"])
    assert start.shape == learned.shape == (2, 11, 3) and len(found["loss"]) == 2
    for seed in range(2):
        assert torch.allclose(start[seed], 255 * random_palette(11, seed).colors, atol=0.06)
        assert float((learned[seed] - start[seed]).abs().max()) > 0.1
    assert float(learned.min()) >= 0 and float(learned.max()) <= 255
    shares = class_shares(load_masks("scenes", "train", 2), 11)
    assert found["shares"] == pytest.approx(shares.tolist(), abs=1e-6)


def grid_record(record, path, printed):
    metrics = record["metrics"]
    (cell,) = metrics["cells"]
    assert record["steps"] == 2 and metrics["held_out"] == 2
    assert (cell["data"], cell["design"], cell["stride"], cell["codes"]) == (
        "scenes",
        "maskige",
        8,
        16,
    )
    assert tokenizer_grid.table(metrics["cells"]) in printed


def prior_record(record, path, printed):
    cells = record["metrics"]["cells"]
    assert list(cells) == [prior_ablation.CELLS[0].name] and record["metrics"]["seeds"] == 1
    assert prior_ablation.table(cells) in printed


def robustness_record(record, path, printed):
    metrics = record["metrics"]
    rows = metrics["rows"]
    assert metrics["pictures"] == 2
    assert metrics["sigmas"] == list(inverse_robustness.SIGMAS)
    for row in rows.values():
        assert all(len(row[key]) == 2 for key in ("pixels", "tokens", "rim", "final", "final rim"))
    assert rows["FF"]["rim"][0] == rows["FF"]["rim"][1]
    assert rows["FT"]["pixels"][0] != rows["FT"]["pixels"][1]
    assert inverse_robustness.table(rows, "tokens", inverse_robustness.RATES) in printed


def noise_record(record, path, printed):
    metrics = record["metrics"]
    rows = metrics["rows"]
    noises = ("noisy", "middle", "clean")
    assert list(rows) == ["FF", *(f"{x}, {noise}" for x in ("FT", "FT-W") for noise in noises)]
    assert rows["FF"]["final"][0] == rows["FF"]["final"][1]  # one prior for both seeds
    assert rows["FT, middle"]["final"][0] != rows["FT, middle"]["final"][1]
    assert set(rows["FT, middle"]["gain"]) == {"FT, clean", "FT, noisy"}
    assert set(metrics["wrong_pixels"]) == {*noises, "test"} and len(metrics["priors"]) == 1
    assert inverse_noise.table(rows) in printed


def twin_record(record, path, printed):
    metrics = record["metrics"]
    assert metrics["prior_sha256"]
    assert metrics["twin"]["steps"] == gss.get_preset("scenes-tiny").schedule("prior").steps
    assert twin_comparison.table(metrics["rows"]) in printed and "GSS-FT-W" in printed
    assert f"{100 * metrics['rows']['twin, views']['miou']:.1f}" in printed


def seeds_record(record, path, printed):
    metrics = record["metrics"]
    assert metrics["seeds"] == [0, 0] and metrics["pictures"] == sum(metrics["frames_of_drives"])
    assert [set(training) for training in metrics["trainings"]] == [{"prior", "twin"}] * 2
    for row in metrics["rows"].values():
        assert row["miou"][0] == row["miou"][1] == row["mean"] and row["deviation"] == 0
    assert seeds.table(metrics["rows"]) in printed


def example_record(record, path, printed):
    assert record["panels"][0] == "frame" and len(record["jpeg_base64"]) > 1000
    assert "CC BY-NC 4.0" in record["credit"]
    doubt = record["doubt"]
    assert doubt["wrong"] == pytest.approx(1 - record["metrics"]["aacc"], abs=1e-5)
    assert doubt["wrong_in_surest_half"] < doubt["wrong"]
    shapes = {tuple(panel.shape) for panel in record_panels(doubt).values()}
    assert shapes == {(3, 180, 240)}


def answers_record(record, path, printed):
    metrics = record["metrics"]
    miou = metrics["miou"]
    assert metrics["pictures"] == sum(metrics["frames_of_drives"]) == 12
    assert list(miou) == ["prediction", "GSS-FF", "GSS-FT-W", "auxiliary head"]
    assert len(metrics["pairs"]) == 3
    for row in metrics["pairs"]:
        assert row["difference"] == pytest.approx(miou[row["high"]] - miou[row["low"]], abs=2e-3)
        assert len(row["by_drive"]) == len(metrics["frames_of_drives"]) == 2
        assert row["blocks"][0] <= row["blocks"][1]
    assert "GSS-FT-W − auxiliary head" in printed


def checkerboard_record(record, path, printed):
    metrics = record["metrics"]
    assert (metrics["pictures"], metrics["held_out"], record["steps"]) == (2, 3, 2)
    assert list(metrics["seeds"]) == ["0", "1"] and metrics["parameters"] > 0
    for result in metrics["seeds"].values():
        assert set(result["tokens"]) == set(checkerboard.SOURCES)
        assert result["saved"]["all"] == pytest.approx(result["saved"]["white"] / 2, abs=1e-4)
    assert checkerboard.nats_table(metrics["seeds"]) in printed
    assert checkerboard.mask_table(metrics["seeds"]) in printed


def hunger_record(record, path, printed):
    metrics = record["metrics"]
    assert list(metrics["rows"]) == ["2"] and record["steps"] == 2 and metrics["held_out"] == 2
    result = metrics["rows"]["2"]["0"]
    assert set(result["held_out"]) == {"GSS-FF", "expected codes", "auxiliary head", "twin"}
    assert 0 <= result["train"]["GSS-FF"]["token_accuracy"] <= 1
    assert 0 <= result["train"]["twin"]["pixel_accuracy"] <= 1
    assert data_hunger.table(metrics["rows"]) in printed


TOYS = {
    "codebook_usage": Toy(
        "--seeds 2 --steps 2",
        codebook_usage_record,
        "scenes-cpu",
        patch={"PICTURES": 4, "HELD_OUT": 2},
    ),
    "gumbel_tokenizer": Toy(
        "--steps 2 --pictures 2 --held-out 1", gumbel_record, "scenes-cpu", patch={"BATCH": 2}
    ),
    "generic_tokenizer": Toy("--data scenes --pictures 3", generic_record, "generic-s4"),
    "palette_ablation": Toy(
        "--tokenizer {tiny}/scenes-tiny.vqvae.safetensors --data scenes --seeds 1 --pictures 2 "
        "--fit-pictures 2 --trials 2 --steps 2",
        palette_record,
    ),
    "joint_collapse": Toy(
        "--seeds 1 --steps 1 --weights 0 50 --pictures 2 --held-out 2", joint_record, "generic-s4"
    ),
    "learned_colors": Toy(
        "--data scenes --seeds 2 --steps 2 --pictures 2", learned_record, "generic-s4"
    ),
    "tokenizer_grid": Toy(
        "--steps 2 --pictures 4 --held-out 2 --width 8 --work {folder}",
        grid_record,
        "scenes-cpu",
        patch={"CELLS": (CELL,)},
    ),
    "prior_ablation": Toy(
        "--preset scenes-tiny --weights {tiny} --cells 1 --steps 2 --pictures 2 --judged 1 "
        "--work {folder}",
        prior_record,
    ),
    "checkerboard": Toy(
        "--preset scenes-tiny --weights {tiny} --seeds 2 --steps 2 --pictures 2 --held-out 3 "
        "--work {folder}",
        checkerboard_record,
    ),
    "data_hunger": Toy(
        "--preset scenes-tiny --weights {tiny} --streets 2 --end-seeds 1 --steps 2 --held-out 2 "
        "--work {folder}",
        hunger_record,
    ),
    "inverse_robustness": Toy(
        "--preset scenes-tiny --weights {tiny} --work {table_one_work} --seeds 2 --pictures 2 "
        "--fit-pictures 2",
        robustness_record,
        patch={"SIGMAS": (0.0, 0.1), "RATES": (0.0, 0.1)},
    ),
    "inverse_noise": Toy(
        "--preset scenes-tiny --weights {middle_run} --seeds 2 --steps 2 --pictures 2 "
        "--work {folder}",
        noise_record,
        patch={"COUNTED": 2},
    ),
    "twin_comparison": Toy(
        "--preset scenes-tiny --weights {twin_run} --twin {twin_run} --pictures 2", twin_record
    ),
    "seeds": Toy("--preset scenes-tiny --matrices {twin_matrices} {twin_matrices}", seeds_record),
    "camvid_example": Toy("--data {camvid}", example_record, "camvid", "one frame"),
    "camvid_answers": Toy("--data {camvid} --pictures 12", answers_record, "camvid"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TOYS)
def test_the_command_leaves_its_record(name, request, tmp_path, monkeypatch, capsys):
    toy = TOYS[name]
    module = importlib.import_module(f"notebooks.experiments.{name}")
    for value in toy.patch:
        monkeypatch.setattr(module, value, toy.patch[value])
    places = {"tiny": "tiny_run", "camvid": "camvid"}
    places |= {place: place for place in ("table_one_work", "middle_run", "twin_run")}
    places["twin_matrices"] = "twin_matrices"
    places = {
        word: str(request.getfixturevalue(fixture))
        for word, fixture in places.items()
        if f"{{{word}}}" in toy.arguments
    }
    path = tmp_path / "record.json"
    arguments = shlex.split(toy.arguments.format(folder=tmp_path / "work", **places))
    module.main([*arguments, "--quiet", "--record", str(path)])
    record = json.loads(path.read_text())
    printed = capsys.readouterr().out
    assert record["kind"] == (toy.kind or name.replace("_", " "))
    assert record["preset"] == toy.preset
    line = ["python", "-m", f"notebooks.experiments.{name}", *arguments]
    assert record["command"] == shlex.join([*line, "--quiet", "--record", str(path)])
    assert str(path) in printed
    toy.check(record, path, printed)


@pytest.mark.parametrize("name", [name for name in TOYS if "--seeds" in TOYS[name].arguments])
def test_there_is_at_least_one_seed(name, capsys):
    parser = importlib.import_module(f"notebooks.experiments.{name}").parser()
    with pytest.raises(SystemExit):
        parser.parse_args(["--seeds", "0"])
    assert "--seeds: must be a whole number, 1 or more; got '0'" in capsys.readouterr().err


def test_a_record_that_cannot_be_written_is_noticed_before_the_work(tmp_path, monkeypatch):
    module = importlib.import_module("notebooks.experiments.joint_collapse")
    monkeypatch.setattr(module, "load_masks", None)  # would raise if it were called
    with pytest.raises(OSError, match="is a folder; name a file to write to"):
        module.main(["--record", str(tmp_path)])
