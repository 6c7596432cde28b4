"""The loop: a killed run resumes to the same weights, schedules, records, damaged files, errors."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from gss_lite.factory import build_gss, load_gss, load_tokenizer
from gss_lite.presets import get_preset
from gss_lite.presets.parts import Schedule
from gss_lite.storage import (
    load_checkpoint,
    load_weights,
    replace_file,
    run_record,
    save_checkpoint,
    save_weights,
)
from gss_lite.training.loop import adamw, fit, poly_with_warmup
from gss_lite.training.prior import train_prior
from gss_lite.training.tokenizer import train_vqvae

ROOT = Path(__file__).resolve().parents[1]


def command(folder: Path, steps: int) -> list[str]:
    return [
        sys.executable,
        "-m",
        "gss_lite",
        "train",
        "--preset",
        "scenes-tiny",
        "--steps",
        str(steps),
        "--save-every",
        "3",
        "--out",
        str(folder),
    ]


def environment() -> dict:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def test_a_killed_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path):
    """kill −9 in the middle of either stage, several times, then started again until it is through."""
    steps = 40
    subprocess.run(
        command(tmp_path / "whole", steps),
        check=True,
        cwd=ROOT,
        env=environment(),
        capture_output=True,
    )
    kills = 0
    for stage in ("vqvae", "prior"):
        process = subprocess.Popen(
            command(tmp_path / "killed", steps),
            cwd=ROOT,
            env=environment(),
            stderr=subprocess.DEVNULL,
        )
        while not (tmp_path / "killed" / stage / "checkpoint.pt").exists():
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        state = torch.load(tmp_path / "killed" / stage / "checkpoint.pt", weights_only=True)
        assert 0 < state["step"] < steps
    assert kills == 2
    subprocess.run(
        command(tmp_path / "killed", steps),
        check=True,
        cwd=ROOT,
        env=environment(),
        capture_output=True,
    )
    for stage in ("vqvae", "prior"):
        name = f"scenes-tiny.{stage}"
        whole, killed = (
            load_file(tmp_path / run / f"{name}.safetensors") for run in ("whole", "killed")
        )
        assert whole.keys() == killed.keys()
        assert all(torch.equal(whole[k], killed[k]) for k in whole), stage
        logs = [
            json.loads((tmp_path / run / f"{name}.json").read_text())["log"]
            for run in ("whole", "killed")
        ]
        assert [e["loss"] for e in logs[0]] == [e["loss"] for e in logs[1]]


def test_seeds_change_the_run_and_equal_seeds_repeat_it(tmp_path):
    preset = get_preset("scenes-tiny")
    weights = {}
    for name, seed in [("a", 0), ("b", 0), ("c", 1)]:
        train_vqvae(replace(preset, seed=seed), tmp_path / name, progress=False)
        weights[name] = load_file(tmp_path / name / "scenes-tiny.vqvae.safetensors")
    key = "decoder.0.weight"
    assert torch.equal(weights["a"][key], weights["b"][key])
    assert not torch.equal(weights["a"][key], weights["c"][key])


def test_schedule_warms_up_then_decays_to_zero():
    schedule = Schedule(steps=100, batch=1, crop=(8, 8), lr=1.0, warmup=10)
    factors = [poly_with_warmup(s, schedule) for s in range(101)]
    assert factors[0] == pytest.approx(1e-6) and factors[100] == 0
    assert factors[50] == pytest.approx(0.5) and max(factors) == pytest.approx(
        factors[10]
    ) == pytest.approx(0.9)


def test_no_weight_decay_on_norms_and_relative_positions():
    gss = build_gss(get_preset("scenes-tiny"))
    optimizer = adamw(gss.prior, get_preset("scenes-cpu").prior)
    decayed, free = ({id(p) for p in g["params"]} for g in optimizer.param_groups)
    assert (
        optimizer.param_groups[0]["weight_decay"] == 0.05
        and optimizer.param_groups[1]["weight_decay"] == 0
    )
    named = dict(gss.prior.named_parameters())
    assert (
        id(named["to_tokens.weight"]) in decayed
        and id(named["blocks.0.attn.qkv.weight"]) in decayed
    )
    assert (
        id(named["norm.weight"]) in free
        and id(named["blocks.0.attn.relative_position_bias_table"]) in free
    )
    assert len(decayed) + len(free) == len(named)


class Diverging(nn.Module):
    """A stage whose loss is finite for three steps, then NaN."""

    def __init__(self):
        super().__init__()
        self.weight, self.calls = nn.Parameter(torch.ones(1)), 0

    def forward(self, image, mask):
        self.calls += 1
        return self.weight.sum() * (float("nan") if self.calls > 3 else 1.0), {}


class Blank(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, item):
        return torch.zeros(3, 8, 8), torch.zeros(8, 8).long()


def test_a_loss_that_is_not_finite_stops_with_the_checkpoint_intact(tmp_path):
    stage, run = Diverging(), {"preset": "x", "stage": "y", "seed": 0}
    with pytest.raises(FloatingPointError, match="became nan at step 4; lower the learning rate"):
        fit(
            stage,
            stage,
            Blank(),
            Schedule(10, 2, (8, 8), 1e-3, warmup=0),
            run=run,
            folder=tmp_path,
            save_every=2,
            progress=False,
        )
    assert load_checkpoint(tmp_path / "checkpoint.pt", run)["step"] == 2


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    save_checkpoint(tmp_path / "c.pt", {"run": {"preset": "a", "seed": 0}})
    with pytest.raises(ValueError, match="another run.*seed: 0 there, 1 now"):
        load_checkpoint(tmp_path / "c.pt", {"preset": "a", "seed": 1})


def test_a_damaged_checkpoint_is_refused(tmp_path):
    (tmp_path / "c.pt").write_bytes(b"half a file")
    with pytest.raises(ValueError, match="cannot be read.*delete it"):
        load_checkpoint(tmp_path / "c.pt", {})


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    (tmp_path / "a").write_text("old")

    def broken(path):
        path.write_text("ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        replace_file(tmp_path / "a", broken)
    assert (tmp_path / "a").read_text() == "old" and list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_weights_round_trip_in_full_and_half_precision(tmp_path):
    tokenizer = load_tokenizer_like()
    for half, tolerance in [(False, 0.0), (True, 1e-3)]:
        save_weights(tmp_path / "w.safetensors", tokenizer, half=half)
        other = load_tokenizer_like(seed=1)
        load_weights(tmp_path / "w.safetensors", other)
        for k, v in other.state_dict().items():
            torch.testing.assert_close(v, tokenizer.state_dict()[k], atol=tolerance, rtol=tolerance)


def load_tokenizer_like(seed: int = 0):
    torch.manual_seed(seed)
    return build_gss(get_preset("scenes-tiny")).tokenizer


def test_truncated_missing_and_foreign_weights(tiny_run, tmp_path):
    preset = get_preset("scenes-tiny")
    with pytest.raises(FileNotFoundError, match="no weights at .*python -m gss_lite train"):
        load_tokenizer(preset, tmp_path)
    name = "scenes-tiny.vqvae.safetensors"
    whole = (tiny_run / name).read_bytes()
    for cut in (4, 100, len(whole) // 2):
        (tmp_path / name).write_bytes(whole[:cut])
        with pytest.raises(ValueError, match="damaged or cut short"):
            load_tokenizer(preset, tmp_path)
    (tmp_path / name).write_bytes(whole)
    other = replace(preset, tokenizer={**preset.tokenizer, "vocab_size": 64})
    with pytest.raises(ValueError, match="another architecture.*tensors differ"):
        load_tokenizer(other, tmp_path)


def test_training_leaves_weights_and_a_full_record(tiny_run):
    record = json.loads((tiny_run / "scenes-tiny.prior.json").read_text())
    assert {
        "preset",
        "seed",
        "steps",
        "hardware",
        "seconds",
        "metrics",
        "command",
        "commit",
        "torch",
        "parameters",
        "log",
    } <= record.keys()
    assert record["steps"] == record["log"][-1]["step"] == 12 and record["seconds"] > 0
    assert load_gss(get_preset("scenes-tiny"), tiny_run).training is False


def test_records_name_the_hardware():
    record = run_record(
        kind="k", preset="p", seed=0, steps=1, seconds=1.23, metrics={}, command="c"
    )
    assert "CPU threads" in record["hardware"] or torch.cuda.is_available()
    assert record["seconds"] == 1.2


def test_a_checkpoint_of_another_plan_or_another_stage_one_is_refused(tmp_path):
    tiny = get_preset("scenes-tiny")
    train_vqvae(tiny, tmp_path, progress=False)
    with pytest.raises(ValueError, match="another run .plan: "):
        train_vqvae(replace(tiny, vqvae=replace(tiny.vqvae, lr=1e-4)), tmp_path, progress=False)
    train_vqvae(
        replace(tiny, notes="words change nothing", prior=replace(tiny.prior, lr=1e-4)),
        tmp_path,
        progress=False,
    )
    train_prior(tiny, tmp_path, progress=False)
    path = tmp_path / "scenes-tiny.vqvae.safetensors"
    weights = load_file(path)
    save_file({k: v + 1 if v.is_floating_point() else v for k, v in weights.items()}, path)
    with pytest.raises(ValueError, match="another run .frozen: "):
        train_prior(tiny, tmp_path, progress=False)


def test_a_prior_trained_elsewhere_has_its_stage_one_beside_it(tmp_path):
    tiny = replace(get_preset("scenes-tiny"), palette="assigned")
    train_vqvae(tiny, tmp_path / "one", progress=False)
    train_prior(tiny, tmp_path / "two", stage_one=tmp_path / "one", progress=False)
    load_gss(tiny, tmp_path / "two")
    for end in ("palette.json", "vqvae.safetensors", "vqvae.json"):
        name = f"scenes-tiny.{end}"
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
