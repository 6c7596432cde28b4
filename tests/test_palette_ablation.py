"""The ablation and its instruments, against literal loops; the command at toy size."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gss_lite.contracts import IGNORE
from gss_lite.data.scenes import ManyScenes
from gss_lite.evaluation import (
    blend_collision_rate,
    evaluate_palette,
    reconstruct,
    third_class_pixels,
)
from gss_lite.factory import load_tokenizer
from gss_lite.palette.constructions import random_palette
from gss_lite.palette.palette import Palette
from gss_lite.presets import get_preset
from notebooks.experiments import palette_ablation
from notebooks.experiments.palette_ablation import load_masks, table, tiles


def ids(seed: int, *shape: int, classes: int = 5) -> torch.Tensor:
    drawn = torch.randint(classes + 1, shape, generator=torch.Generator().manual_seed(seed))
    return drawn.masked_fill(drawn == classes, IGNORE)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**31), st.integers(0, 3))
def test_strangers_by_looking_around_every_pixel(seed, reach):
    mask, read = ids(seed, 2, 6, 7), ids(seed + 1, 2, 6, 7, classes=4) % 5
    found = third_class_pixels(read, mask, reach)
    for b in range(2):
        for y in range(6):
            for x in range(7):
                near = mask[b, max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
                assert bool(found[b, y, x]) == (
                    mask[b, y, x] != IGNORE and read[b, y, x] not in near
                )


def test_a_colour_between_two_others_takes_their_blends():
    line = torch.tensor([[0.0, 0, 0], [1, 1, 1], [0.5, 0.5, 0.4]])
    black_and_white = torch.tensor([[0.0, 6, 0], [6, 0, 0], [0, 0, 0]])
    # the third colour has the middle, from 1/4 to 3/4 of the way
    assert 0.6 < blend_collision_rate(line, black_and_white) < 0.8
    assert blend_collision_rate(line, torch.ones(3, 3)) == pytest.approx(
        blend_collision_rate(line, black_and_white) * 2 / 9
    )
    assert blend_collision_rate(torch.eye(3), torch.ones(3, 3)) == 0


class Lossless:
    """A tokenizer that loses nothing, except that it turns one class's colour into another's."""

    stride, swap = 4, None

    def encode(self, maskige):
        return maskige

    def decode(self, tokens):
        if self.swap is None:
            return tokens
        hit = (tokens == self.swap[0].view(1, 3, 1, 1)).all(1, keepdim=True)
        return torch.where(hit, self.swap[1].view(1, 3, 1, 1), tokens)


def test_scores_of_a_tokenizer_one_can_see_through():
    palette, masks, tokenizer = (
        random_palette(4),
        torch.zeros(3, 16, 16, dtype=torch.uint8),
        Lossless(),
    )
    masks[:, :4], masks[0, 0, 0] = 1, IGNORE
    assert evaluate_palette(palette, tokenizer, masks, batch=2).scores.miou == 1
    tokenizer.swap = palette.colors[0], palette.colors[3]  # class 0 is read as 3, which is nowhere
    result = evaluate_palette(palette, tokenizer, masks, batch=2)
    assert result.scores.aacc == pytest.approx((3 * 64 - 1) / (3 * 256 - 1))
    assert result.third_class == pytest.approx(3 * 192 / (3 * 256 - 1))
    assert torch.equal(reconstruct(palette, tokenizer, masks.long())[0, 8:], torch.full((8, 16), 3))


def test_tiles_are_cut_row_by_row():
    mask = torch.arange(2 * 5 * 7).view(2, 5, 7)
    cut = tiles(mask, 2, 3)
    assert cut.shape == (8, 2, 3)
    assert torch.equal(cut[3], mask[0, 2:4, 3:6]) and torch.equal(cut[4], mask[1, 0:2, 0:3])


def test_masks_come_evenly_from_the_split():
    masks = load_masks("many-scenes", "val", 3)
    assert masks.shape == (3, 192, 256) and masks.dtype == torch.uint8
    assert torch.equal(
        masks[2], torch.as_tensor(ManyScenes(3, split="val", height=192, width=256)[2][1])
    )


def test_masks_of_camvid(camvid):
    masks = load_masks("camvid", "val", 3)
    assert masks.shape == (3, 360, 480) and set(masks.unique().tolist()) <= set(range(11)) | {
        IGNORE
    }


def test_the_table_shows_mean_spread_and_the_papers_column():
    row = {
        "miou": [50.0, 52.0],
        "aacc": [80.0, 80.0],
        "strangers": [3.0, 5.0],
        "least_distance": [10.0, 12.0],
    }
    lines = table({"arithmetic": row, "ours": row, "random": row}).splitlines()
    assert (
        "51.00 ± 1.41" in lines[1]
        and "4.00 ± 1.41" in lines[1]
        and "11.0" in lines[1]
        and lines[1].endswith("85.99   94.37")
    )
    assert lines[2].endswith("11.0") and lines[3].endswith("62.83   –")


def test_the_command_leaves_a_record_and_a_palette(tiny_run, tmp_path, monkeypatch, capsys):
    arguments = f"--data scenes --seeds 1 --pictures 2 --fit-pictures 2 --trials 2 --steps 2 --out {tmp_path}"
    monkeypatch.setattr(
        sys,
        "argv",
        ["x", "--tokenizer", str(tiny_run / "scenes-tiny.vqvae.safetensors"), *arguments.split()],
    )
    palette_ablation.main()
    record = json.loads((tmp_path / "palette-ablation-scenes.json").read_text())
    rows = record["metrics"]["rows"]
    assert {
        "arithmetic",
        "misaligned",
        "random additive",
        "refined",
        "random",
        "learned",
        "max-min RGB, assigned",
        "max-min RGB",
        "max-min OKLab",
    } <= rows.keys()
    assert record["preset"] == "scenes-tiny" and record["metrics"]["classes"] == 11
    learned = Palette.load(tmp_path / "palettes" / "learned-scenes.json")
    tokenizer = load_tokenizer(get_preset("scenes-tiny"), tiny_run)
    again = evaluate_palette(learned, tokenizer, load_masks("scenes", "val", 2))
    assert rows["learned"]["miou"] == [pytest.approx(100 * again.scores.miou, abs=1e-3)]
    assert table(rows) in capsys.readouterr().out


def test_weights_without_a_presets_name_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        sys, "argv", ["x", "--tokenizer", str(tmp_path / "weights.pt"), "--data", "scenes"]
    )
    with pytest.raises(SystemExit):
        palette_ablation.main()
    assert "must be a file NAME.vqvae.safetensors" in capsys.readouterr().err
