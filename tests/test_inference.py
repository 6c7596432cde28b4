"""Sampling, entropy and expected codes against brute force."""

from __future__ import annotations

import math

import pytest
import torch
from live_models import padded_by_hand
from torch import nn

from gss_lite.gss import GSS
from gss_lite.inference import (
    ExpectedGSS,
    class_frequencies,
    entropy_map,
    expected_maskige,
    sample_masks,
    sample_tokens,
    token_entropy,
)
from gss_lite.palette import paint


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_tokens_are_drawn_from_the_tempered_softmax(temperature):
    logits = torch.tensor([1.0, 0.0, -2.0, 0.5])[None, :, None, None].expand(1, 4, 200, 200)
    tokens = sample_tokens(logits, temperature, torch.Generator().manual_seed(0))
    counted = torch.bincount(tokens.flatten(), minlength=4) / tokens.numel()
    expected = (logits[0, :, 0, 0] / temperature).softmax(0)
    torch.testing.assert_close(counted, expected, atol=0.01, rtol=0)  # 4 standard errors
    assert torch.equal(tokens, sample_tokens(logits, temperature, torch.Generator().manual_seed(0)))


def test_a_temperature_near_zero_is_the_arg_max(tiny_gss):
    image = torch.randn(1, 3, 45, 32)
    masks = sample_masks(tiny_gss, image, 3, 1e-6)
    assert masks.shape == (3, 1, 45, 32)
    assert (masks == tiny_gss.predict(image).mask).all()
    with pytest.raises(ValueError, match="above 0; got 0"):
        sample_masks(tiny_gss, image, 1, 0)


class Direct(nn.Module):
    """A tokenizer whose token k is a 4 × 4 patch of class k's colour."""

    vocab_size, stride = 11, 4

    def __init__(self, colors):
        super().__init__()
        self.colors = colors

    def decode(self, tokens):
        return paint(tokens.repeat_interleave(4, 1).repeat_interleave(4, 2), self.colors)


@pytest.mark.slow
def test_frequencies_of_samples_are_the_models_probabilities(tiny_gss):
    prior = tiny_gss.prior
    prior.to_tokens = nn.Conv2d(prior.to_tokens.in_channels, 11, 1)
    nn.init.normal_(prior.to_tokens.weight, std=2.0)
    direct = Direct(tiny_gss.colors)
    gss = GSS(tiny_gss.palette, direct, prior, tiny_gss.inverse).eval()
    image = torch.randn(1, 3, 32, 32)
    for temperature in (0.5, 2.0):
        masks = sample_masks(gss, image, 2000, temperature, torch.Generator().manual_seed(0))
        shares = class_frequencies(masks, 11)
        exact = (prior(image).token_logits / temperature).softmax(1).detach()
        exact = exact.repeat_interleave(4, 2).repeat_interleave(4, 3)
        # Five standard errors of a share, and of an entropy.
        torch.testing.assert_close(shares, exact, atol=0.056, rtol=0)
        assert float((shares - exact).abs().mean()) < 0.01
        torch.testing.assert_close(entropy_map(shares), entropy_map(exact), atol=0.15, rtol=0)


def test_the_photograph_goes_through_the_prior_once(tiny_gss, monkeypatch):
    calls = []
    forward = type(tiny_gss.prior).forward
    monkeypatch.setattr(
        type(tiny_gss.prior), "forward", lambda *args: calls.append(1) or forward(*args)
    )
    assert len(sample_masks(tiny_gss, torch.randn(2, 3, 32, 32), 5)) == 5 and len(calls) == 1


def test_frequencies_and_entropy_by_hand():
    # 4 samples of one 1 × 2 picture
    masks = torch.tensor([[[[0, 1]]], [[[0, 2]]], [[[0, 1]]], [[[0, 1]]]])
    shares = class_frequencies(masks, 3)
    assert shares[0, :, 0].T.tolist() == [[1, 0, 0], [0, 0.75, 0.25]]
    expected = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    torch.testing.assert_close(entropy_map(shares)[0, 0], torch.tensor([0.0, expected]))


def test_token_entropy_is_that_of_the_softmax():
    logits = 5 * torch.randn(2, 9, 3, 4)
    p = logits.double().softmax(1)
    expected = -(p * p.log()).sum(1)
    torch.testing.assert_close(token_entropy(logits).double(), expected, atol=1e-5, rtol=1e-5)
    uniform = token_entropy(torch.zeros(1, 9, 1, 1))
    torch.testing.assert_close(uniform, torch.full((1, 1, 1), math.log(9)))
    sure = torch.zeros(1, 9, 1, 1).index_fill_(1, torch.tensor(2), 1e4)
    assert token_entropy(sure) == 0


class TestExpectedCodes:
    def test_they_change_the_maskige_and_nothing_else(self, tiny_gss):
        image = torch.randn(2, 3, 50, 70)
        plain, ours = tiny_gss.predict(image), ExpectedGSS.of(tiny_gss).predict(image)
        with torch.no_grad():
            logits = tiny_gss.prior(padded_by_hand(image)).token_logits
        maskige = expected_maskige(logits, tiny_gss.tokenizer)
        torch.testing.assert_close(ours.maskige, maskige[:, :, :50, :70])
        assert torch.equal(ours.mask, tiny_gss.inverse.classify(maskige)[:, :50, :70])
        assert torch.equal(ours.tokens, plain.tokens)
        assert torch.equal(ours.pixel_mask, plain.pixel_mask)
        assert float((ours.maskige - plain.maskige).abs().max()) > 1e-3
        scores = ExpectedGSS.of(tiny_gss).scores(image)
        assert torch.equal(scores["prediction"].argmax(1), ours.mask)

    def test_they_are_the_mean_of_the_code_vectors(self, tiny_gss):
        logits = torch.randn(1, 32, 2, 3)
        codes = tiny_gss.tokenizer.code_vectors()
        for temperature in (1.0, 0.3):
            p = (logits / temperature).softmax(1)
            vectors = torch.einsum("bvhw,vc->bchw", p, codes)
            expected = tiny_gss.tokenizer.decode_vectors(vectors).detach()
            for at_once in (4, 4096):
                found = expected_maskige(logits, tiny_gss.tokenizer, temperature, at_once=at_once)
                torch.testing.assert_close(found, expected)

    def test_the_k_likeliest_alone_are_taken_renormalised(self, tiny_gss):
        logits = torch.randn(1, 32, 2, 3)
        least = logits.topk(3, 1).values[:, -1:]
        cut = logits.masked_fill(logits < least, -torch.inf)
        found = expected_maskige(logits, tiny_gss.tokenizer, top_k=3)
        torch.testing.assert_close(found, expected_maskige(cut, tiny_gss.tokenizer))
        one = expected_maskige(logits, tiny_gss.tokenizer, top_k=1)
        torch.testing.assert_close(one, tiny_gss.tokenizer.decode(logits.argmax(1)))

    def test_a_prior_that_is_sure_expects_what_it_predicts(self, tiny_gss):
        with torch.no_grad():
            tiny_gss.prior.to_tokens.weight.mul_(1e8)
        image = torch.randn(1, 3, 64, 64)
        ours = ExpectedGSS.of(tiny_gss).predict(image).maskige
        torch.testing.assert_close(ours, tiny_gss.predict(image).maskige, atol=1e-3, rtol=0)

    def test_reconstruction_knows_its_tokens(self, tiny_gss):
        mask = torch.randint(11, (1, 32, 32))
        ours = ExpectedGSS.of(tiny_gss).reconstruct(mask)
        for found, plain in zip(ours, tiny_gss.reconstruct(mask), strict=True):
            assert torch.equal(found, plain)

    @pytest.mark.parametrize(
        "logits, more, message",
        [
            (torch.zeros(1, 31, 2, 2), {}, r"token logits \(B, 32, h, w\); got \(1, 31, 2, 2\)"),
            (torch.zeros(1, 32, 2, 2), {"temperature": 0.0}, "temperature must be positive; got 0"),
            (torch.zeros(1, 32, 2, 2), {"top_k": 0}, "top_k must lie in 1…32; got 0"),
            (torch.zeros(1, 32, 2, 2), {"top_k": 33}, "top_k must lie in 1…32; got 33"),
        ],
    )
    def test_what_cannot_be_meant_is_refused(self, tiny_gss, logits, more, message):
        with pytest.raises(ValueError, match=message):
            expected_maskige(logits, tiny_gss.tokenizer, **more)
