"""X⁻¹ from the command line: trained, found by name or file, put on the model that is evaluated."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from command_line import TINY, command, refused
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.utils.data import Subset

from gss_lite import training
from gss_lite.data import create_dataset
from gss_lite.evaluation import evaluate
from gss_lite.export import export_weights
from gss_lite.factory import INVERSES, SHIPPED, create_model, load_inverse
from gss_lite.inference import ExpectedGSS
from gss_lite.inverse_fitted import ConvInverse, GaussianInverse, SwinInverse
from gss_lite.presets import get_preset
from gss_lite.storage import save_weights, what_it_rests_on
from gss_lite.training import STAGES, LoopOptions, train
from gss_lite.training.inverse import measure_gaussians

PRESET = get_preset("scenes-tiny")
TYPES = {
    "ft": ConvInverse,
    "ft-w": SwinInverse,
    "ft-clean": ConvInverse,
    "gaussian": GaussianInverse,
}


@pytest.fixture(scope="module")
def run(tiny_run, tmp_path_factory):
    """A folder with a trained model and every kind of X⁻¹ for it, all left by the command."""
    folder = tmp_path_factory.mktemp("inverses") / "run"
    shutil.copytree(tiny_run, folder)
    for kind in TYPES:
        clean = ["--maskige", "clean"] if kind.endswith("-clean") else []
        stage = f"inverse-{kind.removesuffix('-clean')}"
        assert command("train", *TINY, "--stage", stage, "--out", folder, *clean) == 0
    return folder


@pytest.fixture(scope="module")
def gss(run):
    return create_model(PRESET, pretrained=run)


@pytest.mark.parametrize("kind", TYPES)
def test_train_leaves_weights_and_a_record_that_says_how(run, kind):
    record = json.loads((run / f"scenes-tiny.inverse-{kind}.json").read_text())
    assert record["kind"] == f"train inverse-{kind}"
    assert record["maskige"] == ("clean" if kind == "ft-clean" else "noisy")
    said = "python -m gss_lite train --preset scenes-tiny --stage inverse-"
    assert record["command"].startswith(said)
    inverse, name = load_inverse(run / f"scenes-tiny.inverse-{kind}.safetensors")
    assert type(inverse) is TYPES[kind] and name == kind and not inverse.training
    stored = load_file(run / f"scenes-tiny.inverse-{kind}.safetensors")
    assert stored
    assert all(torch.equal(value, stored[key]) for key, value in inverse.state_dict().items())


def test_the_command_trains_what_the_function_trains(run, tmp_path):
    options = LoopOptions(progress=False)
    train(PRESET, tmp_path, stage="inverse-ft", stage_one=run, options=options)
    name = "scenes-tiny.inverse-ft.safetensors"
    ours, theirs = (load_file(folder / name) for folder in (tmp_path, run))
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


def test_started_again_it_is_finished_and_more_steps_are_another_run(run, capsys):
    again = ["train", *TINY, "--stage", "inverse-ft", "--out", run]
    files = [run / f"scenes-tiny.inverse-ft.{end}" for end in ("safetensors", "json")]
    before = [file.read_bytes() for file in files]
    assert command(*again) == 0
    assert command(*again, "--steps", 13) == 2
    said = capsys.readouterr().err
    assert "belongs to another run (plan: " in said and "steps: 12 there, 13 now)" in said
    assert [file.read_bytes() for file in files] == before


def test_steps_and_a_model_from_elsewhere(tiny_run, tmp_path):
    more = ["--stage-one", tiny_run, "--out", tmp_path, "--steps", 2]
    assert command("train", *TINY, "--stage", "inverse-ft", *more) == 0
    assert json.loads((tmp_path / "scenes-tiny.inverse-ft.json").read_text())["steps"] == 2


def test_shipped_is_the_folder_of_the_package(monkeypatch, tmp_path):
    seen = []

    def stop(preset, *, pretrained):
        seen.append(pretrained)
        raise ValueError("enough")

    monkeypatch.setattr(training, "create_model", stop)
    more = ["--stage-one", "shipped", "--out", tmp_path]
    assert command("train", "--stage", "inverse-ft-w", *more) == 2
    assert seen == [SHIPPED]


@pytest.mark.parametrize("kind", [*TYPES, "expected"])
def test_evaluate_is_evaluation_of_the_model_with_that_inverse(run, gss, tmp_path, capsys, kind):
    path = tmp_path / "record.json"
    more = ["--weights", run, "--inverse", kind, "--record", path]
    assert command("evaluate", *TINY, *more) == 0
    record, printed = json.loads(path.read_text()), capsys.readouterr().out
    if kind == "expected":
        model = ExpectedGSS.of(gss)
    else:
        file = run / f"scenes-tiny.inverse-{kind}.safetensors"
        model = gss.with_inverse(load_inverse(file)[0])
    expected = evaluate(model, create_dataset(PRESET, "test"), progress=False).scores()
    for name in ("prediction", "reconstruction"):
        miou = expected[name].miou
        assert record["metrics"][name]["miou"] == pytest.approx(miou, abs=1e-6)
    assert record["kind"] == f"evaluate test inverse-{kind}"
    assert f"{INVERSES[kind]} prediction" in printed


def test_records_of_different_inverses_do_not_overwrite_each_other(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for choice in ("ff", "expected", run / "scenes-tiny.inverse-ft-w.safetensors"):
        assert command("evaluate", *TINY, "--weights", run, "--inverse", choice) == 0
    names = {path.name for path in (tmp_path / "runs" / "scenes-tiny").iterdir()}
    ends = ("", "-inverse-expected", "-inverse-ft-w")
    assert names == {f"evaluate-test{end}.json" for end in ends}


def test_predict_reads_the_maskige_with_that_inverse(run, tmp_path):
    Image.effect_noise((64, 64), 60).convert("RGB").save(tmp_path / "a.png")
    file = run / "scenes-tiny.inverse-ft.safetensors"
    other = tmp_path / "other.safetensors"  # an X⁻¹ that says class 3 everywhere
    shutil.copy(file.with_suffix(".json"), other.with_suffix(".json"))
    model, _ = load_inverse(file)
    with torch.no_grad():
        model.to_classes.weight.zero_()
        model.to_classes.bias.copy_(torch.arange(11.0) == 3)
    save_weights(other, model, rests_on=what_it_rests_on(file))
    more = ["--weights", run, "--device", "cpu", "--out", tmp_path / "out", "--inverse", other]
    assert command("predict", *TINY, *more, tmp_path / "a.png") == 0
    mask = np.array(Image.open(tmp_path / "out" / "a_mask.png"))
    assert np.unique(mask).tolist() == [3]


def test_other_colours_are_refused_by_name(run, tmp_path, capsys):
    tensors = load_file(run / "scenes-tiny.inverse-ft.safetensors")
    flipped = {**tensors, "colors": tensors["colors"].flip(0).contiguous()}
    save_file(flipped, tmp_path / "x.safetensors")
    shutil.copy(run / "scenes-tiny.inverse-ft.json", tmp_path / "x.json")
    more = ["--weights", run, "--inverse", tmp_path / "x.safetensors"]
    assert "was trained on another palette" in refused(capsys, "evaluate", *TINY, *more)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--inverse", "nonsense"], "X⁻¹ must be one of ff, ft, ft-middle, ft-clean, "),
        (["--inverse", "ft-w"], "no X⁻¹ at "),
        (
            ["--inverse", "nowhere/x.safetensors"],
            "no X⁻¹ at nowhere/x.safetensors; train --stage inverse-ft",
        ),
        (
            ["--inverse", "ft", "--model", "pixel"],
            "the discriminative twin paints no maskige and has no X⁻¹",
        ),
    ],
)
def test_an_inverse_that_cannot_be_had_is_one_line(tiny_run, capsys, options, message):
    assert message in refused(capsys, "evaluate", *TINY, "--weights", tiny_run, *options)


@pytest.mark.parametrize(
    "options, message",
    [
        ([], "no trained prior of scenes-tiny in "),
        (
            ["--stage-one", "shipped"],
            "say where it is: --stage-one FOLDER, or --stage-one shipped",
        ),
    ],
)
def test_training_without_a_model_is_one_line(tmp_path, capsys, options, message):
    arguments = ["--stage", "inverse-ft", "--out", tmp_path, *options]
    assert message in refused(capsys, "train", *TINY, *arguments)
    assert not list(tmp_path.iterdir())


def test_measuring_takes_no_steps(tiny_run, tmp_path, capsys):
    more = ["--stage-one", tiny_run, "--out", tmp_path, "--steps", 3]
    said = refused(capsys, "train", *TINY, "--stage", "inverse-gaussian", *more)
    assert "leave --steps out" in said


def test_gaussians_are_those_measured_on_training_pictures(run, gss):
    inverse, _ = load_inverse(run / "scenes-tiny.inverse-gaussian.safetensors")
    training_set = create_dataset(PRESET, "train")
    again = measure_gaussians(gss, training_set).state_dict()
    assert all(torch.equal(value, again[key]) for key, value in inverse.state_dict().items())
    other = measure_gaussians(gss, Subset(training_set, range(4)))
    assert not torch.equal(other.mean, inverse.mean)


@pytest.mark.parametrize("damage", ["weights", "record", "another stage"])
def test_damaged_files_are_named(run, tmp_path, damage):
    path = tmp_path / "x.safetensors"
    shutil.copy(run / "scenes-tiny.inverse-ft.safetensors", path)
    stage = "prior" if damage == "another stage" else "inverse-ft"
    shutil.copy(run / f"scenes-tiny.{stage}.json", path.with_suffix(".json"))
    message = "is no X⁻¹: its record says 'train prior'"
    if damage != "another stage":
        broken = path if damage == "weights" else path.with_suffix(".json")
        broken.write_bytes(broken.read_bytes()[:100])
        message = "do not describe an X⁻¹|is damaged|is not JSON"
    with pytest.raises(ValueError, match=message):
        load_inverse(path)
    path.with_suffix(".json").unlink()
    with pytest.raises(FileNotFoundError, match="no run record beside the weights at .*x.json"):
        load_inverse(path)


def test_export_ships_every_inverse_in_sixteen_bits_that_still_fits(run, tmp_path):
    paths = export_weights(PRESET, run, tmp_path)
    ends = ("safetensors", "json")
    names = {f"scenes-tiny.inverse-{kind}.{end}" for kind in TYPES for end in ends}
    assert {p.name for p in paths} >= names
    maskige = torch.rand(2, 3, 32, 32)
    for kind in TYPES:
        weights = tmp_path / f"scenes-tiny.inverse-{kind}.safetensors"
        floats = [v for v in load_file(weights).values() if v.is_floating_point()]
        assert all(v.dtype == torch.float16 for v in floats)
        assert json.loads(weights.with_suffix(".json").read_text())["stored_as"] == "float16"
        model = create_model(PRESET, pretrained=tmp_path, inverse=kind)
        full = load_inverse(run / weights.name)[0]
        same = model.inverse.classify(maskige) == full.classify(maskige)
        assert float(same.double().mean()) > 0.98


def test_every_inverse_that_train_can_leave_can_be_chosen():
    trained = {stage.removeprefix("inverse-") for stage in STAGES if stage.startswith("inverse-")}
    assert set(INVERSES) == {"ff", "expected", "tt"} | trained | {  # "tt" is of stage palette-tt
        f"{kind}-{maskige}" for kind in trained for maskige in ("clean", "middle")
    }


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.inverse-*.json")), ids=lambda p: p.stem)
def test_shipped_inverses_were_trained_by_their_schedules(path):
    preset, (_, name) = path.name.split(".")[0], load_inverse(path.with_suffix(".safetensors"))
    card = json.loads(path.read_text())
    if not name.startswith("gaussian"):
        kind = name.removesuffix("-clean")
        schedule = get_preset(preset).schedule(f"inverse-{kind}")
        assert card["steps"] == schedule.steps and card["size"] == dict(schedule.network)
    # as in "AMD EPYC, 1 of 2 CPU threads"
    threads = int(card["hardware"].split(", ")[1].split(" of ")[0])
    assert card["seconds"] * threads <= 2 * 120  # two minutes of two cores
    model = create_model(preset, pretrained=True, inverse=name)
    assert type(model.inverse) is type(load_inverse(path.with_suffix(".safetensors"))[0])
