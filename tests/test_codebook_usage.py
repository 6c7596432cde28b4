"""experiments.codebook_usage: the record, what it counts, and that notebook 04 trains with the very same loop."""

from __future__ import annotations

import json

import pytest
import torch

from gss_lite.build import build_palette
from gss_lite.experiments import codebook_usage
from gss_lite.experiments.codebook_usage import CODES, held_out_tokens, live_tokenizer, load_masks, run_seed, train
from gss_lite.presets import get_preset
from gss_lite.training.stages import VQVAEStage


@pytest.fixture(scope="module")
def masks():
    torch.set_num_threads(1)
    return load_masks(6, "train")


def test_the_record_holds_every_step_of_every_seed(tmp_path, monkeypatch, capsys):
    torch.set_num_threads(1)
    monkeypatch.setattr(codebook_usage, "PICTURES", 4)
    monkeypatch.setattr(codebook_usage, "HELD_OUT", 2)
    path = tmp_path / "record.json"
    codebook_usage.main(["--seeds", "2", "--steps", "2", "--record", str(path)])
    record = json.loads(path.read_text())
    first, second = record["metrics"]["runs"]
    assert record["command"].endswith(f"--seeds 2 --steps 2 --record {path}") and record["steps"] == 2
    assert len(first["usage"]) == len(first["perplexity"]) == 2 and (first["seed"], second["seed"]) == (0, 1)
    assert first["perplexity"] != second["perplexity"]
    assert record["metrics"]["held_out_tokens"] == 2 * 24 * 32
    assert "seed 1: held-out masks: usage" in capsys.readouterr().out


def test_held_out_usage_is_the_share_of_codes_met(masks):
    palette = build_palette(get_preset("scenes-cpu"))
    torch.manual_seed(0)
    tokenizer = live_tokenizer()
    list(train(VQVAEStage(tokenizer, palette, 1.0), masks[:4], steps=1, batch=2))
    met = {int(t) for mask in masks[4:] for t in tokenizer.eval().encode(palette.paint(mask[None])).flatten()}
    assert set(held_out_tokens(tokenizer, palette, masks[4:]).flatten().tolist()) == met
    run = run_seed(0, masks[:4], masks[4:], steps=1, progress=False)
    assert 0 < run["held_out"]["usage"] <= 1 and run["held_out"]["perplexity"] <= CODES * run["held_out"]["usage"] + 0.01


def test_a_seed_fixes_the_run(masks):
    one, again, other = (run_seed(seed, masks[:4], masks[4:], steps=2, progress=False) for seed in (3, 3, 4))
    assert one == again and one["perplexity"] != other["perplexity"]
