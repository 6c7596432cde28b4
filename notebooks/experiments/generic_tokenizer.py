"""python -m notebooks.experiments.generic_tokenizer: what a tokenizer that never saw the palette keeps of true masks.

Palettes on the same masks: greedy (farthest points), max-min colours as they come, the same dealt
    out by neighbours (looking at
60 training masks), and random ones, five deals; for CamVid also those of its shipped model (dealt
out with all 367). Nothing is trained.

A tokenizer made for one palette (--preset camvid-s8 --weights FOLDER, after `gss_lite train`) is
measured with that palette first.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from gss_lite.evaluation import evaluate_palette
from gss_lite.factory import SHIPPED, build_palette, load_tokenizer
from gss_lite.palette import by_neighbours, farthest_point_palette, max_min_palette, random_palette
from gss_lite.presets import get_preset
from gss_lite.storage import run_record, weights_hash, write_json
from notebooks.experiments.palette_ablation import NUM_CLASSES, SETS, load_masks


def measure(name: str, data: str, split: str, pictures: int, weights: str | Path = SHIPPED) -> dict:
    """mIoU, aAcc (0–1) and IoU per class of every palette; `pictures` at most, evenly spaced through the split.

    Raises:
        ValueError: the tokenizer was made for the palette of other data.
    """
    preset, count = get_preset(name), NUM_CLASSES[data]
    own = preset.palette != "random"
    if own and preset.data != data:
        raise ValueError(
            f"the tokenizer of preset {name} was made for the palette of {preset.data}, and --data "
            f"is {data}; "
            f"measure it with --data {preset.data}, or take one for any palette (generic-s4, "
            "generic-s8)"
        )
    tokenizer = load_tokenizer(preset, weights)
    masks = load_masks(data, split, pictures)
    colors = max_min_palette(count)
    palettes = {"own": build_palette(preset, weights)} if own else {}
    palettes |= {
        "greedy": farthest_point_palette(count),
        "max-min": colors,
        "max-min, assigned": by_neighbours(colors, load_masks(data, "train", 60)),
    }
    if data == "camvid":
        palettes["of the shipped model"] = build_palette(get_preset("camvid"))
    palettes |= {f"random {seed}": random_palette(count, seed) for seed in range(5)}
    metrics = {
        "data": data,
        "split": split,
        "pictures": len(masks),
        "height": masks.shape[1],
        "width": masks.shape[2],
        "stride": tokenizer.stride,
        "vocab_size": tokenizer.vocab_size,
        "tokenizer_sha256": weights_hash(tokenizer),
        "palettes": {},
    }
    for title, palette in palettes.items():
        scores = evaluate_palette(palette, tokenizer, masks).scores
        metrics["palettes"][title] = {
            "miou": scores.miou,
            "aacc": scores.aacc,
            "iou": [round(float(v), 4) for v in scores.iou],
        }
        print(
            f"{title:20s} mIoU {100 * scores.miou:6.2f}   aAcc {100 * scores.aacc:6.2f}", flush=True
        )
    return metrics


def main() -> None:
    """Command line; leaves one run record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--preset",
        default="generic-s4",
        help="generic-s4, generic-s8, or the preset of a tokenizer made for one palette",
    )
    parser.add_argument(
        "--weights",
        default=str(SHIPPED),
        help="folder with the weights (default: the shipped ones)",
    )
    parser.add_argument("--data", choices=SETS, required=True)
    parser.add_argument("--split", choices=["val", "test"], default="test")
    parser.add_argument("--pictures", type=int, default=1000, help="at most")
    parser.add_argument("--record", type=Path, required=True)
    given = parser.parse_args()
    started = time.perf_counter()
    metrics = measure(given.preset, given.data, given.split, given.pictures, given.weights)
    chosen = "" if given.weights == str(SHIPPED) else f"--weights {given.weights} "
    write_json(
        given.record,
        run_record(
            kind="generic tokenizer",
            preset=given.preset,
            seed=0,
            steps=None,
            seconds=time.perf_counter() - started,
            metrics=metrics,
            device="cpu",
            command=f"python -m notebooks.experiments.generic_tokenizer --preset {given.preset} "
            f"{chosen}--data {given.data} --split {given.split} "
            f"--pictures {given.pictures} --record {given.record}",
        ),
    )


if __name__ == "__main__":
    main()
