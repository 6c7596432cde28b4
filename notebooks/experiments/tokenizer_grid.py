"""Stride and codebook of a tokenizer, and K channels without maskige, with one small budget.

There are two tables. Every cell is a VQ-VAE trained from scratch on masks of street scenes and
evaluated on held-out ones:

- stride 4 and 8, codebooks of 64 to 2,048, on maskige of Scenes (11 classes);
- as Table 2's rows "no maskige", the same VQ-VAE on one-hot masks of K = 11 channels; and maskige
  of 64 classes of ManyScenes.

The loss on maskige is that of stage I: a distance in colour, and the classification loss through
the nearest colour. K channels are class scores. Their loss is the cross-entropy alone, and the
prediction is the largest channel.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import gss_lite as gss
from gss_lite.contracts import IGNORE
from gss_lite.data import load_masks
from gss_lite.data.transforms import SeededAugmentation
from gss_lite.metrics import boundary_iou
from gss_lite.palette import by_neighbours
from gss_lite.presets import Schedule
from gss_lite.storage import read_json, write_json
from gss_lite.tables import text_table
from gss_lite.training.loop import fit
from gss_lite.training.tokenizer import VQVAELoss, readback_loss
from gss_lite.vqvae import Codebook
from notebooks.experiments.runner import Run, new_parser, option

PRESET = gss.get_preset("scenes-cpu")
STRIDES = (4, 8)
CODEBOOKS = (64, 256, 1024, 2048)
CODES = 1024
MANY = 64
CROP = (96, 128)


@dataclass(frozen=True)
class Cell:
    """One tokenizer.

    Attributes:
        data: "scenes" or "many-scenes".
        design: "maskige" or "channels".
    """

    data: str
    design: str
    stride: int
    codes: int

    @property
    def classes(self) -> int:
        """K."""
        return gss.Scenes.num_classes if self.data == "scenes" else MANY

    @property
    def name(self) -> str:
        """The cell's name in folders and in the record."""
        return f"{self.data}-{self.design}-s{self.stride}-v{self.codes}"


CELLS = (
    *(Cell("scenes", "maskige", stride, codes) for stride in STRIDES for codes in CODEBOOKS),
    *(Cell("scenes", "channels", stride, CODES) for stride in STRIDES),
    Cell("many-scenes", "maskige", 4, CODES),
)


@dataclass(frozen=True)
class Budget:
    """The data, the size and the training of every cell.

    Attributes:
        pictures: number of training masks of Scenes. For ManyScenes the number is 0.4 times as
            large, and the masks have twice the height and width.
        held_out: number of test masks, with the same rule.
    """

    steps: int = 300
    batch: int = 16
    lr: float = 3e-3
    warmup: int = 20
    pictures: int = 1000
    held_out: int = 100
    width: int = 64
    code_dim: int = 16
    seed: int = 0


class MaskigeStage(VQVAELoss):
    """The loss of stage I on maskige, and the classes of a rebuilt mask by the nearest colour."""

    @torch.no_grad()
    def read(self, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Mask (B, H, W) → (class ids (B, H, W), tokens (B, h, w))."""
        maskige, tokens = gss.rebuild(self.palette, self.tokenizer, mask)
        return self.inverse.classify(maskige), tokens


class OneHotStage(nn.Module):
    """A VQ-VAE that reads and writes masks as K channels, without maskige (Table 2).

    The loss is the commitment plus the cross-entropy of the K channels, with the class weights and
    the temperature of stage I. The temperature is needed, because the outputs lie near 0 and 1, and
    such logits would be too close together. The predicted class is the largest channel.
    """

    def __init__(self, tokenizer: gss.VQVAE) -> None:
        super().__init__()
        self.tokenizer = tokenizer

    def one_hot(self, mask: Tensor) -> Tensor:
        """Mask (B, H, W) → (B, K, H, W) of 0 and 1; ignored pixels are 0 in every channel."""
        classes = self.tokenizer.channels
        ids = mask.where(mask != IGNORE, classes)
        return F.one_hot(ids, classes + 1)[..., :classes].movedim(-1, 1).float()

    def forward(
        self, image: Tensor, mask: Tensor, commitment: float = 0.25
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mask (B, H, W) → (loss, scalars); the photograph is not used."""
        scores, quantized = self.tokenizer(self.one_hot(mask))  # (B, K, H, W)
        entropy = readback_loss(scores, mask)
        return entropy + commitment * quantized.commitment, {"cross_entropy": entropy.detach()}

    @torch.no_grad()
    def read(self, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Mask (B, H, W) → (class ids (B, H, W), tokens (B, h, w)), in eval mode."""
        # `decode` is not used, because it clamps to [0, 1], which makes ties.
        scores, quantized = self.tokenizer(self.one_hot(mask))
        return scores.argmax(1), quantized.tokens


@cache
def masks_of(data: str, split: str, count: int) -> Tensor:
    """Load `count` masks of Scenes, uint8 (N, 96, 128); 0.4 · count of ManyScenes (N, 192, 256)."""
    if data == "scenes":
        return load_masks(data, split, count)
    return load_masks(data, split, max(1, round(0.4 * count)), num_classes=MANY)


@cache
def palette_for(data: str, pictures: int) -> gss.Palette:
    """Make max-min colours assigned by neighbours: those of scenes-cpu, or 64 for ManyScenes."""
    if data == "scenes":
        return gss.create_palette(PRESET)
    return by_neighbours(gss.max_min_palette(MANY), masks_of(data, "train", pictures))


def build_stage(cell: Cell, budget: Budget) -> MaskigeStage | OneHotStage:
    """Make the cell's untrained VQ-VAE and its loss."""
    torch.manual_seed(budget.seed)
    size = {"width": budget.width, "code_dim": budget.code_dim}
    if cell.design == "channels":
        return OneHotStage(gss.VQVAE(cell.codes, cell.stride, channels=cell.classes, **size))
    tokenizer = gss.VQVAE(cell.codes, cell.stride, **size)
    palette = palette_for(cell.data, budget.pictures)
    return MaskigeStage(tokenizer, palette, PRESET.tokenizer.readback)


def crop_and_flip(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mask (H, W) → (an empty photograph, a crop of 96 × 128, mirrored in one case of two)."""
    top, left = (int(torch.randint(have - want + 1, ())) for have, want in zip(mask.shape, CROP))
    piece = mask[top : top + CROP[0], left : left + CROP[1]].long()
    mirrored = bool(torch.rand(()) < 0.5)
    return torch.empty(0), piece.flip(-1) if mirrored else piece


def judge(stage: MaskigeStage | OneHotStage, masks: Tensor, classes: int) -> dict:
    """Measure how well a trained stage rebuilds masks (N, H, W), and how it uses its tokens.

    Each token counts log2 V bits. IoU per class is given for 11 classes only.
    """
    tokenizer = stage.eval().tokenizer
    parts = [stage.read(part.long()) for part in masks.split(8)]
    ids, tokens = (torch.cat(series) for series in zip(*parts))
    metrics = gss.SegmentationMetrics(classes)
    metrics.update(ids, masks)
    scores = metrics.compute()
    usage, perplexity = Codebook.usage(tokens, tokenizer.vocab_size)
    found = {
        "miou": round(scores.miou, 4),
        "aacc": round(scores.aacc, 4),
        "boundary_iou": round(float(boundary_iou(ids, masks, classes, 1).nanmean()), 4),
        "usage": round(usage, 4),
        "perplexity": round(perplexity, 1),
        "tokens": tokens[0].numel(),
        "bits": round(tokens[0].numel() * math.log2(tokenizer.vocab_size)),
    }
    if classes == gss.Scenes.num_classes:
        found["iou"] = [round(v, 4) for v in scores.iou]
    return found


def step_cpu_seconds(stage: nn.Module, mask: Tensor, repeats: int = 5) -> float:
    """Measure the CPU time of a forward and backward pass: the least of several.

    Other processes on the machine hardly change it.
    """
    stage = copy.deepcopy(stage).train()  # a copy: in training mode every pass moves the codes
    spent = []
    for _ in range(repeats):
        started = time.process_time()
        loss, _ = stage(None, mask)
        loss.backward()
        spent.append(time.process_time() - started)
    return min(spent)


def run_cell(cell: Cell, budget: Budget, work: Path, *, progress: bool = True) -> dict:
    """Train and evaluate one cell. An interrupted cell continues, and a finished one is read.

    Raises:
        ValueError: `work` holds this cell with another budget.
    """
    folder = work / cell.name
    run = {"preset": "grid", "stage": cell.name, **asdict(budget)}
    path = folder / "result.json"
    if path.exists():
        kept = read_json(path)
        if kept["run"] != run:
            raise ValueError(
                f"{path} belongs to another budget ({kept['run']}, now {run}); choose another "
                "--work, or delete it"
            )
        return kept["result"]
    stage = build_stage(cell, budget)
    masks = masks_of(cell.data, "train", budget.pictures)
    values = {"lr": budget.lr, "warmup": budget.warmup, "weight_decay": 0.0}
    schedule = Schedule(budget.steps, budget.batch, CROP, **values)
    dataset = SeededAugmentation(TensorDataset(masks), crop_and_flip, budget.seed)
    options = gss.LoopOptions(progress=progress)
    log = fit(stage, stage.tokenizer, dataset, schedule, run=run, folder=folder, options=options)
    stage.cpu()
    batch = torch.stack([crop_and_flip(mask)[1] for mask in masks[: budget.batch]])
    result = {
        **asdict(cell),
        **judge(stage, masks_of(cell.data, "test", budget.held_out), cell.classes),
        "parameters": sum(p.numel() for p in stage.tokenizer.parameters()),
        "seconds": log[-1]["seconds"],
        "step_cpu_seconds": round(step_cpu_seconds(stage, batch), 3),
    }
    write_json(path, {"run": run, "result": result})
    return result


def table(results: Sequence[dict]) -> str:
    """Format the cells as lines of text."""
    facts = ("perplexity", "tokens", "bits", "parameters", "step_cpu_seconds")
    lines = {}
    for r in results:
        name = f"{r['data']}, {r['design']}, s{r['stride']}, {r['codes']}"
        shares = [f"{100 * r[key]:.2f}" for key in ("miou", "boundary_iou", "usage")]
        lines[name] = [*shares, *(str(r[fact]) for fact in facts)]
    head = ("cell", "mIoU", "boundary", "usage", "perplexity", "tokens", "bits", "parameters")
    return text_table((*head, "CPU s/step"), lines)


parser = partial(
    new_parser,
    __file__,
    __doc__,
    steps=option(Budget.steps, "of every cell"),
    pictures=option(Budget.pictures, "training masks"),
    held_out=option(Budget.held_out, "test masks"),
    width=option(Budget.width, "channels of the VQ-VAEs at full depth"),
    work="runs/tokenizer-grid",
    record="runs/tokenizer-grid.json",
)


def main(argv: list[str] | None = None) -> None:
    """Train and evaluate every cell, print the table, write the record."""
    run = Run(parser(), argv)
    given = run.given
    budget = Budget(**run.values("steps", "pictures", "held_out", "width"))
    results = []
    for cell in CELLS:
        results.append(run_cell(cell, budget, Path(given.work), progress=not given.quiet))
        print(table(results[-1:]).splitlines()[1], flush=True)
    classes = {"classes": list(gss.Scenes.classes), "many_classes": MANY}
    print(table(results))
    seconds = sum(result["seconds"] for result in results)
    metrics = {**asdict(budget), **classes, "cells": results}
    run.write(PRESET.name, metrics, seed=budget.seed, seconds=seconds)


if __name__ == "__main__":
    main()
