"""experiments.codebook_usage: the record, what it counts, and that notebook 04 trains with the very same loop."""

from __future__ import annotations

import ast
import inspect
import json
from pathlib import Path

import nbformat
import pytest
import torch

from gss_lite.factory import build_palette
from gss_lite.presets import get_preset
from gss_lite.training.tokenizer import VQVAEStage
from notebooks.experiments import codebook_usage
from notebooks.experiments.codebook_usage import (
    CODES,
    HELD_OUT,
    PICTURES,
    held_out_tokens,
    live_tokenizer,
    load_masks,
    run_seed,
    train,
)

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"


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
    assert (
        record["command"].endswith(f"--seeds 2 --steps 2 --record {path}") and record["steps"] == 2
    )
    assert len(first["usage"]) == len(first["perplexity"]) == 2 and (
        first["seed"],
        second["seed"],
    ) == (0, 1)
    assert first["perplexity"] != second["perplexity"]
    assert record["metrics"]["held_out_tokens"] == 2 * 24 * 32
    assert "seed 1: held-out masks: usage" in capsys.readouterr().out


def test_held_out_usage_is_the_share_of_codes_met(masks):
    palette = build_palette(get_preset("scenes-cpu"))
    torch.manual_seed(0)
    tokenizer = live_tokenizer()
    list(train(VQVAEStage(tokenizer, palette, 1.0), masks[:4], steps=1, batch=2))
    met = {
        int(t)
        for mask in masks[4:]
        for t in tokenizer.eval().encode(palette(mask[None])).flatten()
    }
    assert set(held_out_tokens(tokenizer, palette, masks[4:]).flatten().tolist()) == met
    run = run_seed(0, masks[:4], masks[4:], steps=1, progress=False)
    assert (
        0 < run["held_out"]["usage"] <= 1
        and run["held_out"]["perplexity"] <= CODES * run["held_out"]["usage"] + 0.01
    )


def test_a_seed_fixes_the_run(masks):
    one, again, other = (
        run_seed(seed, masks[:4], masks[4:], steps=2, progress=False) for seed in (3, 3, 4)
    )
    assert one == again and one["perplexity"] != other["perplexity"]


def without_docstring(text: str) -> str:
    (function,) = ast.parse(text).body
    function.body = [
        n
        for n in function.body
        if not (
            isinstance(n, ast.Expr)
            and isinstance(n.value, ast.Constant)
            and isinstance(n.value.value, str)
        )
    ]
    function.returns = None
    for argument in function.args.args:
        argument.annotation = None
    return ast.unparse(function)


def test_the_notebook_shows_the_same_loop():
    notebook = nbformat.read(NOTEBOOKS / "04_maskige_vqvae.ipynb", as_version=4)
    cells = [
        cell.source
        for cell in notebook.cells
        if cell.cell_type == "code" and "def train(" in cell.source
    ]
    shown = [
        ast.get_source_segment(cell, node)
        for cell in cells
        for node in ast.parse(cell).body
        if isinstance(node, ast.FunctionDef) and node.name == "train"
    ]
    assert [without_docstring(text) for text in shown] == [
        without_docstring(inspect.getsource(train))
    ]


def test_every_seed_climbs_out_of_the_first_steps_hole():
    """Five seeds of the live training: hardly a code in use at first, at least 60 % of them in the end, on the same held-out masks."""
    record = json.loads((NOTEBOOKS / "records" / "codebook-usage.json").read_text())
    metrics = record["metrics"]
    assert record["steps"] == inspect.signature(train).parameters["steps"].default
    assert (metrics["codes"], metrics["pictures"], metrics["held_out_pictures"]) == (
        CODES,
        PICTURES,
        HELD_OUT,
    )
    assert [run["seed"] for run in metrics["runs"]] == [0, 1, 2, 3, 4]
    for run in metrics["runs"]:
        assert len(run["usage"]) == len(run["perplexity"]) == record["steps"]
        assert run["held_out"]["usage"] >= 0.60 and run["usage"][-1] >= 0.60, run["seed"]
        assert min(run["usage"][:20]) < 0.1 < 0.25 < min(run["usage"][49:]), run["seed"]
