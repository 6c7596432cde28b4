"""The instruments of the palette ablation, against literal loops; its table, and its option."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gss_lite as gss
from gss_lite.contracts import IGNORE
from gss_lite.evaluation import blend_collision_rate, evaluate_palette, third_class_pixels
from gss_lite.palette import random_palette
from notebooks.experiments import palette_ablation


def ids(seed: int, *shape: int, classes: int = 5) -> torch.Tensor:
    drawn = torch.randint(classes + 1, shape, generator=torch.Generator().manual_seed(seed))
    return drawn.masked_fill(drawn == classes, IGNORE)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**31), st.integers(0, 3))
def test_third_class_pixels_by_looking_around_every_pixel(seed, reach):
    mask, read = ids(seed, 2, 6, 7), ids(seed + 1, 2, 6, 7, classes=4) % 5
    found = third_class_pixels(read, mask, reach)
    for b in range(2):
        for y in range(6):
            for x in range(7):
                near = mask[b, max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
                third = mask[b, y, x] != IGNORE and read[b, y, x] not in near
                assert bool(found[b, y, x]) == third


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

    stride = 4
    swap = None

    def encode(self, maskige):
        return maskige

    def decode(self, tokens):
        if self.swap is None:
            return tokens
        hit = (tokens == self.swap[0].view(1, 3, 1, 1)).all(1, keepdim=True)
        return torch.where(hit, self.swap[1].view(1, 3, 1, 1), tokens)


def test_scores_of_a_tokenizer_one_can_see_through():
    palette, tokenizer = random_palette(4), Lossless()
    masks = torch.zeros(3, 16, 16, dtype=torch.uint8)
    masks[:, :4] = 1
    masks[0, 0, 0] = IGNORE
    assert evaluate_palette(palette, tokenizer, masks, batch=2).scores.miou == 1
    tokenizer.swap = palette.colors[0], palette.colors[3]  # class 0 is read as 3, which is nowhere
    result = evaluate_palette(palette, tokenizer, masks, batch=2)
    assert result.scores.aacc == pytest.approx((3 * 64 - 1) / (3 * 256 - 1))
    assert result.third_class == pytest.approx(3 * 192 / (3 * 256 - 1))
    maskige, _ = gss.rebuild(palette, tokenizer, masks.long())
    read = gss.NearestColor(palette.colors).classify(maskige)
    assert torch.equal(read[0, 8:], torch.full((8, 16), 3))


def test_the_table_shows_mean_spread_and_the_papers_column():
    row = {
        "miou": [50.0, 52.0],
        "aacc": [80.0, 80.0],
        "strangers": [3.0, 5.0],
        "least_distance": [10.0, 12.0],
    }
    table = palette_ablation.table({"arithmetic": row, "ours": row, "random": row})
    lines = table.splitlines()
    assert "51.00 ± 1.41" in lines[1] and "4.00 ± 1.41" in lines[1] and "11.0" in lines[1]
    assert lines[1].endswith("85.99   94.37")
    assert lines[2].endswith("11.0") and lines[3].endswith("62.83   –")


def test_rows_of_the_same_settings_are_kept_and_their_run_is_named(tmp_path):
    path = tmp_path / "record.json"
    settings = {"classes": 11, "trials": 2}
    run = {"seconds": 9.0, "hardware": "a", "commit": "b", "torch": "c"}
    rows = {"random": {"miou": [1.0, 2.0]}, "greedy": {"miou": [3.0, 4.0]}}
    assert palette_ablation.kept_rows(path, "p", settings, 2) == ({}, [])
    path.write_text(json.dumps(run | {"preset": "p", "metrics": settings | {"rows": rows}}))
    kept, runs = palette_ablation.kept_rows(path, "p", settings, 2)
    assert kept == rows and runs == [run | {"rows": ["random", "greedy"]}]
    for other in (("q", settings, 2), ("p", settings | {"trials": 3}, 2), ("p", settings, 3)):
        assert palette_ablation.kept_rows(path, *other) == ({}, [])
    metrics = settings | {"rows": rows | {"new": {"miou": [5.0, 6.0]}}, "earlier_runs": runs}
    path.write_text(json.dumps(run | {"preset": "p", "metrics": metrics}))
    assert palette_ablation.kept_rows(path, "p", settings, 2)[1] == [
        *runs,
        run | {"rows": ["new"]},
    ]


def test_weights_without_a_presets_name_are_refused(tmp_path, capsys):
    weights = str(tmp_path / "weights.pt")
    with pytest.raises(SystemExit):
        palette_ablation.main(["--tokenizer", weights, "--data", "scenes"])
    assert "must be a file NAME.vqvae.safetensors" in capsys.readouterr().err
