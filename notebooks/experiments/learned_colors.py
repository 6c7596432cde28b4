"""Palettes learned from several random starts, for Figure S.8 and its claim.

The tokenizer is generic-s4, which serves any colours. The record holds each seed's random start and
its learned colours, on the 0–255 scale, and the classes' shares of the training pixels.
`gss_lite.palette.statistics` tests the claim.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

import gss_lite as gss
from gss_lite.contracts import DifferentiableTokenizer
from gss_lite.data import load_masks, tiles
from gss_lite.data.masks import class_names
from gss_lite.palette import learn_palette, random_palette
from gss_lite.palette.statistics import class_shares
from gss_lite.storage import weights_hash
from notebooks.experiments.runner import REQUIRED, Run, new_parser, option

TOKENIZER = "generic-s4"


def learn_from_starts(
    tokenizer: DifferentiableTokenizer, masks: Tensor, classes: int, *, seeds: int, steps: int
) -> dict[str, list]:
    """Masks (N, H, W) → shares (K,), start (S, K, 3), learned (S, K, 3) and loss (S,) as lists."""
    shares = [round(share, 7) for share in class_shares(masks, classes).tolist()]
    found: dict[str, list] = {"shares": shares, "start": [], "learned": [], "loss": []}
    for seed in range(seeds):
        start = random_palette(classes, seed).to(masks.device)
        learned, losses = learn_palette(start, tokenizer, tiles(masks), steps=steps, seed=seed)
        last = losses[-10:]
        found["start"].append(listed(start))
        found["learned"].append(listed(learned))
        found["loss"].append(round(sum(last) / len(last), 4))
        print(f"seed {seed}: loss {losses[0]:.3f} → {found['loss'][-1]:.3f}", flush=True)
    return found


def listed(palette: gss.Palette) -> list[list[float]]:
    """Return the colours (K, 3) on the 0–255 scale, rounded."""
    return [[round(255 * value, 1) for value in color] for color in palette.colors.tolist()]


parser = partial(
    new_parser,
    __file__,
    __doc__,
    masks=REQUIRED,
    seeds=5,
    steps=option(300, "of SGD; the paper takes 4,000"),
    pictures=option(100, "training pictures"),
    record="notebooks/records/learned-colors-{data}.json",
)


def main(argv: list[str] | None = None) -> None:
    """Learn from every seed's colours, write the record."""
    run = Run(parser(), argv)
    given = run.given
    torch.manual_seed(0)
    tokenizer = gss.create_tokenizer(TOKENIZER, pretrained=True).to(given.device)
    masks = load_masks(given.data, "train", given.pictures).to(given.device)
    classes = len(class_names(given.data))
    found = learn_from_starts(tokenizer, masks, classes, **run.values("seeds", "steps"))
    sizes = {"data": given.data, "classes": classes, "pictures": len(masks), "seeds": given.seeds}
    run.write(TOKENIZER, {"tokenizer_sha256": weights_hash(tokenizer), **sizes, **found})


if __name__ == "__main__":
    main()
