"""Evaluation on a data set, by one process or several: prediction, the pixel branch beside it, reconstruction alone.

Stage I judged alone: masks painted, encoded, decoded and read back, with any palette and tokenizer.

Training and evaluation of the discriminative twin, with the data, schedule and loop of stage II.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from gss_lite.baselines.pixel import PixelTwin
from gss_lite.contracts import IGNORE
from gss_lite.gss import GSS
from gss_lite.inference import (
    Scorer,
    flipped,
    mask_scorer,
    multi_scale,
    pixel_scorer,
    resized,
    sliding,
)
from gss_lite.inverse import NearestColor
from gss_lite.metrics import Scores, SegmentationMetrics, confusion_matrix, scores_from_confusion
from gss_lite.palette.palette import Palette
from gss_lite.palette.refinement import strangers as between_strangers

View = Callable[[Scorer], Scorer]


@dataclass(frozen=True)
class Evaluation:
    """Confusion matrices (N, K, K) by name, one per picture, and the seconds it took. Of a GSS: of the prediction, of the
    auxiliary pixel head, and of the reconstruction of the true masks (stage I).
    """

    matrices: dict[str, Tensor]
    seconds: float

    def scores(self, leave_out: Collection[int] = ()) -> dict[str, Scores]:
        """Scores by name over all pictures but those whose numbers are in `leave_out`."""
        kept = [i for i in range(len(self)) if i not in leave_out]
        return {
            name: scores_from_confusion(matrix[kept].sum(0))
            for name, matrix in self.matrices.items()
        }

    def picture_accuracy(self) -> list[float]:
        """Pixel accuracy of the prediction, picture by picture: what a later run can be held against without running all of it."""
        matrix = self.matrices["prediction"].double()
        return (matrix.diagonal(dim1=1, dim2=2).sum(1) / matrix.sum((1, 2))).tolist()

    def __len__(self) -> int:
        return len(self.matrices["prediction"])


def view_of(
    window: tuple[int, int] = (0, 0),
    flip: bool = False,
    size: tuple[int, int] = (0, 0),
    scales: Sequence[float] = (1.0,),
) -> View | None:
    """How a picture is looked at: brought to a size first (Preset.test_size), enlarged by several factors, by sliding windows of
    side and stride `window` (Preset.window), averaged with its mirror image.

    None for none of it: the whole picture as it is, once.
    """
    steps: list[View] = [flipped] if flip else []
    if window[0]:
        steps.append(lambda scorer: sliding(scorer, *window))
    if tuple(scales) != (1.0,):
        steps.append(lambda scorer: multi_scale(scorer, scales))
    if size[0]:
        steps.append(lambda scorer: resized(scorer, size))

    def view(scorer: Scorer) -> Scorer:
        for step in steps:
            scorer = step(scorer)
        return scorer

    return view if len(steps) > 1 else steps[0] if steps else None


def evaluate(
    gss: GSS,
    dataset: Dataset,
    *,
    view: View | None = None,
    soft: bool = False,
    batch: int = 4,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> Evaluation:
    """Run `gss` over (normalised image, mask) pairs at full size; the figures are over the pixels of the whole set.

    Args:
        view: wraps what scores a picture, see `view_of`; by default it is looked at whole. soft: it
            averages X⁻¹'s probabilities, not votes (`mask_scorer`).
    """
    gss = gss.to(device).eval()

    def classify(image: Tensor, mask: Tensor) -> dict[str, Tensor]:
        if view:
            ids = {
                "prediction": view(mask_scorer(gss, soft))(image).argmax(1),
                "pixel_head": view(pixel_scorer(gss))(image).argmax(1),
            }
        else:
            result = gss.predict(image)
            ids = {"prediction": result.mask, "pixel_head": result.pixel_mask}
        return {**ids, "reconstruction": gss.reconstruct(mask)[0]}

    return evaluate_masks(
        classify, dataset, len(gss.colors), batch=batch, device=device, progress=progress
    )


def validator(gss: GSS, dataset: Dataset, *, batch: int = 4) -> Callable[[nn.Module], float]:
    """For `fit`: a function that gives the mIoU in [0, 1] which `gss` reaches on `dataset` with the prior that it is handed."""

    def miou(prior: nn.Module) -> float:
        device = next(prior.parameters()).device
        candidate = GSS(gss.palette, gss.tokenizer, prior, gss.inverse).to(device).eval()
        result = evaluate_masks(
            lambda image, _: {"prediction": candidate.predict(image).mask},
            dataset,
            len(gss.colors),
            batch=batch,
            device=device,
            progress=False,
        )
        return result.scores()["prediction"].miou

    return miou


@torch.no_grad()
def evaluate_scores(
    scorer: Callable[[Tensor], Tensor],
    dataset: Dataset,
    num_classes: int,
    *,
    batch: int = 1,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> Evaluation:
    """The arg-max of class scores, from a function of the image as those of `gss_lite.inference`: sliding windows, flipping."""
    return evaluate_masks(
        lambda image, _: {"prediction": scorer(image).argmax(1)},
        dataset,
        num_classes,
        batch=batch,
        device=device,
        progress=progress,
    )


def evaluate_masks(
    classify: Callable[[Tensor, Tensor], dict[str, Tensor]],
    dataset: Dataset,
    num_classes: int,
    *,
    batch: int = 4,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> Evaluation:
    """Confusion matrices of what `classify` gives for each batch.

    Where torch.distributed is running, every process takes every n-th picture and all get the
    figures of the whole set.

    Args:
        classify: (normalised image (B, 3, H, W), true mask (B, H, W)) → {name: class ids (B, H,
            W)}, "prediction" among them.

    Raises:
        ValueError: the data set is empty.
    """
    if not len(dataset):
        raise ValueError("the data set to evaluate on is empty")
    several = dist.is_available() and dist.is_initialized()
    rank, processes = (dist.get_rank(), dist.get_world_size()) if several else (0, 1)
    mine = range(rank, len(dataset), processes)
    matrices: dict[str, Tensor] = {}
    started, at = time.perf_counter(), 0
    loader = DataLoader(dataset if processes == 1 else Subset(dataset, mine), batch_size=batch)
    for image, mask in tqdm(
        loader, desc="evaluate", disable=not progress or rank > 0, mininterval=1.0
    ):
        image, mask = image.to(device), mask.to(device)
        for name, ids in classify(image, mask).items():
            total = matrices.setdefault(
                name, torch.zeros(len(dataset), num_classes, num_classes, dtype=torch.long)
            )
            for number, i, m in zip(mine[at : at + len(mask)], ids, mask):
                total[number] = confusion_matrix(i, m, num_classes).cpu()
        at += len(mask)
    if processes > 1:
        matrices = _summed(matrices, (len(dataset), num_classes, num_classes), device)
    return Evaluation(matrices, time.perf_counter() - started)


def _summed(
    matrices: dict[str, Tensor], shape: tuple[int, ...], device: str | torch.device
) -> dict[str, Tensor]:
    """Every process holds the rows of its own pictures, zeros elsewhere, and with few pictures perhaps none at all."""
    names: list[list[str]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(names, list(matrices))
    summed = {}
    for name in max(names, key=len):
        total = matrices.get(name, torch.zeros(shape, dtype=torch.long)).to(device)
        dist.all_reduce(total)
        summed[name] = total.cpu()
    return summed


class Reconstruction(NamedTuple):
    """The scores, and of all labelled pixels the share (0–1) that was read as a class absent from their surroundings."""

    scores: Scores
    strangers: float


@torch.no_grad()
def reconstruct(palette: Palette, tokenizer: nn.Module, masks: Tensor) -> Tensor:
    """Masks (B, H, W), sides multiples of the stride → class ids (B, H, W) by nearest colour."""
    return NearestColor(palette.colors).classify(tokenizer.decode(tokenizer.encode(palette(masks))))


def evaluate_palette(
    palette: Palette, tokenizer: nn.Module, masks: Tensor, *, batch: int = 8
) -> Reconstruction:
    """mIoU, aAcc and strangers of the reconstruction of masks (N, H, W)."""
    metrics, strange, labelled = SegmentationMetrics(len(palette)), 0, 0
    for part in masks.split(batch):
        part = part.long()
        ids = reconstruct(palette, tokenizer, part)
        metrics.update(ids, part)
        strange += int(stranger_pixels(ids, part, tokenizer.stride).sum())
        labelled += int((part != IGNORE).sum())
    return Reconstruction(metrics.compute(), strange / labelled)


def stranger_pixels(ids: Tensor, mask: Tensor, reach: int) -> Tensor:
    """Where the class read, ids (B, H, W), occurs nowhere in the true mask within `reach` pixels along each axis → bool.

    A border that moved gives wrong pixels of the class next door. A stranger has another cause: its
        colour lies between the
    colours that met there. Ignored pixels are never strangers.
    """
    height, width = mask.shape[1:]
    around = F.pad(mask, (reach,) * 4, value=-1)
    found = torch.zeros_like(mask, dtype=torch.bool)
    for down in range(2 * reach + 1):
        for right in range(2 * reach + 1):
            found |= ids == around[:, down : down + height, right : right + width]
    return ~found & (mask != IGNORE)


def blended_strangers(colors: Tensor, border: Tensor) -> float:
    """Share (0–1) of the blends at class borders whose nearest colour belongs to a third class.

    Pairs count by their common border, `border_lengths(masks, K)`: the cost that `assign_colors`
    lowers, as a share.
    """
    return float((border * between_strangers(colors)).sum() / border.sum())


def evaluate_pixel(
    twin: PixelTwin,
    dataset: Dataset,
    *,
    view: View | None = None,
    batch: int = 4,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> Evaluation:
    """As `evaluate` for a GSS: matrices "prediction" and, without a view, "pixel_head" (the auxiliary branch)."""
    twin = twin.to(device).eval()

    def classify(image: Tensor, _: Tensor) -> dict[str, Tensor]:
        if view:
            return {"prediction": view(twin.scores)(image).argmax(1)}
        result = twin.predict(image)
        return {"prediction": result.mask, "pixel_head": result.pixel_mask}

    return evaluate_masks(
        classify, dataset, twin.num_classes, batch=batch, device=device, progress=progress
    )
