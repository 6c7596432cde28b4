"""Evaluation on a data set, by one process or several: any segmenter, and stage I alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from accelerate.utils import gather_object, reduce
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from gss_lite.baselines.uvim import UViM
from gss_lite.contracts import IGNORE, Segmenter, Tokenizer
from gss_lite.data.taxonomy import LabelMap
from gss_lite.distributed import is_distributed, is_main, process_index, world_size
from gss_lite.gss import GSS, rebuild
from gss_lite.inverse import NearestColor
from gss_lite.metrics import Scores, SegmentationMetrics, confusion_matrix, scores_from_confusion
from gss_lite.palette import Palette, blend_collisions
from gss_lite.presets.parts import ViewSpec
from gss_lite.views import relabeled, view_of

TITLES = {
    "prediction": "prediction",
    "pixel_head": "auxiliary pixel head",
    "reconstruction": "reconstruction of the true masks",
    "without_code": "base model with a code of zeros",
}


@dataclass(frozen=True)
class Evaluation:
    """The results of a segmenter on a data set of N pictures.

    `evaluation.miou` is the prediction's mIoU. `evaluation["pixel_head"]` has the scores of the
    pixel head.

    Attributes:
        matrices: name → confusion matrices (N, K, K), one for each picture. For a GSS the names are
            "prediction", "pixel_head" and "reconstruction" (of the true masks, by stage I). A UViM
            has "without_code" in place of "pixel_head".
        seconds: how long the evaluation took.
        classes: the classes' names; empty if the data set has none.
    """

    matrices: dict[str, Tensor]
    seconds: float
    classes: tuple[str, ...] = ()

    def scores(self, leave_out: Collection[int] = ()) -> dict[str, Scores]:
        """{name: scores} over all pictures, without those whose numbers are in `leave_out`."""
        kept = [i for i in range(len(self)) if i not in leave_out]
        return {
            name: scores_from_confusion(matrix[kept].sum(0))
            for name, matrix in self.matrices.items()
        }

    def __getitem__(self, name: str) -> Scores:
        """The scores of one name over all pictures; KeyError if there is no such name."""
        if name not in self.matrices:
            raise KeyError(f"there is no answer {name!r}; there are: {', '.join(self.matrices)}")
        return scores_from_confusion(self.matrices[name].sum(0))

    @property
    def miou(self) -> float:
        """The prediction's mIoU in [0, 1]."""
        return self["prediction"].miou

    def table(self, title: str = TITLES["prediction"]) -> str:
        """A table of the prediction's classes in percent, and one line for each name.

        Args:
            title: the prediction's name in the table, for example "GSS-FF prediction".
        """
        prediction = self["prediction"]
        names = self.classes or tuple(f"class {k}" for k in range(len(prediction.iou)))
        lines = [prediction.table(names), "", f"{'':<34}  mIoU    mAcc    aAcc"]
        for name, scores in self.scores().items():
            label = title if name == "prediction" else TITLES.get(name, name)
            values = (scores.miou, scores.macc, scores.aacc)
            lines.append(f"{label:<32}" + "".join(f"  {100 * value:6.2f}" for value in values))
        return "\n".join(lines)

    def picture_accuracy(self) -> list[float]:
        """Pixel accuracy of the prediction in [0, 1], one value a picture."""
        matrix = self.matrices["prediction"].double()
        return (matrix.diagonal(dim1=1, dim2=2).sum(1) / matrix.sum((1, 2))).tolist()

    def __len__(self) -> int:
        """N, the number of pictures."""
        return len(self.matrices["prediction"])


def evaluate(
    model: Segmenter,
    dataset: Dataset,
    *,
    flip: bool = False,
    scales: Sequence[float] = (1.0,),
    view: ViewSpec | None = None,
    label_map: LabelMap | None = None,
    batch: int | None = None,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> Evaluation:
    """Run a segmenter over (normalised image, mask) pairs at full size.

    Args:
        model: any `Segmenter`.
        dataset: pairs of a normalised image (3, H, W) and a mask (H, W).
        flip: average class probabilities with those of the mirrored picture.
        scales: average class probabilities over the picture enlarged by these factors.
        view: windows and size; by default the model's own, see `Preset.view`.
        label_map: from the model's classes to those of the masks, where they differ. Then class
            probabilities are added up, and stage I's reconstruction is left out.
        batch: pictures at a time; by default 4, or 1 where pictures are fitted into a size.
        device: the model is moved to it; by default it stays where it is.
        progress: whether to show a progress bar.

    Raises:
        ValueError: the data set is empty.
    """
    view = view or getattr(model, "view", None) or ViewSpec()
    device = torch.device(device) if device else _device_of(model)
    model = model.to(device).eval()
    soft = flip or len(scales) > 1 or label_map is not None
    score_fn = view_of(view, flip, scales)(model.probabilities if soft else model.scores)
    if label_map is not None:
        score_fn = relabeled(score_fn, label_map)

    def classify(image: Tensor, mask: Tensor) -> dict[str, Tensor]:
        ids = {name: scores.argmax(1) for name, scores in score_fn(image).items()}
        if isinstance(model, GSS) and label_map is None:
            ids["reconstruction"] = model.reconstruct(mask)[0]
        elif isinstance(model, UViM) and view == ViewSpec():
            ids["reconstruction"] = model.reconstruct(image, mask)[0]
        return ids

    return evaluate_masks(
        classify,
        dataset,
        model.num_classes if label_map is None else len(label_map.target),
        batch=batch or (1 if view.size else 4),
        device=device,
        progress=progress,
    )


def validator(
    segmenter_of: Callable[[nn.Module], Segmenter], dataset: Dataset
) -> Callable[[nn.Module], float]:
    """A validation function for `fit`: trained network → its mIoU on `dataset`, as in `evaluate`.

    Args:
        segmenter_of: makes a segmenter of the network.
        dataset: as in `evaluate`.
    """

    def miou(network: nn.Module) -> float:
        model = segmenter_of(network).to(_device_of(network)).eval()
        view = getattr(model, "view", None) or ViewSpec()
        score_fn = view_of(view)(model.scores)
        result = evaluate_masks(
            lambda image, _: {"prediction": score_fn(image)["prediction"].argmax(1)},
            dataset,
            model.num_classes,
            batch=1 if view.size else 4,
            device=_device_of(network),
            progress=False,
        )
        return result.miou

    return miou


def _device_of(model: nn.Module) -> torch.device:
    tensor = next(model.parameters(), None)
    if tensor is None:
        tensor = next(model.buffers(), torch.empty(0))
    return tensor.device


@torch.no_grad()
def evaluate_masks(
    classify: Callable[[Tensor, Tensor], dict[str, Tensor]],
    dataset: Dataset,
    num_classes: int,
    *,
    batch: int = 4,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> Evaluation:
    """The confusion matrices of the class ids that `classify` gives for a data set.

    Of n processes, each takes every n-th picture, and all of them return the result of the whole
    set. A batch of pictures with different sizes is classified one by one.

    Args:
        classify: (normalised image (B, 3, H, W), true mask (B, H, W)) → {name: ids (B, H, W)},
            with "prediction" among the names.
        dataset, batch, device, progress: as in `evaluate`.
        num_classes: K.

    Raises:
        ValueError: the data set is empty.
    """
    if not len(dataset):
        raise ValueError("the data set to evaluate on is empty")
    mine = range(process_index(), len(dataset), world_size())
    shape = (len(dataset), num_classes, num_classes)
    matrices: dict[str, Tensor] = {}
    started = time.perf_counter()
    at = 0
    share = Subset(dataset, mine) if is_distributed() else dataset
    loader = DataLoader(share, batch_size=batch, collate_fn=_equal_sizes)
    hidden = not progress or not is_main()
    for parts in tqdm(loader, desc="evaluate", disable=hidden, mininterval=1.0):
        for image, mask in parts:
            image = image.to(device)  # (B, 3, H, W)
            mask = mask.to(device)  # (B, H, W)
            for name, ids in classify(image, mask).items():
                total = matrices.setdefault(name, torch.zeros(shape, dtype=torch.long))
                for number, found, true in zip(mine[at : at + len(mask)], ids, mask):
                    total[number] = confusion_matrix(found, true, num_classes).cpu()
            at += len(mask)
    if is_distributed():
        matrices = _summed(matrices, shape, device)
    classes = tuple(getattr(dataset, "classes", ()))
    return Evaluation(matrices, time.perf_counter() - started, classes)


def _equal_sizes(pairs: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """One batch if all pictures have the same size, else one batch for each picture."""
    if len({mask.shape for _, mask in pairs}) > 1:
        return [(image[None], mask[None]) for image, mask in pairs]
    images, masks = zip(*pairs)
    return [(torch.stack(images), torch.stack(masks))]


def _summed(
    matrices: dict[str, Tensor], shape: tuple[int, ...], device: str | torch.device
) -> dict[str, Tensor]:
    """Sum the matrices of all processes, some of which may have had no picture."""
    names = max(gather_object([list(matrices)]), key=len)
    summed = {}
    for name in names:
        mine = matrices.get(name, torch.zeros(shape, dtype=torch.long))
        summed[name] = reduce(mine.to(device), "sum").cpu()
    return summed


class Reconstruction(NamedTuple):
    """How well stage I alone reconstructs masks.

    Attributes:
        scores: of the reconstructed masks.
        third_class: share of the labelled pixels, in [0, 1], whose reconstructed class is absent
            from their surroundings, see `third_class_pixels`.
    """

    scores: Scores
    third_class: float


@torch.no_grad()
def evaluate_palette(
    palette: Palette, tokenizer: Tokenizer, masks: Tensor, *, batch: int = 8
) -> Reconstruction:
    """Masks (N, H, W) → palette → encode → decode → nearest colour → `Reconstruction`."""
    inverse = NearestColor(palette.colors)
    metrics = SegmentationMetrics(len(palette))
    third = 0
    labelled = 0
    for part in masks.split(batch):
        mask = part.long()  # (B, H, W)
        maskige, _ = rebuild(palette, tokenizer, mask)  # (B, D, H, W)
        ids = inverse.classify(maskige)  # (B, H, W)
        metrics.update(ids, mask)
        third += int(third_class_pixels(ids, mask, tokenizer.stride).sum())
        labelled += int((mask != IGNORE).sum())
    return Reconstruction(metrics.compute(), third / labelled)


def third_class_pixels(ids: Tensor, mask: Tensor, reach: int) -> Tensor:
    """The pixels whose predicted class does not occur near them in the true mask, bool (B, H, W).

    A border that moved gives wrong pixels of an adjacent class. A third class has another cause:
    its colour lies between the colours of the two adjacent classes. Ignored pixels never count.

    Args:
        ids: predicted classes (B, H, W).
        mask: true classes (B, H, W).
        reach: near means at most this many pixels along each axis.
    """
    height, width = mask.shape[1:]
    around = F.pad(mask, (reach,) * 4, value=-1)  # (B, H + 2·reach, W + 2·reach)
    found = torch.zeros_like(mask, dtype=torch.bool)
    for down in range(2 * reach + 1):
        for right in range(2 * reach + 1):
            found |= ids == around[:, down : down + height, right : right + width]
    return ~found & (mask != IGNORE)


def blend_collision_rate(colors: Tensor, border: Tensor) -> float:
    """Share in [0, 1] of the blends of two adjacent colours that are nearest to a third colour.

    Args:
        colors: β (K, D).
        border: weight of each pair of classes (K, K), from `border_lengths(masks, K)`.
    """
    return float((border * blend_collisions(colors)).sum() / border.sum())
