"""Grafting: an X⁻¹ trained on one model serves another, and refuses strangers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gss_lite.factory import build_gss
from gss_lite.gss import GSS, SAME, ExpectedGSS, graft
from gss_lite.inverse import NearestColor
from gss_lite.inverse_fitted import ConvInverse
from gss_lite.presets import get_preset


def model(seed: int = 0, **changes):
    torch.manual_seed(seed)
    return build_gss(replace(get_preset("scenes-tiny"), **changes)).eval()


def test_the_graft_reads_this_models_maskige_with_that_inverse():
    # another image encoder
    first, second = model(0), model(1, head={**get_preset("scenes-tiny").head, "fuse_dim": 32})
    first.inverse = ConvInverse(first.colors, 8).eval()
    before = {k: v.clone() for k, v in second.state_dict().items()}
    merged = graft(second, first.inverse)
    image = torch.randn(1, 3, 40, 72)
    result = merged.predict(image)
    assert torch.equal(result.maskige, second.predict(image).maskige)
    assert torch.equal(result.mask, first.inverse.classify(result.maskige)[:, :40, :72])
    assert merged.prior is second.prior and merged.inverse is first.inverse and not merged.training
    assert isinstance(second.inverse, NearestColor)
    assert all(torch.equal(v, before[k]) for k, v in second.state_dict().items())


def test_colours_rounded_to_sixteen_bits_are_the_same_palette():
    gss = model()
    inverse = ConvInverse(gss.colors, 8)
    inverse.colors.copy_(inverse.colors.half())
    assert graft(gss, inverse).inverse is inverse
    inverse.colors[3] += 1.5 * SAME
    with pytest.raises(ValueError, match="another palette: 1 of 11 colours differ .class 3:"):
        graft(gss, inverse)


def test_other_classes_are_refused():
    gss = model()
    with pytest.raises(
        ValueError, match="reads 10 classes in 3 channels, but the model paints 11 in 3"
    ):
        graft(gss, ConvInverse(gss.colors[:10], 8))


def test_loading_weights_into_an_inverse_leaves_the_palette_alone():
    gss = model()
    before = gss.palette.colors.clone()
    for inverse in (ConvInverse(gss.colors, 8), gss.inverse):
        inverse.load_state_dict({**inverse.state_dict(), "colors": torch.rand(11, 3)})
    assert torch.equal(gss.palette.colors, before) and torch.equal(gss.colors, before)


def test_two_classes_exchanged_are_refused():
    gss = model()
    with pytest.raises(ValueError, match="2 of 11 colours differ"):
        graft(gss, NearestColor(gss.colors[[1, 0, *range(2, 11)]]))


def test_an_inverse_without_a_palette_is_refused():
    gss = model()
    with pytest.raises(TypeError, match="cannot graft Identity.*`colors`"):
        graft(gss, torch.nn.Identity())


def test_a_model_of_another_kind_stays_one():
    gss = model()
    expected = ExpectedGSS(gss.palette, gss.tokenizer, gss.prior, gss.inverse)
    inverse = ConvInverse(gss.colors, 8)
    assert type(graft(expected, inverse)) is ExpectedGSS and type(graft(gss, inverse)) is GSS
