"""Training and evaluation of the discriminative twin, with the data, schedule and loop of stage II."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from gss_lite.baselines.pixel import PixelTwin, build_twin
from gss_lite.build import num_classes
from gss_lite.presets import Preset
from gss_lite.training.evaluation import Evaluation, View, evaluate_masks
from gss_lite.training.stages import pretrained_prior, run_stage, validation_set


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


def evaluate_pixel(
    twin: PixelTwin,
    dataset: Dataset,
    *,
    view: View | None = None,
    batch: int = 4,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> Evaluation:
    """As `evaluate` for a GSS: matrices "prediction" and, without a view, "pixel_head" (the auxiliary branch)."""
    twin = twin.to(device).eval()

    def classify(image: Tensor, _: Tensor) -> dict[str, Tensor]:
        if view:
            return {"prediction": view(twin.scores)(image).argmax(1)}
        result = twin.predict(image)
        return {"prediction": result.mask, "pixel_head": result.pixel_mask}

    return evaluate_masks(
        classify, dataset, twin.num_classes, batch=batch, device=device, progress=progress
    )
