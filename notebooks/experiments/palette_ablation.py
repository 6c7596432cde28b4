"""python -m notebooks.experiments.palette_ablation: Table S.2 with our tokenizer, every construction, several seeds.

Every seed deals out the colours of each construction to the classes anew, and seeds what is random
in it. Refinement, assignment and learning see training masks only; all figures are of the
validation split.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from gss_lite.data.folders import CamVid
from gss_lite.data.scenes import ManyScenes, Scenes
from gss_lite.evaluation import blend_collision_rate, evaluate_palette
from gss_lite.factory import load_tokenizer
from gss_lite.palette import (
    CONSTRUCTIONS,
    Palette,
    border_lengths,
    by_neighbours,
    cascade_loss,
    learn_palette,
    refine_palette,
    released_ade20k_palette,
    shuffled,
)
from gss_lite.presets import get_preset
from gss_lite.storage import run_record, write_json

# mIoU and aAcc on ADE20K val, K = 150, OpenAI's dVAE: Table S.2, and Table 1 for the two with mIoU
# alone
PAPER = {
    "random": (62.83, None),
    "arithmetic": (85.99, 94.37),
    "misaligned": (86.12, 94.45),
    "random additive": (87.42, 95.08),
    "refined": (87.73, 95.29),
    "learned": (84.37, None),
}


ENDING = ".vqvae.safetensors"


# learning's masks, cut from the pictures: many small ones see more classes a step than few large
# ones
TILE = (48, 64)


def camvid(split: str, count: int) -> Dataset:
    """CamVid's split, whole; `count` is applied by load_masks."""
    return CamVid(split)


SETS: Mapping[str, Callable[[str, int], Dataset]] = {
    "scenes": lambda split, count: Scenes(count, split=split),
    # CamVid's size
    "scenes-large": lambda split, count: Scenes(count, split=split, height=360, width=480),
    # Twice the usual size: at 96 × 128 most of the 150 classes are a few pixels, and no palette can
    # save them.
    "many-scenes": lambda split, count: ManyScenes(count, split=split, height=192, width=256),
    "camvid": camvid,
}


NUM_CLASSES = {
    "scenes": Scenes.num_classes,
    "scenes-large": Scenes.num_classes,
    "many-scenes": 150,
    "camvid": CamVid.num_classes,
}


def load_masks(data: str, split: str, count: int) -> Tensor:
    """`count` masks of a split, evenly spaced through it, as uint8 (N, H, W) with sides cropped to multiples of 8."""
    dataset = SETS[data](split, count)
    picked = torch.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().long().tolist()
    masks = torch.stack([torch.as_tensor(dataset[i][1]) for i in picked])
    return masks[:, : masks.shape[1] // 8 * 8, : masks.shape[2] // 8 * 8]


def tiles(masks: Tensor, height: int = TILE[0], width: int = TILE[1]) -> Tensor:
    """Masks (N, H, W) cut into (M, height, width); what is left over at the right and below is dropped."""
    return masks.unfold(1, height, height).unfold(2, width, width).reshape(-1, height, width)


def build_palettes(
    num_classes: int,
    seed: int,
    tokenizer: nn.Module,
    fit: Tensor,
    *,
    trials: int,
    steps: int,
) -> dict[str, Palette]:
    """Every row of the ablation for one seed; `fit` are the masks (N, H, W) for refinement and learning."""
    palettes = {
        name: shuffled(construct(num_classes, seed), seed)
        for name, construct in CONSTRUCTIONS.items()
    }
    if num_classes == 150:
        palettes["released ADE20K grid"] = shuffled(released_ade20k_palette(seed), seed)
    iou = lambda palette: evaluate_palette(palette, tokenizer, fit).scores.iou  # noqa: E731
    palettes["refined"] = refine_palette(
        palettes["random additive"], iou, trials=trials, seed=seed
    ).palette
    palettes["max-min RGB, assigned"] = by_neighbours(palettes["max-min RGB"], fit, seed=seed)
    small = tiles(fit)
    learn = lambda start, **kind: (
        learn_palette(palettes[start], tokenizer, small, steps=steps, seed=seed, **kind).palette
    )  # noqa: E731
    palettes["learned"] = learn("random")
    palettes["learned from max-min"] = learn("max-min RGB")
    palettes["learned, printed objective"] = learn("random", objective=cascade_loss, lr=0.002)
    return palettes


def ablate(
    tokenizer: nn.Module,
    data: str,
    *,
    seeds: int,
    pictures: int,
    fit_pictures: int,
    trials: int,
    steps: int,
) -> tuple[dict, Palette]:
    """One data set → (the record's metrics, the palette learned from random colours with seed 0)."""
    masks, fit = load_masks(data, "val", pictures), load_masks(data, "train", fit_pictures)
    num_classes = NUM_CLASSES[data]
    border = border_lengths(masks, num_classes)
    rows: dict[str, dict[str, list[float]]] = {}
    for seed in range(seeds):
        palettes = build_palettes(num_classes, seed, tokenizer, fit, trials=trials, steps=steps)
        first = palettes["learned"] if seed == 0 else first
        for name, palette in palettes.items():
            result = evaluate_palette(palette, tokenizer, masks)
            values = {
                "miou": 100 * result.scores.miou,
                "aacc": 100 * result.scores.aacc,
                "strangers": 100 * result.third_class,
                "blends": 100 * blend_collision_rate(palette.colors, border),
                "least_distance": palette.least_distance(),
            }
            for key, value in values.items():
                rows.setdefault(name, {}).setdefault(key, []).append(round(value, 3))
            print(
                f"seed {seed}  {name:28s}" + "".join(f"  {k} {v:6.2f}" for k, v in values.items()),
                flush=True,
            )
    sizes = {
        "classes": num_classes,
        "split": "val",
        "pictures": len(masks),
        "height": masks.shape[1],
        "width": masks.shape[2],
    }
    return {
        **sizes,
        "fit_pictures": len(fit),
        "trials": trials,
        "learning_steps": steps,
        "rows": rows,
    }, first


def table(rows: Mapping[str, Mapping[str, list[float]]]) -> str:
    """The rows of a record in the form of Table S.2: mean ± standard deviation over the seeds, and the paper's figures."""
    spread = lambda v: (
        f"{statistics.mean(v):6.2f} ± {statistics.stdev(v) if len(v) > 1 else 0:4.2f}"
    )  # noqa: E731
    lines = [
        f"{'construction':28s} {'mIoU':>13s} {'aAcc':>15s} {'strangers':>15s} {'least dist.':>12s} "
        "  mIoU, aAcc (paper)"
    ]
    for name, row in rows.items():
        paper = "   ".join("–" if v is None else f"{v:.2f}" for v in PAPER.get(name, ()))
        lines.append(
            f"{name:28s} {spread(row['miou'])}   {spread(row['aacc'])}   "
            f"{spread(row['strangers'])}   "
            f"{statistics.mean(row['least_distance']):9.1f}   {paper}".rstrip()
        )
    return "\n".join(lines)


def main() -> None:
    """Command line: one data set a call; leaves palette-ablation-DATA.json and palettes/learned-DATA.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--tokenizer", type=Path, required=True, help=f"weights NAME{ENDING}, NAME being its preset"
    )
    parser.add_argument("--data", choices=SETS, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=100, help="validation pictures")
    parser.add_argument(
        "--fit-pictures", type=int, default=40, help="training pictures for refinement and learning"
    )
    parser.add_argument("--trials", type=int, default=30, help="of the refinement")
    parser.add_argument("--steps", type=int, default=300, help="of the learning")
    parser.add_argument("--out", type=Path, default=Path("notebooks/records"))
    given = parser.parse_args()
    if not given.tokenizer.name.endswith(ENDING):
        parser.error(f"--tokenizer must be a file NAME{ENDING}; got {given.tokenizer.name}")
    preset = get_preset(given.tokenizer.name.removesuffix(ENDING))
    started = time.perf_counter()
    metrics, learned = ablate(
        load_tokenizer(preset, given.tokenizer.parent),
        given.data,
        seeds=given.seeds,
        pictures=given.pictures,
        fit_pictures=given.fit_pictures,
        trials=given.trials,
        steps=given.steps,
    )
    learned.save(given.out / "palettes" / f"learned-{given.data}.json")
    command = (
        f"python -m notebooks.experiments.palette_ablation --tokenizer {given.tokenizer} --data "
        f"{given.data} --seeds {given.seeds} "
        f"--pictures {given.pictures} --fit-pictures {given.fit_pictures} --trials {given.trials} "
        f"--steps {given.steps}"
    )
    write_json(
        given.out / f"palette-ablation-{given.data}.json",
        run_record(
            kind="palette ablation",
            preset=preset.name,
            seed=0,
            steps=given.steps,
            seconds=time.perf_counter() - started,
            metrics=metrics,
            command=command,
        ),
    )
    print(table(metrics["rows"]))


if __name__ == "__main__":
    main()
