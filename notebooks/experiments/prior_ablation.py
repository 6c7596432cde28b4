"""python -m notebooks.experiments.prior_ablation: Table 3 at our scale. Each cell trains a prior from scratch, with the same budget.

Three switches. *Grid*: tokens at 1/8 or 1/4 of the photograph; the tokenizer is the same, so at 1/8
    it encodes the mask at
half its size. *Auxiliary*: the pixel branch, which fills the unlabelled pixels of the targets and
    adds its cross-entropy;
without it they are painted in the palette's colour for ignored pixels. *Aggregation* (MLA): "full"
is the paper's, four levels, an MLP and shifted-window layers; "levels" leaves the shifted-window
layers out; "deepest" reads the coarsest level alone. The paper does not say what stands in the
place of MLA where it is off; its figures are put beside "levels".

Started again, it takes up the cells that its record holds, and goes on from the last checkpoint of
the one it was in.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gss_lite.contracts import IGNORE, check_mask
from gss_lite.data import dataset_for
from gss_lite.data.transforms import InMemory, SeededAugmentation, eval_transform, train_transform
from gss_lite.evaluation import evaluate_masks
from gss_lite.factory import SHIPPED, build_gss, load_tokenizer
from gss_lite.gss import GSS, resize_mask
from gss_lite.palette import paint
from gss_lite.presets import get_preset
from gss_lite.presets.parts import Preset
from gss_lite.prior import ConvBNReLU, Prior
from gss_lite.storage import run_record, write_json
from gss_lite.token_loss import token_cross_entropy
from gss_lite.training.loop import fit
from gss_lite.training.prior import PriorStage
from gss_lite.training.run import plan_hash, stage_one_hash


class Cell(NamedTuple):
    """Token grid at 1/`grid` of the photograph; auxiliary branch; aggregation "full", "levels" or "deepest"."""

    grid: int
    auxiliary: bool
    aggregation: str

    @property
    def name(self) -> str:
        """As "grid 1/4, auxiliary, levels"."""
        return f"grid 1/{self.grid}, {'auxiliary' if self.auxiliary else 'tokens only'}, {self.aggregation}"


PAPER: Mapping[Cell, tuple[float, float]] = {  # mIoU and mAcc, ADE20K val (Table 3)
    Cell(8, False, "levels"): (40.64, 52.55),
    Cell(8, True, "levels"): (43.72, 56.08),
    Cell(4, True, "levels"): (43.98, 56.11),
    Cell(4, True, "full"): (46.29, 57.84),
}


CELLS = (  # the paper's four first
    *PAPER,
    Cell(4, False, "levels"),
    Cell(4, False, "full"),
    Cell(8, True, "full"),
    Cell(8, False, "full"),
    Cell(4, True, "deepest"),
)


class OnTheEighth(nn.Module):
    """An aggregation whose grid is the second level's, at 1/8, in place of the first's."""

    def __init__(self, aggregation: nn.Module) -> None:
        super().__init__()
        self.aggregation = aggregation

    def forward(self, features: list[Tensor]) -> Tensor:
        """Feature maps, finest first → (B, C, H/8, W/8)."""
        finest = F.interpolate(
            features[0], size=features[1].shape[2:], mode="bilinear", align_corners=False
        )
        return self.aggregation([finest, *features[1:]])


class DeepestLevel(nn.Module):
    """In place of the aggregation: the coarsest map alone, 1×1 convolution, enlarged to the finest one's grid."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.project = ConvBNReLU(in_dim, out_dim)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Feature maps, finest first → (B, out_dim, H/4, W/4)."""
        return F.interpolate(
            self.project(features[-1]),
            size=features[0].shape[2:],
            mode="bilinear",
            align_corners=False,
        )


class TokensOnly(nn.Module):
    """Stage II without the auxiliary branch: forward(image, mask) gives the cross-entropy of the tokens alone."""

    def __init__(self, gss: GSS) -> None:
        super().__init__()
        self.gss = gss

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Photograph (B, 3, H, W), mask (B, H, W) → (loss, scalars)."""
        gss, stride = self.gss, self.gss.tokenizer.stride
        features = gss.prior.encode(image).token_features
        mask = resize_mask(
            check_mask(mask, len(gss.colors)),
            [side * stride for side in features.shape[2:]],
            len(gss.colors),
        )
        with torch.no_grad(), torch.autocast(mask.device.type, enabled=False):
            tokens = gss.tokenizer.encode(paint(mask, gss.colors, gss.palette.ignore_color))
        ignored = F.max_pool2d((mask != IGNORE).float(), stride) == 0
        loss, accuracy = token_cross_entropy(
            features, gss.prior.to_tokens.weight, gss.prior.to_tokens.bias, tokens, ignored
        )
        return loss, {"token": loss.detach(), "token_accuracy": accuracy}


def change(prior: Prior, cell: Cell) -> Prior:
    """The prior, turned in place into the cell's."""
    if cell.aggregation != "full":
        prior.blocks, prior.norm = nn.Identity(), nn.Identity()
    if cell.aggregation == "deepest":
        prior.aggregation = DeepestLevel(
            prior.backbone.feature_info.channels()[-1], prior.before_tokens[0].in_channels
        )
    if cell.grid == 8:
        prior.aggregation, prior.pixel_aggregation = (
            OnTheEighth(prior.aggregation),
            OnTheEighth(prior.pixel_aggregation),
        )
    return prior


def train_cell(
    cell: Cell,
    preset: Preset,
    folder: Path,
    pictures: InMemory,
    *,
    weights: str | Path,
    progress: bool,
) -> tuple[GSS, list[dict]]:
    """One cell's model, trained by `preset.prior` on `pictures`, in eval mode, and the log."""
    torch.manual_seed(preset.seed)
    gss = build_gss(preset, load_tokenizer(preset, weights), weights)
    change(gss.prior, cell).to(memory_format=torch.channels_last)
    plan = preset.prior
    data = SeededAugmentation(
        pictures,
        train_transform(
            *plan.crop, scales=plan.scales, image_size=preset.size, distortion=plan.distortion
        ),
        preset.seed,
    )
    run = {
        "preset": preset.name,
        "stage": cell.name,
        "seed": preset.seed,
        "steps": plan.steps,
        "pictures": len(pictures),
        "plan": plan_hash(preset, "prior"),
        "frozen": stage_one_hash(preset, Path(weights)),
    }
    stage = PriorStage(gss) if cell.auxiliary else TokensOnly(gss)
    return gss, fit(
        stage, gss.prior, data, plan, run=run, folder=folder, save_every=100, progress=progress
    )


def judge(gss: GSS, cell: Cell, dataset: InMemory, *, progress: bool = False) -> dict[str, dict]:
    """MIoU and mAcc in percent, by name: the prediction; the auxiliary branch, where there is one; and the true mask, encoded on
    the cell's grid and decoded again, which no prior on that grid can be expected to beat.
    """
    gss.eval()
    classes = len(gss.colors)

    def classify(image: Tensor, mask: Tensor) -> dict[str, Tensor]:
        result, size = gss.predict(image), list(mask.shape[1:])
        on_grid = resize_mask(
            mask, [gss.tokenizer.stride * (side // cell.grid) for side in size], classes
        )
        answers = {
            "prediction": result.mask,
            "reconstruction": resize_mask(gss.reconstruct(on_grid)[0], size, classes),
        }
        return {**answers, "pixel_head": result.pixel_mask} if cell.auxiliary else answers

    scores = evaluate_masks(classify, dataset, classes, batch=8, progress=progress).scores()
    return {
        name: {"miou": round(100 * s.miou, 3), "macc": round(100 * s.macc, 3)}
        for name, s in scores.items()
    }


def table(cells: Mapping[str, Mapping]) -> str:
    """A record's cells as text: mean ± standard deviation over the seeds, and the paper's mIoU and mAcc beside."""

    def spread(entry: Mapping, name: str, key: str) -> str:
        values = [result[name][key] for result in entry["results"].values() if name in result]
        return (
            f"{statistics.mean(values):6.2f} ± "
            f"{statistics.stdev(values) if len(values) > 1 else 0:4.2f}"
            if values
            else f"{'–':>13s}"
        )

    lines = [
        f"{'cell':34s} {'mIoU':>13s} {'mAcc':>13s} {'pixel head':>13s} {'true tokens':>13s} "
        f"{'parameters':>10s}   mIoU / mAcc (paper)"
    ]
    for name, entry in cells.items():
        paper = "–" if entry["paper"] is None else " / ".join(f"{v:.2f}" for v in entry["paper"])
        figures = [
            spread(entry, *what)
            for what in (
                ("prediction", "miou"),
                ("prediction", "macc"),
                ("pixel_head", "miou"),
                ("reconstruction", "miou"),
            )
        ]
        lines.append(f"{name:34s} {' '.join(figures)} {entry['parameters']:10,d}   {paper}")
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    main = argparse.ArgumentParser(
        prog="python -m notebooks.experiments.prior_ablation", description=__doc__.splitlines()[0]
    )
    main.add_argument("--preset", default="scenes-cpu")
    main.add_argument(
        "--weights",
        default=str(SHIPPED),
        help="folder of palette and tokenizer (default: the shipped ones)",
    )
    main.add_argument(
        "--data", help="folder of the data set (default: $GSS_DATA/NAME, then data/NAME)"
    )
    main.add_argument("--seeds", type=int, default=1)
    main.add_argument(
        "--cells",
        type=int,
        default=len(CELLS),
        help=f"how many of the {len(CELLS)} (default: all; 4: the paper's)",
    )
    main.add_argument(
        "--steps",
        type=int,
        default=300,
        help="of every cell (default: 300, about two minutes on two cores)",
    )
    main.add_argument(
        "--pictures", type=int, default=2000, help="different training pictures (default: 2000)"
    )
    main.add_argument("--judged", type=int, default=100, help="validation pictures (default: 100)")
    main.add_argument(
        "--work", type=Path, help="folder for checkpoints (default: runs/PRESET/prior-ablation)"
    )
    main.add_argument(
        "--record",
        type=Path,
        help="where to write the run record (default: runs/PRESET/prior-ablation.json)",
    )
    main.add_argument("--quiet", action="store_true", help="no progress bars")
    return main


def main(argv: list[str] | None = None) -> None:
    """Every cell for every seed; the record is written after each, the table printed at the end."""
    given = parser().parse_args(argv)
    preset = get_preset(given.preset)
    short = replace(preset.prior, steps=given.steps, warmup=max(1, given.steps // 10), ema=0.98)
    preset = replace(preset, train_pictures=given.pictures, eval_pictures=given.judged, prior=short)
    pictures = InMemory(dataset_for(preset, "train", folder=given.data))
    judged = InMemory(dataset_for(preset, "val", folder=given.data, transform=eval_transform()))
    work, path = (
        given.work or Path(f"runs/{preset.name}/prior-ablation"),
        given.record or Path(f"runs/{preset.name}/prior-ablation.json"),
    )
    settings = {
        "classes": len(judged.dataset.classes),
        "pictures": len(pictures),
        "judged": len(judged),
        "split": "val",
        "batch": short.batch,
        "lr": short.lr,
        "plan": plan_hash(preset, "prior"),
        "stage_one": stage_one_hash(preset, Path(given.weights)),
    }
    before = json.loads(path.read_text()) if path.exists() else {}
    same = (
        before.get("steps") == given.steps and settings.items() <= before.get("metrics", {}).items()
    )
    cells, spent = (before["metrics"]["cells"], before["seconds"]) if same else ({}, 0.0)
    line = shlex.join(
        [
            "python",
            "-m",
            "notebooks.experiments.prior_ablation",
            *(sys.argv[1:] if argv is None else argv),
        ]
    )
    for seed in range(given.seeds):
        for cell in CELLS[: given.cells]:
            if str(seed) in cells.get(cell.name, {}).get("results", {}):
                continue
            started = time.perf_counter()
            folder = (
                work
                / f"seed-{seed}"
                / cell.name.replace(", ", "-").replace(" ", "-").replace("/", "-")
            )
            gss, log = train_cell(
                cell,
                replace(preset, seed=seed),
                folder,
                pictures,
                weights=given.weights,
                progress=not given.quiet,
            )
            result = {
                **judge(gss, cell, judged),
                "seconds": log[-1]["seconds"],
                "token_accuracy": log[-1]["token_accuracy"],
                "log": [{"step": e["step"], "token": e["token"]} for e in log],
            }
            entry = cells.setdefault(
                cell.name,
                {
                    **cell._asdict(),
                    "paper": PAPER.get(cell),
                    "parameters": sum(p.numel() for p in used(gss.prior, cell)),
                    "results": {},
                },
            )
            entry["results"][str(seed)] = result
            spent += time.perf_counter() - started
            write_json(
                path,
                run_record(
                    kind="prior ablation",
                    preset=preset.name,
                    seed=0,
                    steps=given.steps,
                    seconds=spent,
                    command=line,
                    metrics={
                        **settings,
                        "seeds": max(len(e["results"]) for e in cells.values()),
                        "cells": cells,
                    },
                ),
            )
            print(
                f"seed {seed}  {cell.name:34s}  mIoU {result['prediction']['miou']:.2f}  "
                f"{result['seconds']:.0f} s",
                flush=True,
            )
    print(f"\n{table(cells)}\n\nrun record: {path}")


def used(prior: Prior, cell: Cell) -> list[nn.Parameter]:
    """The parameters that the cell trains: all, less the auxiliary branch's where it is off."""
    unused = () if cell.auxiliary else ("pixel_aggregation.", "to_classes.")
    return [p for name, p in prior.named_parameters() if not name.startswith(unused)]


if __name__ == "__main__":
    main()
