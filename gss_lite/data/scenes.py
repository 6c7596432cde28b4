"""Scenes: a data set of drawn street pictures with CamVid's 11 classes.

Nothing is downloaded. Pictures can have any size, and there are four domains. ManyScenes shows the
same streets with up to 150 classes, so a palette needs many colours.
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

# Dusk has dark warm light, lit windows and lamps. Fog whitens distant things. Town is another
# town's architecture by day.
DOMAINS = ("day", "dusk", "fog", "town")
SPLITS = ("train", "val", "test")
_LEAST_SIZE = 32


def render(
    seed: int, index: int, height: int = 96, width: int = 128, domain: str = "day"
) -> tuple[np.ndarray, np.ndarray]:
    """Draw scene `index` of the stream `seed`.

    A scene depends on (seed, index) alone, at every size. Day, dusk and fog have the same mask, and
    only the light differs. A picture wider than 4:3 shows more of the street at its sides.

    Args:
        seed: stream of scenes, ≥ 0.
        index: number of the scene, ≥ 0.
        height, width: picture size in pixels, each ≥ 32.
        domain: one of `DOMAINS`.

    Returns:
        image uint8 (height, width, 3) RGB, mask uint8 (height, width) with CamVid's ids 0…10 and
        255 for void.

    Raises:
        ValueError: the domain is unknown, a side is below 32, or seed or index is negative.
    """
    image, fine = render_fine(seed, index, height, width, domain)
    return image, FINE_TO_COARSE[fine]


def render_fine(
    seed: int, index: int, height: int = 96, width: int = 128, domain: str = "day"
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a scene as `render` does, with the 150 fine classes of `ManyScenes` in the mask."""
    _check_picture(height, width, domain)
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must not be negative, got seed {seed}, index {index}")
    street = compose(seed, index, height, width, elsewhere=domain == "town")
    image = illuminate(street, LIGHTS["day" if domain == "town" else domain])
    fine_of = np.asarray(street.canvas.fine, np.uint8)
    return image, _vote(fine_of[street.surfaces.index])


def _check_picture(height: int, width: int, domain: str) -> None:
    if domain not in DOMAINS:
        raise ValueError(f"unknown domain {domain!r}; the known ones are {', '.join(DOMAINS)}")
    if height < _LEAST_SIZE or width < _LEAST_SIZE:
        raise ValueError(
            f"a scene needs at least {_LEAST_SIZE}×{_LEAST_SIZE} pixels, got height {height}, "
            f"width {width}"
        )


def _vote(fine: np.ndarray) -> np.ndarray:
    """Take the most frequent of a pixel's four samples (in a tie, the first): (2H, 2W) → (H, W)."""
    a, b, c, d = fine[0::2, 0::2], fine[0::2, 1::2], fine[1::2, 0::2], fine[1::2, 1::2]
    agrees_a = (a == b) | (a == c) | (a == d)
    agrees_b = (b == c) | (b == d)
    return np.where(agrees_a, a, np.where(agrees_b, b, np.where(c == d, c, a)))


def stream_of(seed: int, split: str) -> int:
    """Return the stream of a split. Two different (seed, split) never share a stream."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; the known ones are {', '.join(SPLITS)}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    return len(SPLITS) * seed + SPLITS.index(split)


class Scenes(Dataset):
    """Street scenes that are drawn when they are read; nothing is stored.

    An item is (picture uint8 (3, H, W), mask uint8 (H, W) with 0…10 and 255), or the result of
    `transform` for the two.

    Attributes:
        classes: names of the classes.
        drawn: True, because there are no files on disk.
        licence, leave_out: None and (), see `MaskFolder`.

    Args:
        length: number of scenes.
        split: "train", "val" or "test"; different splits never share a scene.
        seed: each seed gives other scenes.
        height, width: picture size in pixels, each ≥ 32.
        domain: one of `DOMAINS`.
        transform: called as transform(image, mask).

    Raises:
        ValueError: an argument is out of range.
    """

    name = "scenes"
    classes = CLASSES
    num_classes = len(CLASSES)
    licence: str | None = None
    leave_out: tuple[str, ...] = ()
    drawn = True
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
        _check_picture(height, width, domain)
        self._stream = stream_of(seed, split)
        self.length, self.split, self.seed = length, split, seed
        self.height, self.width, self.domain = height, width, domain
        self.transform = transform

    def __len__(self) -> int:
        return self.length

    def _draw(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return render(self._stream, index, self.height, self.width, self.domain)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        if not 0 <= index < self.length:
            raise IndexError(
                f"scene {index} asked for, but there are {self.length} (0…{self.length - 1})"
            )
        pixels, ids = self._draw(int(index))
        image = tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1).contiguous())
        mask = tv_tensors.Mask(torch.from_numpy(ids))
        return (image, mask) if self.transform is None else self.transform(image, mask)


class ManyScenes(Scenes):
    """The streets of `Scenes` with `num_classes` classes, 11 to 150, instead of CamVid's 11.

    The further arguments are those of `Scenes`.

    Attributes:
        classes: names of the classes, as "Car: red flank".
        to_coarse: look-up table (256,) uint8 from the ids to CamVid's.
    """

    name = "many-scenes"
    classes = FINE_CLASSES
    num_classes = len(FINE_CLASSES)

    def __init__(self, length: int, *, num_classes: int = 150, **arguments: object) -> None:
        super().__init__(length, **arguments)
        self._table, self.classes = fold(num_classes)
        self.num_classes = num_classes
        fine = np.arange(len(FINE_CLASSES))
        self.to_coarse = np.full(256, IGNORE, np.uint8)
        self.to_coarse[self._table[fine]] = FINE_TO_COARSE[fine]

    def _draw(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        image, fine = render_fine(self._stream, index, self.height, self.width, self.domain)
        return image, self._table[fine]


def fold(num_classes: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Merge sibling classes until `num_classes` are left, 11 … 150.

    Only neighbours of one CamVid class merge: first within a group of siblings (the parts of one
    house style, of one paint), then whole groups. The smallest pair is merged first. In a tie, it
    is a pair of the CamVid class that still has the most classes.

    Returns:
        A look-up table (256,) uint8 from the 150 fine ids to 0…num_classes−1, where 255 stays 255;
        and the names, as "Car: red flank + red end".

    Raises:
        ValueError: num_classes is outside 11…150.
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
    names = []
    for number, cluster in enumerate(clusters):
        table[cluster] = number
        parts = [FINE_CLASSES[fine].split(": ", 1)[1] for fine in cluster]
        names.append(f"{CLASSES[FINE_TO_COARSE[cluster[0]]]}: {' + '.join(parts)}")
    return table, tuple(names)
