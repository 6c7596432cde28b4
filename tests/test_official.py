"""Released checkpoints: the authors' reference outputs, the way there and back, and refusals."""

from __future__ import annotations

import pytest
import torch

from data_scripts.dalle_dvae import import_published
from gss_lite.dalle import DalleDVAE
from gss_lite.inverse_fitted import SwinInverse
from gss_lite.official import (
    load_released,
    released_state,
)
from gss_lite.official.names import our_order, released_order

FIXTURES = ("swin-ff", "swin-ftw", "r50-ff", "hrnet-ff")
CITY = "cityscapes-swin-l"


@pytest.fixture(scope="module")
def dvae(parity):
    model = DalleDVAE(width=8, code_dim=8)
    import_published(parity / "dvae" / "encoder.pkl", parity / "dvae" / "decoder.pkl", model)
    return model


@pytest.fixture(scope="module", params=FIXTURES)
def released(request, parity, dvae):
    """Reference outputs, our model of the same checkpoint, and its outputs."""
    path = parity / request.param / "fixture.pth"
    fixture = torch.load(path, weights_only=True)
    gss = load_released(path, dvae)
    return fixture, gss, gss.outputs(fixture["image"])


def apart(ours, expected):
    return float((ours - expected.float()).abs().max() / expected.float().abs().max())


@pytest.mark.slow
def test_features_logits_tokens_maskige_and_classes_equal_the_released_ones(released):
    fixture, gss, outputs = released
    with torch.no_grad():
        features = gss.prior.features(fixture["image"])
    assert len(features) == 4
    for ours, expected in zip(features, fixture["features"], strict=True):
        assert apart(ours, expected) < 2e-3  # stored in 16 bits
    logits = outputs.token_logits.flatten(2)[:, :, fixture["token_positions"]]
    assert apart(logits, fixture["token_logits"]) < 1e-4
    sure = fixture["token_margin"] > 1e-3
    assert sure.float().mean() > 0.9
    assert torch.equal(outputs.token_logits.argmax(1)[sure], fixture["tokens"][sure])
    assert apart(outputs.maskige, fixture["maskige"]) < 2e-3
    assert torch.equal(gss.inverse.classify(outputs.maskige), fixture["seg"].long())
    with torch.no_grad():
        votes = gss.inverse.votes(outputs.maskige)[:, :, ::16, ::16]
    assert apart(votes, fixture["seg_logits_sample"]) < 1e-4


@pytest.mark.slow
def test_training_losses_equal_the_released_ones(released):
    fixture, gss, outputs = released
    mask, losses = fixture["gt"][:, 0].long(), fixture["losses"]
    assert (mask == 255).any()
    with torch.no_grad():
        if isinstance(gss.inverse, SwinInverse):
            loss = gss.inverse.loss(outputs.maskige, mask)
            assert float(loss) == pytest.approx(losses["loss_ce"], rel=1e-4)
            with pytest.raises(ValueError, match="no auxiliary pixel head"):
                gss.losses(fixture["image"], mask)
            return
        _, scalars = gss.losses(fixture["image"], mask)
    assert float(0.8 * scalars["token"]) == pytest.approx(losses["loss_ce"], rel=1e-4)
    assert float(0.2 * scalars["pixel"]) == pytest.approx(losses["loss_ce_pixel"], rel=1e-4)


def test_the_way_there_and_back_is_bit_identical(released):
    fixture, gss, _ = released
    inverse = gss.inverse if isinstance(gss.inverse, SwinInverse) else None
    state, back = fixture["state_dict"], released_state(gss.prior, inverse)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)
    assert all(back[name].dtype == state[name].dtype for name in state)


def test_patch_merging_goes_from_channels_first_to_neighbours_first():
    name = "backbone.stages.0.downsample.norm.weight"
    theirs = torch.arange(12.0)  # 4·channel + 2·row + column
    ours = our_order(name, theirs)
    expected = [4 * c + 2 * row + column for column in (0, 1) for row in (0, 1) for c in range(3)]
    assert ours.tolist() == expected
    assert torch.equal(released_order(name, ours), theirs)
