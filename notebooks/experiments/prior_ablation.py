"""Table 3 at our scale: each cell trains a prior from scratch, with the same budget.

There are three switches. *Grid*: tokens at 1/8 or 1/4 of the photograph. The tokenizer is the same,
so at 1/8 it encodes the mask at half its size. *Auxiliary*: the pixel branch, which fills the
unlabelled pixels of the targets and adds its cross-entropy. Without it, these pixels have the
palette's colour for ignored pixels. *Aggregation* (MLA): "full" is the paper's, with four levels,
an MLP and shifted-window layers. "levels" omits the shifted-window layers, and "deepest" reads the
coarsest level alone. The paper does not say what replaces MLA when it is off. Its figures without
MLA are printed beside "levels".

Started again, the command skips the cells in its record, and continues the interrupted cell from
its last checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

import gss_lite as gss
from gss_lite.contracts import IGNORE, check_mask
from gss_lite.data.transforms import InMemory
from gss_lite.evaluation import evaluate_masks
from gss_lite.factory import stage_one_hashes
from gss_lite.prior import ConvBNReLU
from gss_lite.storage import read_json
from gss_lite.tables import spread, text_table
from gss_lite.token_loss import token_cross_entropy
from gss_lite.training.run import Job, schedule_hash
from gss_lite.views import resize_mask
from notebooks.experiments.runner import Run, fit_prior, new_parser, option


class Cell(NamedTuple):
    """One prior.

    Attributes:
        grid: the grid of tokens has 1/`grid` of the photograph's height and width.
        auxiliary: whether it has the auxiliary branch.
        aggregation: "full", "levels" or "deepest".
    """

    grid: int
    auxiliary: bool
    aggregation: str

    @property
    def name(self) -> str:
        """The cell's name, as "grid 1/4, auxiliary, levels"."""
        branch = "auxiliary" if self.auxiliary else "tokens only"
        return f"grid 1/{self.grid}, {branch}, {self.aggregation}"


PAPER: Mapping[Cell, tuple[float, float]] = {  # mIoU and mAcc on ADE20K val (Table 3)
    Cell(8, False, "levels"): (40.64, 52.55),
    Cell(8, True, "levels"): (43.72, 56.08),
    Cell(4, True, "levels"): (43.98, 56.11),
    Cell(4, True, "full"): (46.29, 57.84),
}
CELLS = (
    *PAPER,  # the paper's four come first
    Cell(4, False, "levels"),
    Cell(4, False, "full"),
    Cell(8, True, "full"),
    Cell(8, False, "full"),
    Cell(4, True, "deepest"),
)


class OnTheEighth(nn.Module):
    """An aggregation on the grid of the second level, at 1/8, instead of the first level."""

    def __init__(self, aggregation: nn.Module) -> None:
        super().__init__()
        self.aggregation = aggregation

    def forward(self, features: list[Tensor]) -> Tensor:
        """Feature maps, finest first → (B, C, H/8, W/8)."""
        grid = features[1].shape[2:]
        finest = F.interpolate(features[0], size=grid, mode="bilinear", align_corners=False)
        return self.aggregation([finest, *features[1:]])


class DeepestLevel(nn.Module):
    """Replaces the aggregation by the coarsest map, enlarged to the grid of the finest map."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.project = ConvBNReLU(in_dim, out_dim)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Feature maps, finest first → (B, out_dim, H/4, W/4)."""
        x = self.project(features[-1])  # (B, out_dim, H/32, W/32)
        grid = features[0].shape[2:]
        return F.interpolate(x, size=grid, mode="bilinear", align_corners=False)


class TokensOnly(nn.Module):
    """Stage II without the auxiliary branch: its loss is the cross-entropy of the tokens alone."""

    def __init__(self, model: gss.GSS) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Photographs (B, 3, H, W), masks (B, H, W) → (loss, scalars)."""
        model = self.model
        stride = model.tokenizer.stride
        features = model.prior.encode(image).token_features  # (B, C, h, w)
        size = [side * stride for side in features.shape[2:]]
        mask = check_mask(mask, model.num_classes)
        mask = resize_mask(mask, size, model.num_classes)  # (B, h·stride, w·stride)
        with torch.no_grad(), torch.autocast(mask.device.type, enabled=False):
            tokens = model.tokenizer.encode(model.palette(mask))  # (B, h, w)
        ignored = F.max_pool2d((mask != IGNORE).float(), stride) == 0  # (B, h, w)
        last = model.prior.to_tokens
        loss, accuracy = token_cross_entropy(features, last.weight, last.bias, tokens, ignored)
        return loss, {"token": loss.detach(), "token_accuracy": accuracy}


def change(prior: gss.Prior, cell: Cell) -> gss.Prior:
    """Change the prior in place into the cell's prior."""
    if cell.aggregation != "full":
        prior.blocks = nn.Identity()
        prior.norm = nn.Identity()
    if cell.aggregation == "deepest":
        deepest = prior.backbone.feature_info.channels()[-1]
        prior.aggregation = DeepestLevel(deepest, prior.before_tokens[0].in_channels)
    if cell.grid == 8:
        prior.aggregation = OnTheEighth(prior.aggregation)
        prior.pixel_aggregation = OnTheEighth(prior.pixel_aggregation)
    return prior


def build(preset: gss.Preset, weights: str | Path, cell: Cell) -> gss.GSS:
    """Make the cell's model: a trained tokenizer, its palette, and an untrained prior."""
    palette = gss.create_palette(preset, weights)
    tokenizer = gss.create_tokenizer(preset, pretrained=weights)
    prior = change(gss.create_prior(preset), cell)
    return gss.GSS(palette, tokenizer, prior, gss.NearestColor(palette.colors))


def train_cell(
    cell: Cell, job: Job, pictures: InMemory, weights: str | Path
) -> tuple[gss.GSS, list[dict]]:
    """Train one cell on `pictures` by the preset's schedule → its model, and the log."""
    torch.manual_seed(job.preset.seed)
    model = build(job.preset, weights, cell)
    model.prior.to(memory_format=torch.channels_last)
    loss_fn = None if cell.auxiliary else TokensOnly(model)
    return model, fit_prior(model, job, cell.name, pictures, loss_fn)


@torch.no_grad()
def judge(
    model: gss.GSS, cell: Cell, dataset: Dataset, device: str | torch.device = "cpu"
) -> dict[str, dict]:
    """Measure mIoU and mAcc in percent: of the prediction, the auxiliary branch, and true masks.

    For "reconstruction", the true masks are encoded on the cell's grid and decoded again. A prior
    on that grid is not expected to be better.
    """
    model = model.to(device).eval()
    classes = model.num_classes

    def classify(image: Tensor, mask: Tensor) -> dict[str, Tensor]:
        found = model.predict(image)
        sides = list(mask.shape[1:])
        small = [model.tokenizer.stride * (side // cell.grid) for side in sides]
        rebuilt, _ = model.reconstruct(resize_mask(mask, small, classes))
        answers = {"prediction": found.mask, "reconstruction": resize_mask(rebuilt, sides, classes)}
        return {**answers, "pixel_head": found.pixel_mask} if cell.auxiliary else answers

    how = {"batch": 8, "device": device, "progress": False}
    scores = evaluate_masks(classify, dataset, classes, **how).scores()
    return {
        name: {"miou": round(100 * s.miou, 3), "macc": round(100 * s.macc, 3)}
        for name, s in scores.items()
    }


def used(prior: gss.Prior, cell: Cell) -> list[nn.Parameter]:
    """List the parameters that the cell trains; without the auxiliary branch if it is off."""
    unused = () if cell.auxiliary else ("pixel_aggregation.", "to_classes.")
    return [p for name, p in prior.named_parameters() if not name.startswith(unused)]


def table(cells: Mapping[str, Mapping]) -> str:
    """Format a record's cells: mean ± standard deviation, and the paper's mIoU and mAcc."""
    shown = {
        "mIoU": ("prediction", "miou"),
        "mAcc": ("prediction", "macc"),
        "pixel head": ("pixel_head", "miou"),
        "true tokens": ("reconstruction", "miou"),
    }
    lines = {}
    for name, entry in cells.items():
        results = entry["results"].values()
        lines[name] = [
            spread([result[what][key] for result in results if what in result])
            for what, key in shown.values()
        ]
        paper = " / ".join(f"{v:.2f}" for v in entry["paper"] or ())
        lines[name] += [f"{entry['parameters']:,d}", paper or "–"]
    return text_table(("cell", *shown, "parameters", "mIoU / mAcc (paper)"), lines)


parser = partial(
    new_parser,
    __file__,
    __doc__,
    preset="scenes-cpu",
    weights={},
    data=None,
    seeds=1,
    cells=option(len(CELLS), "how many; 4 are the paper's"),
    steps=option(300, "of every cell"),
    pictures=option(2000, "different training pictures"),
    judged=option(100, "validation pictures"),
    work="runs/{preset}/prior-ablation",
    record="runs/{preset}/prior-ablation.json",
)


def main(argv: list[str] | None = None) -> None:
    """Train and evaluate every cell for every seed. The record is written after each one."""
    run = Run(parser(), argv)
    given = run.given
    preset = gss.get_preset(given.preset)
    sizes = {"train_pictures": given.pictures, "eval_pictures": given.judged}
    preset = replace(preset, data=replace(preset.data, **sizes))
    warmup = max(1, given.steps // 10)
    preset = preset.with_schedule("prior", steps=given.steps, warmup=warmup, ema=0.98)
    schedule = preset.schedule("prior")
    job = Job(preset, run.path(given.work), data=given.data)
    pictures = job.pictures()
    judged = InMemory(gss.create_dataset(preset, "val", folder=given.data))
    palette = gss.create_palette(preset, given.weights)
    tokenizer = gss.create_tokenizer(preset, pretrained=given.weights)
    settings = {
        "classes": len(palette),
        "pictures": len(pictures),
        "judged": len(judged),
        "split": "val",
        "batch": schedule.batch,
        "lr": schedule.lr,
        "plan": schedule_hash(preset, "prior", schedule),
        "stage_one": stage_one_hashes(palette, tokenizer),
    }
    before = read_json(run.record) if run.record.exists() else {"metrics": {}}
    same = before.get("steps") == given.steps and settings.items() <= before["metrics"].items()
    cells = before["metrics"]["cells"] if same else {}
    if same:
        run.started -= before["seconds"]
    options = gss.LoopOptions(save_every=100, progress=not given.quiet)
    for seed in range(given.seeds):
        for cell in CELLS[: given.cells]:
            if str(seed) in cells.get(cell.name, {}).get("results", {}):
                continue
            its_job = replace(
                job,
                preset=replace(preset, seed=seed),
                folder=job.folder / f"seed-{seed}",
                options=options,
            )
            model, log = train_cell(cell, its_job, pictures, given.weights)
            entry = {
                **cell._asdict(),
                "paper": PAPER.get(cell),
                "parameters": sum(p.numel() for p in used(model.prior, cell)),
                "results": {},
            }
            result = {
                **judge(model, cell, judged, given.device),
                "seconds": log[-1]["seconds"],
                "token_accuracy": log[-1]["token_accuracy"],
                "log": [{"step": e["step"], "token": e["token"]} for e in log],
            }
            cells.setdefault(cell.name, entry)["results"][str(seed)] = result
            seeds = max(len(e["results"]) for e in cells.values())
            run.write(preset.name, {**settings, "seeds": seeds, "cells": cells})
            miou = result["prediction"]["miou"]
            print(f"seed {seed}  {cell.name:34s}  mIoU {miou:.2f}", flush=True)
    print(f"\n{table(cells)}")


if __name__ == "__main__":
    main()
