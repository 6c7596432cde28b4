"""The stages: I, the VQ-VAE on maskige; II, the prior on photographs. Each is one call, seeded and resumable.

Training and evaluation of the discriminative twin, with the data, schedule and loop of stage II.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from gss_lite.baselines.pixel import PixelTwin, build_twin
from gss_lite.data import dataset_for, num_classes
from gss_lite.data.transforms import InMemory, eval_transform
from gss_lite.distributed import is_main, wait_for_all
from gss_lite.evaluation import evaluate_pixel, validator
from gss_lite.factory import build_gss, build_prior, load_tokenizer
from gss_lite.gss import GSS
from gss_lite.presets.parts import Preset
from gss_lite.prior import Prior
from gss_lite.training.run import bring_stage_one, run_stage, stage_one_hash


class PriorStage(nn.Module):
    """Stage II: forward(image, mask) gives GSS's loss; tokenizer and X⁻¹ are frozen."""

    def __init__(self, gss: GSS, targets: str = "no") -> None:
        super().__init__()
        self.gss = gss
        if targets not in ("no", "bf16"):
            raise ValueError(f'targets are encoded in "no" (float32) or "bf16"; got {targets!r}')
        gss.target_precision = targets

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Photograph (B, 3, H, W), mask (B, H, W) → (loss, scalars)."""
        return self.gss.losses(image, mask)


def train_prior(
    preset: Preset,
    folder: Path,
    *,
    stage_one: Path | None = None,
    data: str | Path | None = None,
    pretrained: bool = False,
    validate_every: int = 0,
    **options: object,
) -> GSS:
    """Stage II, on palette and tokenizer found in `stage_one` (default: `folder`). Leaves NAME.prior.safetensors and NAME.prior.json.

    Args:
        pretrained: start from the backbone weights that the preset names. validate_every: steps
            between two measurements of the validation split's mIoU; 0 for none. options: for
            `run_stage`.
    """
    torch.manual_seed(preset.seed)
    gss = build_gss(preset, load_tokenizer(preset, stage_one or folder), stage_one or folder)
    if pretrained:
        gss.prior = pretrained_prior(preset, gss.tokenizer.vocab_size)
        options["pretrained"] = preset.pretrained
    if validate_every:
        options |= {
            "validate": validator(gss, validation_set(preset, data)),
            "validate_every": validate_every,
        }
    # about a quarter faster for convolutions, on CPU and GPU
    gss.prior.to(memory_format=torch.channels_last)
    stage_one = stage_one or folder
    stage = PriorStage(gss, preset.prior.targets)
    run_stage(
        preset,
        "prior",
        stage,
        gss.prior,
        preset.prior,
        folder,
        data,
        frozen=stage_one_hash(preset, stage_one),
        **options,
    )
    if is_main():
        bring_stage_one(preset, stage_one, folder)
    wait_for_all()
    return gss.eval()


def pretrained_prior(preset: Preset, vocab_size: int) -> Prior:
    """The preset's prior on the backbone weights that the preset names.

    Raises:
        ValueError: it names none. OSError: they cannot be had (no network, and none kept from an
            earlier download).
    """
    try:
        return build_prior(preset, vocab_size, pretrained=True)
    except RuntimeError as error:
        raise OSError(str(error)) from error


def validation_set(preset: Preset, data: str | Path | None = None) -> InMemory:
    """The preset's validation pictures, as evaluation takes them."""
    return InMemory(dataset_for(preset, "val", folder=data, transform=eval_transform()))


class PixelStage(nn.Module):
    """forward(image, mask) gives the twin's loss."""

    def __init__(self, twin: PixelTwin) -> None:
        super().__init__()
        self.twin = twin

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Photograph (B, 3, H, W), mask (B, H, W) → (loss, scalars)."""
        return self.twin.losses(image, mask)


def train_pixel(
    preset: Preset,
    folder: Path,
    *,
    data: str | Path | None = None,
    pretrained: bool = False,
    validate_every: int = 0,
    **options: object,
) -> PixelTwin:
    """Train the preset's twin on stage II's schedule. Leaves NAME.pixel.safetensors and its record NAME.pixel.json in `folder`.

    Args: as `train_prior`.
    """
    torch.manual_seed(preset.seed)
    twin = (
        PixelTwin(pretrained_prior(preset, num_classes(preset)))
        if pretrained
        else build_twin(preset)
    )
    if pretrained:
        options["pretrained"] = preset.pretrained
    if validate_every:
        options |= {
            "validate": twin_validator(validation_set(preset, data)),
            "validate_every": validate_every,
        }
    twin.network.to(memory_format=torch.channels_last)
    run_stage(
        preset, "pixel", PixelStage(twin), twin.network, preset.prior, folder, data, **options
    )
    return twin.eval()


def twin_validator(dataset: Dataset) -> Callable[[nn.Module], float]:
    """For `fit`: a function that gives the mIoU in [0, 1] which the network it is handed reaches on `dataset` as a twin."""

    def miou(network: nn.Module) -> float:
        device = next(network.parameters()).device
        return (
            evaluate_pixel(PixelTwin(network), dataset, device=device, progress=False)
            .scores()["prediction"]
            .miou
        )

    return miou
