"""Does the codebook collapse in a short training? Several seeds.

Usage is counted in two ways. At every step: the share of all codes that occur among the tokens of
that step's batch (16 masks, 12,288 tokens). After the last step: the share that occurs among the
tokens of held-out masks, which are always the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn
from tqdm import tqdm

import gss_lite as gss
from gss_lite.data import load_masks
from gss_lite.training.tokenizer import VQVAELoss
from gss_lite.vqvae import Codebook
from notebooks.experiments.runner import Run, new_parser

PRESET = gss.get_preset("scenes-cpu")
CODES = 256  # the preset's 1,024 codes take thousands of steps to find their places
PICTURES = 256
HELD_OUT = 48


def train(
    stage: nn.Module, masks: Tensor, steps: int = 150, batch: int = 16, lr: float = 3e-3
) -> Iterator[dict]:
    """Train `stage.tokenizer` on masks (N, H, W).

    Yields step, loss, reconstruction, usage, perplexity and readback after every step.
    """
    optimiser = torch.optim.AdamW(stage.tokenizer.parameters(), lr=lr, weight_decay=0.0)
    for step in range(1, steps + 1):
        for group in optimiser.param_groups:
            # warm-up, then down to zero
            group["lr"] = lr * min(1, step / 10) * (1 - (step - 1) / steps)
        chosen = masks[torch.randint(len(masks), (batch,))]
        loss, scalars = stage.train()(None, chosen.flip(-1) if step % 2 else chosen)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        yield {"step": step, "loss": loss.item()} | {k: float(s) for k, s in scalars.items()}


def live_tokenizer() -> gss.VQVAE:
    """The preset's VQ-VAE with `CODES` codes, untrained."""
    return gss.VQVAE(**{**PRESET.tokenizer.arguments, "vocab_size": CODES})


@torch.no_grad()
def held_out_tokens(tokenizer: gss.VQVAE, palette: gss.Palette, masks: Tensor) -> Tensor:
    """Masks (N, H, W) → tokens (N, h, w)."""
    return torch.cat([tokenizer.encode(palette(part)) for part in masks.split(8)])


def run_seed(
    seed: int, masks: Tensor, held_out: Tensor, *, steps: int, progress: bool = True
) -> dict:
    """Train once → usage and perplexity of each batch and of held-out masks, and their mIoU."""
    palette = gss.create_palette(PRESET)
    torch.manual_seed(seed)
    tokenizer = live_tokenizer()
    stage = VQVAELoss(tokenizer, palette, PRESET.tokenizer.readback).to(masks.device)
    entries = train(stage, masks, steps)
    log = list(tqdm(entries, total=steps, desc=f"seed {seed}", disable=not progress))
    tokens = held_out_tokens(tokenizer.eval(), palette, held_out)
    usage, perplexity = Codebook.usage(tokens, CODES)
    return {
        "seed": seed,
        "held_out": {
            "usage": round(usage, 4),
            "perplexity": round(perplexity, 2),
            "miou": round(gss.evaluate_palette(palette, tokenizer, held_out).scores.miou, 4),
        },
        "usage": [round(entry["usage"], 3) for entry in log],
        "perplexity": [round(entry["perplexity"], 1) for entry in log],
    }


parser = partial(
    new_parser, __file__, __doc__, seeds=5, steps=150, record="runs/codebook-usage.json"
)


def main(argv: list[str] | None = None) -> None:
    """Train every seed, print the held-out figures, write the record."""
    run = Run(parser(), argv)
    given = run.given
    masks = load_masks("scenes", "train", PICTURES).long().to(given.device)
    held_out = load_masks("scenes", "test", HELD_OUT).long().to(given.device)
    runs = []
    for seed in range(given.seeds):
        runs.append(run_seed(seed, masks, held_out, steps=given.steps, progress=not given.quiet))
        found = runs[-1]["held_out"]
        print(
            f"seed {seed}: held-out masks: usage {100 * found['usage']:.1f} % of {CODES} codes, "
            f"perplexity {found['perplexity']:.0f}, mIoU {100 * found['miou']:.1f}",
            flush=True,
        )
    metrics = {
        "codes": CODES,
        "pictures": PICTURES,
        "held_out_pictures": HELD_OUT,
        "held_out_tokens": HELD_OUT * 24 * 32,
        "runs": runs,
    }
    run.write(PRESET.name, metrics)


if __name__ == "__main__":
    main()
