"""The second term of (S.3) is a root mean square, and it draws colours together."""

from __future__ import annotations

import pytest
import torch

import gss_lite as gss
from gss_lite.data import load_masks, tiles
from gss_lite.palette import random_palette, rebuild_error
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
