"""python -m notebooks.experiments.joint_collapse: when do learned colours drift together? TF and TT, with one term and with two.

(S.3) asks two things of β: that X⁻¹ reads the classes back, and that the decoder rebuilds the
maskige. The second is easiest where all colours are one. Every variant starts from the same random
colours for a seed, on a tokenizer for any palette; what is kept is the least and the mean distance
of two colours, before and after, and the mIoU of held-out masks read by its X⁻¹.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from gss_lite.factory import load_tokenizer
from gss_lite.inverse import NearestColor
from gss_lite.inverse_fitted import ConvInverse
from gss_lite.metrics import SegmentationMetrics
from gss_lite.palette import (
    Palette,
    learn_palette,
    nearest_color_loss,
    paint,
    random_palette,
    rebuild_error,
    train_jointly,
)
from gss_lite.presets import get_preset
from gss_lite.storage import run_record, weights_hash, write_json
from gss_lite.vqvae import VQVAE
from notebooks.experiments.palette_ablation import TILE, load_masks, tiles

TOKENIZER, CLASSES, WIDTH = "generic-s4", 11, 32


VARIANTS = ("TF", "TT", "TF, both terms", "TT, both terms")


def run_variant(
    name: str,
    start: Palette,
    tokenizer: VQVAE,
    masks: Tensor,
    *,
    steps: int,
    weight: float,
    seed: int,
) -> tuple[Tensor, torch.nn.Module]:
    """Train one variant on masks (N, h, w) → (β (K, 3), the X⁻¹ that reads it)."""
    both = weight if name.endswith("both terms") else 0.0
    if name.startswith("TT"):
        joint = train_jointly(
            start,
            tokenizer,
            masks,
            lambda colors: ConvInverse(colors, WIDTH),
            steps=steps,
            seed=seed,
            rebuild=both,
        )
        return joint.colors, joint.inverse
    seen: list[Tensor] = []

    def objective(picture: Tensor, mask: Tensor, colors: Tensor) -> Tensor:
        seen.append(colors.detach().clone())
        return nearest_color_loss(picture, mask, colors) + both * rebuild_error(
            picture, mask, colors
        )

    try:
        colors = learn_palette(
            start, tokenizer, masks, steps=steps, objective=objective, seed=seed
        ).palette.colors
    # two colours met, which a Palette may not have: the colours of the last step tell it
    except ValueError:
        colors = seen[-1]
    return colors, NearestColor(colors)


@torch.no_grad()
def measure(
    colors: Tensor, inverse: torch.nn.Module, tokenizer: VQVAE, masks: Tensor
) -> dict[str, float]:
    """{"least", "mean": distance of two colours, 0–255; "miou": of masks (N, H, W) painted, rebuilt and read, in percent}."""
    metrics = SegmentationMetrics(len(colors))
    for part in masks.long().split(16):
        metrics.update(
            inverse.classify(tokenizer.decode(tokenizer.encode(paint(part, colors)))), part
        )
    pairs = 255 * torch.pdist(colors)
    return {
        "least": round(float(pairs.min()), 1),
        "mean": round(float(pairs.mean()), 1),
        "miou": round(100 * metrics.compute().miou, 2),
    }


def table(rows: Mapping[str, Mapping]) -> str:
    """A record's rows as text: every seed's distances, and mIoU mean ± standard deviation."""
    lines = [f"{'variant':16s} {'least distance':>30s} {'mean distance':>30s}   mIoU"]
    for name, row in rows.items():
        ways = [
            ", ".join(
                f"{a:.0f} → {z:.0f}"
                for a, z in zip((s[key] for s in row["start"]), (e[key] for e in row["end"]))
            )
            for key in ("least", "mean")
        ]
        miou = [end["miou"] for end in row["end"]]
        spread = statistics.stdev(miou) if len(miou) > 1 else 0.0
        lines.append(
            f"{name:16s} {ways[0]:>30s} {ways[1]:>30s}   {statistics.mean(miou):.1f} ± {spread:.1f}"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Command line; leaves one run record."""
    parser = argparse.ArgumentParser(
        prog="python -m notebooks.experiments.joint_collapse", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--steps", type=int, default=300, help="of SGD (default: 300; the paper: 4,000)"
    )
    parser.add_argument("--weight", type=float, default=5.0, help="of the second term (default: 5)")
    parser.add_argument(
        "--pictures", type=int, default=100, help="training pictures (default: 100)"
    )
    parser.add_argument("--held-out", type=int, default=48)
    parser.add_argument(
        "--record", type=Path, default=Path("notebooks/records/joint-collapse.json")
    )
    given = parser.parse_args(argv)
    started, tokenizer = time.perf_counter(), load_tokenizer(get_preset(TOKENIZER))
    pieces, held_out = (
        tiles(load_masks("scenes", "train", given.pictures), *TILE),
        load_masks("scenes", "test", given.held_out),
    )
    rows: dict[str, dict] = {name: {"start": [], "end": []} for name in VARIANTS}
    for seed in range(given.seeds):
        start = random_palette(CLASSES, seed)
        before = measure(start.colors, NearestColor(start.colors), tokenizer, held_out)
        for name in VARIANTS:
            colors, inverse = run_variant(
                name, start, tokenizer, pieces, steps=given.steps, weight=given.weight, seed=seed
            )
            rows[name]["start"].append(before)
            rows[name]["end"].append(measure(colors, inverse, tokenizer, held_out))
            print(f"seed {seed} {name:16s} {before} → {rows[name]['end'][-1]}", flush=True)
    line = (
        f"python -m notebooks.experiments.joint_collapse --seeds {given.seeds} --steps "
        f"{given.steps} --weight {given.weight:g} "
        f"--pictures {given.pictures} --held-out {given.held_out} --record {given.record}"
    )
    metrics = {
        "tokenizer_sha256": weights_hash(tokenizer),
        "classes": CLASSES,
        "seeds": given.seeds,
        "weight": given.weight,
        "pictures": given.pictures,
        "held_out": len(held_out),
        "rows": rows,
    }
    write_json(
        given.record,
        run_record(
            kind="joint collapse",
            preset=TOKENIZER,
            seed=0,
            steps=given.steps,
            seconds=time.perf_counter() - started,
            metrics=metrics,
            command=line,
        ),
    )
    print(table(rows))


if __name__ == "__main__":
    main()
