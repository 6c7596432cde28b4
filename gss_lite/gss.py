"""GSS, the complete model: palette X, tokenizer E_φ/D_θ (frozen), prior I_ψ and inverse X⁻¹.

mask → palette → tokenizer → tokens                         (the targets of stage II)
photograph → prior → tokens → tokenizer → maskige → X⁻¹     (the prediction)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode, v2

from gss_lite.contracts import IGNORE, Inverse, Tokenizer, check_mask
from gss_lite.data.transforms import normalize
from gss_lite.inverse import check_reads
from gss_lite.palette.palette import Palette, paint
from gss_lite.presets.parts import ViewSpec
from gss_lite.prior import Prior, pixel_cross_entropy
from gss_lite.token_loss import token_cross_entropy
from gss_lite.views import (
    Answers,
    pad_to_multiple,
    resize_mask,
    resize_to_image,
    shrink,
    view_of,
)

TOKEN_WEIGHT = 0.8  # of the tokens' cross-entropy, in the released configs
PIXEL_WEIGHT = 0.2  # of the auxiliary pixel head's cross-entropy


class Targets(NamedTuple):
    """The targets of stage II.

    Attributes:
        tokens: token ids (B, h, w), also where they are ignored.
        ignored: (B, h, w), true where a token is left out of the loss.
        mask: class ids (B, h·stride, w·stride), the mask at the size of the maskige.
    """

    tokens: Tensor
    ignored: Tensor
    mask: Tensor


class Outputs(NamedTuple):
    """The network's outputs for a padded picture (B, 3, H', W'), with h = H'/4 and w = W'/4.

    Attributes:
        token_logits: (B, V, h, w).
        maskige: (B, D, h·stride, w·stride).
        pixel_logits: (B, K, h, w), of the auxiliary pixel head; None where there is no such head.
    """

    token_logits: Tensor
    maskige: Tensor
    pixel_logits: Tensor | None


class Prediction(NamedTuple):
    """A prediction for pictures (B, 3, H, W); for a single picture the shapes have no B.

    Attributes:
        mask: class ids (B, H, W).
        tokens: (B, ⌈H/4⌉, ⌈W/4⌉); None where several views were averaged.
        maskige: (B, D, H, W) in [0, 1].
        pixel_mask: class ids (B, H, W) of the auxiliary pixel head; None where there is none.
    """

    mask: Tensor
    tokens: Tensor | None
    maskige: Tensor
    pixel_mask: Tensor | None

    def first(self) -> Prediction:
        """The prediction for the first picture, without the batch dimension."""
        return Prediction(*(None if values is None else values[0] for values in self))


class GSS(nn.Module):
    """A Generative Semantic Segmentation model; implements the contract `Segmenter`.

    Args:
        palette: X.
        tokenizer: E_φ and D_θ. Its weights are frozen.
        prior: I_ψ; None for a model that only reconstructs masks.
        inverse: X⁻¹.
        view: the windows or the size that `segment` uses, see `Preset.view`.
        picture_size: height and width of the training pictures. `segment` shrinks larger pictures
            to it. With None it does not.
    """

    def __init__(
        self,
        palette: Palette,
        tokenizer: Tokenizer,
        prior: Prior | None,
        inverse: Inverse,
        *,
        view: ViewSpec | None = None,
        picture_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.palette = palette
        self.tokenizer = tokenizer.eval().requires_grad_(False)
        self.prior = prior
        self.inverse = inverse
        self.view = view or ViewSpec()
        self.picture_size = picture_size

    @property
    def colors(self) -> Tensor:
        """β (K, D), the palette's colours."""
        return self.palette.colors

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.palette)

    def train(self, mode: bool = True) -> GSS:
        """Set prior and inverse to train mode; the tokenizer always stays in eval mode."""
        super().train(mode)
        self.tokenizer.eval()
        return self

    # Training -------------------------------------------------------------------------------------

    @torch.no_grad()
    def targets(self, mask: Tensor, pixel_logits: Tensor, precision: str = "no") -> Targets:
        """The tokens that the prior has to predict for a mask, and which of them count.

        The mask is resized to the token grid times the stride. Ignored pixels take the pixel head's
        current class (Eq. 7), so that a token with few labelled pixels still encodes a whole patch.
        A token is ignored only if none of its pixels is labelled.

        Args:
            mask: class ids (B, H, W).
            pixel_logits: the pixel head's logits (B, K, h, w), on the token grid.
            precision: "bf16" encodes faster, but about 2 % of the tokens change to a neighbouring
                code. So it is set apart from the prior's own precision.
        """
        stride = self.tokenizer.stride
        size = [side * stride for side in pixel_logits.shape[2:]]
        mask = check_mask(mask, self.num_classes)
        mask = resize_mask(mask, size, self.num_classes)  # (B, h·stride, w·stride)
        guess = F.interpolate(pixel_logits, size=size, mode="bilinear", align_corners=False)
        guess = guess.argmax(1)  # (B, h·stride, w·stride)
        # c̃ = M_u · c̄ + (1 − M_u) · c   (Eq. 7)
        filled = torch.where(mask == IGNORE, guess, mask)
        maskige = paint(filled, self.colors)  # (B, D, h·stride, w·stride)
        in_bf16 = precision == "bf16"
        with torch.autocast(mask.device.type, torch.bfloat16, enabled=in_bf16):
            tokens = self.tokenizer.encode(maskige)  # (B, h, w)
        labelled = F.max_pool2d((mask != IGNORE).float(), stride)  # (B, h, w)
        return Targets(tokens, labelled == 0, mask)

    def losses(
        self, image: Tensor, mask: Tensor, target_precision: str = "no"
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """0.8 · cross-entropy of the tokens + 0.2 · cross-entropy of the pixels, and scalars.

        Each is the mean over the positions that are not ignored, as in the released code.

        Args:
            image: normalised photographs (B, 3, H, W).
            mask: class ids (B, H, W).
            target_precision: see `targets`.

        Raises:
            ValueError: picture and mask have different sizes, or the prior has no pixel head.
        """
        if self.prior.to_classes is None:
            raise ValueError(
                "this prior has no auxiliary pixel head, as in a released GSS-FT-W, so stage II "
                "cannot train it; take a GSS-FF"
            )
        if image.shape[2:] != mask.shape[1:] or len(image) != len(mask):
            raise ValueError(
                f"the picture is (B, H, W) = {(len(image), *image.shape[2:])}, its mask "
                f"{tuple(mask.shape)}; they must be of one size"
            )
        features, pixel_logits = self.prior.encode(image)  # (B, C, h, w), (B, K, h, w)
        targets = self.targets(mask, pixel_logits.detach(), target_precision)
        last = self.prior.to_tokens
        token_loss, accuracy = token_cross_entropy(
            features, last.weight, last.bias, targets.tokens, targets.ignored
        )
        pixel_loss = pixel_cross_entropy(pixel_logits, targets.mask)
        loss = TOKEN_WEIGHT * token_loss + PIXEL_WEIGHT * pixel_loss
        return loss, {
            "token": token_loss.detach(),
            "pixel": pixel_loss.detach(),
            "token_accuracy": accuracy,
        }

    # Prediction -----------------------------------------------------------------------------------

    def decode_logits(self, token_logits: Tensor) -> Tensor:
        """Token logits (B, V, h, w) → maskige (B, D, h·stride, w·stride) of the arg-max tokens."""
        return self.tokenizer.decode(token_logits.argmax(1))

    @torch.no_grad()
    def outputs(self, image: Tensor) -> Outputs:
        """Normalised photographs (B, 3, H, W) of any size → Outputs for the padded picture."""
        padded = pad_to_multiple(image, self.view.multiple)  # (B, 3, H', W')
        token_logits, pixel_logits = self.prior(padded)
        return Outputs(token_logits, self.decode_logits(token_logits), pixel_logits)

    def predict_maskige(self, image: Tensor) -> Tensor:
        """Normalised photographs (B, 3, H, W) → `Outputs.maskige`, of the padded picture."""
        return self.outputs(image).maskige

    def scores(self, image: Tensor) -> Answers:
        """Normalised photographs (B, 3, H, W) → scores (B, K, H, W) of both heads.

        They are the votes of X⁻¹, and the pixel head's soft-max. The released code averages such
        votes over windows.
        """
        return self._answers(self.outputs(image), image.shape[2:])

    def probabilities(self, image: Tensor) -> Answers:
        """As `scores`, with X⁻¹'s probabilities in place of one-hot votes.

        These are what is averaged over a picture and its mirror image: two one-hot votes that
        differ would tie, and the lower class id would win.
        """
        return self._answers(self.outputs(image), image.shape[2:], soft=True)

    @torch.no_grad()
    def _answers(self, outputs: Outputs, sides: torch.Size, soft: bool = False) -> Answers:
        """Class scores (B, K, H, W) of both heads, at the size of the unpadded picture."""
        if soft:
            found = self.inverse.probabilities(outputs.maskige)  # (B, K, h·stride, w·stride)
        else:
            found = self.inverse.votes(outputs.maskige)  # (B, K, h·stride, w·stride)
        answers = {"prediction": self._resized(found, sides)}  # (B, K, H, W)
        if outputs.pixel_logits is not None:
            answers["pixel_head"] = self._resized(outputs.pixel_logits, sides).softmax(1)
        return answers

    def _resized(self, values: Tensor, sides: Sequence[int]) -> Tensor:
        """Values (B, C, h, w) of the padded picture → (B, C, *sides) of the picture."""
        return resize_to_image(values, sides, self.view.multiple)

    def predict(self, image: Tensor) -> Prediction:
        """Normalised photographs of any size → Prediction, by running the network once.

        Args:
            image: (B, 3, H, W), or a single photograph (3, H, W), whose Prediction has no batch
                dimension either.

        Raises:
            ValueError: the picture holds whole numbers, so it is not normalised.
        """
        if not image.is_floating_point():
            raise ValueError(
                f"predict takes normalised photographs, as create_dataset gives them; got "
                f"{image.dtype}. For a picture as read_image gives it, use segment"
            )
        if image.ndim == 3:
            return self.predict(image[None]).first()
        height, width = image.shape[2:]
        outputs = self.outputs(image)
        answers = self._answers(outputs, image.shape[2:])
        tokens = outputs.token_logits.argmax(1)  # (B, H'/4, W'/4)
        return Prediction(
            mask=answers["prediction"].argmax(1),
            tokens=tokens[:, : -(-height // 4), : -(-width // 4)],
            maskige=self._resized(outputs.maskige, (height, width)),
            pixel_mask=_winners(answers, "pixel_head"),
        )

    def segment(self, picture: Tensor) -> Prediction:
        """A picture as `gss_lite.read_image` gives it → Prediction at the picture's own size.

        The Prediction has no batch dimension. Sliding windows or a fixed size are used where the
        preset evaluates with them. Without a fixed size, a picture whose short side is longer than
        in training is shrunk to that length first.

        Args:
            picture: uint8 (3, H, W).

        Raises:
            ValueError: the picture is not uint8 (3, H, W).
        """
        if picture.ndim != 3 or len(picture) != 3 or picture.dtype != torch.uint8:
            raise ValueError(
                "a picture to segment must be uint8 (3, H, W), as read_image gives it; "
                f"got {picture.dtype} {tuple(picture.shape)}. "
                "For normalised photographs, use predict"
            )
        sides = list(picture.shape[1:])
        if self.picture_size and not self.view.size:
            picture = shrink(picture, min(self.picture_size))
        image = normalize(picture)[None].to(self.colors.device)  # (1, 3, h, w)
        if not self.view.window and not self.view.size:
            found = self.predict(image)
        else:
            answers = view_of(self.view)(self._answers_and_maskige)(image)
            found = Prediction(
                mask=answers["prediction"].argmax(1),
                tokens=None,
                maskige=answers["maskige"],
                pixel_mask=_winners(answers, "pixel_head"),
            )

        def enlarged(values: Tensor | None) -> Tensor | None:
            if values is None:
                return None
            return v2.functional.resize(values, sides, InterpolationMode.NEAREST_EXACT)

        return Prediction(
            mask=enlarged(found.mask),
            tokens=found.tokens,
            maskige=enlarged(found.maskige),
            pixel_mask=enlarged(found.pixel_mask),
        ).first()

    def _answers_and_maskige(self, image: Tensor) -> Answers:
        outputs = self.outputs(image)
        sides = image.shape[2:]
        return {**self._answers(outputs, sides), "maskige": self._resized(outputs.maskige, sides)}

    # Stage I and X⁻¹ ------------------------------------------------------------------------------

    def reconstruct(self, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Stage I alone: mask (B, H, W) → (reconstructed mask (B, H, W), tokens); see `rebuild`."""
        maskige, tokens = rebuild(self.palette, self.tokenizer, mask)
        return self.inverse.classify(maskige), tokens

    def with_inverse(self, inverse: Inverse) -> GSS:
        """The same palette, tokenizer and prior (shared, not copied) with another X⁻¹.

        The prior and its targets do not depend on X⁻¹. So one X⁻¹ works with every prior that was
        trained with the same palette and tokenizer. Only the palette is checked: an X⁻¹ that was
        trained with another tokenizer runs, and classifies worse.

        Raises:
            TypeError: the inverse has no `classify` or no `colors`.
            ValueError: its palette has another shape or other colours.
        """
        check_reads(inverse, self.colors)
        parts = self.parts() | {"inverse": inverse.to(self.colors.device)}
        return type(self)(**parts).train(self.training)

    def parts(self) -> dict:
        """The arguments that this model was made of, by name."""
        names = ("palette", "tokenizer", "prior", "inverse", "view", "picture_size")
        return {name: getattr(self, name) for name in names}


def _winners(answers: Answers, name: str) -> Tensor | None:
    """The class ids (B, H, W) of one head's scores; None if the model lacks that head."""
    return answers[name].argmax(1) if name in answers else None


@torch.no_grad()
def rebuild(palette: Palette, tokenizer: Tokenizer, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mask (B, H, W) → decode(encode(palette(mask))) (B, D, H, W), and the tokens.

    Sides that are no multiple of the stride are padded with ignored pixels. The padding is cut off
    the maskige, and stays in the tokens (B, ⌈H/stride⌉, ⌈W/stride⌉).
    """
    height, width = mask.shape[1:]
    stride = tokenizer.stride
    padded = F.pad(mask, (0, -width % stride, 0, -height % stride), value=IGNORE)
    tokens = tokenizer.encode(palette(padded))  # (B, H'/stride, W'/stride)
    maskige = tokenizer.decode(tokens)  # (B, D, H', W')
    return maskige[:, :, :height, :width], tokens
