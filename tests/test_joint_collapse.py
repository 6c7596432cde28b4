"""experiments.joint_collapse: the second term pulls colours together, the record, the table."""

import json

import pytest
import torch

from gss_lite.factory import load_tokenizer
from gss_lite.palette.constructions import random_palette
from gss_lite.palette.learned import rebuild_error
from gss_lite.presets import get_preset
from notebooks.experiments import joint_collapse
from notebooks.experiments.palette_ablation import TILE, load_masks, tiles


def test_the_rebuild_error_is_the_root_mean_square_of_labelled_pixels():
    colors = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    mask = torch.tensor([[[0, 1], [255, 1]]])
    picture = torch.zeros(1, 3, 2, 2)
    picture[0, :, 1, 0] = 9.0  # of the pixel that is ignored
    # two of three labelled pixels are off by √3
    assert float(rebuild_error(picture, mask, colors)) == pytest.approx((2 * 3 / 3) ** 0.5)


@pytest.mark.parametrize("variant", ["TF", "TT"])
def test_the_second_term_draws_colours_together(variant):
    tokenizer, masks = (
        load_tokenizer(get_preset("generic-s4")),
        tiles(load_masks("scenes", "train", 4), *TILE),
    )
    start = random_palette(11, 0)
    kept = {
        name: joint_collapse.run_variant(
            name, start, tokenizer, masks, steps=12, weight=50.0, seed=0
        )
        for name in (variant, f"{variant}, both terms")
    }
    spread = {
        name: joint_collapse.measure(*pair, tokenizer, masks[:8])["mean"]
        for name, pair in kept.items()
    }
    assert spread[f"{variant}, both terms"] < spread[variant] - 5


def test_the_record_and_its_table(tmp_path, capsys):
    path = tmp_path / "record.json"
    joint_collapse.main(
        [
            "--seeds",
            "1",
            "--steps",
            "2",
            "--pictures",
            "2",
            "--held-out",
            "2",
            "--record",
            str(path),
        ]
    )
    record = json.loads(path.read_text())
    rows = record["metrics"]["rows"]
    assert list(rows) == list(joint_collapse.VARIANTS) and record["command"].endswith(
        f"--held-out 2 --record {path}"
    )
    assert len({json.dumps(row["start"]) for row in rows.values()}) == 1  # one start for all
    assert all(
        0 <= row["end"][0]["miou"] <= 100 and row["end"][0]["least"] <= row["end"][0]["mean"]
        for row in rows.values()
    )
    assert joint_collapse.table(rows) in capsys.readouterr().out
