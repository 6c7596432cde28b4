"""python -m notebooks.experiments.gumbel_tokenizer: DALL·E's training of a tokenizer beside the VQ-VAE's, with one small budget.

Five tokenizers of the same networks and 256 codes learn the same masks of street scenes in the same
number of steps, from their own loss alone (no read-back of the classes), and are judged on held-out
ones: the VQ-VAE, the Gumbel-softmax dVAE, and the dVAE without each of its two departures from
DALL·E, then with DALL·E's weight of the KL.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor
from tqdm import tqdm

from gss_lite.evaluation import evaluate_palette
from gss_lite.factory import build_palette
from gss_lite.palette import Palette
from gss_lite.presets import get_preset
from gss_lite.storage import run_record, write_json
from gss_lite.training.tokenizer import VQVAEStage
from gss_lite.vqvae import VQVAE, Codebook
from notebooks.experiments.codebook_usage import (
    CODES,
    HELD_OUT,
    PICTURES,
    PRESET,
    held_out_tokens,
    load_masks,
    train,
)
from notebooks.experiments.gumbel_vae import GumbelVAE

NETWORKS = {"vocab_size": CODES, "stride": 4, "width": 32, "code_dim": 16}


BATCH = 8


class RandomStart(GumbelVAE):
    """Its codes start where chance puts them, as DALL·E's."""

    def start_on(self, features: Tensor) -> None:
        """Leaves the logits as they are."""


Build = Callable[[int], VQVAE | GumbelVAE]


VARIANTS: Mapping[str, Build] = MappingProxyType(
    {
        "VQ-VAE": lambda steps: VQVAE(**NETWORKS),
        "dVAE": lambda steps: GumbelVAE(**NETWORKS, anneal=annealing(steps)),
        "dVAE, hard pixels given up": lambda steps: GumbelVAE(
            **NETWORKS, anneal=annealing(steps), beta=0.0
        ),
        "dVAE, codes started at random": lambda steps: RandomStart(
            **NETWORKS, anneal=annealing(steps)
        ),
        "dVAE, KL weight 6.6": lambda steps: GumbelVAE(
            **NETWORKS, anneal=annealing(steps), kl_weight=6.6
        ),
    }
)


def annealing(steps: int) -> int:
    """Three quarters of the training; the last quarter learns with nearly hard tokens."""
    return max(1, 3 * steps // 4)


def run_variant(
    name: str,
    palette: Palette,
    masks: Tensor,
    held_out: Tensor,
    *,
    steps: int,
    seed: int = 0,
    progress: bool = False,
) -> dict:
    """Train one; scores on the held-out masks, seconds, and the stage's scalars of every tenth step."""
    torch.manual_seed(seed)
    tokenizer = VARIANTS[name](steps)
    started = time.perf_counter()
    log = list(
        tqdm(
            train(VQVAEStage(tokenizer, palette, 0.0), masks, steps, BATCH),
            total=steps,
            desc=name,
            disable=not progress,
            mininterval=1.0,
        )
    )
    seconds = time.perf_counter() - started
    scores = evaluate_palette(palette, tokenizer.eval(), held_out).scores
    usage, perplexity = Codebook.usage(held_out_tokens(tokenizer, palette, held_out), CODES)
    return {
        "miou": round(scores.miou, 4),
        "aacc": round(scores.aacc, 4),
        "iou": [round(v, 4) for v in scores.iou],
        "usage": round(usage, 4),
        "perplexity": round(perplexity, 2),
        "seconds": round(seconds, 1),
        "log": [{k: float(f"{v:.4g}") for k, v in entry.items()} for entry in log[9::10]],
    }


def main(argv: list[str] | None = None) -> None:
    """Train and judge the variants, print a table, write the record."""
    parser = argparse.ArgumentParser(
        prog="python -m notebooks.experiments.gumbel_tokenizer", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pictures", type=int, default=PICTURES, help="training masks")
    parser.add_argument("--held-out", type=int, default=HELD_OUT, help="masks that judge")
    parser.add_argument("--record", type=Path, default=Path("runs/gumbel-tokenizer.json"))
    given = parser.parse_args(argv)
    if min(given.steps, given.pictures, given.held_out) < 1:
        parser.error("--steps, --pictures and --held-out must be 1 or more")
    palette, started = build_palette(get_preset(PRESET)), time.perf_counter()
    masks, held_out = load_masks(given.pictures, "train"), load_masks(given.held_out, "test")
    results = {}
    print(f"{'':32s} {'mIoU':>6s} {'aAcc':>6s} {'usage':>6s} {'perplexity':>10s} {'seconds':>8s}")
    for name in VARIANTS:
        results[name] = r = run_variant(
            name, palette, masks, held_out, steps=given.steps, seed=given.seed, progress=True
        )
        print(
            f"{name:32s} {100 * r['miou']:6.2f} {100 * r['aacc']:6.2f} {100 * r['usage']:5.1f}% "
            f"{r['perplexity']:10.1f} {r['seconds']:8.1f}",
            flush=True,
        )
    line = shlex.join(
        [
            "python",
            "-m",
            "notebooks.experiments.gumbel_tokenizer",
            *(sys.argv[1:] if argv is None else argv),
        ]
    )
    write_json(
        given.record,
        run_record(
            kind="gumbel tokenizer",
            preset=PRESET,
            seed=given.seed,
            steps=given.steps,
            seconds=time.perf_counter() - started,
            command=line,
            metrics={
                "networks": NETWORKS,
                "batch": BATCH,
                "pictures": given.pictures,
                "held_out": given.held_out,
                "variants": results,
            },
        ),
    )
    print(f"run record: {given.record}")


if __name__ == "__main__":
    main()
