"""When do learned colours drift together? TF and TT, with several weights of the maskige term.

The loss (S.3) has two terms. The first is small if the decoder rebuilds the maskige: the maskige
term. The second is small if X⁻¹ recovers the classes. The first is smallest if all colours agree.
The paper does not give the weights.
For each seed every row starts from the same random colours, with a tokenizer for any palette. The
record holds the least and the mean distance of two colours, before and after. It also holds the
mIoU of held-out masks, by the row's own X⁻¹ and by the nearest colour.
Started again, the command skips the seeds in its record, if the settings are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import product

import torch
from torch import Tensor

import gss_lite as gss
from gss_lite import palette as palettes
from gss_lite.contracts import DifferentiableTokenizer, Inverse
from gss_lite.data import load_masks, tiles
from gss_lite.storage import read_json, weights_hash
from gss_lite.tables import spread, text_table
from notebooks.experiments.runner import Run, new_parser, option

TOKENIZER = "generic-s4"
CLASSES = 11
WIDTH = 32
VARIANTS = ("TF", "TT")
WEIGHTS = (0.0, 5.0, 20.0, 50.0, 100.0, 255.0)


def row_name(variant: str, weight: float) -> str:
    """Name a row of the record."""
    return f"{variant}, weight {weight:g}" if weight else variant


def run_variant(
    name: str,
    start: gss.Palette,
    tokenizer: DifferentiableTokenizer,
    masks: Tensor,
    *,
    steps: int,
    weight: float,
    seed: int,
) -> tuple[Tensor, Inverse]:
    """Train one variant on masks (N, h, w) → (β (K, 3), its X⁻¹).

    Args:
        weight: of the maskige term; 0 omits it.
    """
    how = {"steps": steps, "seed": seed}
    if name == "TT":

        def build(colors: Tensor) -> Inverse:
            return gss.ConvInverse(colors, WIDTH).to(colors.device)

        joint = palettes.train_jointly(start, tokenizer, masks, build, rebuild=weight, **how)
        return joint.colors, joint.inverse
    seen: list[Tensor] = []

    def objective(picture: Tensor, mask: Tensor, colors: Tensor) -> Tensor:
        seen.append(colors.detach().clone())
        error = weight * palettes.rebuild_error(picture, mask, colors)
        return palettes.nearest_color_loss(picture, mask, colors) + error

    try:
        learned = palettes.learn_palette(start, tokenizer, masks, objective=objective, **how)
        colors = learned.palette.colors
    except ValueError:  # a Palette refuses two equal colours: take those of the last step
        colors = seen[-1]
    return colors, gss.NearestColor(colors)


@torch.no_grad()
def measure(
    colors: Tensor, inverse: Inverse, tokenizer: DifferentiableTokenizer, masks: Tensor
) -> dict[str, float]:
    """Measure the least and mean distance of two colours (0–255), and mIoU in percent.

    The masks (N, H, W) are painted, encoded, decoded and classified: "miou" by X⁻¹, "nearest" by
    the nearest colour.
    """
    inverses = {"miou": inverse, "nearest": gss.NearestColor(colors)}
    metrics = {key: gss.SegmentationMetrics(len(colors)) for key in inverses}
    for part in masks.long().split(16):
        maskige = tokenizer.decode(tokenizer.encode(gss.paint(part, colors)))
        for key, metric in metrics.items():
            metric.update(inverses[key].classify(maskige), part)
    pairs = 255 * torch.pdist(colors)
    distances = {"least": round(float(pairs.min()), 1), "mean": round(float(pairs.mean()), 1)}
    return distances | {key: round(100 * m.compute().miou, 2) for key, m in metrics.items()}


def table(rows: Mapping[str, Mapping]) -> str:
    """Format a record's rows: each seed's distances, and mIoU as mean ± standard deviation."""
    lines = {}
    for name, row in rows.items():
        pairs = list(zip(row["start"], row["end"]))
        lines[name] = [
            ", ".join(f"{start[key]:.0f} → {end[key]:.0f}" for start, end in pairs)
            for key in ("least", "mean")
        ]
        lines[name] += [spread([end[key] for end in row["end"]], 1) for key in ("miou", "nearest")]
    return text_table(("", "least distance", "mean distance", "mIoU", "by nearest colour"), lines)


parser = partial(
    new_parser,
    __file__,
    __doc__,
    seeds=3,
    steps=option(300, "of SGD; the paper takes 4,000"),
    weights=option(list(WEIGHTS), "of the maskige term", type=float, nargs="+"),
    pictures=option(100, "training pictures"),
    held_out=option(48, "test pictures"),
    record="notebooks/records/joint-collapse.json",
)


def main(argv: list[str] | None = None) -> None:
    """Train and measure every row for every seed, write the record, print the table."""
    run = Run(parser(), argv)
    given = run.given
    tokenizer = gss.create_tokenizer(TOKENIZER, pretrained=True).to(given.device)
    pieces = tiles(load_masks("scenes", "train", given.pictures)).to(given.device)
    held_out = load_masks("scenes", "test", given.held_out).to(given.device)
    known = {"tokenizer_sha256": weights_hash(tokenizer), "classes": CLASSES}
    settings = {**known, **run.values("weights", "pictures", "held_out")}
    before = read_json(run.record) if run.record.exists() else {"metrics": {}}
    same = before.get("steps") == given.steps and settings.items() <= before["metrics"].items()
    rows: dict[str, dict] = before["metrics"]["rows"] if same else {}
    if same:
        run.started -= before["seconds"]
    elif before["metrics"]:
        print(f"{run.record} has other settings; it begins anew", flush=True)
    for seed in range(before["metrics"]["seeds"] if same else 0, given.seeds):
        start = palettes.random_palette(CLASSES, seed).to(given.device)
        nearest = gss.NearestColor(start.colors)
        begun = measure(start.colors, nearest, tokenizer, held_out)
        for variant, weight in product(VARIANTS, given.weights):
            name = row_name(variant, weight)
            how = {"steps": given.steps, "weight": weight, "seed": seed}
            colors, inverse = run_variant(variant, start, tokenizer, pieces, **how)
            after = measure(colors, inverse, tokenizer, held_out)
            blank = {"variant": variant, "weight": weight, "start": [], "end": []}
            row = rows.setdefault(name, blank)
            row["start"].append(begun)
            row["end"].append(after)
            print(f"seed {seed} {name:16s} {begun} → {after}", flush=True)
        # The record is written after each seed, so a stopped run keeps its finished seeds.
        run.write(TOKENIZER, {**settings, "seeds": seed + 1, "rows": rows})
    print(table(rows))


if __name__ == "__main__":
    main()
