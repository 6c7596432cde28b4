"""How vivid colours are, and whether this correlates with the frequency of their classes.

The supplement reports such a correlation for its learned palettes (section B, Figures S.7, S.8).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gss_lite.contracts import IGNORE


class Association(NamedTuple):
    """Spearman's ρ of each of S palettes (S,), their mean, and the mean's two-sided p-value."""

    each: Tensor
    mean: float
    p: float


def saturation(colors: Tensor) -> Tensor:
    """HSV's: (max − min) / max of the channels, 0 for black. (…, 3) in [0, 1] → (…)."""
    high = colors.double().amax(-1)
    low = colors.double().amin(-1)
    return (high - low) / torch.where(high > 0, high, 1.0)


def class_shares(masks: Tensor, num_classes: int) -> Tensor:
    """Masks (N, H, W) → each class's share of the labelled pixels, (K,), which sum to 1.

    Raises:
        ValueError: there is no labelled pixel, or an id is no class.
    """
    counts = torch.bincount(masks[masks != IGNORE].long(), minlength=num_classes)
    if len(counts) > num_classes or not counts.sum():
        raise ValueError(
            f"expected masks with ids 0…{num_classes - 1} or {IGNORE}, and a labelled pixel; got "
            f"ids up to {len(counts) - 1}"
        )
    return counts / counts.sum()


def ranks(values: Tensor) -> Tensor:
    """Ranks from 1 along the last dimension; equal values share their mean rank. Same shape."""
    below = (values[..., None, :] < values[..., :, None]).sum(-1)
    equal = (values[..., None, :] == values[..., :, None]).sum(-1)  # itself included
    return below + (equal + 1) / 2.0


def rank_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's ρ along the last dimension, NaN where all values are equal; others broadcast."""
    return (_standardized(a) * _standardized(b)).sum(-1)


def _standardized(values: Tensor) -> Tensor:
    """Ranks with mean 0 and length 1 along the last dimension."""
    centred = ranks(values).double()
    centred = centred - centred.mean(-1, keepdim=True)
    return centred / centred.norm(dim=-1, keepdim=True)


def permutation_test(
    values: Tensor, against: Tensor, *, draws: int = 5000, seed: int = 0
) -> Association:
    """Test whether a property of the colours correlates with one of the classes, by the mean ρ.

    The classes of `against` are permuted at random, in the same way for all palettes: these were
    learned on the same masks, so they are not S independent samples. p is the share of
    permutations, the given order included, whose |mean ρ| is at least as large.

    Args:
        values: (S, K), for example the chroma of S palettes.
        against: (K,), for example the classes' shares.
        draws: number of random permutations.
        seed: of the permutations.

    Raises:
        ValueError: the shapes do not fit, or there are fewer than 3 classes.
    """
    if values.ndim != 2 or against.shape != values.shape[1:] or len(against) < 3:
        raise ValueError(
            f"expected values (S, K) against (K,) with K of 3 or more; got {tuple(values.shape)} "
            f"and {tuple(against.shape)}"
        )
    each = rank_correlation(values, against)
    mean = float(each.mean())
    generator = torch.Generator().manual_seed(seed)
    orders = torch.stack([torch.randperm(len(against), generator=generator) for _ in range(draws)])
    # Permuting the classes permutes their ranks, so the ranks are computed once.
    x = _standardized(values)
    y = _standardized(against)
    shuffled = x.mean(0) @ y[orders].T  # (draws,): the mean over palettes of ρ
    reached = int((shuffled.abs() >= abs(mean) - 1e-12).sum())
    return Association(each, mean, (reached + 1) / (draws + 1))
