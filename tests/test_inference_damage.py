"""Damage to maskige and to tokens: as much as asked for, and nested for one seed."""

from __future__ import annotations

import pytest
import torch

from gss_lite.inference import noisy_pixels, wrong_tokens


def test_noise_has_the_size_asked_for():
    grey = torch.full((2, 3, 64, 64), 0.5)
    assert torch.equal(noisy_pixels(grey, 0.0), grey)
    difference = noisy_pixels(grey, 0.2, seed=1) - grey
    assert float(difference.std()) == pytest.approx(0.2, rel=0.02)
    assert abs(float(difference.mean())) < 0.01
    assert torch.equal(noisy_pixels(grey, 0.2, seed=1), grey + difference)
    assert not torch.equal(noisy_pixels(grey, 0.2, seed=2), grey + difference)


def test_wrong_tokens_are_as_many_as_asked_for_and_come_from_the_batch():
    tokens = 3 * torch.arange(4 * 20 * 20).view(4, 20, 20)  # all different
    assert torch.equal(wrong_tokens(tokens, 0.0), tokens)
    few, many = wrong_tokens(tokens, 0.1), wrong_tokens(tokens, 0.4)
    assert float((few != tokens).float().mean()) == pytest.approx(0.1, abs=0.025)
    assert float((many != tokens).float().mean()) == pytest.approx(0.4, abs=0.04)
    assert torch.isin(many, tokens).all()
    hit = few != tokens
    assert torch.equal(few[hit], many[hit])  # damage at a higher rate goes on from the lower


@pytest.mark.parametrize("rate", [-0.1, 1.5])
def test_a_rate_is_a_share(rate):
    with pytest.raises(ValueError, match="0…1"):
        wrong_tokens(torch.zeros(1, 2, 2, dtype=torch.long), rate)
