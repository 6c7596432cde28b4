"""Masks alone: many at once, cut into tiles, and where their borders lie."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from gss_lite.contracts import IGNORE
from gss_lite.data.folders import CamVid
from gss_lite.data.scenes import ManyScenes, Scenes

# The sets that are drawn, and how high and wide their masks are.
_DRAWN = {
    "scenes": (Scenes, 96, 128),
    "scenes-large": (Scenes, 360, 480),  # the size of CamVid
    # At 96 × 128 most of the 150 classes are a few pixels, and no palette can save them.
    "many-scenes": (ManyScenes, 192, 256),
}
MASK_SETS = (*_DRAWN, "camvid")
TILE = (48, 64)  # height and width; many small masks show more classes a step than few large ones


def mask_set(name: str, split: str, count: int, **arguments: object) -> Dataset:
    """The data set behind `load_masks`.

    Args:
        name: one of MASK_SETS.
        split: "train", "val" or "test".
        count: how many pictures a set that is drawn has.
        arguments: for the class of the set, as num_classes=64 for "many-scenes".

    Raises:
        ValueError: there is no such set.
    """
    if name not in MASK_SETS:
        raise ValueError(f"masks are loaded from {', '.join(MASK_SETS)}; got {name!r}")
    if name == "camvid":
        return CamVid(split, **arguments)
    kind, height, width = _DRAWN[name]
    return kind(count, split=split, height=height, width=width, **arguments)


def class_names(name: str) -> tuple[str, ...]:
    """The names of the K classes in a set's masks."""
    return tuple(mask_set(name, "val", 1).classes)


def load_masks(name: str, split: str, count: int, **arguments: object) -> Tensor:
    """Masks that are evenly spaced through a split → uint8 (N, H, W), N at most `count`.

    Their sides are cropped to multiples of 8, so that every tokenizer here can encode them.
    Arguments and errors are those of `mask_set`.
    """
    dataset = mask_set(name, split, count, **arguments)
    picked = evenly_spaced(len(dataset), count)
    masks = torch.stack([torch.as_tensor(dataset[i][1]) for i in picked])
    height, width = (side // 8 * 8 for side in masks.shape[1:])
    return masks[:, :height, :width]


def evenly_spaced(length: int, count: int | None = None) -> list[int]:
    """`count` numbers from 0 to length − 1 at equal distances; all of them if there are no more."""
    count = min(count or length, length)
    return torch.linspace(0, length - 1, count).round().long().tolist()


def tiles(masks: Tensor, height: int = TILE[0], width: int = TILE[1]) -> Tensor:
    """Cut masks (N, H, W) into (M, height, width); what is left at the right and below is lost."""
    return masks.unfold(1, height, height).unfold(2, width, width).reshape(-1, height, width)


def near_borders(masks: Tensor, reach: int) -> Tensor:
    """The pixels of masks (B, H, W) that have another class near them → bool (B, H, W).

    Near means at most `reach` pixels away, where a diagonal step counts one. Ignored pixels are
    another class to their neighbours, and are never near a border themselves.
    """
    ids = masks.masked_fill(masks == IGNORE, -1).float()[:, None]  # (B, 1, H, W)
    padded = F.pad(ids, (reach,) * 4, mode="replicate")  # (B, 1, H + 2·reach, W + 2·reach)
    window = 2 * reach + 1
    high = F.max_pool2d(padded, window, 1)  # (B, 1, H, W)
    low = -F.max_pool2d(-padded, window, 1)
    return ((high != low) & (ids >= 0))[:, 0]
