"""Segmentation metrics: mIoU, mAcc and aAcc from one confusion matrix, boundaries, uncertainty.

`calibration` tests whether the confidence equals the accuracy. `risk_coverage` tests whether errors
lie where the model is uncertain. The probabilities can be a pixel head's soft-max, or the class
frequencies of masks sampled from the prior (`inference.class_frequencies`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from gss_lite.contracts import IGNORE, check_mask


@dataclass(frozen=True)
class Scores:
    """Scores in [0, 1]. `iou` and `recall` have one value a class, NaN where it is undefined.

    A class without a true pixel has no recall. Its IoU is 0 if it was predicted, and NaN if not.
    The means `miou` and `macc` leave NaN out; `aacc` is the share of correct pixels.
    """

    miou: float
    macc: float
    aacc: float
    iou: tuple[float, ...]
    recall: tuple[float, ...]

    @property
    def absent(self) -> tuple[int, ...]:
        """The classes without a true pixel."""
        return tuple(k for k, value in enumerate(self.recall) if math.isnan(value))

    def absence(self, names: Sequence[str]) -> str:
        """One line that names the absent classes and how they count; empty if there are none."""
        if not self.absent:
            return ""
        line = f"no true pixel of {', '.join(names[k] for k in self.absent)}: not measured (–)"
        invented = [names[k] for k in self.absent if not math.isnan(self.iou[k])]
        if invented:
            line += f", but {', '.join(invented)} predicted, which counts as IoU 0"
        return line

    def as_dict(self) -> dict:
        """The scores for run records, with None in place of NaN, which JSON does not have."""
        record = {name: round(getattr(self, name), 6) for name in ("miou", "macc", "aacc")}
        for name in ("iou", "recall"):
            values = getattr(self, name)
            record[name] = [None if math.isnan(value) else round(value, 6) for value in values]
        return record

    def table(self, names: Sequence[str]) -> str:
        """A table in percent, one row a class, and a line that names the absent classes."""
        if len(names) != len(self.iou):
            raise ValueError(f"{len(names)} class names for {len(self.iou)} classes")
        width = max(map(len, names))
        lines = [f"{'class':<{width}}     IoU  recall"]
        for name, iou, recall in zip(names, self.iou, self.recall):
            lines.append(f"{name:<{width}}  {_percent(iou)}  {_percent(recall)}")
        if self.absent:
            lines.append(self.absence(names))
        return "\n".join(lines)


def _percent(value: float) -> str:
    return "   –  " if math.isnan(value) else f"{100 * value:6.2f}"


class SegmentationMetrics:
    """Sums a confusion matrix over batches; pixels of true id 255 are ignored.

    A class without a pixel in the true masks and in the predictions is left out of the means, as in
    mmsegmentation.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.reset()

    def update(self, predicted: Tensor, target: Tensor) -> None:
        """Add predicted ids 0…K−1 and true ids 0…K−1 or 255, (B, H, W); ValueError for others."""
        counts = confusion_matrix(predicted, target, self.num_classes)
        self.matrix = self.matrix.to(counts.device) + counts

    def compute(self) -> Scores:
        """The scores of all pixels so far; ValueError if none was labelled."""
        return scores_from_confusion(self.matrix)

    def reset(self) -> None:
        """Set all counts to zero."""
        self.matrix = torch.zeros(self.num_classes, self.num_classes, dtype=torch.long)


def confusion_matrix(predicted: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """Counts (K, K), rows true, columns predicted, of ids as `SegmentationMetrics` takes them."""
    _check_ids(predicted, target, num_classes)
    target = target.long().to(predicted.device)
    return multiclass_confusion_matrix(
        predicted, target, num_classes, ignore_index=IGNORE, validate_args=False
    )


def _check_ids(predicted: Tensor, target: Tensor, num_classes: int) -> None:
    # Unchecked, a wrong id would count for another class, or raise an index error without a name.
    if predicted.shape != target.shape:
        raise ValueError(
            f"prediction {tuple(predicted.shape)} and mask {tuple(target.shape)} must have the "
            "same size"
        )
    for name, ids in (("prediction", predicted), ("mask", target)):
        if ids.is_floating_point():
            raise ValueError(
                f"the {name} holds {ids.dtype} values; expected class ids, which are integers "
                "(argmax of logits)"
            )
    check_mask(target, num_classes)
    predicted = predicted.long()
    wrong = (predicted < 0) | (predicted >= num_classes)
    if bool(wrong.any()):
        raise ValueError(
            f"the prediction holds id {int(predicted[wrong][0])}; expected 0…{num_classes - 1} for "
            f"{num_classes} classes"
        )


def scores_from_confusion(matrix: Tensor) -> Scores:
    """Confusion matrix (K, K), rows true, columns predicted → Scores; ValueError if it is zero."""
    if not bool(matrix.any()):
        raise ValueError(
            "there is nothing to score: no pixel was counted, as where every true id is 255 "
            "(ignore)"
        )
    matrix = matrix.double()
    hit = matrix.diag()
    recall = hit / matrix.sum(1)  # 0/0 = NaN: the class does not occur
    iou = _iou(matrix)
    return Scores(
        miou=float(iou.nanmean()),
        macc=float(recall.nanmean()),
        aacc=float(hit.sum() / matrix.sum()),
        iou=tuple(iou.tolist()),
        recall=tuple(recall.tolist()),
    )


def _iou(matrix: Tensor) -> Tensor:
    """Confusion matrices (…, K, K) in float64 → IoU (…, K); 0/0 = NaN: the class does not occur."""
    hit = matrix.diagonal(dim1=-2, dim2=-1)
    return hit / (matrix.sum(-1) + matrix.sum(-2) - hit)


def paired_bootstrap(
    one: Tensor,
    other: Tensor,
    *,
    groups: Sequence[int] | None = None,
    block: int = 1,
    draws: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """A 95 % bootstrap interval (low, high) of mIoU(other) − mIoU(one).

    Each draw takes N of the N pictures with replacement, the same ones for both models. Pictures
    that are hard for both then do not widen the interval. Both means are over the classes whose IoU
    is defined for both models in this draw.

    Args:
        one, other: confusion matrices (N, K, K), one a picture, both in the same order. Or those of
            T trainings each, (T, N, K, K): the interval is that of the mean over the trainings.
        groups: the number of the drive of each picture, (N,). Every draw takes as many pictures of
            a drive as it has. With None, all pictures are one drive.
        block: number of consecutive pictures of a drive that are drawn together. Consecutive frames
            are similar, so the interval would be too narrow if they were drawn independently. A
            block that reaches the end of a drive goes on at its start (Politis and Romano, 1992).
        draws: number of draws.
        seed: of the draws.

    Raises:
        ValueError: the shapes differ, or a block is below 1 or above the size of a drive.
    """
    if one.shape != other.shape or one.ndim not in (3, 4):
        raise ValueError(
            "paired pictures need two stacks of confusion matrices (N, K, K) of one shape; got "
            f"{tuple(one.shape)} and {tuple(other.shape)}"
        )
    pictures = one.shape[-3]
    groups = [0] * pictures if groups is None else groups
    if len(groups) != pictures:
        raise ValueError(f"{pictures} pictures need as many groups; got {len(groups)}")
    times = _times_drawn(torch.as_tensor(groups), block, draws, seed)  # (draws, N)
    first = _iou(torch.einsum("dn,...nkl->d...kl", times, one.double()))  # (draws, …, K)
    second = _iou(torch.einsum("dn,...nkl->d...kl", times, other.double()))
    undefined = first.isnan() | second.isnan()
    gains = second.masked_fill(undefined, torch.nan).nanmean(-1)
    gains -= first.masked_fill(undefined, torch.nan).nanmean(-1)  # (draws, …)
    gains = gains.reshape(len(gains), -1).mean(1)  # (draws,)
    low, high = gains.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def _times_drawn(groups: Tensor, block: int, draws: int, seed: int) -> Tensor:
    """How often each picture is drawn, (draws, N), in circular blocks within each group."""
    generator = torch.Generator().manual_seed(seed)
    times = torch.zeros(draws, len(groups), dtype=torch.float64)
    for group in groups.unique():
        members = (groups == group).nonzero()[:, 0]  # (n,), in the pictures' order
        n = len(members)
        if not 1 <= block <= n:
            raise ValueError(
                f"a block must hold 1 … {n} pictures, the size of a drive; got {block}"
            )
        starts = torch.randint(n, (draws, -(-n // block)), generator=generator)
        places = (starts[:, :, None] + torch.arange(block)) % n  # (draws, blocks, block)
        picked = members[places.flatten(1)[:, :n]]  # (draws, n)
        times.scatter_add_(1, picked, torch.ones(picked.shape, dtype=torch.float64))
    return times


def boundary_iou(ids: Tensor, mask: Tensor, num_classes: int, width: int) -> Tensor:
    """IoU of the pixels near the classes' boundaries (Cheng et al., 2021).

    A pixel of a class counts if another class, or the outside of the picture, is at most `width`
    pixels away, where a diagonal step counts one (Eq. 2). All pixels of a class thinner than
    2·width + 1 count, so its boundary IoU is its IoU.

    Args:
        ids, mask: predicted and true ids (B, H, W) as in `SegmentationMetrics`. Pixels of true id
            255 are ignored, and their neighbours treat them as another class.
        num_classes: K.
        width: of the boundary in pixels, at least 1; ValueError below.

    Returns:
        (K,), over all B pictures together; NaN for a class that occurs in neither.
    """
    if width < 1:
        raise ValueError(f"the boundary must be at least 1 pixel wide; got {width}")
    _check_ids(ids, mask, num_classes)
    ids = ids.long().masked_fill(mask == IGNORE, IGNORE)
    values = []
    for k in range(num_classes):
        true = _boundary(mask == k, width)
        predicted = _boundary(ids == k, width)
        values.append((true & predicted).sum().double() / (true | predicted).sum())  # 0/0 = NaN
    return torch.stack(values)


def _boundary(inside: Tensor, width: int) -> Tensor:
    # inside is (B, H, W), bool. What lies beyond the picture is outside, as in the authors' code.
    outside = F.pad(~inside, (width,) * 4, value=True).float()
    near_outside = F.max_pool2d(outside[:, None], 2 * width + 1, stride=1)[:, 0] > 0
    return inside & near_outside


def harmonic_mean(values: Tensor | list[float]) -> float:
    """N / Σ 1/v over data sets: the score of MSeg's benchmark (Table 6)."""
    values = torch.as_tensor(values, dtype=torch.float64)
    if bool((values <= 0).any()):
        raise ValueError(f"the harmonic mean needs positive values; got {values.tolist()}")
    return float(len(values) / values.reciprocal().sum())


class Calibration(NamedTuple):
    """A reliability diagram: float64 tensors (bins,) with a value for each bin of confidence."""

    confidence: Tensor  # mean over the bin's pixels, NaN in an empty bin
    accuracy: Tensor  # likewise
    share: Tensor  # the bin's share of all pixels
    ece: float  # the expected calibration error, Σ share · |accuracy − confidence|


def calibration(probabilities: Tensor, mask: Tensor, bins: int = 15) -> Calibration:
    """Confidence and accuracy of the likeliest class (Guo et al., ICML 2017, Eqs. 2–3).

    Args:
        probabilities: (B, K, H, W), summing to 1 over K; ValueError if they do not.
        mask: true ids (B, H, W). Pixels of id 255 are left out; ValueError if no other is there.
        bins: number of bins of equal width. A confidence between two bins is in the lower one.
    """
    _check_probabilities(probabilities, mask)
    labelled = mask != IGNORE
    top, ids = probabilities.max(1)  # (B, H, W) each
    right = (ids == mask)[labelled].double()  # (N,)
    top = top[labelled].double()  # (N,)
    index = (top * bins).ceil().long().sub(1).clamp(0, bins - 1)  # (N,)
    count = torch.bincount(index, minlength=bins).double()  # (bins,)
    confidence = torch.bincount(index, top, minlength=bins) / count  # 0/0 = NaN
    accuracy = torch.bincount(index, right, minlength=bins) / count
    share = count / count.sum()
    ece = (share * (accuracy - confidence).abs()).nansum()
    return Calibration(confidence, accuracy, share, float(ece))


def risk_coverage(uncertainty: Tensor, wrong: Tensor, coverage: Sequence[float]) -> list[float]:
    """Error rate of the most certain pixels, for each share of the pixels in `coverage`.

    If wrong pixels are more uncertain than correct ones, a smaller share has a lower error rate.
    Where a share ends among equally uncertain pixels, all of these count with the same weight.

    Args:
        uncertainty: any shape, such as an entropy (`inference.entropy_map`).
        wrong: bool, of the same shape, with at least one pixel; ValueError otherwise.
        coverage: shares in (0, 1]; ValueError for others.
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
    # Group 0 holds the most certain pixels; equally uncertain ones share a group.
    _, group = uncertainty.flatten().unique(return_inverse=True)
    count = torch.bincount(group).double()  # (groups,)
    errors = torch.bincount(group, wrong.flatten().double())
    before = count.cumsum(0) - count
    rates = []
    for part in coverage:
        taken = (part * count.sum() - before).clamp(min=0).minimum(count)
        rates.append(float((errors * taken / count).sum() / taken.sum()))
    return rates


def _check_probabilities(probabilities: Tensor, mask: Tensor) -> None:
    if probabilities.ndim != 4 or probabilities[:, 0].shape != mask.shape:
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
