"""python -m gss_lite train: what stage II can be asked for, and what each run leaves."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import timm
import torch
from command_line import TINY, command, refused
from safetensors.torch import load_file, save_file

from gss_lite import __main__ as cli
from gss_lite.data import create_dataset
from gss_lite.evaluation import evaluate
from gss_lite.factory import create_model, create_prior
from gss_lite.presets import get_preset
from gss_lite.storage import load_checkpoint
from gss_lite.training import loop

PRESET = get_preset("scenes-tiny")


@pytest.fixture
def stage_one(tiny_run, tmp_path):
    """A folder with nothing but the tiny model's VQ-VAE."""
    for path in tiny_run.glob("scenes-tiny.vqvae.*"):
        shutil.copy(path, tmp_path / path.name)
    return tmp_path


def arguments(folder, *options, stage="prior"):
    return ["train", *TINY, "--stage", stage, "--out", folder, "--steps", 6, *options]


def train(folder, *options, stage="prior"):
    return command(*arguments(folder, *options, stage=stage))


def record(folder, stage="prior"):
    return json.loads((folder / f"scenes-tiny.{stage}.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["prior", "pixel"])
def test_the_best_of_the_validations_is_kept_and_on_request_written(stage_one, stage):
    more = ["--validate-every", 2, "--keep", "best", "--tensorboard"]
    assert train(stage_one, *more, stage=stage) == 0
    said = record(stage_one, stage)
    scores = {e["step"]: e["score"] for e in said["log"] if "score" in e}
    assert list(scores) == [2, 4, 6]
    assert said["kept"]["score"] == pytest.approx(max(scores.values()), rel=1e-4)
    best = torch.load(stage_one / stage / "best.pt", weights_only=True)
    written = load_file(stage_one / f"scenes-tiny.{stage}.safetensors")
    assert best["step"] == said["kept"]["step"]
    assert all(torch.equal(v, written[k]) for k, v in best["model"].items())
    kind = "gss" if stage == "prior" else "pixel"
    model = create_model(PRESET, pretrained=stage_one, model=kind)
    judged = evaluate(model, create_dataset(PRESET, "val"), progress=False)
    assert judged.miou == pytest.approx(best["score"])
    assert list((stage_one / stage / "tensorboard").iterdir())


@pytest.mark.slow
def test_without_it_the_last_weights_are_written(stage_one):
    assert train(stage_one, "--validate-every", 2) == 0
    checkpoint = stage_one / "prior" / "checkpoint.pt"
    run = torch.load(checkpoint, weights_only=True)["run"]
    last = load_checkpoint(checkpoint, run)
    written = load_file(stage_one / "scenes-tiny.prior.safetensors")
    average = {k.removeprefix("module."): v for k, v in last["average"].items()}
    assert all(torch.equal(v, average[k]) for k, v in written.items())
    assert "kept" not in record(stage_one)


@pytest.mark.slow
def test_keep_best_of_a_run_that_was_never_validated_is_refused(stage_one, capsys):
    assert train(stage_one) == 0
    assert train(stage_one, "--validate-every", 2, "--keep", "best") == 2
    assert "no best.pt in" in capsys.readouterr().err


@pytest.mark.slow
def test_what_saves_memory_is_passed_on_and_a_stopped_run_may_go_on_with_it(stage_one, monkeypatch):
    class Stopped(BaseException):
        pass

    # Micro-batches of two pictures: batch norm needs them.
    preset = PRESET.with_schedule("prior", batch=4)
    monkeypatch.setattr(cli, "get_preset", lambda name: preset)
    save = loop._Trainer.save

    def stop(trainer):
        save(trainer)
        if trainer.progress.step == 3:
            raise Stopped

    monkeypatch.setattr(loop._Trainer, "save", stop)
    with pytest.raises(Stopped):
        train(stage_one, "--precision", "bf16", "--save-every", 1)
    monkeypatch.setattr(loop._Trainer, "save", save)
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda module: compiled.append(module) or module)
    less = ["--accumulate", 2, "--checkpointing", "--compile"]
    assert train(stage_one, "--precision", "bf16", *less) == 0
    schedule = record(stage_one)["schedule"]
    assert schedule["precision"] == "bf16" and schedule["accumulate"] == 2
    assert schedule["checkpointing"] and schedule["compile"] and len(compiled) == 1


def test_another_precision_is_another_run(stage_one, capsys):
    assert train(stage_one) == 0 and train(stage_one, "--precision", "bf16") == 2
    assert "belongs to another run (plan:" in capsys.readouterr().err


class TestFinished:
    """F7: what is finished is not trained, written or signed again."""

    @pytest.mark.slow
    def test_started_again_nothing_changes(self, tmp_path):
        assert train(tmp_path, stage="all") == 0
        files = [p for p in tmp_path.rglob("*") if p.is_file()]
        before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in files}
        assert train(tmp_path, "--workers", 1, "--save-every", 7, stage="all") == 0
        assert {p for p in tmp_path.rglob("*") if p.is_file()} == set(files)
        assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in files} == before

    @pytest.mark.slow
    def test_a_run_killed_between_weights_and_record_writes_both(self, stage_one):
        assert train(stage_one) == 0
        path = stage_one / "scenes-tiny.prior.json"
        log = record(stage_one)["log"]
        path.unlink()
        assert train(stage_one) == 0 and record(stage_one)["log"] == log

    @pytest.mark.slow
    @pytest.mark.parametrize("with_record", [True, False])
    def test_weights_of_another_run_are_not_overwritten(self, stage_one, capsys, with_record):
        """Also where its checkpoints were deleted, to save space."""
        assert train(stage_one) == 0
        shutil.rmtree(stage_one / "prior")
        if not with_record:
            (stage_one / "scenes-tiny.prior.json").unlink()
        weights = stage_one / "scenes-tiny.prior.safetensors"
        before = weights.read_bytes()
        said = refused(capsys, *arguments(stage_one, "--seed", 1))
        assert ("seed: 0 there, 1 now" if with_record else "has no record beside it") in said
        assert weights.read_bytes() == before


@pytest.mark.parametrize(
    "options, message",
    [
        (
            ["--stage", "vqvae", "--validate-every", "5", "--compile"],
            "--compile, --validate-every: for --stage prior, all, pixel or uvim-code only",
        ),
        (["--stage", "prior", "--keep", "best"], "--keep best keeps the best of --validate-every"),
        (["--stage", "pixel", "--pretrained"], "preset scenes-tiny names no pretrained weights"),
        (["--stage-one", "runs"], "stage all trains them itself"),
        (["--data", "streets"], "draws its pictures and reads none from streets"),
        (["--stage", "prior", "--maskige", "clean"], "--maskige says what X⁻¹ is trained on"),
        (["--stage", "vqvae", "--stage-one", "x"], "stage_one is where stage prior finds"),
    ],
)
def test_what_cannot_be_meant_is_one_line_and_leaves_nothing(tmp_path, options, message, capsys):
    assert message in refused(capsys, "train", *TINY, "--out", tmp_path, *options)
    assert not list(tmp_path.iterdir())


def with_pretrained(name, **changes):
    prior = replace(PRESET.prior, pretrained=name)
    return replace(PRESET, prior=prior).with_schedule("prior", **changes)


def test_pretrained_weights_that_cannot_be_had_are_one_line(stage_one, monkeypatch, capsys):
    preset = with_pretrained("resnet18d.ra2_in1k")
    monkeypatch.setattr(cli, "get_preset", lambda name: preset)
    real = timm.create_model

    def offline(name, *, pretrained, **kwargs):
        if pretrained:
            raise ConnectionError("no route")
        return real(name, pretrained=False, **kwargs)

    monkeypatch.setattr(timm, "create_model", offline)
    said = refused(capsys, *arguments(stage_one, "--pretrained"))
    assert "the pretrained weights of 'resnet18d.ra2_in1k' could not be loaded" in said
    assert "connect once" in said


@pytest.mark.parametrize("stage", ["prior", "pixel"])
def test_pretrained_weights_are_where_training_starts(stage_one, monkeypatch, stage):
    real, asked = timm.create_model, []

    def create(name, *, pretrained, **kwargs):
        model = real(name.split(".")[0], pretrained=False, **kwargs)
        asked.append((name, pretrained))
        if pretrained:
            torch.nn.init.constant_(model.conv1[0].weight, 0.25)
        return model

    preset = with_pretrained("resnet18d.ra2_in1k", lr=0.0)
    monkeypatch.setattr(cli, "get_preset", lambda name: preset)
    monkeypatch.setattr(timm, "create_model", create)
    assert train(stage_one, "--pretrained", stage=stage) == 0
    assert asked[-1] == ("resnet18d.ra2_in1k", True)
    weights = load_file(stage_one / f"scenes-tiny.{stage}.safetensors")
    assert bool((weights["backbone.conv1.0.weight"] == 0.25).all())
    run = torch.load(stage_one / stage / "checkpoint.pt", weights_only=True)["run"]
    assert run["pretrained"] == "resnet18d.ra2_in1k" and len(run["backbone_sha256"]) == 64


def test_training_may_start_from_a_file_of_the_backbones_weights(stage_one, monkeypatch, capsys):
    preset = PRESET.with_schedule("prior", lr=0.0)
    monkeypatch.setattr(cli, "get_preset", lambda name: preset)
    prior = create_prior(preset)
    torch.nn.init.constant_(prior.backbone.conv1[0].weight, 0.25)
    file = stage_one / "backbone.safetensors"
    save_file(prior.backbone.state_dict(), file)
    assert train(stage_one, "--pretrained", str(file)) == 0
    weights = load_file(stage_one / "scenes-tiny.prior.safetensors")
    assert bool((weights["backbone.conv1.0.weight"] == 0.25).all())
    said = refused(capsys, "train", *TINY, "--stage", "pixel", "--pretrained", "nowhere.pth")
    assert "no file of weights at nowhere.pth" in said


class TestFolder:
    def test_a_folder_that_cannot_be_written_to_is_noticed_before_the_work(self, tmp_path, capsys):
        """F17."""
        (tmp_path / "taken").write_text("a file")
        out = tmp_path / "taken" / "run"
        said = refused(capsys, "train", *TINY, "--out", out)
        assert "nothing can be written to" in said

    def test_files_that_killed_runs_left_are_removed_at_the_next_start(self, stage_one):
        """F17."""
        dead = 2**22 + 1  # above the largest process number that Linux gives
        (stage_one / "prior").mkdir()
        left = [
            stage_one / f".scenes-tiny.prior.json.{dead}.part",
            stage_one / "prior" / f".checkpoint.pt.{dead}.part",
        ]
        kept = [stage_one / ".notes.part", stage_one / "x.part"]
        for path in (*left, *kept):
            path.write_text("half")
        assert train(stage_one) == 0
        assert not any(path.exists() for path in left) and all(p.exists() for p in kept)


def fail_with(monkeypatch, error):
    def fail(trainer):
        raise error

    monkeypatch.setattr(loop._Trainer, "update", fail)


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), KeyError("a name")])
def test_the_traceback_of_a_bug_is_shown_with_its_notes(stage_one, monkeypatch, error):
    fail_with(monkeypatch, error)
    with pytest.raises(type(error)) as caught:
        train(stage_one)
    said = f"No checkpoint had been saved in {stage_one / 'prior'} yet."
    assert caught.value is error and error.__notes__ == [said]


@pytest.mark.parametrize("kind", [RuntimeError, EOFError])
def test_a_data_process_that_was_killed_is_one_message(stage_one, monkeypatch, capsys, kind):
    error = kind("the pipe was closed")
    error.__cause__ = RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")
    fail_with(monkeypatch, error)
    assert train(stage_one, "--workers", 1) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: the pipe was closed DataLoader worker (pid 7)")
    assert "Use fewer processes" in said and "No checkpoint had been saved" in said
