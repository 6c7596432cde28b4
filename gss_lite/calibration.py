"""Does a model know what it does not know? Confidence against accuracy, and errors against uncertainty, pixel by pixel.

For class probabilities from anywhere: the soft-max of a pixel head, or the shares of masks sampled
    from the prior
(`inference.sample_masks`, `inference.class_frequencies`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

IGNORE = 255


class Calibration(NamedTuple):
    """A reliability diagram: for each bin of confidence the mean confidence, the accuracy (both NaN where it is empty) and its share of
    the pixels, all (bins,), float64; `ece`, the expected calibration error: Σ share · |accuracy −
    confidence|.
    """

    confidence: Tensor
    accuracy: Tensor
    share: Tensor
    ece: float


def calibration(probabilities: Tensor, mask: Tensor, bins: int = 15) -> Calibration:
    """Confidence and accuracy of the likeliest class (Guo et al., ICML 2017, eqs. 2–3), over the labelled pixels.

    Args:
        probabilities: (B, K, H, W), summing to 1 over K. mask: true ids (B, H, W), 255 = ignore.
        bins: of equal width; a confidence on a border belongs to the bin below.

    Raises:
        ValueError: shapes that do not belong together, values outside [0, 1], or no labelled pixel.
    """
    _check(probabilities, mask)
    labelled = mask != IGNORE
    top, ids = probabilities.max(1)
    top, right = top[labelled].double(), (ids == mask)[labelled].double()
    index = (top * bins).ceil().long().sub(1).clamp(0, bins - 1)
    count = torch.bincount(index, minlength=bins).double()
    # 0/0 = NaN
    confidence, accuracy = (
        torch.bincount(index, value, minlength=bins) / count for value in (top, right)
    )
    share = count / count.sum()
    ece = float((share * (accuracy - confidence).abs()).nansum())
    return Calibration(confidence, accuracy, share, ece)


def risk_coverage(uncertainty: Tensor, wrong: Tensor, coverage: Sequence[float]) -> list[float]:
    """Error rate among the most certain part of the pixels, for each part in `coverage`.

    It falls as the coverage does if uncertainty tells wrong pixels from right ones. Pixels of equal
    uncertainty at the border of a part count with the share of them that it takes, so that their
    order plays no role.

    Args:
        uncertainty: any shape; as entropy (`inference.entropy_map`). wrong: bool, of the same
            shape.
        coverage: parts in (0, 1].

    Raises:
        ValueError: different shapes, no pixel, or a part that is none.
    """
    if uncertainty.shape != wrong.shape or not wrong.numel():
        raise ValueError(
            f"uncertainty {tuple(uncertainty.shape)} and wrong {tuple(wrong.shape)} must have one "
            "shape, and a pixel at least"
        )
    if not all(0 < part <= 1 for part in coverage):
        raise ValueError(
            f"coverage is a part of the pixels, above 0 and at most 1; got {list(coverage)}"
        )
    # sorted: group 0 is the most certain
    _, group = uncertainty.flatten().unique(return_inverse=True)
    count = torch.bincount(group).double()
    errors = torch.bincount(group, wrong.flatten().double())
    before = count.cumsum(0) - count
    rates = []
    for part in coverage:
        taken = (part * count.sum() - before).clamp(min=0).minimum(count)
        rates.append(float((errors * taken / count).sum() / taken.sum()))
    return rates


def _check(probabilities: Tensor, mask: Tensor) -> None:
    if probabilities.ndim != 4 or (probabilities.shape[0], *probabilities.shape[2:]) != tuple(
        mask.shape
    ):
        raise ValueError(
            "expected probabilities (B, K, H, W) and a mask (B, H, W); got "
            f"{tuple(probabilities.shape)} and {tuple(mask.shape)}"
        )
    if bool((probabilities < 0).any()) or bool((probabilities.sum(1) - 1).abs().max() > 1e-3):
        raise ValueError(
            "probabilities must be at least 0 and sum to 1 over the classes; these do not (are "
            "they logits?)"
        )
    if not bool((mask != IGNORE).any()):
        raise ValueError("no pixel of the mask is labelled: every id is 255 (ignore)")
