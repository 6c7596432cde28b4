"""Scenes: an embedded data set of procedural street pictures with CamVid's 11 classes. No download, any size, four domains.

ManyScenes: the same streets with up to 150 classes, for palettes that get crowded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from torch.utils.data import Dataset
from torchvision import tv_tensors

from gss_lite.contracts import IGNORE
from gss_lite.data.street import compose
from gss_lite.data.street.classes import CLASSES, FINE_CLASSES, FINE_GROUP, FINE_TO_COARSE
from gss_lite.data.street.light import LIGHTS, illuminate

DOMAINS = ("day", "dusk", "fog", "town")
"""day; dusk: dark warm light, lit windows and lamps; fog: whitened by depth; town: another town's architecture, by day."""


SPLITS = ("train", "val", "test")


_LEAST_SIZE = 32


def _fine_mask(materials: np.ndarray, fine_of: np.ndarray) -> np.ndarray:
    """Most frequent fine class among each output pixel's four samples; ties go to the earliest. (2H, 2W) → (H, W) uint8."""
    fine = fine_of[materials]
    a, b, c, d = fine[0::2, 0::2], fine[0::2, 1::2], fine[1::2, 0::2], fine[1::2, 1::2]
    agrees_a = (a == b) | (a == c) | (a == d)
    return np.where(agrees_a, a, np.where((b == c) | (b == d), b, np.where(c == d, c, a)))


def render_fine(
    seed: int, index: int, height: int = 96, width: int = 128, domain: str = "day"
) -> tuple[np.ndarray, np.ndarray]:
    """Like `render`, but with the 150 fine classes of `ManyScenes` in the mask (255 void)."""
    if domain not in DOMAINS:
        raise ValueError(f"unknown domain {domain!r}; the known ones are {', '.join(DOMAINS)}")
    if height < _LEAST_SIZE or width < _LEAST_SIZE:
        raise ValueError(
            f"a scene needs at least {_LEAST_SIZE}×{_LEAST_SIZE} pixels, got height {height}, "
            f"width {width}"
        )
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must not be negative, got seed {seed}, index {index}")
    street = compose(seed, index, height, width, elsewhere=domain == "town")
    image = illuminate(street, LIGHTS["day" if domain == "town" else domain])
    return image, _fine_mask(street.surfaces.index, np.asarray(street.canvas.fine, np.uint8))


def render(
    seed: int, index: int, height: int = 96, width: int = 128, domain: str = "day"
) -> tuple[np.ndarray, np.ndarray]:
    """Draw scene `index` of the stream `seed`.

    Deterministic in (seed, index). The scene is the same at every size, and for day, dusk and fog
    the mask is the same too: only the light changes. A picture wider or narrower than 4:3 sees more
    or less of the street at its sides.

    Args:
        seed: stream of scenes, ≥ 0.
        index: number of the scene, ≥ 0.
        height, width: picture size in pixels, each ≥ 32.
        domain: one of `DOMAINS`.

    Returns:
        image uint8 (height, width, 3) RGB, mask uint8 (height, width) with CamVid ids 0…10 and 255
        for void.

    Raises:
        ValueError: unknown domain, picture below 32×32, or a negative seed or index.
    """
    image, fine = render_fine(seed, index, height, width, domain)
    return image, FINE_TO_COARSE[fine]


def stream_of(seed: int, split: str) -> int:
    """The stream of scenes behind a split: three streams per seed, so that no two (seed, split) share a scene."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; the known ones are {', '.join(SPLITS)}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    return len(SPLITS) * seed + SPLITS.index(split)


class Scenes(Dataset):
    """Procedural street scenes, drawn when asked for; nothing is stored.

    Args:
        length: number of scenes.
        split: "train", "val" or "test"; different splits never share a scene.
        seed: another seed, another set of scenes.
        height, width: picture size in pixels, each ≥ 32.
        domain: one of `DOMAINS`.
        transform: called as ``transform(image, mask)`` (torchvision v2 joint transforms fit).

    An item is ``(tv_tensors.Image uint8 (3, H, W), tv_tensors.Mask uint8 (H, W))``.
    """

    classes = CLASSES
    num_classes = len(CLASSES)
    ignore_index = IGNORE

    def __init__(
        self,
        length: int,
        *,
        split: str = "train",
        seed: int = 0,
        height: int = 96,
        width: int = 128,
        domain: str = "day",
        transform: Callable | None = None,
    ) -> None:
        if length < 1:
            raise ValueError(f"length must be at least 1, got {length}")
        if domain not in DOMAINS:
            raise ValueError(f"unknown domain {domain!r}; the known ones are {', '.join(DOMAINS)}")
        if height < _LEAST_SIZE or width < _LEAST_SIZE:
            raise ValueError(
                f"a scene needs at least {_LEAST_SIZE}×{_LEAST_SIZE} pixels, got height {height}, "
                f"width {width}"
            )
        self.length, self.split, self.seed, self.domain = length, split, seed, domain
        self.height, self.width, self.transform = height, width, transform
        self._stream = stream_of(seed, split)

    def __len__(self) -> int:
        return self.length

    def _draw(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return render(self._stream, index, self.height, self.width, self.domain)

    def __getitem__(self, index: int) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        if not 0 <= index < self.length:
            raise IndexError(
                f"scene {index} asked for, but there are {self.length} (0…{self.length - 1})"
            )
        picture_array, mask_array = self._draw(int(index))
        image = tv_tensors.Image(torch.from_numpy(picture_array).permute(2, 0, 1).contiguous())
        mask = tv_tensors.Mask(torch.from_numpy(mask_array))
        return (image, mask) if self.transform is None else self.transform(image, mask)


def fold(num_classes: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Merge sibling classes until `num_classes` are left.

    Only neighbours of one CamVid class merge: first within a group of siblings (the parts of one
        house style, of one paint), then
    whole groups. The smallest pair goes first; among equals, one of the CamVid class that still has
    the most classes.

    Args:
        num_classes: 11 … 150.

    Returns:
        look-up table (256,) uint8 from the 150 fine ids to 0…num_classes−1 (255 stays 255), and the
        names, ``"Car: red flank + red end"``.

    Raises:
        ValueError: num_classes outside 11…150.
    """
    if not len(CLASSES) <= num_classes <= len(FINE_CLASSES):
        raise ValueError(
            f"num_classes must lie in {len(CLASSES)}…{len(FINE_CLASSES)}, got {num_classes}"
        )
    clusters = [[fine] for fine in range(len(FINE_CLASSES))]
    while len(clusters) > num_classes:
        left_of = Counter(int(FINE_TO_COARSE[cluster[0]]) for cluster in clusters)
        costs = {}
        for k, (first, second) in enumerate(pairwise(clusters)):
            coarse = int(FINE_TO_COARSE[first[0]])
            if coarse == FINE_TO_COARSE[second[0]]:
                crosses_groups = FINE_GROUP[first[0]] != FINE_GROUP[second[-1]]
                costs[k] = (crosses_groups, len(first) + len(second), -left_of[coarse])
        cheapest = min(costs, key=costs.__getitem__)
        clusters[cheapest] += clusters.pop(cheapest + 1)

    table = np.full(256, IGNORE, np.uint8)
    for number, cluster in enumerate(clusters):
        table[cluster] = number
    names = tuple(
        CLASSES[FINE_TO_COARSE[cluster[0]]]
        + ": "
        + " + ".join(FINE_CLASSES[fine].split(": ", 1)[1] for fine in cluster)
        for cluster in clusters
    )
    return table, names


class ManyScenes(Scenes):
    """`Scenes` with `num_classes` (11…150) visible attributes as classes: façade style × part, paint × part of the car, kind of
    tree, sign, fence, clothing, marking.

    The pictures are those of `Scenes` with the same arguments, and ``to_coarse[mask]`` is its mask.
    Arguments and items as there; `classes` holds the names and `to_coarse` (256,) uint8 maps ids to
    CamVid's.
    """

    def __init__(
        self,
        length: int,
        *,
        num_classes: int = 150,
        split: str = "train",
        seed: int = 0,
        height: int = 96,
        width: int = 128,
        domain: str = "day",
        transform: Callable | None = None,
    ) -> None:
        super().__init__(
            length,
            split=split,
            seed=seed,
            height=height,
            width=width,
            domain=domain,
            transform=transform,
        )
        self._table, self.classes = fold(num_classes)
        self.num_classes = num_classes
        self.to_coarse = np.full(256, IGNORE, np.uint8)
        self.to_coarse[self._table[: len(FINE_CLASSES)]] = FINE_TO_COARSE[: len(FINE_CLASSES)]

    def _draw(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        image, fine = render_fine(self._stream, index, self.height, self.width, self.domain)
        return image, self._table[fine]
