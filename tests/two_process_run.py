"""Started by tests/test_training_processes.py, in one process or by torchrun in two: trains scenes-tiny's prior, evaluates it, and trains its VQ-VAE.

Dropout is off: it draws other numbers in every process.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist

from gss_lite.data import dataset_for
from gss_lite.data.transforms import InMemory, SeededAugmentation, eval_transform, train_transform
from gss_lite.evaluation import evaluate
from gss_lite.factory import build_gss, build_tokenizer
from gss_lite.presets import get_preset
from gss_lite.training.loop import fit
from gss_lite.training.prior import PriorStage
from gss_lite.training.tokenizer import VQVAEStage


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    preset = get_preset("scenes-tiny")
    preset = replace(preset, head={**preset.head, "dropout": 0.0})
    schedule = replace(preset.prior, steps=20, batch=8)
    gss = build_gss(preset)
    data = SeededAugmentation(
        InMemory(dataset_for(preset, "train")), train_transform(*schedule.crop), 0
    )
    log = fit(
        PriorStage(gss),
        gss.prior,
        data,
        schedule,
        run={"preset": "scenes-tiny", "stage": "prior", "seed": 0},
        folder=folder,
        log_every=1,
        progress=False,
    )
    matrices = evaluate(
        gss, dataset_for(preset, "test", transform=eval_transform()), batch=1, progress=False
    ).matrices
    torch.manual_seed(0)
    # not the prior's: tokens of two that differ by rounding would differ by more
    tokenizer = build_tokenizer(preset)
    first = fit(
        VQVAEStage(tokenizer, gss.palette, 1.0),
        tokenizer,
        data,
        replace(preset.vqvae, steps=20, batch=8),
        run={"preset": "scenes-tiny", "stage": "vqvae", "seed": 0},
        folder=folder / "vqvae",
        log_every=1,
        progress=False,
    )
    torch.save(
        {
            "learner": gss.prior.state_dict(),
            "losses": [e["loss"] for e in log],
            "matrices": matrices,
            "vqvae": tokenizer.state_dict(),
            "vqvae_losses": [e["loss"] for e in first],
            "processes": dist.get_world_size() if dist.is_initialized() else 1,
        },
        folder / f"result{dist.get_rank() if dist.is_initialized() else 0}.pt",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
