"""GSS assembled: palette X, tokenizer E_φ/D_θ (frozen), prior I_ψ and inverse X⁻¹.

mask → palette → tokenizer → tokens                         (the targets of stage II)
photograph → prior → tokens → tokenizer → maskige → X⁻¹     (the prediction)
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode, v2

from gss_lite.contracts import IGNORE, Inverse, Tokenizer, check_mask
from gss_lite.data.transforms import normalize
from gss_lite.distributed import mean_over_processes
from gss_lite.palette.palette import Palette, paint
from gss_lite.presets.parts import ViewSpec
from gss_lite.prior import Prior
from gss_lite.token_loss import token_cross_entropy
from gss_lite.views import (
    Answers,
    pad_to_multiple,
    resize_mask,
    resize_to_image,
    shrink,
    view_of,
)

TOKEN_WEIGHT = 0.8  # of the tokens' cross-entropy in the released configs
PIXEL_WEIGHT = 0.2  # of the auxiliary pixel head's
SAME_COLOR = 0.5 / 255  # colours stored in 16 bits, or rounded to 8, are still the same palette


class Targets(NamedTuple):
    """The targets of stage II.

    Attributes:
        tokens: (B, h, w), none of them ignored yet.
        ignored: (B, h, w), true where a token does not count.
        mask: (B, h·stride, w·stride), the mask at the size of the maskige.
    """

    tokens: Tensor
    ignored: Tensor
    mask: Tensor


class Outputs(NamedTuple):
    """What the model says of a padded picture.

    Attributes:
        token_logits: (B, V, h, w), a quarter of the padded picture's size.
        maskige: (B, D, h·stride, w·stride).
        pixel_logits: (B, K, h, w), of the auxiliary pixel head.
    """

    token_logits: Tensor
    maskige: Tensor
    pixel_logits: Tensor


class Prediction(NamedTuple):
    """What the model predicts for a picture, all of it without padding.

    A batch of pictures gives the shapes below; a single picture gives them without B.

    Attributes:
        mask: class ids (B, H, W).
        tokens: (B, ⌈H/4⌉, ⌈W/4⌉); None where several looks were averaged.
        maskige: (B, D, H, W) in [0, 1].
        pixel_mask: class ids (B, H, W) of the auxiliary pixel head.
    """

    mask: Tensor
    tokens: Tensor | None
    maskige: Tensor
    pixel_mask: Tensor

    def first(self) -> Prediction:
        """The first picture's part, without the batch dimension."""
        return Prediction(*(None if values is None else values[0] for values in self))


class GSS(nn.Module):
    """One Generative Semantic Segmentation model; meets the contract `Segmenter`.

    Args:
        palette: X.
        tokenizer: E_φ and D_θ. It is frozen here.
        prior: I_ψ; None for a model that only reconstructs masks.
        inverse: X⁻¹.
        view: how `segment` looks at a picture, see `Preset.view`.
        picture_size: height and width of the pictures the model was trained on. `segment` shrinks
            larger ones. None leaves them as they are.
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
        """Train mode for prior and inverse; the tokenizer always stays in eval mode."""
        super().train(mode)
        self.tokenizer.eval()
        return self

    # Training -------------------------------------------------------------------------------------

    @torch.no_grad()
    def targets(self, mask: Tensor, pixel_logits: Tensor, precision: str = "no") -> Targets:
        """Mask (B, H, W) and the pixel head's logits (B, K, h, w) → Targets.

        The mask is brought to the token grid's size times the stride. Ignored pixels take the
        current guess of the pixel head (Eq. 7), so that a token with a few labelled pixels still
        has a whole patch to encode. A token is ignored only if none of its pixels is labelled.

        Args:
            precision: "bf16" encodes faster. About two of a hundred vectors then cross to a
                neighbouring code, so this is chosen apart from the prior's own precision.
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
        labelled = F.max_pool2d((mask != IGNORE).float(), stride)  # (B, h, w): 1 if any pixel is
        return Targets(tokens, labelled == 0, mask)

    def losses(
        self, image: Tensor, mask: Tensor, target_precision: str = "no"
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """0.8 · cross-entropy of the tokens + 0.2 · cross-entropy of the pixels, and scalars.

        Each is averaged over the positions that are not ignored, as in the released code.

        Args:
            image: normalised photographs (B, 3, H, W).
            mask: class ids (B, H, W).
            target_precision: see `targets`.

        Raises:
            ValueError: picture and mask are of different size; the mask would be stretched.
        """
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
        size = targets.mask.shape[1:]
        big = F.interpolate(
            pixel_logits.float(), size=size, mode="bilinear", align_corners=False
        )  # (B, K, h·stride, w·stride)
        total = F.cross_entropy(big, targets.mask, ignore_index=IGNORE, reduction="sum")
        labelled = mean_over_processes((targets.mask != IGNORE).sum()).clamp(min=1)
        pixel_loss = total / labelled.to(total.dtype)
        loss = TOKEN_WEIGHT * token_loss + PIXEL_WEIGHT * pixel_loss
        return loss, {
            "token": token_loss.detach(),
            "pixel": pixel_loss.detach(),
            "token_accuracy": accuracy,
        }

    # Prediction -----------------------------------------------------------------------------------

    def decode_logits(self, token_logits: Tensor) -> Tensor:
        """Token logits (B, V, h, w) → the likeliest tokens' maskige (B, D, h·stride, w·stride)."""
        return self.tokenizer.decode(token_logits.argmax(1))

    @torch.no_grad()
    def outputs(self, image: Tensor) -> Outputs:
        """Normalised photographs (B, 3, H, W) of any size → Outputs for the padded picture."""
        padded = pad_to_multiple(image)  # (B, 3, H', W'), multiples of 32
        token_logits, pixel_logits = self.prior(padded)
        return Outputs(token_logits, self.decode_logits(token_logits), pixel_logits)

    def predict_maskige(self, image: Tensor) -> Tensor:
        """Photographs (B, 3, H, W) → the padded picture's maskige, at stride/4 times its size."""
        return self.outputs(image).maskige

    def scores(self, image: Tensor) -> Answers:
        """Photographs (B, 3, H, W) → one-hot votes and the pixel head's soft-max (B, K, H, W).

        The votes are X⁻¹'s classes. The released code averages such votes over windows.
        """
        return self._answers(image, soft=False)

    def probabilities(self, image: Tensor) -> Answers:
        """As `scores`, with X⁻¹'s probabilities in place of votes.

        The mean of two one-hot votes that differ would be a tie, which the lower class id wins. So
        a picture and its mirror image are averaged in these.
        """
        return self._answers(image, soft=True)

    def _answers(self, image: Tensor, soft: bool) -> Answers:
        return self._read(self.outputs(image), image.shape[2:], soft)

    @torch.no_grad()
    def _read(self, outputs: Outputs, sides: torch.Size, soft: bool = False) -> Answers:
        if soft:
            found = self.inverse.probabilities(outputs.maskige)  # (B, K, h·stride, w·stride)
        else:
            ids = self.inverse.classify(outputs.maskige)  # (B, h·stride, w·stride)
            found = F.one_hot(ids, self.num_classes).movedim(-1, 1).float()
        return {
            "prediction": resize_to_image(found, sides),  # (B, K, H, W)
            "pixel_head": resize_to_image(outputs.pixel_logits, sides).softmax(1),  # (B, K, H, W)
        }

    def predict(self, image: Tensor) -> Prediction:
        """Normalised photographs of any size → Prediction, in one look.

        Args:
            image: (B, 3, H, W), or a single photograph (3, H, W), whose Prediction has no batch
                dimension either.

        Raises:
            ValueError: the picture is not normalised yet: it holds whole numbers.
        """
        if not image.is_floating_point():
            raise ValueError(
                f"predict takes normalised photographs, as create_dataset gives them; got "
                f"{image.dtype}. A picture as read_image gives it goes to segment"
            )
        if image.ndim == 3:
            return self.predict(image[None]).first()
        height, width = image.shape[2:]
        outputs = self.outputs(image)
        answers = self._read(outputs, image.shape[2:])
        tokens = outputs.token_logits.argmax(1)  # (B, H'/4, W'/4)
        return Prediction(
            mask=answers["prediction"].argmax(1),
            tokens=tokens[:, : -(-height // 4), : -(-width // 4)],
            maskige=resize_to_image(outputs.maskige, (height, width)),
            pixel_mask=answers["pixel_head"].argmax(1),
        )

    def segment(self, picture: Tensor) -> Prediction:
        """A picture as `gss_lite.read_image` gives it → Prediction at the picture's own size.

        The Prediction has no batch dimension.

        The model sees a picture whose short side is longer than in training shrunk to that length,
        because it knows things at that size. It looks as its preset evaluates: by sliding windows
        or at a certain size where the preset says so.

        Args:
            picture: uint8 (3, H, W).

        Raises:
            ValueError: no uint8 picture with three channels.
        """
        if picture.ndim != 3 or len(picture) != 3 or picture.dtype != torch.uint8:
            raise ValueError(
                "a picture to segment must be uint8 (3, H, W), as read_image gives it; "
                f"got {picture.dtype} {tuple(picture.shape)}. "
                "Normalised photographs go to predict"
            )
        sides = list(picture.shape[1:])
        small = shrink(picture, min(self.picture_size)) if self.picture_size else picture
        image = normalize(small)[None].to(self.colors.device)  # (1, 3, h, w)
        if self.view == ViewSpec():
            found = self.predict(image)
        else:
            answers = view_of(self.view)(self._answers_with_maskige)(image)
            found = Prediction(
                mask=answers["prediction"].argmax(1),
                tokens=None,
                maskige=answers["maskige"],
                pixel_mask=answers["pixel_head"].argmax(1),
            )

        def enlarged(values: Tensor) -> Tensor:
            return v2.functional.resize(values, sides, InterpolationMode.NEAREST_EXACT)

        found = found._replace(
            mask=enlarged(found.mask),
            maskige=enlarged(found.maskige),
            pixel_mask=enlarged(found.pixel_mask),
        )
        return found.first()

    def _answers_with_maskige(self, image: Tensor) -> Answers:
        outputs = self.outputs(image)
        sides = image.shape[2:]
        return {**self._read(outputs, sides), "maskige": resize_to_image(outputs.maskige, sides)}

    # Stage I and X⁻¹ ------------------------------------------------------------------------------

    def reconstruct(self, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Stage I alone: mask (B, H, W) → (the classes read back (B, H, W), the tokens)."""
        maskige, tokens = rebuild(self.palette, self.tokenizer, mask)
        return self.inverse.classify(maskige), tokens

    def with_inverse(self, inverse: Inverse) -> GSS:
        """The same palette, tokenizer and prior, shared, with another X⁻¹.

        The prior and its targets do not depend on X⁻¹. So one X⁻¹ serves every image encoder that
        was trained with the same palette and tokenizer. Nobody can see from an X⁻¹ whether it was
        trained with this tokenizer; with another one it still runs, and it classifies worse.

        Raises:
            TypeError: the inverse does not say which colours it reads.
            ValueError: it reads another number of classes or channels, or other colours.
        """
        check_reads(inverse, self.colors)
        merged = type(self)(
            self.palette,
            self.tokenizer,
            self.prior,
            inverse.to(self.colors.device),
            view=self.view,
            picture_size=self.picture_size,
        )
        return merged.train(self.training)


def check_reads(inverse: Inverse, colors: Tensor) -> None:
    """Raise unless X⁻¹ `inverse` was made for the palette `colors` (K, D)."""
    theirs = getattr(inverse, "colors", None)
    if not isinstance(theirs, Tensor) or not hasattr(inverse, "classify"):
        raise TypeError(
            f"{type(inverse).__name__} cannot serve as X⁻¹: it needs `classify` and `colors`, the "
            "palette whose maskige it reads"
        )
    ours = colors.cpu()
    theirs = theirs.detach().float().cpu()
    if ours.shape != theirs.shape:
        raise ValueError(
            f"X⁻¹ reads {len(theirs)} classes in {theirs.shape[1]} channels, but the model paints "
            f"{len(ours)} in {ours.shape[1]}; use an X⁻¹ that was trained for the same classes"
        )
    apart = (ours - theirs).abs().amax(1)  # (K,)
    if bool((apart > SAME_COLOR).any()):
        worst = int(apart.argmax())
        there, here = ([round(255 * v) for v in beta[worst].tolist()] for beta in (theirs, ours))
        raise ValueError(
            f"X⁻¹ was trained on another palette: {int((apart > SAME_COLOR).sum())} of {len(ours)} "
            f"colours differ (class {worst}: {there} there, {here} in the model). Paint with its "
            "palette and train the prior on that, or train X⁻¹ for this one."
        )


@torch.no_grad()
def rebuild(palette: Palette, tokenizer: Tokenizer, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mask (B, H, W) → decode(encode(palette(mask))) (B, D, H, W), and the tokens between.

    Sides that are no multiple of the stride are padded with ignored pixels, which are cut off
    again; the tokens (B, ⌈H/stride⌉, ⌈W/stride⌉) cover the padding.
    """
    height, width = mask.shape[1:]
    stride = tokenizer.stride
    padded = F.pad(mask, (0, -width % stride, 0, -height % stride), value=IGNORE)
    tokens = tokenizer.encode(palette(padded))
    maskige = tokenizer.decode(tokens)  # (B, D, H', W')
    return maskige[:, :, :height, :width], tokens
