"""The discriminative twin: GSS's prior with a per-pixel classifier in place of the tokens.

Same backbone, multi-level aggregation, Swin blocks, auxiliary branch, loss weights, data and
budget; only the last layer and what it is trained on differ: K classes per cell of the 1/4 grid
instead of V codes, enlarged to the picture. It is the comparison that Tables 4 to 6 make with
published models, here with everything else held equal.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gss_lite.contracts import IGNORE, check_mask
from gss_lite.data import num_classes
from gss_lite.distributed import mean_over_processes
from gss_lite.factory import SHIPPED, build_prior
from gss_lite.gss import PIXEL_WEIGHT, TOKEN_WEIGHT, over_picture, pad_picture
from gss_lite.presets.parts import Preset
from gss_lite.prior import Prior
from gss_lite.storage import load_weights


class PixelPrediction(NamedTuple):
    """Class ids (B, H, W) of the classifier and of the auxiliary branch."""

    mask: Tensor
    pixel_mask: Tensor


class PixelTwin(nn.Module):
    """Per-pixel classification with GSS's network.

    Args:
        network: a Prior whose "vocabulary" are the K classes, so that its last layer is the
            classifier.
    """

    def __init__(self, network: Prior) -> None:
        super().__init__()
        self.network = network
        self.num_classes = network.to_tokens.out_channels
        if network.to_classes.out_channels != self.num_classes:
            raise ValueError(
                "the twin classifies pixels with both heads; this network's give "
                f"{self.num_classes} and "
                f"{network.to_classes.out_channels} classes. Build it with vocab_size = num_classes"
            )

    def losses(self, image: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """0.8 · CE(classifier) + 0.2 · CE(auxiliary branch), both per pixel at the mask's size, averaged as GSS's are.

        Photograph (B, 3, H, W), mask (B, H, W) with 255 = ignore → (loss, scalars).
        """
        mask = check_mask(mask, self.num_classes)
        logits, auxiliary = (
            self._enlarged(scores, mask.shape[1:]) for scores in self.network(image)
        )
        labelled = mask != IGNORE
        count = mean_over_processes(labelled.sum()).clamp(min=1).to(logits.dtype)
        main, side = (
            F.cross_entropy(x, mask, ignore_index=IGNORE, reduction="sum") / count
            for x in (logits, auxiliary)
        )
        right = (logits.argmax(1) == mask) & labelled
        return TOKEN_WEIGHT * main + PIXEL_WEIGHT * side, {
            "classifier": main.detach(),
            "pixel": side.detach(),
            "pixel_accuracy": right.sum() / labelled.sum(),
        }

    @torch.no_grad()
    def scores(self, image: Tensor) -> Tensor:
        """Normalised photograph (B, 3, H, W) of any size → soft-max (B, K, H, W): a scorer for `gss_lite.inference`."""
        return self._logits(image)[0].softmax(1)

    @torch.no_grad()
    def predict(self, image: Tensor) -> PixelPrediction:
        """Normalised photograph (B, 3, H, W) of any size → class ids by arg-max."""
        return PixelPrediction(*(logits.argmax(1) for logits in self._logits(image)))

    def _logits(self, image: Tensor) -> list[Tensor]:
        return [
            over_picture(scores.float(), image.shape[2:])
            for scores in self.network(pad_picture(image))
        ]

    @staticmethod
    def _enlarged(logits: Tensor, size: torch.Size) -> Tensor:
        return F.interpolate(logits.float(), size=tuple(size), mode="bilinear", align_corners=False)


def build_twin(preset: Preset) -> PixelTwin:
    """The twin of the preset's model, untrained.

    Raises:
        ValueError: the preset is a tokenizer alone.
    """
    if preset.prior is None:
        raise ValueError(
            f"preset {preset.name} is a tokenizer alone and has no twin; choose one with a prior, "
            "as scenes-cpu or camvid"
        )
    return PixelTwin(build_prior(preset, num_classes(preset)))


def load_twin(preset: Preset, weights: str | Path = SHIPPED) -> PixelTwin:
    """The trained twin from folder `weights`, in eval mode.

    Raises:
        FileNotFoundError, ValueError: no such file, or one of another architecture.
    """
    twin = build_twin(preset)
    load_weights(Path(weights) / f"{preset.name}.pixel.safetensors", twin.network)
    return twin.eval()
