"""Table S.2 with our tokenizer: every construction of a palette, several seeds.

Each seed assigns the colours of every construction to the classes in a new order, and is the seed
of its random steps. Refinement, assignment and learning use training masks alone. All figures are
of the validation split. The palette learned from random colours with seed 0 is saved beside the
record.

Started again with the same settings, the command keeps the rows of the record and adds those that
it lacks. The record says when, and on which hardware, rows were added.
"""

from __future__ import annotations

import copy
import statistics
from argparse import ArgumentTypeError
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path

from torch import Tensor

import gss_lite as gss
from gss_lite import palette as palettes
from gss_lite.contracts import DifferentiableTokenizer
from gss_lite.data import load_masks, tiles
from gss_lite.data.masks import class_names
from gss_lite.evaluation import blend_collision_rate
from gss_lite.storage import read_json
from gss_lite.tables import spread, text_table
from notebooks.experiments.runner import REQUIRED, Run, new_parser, option

# mIoU and aAcc on ADE20K val with K = 150 and OpenAI's dVAE. Rows with aAcc come from Table S.2,
# the other two from Table 1.
PAPER = {
    "random": (62.83, None),
    "arithmetic": (85.99, 94.37),
    "misaligned": (86.12, 94.45),
    "random additive": (87.42, 95.08),
    "refined": (87.73, 95.29),
    "learned": (84.37, None),
}
ENDING = ".vqvae.safetensors"


def build_palettes(
    classes: int,
    seed: int,
    tokenizer: DifferentiableTokenizer,
    fit: Tensor,
    *,
    trials: int,
    steps: int,
    done: Collection[str] = (),
) -> dict[str, gss.Palette]:
    """Make the palettes of all rows for one seed.

    Args:
        done: rows that are not needed. Those that take long are then not made.
        fit: training masks (N, H, W) for refinement, assignment and learning.
        trials: number of trials of the refinement.
        steps: number of steps of the learning.
    """

    def iou(palette: gss.Palette) -> tuple[float, ...]:
        its_copy = copy.deepcopy(palette).to(fit.device)  # the search keeps the original
        return gss.evaluate_palette(its_copy, tokenizer, fit).scores.iou

    def learn(start: gss.Palette, **how: object) -> gss.Palette:
        how |= {"steps": steps, "seed": seed}
        return palettes.learn_palette(start.to(fit.device), tokenizer, tiles(fit), **how).palette

    constructions = dict(palettes.CONSTRUCTIONS)
    found = {
        name: palettes.shuffled(make(classes, seed), seed) for name, make in constructions.items()
    }
    if classes == 150:
        grid = palettes.released_ade20k_palette(seed)
        found["released ADE20K grid"] = palettes.shuffled(grid, seed)
    start, additive, far = (found[n] for n in ("random", "random additive", "max-min RGB"))
    how = {"trials": trials, "seed": seed}
    printed = {"objective": palettes.cascade_loss, "lr": 0.002}
    slow = {
        "refined": lambda: palettes.refine_palette(additive, iou, **how).palette,
        "max-min RGB, assigned": lambda: palettes.by_neighbours(far, fit.cpu(), seed=seed),
        "learned": lambda: learn(start),
        "learned from max-min": lambda: learn(far),
        "learned, printed objective": lambda: learn(start, **printed),
    }
    found |= {name: make() for name, make in slow.items() if name not in done}
    return {name: palette for name, palette in found.items() if name not in done}


def measure(
    palette: gss.Palette, tokenizer: DifferentiableTokenizer, masks: Tensor, border: Tensor
) -> dict[str, float]:
    """Measure one palette: shares in percent, and its least distance of two colours (0–255).

    "strangers" is the share of pixels read as a third class.
    """
    result = gss.evaluate_palette(palette.to(masks.device), tokenizer, masks)
    return {
        "miou": 100 * result.scores.miou,
        "aacc": 100 * result.scores.aacc,
        "strangers": 100 * result.third_class,
        "blends": 100 * blend_collision_rate(palette.colors.cpu(), border),
        "least_distance": palette.least_distance(),
    }


def table(rows: Mapping[str, Mapping[str, list[float]]]) -> str:
    """Format a record's rows like Table S.2: mean ± standard deviation, and the paper's figures."""
    lines = {}
    for name, row in rows.items():
        figures = [spread(row[key]) for key in ("miou", "aacc", "strangers")]
        paper = ["–" if v is None else f"{v:.2f}" for v in PAPER.get(name, ())]
        distance = f"{statistics.mean(row['least_distance']):.1f}"
        lines[name] = [*figures, distance, "   ".join(paper)]
    head = ("construction", "mIoU", "aAcc", "third class", "least dist.", "mIoU, aAcc (paper)")
    return text_table(head, lines)


def kept_rows(
    path: Path, preset: str, settings: Mapping, seeds: int
) -> tuple[dict[str, dict], list[dict]]:
    """Read the rows of a record, if it was made with these settings and seeds.

    Returns:
        The rows, and the runs that made them: what their record said, and the names of their rows.
    """
    record = read_json(path) if path.is_file() else {"metrics": {}}
    metrics = record["metrics"]
    rows = metrics.get("rows", {})
    same = record.get("preset") == preset and settings.items() <= metrics.items()
    if not rows or not same or any(len(row["miou"]) != seeds for row in rows.values()):
        return {}, []
    runs = metrics.get("earlier_runs", [])
    known = {name for run in runs for name in run["rows"]}
    facts = {name: record[name] for name in ("seconds", "hardware", "commit", "torch")}
    return rows, [*runs, {**facts, "rows": [name for name in rows if name not in known]}]


def weights_file(text: str) -> Path:
    """Read the path of a tokenizer's weights, named after its preset: an argument type."""
    path = Path(text)
    if not path.name.endswith(ENDING):
        raise ArgumentTypeError(f"must be a file NAME{ENDING}; got {path.name}")
    return path


parser = partial(
    new_parser,
    __file__,
    __doc__,
    tokenizer=option(REQUIRED, f"weights NAME{ENDING} of preset NAME", type=weights_file),
    masks=REQUIRED,
    seeds=5,
    pictures=option(100, "validation pictures"),
    fit_pictures=option(40, "training pictures for refinement, assignment and learning"),
    trials=option(30, "of the refinement"),
    steps=option(300, "of the learning"),
    record="notebooks/records/palette-ablation-{data}.json",
)


def main(argv: list[str] | None = None) -> None:
    """Measure every palette for every seed, print the table, write the record."""
    run = Run(parser(), argv)
    given = run.given
    preset = given.tokenizer.name.removesuffix(ENDING)
    tokenizer = gss.create_tokenizer(preset, pretrained=given.tokenizer.parent).to(given.device)
    classes = len(class_names(given.data))
    masks = load_masks(given.data, "val", given.pictures).to(given.device)
    fit = load_masks(given.data, "train", given.fit_pictures).to(given.device)
    border = palettes.border_lengths(masks.cpu(), classes)
    sizes = {"pictures": len(masks), "height": masks.shape[1], "width": masks.shape[2]}
    fitted = {"fit_pictures": len(fit), "trials": given.trials, "learning_steps": given.steps}
    settings = {"classes": classes, "split": "val", **sizes, **fitted}
    old, runs = kept_rows(run.record, preset, settings, given.seeds)
    rows: dict[str, dict[str, list[float]]] = {}
    for seed in range(given.seeds):
        how = run.values("trials", "steps")
        found = build_palettes(classes, seed, tokenizer, fit, done=old, **how)
        if seed == 0 and "learned" in found:
            folder = run.record.parent / "palettes"
            found["learned"].save(folder / f"learned-{given.data}.json")
        for name, palette in found.items():
            values = measure(palette, tokenizer, masks, border)
            for key, value in values.items():
                rows.setdefault(name, {}).setdefault(key, []).append(round(value, 3))
            shown = "".join(f"  {key} {value:6.2f}" for key, value in values.items())
            print(f"seed {seed}  {name:28s}{shown}", flush=True)
    print(table(old | rows))
    if not rows:
        print(f"{run.record} has all rows with these settings; nothing was measured")
        return
    run.write(preset, {**settings, "rows": old | rows, "earlier_runs": runs})


if __name__ == "__main__":
    main()
