"""The second term of (S.3) is a root mean square, and it draws colours together."""

from __future__ import annotations

import pytest
import torch

import gss_lite as gss
from gss_lite.data import load_masks, tiles
from gss_lite.palette import random_palette, rebuild_error
from gss_lite.storage import read_json
from notebooks.experiments import joint_collapse


def test_the_rebuild_error_is_the_root_mean_square_of_labelled_pixels():
    colors = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    mask = torch.tensor([[[0, 1], [255, 1]]])
    picture = torch.zeros(1, 3, 2, 2)
    picture[0, :, 1, 0] = 9.0  # of the pixel that is ignored
    # two of three labelled pixels are off by √3
    assert float(rebuild_error(picture, mask, colors)) == pytest.approx((2 * 3 / 3) ** 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["TF", "TT"])
def test_the_second_term_draws_colours_together(variant):
    tokenizer = gss.create_tokenizer("generic-s4", pretrained=True)
    masks = tiles(load_masks("scenes", "train", 4))
    start = random_palette(11, 0)
    means = {}
    for weight in (0.0, 50.0):
        how = {"steps": 12, "weight": weight, "seed": 0}
        pair = joint_collapse.run_variant(variant, start, tokenizer, masks, **how)
        means[weight] = joint_collapse.measure(*pair, tokenizer, masks[:8])["mean"]
    assert means[50.0] < means[0.0] - 5


@pytest.mark.slow
def test_finished_seeds_are_not_trained_again(tmp_path, monkeypatch, capsys):
    path = tmp_path / "record.json"
    words = f"--steps 1 --weights 0 --pictures 2 --held-out 2 --quiet --record {path}".split()
    joint_collapse.main([*words, "--seeds", "1"])
    first = read_json(path)
    trained = []
    real = joint_collapse.run_variant

    def run_variant(name, *arguments, **how):
        trained.append((name, how["seed"]))
        return real(name, *arguments, **how)

    monkeypatch.setattr(joint_collapse, "run_variant", run_variant)
    joint_collapse.main([*words, "--seeds", "2"])
    assert trained == [("TF", 1), ("TT", 1)]
    both = read_json(path)
    assert both["metrics"]["seeds"] == 2 and both["seconds"] > first["seconds"]
    for name, row in first["metrics"]["rows"].items():
        assert both["metrics"]["rows"][name]["end"][:1] == row["end"]
    trained.clear()
    joint_collapse.main([*words[:-2], "--held-out", "1", "--seeds", "1", *words[-2:]])
    assert trained == [("TF", 0), ("TT", 0)]  # other settings begin anew
    assert "begins anew" in capsys.readouterr().out
