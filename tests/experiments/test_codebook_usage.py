"""What the short training counts, and what its record says."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest
import torch

import gss_lite as gss
from gss_lite.data import load_masks
from gss_lite.training.tokenizer import VQVAELoss
from notebooks.experiments.codebook_usage import (
    CODES,
    HELD_OUT,
    PICTURES,
    held_out_tokens,
    live_tokenizer,
    run_seed,
    train,
)

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


@pytest.fixture(scope="module")
def masks():
    return load_masks("scenes", "train", 6).long()


def test_held_out_usage_is_the_share_of_codes_met(masks):
    palette = gss.create_palette("scenes-cpu")
    torch.manual_seed(0)
    tokenizer = live_tokenizer()
    list(train(VQVAELoss(tokenizer, palette, 1.0), masks[:4], steps=1, batch=2))
    met = {
        int(t) for mask in masks[4:] for t in tokenizer.eval().encode(palette(mask[None])).flatten()
    }
    assert set(held_out_tokens(tokenizer, palette, masks[4:]).flatten().tolist()) == met
    found = run_seed(0, masks[:4], masks[4:], steps=1, progress=False)["held_out"]
    assert 0 < found["usage"] <= 1 and found["perplexity"] <= CODES * found["usage"] + 0.01


@pytest.mark.slow
def test_a_seed_fixes_the_run(masks):
    one, again, other = (
        run_seed(seed, masks[:4], masks[4:], steps=2, progress=False) for seed in (3, 3, 4)
    )
    assert one == again and one["perplexity"] != other["perplexity"]


def test_every_seed_climbs_out_of_the_first_steps_hole():
    """Hardly a code is in use at first, and at least 60 % of them in the end, for every seed."""
    record = json.loads((NOTEBOOKS / "records" / "codebook-usage.json").read_text())
    metrics = record["metrics"]
    assert record["steps"] == inspect.signature(train).parameters["steps"].default
    sizes = (metrics["codes"], metrics["pictures"], metrics["held_out_pictures"])
    assert sizes == (CODES, PICTURES, HELD_OUT)
    assert [run["seed"] for run in metrics["runs"]] == [0, 1, 2, 3, 4]
    for run in metrics["runs"]:
        assert len(run["usage"]) == len(run["perplexity"]) == record["steps"]
        assert run["held_out"]["usage"] >= 0.60 and run["usage"][-1] >= 0.60, run["seed"]
        assert min(run["usage"][:20]) < 0.1 < 0.25 < min(run["usage"][49:]), run["seed"]
