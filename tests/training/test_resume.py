"""A run that was stopped ends as one that was not. A checkpoint belongs to its own run."""

import json
from dataclasses import replace

import pytest
import torch
from forks import kill_when, run
from safetensors.torch import load_file, save_file
from training_toys import RUN, Line, Stop, stop_at, train

from gss_lite.factory import create_model
from gss_lite.presets import get_preset
from gss_lite.storage import load_checkpoint, save_checkpoint
from gss_lite.training import LoopOptions
from gss_lite.training import train as train_stage

QUIET = LoopOptions(progress=False)
STAGES = ("vqvae", "prior")


@pytest.mark.slow
def test_a_killed_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path):
    """kill −9 in the middle of either stage, then started again until it is through."""
    steps = 40
    whole = tmp_path / "whole"
    killed = tmp_path / "killed"
    command = ["train", "--preset", "scenes-tiny", "--save-every", "3", "--steps", str(steps)]
    run([*command, "--out", str(whole)])
    for stage in STAGES:
        checkpoint = killed / stage / "checkpoint.pt"
        kill_when(checkpoint.exists, run, [*command, "--out", str(killed)])
        assert 0 < torch.load(checkpoint, weights_only=True)["step"] < steps
    run([*command, "--out", str(killed)])
    for stage in STAGES:
        name = f"scenes-tiny.{stage}"
        ours, theirs = (load_file(f / f"{name}.safetensors") for f in (killed, whole))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[k], theirs[k]) for k in ours), stage
        logs = [json.loads((f / f"{name}.json").read_text())["log"] for f in (killed, whole)]
        assert [e["loss"] for e in logs[0]] == [e["loss"] for e in logs[1]]
    assert not list(killed.rglob("*.part"))  # the killed processes may have left some


def log_of(entries: list[dict]) -> list[dict]:
    """A log without the seconds."""
    return [{k: v for k, v in entry.items() if k != "seconds"} for entry in entries]


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"ema": 0.9, "clip": 1.0, "workers": 1}])
@pytest.mark.parametrize("parts", [1, 2])
def test_a_run_that_stopped_goes_on_with_the_same_samples_numbers_and_steps(
    tmp_path, parts, changes
):
    """Dropout and the order of the pictures are those of the run that was not stopped."""
    changes = {"accumulate": parts, "save_every": 2, **changes}
    whole, log = train(tmp_path / "whole", Line(dropout=0.5), **changes)
    sixth = 5 * parts + 1
    with pytest.raises(Stop):
        train(tmp_path / "cut", Line(stop_at(sixth), dropout=0.5), **changes)
    assert load_checkpoint(tmp_path / "cut" / "checkpoint.pt", RUN)["step"] == 4
    line = Line(dropout=0.5)
    again, log_again = train(tmp_path / "cut", line, **changes)
    assert line.calls == 4 * parts
    assert torch.equal(again.layer.weight, whole.layer.weight)
    assert log_of(log_again) == log_of(log)
    # What is finished is not trained again.
    line = Line(dropout=0.5)
    finished, log_finished = train(tmp_path / "cut", line, **changes)
    assert line.calls == 0 and log_finished == log_again
    assert torch.equal(finished.layer.weight, whole.layer.weight)


def test_the_best_score_is_not_forgotten(tmp_path):
    """After the stop all scores are lower, so the best model is still that of the second step."""
    scores = iter([0.7, 0.3, 0.5, 0.6])
    options = {"validate": lambda model: next(scores), "validate_every": 2, "save_every": 2}
    with pytest.raises(Stop):
        train(tmp_path, Line(stop_at(5)), **options)
    best = load_checkpoint(tmp_path / "best.pt", RUN)
    assert best["step"] == 2 and best["score"] == 0.7
    _, log = train(tmp_path, **options)
    assert [e["score"] for e in log if "score" in e] == [0.7, 0.3, 0.5, 0.6]
    again = load_checkpoint(tmp_path / "best.pt", RUN)
    assert again["step"] == 2 and again["score"] == 0.7
    assert torch.equal(again["model"]["layer.weight"], best["model"]["layer.weight"])
    last = load_checkpoint(tmp_path / "checkpoint.pt", RUN)
    assert last["best"] == {"step": 2, "score": 0.7}


@pytest.mark.slow
def test_seeds_change_the_run_and_equal_seeds_repeat_it(tmp_path):
    weights = {}
    for name, seed in [("a", 0), ("b", 0), ("c", 1)]:
        train_stage("scenes-tiny", tmp_path / name, stage="vqvae", seed=seed, options=QUIET)
        weights[name] = load_file(tmp_path / name / "scenes-tiny.vqvae.safetensors")
    key = "decoder.0.weight"
    assert torch.equal(weights["a"][key], weights["b"][key])
    assert not torch.equal(weights["a"][key], weights["c"][key])


@pytest.mark.parametrize(
    "there, now, said",
    [
        ({"preset": "a", "seed": 0}, {"preset": "a", "seed": 1}, "seed: 0 there, 1 now"),
        ({"preset": "a", "data": "x"}, {"preset": "a"}, "data: 'x' there, None now"),
        ({"preset": "a"}, {"preset": "a", "data": "x"}, "data: None there, 'x' now"),
        ({"a": 1, "b": 2}, {"a": 3, "b": 4}, "a: 1 there, 3 now; b: 2 there, 4 now"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, there, now, said):
    save_checkpoint(tmp_path / "c.pt", {"run": there})
    with pytest.raises(ValueError, match=rf"belongs to another run \({said}\)"):
        load_checkpoint(tmp_path / "c.pt", now)
    assert load_checkpoint(tmp_path / "c.pt", there)["run"] == there


@pytest.mark.parametrize("content", [b"half a file", b""])
def test_a_damaged_checkpoint_is_refused(tmp_path, content):
    (tmp_path / "c.pt").write_bytes(content)
    with pytest.raises(ValueError, match="cannot be read.*delete it"):
        load_checkpoint(tmp_path / "c.pt", {})


@pytest.mark.slow
def test_a_checkpoint_of_another_plan_or_another_stage_one_is_refused(tmp_path):
    tiny = get_preset("scenes-tiny")
    train_stage(tiny, tmp_path, stage="vqvae", options=QUIET)
    changed = tiny.with_schedule("vqvae", lr=1e-4)
    with pytest.raises(ValueError, match="another run .plan: "):
        train_stage(changed, tmp_path, stage="vqvae", options=QUIET)
    unread = replace(tiny.with_schedule("prior", lr=1e-4), notes="words change nothing")
    train_stage(unread, tmp_path, stage="vqvae", options=QUIET)
    train_stage(tiny, tmp_path, stage="prior", options=QUIET)
    path = tmp_path / "scenes-tiny.vqvae.safetensors"
    weights = load_file(path)
    save_file({k: v + 1 if v.is_floating_point() else v for k, v in weights.items()}, path)
    with pytest.raises(ValueError, match="another run .tokenizer_sha256: "):
        train_stage(tiny, tmp_path, stage="prior", options=QUIET)


@pytest.mark.slow
def test_a_prior_trained_elsewhere_has_its_stage_one_beside_it(tmp_path):
    tiny = replace(get_preset("scenes-tiny"), palette="by-neighbours")
    one = tmp_path / "one"
    two = tmp_path / "two"
    train_stage(tiny, one, stage="vqvae", options=QUIET)
    train_stage(tiny, two, stage="prior", stage_one=one, options=QUIET)
    create_model(tiny, pretrained=two)
    for end in ("palette.json", "vqvae.safetensors", "vqvae.json"):
        name = f"scenes-tiny.{end}"
        assert (two / name).read_bytes() == (one / name).read_bytes()


def test_training_leaves_weights_and_a_full_record(tiny_run):
    record = json.loads((tiny_run / "scenes-tiny.prior.json").read_text())
    expected = "preset seed steps hardware seconds metrics command commit torch parameters log"
    assert set(expected.split()) <= record.keys()
    assert record["steps"] == record["log"][-1]["step"] == 12 and record["seconds"] > 0
    assert create_model("scenes-tiny", pretrained=tiny_run).training is False
