"""Training and evaluation of the discriminative twin, with the data, schedule and loop of stage II."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from gss_lite.baselines.pixel import PixelTwin, build_twin
from gss_lite.presets import Preset
from gss_lite.training.evaluation import Evaluation, evaluate_masks
from gss_lite.training.stages import run_stage


class PixelStage(nn.Module):
    """forward(image, mask) gives the twin's loss."""

    def __init__(self, twin: PixelTwin) -> None:
        super().__init__()
        self.twin = twin

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Photograph (B, 3, H, W), mask (B, H, W) → (loss, scalars)."""
        return self.twin.losses(image, mask)


def train_pixel(preset: Preset, folder: Path, *, data: str | Path | None = None, **options: object) -> PixelTwin:
    """Train the preset's twin on stage II's schedule. Leaves NAME.pixel.safetensors and its record NAME.pixel.json in `folder`."""
    torch.manual_seed(preset.seed)
    twin = build_twin(preset)
    twin.network.to(memory_format=torch.channels_last)
    run_stage(preset, "pixel", PixelStage(twin), twin.network, preset.prior, folder, data, **options)
    return twin.eval()


def evaluate_pixel(
    twin: PixelTwin, dataset: Dataset, *, batch: int = 4, device: str | torch.device = "cpu", progress: bool = True,
) -> Evaluation:
    """As `evaluate` for a GSS: matrices "prediction" and "pixel_head" (the auxiliary branch)."""
    twin = twin.to(device).eval()

    def classify(image: Tensor, _: Tensor) -> dict[str, Tensor]:
        result = twin.predict(image)
        return {"prediction": result.mask, "pixel_head": result.pixel_mask}

    return evaluate_masks(classify, dataset, twin.num_classes, batch=batch, device=device, progress=progress)
