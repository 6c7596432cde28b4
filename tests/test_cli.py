"""python -m gss_lite: train, evaluate, predict and export, and one clear line for bad input."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from gss_lite import __main__ as cli
from gss_lite import export
from gss_lite.build import SHIPPED, dataset_for, load_gss
from gss_lite.data.transforms import eval_transform
from gss_lite.presets import PRESETS, get_preset
from gss_lite.training.evaluation import evaluate


def test_evaluate_prints_the_table_and_the_record_agrees(tiny_run, tmp_path, capsys):
    path = tmp_path / "record.json"
    assert cli.main(["evaluate", "--preset", "scenes-tiny", "--weights", str(tiny_run), "--record", str(path)]) == 0
    printed = capsys.readouterr().out
    record = json.loads(path.read_text())
    for row, key in [("GSS-FF prediction", "prediction"), ("auxiliary pixel head", "pixel_head")]:
        line = next(line for line in printed.splitlines() if line.startswith(row))
        assert float(line.split()[-3]) == pytest.approx(100 * record["metrics"][key]["miou"], abs=0.006)
    assert "Bicyclist" in printed and record["metrics"]["pictures"] == PRESETS["scenes-tiny"].eval_pictures
    assert record["command"].startswith("python -m gss_lite evaluate --preset scenes-tiny")


def test_evaluation_does_not_depend_on_the_batch(tiny_run):
    preset = get_preset("scenes-tiny")
    gss = load_gss(preset, tiny_run)
    dataset = dataset_for(preset, "test", transform=eval_transform())
    one, four = (evaluate(gss, dataset, batch=b, progress=False).scores()["prediction"] for b in (1, 4))
    assert one.aacc == pytest.approx(four.aacc, abs=1e-3)


def test_leaving_pictures_out_equals_never_having_seen_them(tiny_run):
    preset = get_preset("scenes-tiny")
    gss, dataset = load_gss(preset, tiny_run), dataset_for(preset, "test", transform=eval_transform())
    whole = evaluate(gss, dataset, progress=False)
    part = evaluate(gss, torch.utils.data.Subset(dataset, [0, 1, 3]), batch=1, progress=False)
    assert whole.scores(leave_out=[2])["prediction"].aacc == pytest.approx(part.scores()["prediction"].aacc, abs=1e-3)
    assert whole.scores()["prediction"].aacc != part.scores()["prediction"].aacc


def test_predict_writes_mask_maskige_and_overlay(tiny_run, tmp_path, capsys):
    Image.effect_noise((70, 50), 60).convert("RGB").save(tmp_path / "street.jpg")
    out = tmp_path / "out"
    assert cli.main(["predict", "--preset", "scenes-tiny", "--weights", str(tiny_run), "--out", str(out), str(tmp_path / "street.jpg")]) == 0
    assert sorted(p.name for p in out.iterdir()) == ["street_mask.png", "street_maskige.png", "street_overlay.png"]
    mask = Image.open(out / "street_mask.png")
    assert mask.size == (70, 50) and mask.mode == "P" and np.array(mask).max() < 11
    colour = np.array(mask.convert("RGB"))[0, 0] / 255
    expected = load_gss(get_preset("scenes-tiny"), tiny_run).colors[np.array(mask)[0, 0]]
    assert np.abs(colour - expected.numpy()).max() < 1 / 255
    assert Image.open(out / "street_overlay.png").size == (70, 50)


@pytest.mark.parametrize("arguments, message", [
    (["predict", "--preset", "nonsense", "a.png"], "no preset named 'nonsense'; there are: "),
    (["evaluate", "--preset", "camvid", "--data", "nowhere"], "CamVid was not found in nowhere"),
    (["evaluate", "--preset", "scenes-tiny", "--weights", "nowhere"], "no weights at nowhere"),
])
def test_bad_input_is_one_line_on_standard_error(arguments, message, capsys):
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and "Traceback" not in error


def test_predict_refuses_what_is_not_a_picture(tiny_run, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("hello")
    assert cli.main(["predict", "--preset", "scenes-tiny", "--weights", str(tiny_run), str(tmp_path / "notes.txt")]) == 2
    assert "is not a picture that can be read" in capsys.readouterr().err


def test_export_halves_the_weights_and_keeps_the_record(tiny_run, tmp_path):
    preset = get_preset("scenes-tiny")
    paths = export.export_weights(preset, tiny_run, tmp_path)
    assert [p.name for p in paths] == [f"scenes-tiny.{s}.{e}" for s in ("vqvae", "prior") for e in ("safetensors", "json")]
    assert paths[2].stat().st_size < 0.7 * (tiny_run / paths[2].name).stat().st_size
    card = json.loads(paths[3].read_text())
    assert card["stored_as"] == "float16" and card["bytes"] == paths[2].stat().st_size and card["log"]
    dataset = dataset_for(preset, "test", transform=eval_transform())
    full, half = (evaluate(load_gss(preset, f), dataset, progress=False).scores()["pixel_head"].aacc for f in (tiny_run, tmp_path))
    assert full == pytest.approx(half, abs=0.02)


def test_shipped_weights_are_small_and_have_cards():
    files = sorted(SHIPPED.glob("*.safetensors"))
    assert {f"{p}.{s}.safetensors" for p in ("scenes-cpu", "camvid") for s in ("vqvae", "prior")} <= {f.name for f in files}
    assert sum(f.stat().st_size for f in files) <= 20e6
    for file in files:
        card = json.loads(file.with_suffix(".json").read_text())
        assert card["bytes"] == file.stat().st_size and card["command"].startswith("python -m gss_lite train")
