"""X⁻¹ as a Gaussian for each class, measured on training pictures: a stage that trains nothing, and takes seconds."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gss_lite.build import dataset_for
from gss_lite.data.transforms import eval_transform
from gss_lite.gss import GSS
from gss_lite.inverse_statistics import GaussianInverse, fit_gaussians
from gss_lite.presets import Preset
from gss_lite.processes import is_main, wait_for_all
from gss_lite.training.checkpoints import load_weights, save_weights, write_json
from gss_lite.training.inverse_stage import decode_pictures
from gss_lite.training.records import run_record

PICTURES = 200


def measure_gaussians(
    gss: GSS,
    dataset: Dataset,
    *,
    maskige: str = "noisy",
    count: int = PICTURES,
    progress: bool = False,
) -> GaussianInverse:
    """Where the classes' colours land, and how widely they scatter, in `count` pictures of a set of (normalised image, mask) pairs.

    Args and errors as `decode_pictures` and `fit_gaussians`.
    """
    pairs = decode_pictures(gss, dataset, maskige=maskige, count=count, progress=progress)
    return fit_gaussians(
        gss.colors, ((x.float(), same_size(x, mask)) for x, mask in DataLoader(pairs, batch_size=8))
    )


def same_size(maskige: Tensor, mask: Tensor) -> Tensor:
    """The mask (B, H, W) at the size of its maskige (B, 3, s·H, s·W): noisy ones of a tokenizer with stride 8 are twice as large."""
    scale = maskige.shape[2] // mask.shape[1]
    return mask.repeat_interleave(scale, 1).repeat_interleave(scale, 2)


def gaussian_stage(
    preset: Preset,
    folder: Path,
    gss: GSS,
    *,
    maskige: str = "noisy",
    data: str | Path | None = None,
    command: str = "",
    progress: bool = True,
) -> GaussianInverse:
    """Measure X⁻¹ for the preset's trained model. Leaves NAME.inverse-gaussian.safetensors and its record in `folder`."""
    started = time.perf_counter()
    pictures = dataset_for(preset, "train", folder=data, transform=eval_transform())
    inverse = measure_gaussians(gss, pictures, maskige=maskige, progress=progress)
    name = "inverse-gaussian" + ("-clean" if maskige == "clean" else "")
    classes, channels = inverse.colors.shape
    if is_main():
        save_weights(folder / f"{preset.name}.{name}.safetensors", inverse)
        write_json(
            folder / f"{preset.name}.{name}.json",
            {
                **run_record(
                    kind=f"train {name}",
                    preset=preset.name,
                    seed=preset.seed,
                    steps=None,
                    seconds=time.perf_counter() - started,
                    metrics={"pictures": min(PICTURES, len(pictures))},
                    command=command,
                    device=gss.colors.device,
                ),
                "parameters": classes * (channels + channels * (channels + 1) // 2),
                "maskige": maskige,
                "log": [],
            },
        )
    wait_for_all()
    return inverse.to(gss.colors.device).eval()


def load_gaussians(path: Path) -> GaussianInverse:
    """The X⁻¹ in a file that `gaussian_stage` wrote."""
    colors = load_file(path)["colors"].float()
    channels = colors.shape[1]
    inverse = GaussianInverse(
        colors, colors, torch.eye(channels).expand(len(colors), channels, channels)
    )
    load_weights(path, inverse)
    return inverse.eval()
