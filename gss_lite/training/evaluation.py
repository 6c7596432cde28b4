"""Evaluation of a whole GSS on a data set: prediction, the pixel branch beside it, and reconstruction alone."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from gss_lite.gss import GSS
from gss_lite.metrics import Scores, confusion_matrix, scores_from_confusion


@dataclass(frozen=True)
class Evaluation:
    """Confusion matrices (N, K, K), one per picture, of the prediction, of the auxiliary pixel head, and of the
    reconstruction of the true masks (stage I); and the seconds it took."""

    matrices: dict[str, Tensor]
    seconds: float

    def scores(self, leave_out: Collection[int] = ()) -> dict[str, Scores]:
        """Scores by name over all pictures but those whose numbers are in `leave_out`."""
        kept = [i for i in range(len(self)) if i not in leave_out]
        return {name: scores_from_confusion(matrix[kept].sum(0)) for name, matrix in self.matrices.items()}

    def picture_accuracy(self) -> list[float]:
        """Pixel accuracy of the prediction, picture by picture: what a later run can be held against without running all of it."""
        matrix = self.matrices["prediction"].double()
        return (matrix.diagonal(dim1=1, dim2=2).sum(1) / matrix.sum((1, 2))).tolist()

    def __len__(self) -> int:
        return len(self.matrices["prediction"])


def evaluate(gss: GSS, dataset: Dataset, *, batch: int = 4, device: str | torch.device = "cpu", progress: bool = True) -> Evaluation:
    """Run `gss` over (normalised image, mask) pairs at full size; the figures are over the pixels of the whole set."""
    if not len(dataset):
        raise ValueError("the data set to evaluate on is empty")
    gss = gss.to(device).eval()
    counts = {name: [] for name in ("prediction", "pixel_head", "reconstruction")}
    started = time.perf_counter()
    for image, mask in tqdm(DataLoader(dataset, batch_size=batch), desc="evaluate", disable=not progress, mininterval=1.0):
        image, mask = image.to(device), mask.to(device)
        result = gss.predict(image)
        for name, ids in [("prediction", result.mask), ("pixel_head", result.pixel_mask), ("reconstruction", gss.reconstruct(mask)[0])]:
            counts[name] += [confusion_matrix(i, m, len(gss.colors)).cpu() for i, m in zip(ids, mask)]
    return Evaluation({name: torch.stack(matrices) for name, matrices in counts.items()}, time.perf_counter() - started)
