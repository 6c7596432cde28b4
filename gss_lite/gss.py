"""GSS assembled: palette X, tokenizer E_φ/D_θ (frozen), prior I_ψ and inverse X⁻¹.

mask → palette → tokens            (targets of stage II)
image → prior → tokens → maskige → class ids   (prediction)

A trained X⁻¹ on another GSS model: what the released merge script does to checkpoints.

X⁻¹ without training, beyond the paper: what the tokenizer does to colours is measured, and used.

`GaussianInverse` knows where each class's colour lands after encoding and decoding, and how widely
it scatters. `CodeTable` skips the colours: it counts which classes stand behind every code.
`expected_maskige` decodes the mean code vector under the prior's token probabilities in place of
the likeliest code.

Beyond one pass over the whole picture: sliding windows, flipping, expected codes, sampling from the prior, and how sure it is.

A *scorer* is a function from normalised photographs (B, 3, H, W) to class scores (B, K, H, W);
scorers can be wrapped in one another: `sliding(flipped(mask_scorer(gss, soft=True)))`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gss_lite.contracts import IGNORE, CodeTokenizer, check_mask
from gss_lite.distributed import mean_over_processes
from gss_lite.palette.palette import Palette, paint
from gss_lite.prior import Prior
from gss_lite.token_loss import token_cross_entropy

TOKEN_WEIGHT, PIXEL_WEIGHT = 0.8, 0.2  # of the two cross-entropies in the released configs


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


SAME = 0.5 / 255  # colours stored in 16 bits, or rounded to 8, are still the same palette


def graft(gss: GSS, inverse: nn.Module) -> GSS:
    """A model with the palette, tokenizer and prior of `gss` (shared, not copied) and X⁻¹ `inverse`; both are left as they were.

    The prior and its token targets do not depend on X⁻¹, so one X⁻¹ serves every image encoder
    trained on the same palette and tokenizer. That the tokenizer is the same cannot be seen from
    the X⁻¹; with another one it still runs, and reads worse.

    Args:
        inverse: with `colors` (K, D), the palette whose maskige it reads: every inverse of this
            package but `LeastSquares`.

    Raises:
        TypeError: an inverse that does not say which colours it reads.
        ValueError: another number of classes or channels than the model's palette, or other
            colours.
    """
    colors = getattr(inverse, "colors", None)
    if not isinstance(colors, Tensor) or not hasattr(inverse, "classify"):
        raise TypeError(
            f"cannot graft {type(inverse).__name__}: an X⁻¹ needs `classify` and `colors`, the "
            "palette whose maskige it reads"
        )
    ours, theirs = gss.colors.cpu(), colors.detach().float().cpu()
    if ours.shape != theirs.shape:
        raise ValueError(
            f"X⁻¹ reads {len(theirs)} classes in {theirs.shape[1]} channels, but the model paints "
            f"{len(ours)} in {ours.shape[1]}; "
            "graft an X⁻¹ trained for the same classes"
        )
    apart = (ours - theirs).abs().amax(1)
    if bool((apart > SAME).any()):
        worst = int(apart.argmax())
        shown = [[round(255 * v) for v in palette[worst].tolist()] for palette in (theirs, ours)]
        raise ValueError(
            f"X⁻¹ was trained on another palette: {int((apart > SAME).sum())} of {len(ours)} "
            f"colours differ (class {worst}: {shown[0]} "
            f"there, {shown[1]} in the model). Paint with its palette and train the prior on that, "
            "or train X⁻¹ for this one."
        )
    merged = type(gss)(gss.palette, gss.tokenizer, gss.prior, inverse.to(gss.colors.device))
    return merged.to(gss.colors.device).train(gss.training)



@torch.no_grad()
def expected_maskige(
    token_logits: Tensor,
    tokenizer: CodeTokenizer,
    temperature: float = 1.0,
    top_k: int | None = None,
    *,
    at_once: int = 4096,
) -> Tensor:
    """D_θ of the expected code vector Σ_v p(v|x) e_v, where `decode` takes the vector of the likeliest code.

    Where the prior wavers between two codes their mean is decoded. As the temperature goes to 0
    this becomes `decode`.

    Args:
        token_logits: (B, V, h, w). temperature: p = softmax(logits / temperature), > 0.
        top_k: keep the k likeliest codes of each token, renormalised. at_once: tokens whose
            probabilities are held at a time.

    Returns:
        Maskige (B, 3, h·stride, w·stride) in [0, 1].

    Raises:
        ValueError: another number of codes than the tokenizer's, temperature not positive, top_k
            outside 1…V.
    """
    if token_logits.ndim != 4 or token_logits.shape[1] != tokenizer.vocab_size:
        raise ValueError(
            f"expected token logits (B, {tokenizer.vocab_size}, h, w); got "
            f"{tuple(token_logits.shape)}"
        )
    if not temperature > 0:
        raise ValueError(f"the temperature must be positive; got {temperature}")
    if top_k is not None and not 1 <= top_k <= tokenizer.vocab_size:
        raise ValueError(f"top_k must lie in 1…{tokenizer.vocab_size}; got {top_k}")
    codes = tokenizer.code_vectors()
    batch, _, height, width = token_logits.shape
    vectors = []
    for rows in token_logits.movedim(1, -1).flatten(0, 2).split(at_once):  # (at_once, V)
        if top_k is None:
            vectors.append((rows.float() / temperature).softmax(1) @ codes)
        else:
            best, which = rows.float().topk(top_k, 1)
            weight = (best / temperature).softmax(1)
            vectors.append(F.embedding(which, codes).mul_(weight[:, :, None]).sum(1))
    grid = torch.cat(vectors).view(batch, height, width, -1).movedim(-1, 1)  # (B, C, h, w)
    return tokenizer.decode_vectors(grid)


class ExpectedGSS(GSS):
    """A GSS whose maskige is decoded from the expected code vectors, not from the likeliest codes (beyond the paper; nothing is trained).

    Made of a trained one's parts: ExpectedGSS(gss.palette, gss.tokenizer, gss.prior, gss.inverse).
    Its prediction's `tokens` are still the likeliest; reconstruction, where tokens are certain, is
    a GSS's.
    """

    def decode_logits(self, token_logits: Tensor) -> Tensor:
        """Token logits (B, V, h, w) → D_θ of Σ_v p(v|x) e_v, (B, 3, h·stride, w·stride)."""
        return expected_maskige(token_logits, self.tokenizer)
