"""Beyond one pass over the whole picture: sliding windows, flipping, expected codes, sampling from the prior, and how sure it is.

A *scorer* is a function from normalised photographs (B, 3, H, W) to class scores (B, K, H, W);
scorers can be wrapped in one another: `sliding(flipped(mask_scorer(gss, soft=True)))`.

Segment one picture file: mask, maskige and overlay as PNG files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2

from gss_lite.data.folders import read_image
from gss_lite.data.transforms import eval_transform, fit_into
from gss_lite.gss import GSS, over_picture, pad_picture, resize_mask
from gss_lite.palette.palette import paint

Scorer = Callable[[Tensor], Tensor]


def mask_scorer(gss: GSS, soft: bool = False) -> Scorer:
    """GSS's class ids as one-hot scores, resized to the picture: what the released code averages over windows.

    Args:
        soft: give X⁻¹'s probabilities instead. Of two one-hot votes that differ, as of a picture
            and its mirror image, the mean is a tie, which the lower class id would win.

    Raises:
        TypeError: `soft`, and an X⁻¹ without `probabilities`.
    """
    if soft and not hasattr(gss.inverse, "probabilities"):
        raise TypeError(
            f"views are averaged as probabilities, and {type(gss.inverse).__name__} gives none; "
            "add the method, or look once"
        )

    @torch.no_grad()
    def scores(image: Tensor) -> Tensor:
        return _votes(gss, gss.predict_maskige(image), image.shape[2:], soft)

    return scores


def painting_scorer(gss: GSS) -> Scorer:
    """`mask_scorer`'s one-hot scores and, behind them, the maskige at the picture's size: (B, K + 3, H, W), from one prediction."""

    @torch.no_grad()
    def scores(image: Tensor) -> Tensor:
        maskige = gss.predict_maskige(image)
        return torch.cat(
            [_votes(gss, maskige, image.shape[2:]), over_picture(maskige, image.shape[2:])], 1
        )

    return scores


def _votes(gss: GSS, maskige: Tensor, sides: Sequence[int], soft: bool = False) -> Tensor:
    votes = (
        gss.inverse.probabilities(maskige)
        if soft
        else F.one_hot(gss.inverse.classify(maskige), len(gss.colors)).movedim(-1, 1).float()
    )
    return over_picture(votes, sides)


def pixel_scorer(gss: GSS) -> Scorer:
    """The soft-max of the auxiliary pixel branch."""

    @torch.no_grad()
    def scores(image: Tensor) -> Tensor:
        return over_picture(
            gss.prior.encode(pad_picture(image)).pixel_logits, image.shape[2:]
        ).softmax(1)

    return scores


def flipped(scorer: Scorer) -> Scorer:
    """The mean of the scores of a picture and of its mirror image, mirrored back."""
    return lambda image: (scorer(image) + scorer(image.flip(-1)).flip(-1)) / 2


def multi_scale(scorer: Scorer, factors: Sequence[float]) -> Scorer:
    """The mean of the scores of a picture enlarged by each of `factors`, bilinearly, brought back to its size.

    Raises:
        ValueError: no factor, or one that is not positive.
    """
    if not factors or min(factors) <= 0:
        raise ValueError(
            "the factors that a picture is enlarged by must be one or more positive numbers; got "
            f"{tuple(factors)}"
        )

    def scores(image: Tensor) -> Tensor:
        sides = image.shape[2:]
        views = [
            resized(scorer, [max(1, round(side * factor)) for side in sides])
            if factor != 1
            else scorer
            for factor in factors
        ]
        return sum(view(image) for view in views) / len(views)

    return scores


def sliding(
    scorer: Scorer, crop: int | tuple[int, int] = 768, stride: int | tuple[int, int] = 512
) -> Scorer:
    """Scores of windows of `crop` pixels, every `stride` pixels, averaged where they overlap (768 and 512 in the released configs).

    The last window of a row or column is moved back inside the picture; a picture smaller than a
    window is one window.

    Raises:
        ValueError: a stride below 1, or larger than the window, which would leave gaps.
    """
    crops, strides = ((v, v) if isinstance(v, int) else tuple(v) for v in (crop, stride))
    if not all(1 <= s <= c for c, s in zip(crops, strides)):
        raise ValueError(
            "the stride must be at least 1 and at most the window, or pixels are left out; got "
            f"window {crop} and stride {stride}"
        )

    def scores(image: Tensor) -> Tensor:
        total = count = None
        for top, bottom in window_spans(image.shape[2], crops[0], strides[0]):
            for left, right in window_spans(image.shape[3], crops[1], strides[1]):
                part = scorer(image[:, :, top:bottom, left:right])
                if total is None:
                    total, count = (
                        part.new_zeros(*part.shape[:2], *image.shape[2:]),
                        part.new_zeros(image.shape[2:]),
                    )
                total[:, :, top:bottom, left:right] += part
                count[top:bottom, left:right] += 1
        return total / count

    return scores


def resized(scorer: Scorer, size: Sequence[int]) -> Scorer:
    """Scores of the picture brought to `size` (see `fit_into`), resized back, bilinearly both ways: ADE20K's short side of 512."""

    def scores(image: Tensor) -> Tensor:
        fitted = F.interpolate(
            image, size=fit_into(image.shape[2:], size), mode="bilinear", align_corners=False
        )
        return F.interpolate(
            scorer(fitted), size=image.shape[2:], mode="bilinear", align_corners=False
        )

    return scores


def window_spans(length: int, crop: int, stride: int) -> list[tuple[int, int]]:
    """Begin and end of the windows along a side of `length` pixels."""
    count = max(length - crop + stride - 1, 0) // stride + 1
    ends = [min(i * stride + crop, length) for i in range(count)]
    return [(max(end - crop, 0), end) for end in ends]


def sample_tokens(
    token_logits: Tensor, temperature: float = 1.0, generator: torch.Generator | None = None
) -> Tensor:
    """Token logits (B, V, h, w) → tokens (B, h, w) drawn from softmax(logits / T), every position on its own.

    p_ψ(z|x) is a product over positions (C): given the picture, tokens are independent.

    Raises:
        ValueError: temperature ≤ 0 (its limit, the arg-max, is GSS.predict).
    """
    if not temperature > 0:
        raise ValueError(
            f"the temperature must be above 0; got {temperature}. For its limit, the most likely "
            "tokens, use GSS.predict"
        )
    scaled = token_logits.float() / temperature
    # Gumbel-max: the arg-max of logits − ln E with E exponential is distributed as the soft-max.
    noise = torch.empty_like(scaled).exponential_(generator=generator).log_()
    return (scaled - noise).argmax(1)


@torch.no_grad()
def sample_masks(
    gss: GSS,
    image: Tensor,
    count: int = 8,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Masks drawn from the model: normalised photographs (B, 3, H, W) → class ids (count, B, H, W).

    The photograph goes through the prior once; each sample costs one decoding.
    """
    height, width = image.shape[2:]
    padded = pad_picture(image)
    logits = gss.prior(padded).token_logits
    masks = []
    for _ in range(count):
        ids = gss.inverse.classify(
            gss.tokenizer.decode(sample_tokens(logits, temperature, generator))
        )
        masks.append(resize_mask(ids, padded.shape[2:], len(gss.colors))[:, :height, :width])
    return torch.stack(masks)


def class_frequencies(masks: Tensor, num_classes: int) -> Tensor:
    """Sampled masks (N, B, H, W) → each class's share of the samples (B, K, H, W): p(c | x) pixel by pixel, estimated."""
    return torch.stack([(masks == k).float().mean(0) for k in range(num_classes)], 1)


def entropy_map(probabilities: Tensor) -> Tensor:
    """Probabilities (B, K, H, W) → their entropy in nats (B, H, W): 0 where the model is sure, ln K where it knows nothing."""
    return torch.special.entr(probabilities).sum(1)


def token_entropy(token_logits: Tensor) -> Tensor:
    """Token logits (B, V, h, w) → entropy of each token's distribution in nats (B, h, w).

    Of the codes, not of the classes: many codes decode to the same class, so this bounds nothing;
        `entropy_map` of
    sampled masks answers for the classes.
    """
    logs = token_logits.float().log_softmax(1)
    return -(logs.exp() * logs).sum(1)


OUTPUTS = ("mask", "maskige", "overlay")


def predict_file(
    gss: GSS,
    picture: Path,
    folder: Path,
    size: tuple[int, int],
    device: str | torch.device = "cpu",
    view: Callable[[Scorer], Scorer] | None = None,
) -> list[Path]:
    """Write NAME_mask.png (class ids), NAME_maskige.png (what the decoder painted) and NAME_overlay.png into `folder`.

    All three have the picture's own size. The model sees a picture whose short side is longer than
    that of `size`, the preset's (height, width), shrunk to it: it was trained on things of that
    size, and memory grows with the pixels. (A `view` that fits pictures into a size also enlarges
    small ones.)

    Args:
        view: how a preset evaluates, by sliding windows or at a certain size
            (`evaluation.view_of`); by default it is looked at whole.

    Raises:
        FileNotFoundError, ValueError: no such file, or not a picture.
    """
    image = read_image(picture)
    small = shrink(image, min(size))
    pixels, _ = eval_transform()(
        small, tv_tensors.Mask(torch.zeros(small.shape[1:], dtype=torch.uint8))
    )
    gss, pixels, colors = gss.to(device), pixels[None].to(device), gss.colors.cpu()
    if view:
        votes, maskige = view(painting_scorer(gss))(pixels).split([len(colors), 3], 1)
        mask = votes.argmax(1)
    else:
        result = gss.predict(pixels)
        # The maskige still has the padding to multiples of 32, at stride/4 times the pixels of the
        # padded picture.
        height, width = (side * gss.tokenizer.stride // 4 for side in small.shape[1:])
        mask, maskige = result.mask, result.maskige[:, :, :height, :width]
    ids, maskige = (
        v2.functional.resize(values.cpu(), list(image.shape[1:]), InterpolationMode.NEAREST_EXACT)
        for values in (mask.to(torch.uint8), maskige[0])
    )
    ids = ids[0]
    folder.mkdir(parents=True, exist_ok=True)
    # putpalette turns the grey picture into an indexed one: values stay class ids
    indexed = Image.fromarray(ids.numpy())
    indexed.putpalette((255 * colors).round().to(torch.uint8).flatten().tolist())
    paths = output_paths(picture, folder)
    for path, output in zip(
        paths, (indexed, to_pil(maskige), to_pil(overlay(image.float() / 255, ids.long(), colors)))
    ):
        output.save(path)
    return paths


def output_paths(picture: Path, folder: Path) -> list[Path]:
    """Where predict_file writes, in the order of OUTPUTS."""
    return [folder / f"{picture.stem}_{name}.png" for name in OUTPUTS]


def check_outputs(pictures: list[Path], folder: Path) -> None:
    """What must hold before anything is written.

    Raises:
        FileExistsError: `folder` is a file. ValueError: a result would overwrite another one, or a
            picture that is given.
    """
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; results need a folder, as --out predictions")
    given = {picture.resolve(): picture for picture in pictures}
    owner: dict[Path, Path] = {}
    for picture in pictures:
        for path in output_paths(picture, folder):
            if path in owner:
                raise ValueError(
                    f"{owner[path]} and {picture} would both be written to {path}; rename one, or "
                    "choose another --out for it"
                )
            if path.resolve() in given:
                raise ValueError(
                    f"the result {path} of {picture} would overwrite {given[path.resolve()]}, a "
                    "picture to segment; choose another --out"
                )
            owner[path] = picture


def shrink(image: Tensor, short: int) -> Tensor:
    """Picture (3, H, W) → the same with its short side `short` pixels long, or as it is where that would enlarge it."""
    least = min(image.shape[1:])
    if least <= short:
        return image
    return v2.functional.resize(
        image, [round(side * short / least) for side in image.shape[1:]], antialias=True
    )


def overlay(image: Tensor, mask: Tensor, colors: Tensor, strength: float = 0.55) -> Tensor:
    """Picture (3, H, W) in [0, 1] with the painted mask (H, W) laid over it; ignored pixels keep the picture."""
    painted = torch.where(mask == 255, image, paint(mask, colors))
    return (1 - strength) * image + strength * painted


def to_pil(picture: Tensor) -> Image.Image:
    """(3, H, W) in [0, 1] → an 8-bit PIL picture."""
    return Image.fromarray(
        (255 * picture.clamp(0, 1)).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    )
