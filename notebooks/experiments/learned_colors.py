"""python -m notebooks.experiments.learned_colors: palettes learned from several random starts, for Figure S.8 and its claim.

The tokenizer is generic-s4, which is at home with any colours. Kept are the random start of every
seed and what became of it, on the 0–255 scale, and the classes' shares of the training pixels;
`palette_statistics` draws the conclusions.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor

from gss_lite.factory import load_tokenizer
from gss_lite.palette import learn_palette, random_palette
from gss_lite.presets import get_preset
from gss_lite.storage import run_record, weights_hash, write_json
from notebooks.experiments.palette_ablation import NUM_CLASSES, SETS, load_masks, tiles
from notebooks.experiments.palette_statistics import class_shares

TOKENIZER = "generic-s4"


def learn_from_starts(
    masks: Tensor, num_classes: int, *, seeds: int, steps: int, batch: int = 16
) -> dict:
    """Masks (N, H, W) → {"shares": (K,), "start": (S, K, 3), "learned": (S, K, 3), "loss": (S,)} as lists, colours on the 0–255 scale."""
    tokenizer, pieces = load_tokenizer(get_preset(TOKENIZER)), tiles(masks)
    listed = lambda colors: [[round(255 * v, 1) for v in color] for color in colors.tolist()]  # noqa: E731
    found: dict = {
        "shares": [round(v, 7) for v in class_shares(masks, num_classes).tolist()],
        "start": [],
        "learned": [],
        "loss": [],
    }
    for seed in range(seeds):
        start = random_palette(num_classes, seed)
        learned = learn_palette(start, tokenizer, pieces, steps=steps, batch=batch, seed=seed)
        found["start"].append(listed(start.colors))
        found["learned"].append(listed(learned.palette.colors))
        found["loss"].append(round(sum(learned.losses[-10:]) / len(learned.losses[-10:]), 4))
        print(f"seed {seed}: loss {learned.losses[0]:.3f} → {found['loss'][-1]:.3f}", flush=True)
    return found


def main(argv: list[str] | None = None) -> None:
    """Command line: one data set a call; leaves learned-colors-DATA.json."""
    parser = argparse.ArgumentParser(
        prog="python -m notebooks.experiments.learned_colors", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--data", choices=SETS, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--steps", type=int, default=300, help="of SGD (default: 300; the paper: 4,000)"
    )
    parser.add_argument(
        "--pictures", type=int, default=100, help="training pictures (default: 100)"
    )
    parser.add_argument("--out", type=Path, default=Path("notebooks/records"))
    given = parser.parse_args(argv)
    torch.manual_seed(0)
    started, masks = time.perf_counter(), load_masks(given.data, "train", given.pictures)
    found = learn_from_starts(masks, NUM_CLASSES[given.data], seeds=given.seeds, steps=given.steps)
    line = f"python -m notebooks.experiments.learned_colors --data {given.data} --seeds {given.seeds} --steps {given.steps} --pictures {given.pictures}"
    sizes = {
        "tokenizer_sha256": weights_hash(load_tokenizer(get_preset(TOKENIZER))),
        "data": given.data,
        "classes": NUM_CLASSES[given.data],
        "pictures": len(masks),
        "seeds": given.seeds,
    }
    write_json(
        given.out / f"learned-colors-{given.data}.json",
        run_record(
            kind="learned colors",
            preset=TOKENIZER,
            seed=0,
            steps=given.steps,
            seconds=time.perf_counter() - started,
            metrics={**sizes, **found},
            command=line,
        ),
    )


if __name__ == "__main__":
    main()
