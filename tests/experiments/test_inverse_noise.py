"""Which noise teaches X⁻¹: the share of wrong pixels, and the middle checkpoint that is needed."""

from __future__ import annotations

import pytest
import torch

import gss_lite as gss
from gss_lite.data import eval_transform
from notebooks.experiments import inverse_noise


@pytest.fixture(scope="module")
def model():
    return gss.create_model("scenes-cpu", pretrained=True)


@pytest.fixture(scope="module")
def pictures():
    return gss.create_dataset("scenes-cpu", "test", transform=eval_transform())


@pytest.mark.parametrize("maskige", ["clean", "noisy"])
def test_the_wrong_share_is_that_of_the_nearest_colour(model, pictures, maskige):
    subset = torch.utils.data.Subset(pictures, range(2))
    images, masks = (torch.stack(parts) for parts in zip(*subset))
    if maskige == "clean":
        ids, _ = model.reconstruct(masks)
    else:
        ids = model.scores(images)["prediction"].argmax(1)
    known = masks != gss.contracts.IGNORE
    expected = 100 * float((ids != masks)[known].float().mean())
    share = inverse_noise.wrong_share(model, subset, maskige, 2)
    assert share == pytest.approx(expected, abs=0.3)  # maskige are kept in float16


def test_predictions_hold_more_wrong_pixels_than_reconstructions(model, pictures):
    clean, noisy = (inverse_noise.wrong_share(model, pictures, m, 4) for m in ("clean", "noisy"))
    assert clean < noisy


def test_a_prior_without_a_middle_checkpoint_is_refused(tiny_run):
    with pytest.raises(FileNotFoundError, match="--middle 0.2"):
        inverse_noise.models_of(gss.get_preset("scenes-tiny"), tiny_run)
