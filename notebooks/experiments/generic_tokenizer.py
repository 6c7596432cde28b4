"""How well a tokenizer rebuilds true masks in new palettes; nothing is trained.

The palettes are: greedy (farthest points), max-min colours in any order, the same colours assigned
by neighbours (from 60 training masks), and five random ones. For CamVid the palette of its shipped
model is measured too, which was assigned from all 367 training masks.

A tokenizer made for one palette (--preset camvid-s8 --weights FOLDER, after `gss_lite train`) is
measured with that palette first.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

import gss_lite as gss
from gss_lite.data import load_masks
from gss_lite.data.masks import class_names
from gss_lite.factory import SHIPPED
from gss_lite.palette import by_neighbours, random_palette
from gss_lite.storage import weights_hash
from notebooks.experiments.runner import REQUIRED, Run, new_parser


def build_palettes(data: str) -> dict[str, gss.Palette]:
    """Make the palettes that are measured with every tokenizer."""
    classes = len(class_names(data))
    colors = gss.max_min_palette(classes)
    palettes = {
        "greedy": gss.farthest_point_palette(classes),
        "max-min": colors,
        "max-min, assigned": by_neighbours(colors, load_masks(data, "train", 60)),
    }
    if data == "camvid":
        palettes["of the shipped model"] = gss.create_palette("camvid")
    return palettes | {f"random {seed}": random_palette(classes, seed) for seed in range(5)}


def measure(
    name: str,
    data: str,
    split: str,
    pictures: int,
    weights: str | Path = SHIPPED,
    device: str | torch.device = "cpu",
) -> dict:
    """Measure the tokenizer of preset `name` → a record's metrics, scores from 0 to 1.

    Raises:
        ValueError: the tokenizer was made for the palette of other data.
    """
    preset = gss.get_preset(name)
    made_for = preset.data.name
    if preset.palette and made_for != data:
        raise ValueError(
            f"the tokenizer of preset {name} was made for the palette of {made_for}, and --data "
            f"is {data}; measure it with --data {made_for}, or take one for any palette "
            "(generic-s4, generic-s8)"
        )
    tokenizer = gss.create_tokenizer(preset, pretrained=weights).to(device)
    masks = load_masks(data, split, pictures).to(device)
    own = {"own": gss.create_palette(preset, weights)} if preset.palette else {}
    found = {}
    for title, palette in {**own, **build_palettes(data)}.items():
        scores = gss.evaluate_palette(palette.to(device), tokenizer, masks).scores
        iou = [round(float(v), 4) for v in scores.iou]
        found[title] = {"miou": scores.miou, "aacc": scores.aacc, "iou": iou}
        percent = f"mIoU {100 * scores.miou:6.2f}   aAcc {100 * scores.aacc:6.2f}"
        print(f"{title:20s} {percent}", flush=True)
    return {
        "data": data,
        "split": split,
        "pictures": len(masks),
        "height": masks.shape[1],
        "width": masks.shape[2],
        "stride": tokenizer.stride,
        "vocab_size": tokenizer.vocab_size,
        "tokenizer_sha256": weights_hash(tokenizer),
        "palettes": found,
    }


parser = partial(
    new_parser,
    __file__,
    __doc__,
    preset="generic-s4",
    weights={},
    masks=REQUIRED,
    split="test",
    pictures=1000,
    record="runs/{preset}/generic-tokenizer-{data}.json",
)


def main(argv: list[str] | None = None) -> None:
    """Measure one tokenizer on one data set, write the record."""
    run = Run(parser(), argv)
    given = run.given
    wanted = (given.preset, given.data, given.split, given.pictures)
    run.write(given.preset, measure(*wanted, given.weights, given.device))


if __name__ == "__main__":
    main()
