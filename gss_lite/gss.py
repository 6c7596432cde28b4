"""GSS assembled: palette X, tokenizer E_φ/D_θ (frozen), prior I_ψ and inverse X⁻¹.

mask → palette → tokens            (targets of stage II)
image → prior → tokens → maskige → class ids   (prediction)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gss_lite.palette import IGNORE, Palette, check_mask, paint
from gss_lite.prior import Prior
from gss_lite.processes import mean_over_processes
from gss_lite.token_loss import token_cross_entropy

TOKEN_WEIGHT, PIXEL_WEIGHT = 0.8, 0.2  # of the two cross-entropies in the released configs


class Tokenizer(Protocol):
    """Maskige (B, 3, H, W) in [0, 1] ⇄ tokens (B, H/stride, W/stride)."""

    vocab_size: int
    stride: int

    def encode(self, maskige: Tensor) -> Tensor: ...
    def decode(self, tokens: Tensor) -> Tensor: ...


class Targets(NamedTuple):
    """Stage II's targets: tokens (B, h, w), 255-free; ignore map (B, h, w); the mask at maskige size (B, H, W)."""

    tokens: Tensor
    ignored: Tensor
    mask: Tensor


class Prediction(NamedTuple):
    """Class ids (B, H, W), and what they came from: tokens (B, h, w) and maskige (B, 3, h·stride, w·stride)."""

    mask: Tensor
    tokens: Tensor
    maskige: Tensor
    pixel_mask: Tensor


class GSS(nn.Module):
    """One Generative Semantic Segmentation model.

    Args:
        palette: X. tokenizer: E_φ and D_θ, frozen here. prior: I_ψ.
        inverse: X⁻¹, with `classify(maskige) → ids`.
    """

    def __init__(
        self, palette: Palette, tokenizer: nn.Module, prior: Prior, inverse: nn.Module
    ) -> None:
        super().__init__()
        self.register_buffer("colors", palette.colors, persistent=False)
        self.palette, self.prior, self.inverse = palette, prior, inverse
        self.tokenizer = tokenizer.eval().requires_grad_(False)
        self.target_precision = "no"  # float32; or "bf16", see `targets`

    def train(self, mode: bool = True) -> GSS:
        """Train mode for prior and inverse; the tokenizer always stays in eval mode."""
        super().train(mode)
        self.tokenizer.eval()
        return self

    @torch.no_grad()
    def targets(self, mask: Tensor, pixel_logits: Tensor) -> Targets:
        """Ground truth (B, H, W) with 255 = ignore, and the pixel branch's logits (B, K, H/4, W/4) → Targets.

        The mask is brought to the token grid's size times the stride. Ignored pixels take the pixel
        branch's current guess (Eq. 7), so that a token with some labelled pixels still has a whole
        patch to encode; a token is ignored only if none of its pixels is labelled.
        """
        stride = self.tokenizer.stride
        size = [side * stride for side in pixel_logits.shape[2:]]
        mask = resize_mask(check_mask(mask, len(self.colors)), size, len(self.colors))
        guess = F.interpolate(pixel_logits, size=size, mode="bilinear", align_corners=False).argmax(
            1
        )
        # In bf16 about two of a hundred vectors cross to a neighbouring code: faster, and not quite
        # the same tokens. So the precision of the targets is chosen by itself, whatever the prior
        # trains in.
        with torch.autocast(
            mask.device.type, torch.bfloat16, enabled=self.target_precision == "bf16"
        ):
            tokens = self.tokenizer.encode(
                paint(torch.where(mask == IGNORE, guess, mask), self.colors)
            )
        # (B, h, w): 1 where any pixel counts
        labelled = F.max_pool2d((mask != IGNORE).float(), stride)
        return Targets(tokens, labelled == 0, mask)

    def losses(self, image: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """0.8 · CE(tokens) + 0.2 · CE(pixels), each averaged over the positions that are not ignored, as the released code does.

        Raises:
            ValueError: picture and mask of different size; `targets` would stretch the mask
                silently.
        """
        if image.shape[2:] != mask.shape[1:] or len(image) != len(mask):
            raise ValueError(
                f"the picture is (B, H, W) = {(len(image), *image.shape[2:])}, its mask "
                f"{tuple(mask.shape)}; they must be of one size"
            )
        features, pixel_logits = self.prior.encode(image)
        targets = self.targets(mask, pixel_logits.detach())
        last = self.prior.to_tokens
        token_loss, accuracy = token_cross_entropy(
            features, last.weight, last.bias, targets.tokens, targets.ignored
        )
        big = F.interpolate(
            pixel_logits.float(), size=targets.mask.shape[1:], mode="bilinear", align_corners=False
        )
        labelled = mean_over_processes((targets.mask != IGNORE).sum()).clamp(min=1)
        pixel_loss = F.cross_entropy(
            big, targets.mask, ignore_index=IGNORE, reduction="sum"
        ) / labelled.to(big.dtype)
        return TOKEN_WEIGHT * token_loss + PIXEL_WEIGHT * pixel_loss, {
            "token": token_loss.detach(),
            "pixel": pixel_loss.detach(),
            "token_accuracy": accuracy,
        }

    def decode_logits(self, token_logits: Tensor) -> Tensor:
        """D_θ of what the prior says: token logits (B, V, h, w) → the maskige of the likeliest tokens (B, 3, h·stride, w·stride)."""
        return self.tokenizer.decode(token_logits.argmax(1))

    @torch.no_grad()
    def predict_maskige(self, image: Tensor) -> Tensor:
        """Normalised photograph (B, 3, H, W) → what `predict` reads with X⁻¹, of the picture padded to multiples of 32."""
        return self.decode_logits(self.prior(pad_picture(image)).token_logits)

    @torch.no_grad()
    def predict(self, image: Tensor) -> Prediction:
        """Normalised photograph (B, 3, H, W) of any size → Prediction by arg-max tokens."""
        height, width = image.shape[2:]
        padded = pad_picture(image)
        token_logits, pixel_logits = self.prior(padded)
        tokens = token_logits.argmax(1)
        maskige = self.decode_logits(token_logits)
        ids = resize_mask(self.inverse.classify(maskige), padded.shape[2:], len(self.colors))
        return Prediction(
            ids[:, :height, :width],
            tokens,
            maskige,
            over_picture(pixel_logits, (height, width)).argmax(1),
        )

    @torch.no_grad()
    def reconstruct(self, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Stage I alone: mask (B, H, W) → (ids after paint, encode, decode and X⁻¹; tokens). Sides are padded to the stride."""
        height, width = mask.shape[1:]
        stride = self.tokenizer.stride
        padded = F.pad(mask, (0, -width % stride, 0, -height % stride), value=IGNORE)
        tokens = self.tokenizer.encode(paint(padded, self.colors, self.palette.ignore_color))
        return self.inverse.classify(self.tokenizer.decode(tokens))[:, :height, :width], tokens


def pad_picture(image: Tensor) -> Tensor:
    """Photograph (B, 3, H, W) → the same with its last row and column repeated up to multiples of 32, which a backbone can halve five times."""
    height, width = image.shape[2:]
    return F.pad(image, (0, -width % 32, 0, -height % 32), mode="replicate")


def over_picture(values: Tensor, sides: Sequence[int]) -> Tensor:
    """What was found for a padded picture, (B, C, h, w), brought to its pixels bilinearly, and to the picture's own sides: (B, C, *sides)."""
    height, width = sides
    padded = (height + -height % 32, width + -width % 32)
    return F.interpolate(values, size=padded, mode="bilinear", align_corners=False)[
        :, :, :height, :width
    ]


def resize_mask(mask: Tensor, size: tuple[int, int] | list[int], num_classes: int) -> Tensor:
    """Class ids (B, H, W) → (B, *size): one-hot, bilinear, arg-max, as the released code does; 255 is a class of its own."""
    if list(mask.shape[1:]) == list(size):
        return mask
    onehot = (
        F.one_hot(mask.masked_fill(mask == IGNORE, num_classes), num_classes + 1)
        .movedim(-1, 1)
        .float()
    )
    ids = F.interpolate(onehot, size=tuple(size), mode="bilinear", align_corners=False).argmax(1)
    return ids.masked_fill(ids == num_classes, IGNORE)
