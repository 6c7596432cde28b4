"""Views of a picture: mirrored, enlarged, fitted into a size, cut into windows; other classes.

A *score function* maps normalised photographs (B, 3, H, W) to {name: values (B, C, H, W)}, as
`Segmenter.scores` does. A *view* maps one score function to another, so views can be nested.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2

from gss_lite.contracts import IGNORE
from gss_lite.data.taxonomy import LabelMap
from gss_lite.data.transforms import resize_shape
from gss_lite.presets.parts import ViewSpec

Answers = dict[str, Tensor]

ScoreFn = Callable[[Tensor], Answers]
View = Callable[[ScoreFn], ScoreFn]


def view_of(spec: ViewSpec, flip: bool = False, scales: Sequence[float] = (1.0,)) -> View:
    """One view made of several: fit into a size, then enlarge, then cut windows, then mirror each.

    Args:
        spec: window and size, see `Preset.view`.
        flip: average with the mirror image.
        scales: average over the picture enlarged by each of these factors.
    """
    steps: list[View] = []
    if flip:
        steps.append(flipped)
    if spec.window:
        steps.append(lambda score_fn: sliding(score_fn, *spec.window))
    if tuple(scales) != (1.0,):
        steps.append(lambda score_fn: multi_scale(score_fn, scales))
    if spec.size:
        steps.append(lambda score_fn: resized(score_fn, spec.size))

    def view(score_fn: ScoreFn) -> ScoreFn:
        for step in steps:
            score_fn = step(score_fn)
        return score_fn

    return view


def flipped(score_fn: ScoreFn) -> ScoreFn:
    """The mean of the answers for a picture and for its mirror image, mirrored back."""

    def both(image: Tensor) -> Answers:
        once = score_fn(image)
        mirrored = score_fn(image.flip(-1))
        return {name: (values + mirrored[name].flip(-1)) / 2 for name, values in once.items()}

    return both


def multi_scale(score_fn: ScoreFn, factors: Sequence[float]) -> ScoreFn:
    """The mean of the answers for a picture enlarged by each factor, resized to the picture.

    Raises:
        ValueError: there is no factor, or one that is not positive.
    """
    if not factors or min(factors) <= 0:
        raise ValueError(
            "the factors that a picture is enlarged by must be one or more positive numbers; "
            f"got {tuple(factors)}"
        )

    def mean(image: Tensor) -> Answers:
        total: Answers = {}
        for factor in factors:
            sides = [max(1, round(side * factor)) for side in image.shape[2:]]
            view = _resized_to(score_fn, sides) if factor != 1 else score_fn
            for name, values in view(image).items():
                total[name] = total[name] + values if name in total else values
        return {name: values / len(factors) for name, values in total.items()}

    return mean


def sliding(score_fn: ScoreFn, crop: int | tuple = 768, stride: int | tuple = 512) -> ScoreFn:
    """Answers of windows of `crop` pixels, every `stride` pixels, averaged where they overlap.

    The released configs have 768 and 512. The last window of a row or column is moved back inside
    the picture. A picture smaller than a window is one window.

    Raises:
        ValueError: the stride is below 1, or larger than the window, which would leave gaps.
    """
    crops = (crop, crop) if isinstance(crop, int) else tuple(crop)
    strides = (stride, stride) if isinstance(stride, int) else tuple(stride)
    if not all(1 <= s <= c for c, s in zip(crops, strides)):
        raise ValueError(
            "the stride must be at least 1 and at most the window, so that no pixel is left out; "
            f"got window {crop} and stride {stride}"
        )

    def mean(image: Tensor) -> Answers:
        height, width = image.shape[2:]
        total: Answers = {}
        count = image.new_zeros(height, width)
        for top, bottom in window_spans(height, crops[0], strides[0]):
            for left, right in window_spans(width, crops[1], strides[1]):
                for name, part in score_fn(image[:, :, top:bottom, left:right]).items():
                    if name not in total:
                        total[name] = part.new_zeros(*part.shape[:2], height, width)
                    total[name][:, :, top:bottom, left:right] += part
                count[top:bottom, left:right] += 1
        return {name: values / count for name, values in total.items()}

    return mean


def window_spans(length: int, crop: int, stride: int) -> list[tuple[int, int]]:
    """Begin and end of the windows along a side of `length` pixels."""
    count = max(length - crop + stride - 1, 0) // stride + 1
    ends = [min(i * stride + crop, length) for i in range(count)]
    return [(max(end - crop, 0), end) for end in ends]


def resized(score_fn: ScoreFn, size: Sequence[int]) -> ScoreFn:
    """Answers for the picture fitted into `size`, resized back, bilinearly both ways.

    With (512, 2048) this is ADE20K's short side of 512, see `resize_shape`.
    """
    return lambda image: _resized_to(score_fn, resize_shape(image.shape[2:], size))(image)


def _resized_to(score_fn: ScoreFn, sides: Sequence[int]) -> ScoreFn:
    def answers(image: Tensor) -> Answers:
        fitted = _interpolate(image, sides)
        return {name: _interpolate(v, image.shape[2:]) for name, v in score_fn(fitted).items()}

    return answers


def relabeled(score_fn: ScoreFn, label_map: LabelMap) -> ScoreFn:
    """Answers in other classes: probabilities (B, K, H, W) are added up to (B, L, H, W).

    This is MSeg's evaluation (section E). Probabilities can be added, but other scores cannot, so
    `score_fn` must be `Segmenter.probabilities` or a view of it.
    """
    return lambda image: {
        name: label_map.scores(values) for name, values in score_fn(image).items()
    }


def pad_to_multiple(image: Tensor, multiple: int = ViewSpec.multiple) -> Tensor:
    """Repeat the last row and column of (B, 3, H, W) until both sides are multiples."""
    height, width = image.shape[2:]
    return F.pad(image, (0, -width % multiple, 0, -height % multiple), mode="replicate")


def resize_to_image(
    values: Tensor, sides: Sequence[int], multiple: int = ViewSpec.multiple
) -> Tensor:
    """Values (B, C, h, w) of a picture that `pad_to_multiple` padded → (B, C, *sides).

    They are resized to the padded picture bilinearly, and the padding is cut off.
    """
    height, width = sides
    padded = [height + -height % multiple, width + -width % multiple]
    if list(values.shape[2:]) != padded:
        values = _interpolate(values, padded)  # (B, C, H', W')
    return values[:, :, :height, :width]  # (B, C, H, W)


def resize_mask(mask: Tensor, size: list[int] | tuple[int, int], num_classes: int) -> Tensor:
    """Class ids (B, H, W) → (B, *size): one-hot, bilinear, arg-max, as in the released code.

    255 counts as a class of its own.
    """
    if list(mask.shape[1:]) == list(size):
        return mask
    ids = mask.masked_fill(mask == IGNORE, num_classes)
    onehot = F.one_hot(ids, num_classes + 1).movedim(-1, 1).float()  # (B, K+1, H, W)
    ids = _interpolate(onehot, size).argmax(1)  # (B, *size)
    return ids.masked_fill(ids == num_classes, IGNORE)


def shrink(picture: Tensor, short: int) -> Tensor:
    """Shrink a picture (3, H, W) to a short side of `short` pixels; smaller pictures stay."""
    least = min(picture.shape[1:])
    if least <= short:
        return picture
    sides = [round(side * short / least) for side in picture.shape[1:]]
    return v2.functional.resize(picture, sides, antialias=True)


def _interpolate(values: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(values, size=tuple(size), mode="bilinear", align_corners=False)
