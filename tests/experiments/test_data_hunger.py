"""Which trainings data hunger runs, what it measures, and how it goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import gss_lite as gss
from notebooks.experiments import data_hunger


def test_both_ends_have_more_seeds_than_the_middle():
    assert data_hunger.trainings([1600, 100, 400], 2) == [
        (100, 0),
        (400, 0),
        (1600, 0),
        (100, 1),
        (1600, 1),
    ]
    assert data_hunger.trainings([7], 2) == [(7, 0), (7, 1)]


def test_the_scalars_are_means_over_pictures(tiny_gss):
    model = tiny_gss.eval()
    data = [(torch.randn(3, 64, 64), torch.randint(11, (64, 64))) for _ in range(3)]
    found = data_hunger.mean_scalars(model, data)
    image, mask = (torch.stack(parts) for parts in zip(*data))
    with torch.no_grad():
        _, expected = model.losses(image, mask)
    assert found.keys() == {"token", "pixel", "token_accuracy"}
    for name, value in expected.items():
        assert found[name] == pytest.approx(float(value), abs=2e-3), name


@pytest.mark.slow
def test_the_masks_are_judged_as_evaluate_does(twin_run):
    dataset = gss.create_dataset("scenes-tiny", "test")
    model = gss.create_model("scenes-tiny", pretrained=twin_run)
    twin = gss.create_model("scenes-tiny", pretrained=twin_run, model="pixel")
    rows = data_hunger.judge_masks(model, twin, dataset)
    own = gss.evaluate(model, dataset, progress=False)
    expected = {
        "GSS-FF": own.miou,
        "auxiliary head": own["pixel_head"].miou,
        "twin": gss.evaluate(twin, dataset, progress=False).miou,
        "expected codes": gss.evaluate(
            gss.create_model("scenes-tiny", pretrained=twin_run, inverse="expected"),
            dataset,
            progress=False,
        ).miou,
    }
    for name, miou in expected.items():
        # equal colours are rounded either way
        assert rows[name]["miou"] == pytest.approx(100 * miou, abs=0.3), name
    low, high = rows["GSS-FF"]["interval"]
    assert low <= high and "gain" not in rows["twin"]


@pytest.mark.slow
def test_the_record_grows_and_is_taken_up(tiny_run, tmp_path, monkeypatch, capsys):
    path = tmp_path / "record.json"
    command = (
        "--preset scenes-tiny --streets 3 2 --end-seeds 1 --steps 2 --held-out 2 --quiet "
        f"--weights {tiny_run} --work {tmp_path}/work --record {path}".split()
    )
    data_hunger.main(command)
    first = json.loads(path.read_text())["metrics"]["rows"]
    assert list(first) == ["2", "3"] and list(first["2"]) == ["0"]
    card = json.loads(
        Path(tmp_path, "work/2-streets-2-steps-seed-0/scenes-tiny.prior.json").read_text()
    )
    assert card["steps"] == 2

    ran = []
    real = data_hunger.run_one

    def watched(preset, *arguments):
        ran.append((preset.data.train_pictures, preset.seed))
        return real(preset, *arguments)

    monkeypatch.setattr(data_hunger, "run_one", watched)
    command[command.index("--end-seeds") + 1] = "2"
    data_hunger.main(command)
    assert ran == [(2, 1), (3, 1)]
    again = json.loads(path.read_text())["metrics"]["rows"]
    assert again["2"]["0"] == first["2"]["0"] and list(again["3"]) == ["0", "1"]
    assert again["2"]["1"]["train"] != again["2"]["0"]["train"]  # other streets
    capsys.readouterr()

    command[command.index("--held-out") + 1] = "1"  # other settings begin anew
    data_hunger.main(command)
    assert "has other settings; it begins anew" in capsys.readouterr().out
    assert len(ran) == 6
    assert set(json.loads(path.read_text())["metrics"]["rows"]["2"]) == {"0", "1"}
