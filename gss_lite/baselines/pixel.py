"""The discriminative twin: GSS's prior with a per-pixel classifier in place of the tokens.

Backbone, multi-level aggregation, Swin blocks, auxiliary head, loss weights, data and budget are
the same. Only the last layer and its targets differ: K classes for each cell of the 1/4 grid,
resized to the picture, in place of V codes. Tables 4 to 6 compare with published models, which
differ in more than that.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gss_lite.contracts import IGNORE, check_mask
from gss_lite.gss import PIXEL_WEIGHT, TOKEN_WEIGHT
from gss_lite.presets.parts import ViewSpec
from gss_lite.prior import Prior, pixel_cross_entropy
from gss_lite.views import Answers, pad_to_multiple, resize_to_image


class PixelTwin(nn.Module):
    """Per-pixel classification with GSS's network; implements the contract `Segmenter`.

    Args:
        network: a Prior with vocab_size = num_classes: its token head is the pixel classifier.
        view: the windows or the size for evaluation, see `Preset.view`.

    Raises:
        ValueError: the network's two heads have different numbers of classes.
    """

    def __init__(self, network: Prior, *, view: ViewSpec | None = None) -> None:
        super().__init__()
        self.network = network
        self.view = view or ViewSpec()
        self.num_classes = network.to_tokens.out_channels
        if network.to_classes.out_channels != self.num_classes:
            raise ValueError(
                "the twin classifies pixels with both heads, but this network's heads give "
                f"{self.num_classes} and {network.to_classes.out_channels} classes. "
                "Build it with vocab_size = num_classes"
            )

    def losses(self, image: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """0.8 · cross-entropy of the classifier + 0.2 · that of the auxiliary head, and scalars.

        Both are means over the labelled pixels, see `pixel_cross_entropy`.

        Args:
            image: normalised photographs (B, 3, H, W).
            mask: class ids (B, H, W), 255 = ignore.
        """
        mask = check_mask(mask, self.num_classes)
        logits, auxiliary_logits = self.network(image)  # twice (B, K, h, w)
        logits = F.interpolate(
            logits.float(), size=mask.shape[1:], mode="bilinear", align_corners=False
        )  # (B, K, H, W)
        main = pixel_cross_entropy(logits, mask)
        auxiliary = pixel_cross_entropy(auxiliary_logits, mask)
        labelled = mask != IGNORE
        right = (logits.argmax(1) == mask) & labelled
        return TOKEN_WEIGHT * main + PIXEL_WEIGHT * auxiliary, {
            "classifier": main.detach(),
            "pixel": auxiliary.detach(),
            "pixel_accuracy": right.sum() / labelled.sum(),
        }

    @torch.no_grad()
    def scores(self, image: Tensor) -> Answers:
        """Normalised photographs (B, 3, H, W) of any size → soft-max of both heads (B, K, H, W)."""
        multiple = self.view.multiple
        logits = self.network(pad_to_multiple(image, multiple))  # twice (B, K, h, w)
        main, auxiliary = (
            resize_to_image(values.float(), image.shape[2:], multiple).softmax(1)
            for values in logits
        )
        return {"prediction": main, "pixel_head": auxiliary}

    probabilities = scores
