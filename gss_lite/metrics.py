"""Segmentation metrics from one confusion matrix: mIoU, mAcc (mean class recall), aAcc (pixel accuracy).

Does a model know what it does not know? Confidence against accuracy, and errors against uncertainty, pixel by pixel.

For class probabilities from anywhere: the soft-max of a pixel head, or the shares of masks sampled
    from the prior
(`inference.sample_masks`, `inference.class_frequencies`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix
from torchmetrics.functional.classification import multiclass_confusion_matrix

from gss_lite.contracts import IGNORE


@dataclass(frozen=True)
class Scores:
    """Results in [0, 1]. `iou` and `recall` hold one value per class; NaN where there is nothing to measure.

    A class of which the truth holds no pixel has no recall; its IoU is 0 where it was predicted,
    and NaN where it was not. NaN is left out of the means.
    """

    miou: float
    macc: float
    aacc: float
    iou: tuple[float, ...]
    recall: tuple[float, ...]

    @property
    def absent(self) -> tuple[int, ...]:
        """The classes of which the truth held no pixel."""
        return tuple(k for k, value in enumerate(self.recall) if value != value)

    def absence(self, names: tuple[str, ...]) -> str:
        """One line that names the absent classes and says what they count; empty where all occurred."""
        absent = [names[k] for k in self.absent]
        invented = [names[k] for k in self.absent if self.iou[k] == self.iou[k]]
        if not absent:
            return ""
        line = f"no true pixel of {', '.join(absent)}: not measured (–)"
        return line + (
            f", but {', '.join(invented)} predicted, which counts as IoU 0" if invented else ""
        )

    def as_dict(self) -> dict:
        """For run records: NaN becomes None, which JSON can hold."""
        clean = lambda values: [None if v != v else round(v, 6) for v in values]  # noqa: E731
        return {
            "miou": round(self.miou, 6),
            "macc": round(self.macc, 6),
            "aacc": round(self.aacc, 6),
            "iou": clean(self.iou),
            "recall": clean(self.recall),
        }

    def table(self, names: tuple[str, ...]) -> str:
        """A per-class table in percent, for the terminal, with a line on classes that did not occur."""
        if len(names) != len(self.iou):
            raise ValueError(f"{len(names)} class names for {len(self.iou)} classes")
        width = max(map(len, names))
        percent = lambda v: "   –  " if v != v else f"{100 * v:6.2f}"  # noqa: E731
        rows = [
            f"{n:<{width}}  {percent(i)}  {percent(r)}"
            for n, i, r in zip(names, self.iou, self.recall)
        ]
        return "\n".join(
            [f"{'class':<{width}}     IoU  recall", *rows, *filter(None, [self.absence(names)])]
        )


class SegmentationMetrics:
    """Accumulates a confusion matrix over batches (torchmetrics), ignoring pixels whose true id is 255.

    A class that occurs neither in the truth nor in the prediction is left out of the means, as
    mmsegmentation does.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.confusion = MulticlassConfusionMatrix(
            num_classes, ignore_index=IGNORE, validate_args=False
        )

    def update(self, predicted: Tensor, target: Tensor) -> None:
        """Predicted ids 0…K−1 and true ids 0…K−1 or 255, both (B, H, W); ValueError for others, or for different sizes."""
        _check_ids(predicted, target, self.num_classes)
        self.confusion.to(predicted.device).update(predicted, target.long().to(predicted.device))

    def compute(self) -> Scores:
        """Scores over everything seen so far."""
        return scores_from_confusion(self.confusion.compute())

    def reset(self) -> None:
        """Forget everything seen."""
        self.confusion.reset()


def confusion_matrix(predicted: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """Counts (K, K), rows true and columns predicted, of one picture's ids (H, W); pixels of true id 255 are left out.

    Raises:
        ValueError: as SegmentationMetrics.update.
    """
    _check_ids(predicted, target, num_classes)
    return multiclass_confusion_matrix(
        predicted, target.long(), num_classes, ignore_index=IGNORE, validate_args=False
    )


def _check_ids(predicted: Tensor, target: Tensor, num_classes: int) -> None:
    # A strange id would be counted in another class's row, or end in an index error of torch's:
    # checked here instead.
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
        ids = ids.long()
        wrong = (ids < 0) | (ids >= num_classes) & (ids != IGNORE)
        if name == "prediction":
            wrong |= ids == IGNORE
        if bool(wrong.any()):
            also = ", or 255 for ignored pixels" if name == "mask" else ""
            raise ValueError(
                f"the {name} holds id {int(ids[wrong][0])}; expected 0…{num_classes - 1} for "
                f"{num_classes} classes{also}"
            )


def scores_from_confusion(matrix: Tensor) -> Scores:
    """Confusion matrix (K, K), rows true and columns predicted → Scores.

    Raises:
        ValueError: it is all zero.
    """
    if not bool(matrix.any()):
        raise ValueError(
            "there is nothing to score: no pixel was counted, as where every true id is 255 "
            "(ignore)"
        )
    matrix = matrix.double()
    hit, true, predicted = matrix.diag(), matrix.sum(1), matrix.sum(0)
    iou, recall = hit / (true + predicted - hit), hit / true  # 0/0 = NaN: the class does not occur
    return Scores(
        float(iou.nanmean()),
        float(recall.nanmean()),
        float(hit.sum() / matrix.sum()),
        tuple(iou.tolist()),
        tuple(recall.tolist()),
    )


def paired_bootstrap(
    one: Tensor, other: Tensor, *, draws: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """What another set of pictures could say of mIoU(other) − mIoU(one): the middle 95 % over `draws` sets drawn from these.

    Both are judged on the same pictures in every draw (with replacement), so what is hard for both
    cancels.

    Args:
        one, other: confusion matrices (N, K, K), picture by picture, in the same order.

    Raises:
        ValueError: their shapes differ, or are not (N, K, K).
    """
    if one.shape != other.shape or one.ndim != 3:
        raise ValueError(
            "paired pictures need two stacks of confusion matrices (N, K, K) of one shape; got "
            f"{tuple(one.shape)} and {tuple(other.shape)}"
        )
    picked = torch.randint(
        len(one), (draws, len(one)), generator=torch.Generator().manual_seed(seed)
    )
    times = torch.zeros(draws, len(one), dtype=torch.float64).scatter_add_(
        1, picked, torch.ones(picked.shape, dtype=torch.float64)
    )

    def miou(stack: Tensor) -> Tensor:
        matrix = (times @ stack.flatten(1).double()).view(draws, *stack.shape[1:])
        hit = matrix.diagonal(dim1=1, dim2=2)
        return (hit / (matrix.sum(1) + matrix.sum(2) - hit)).nanmean(1)

    low, high = torch.quantile(
        miou(other) - miou(one), torch.tensor([0.025, 0.975], dtype=torch.float64)
    ).tolist()
    return low, high


def boundary_iou(ids: Tensor, mask: Tensor, num_classes: int, width: int) -> Tensor:
    """IoU of the classes' rims alone (Cheng et al., CVPR 2021, eq. 2): what plain IoU hides where a class has much inside.

    The rim of a class is those of its pixels that lie at most `width` pixels, diagonal steps
    counting one, from a pixel of another class or from outside the picture. A class thinner than
    2·width + 1 is all rim: its boundary IoU is its IoU.

    Args:
        ids: predicted ids 0…K−1, (B, H, W).
        mask: true ids 0…K−1, or 255 for pixels that count nowhere and, in both, bound what they
            touch.
        width: of the rim in pixels, at least 1.

    Returns:
        (K,), over all B pictures together; NaN for a class that occurs in neither.

    Raises:
        ValueError: a width below 1; else as SegmentationMetrics.update.
    """
    if width < 1:
        raise ValueError(f"the rim must be at least 1 pixel wide; got {width}")
    _check_ids(ids, mask, num_classes)
    ids = ids.long().masked_fill(mask == IGNORE, IGNORE)
    values = []
    for k in range(num_classes):
        true, predicted = _rim(mask == k, width), _rim(ids == k, width)
        values.append((true & predicted).sum().double() / (true | predicted).sum())  # 0/0 = NaN
    return torch.stack(values)


def _rim(inside: Tensor, width: int) -> Tensor:
    # (B, H, W) bool; the padding is outside, as in the authors' erosion.
    outside = F.pad(~inside, (width,) * 4, value=True).float()
    return inside & (F.max_pool2d(outside[:, None], 2 * width + 1, 1)[:, 0] > 0)


def harmonic_mean(values: Tensor | list[float]) -> float:
    """N / Σ 1/v over data sets: the figure of MSeg's benchmark (Table 6)."""
    values = torch.as_tensor(values, dtype=torch.float64)
    if bool((values <= 0).any()):
        raise ValueError(f"the harmonic mean needs positive values; got {values.tolist()}")
    return float(len(values) / values.reciprocal().sum())


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
