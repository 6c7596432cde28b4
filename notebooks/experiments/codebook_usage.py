"""python -m notebooks.experiments.codebook_usage: does the codebook of notebook 04's live training collapse? Several seeds.

Usage is counted in two ways. At every step: the share of all codes that occur among the tokens of
    that step's batch
(16 masks, 12,288 tokens). After the last step: the share that occurs among the tokens of held-out
masks, always the same ones.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from gss_lite.data.scenes import Scenes
from gss_lite.evaluation import evaluate_palette
from gss_lite.factory import build_palette
from gss_lite.palette import Palette
from gss_lite.presets import get_preset
from gss_lite.storage import run_record, write_json
from gss_lite.training.tokenizer import VQVAEStage
from gss_lite.vqvae import VQVAE, Codebook

PRESET = "scenes-cpu"


CODES = 256  # not the preset's 1,024: those take thousands of steps to find their places


PICTURES, HELD_OUT = 256, 48


def train(
    stage: nn.Module, masks: Tensor, steps: int = 150, batch: int = 16, lr: float = 3e-3
) -> Iterator[dict]:
    """Notebook 04's live training of `stage.tokenizer` on masks (N, H, W), the same line by line (a test compares them).

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


def live_tokenizer() -> VQVAE:
    """The preset's VQ-VAE with `CODES` codes, untrained."""
    return VQVAE(**{**get_preset(PRESET).tokenizer, "vocab_size": CODES})


def load_masks(count: int, split: str) -> Tensor:
    """The first masks of a split of Scenes, long (N, 96, 128)."""
    scenes = Scenes(count, split=split)
    return torch.stack([scenes[i][1] for i in range(count)]).long()


@torch.no_grad()
def held_out_tokens(tokenizer: VQVAE, palette: Palette, masks: Tensor) -> Tensor:
    """Masks (N, H, W) → tokens (N, h, w)."""
    return torch.cat([tokenizer.encode(palette(part)) for part in masks.split(8)])


def run_seed(
    seed: int, masks: Tensor, held_out: Tensor, *, steps: int, progress: bool = True
) -> dict:
    """Train once; usage and perplexity of every step's batch, and usage, perplexity and mIoU on the held-out masks."""
    preset = get_preset(PRESET)
    palette = build_palette(preset)
    torch.manual_seed(seed)
    tokenizer = live_tokenizer()
    bar = tqdm(
        train(VQVAEStage(tokenizer, palette, preset.readback), masks, steps),
        total=steps,
        desc=f"seed {seed}",
        disable=not progress,
    )
    log = list(bar)
    tokens = held_out_tokens(tokenizer.eval(), palette, held_out)
    usage, perplexity = Codebook.usage(tokens, CODES)
    return {
        "seed": seed,
        "held_out": {
            "usage": round(usage, 4),
            "perplexity": round(perplexity, 2),
            "miou": round(evaluate_palette(palette, tokenizer, held_out).scores.miou, 4),
        },
        "usage": [round(entry["usage"], 3) for entry in log],
        "perplexity": [round(entry["perplexity"], 1) for entry in log],
    }


def main(argv: list[str] | None = None) -> None:
    """Train every seed, print the held-out figures, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0 on")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--record", type=Path, required=True)
    given = parser.parse_args(argv)
    started = time.perf_counter()
    masks, held_out = load_masks(PICTURES, "train"), load_masks(HELD_OUT, "test")
    runs = []
    for seed in range(given.seeds):
        runs.append(run_seed(seed, masks, held_out, steps=given.steps))
        print(
            f"seed {seed}: held-out masks: usage {100 * runs[-1]['held_out']['usage']:.1f} % of "
            f"{CODES} codes, "
            f"perplexity {runs[-1]['held_out']['perplexity']:.0f}, mIoU "
            f"{100 * runs[-1]['held_out']['miou']:.1f}",
            flush=True,
        )
    write_json(
        given.record,
        run_record(
            kind="codebook usage",
            preset=PRESET,
            seed=0,
            steps=given.steps,
            seconds=time.perf_counter() - started,
            device=held_out.device,
            metrics={
                "codes": CODES,
                "pictures": PICTURES,
                "held_out_pictures": HELD_OUT,
                "held_out_tokens": HELD_OUT * 24 * 32,
                "runs": runs,
            },
            command=f"python -m notebooks.experiments.codebook_usage --seeds {given.seeds} --steps "
            f"{given.steps} --record {given.record}",
        ),
    )
    print(f"run record: {given.record}")


if __name__ == "__main__":
    main()
