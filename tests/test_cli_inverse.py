"""X⁻¹ from the command line: trained, found by name or file, grafted on the model that is evaluated, shipped."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.utils.data import Subset

from gss_lite import __main__ as cli
from gss_lite import cli as options
from gss_lite.data import dataset_for
from gss_lite.data.transforms import eval_transform
from gss_lite.evaluation import evaluate
from gss_lite.factory import SHIPPED, TITLES, export_weights, load_gss, open_inverse, with_inverse
from gss_lite.gss import ExpectedGSS, graft
from gss_lite.inverse_fitted import ConvInverse, GaussianInverse, SwinInverse
from gss_lite.presets import get_preset
from gss_lite.presets.plans import plan_for
from gss_lite.storage import save_weights
from gss_lite.training.inverse import measure_gaussians, train_inverse

TINY = get_preset("scenes-tiny")
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
        stage, maskige = (
            f"inverse-{kind.removesuffix('-clean')}",
            ["--maskige", "clean"] if kind.endswith("-clean") else [],
        )
        assert (
            cli.main(
                [
                    "train",
                    "--preset",
                    "scenes-tiny",
                    "--stage",
                    stage,
                    "--out",
                    str(folder),
                    *maskige,
                ]
            )
            == 0
        )
    return folder


@pytest.fixture(scope="module")
def gss(run):
    return load_gss(TINY, run)


@pytest.mark.parametrize("kind", TYPES)
def test_train_leaves_weights_and_a_record_that_says_how(run, kind):
    record = json.loads((run / f"scenes-tiny.inverse-{kind}.json").read_text())
    assert record["kind"] == f"train inverse-{kind}" and record["maskige"] == (
        "clean" if kind == "ft-clean" else "noisy"
    )
    assert record["command"].startswith(
        "python -m gss_lite train --preset scenes-tiny --stage inverse-"
    )
    inverse, name = open_inverse(run / f"scenes-tiny.inverse-{kind}.safetensors")
    assert type(inverse) is TYPES[kind] and name == kind and not inverse.training
    stored = load_file(run / f"scenes-tiny.inverse-{kind}.safetensors")
    assert stored and all(
        torch.equal(value, stored[key]) for key, value in inverse.state_dict().items()
    )


def test_the_command_trains_what_the_function_trains(run, gss, tmp_path):
    train_inverse(TINY, tmp_path, "ft", gss=gss, progress=False)
    ours, theirs = (
        load_file(folder / "scenes-tiny.inverse-ft.safetensors") for folder in (tmp_path, run)
    )
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


def test_started_again_it_is_finished_and_more_steps_are_another_run(run, capsys):
    again = ["train", "--preset", "scenes-tiny", "--stage", "inverse-ft", "--out", str(run)]
    before = load_file(run / "scenes-tiny.inverse-ft.safetensors")
    assert cli.main(again) == 0
    assert all(
        torch.equal(value, before[key])
        for key, value in load_file(run / "scenes-tiny.inverse-ft.safetensors").items()
    )
    assert cli.main([*again, "--steps", "13"]) == 2
    assert "belongs to another run (steps: 12 there, 13 now)" in capsys.readouterr().err


def test_steps_and_a_model_from_elsewhere(tiny_run, tmp_path):
    arguments = [
        "train",
        "--preset",
        "scenes-tiny",
        "--stage",
        "inverse-ft",
        "--stage-one",
        str(tiny_run),
        "--out",
        str(tmp_path),
        "--steps",
        "2",
    ]
    assert cli.main(arguments) == 0
    assert json.loads((tmp_path / "scenes-tiny.inverse-ft.json").read_text())["steps"] == 2


def test_shipped_is_the_folder_of_the_package(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(
        cli,
        "load_gss",
        lambda preset, folder: seen.append(folder) or (_ for _ in ()).throw(ValueError("enough")),
    )
    assert (
        cli.main(
            ["train", "--stage", "inverse-ft-w", "--stage-one", "shipped", "--out", str(tmp_path)]
        )
        == 2
    )
    assert seen == [SHIPPED]


@pytest.mark.parametrize("kind", [*TYPES, "expected"])
def test_evaluate_is_evaluation_of_the_grafted_model(run, gss, tmp_path, capsys, kind):
    path = tmp_path / "record.json"
    assert (
        cli.main(
            [
                "evaluate",
                "--preset",
                "scenes-tiny",
                "--weights",
                str(run),
                "--inverse",
                kind,
                "--record",
                str(path),
            ]
        )
        == 0
    )
    record, printed = json.loads(path.read_text()), capsys.readouterr().out
    if kind == "expected":
        model = ExpectedGSS(gss.palette, gss.tokenizer, gss.prior, gss.inverse).eval()
    else:
        model = graft(gss, open_inverse(run / f"scenes-tiny.inverse-{kind}.safetensors")[0])
    expected = evaluate(
        model, dataset_for(TINY, "test", transform=eval_transform()), progress=False
    ).scores()
    for name in ("prediction", "reconstruction"):
        assert record["metrics"][name]["miou"] == pytest.approx(expected[name].miou, abs=1e-6)
    assert (
        record["kind"] == f"evaluate test inverse-{kind}"
        and f"{TITLES[kind]} prediction" in printed
    )


def test_records_of_different_inverses_do_not_overwrite_each_other(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for choice in ("ff", "expected", str(run / "scenes-tiny.inverse-ft-w.safetensors")):
        assert (
            cli.main(
                ["evaluate", "--preset", "scenes-tiny", "--weights", str(run), "--inverse", choice]
            )
            == 0
        )
    names = {path.name for path in (tmp_path / "runs" / "scenes-tiny").iterdir()}
    assert names == {
        "evaluate-test.json",
        "evaluate-test-inverse-expected.json",
        "evaluate-test-inverse-ft-w.json",
    }


def test_predict_reads_the_maskige_with_that_inverse(run, gss, tmp_path):
    Image.effect_noise((64, 64), 60).convert("RGB").save(tmp_path / "a.png")
    arguments = [
        "predict",
        "--preset",
        "scenes-tiny",
        "--weights",
        str(run),
        "--device",
        "cpu",
        str(tmp_path / "a.png"),
    ]
    inverse = tmp_path / "other.safetensors"  # an X⁻¹ that says class 3 everywhere
    shutil.copy(run / "scenes-tiny.inverse-ft.json", inverse.with_suffix(".json"))
    model, _ = open_inverse(run / "scenes-tiny.inverse-ft.safetensors")
    with torch.no_grad():
        model.to_classes.weight.zero_()
        model.to_classes.bias.copy_(torch.arange(11.0) == 3)
    save_weights(inverse, model)
    assert cli.main([*arguments, "--out", str(tmp_path / "out"), "--inverse", str(inverse)]) == 0
    assert np.unique(np.array(Image.open(tmp_path / "out" / "a_mask.png"))).tolist() == [3]


def test_other_colours_are_refused_by_name(run, tmp_path, capsys):
    tensors = load_file(run / "scenes-tiny.inverse-ft.safetensors")
    save_file({**tensors, "colors": tensors["colors"].flip(0)}, tmp_path / "x.safetensors")
    shutil.copy(run / "scenes-tiny.inverse-ft.json", tmp_path / "x.json")
    assert (
        cli.main(
            [
                "evaluate",
                "--preset",
                "scenes-tiny",
                "--weights",
                str(run),
                "--inverse",
                str(tmp_path / "x.safetensors"),
            ]
        )
        == 2
    )
    assert "was trained on another palette" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["evaluate", "--inverse", "nonsense"], "X⁻¹ must be one of ff, ft, ft-clean, "),
        (["evaluate", "--inverse", "ft-w"], "no X⁻¹ at "),
        (
            ["evaluate", "--inverse", "nowhere/x.safetensors"],
            "no X⁻¹ at nowhere/x.safetensors; train --stage inverse-ft",
        ),
        (
            ["evaluate", "--inverse", "ft", "--model", "pixel"],
            "the discriminative twin paints no maskige and has no X⁻¹",
        ),
    ],
)
def test_an_inverse_that_cannot_be_had_is_one_line(tiny_run, capsys, arguments, message):
    assert cli.main([*arguments, "--preset", "scenes-tiny", "--weights", str(tiny_run)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and len(error.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--stage", "inverse-ft"], "no trained prior of scenes-tiny in "),
        (
            ["--stage", "inverse-ft", "--stage-one", "shipped"],
            "say where it is: --stage-one FOLDER, or --stage-one shipped",
        ),
        (["--stage", "prior", "--maskige", "clean"], "--maskige says what X⁻¹ is trained on"),
        (
            ["--stage", "vqvae", "--stage-one", "x"],
            "--stage-one is where --stage prior finds palette and VQ-VAE",
        ),
    ],
)
def test_training_that_cannot_be_meant_is_one_line(tmp_path, capsys, arguments, message):
    assert cli.main(["train", "--preset", "scenes-tiny", "--out", str(tmp_path), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1 and not list(tmp_path.iterdir())


def test_measuring_takes_no_steps(tiny_run, tmp_path, capsys):
    arguments = [
        "--stage",
        "inverse-gaussian",
        "--stage-one",
        str(tiny_run),
        "--out",
        str(tmp_path),
        "--steps",
        "3",
    ]
    assert cli.main(["train", "--preset", "scenes-tiny", *arguments]) == 2
    assert "leave --steps out" in capsys.readouterr().err


def test_gaussians_are_those_measured_on_training_pictures(run, gss):
    inverse, _ = open_inverse(run / "scenes-tiny.inverse-gaussian.safetensors")
    training = dataset_for(TINY, "train", transform=eval_transform())
    again = measure_gaussians(gss, training)
    assert all(
        torch.equal(value, again.state_dict()[key]) for key, value in inverse.state_dict().items()
    )
    other = measure_gaussians(gss, Subset(training, range(4)))
    assert not torch.equal(other.mean, inverse.mean)


@pytest.mark.parametrize("damage", ["weights", "record", "another stage"])
def test_damaged_files_are_named(run, tmp_path, damage):
    path = tmp_path / "x.safetensors"
    shutil.copy(run / "scenes-tiny.inverse-ft.safetensors", path)
    shutil.copy(
        run
        / (
            "scenes-tiny.prior.json" if damage == "another stage" else "scenes-tiny.inverse-ft.json"
        ),
        path.with_suffix(".json"),
    )
    if damage != "another stage":
        broken = path if damage == "weights" else path.with_suffix(".json")
        broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(
        ValueError,
        match="is no X⁻¹: its record says 'train prior'"
        if damage == "another stage"
        else "do not describe an X⁻¹|is damaged",
    ):
        open_inverse(path)
    path.with_suffix(".json").unlink()
    with pytest.raises(FileNotFoundError, match="no run record beside the weights at .*x.json"):
        open_inverse(path)


def test_export_ships_every_inverse_in_sixteen_bits_that_still_fits(run, tmp_path):
    paths = export_weights(TINY, run, tmp_path)
    assert {p.name for p in paths} >= {
        f"scenes-tiny.inverse-{kind}.{end}" for kind in TYPES for end in ("safetensors", "json")
    }
    shipped = load_gss(TINY, tmp_path)
    maskige = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for kind in TYPES:
        weights = tmp_path / f"scenes-tiny.inverse-{kind}.safetensors"
        assert all(
            v.dtype == torch.float16 for v in load_file(weights).values() if v.is_floating_point()
        )
        assert json.loads(weights.with_suffix(".json").read_text())["stored_as"] == "float16"
        model, name = with_inverse(shipped, TINY, kind, tmp_path)
        full = open_inverse(run / weights.name)[0]
        assert (
            name == kind
            and float((model.inverse.classify(maskige) == full.classify(maskige)).double().mean())
            > 0.98
        )


def test_an_inverse_trained_alone_is_exported_alone(run, tmp_path):
    for end in ("safetensors", "json"):
        shutil.copy(run / f"scenes-tiny.inverse-ft.{end}", tmp_path)
    names = [p.name for p in export_weights(TINY, tmp_path, tmp_path / "package")]
    assert names == ["scenes-tiny.inverse-ft.safetensors", "scenes-tiny.inverse-ft.json"]


def test_every_inverse_that_train_can_leave_can_be_chosen():
    trained = {
        stage.removeprefix("inverse-") for stage in options.STAGES if stage.startswith("inverse-")
    }
    assert set(TITLES) == {"ff", "expected"} | trained | {f"{kind}-clean" for kind in trained}


def test_readme_names_every_stage_and_choice():
    rows = [
        line.split("|")
        for line in (SHIPPED.parents[1] / "README.md").read_text().splitlines()
        if line.startswith(("| `inverse-", "| –"))
    ]
    assert {row[1].strip(" `") for row in rows} == {"–"} | {
        stage for stage in options.STAGES if stage.startswith("inverse-")
    }
    assert {row[3].strip(" `") for row in rows} == {
        name for name in TITLES if not name.endswith("-clean")
    }


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.inverse-*.json")), ids=lambda p: p.stem)
def test_shipped_inverses_were_trained_by_their_plans(path):
    preset, (_, name) = path.name.split(".")[0], open_inverse(path.with_suffix(".safetensors"))
    card = json.loads(path.read_text())
    if not name.startswith("gaussian"):
        plan = plan_for(get_preset(preset), name.removesuffix("-clean"))
        assert card["steps"] == plan.schedule.steps and card["size"] == dict(plan.size)
    # as in "AMD EPYC, 1 of 2 CPU threads"
    threads = int(card["hardware"].split(", ")[1].split(" of ")[0])
    assert card["seconds"] * threads <= 2 * 120  # two minutes of two cores
    assert with_inverse(load_gss(get_preset(preset)), get_preset(preset), name, SHIPPED)[1] == name
