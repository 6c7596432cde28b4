"""python -m notebooks.experiments.tokenizer_grid: stride × codebook, and K channels without maskige, with one small budget.

Two tables, every cell a VQ-VAE trained from scratch on masks of street scenes and judged on
held-out ones:

- stride 4 and 8, codebooks of 64 to 2,048, on maskiges of Scenes (11 classes);
- as Table 2's rows "no maskige", the same VQ-VAE on one-hot masks of K = 11 channels; and maskiges
    of 64 classes of ManyScenes.

Maskige learns as in stage I, by a distance in colour and the cross-entropy of the classes read
back. K channels are class scores by themselves: their loss is that cross-entropy alone, and the
class is the largest.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from gss_lite.contracts import IGNORE
from gss_lite.data.scenes import ManyScenes, Scenes
from gss_lite.data.transforms import SeededAugmentation
from gss_lite.factory import build_palette
from gss_lite.metrics import SegmentationMetrics, boundary_iou
from gss_lite.palette import Palette, by_neighbours, max_min_palette
from gss_lite.presets import get_preset
from gss_lite.presets.parts import Schedule
from gss_lite.storage import run_record, write_json
from gss_lite.training.loop import fit
from gss_lite.training.tokenizer import VQVAEStage, readback_loss
from gss_lite.vqvae import VQVAE, Codebook

PRESET = "scenes-cpu"


STRIDES, CODEBOOKS, CODES, MANY = (4, 8), (64, 256, 1024, 2048), 1024, 64


CROP = (96, 128)


@dataclass(frozen=True)
class Cell:
    """One tokenizer: data "scenes" or "many-scenes", design "maskige" or "channels"."""

    data: str
    design: str
    stride: int
    codes: int

    @property
    def classes(self) -> int:
        """K."""
        return Scenes.num_classes if self.data == "scenes" else MANY

    @property
    def name(self) -> str:
        """For folders, and to name the cell in the record."""
        return f"{self.data}-{self.design}-s{self.stride}-v{self.codes}"


CELLS = (
    *(Cell("scenes", "maskige", stride, codes) for stride in STRIDES for codes in CODEBOOKS),
    *(Cell("scenes", "channels", stride, CODES) for stride in STRIDES),
    Cell("many-scenes", "maskige", 4, CODES),
)


@dataclass(frozen=True)
class Budget:
    """What every cell is given; `pictures` and `held_out` of Scenes, and four tenths of them, at twice the size, of ManyScenes."""

    steps: int = 300
    batch: int = 16
    lr: float = 3e-3
    warmup: int = 20
    pictures: int = 1000
    held_out: int = 100
    width: int = 64
    code_dim: int = 16
    seed: int = 0


class MaskigeStage(VQVAEStage):
    """Stage I as everywhere, and the way back: encode, decode, nearest colour."""

    @torch.no_grad()
    def read(self, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Mask (B, H, W) → (class ids (B, H, W), tokens (B, h, w))."""
        tokens = self.tokenizer.encode(self.palette(mask))
        return self.inverse.classify(self.tokenizer.decode(tokens)), tokens


class OneHotStage(nn.Module):
    """A VQ-VAE that reads and writes masks as K channels, without maskige (Table 2); its class is the arg-max channel.

    The loss is the commitment plus the cross-entropy of the K channels, with the class weights and
    the temperature of VQVAEStage's read-back: the outputs aim at 0 and 1, and as logits they would
    be too close together to learn from.
    """

    def __init__(self, tokenizer: VQVAE) -> None:
        super().__init__()
        self.tokenizer = tokenizer

    def one_hot(self, mask: Tensor) -> Tensor:
        """Mask (B, H, W) → (B, K, H, W) of 0 and 1; ignored pixels are 0 in every channel."""
        K = self.tokenizer.channels
        return F.one_hot(mask.where(mask != IGNORE, K), K + 1)[..., :K].movedim(-1, 1).float()

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
        # not decode, whose clamp to [0, 1] makes ties
        scores, quantized = self.tokenizer(self.one_hot(mask))
        return scores.argmax(1), quantized.tokens


@cache
def load_masks(data: str, split: str, count: int) -> Tensor:
    """`count` masks of Scenes, uint8 (N, 96, 128), or 0.4 · `count` of ManyScenes with 64 classes, (N, 192, 256)."""
    if data == "scenes":
        dataset = Scenes(count, split=split)
    else:
        dataset = ManyScenes(
            max(1, round(0.4 * count)), split=split, num_classes=MANY, height=192, width=256
        )
    return torch.stack([torch.as_tensor(dataset[i][1]) for i in range(len(dataset))])


@cache
def palette_for(data: str, pictures: int) -> Palette:
    """Max-min colours dealt out by neighbours in training masks: scenes-cpu's, or 64 made the same way."""
    if data == "scenes":
        return build_palette(get_preset(PRESET))
    return by_neighbours(max_min_palette(MANY), load_masks(data, "train", pictures))


def build_stage(cell: Cell, budget: Budget) -> MaskigeStage | OneHotStage:
    """The cell's VQ-VAE, untrained, in its loss."""
    torch.manual_seed(budget.seed)
    size = {
        "vocab_size": cell.codes,
        "stride": cell.stride,
        "width": budget.width,
        "code_dim": budget.code_dim,
    }
    if cell.design == "channels":
        return OneHotStage(VQVAE(**size, channels=cell.classes))
    return MaskigeStage(
        VQVAE(**size), palette_for(cell.data, budget.pictures), get_preset(PRESET).readback
    )


def crop_and_flip(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mask (H, W) → (an empty photograph, a piece of 96 × 128, mirrored half of the time)."""
    top, left = (int(torch.randint(have - want + 1, ())) for have, want in zip(mask.shape, CROP))
    piece = mask[top : top + CROP[0], left : left + CROP[1]].long()
    return torch.empty(0), piece.flip(-1) if bool(torch.rand(()) < 0.5) else piece


def judge(stage: MaskigeStage | OneHotStage, masks: Tensor, count: int) -> dict:
    """Reconstruction of masks (N, H, W) of `count` classes by a trained stage: mIoU, IoU per class (of 11), boundary IoU; usage,
    perplexity and number of tokens; bits of a picture, log2 V for each token.
    """
    tokenizer = stage.eval().tokenizer
    parts = [stage.read(part.long()) for part in masks.split(8)]
    ids, tokens = (torch.cat(series) for series in zip(*parts))
    metrics = SegmentationMetrics(count)
    metrics.update(ids, masks)
    scores, rims = metrics.compute(), boundary_iou(ids, masks, count, width=1)
    usage, perplexity = Codebook.usage(tokens, tokenizer.vocab_size)
    per_picture = tokens[0].numel()
    return {
        "miou": round(scores.miou, 4),
        "aacc": round(scores.aacc, 4),
        "boundary_iou": round(float(rims.nanmean()), 4),
        **({"iou": [round(v, 4) for v in scores.iou]} if count == Scenes.num_classes else {}),
        "usage": round(usage, 4),
        "perplexity": round(perplexity, 1),
        "tokens": per_picture,
        "bits": round(per_picture * math.log2(tokenizer.vocab_size)),
    }


def step_cpu_seconds(stage: nn.Module, mask: Tensor, repeats: int = 5) -> float:
    """CPU time of a forward and backward pass, the least of some: unlike the clock's, it does not count who else was at work."""
    # a copy: in training mode every pass moves the codes
    stage, spent = copy.deepcopy(stage).train(), []
    for _ in range(repeats):
        started = time.process_time()
        stage(None, mask)[0].backward()
        spent.append(time.process_time() - started)
    return min(spent)


def run_cell(cell: Cell, budget: Budget, work: Path, *, progress: bool = True) -> dict:
    """Train and judge one cell, or read what an earlier call left in `work`/NAME; one that was interrupted goes on.

    Raises:
        ValueError: `work` holds this cell of another budget.
    """
    folder, run = work / cell.name, {"preset": "grid", "stage": cell.name, **asdict(budget)}
    path = folder / "result.json"
    if path.exists():
        kept = json.loads(path.read_text())
        if kept["run"] != run:
            raise ValueError(
                f"{path} belongs to another budget ({kept['run']}, now {run}); choose another "
                "--work, or delete it"
            )
        return kept["result"]
    stage = build_stage(cell, budget)
    masks = load_masks(cell.data, "train", budget.pictures)
    schedule = Schedule(
        steps=budget.steps,
        batch=budget.batch,
        crop=CROP,
        lr=budget.lr,
        warmup=budget.warmup,
        weight_decay=0.0,
    )
    dataset = SeededAugmentation(TensorDataset(masks), crop_and_flip, budget.seed)
    log = fit(stage, stage.tokenizer, dataset, schedule, run=run, folder=folder, progress=progress)
    stage.cpu()
    batch = torch.stack([crop_and_flip(mask)[1] for mask in masks[: budget.batch]])
    result = {
        **asdict(cell),
        **judge(stage, load_masks(cell.data, "test", budget.held_out), cell.classes),
        "parameters": sum(p.numel() for p in stage.tokenizer.parameters()),
        "seconds": log[-1]["seconds"],
        "step_cpu_seconds": round(step_cpu_seconds(stage, batch), 3),
    }
    write_json(path, {"run": run, "result": result})
    return result


def table(results: list[dict]) -> str:
    """The cells as lines of text."""
    head = f"{'data':11s} {'design':9s} stride codes   mIoU  boundary  usage  perplexity  tokens   bits  parameters  CPU s/step"
    return "\n".join(
        [
            head,
            *(
                f"{r['data']:11s} {r['design']:9s} {r['stride']:6d} {r['codes']:5d} "
                f"{100 * r['miou']:6.2f} {100 * r['boundary_iou']:9.2f} {100 * r['usage']:5.1f}% "
                f"{r['perplexity']:11.1f} {r['tokens']:7d} {r['bits']:6d} {r['parameters']:11,} "
                f"{r['step_cpu_seconds']:11.3f}"
                for r in results
            ),
        ]
    )


def main(argv: list[str] | None = None) -> None:
    """Every cell, then the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=Budget.steps, help="of every cell")
    parser.add_argument("--pictures", type=int, default=Budget.pictures, help="training masks")
    parser.add_argument("--held-out", type=int, default=Budget.held_out, help="test masks")
    parser.add_argument(
        "--width", type=int, default=Budget.width, help="channels of the VQ-VAEs at full depth"
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("runs/tokenizer-grid"),
        help="a cell that is finished there is not trained again",
    )
    parser.add_argument("--record", type=Path, required=True)
    given = parser.parse_args(argv)
    budget = Budget(
        steps=given.steps, pictures=given.pictures, held_out=given.held_out, width=given.width
    )
    results = []
    for cell in CELLS:
        results.append(run_cell(cell, budget, given.work))
        print(table(results[-1:]).splitlines()[1], flush=True)
    write_json(
        given.record,
        run_record(
            kind="tokenizer grid",
            preset=PRESET,
            seed=budget.seed,
            steps=budget.steps,
            seconds=sum(r["seconds"] for r in results),
            metrics={
                **asdict(budget),
                "classes": list(Scenes.classes),
                "many_classes": MANY,
                "cells": results,
            },
            command=f"python -m notebooks.experiments.tokenizer_grid --steps {given.steps} "
            f"--pictures {given.pictures} --held-out {given.held_out} "
            f"--width {given.width} --record {given.record}",
        ),
    )
    print(f"{table(results)}\nrun record: {given.record}")


if __name__ == "__main__":
    main()
