"""Masks without pictures: load many at once, cut them into tiles, find their borders."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from gss_lite.contracts import IGNORE
from gss_lite.data.registry import DATASETS

# Height and width of the masks of sets that are drawn.
SIZES = {
    "scenes": (96, 128),
    "scenes-large": (360, 480),  # the set "scenes" at the size of CamVid
    "many-scenes": (192, 256),  # at 96 × 128 most of the 150 classes have only a few pixels
}
MASK_SETS = (*SIZES, "camvid")  # sets whose pictures have one size
TILE = (48, 64)  # height and width; many small masks show more classes a step than few large ones


def mask_set(name: str, split: str, count: int, **arguments: object) -> Dataset:
    """Make the data set of `load_masks`.

    Args:
        name: one of MASK_SETS.
        split: "train", "val" or "test".
        count: number of pictures of a set that is drawn.
        arguments: further arguments of the set's class, as num_classes=64 for "many-scenes".

    Raises:
        ValueError: there is no such set.
    """
    if name not in MASK_SETS:
        raise ValueError(f"masks are loaded from {', '.join(MASK_SETS)}; got {name!r}")
    kind = DATASETS[name.removesuffix("-large")]
    if not kind.drawn:
        return kind(split, **arguments)
    height, width = SIZES[name]
    return kind(count, split=split, height=height, width=width, **arguments)


def class_names(name: str) -> tuple[str, ...]:
    """Return the names of the K classes in a set's masks."""
    return tuple(mask_set(name, "val", 1).classes)


def load_masks(name: str, split: str, count: int, **arguments: object) -> Tensor:
    """Load at most `count` evenly spaced masks of a split → uint8 (N, H, W).

    Their sides are cropped to multiples of 8, so that every tokenizer here can encode them.
    Arguments and errors are those of `mask_set`.
    """
    dataset = mask_set(name, split, count, **arguments)
    masks = stack_masks(dataset, evenly_spaced(len(dataset), count))
    height, width = (side // 8 * 8 for side in masks.shape[1:])
    return masks[:, :height, :width]


def stack_masks(dataset: Dataset, indices: Iterable[int]) -> Tensor:
    """Stack the masks of these (picture, mask) pairs → (N, H, W).

    Smaller masks are padded with 255, at the right and at the bottom, to the size of the largest.
    """
    masks = [torch.as_tensor(dataset[i][1]).as_subclass(Tensor) for i in indices]
    height, width = (max(mask.shape[axis] for mask in masks) for axis in (0, 1))
    padded = [
        F.pad(mask, (0, width - mask.shape[1], 0, height - mask.shape[0]), value=IGNORE)
        for mask in masks
    ]
    return torch.stack(padded)


def evenly_spaced(length: int, count: int | None = None) -> list[int]:
    """Choose `count` indices from 0 to length − 1 at equal distances; by default all of them."""
    count = min(count or length, length)
    return torch.linspace(0, length - 1, count).round().long().tolist()


def tiles(masks: Tensor, height: int = TILE[0], width: int = TILE[1]) -> Tensor:
    """Cut masks (N, H, W) into whole tiles → (M, height, width)."""
    return masks.unfold(1, height, height).unfold(2, width, width).reshape(-1, height, width)


def near_borders(masks: Tensor, reach: int) -> Tensor:
    """Find the pixels of masks (B, H, W) that have another class near them → bool (B, H, W).

    Near means at most `reach` pixels away, where a diagonal step counts one. Ignored pixels count
    as another class for their neighbours, but are never near a border themselves.
    """
    ids = masks.masked_fill(masks == IGNORE, -1).float()[:, None]  # (B, 1, H, W)
    padded = F.pad(ids, (reach,) * 4, mode="replicate")  # (B, 1, H + 2·reach, W + 2·reach)
    window = 2 * reach + 1
    high = F.max_pool2d(padded, window, 1)  # (B, 1, H, W)
    low = -F.max_pool2d(-padded, window, 1)
    return ((high != low) & (ids >= 0))[:, 0]
