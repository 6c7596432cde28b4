"""Tokenizers for tests of learned palettes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gss_lite.vqvae import VQVAE


@pytest.fixture(scope="module")
def color_codes() -> VQVAE:
    """A token is one of 16 colours: the one nearest to the mean of a 4 × 4 patch."""
    model = VQVAE(vocab_size=16, stride=4, code_dim=3)
    mix = nn.Conv2d(3, 3, 1)
    with torch.no_grad():
        mix.weight.copy_(torch.eye(3)[:, :, None, None])
        mix.bias.zero_()
    model.encoder, model.decoder = nn.Sequential(nn.AvgPool2d(4), mix), nn.Upsample(scale_factor=4)
    model.codebook.codes.copy_(
        2 * torch.rand(16, 3, generator=torch.Generator().manual_seed(1)) - 1
    )
    return model.eval()
