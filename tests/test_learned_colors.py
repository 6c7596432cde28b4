"""The record behind Figure S.8's test, at toy size."""

from __future__ import annotations

import json

import pytest
import torch

from gss_lite.palette.constructions import random_palette
from notebooks.experiments import learned_colors
from notebooks.experiments.palette_ablation import load_masks
from notebooks.experiments.palette_statistics import class_shares


def test_start_and_end_of_every_seed(tmp_path):
    learned_colors.main(
        [
            "--data",
            "scenes",
            "--seeds",
            "2",
            "--steps",
            "2",
            "--pictures",
            "2",
            "--out",
            str(tmp_path),
        ]
    )
    record = json.loads((tmp_path / "learned-colors-scenes.json").read_text())
    found = record["metrics"]
    assert (
        record["kind"],
        record["steps"],
        found["classes"],
        found["seeds"],
        found["pictures"],
    ) == ("learned colors", 2, 11, 2, 2)
    start, learned = torch.tensor(found["start"]), torch.tensor(found["learned"])
    assert start.shape == learned.shape == (2, 11, 3) and len(found["loss"]) == 2
    for seed in range(2):
        assert torch.allclose(start[seed], 255 * random_palette(11, seed).colors, atol=0.06)
        assert float((learned[seed] - start[seed]).abs().max()) > 0.1
    assert float(learned.min()) >= 0 and float(learned.max()) <= 255
    assert found["shares"] == pytest.approx(
        class_shares(load_masks("scenes", "train", 2), 11).tolist(), abs=1e-6
    )
