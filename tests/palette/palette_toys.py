"""Masks of blocks and a small X⁻¹, for tests of learned palettes."""

from __future__ import annotations

import torch

from gss_lite.inverse_fitted import ConvInverse


def blocks(count: int, classes: int, seed: int) -> torch.Tensor:
    """Masks (count, 32, 32) of 8-pixel blocks: every token sees one class."""
    ids = torch.randint(classes, (count, 4, 4), generator=torch.Generator().manual_seed(seed))
    return ids.repeat_interleave(8, 1).repeat_interleave(8, 2)


def small_inverse(colors: torch.Tensor) -> ConvInverse:
    """Make the X⁻¹ of three convolutions, eight channels wide."""
    return ConvInverse(colors, 8)
