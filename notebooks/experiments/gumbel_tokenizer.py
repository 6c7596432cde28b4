"""DALL·E's training of a tokenizer beside the VQ-VAE's, with one small budget.

Five tokenizers with the same networks and 256 codes learn the same masks of street scenes in the
same number of steps. Each has its own loss, without the classification loss through the nearest
colour. They are evaluated on held-out masks: the VQ-VAE, the Gumbel-softmax dVAE, the dVAE without
each of its two differences from DALL·E, and the dVAE with DALL·E's weight of the KL.
"""

from __future__ import annotations

import time
from functools import partial

import torch
from torch import Tensor
from tqdm import tqdm

import gss_lite as gss
from gss_lite.cli import whole_number
from gss_lite.data import load_masks
from gss_lite.training.tokenizer import VQVAELoss
from gss_lite.vqvae import Codebook
from notebooks.experiments import codebook_usage as live
from notebooks.experiments.gumbel_vae import GumbelVAE
from notebooks.experiments.runner import Run, new_parser, option

NETWORKS = {"vocab_size": live.CODES, "stride": 4, "width": 32, "code_dim": 16}
BATCH = 8


class RandomStart(GumbelVAE):
    """A dVAE with a random initialisation of its codes, as for DALL·E."""

    def start_on(self, features: Tensor) -> None:
        """Leave the logits as they are."""


VARIANTS = {
    "VQ-VAE": (gss.VQVAE, {}),
    "dVAE": (GumbelVAE, {}),
    "dVAE, hard pixels given up": (GumbelVAE, {"beta": 0.0}),
    "dVAE, codes started at random": (RandomStart, {}),
    "dVAE, KL weight 6.6": (GumbelVAE, {"kl_weight": 6.6}),
}


def build(name: str, steps: int) -> gss.VQVAE:
    """Make an untrained variant for a training of `steps` steps.

    The annealing takes three quarters of them. The last quarter learns with nearly hard tokens.
    """
    kind, arguments = VARIANTS[name]
    if kind is not gss.VQVAE:
        arguments = {**arguments, "anneal": max(1, 3 * steps // 4)}
    return kind(**NETWORKS, **arguments)


def run_variant(
    name: str,
    palette: gss.Palette,
    masks: Tensor,
    held_out: Tensor,
    *,
    steps: int,
    seed: int = 0,
    progress: bool = False,
) -> dict:
    """Train a variant → held-out scores, seconds, and the scalars of every tenth step."""
    torch.manual_seed(seed)
    tokenizer = build(name, steps)
    stage = VQVAELoss(tokenizer, palette, 0.0).to(masks.device)
    started = time.perf_counter()
    entries = live.train(stage, masks, steps, BATCH)
    log = list(tqdm(entries, total=steps, desc=name, disable=not progress, mininterval=1.0))
    seconds = time.perf_counter() - started
    scores = gss.evaluate_palette(palette, tokenizer.eval(), held_out).scores
    tokens = live.held_out_tokens(tokenizer, palette, held_out)
    usage, perplexity = Codebook.usage(tokens, live.CODES)
    return {
        "miou": round(scores.miou, 4),
        "aacc": round(scores.aacc, 4),
        "iou": [round(v, 4) for v in scores.iou],
        "usage": round(usage, 4),
        "perplexity": round(perplexity, 2),
        "seconds": round(seconds, 1),
        "log": [{k: float(f"{v:.4g}") for k, v in entry.items()} for entry in log[9::10]],
    }


parser = partial(
    new_parser,
    __file__,
    __doc__,
    steps=600,
    seed=option(0, "of the training", type=whole_number(0)),
    pictures=option(live.PICTURES, "training masks"),
    held_out=option(live.HELD_OUT, "test masks"),
    record="runs/gumbel-tokenizer.json",
)


def main(argv: list[str] | None = None) -> None:
    """Train and evaluate the variants, print their scores, write the record."""
    run = Run(parser(), argv)
    given = run.given
    palette = gss.create_palette(live.PRESET).to(given.device)
    masks = load_masks("scenes", "train", given.pictures).long().to(given.device)
    held_out = load_masks("scenes", "test", given.held_out).long().to(given.device)
    how = {**run.values("steps", "seed"), "progress": not given.quiet}
    results = {}
    for name in VARIANTS:
        results[name] = run_variant(name, palette, masks, held_out, **how)
        found = results[name]
        print(
            f"{name:32s} mIoU {100 * found['miou']:6.2f}  aAcc {100 * found['aacc']:6.2f}  "
            f"usage {100 * found['usage']:5.1f} %  perplexity {found['perplexity']:6.1f}  "
            f"{found['seconds']:8.1f} s",
            flush=True,
        )
    sizes = {"networks": NETWORKS, "batch": BATCH, **run.values("pictures", "held_out")}
    run.write(live.PRESET.name, {**sizes, "variants": results}, seed=given.seed)


if __name__ == "__main__":
    main()
