"""UViM is trained, resumed, evaluated, exported and used for prediction like every other system."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from forks import kill_when, run
from PIL import Image
from safetensors.torch import load_file

from gss_lite.__main__ import main
from gss_lite.baselines.language_model import Autoregressive, OnePass
from gss_lite.data import create_dataset
from gss_lite.evaluation import evaluate
from gss_lite.export import export_weights
from gss_lite.factory import create_model
from gss_lite.metrics import SegmentationMetrics
from gss_lite.presets import ViewSpec, get_preset
from gss_lite.storage import what_it_rests_on
from gss_lite.training import LoopOptions, train

TINY = get_preset("scenes-tiny")
QUIET = LoopOptions(progress=False)
STAGES = ("uvim-base", "uvim-code", "uvim-code-ar")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """All three stages of scenes-tiny; no test may change it."""
    folder = tmp_path_factory.mktemp("uvim")
    for model in ("uvim", "uvim-ar"):
        train(TINY, folder, model=model, options=QUIET, command="test")
    return folder


def test_every_stage_leaves_weights_and_a_record(folder):
    for stage in STAGES:
        record = json.loads((folder / f"scenes-tiny.{stage}.json").read_text())
        assert record["kind"] == f"train {stage}" and record["schedule"]["steps"] == 12
        assert record["parameters"] > 0 and record["log"][-1]["step"] == 12
    names = {"pixel", "pixel_accuracy", "usage", "perplexity"}
    record = json.loads((folder / "scenes-tiny.uvim-base.json").read_text())
    assert all(names <= entry.keys() for entry in record["log"])
    assert not (folder / "scenes-tiny.vqvae.safetensors").exists()


@pytest.mark.parametrize("model, kind", [("uvim", OnePass), ("uvim-ar", Autoregressive)])
def test_the_trained_model_is_put_together(folder, model, kind):
    uvim = create_model(TINY, pretrained=folder, model=model)
    assert type(uvim.language) is kind and not uvim.training
    assert bool(uvim.stage_one.to_pixels.weight.any())  # it began with zeros


@pytest.mark.slow
def test_stage_two_is_refused_on_another_stage_one(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    train(TINY, tmp_path / "other", stage="uvim-base", seed=1, options=QUIET)
    shutil.copy(tmp_path / "other" / "scenes-tiny.uvim-base.safetensors", copy)
    with pytest.raises(ValueError, match="another uvim_base than the one it is used with"):
        create_model(TINY, pretrained=copy, model="uvim")
    with pytest.raises(ValueError, match="another uvim_base"):
        export_weights(TINY, copy, tmp_path / "package")
    assert not (tmp_path / "package").exists()


@pytest.mark.slow
def test_stage_two_can_build_on_the_stage_one_of_another_folder(folder, tmp_path):
    train(TINY, tmp_path, stage="uvim-code", stage_one=folder, options=QUIET)
    name = "scenes-tiny.uvim-base.safetensors"
    assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    ours, theirs = (load_file(f / "scenes-tiny.uvim-code.safetensors") for f in (tmp_path, folder))
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    with pytest.raises(FileNotFoundError, match="no weights at"):
        train(TINY, tmp_path / "empty", stage="uvim-code", options=QUIET)


def test_models_and_stages_belong_together(tmp_path):
    with pytest.raises(ValueError, match="model uvim has no stage 'prior'; it has uvim-base"):
        train(TINY, tmp_path, stage="prior", model="uvim")
    with pytest.raises(ValueError, match="model must be one of gss, pixel, uvim, uvim-ar"):
        train(TINY, tmp_path, model="vim")
    with pytest.raises(ValueError, match="no schedule for stage|has no UViM"):
        train("many-scenes-cpu", tmp_path, model="uvim", options=QUIET)


@pytest.mark.slow
def test_a_killed_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path):
    """kill −9 in the middle of either stage, then started again until it is through."""
    steps = 24
    command = ["train", "--preset", "scenes-tiny", "--model", "uvim-ar", "--save-every", "3"]
    command += ["--steps", str(steps)]
    whole = tmp_path / "whole"
    killed = tmp_path / "killed"
    run([*command, "--out", str(whole)])
    for stage in ("uvim-base", "uvim-code-ar"):
        checkpoint = killed / stage / "checkpoint.pt"
        kill_when(checkpoint.exists, run, [*command, "--out", str(killed)])
        assert 0 < torch.load(checkpoint, weights_only=True)["step"] < steps
    run([*command, "--out", str(killed)])
    for stage in ("uvim-base", "uvim-code-ar"):
        name = f"scenes-tiny.{stage}.safetensors"
        ours, theirs = (load_file(f / name) for f in (killed, whole))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[k], theirs[k]) for k in ours), stage


def test_evaluation_is_the_metrics_of_prediction_and_reconstruction(folder):
    model = create_model(TINY, pretrained=folder, model="uvim-ar")
    dataset = create_dataset(TINY, "test")
    result = evaluate(model, dataset, batch=2, progress=False)
    assert set(result.scores()) == {"prediction", "without_code", "reconstruction"}
    assert "base model with a code of zeros" in result.table()
    metrics = {name: SegmentationMetrics(11) for name in result.scores()}
    for image, mask in dataset:
        for name, scores in model.scores(image[None]).items():
            metrics[name].update(scores.argmax(1), mask[None])
        found, _ = model.reconstruct(image[None], mask[None])
        metrics["reconstruction"].update(found, mask[None])
    for name, metric in metrics.items():
        assert result[name].miou == pytest.approx(metric.compute().miou, abs=2e-3)
    windows = evaluate(model, dataset, view=ViewSpec(window=(32, 32)), progress=False)
    assert "reconstruction" not in windows.scores()  # the oracle's code is one for a whole picture


@pytest.mark.slow
def test_validation_keeps_the_best_language_model(tmp_path, folder):
    run = train(
        TINY,
        tmp_path,
        stage="uvim-code",
        stage_one=folder,
        validate_every=6,
        keep="best",
        options=QUIET,
    )
    assert run.records["uvim-code"]["kept"]["step"] in (6, 12)
    assert set(run.records) == {"uvim-base", "uvim-code"}


def test_the_commands_evaluate_and_predict_with_it(folder, tmp_path, capsys):
    record = tmp_path / "record.json"
    command = ["evaluate", "--preset", "scenes-tiny", "--weights", str(folder)]
    assert main([*command, "--model", "uvim", "--record", str(record)]) == 0
    assert "UViM, one pass prediction" in capsys.readouterr().out
    written = json.loads(record.read_text())
    assert written["kind"] == "evaluate test uvim"
    assert {"prediction", "without_code", "reconstruction"} <= written["metrics"].keys()
    picture = tmp_path / "street.png"
    Image.effect_noise((70, 50), 60).convert("RGB").save(picture)
    out = tmp_path / "out"
    command = ["predict", "--preset", "scenes-tiny", "--weights", str(folder), "--out", str(out)]
    assert main([*command, "--model", "uvim-ar", str(picture)]) == 0
    assert sorted(p.name for p in out.iterdir()) == ["street_mask.png", "street_overlay.png"]
    mask = np.array(Image.open(out / "street_mask.png"))
    assert mask.shape == (50, 70) and mask.max() < 11
    assert main([*command, "--model", "uvim-ar", str(picture)]) == 0  # they may be replaced


@pytest.mark.slow
def test_export_halves_the_weights_and_they_still_fit_together(folder, tmp_path):
    paths = export_weights(TINY, folder, tmp_path)
    names = {f"scenes-tiny.{s}.{e}" for s in STAGES for e in ("safetensors", "json")}
    assert {p.name for p in paths} == names
    for model in ("uvim", "uvim-ar"):
        create_model(TINY, pretrained=tmp_path, model=model)
    name = "scenes-tiny.uvim-code.safetensors"
    assert what_it_rests_on(tmp_path / name) != what_it_rests_on(folder / name)
    # The same run may be exported again. Another stage I would leave stage II without its own.
    assert len(export_weights(TINY, folder, tmp_path)) == 6
    train(TINY, tmp_path / "other", stage="uvim-base", seed=1, options=QUIET)
    with pytest.raises(ValueError, match="uvim-code.safetensors, trained with the stage I that"):
        export_weights(TINY, tmp_path / "other", tmp_path)


def test_stages_of_uvim_do_not_depend_on_the_head_of_gss(folder):
    """A run is resumed although settings changed that it does not read."""
    other = replace(
        TINY,
        palette="by-neighbours",
        prior=replace(TINY.prior, head={}),
        uvim=replace(TINY.uvim, view=ViewSpec(window=(32, 32))),
    )
    before = {p: p.stat().st_mtime_ns for p in folder.glob("*.safetensors")}
    train(other, folder, model="uvim", options=QUIET)
    assert before == {p: p.stat().st_mtime_ns for p in folder.glob("*.safetensors")}
