"""ManyScenes: the same streets with up to 150 classes, for palettes that get crowded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import numpy as np

from ._street_classes import CLASSES, FINE_CLASSES, FINE_GROUP, FINE_TO_COARSE, VOID
from .scenes import Scenes, render_fine

__all__ = ["FINE_CLASSES", "ManyScenes", "fold"]


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

    table = np.full(256, VOID, np.uint8)
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
        self.to_coarse = np.full(256, VOID, np.uint8)
        self.to_coarse[self._table[: len(FINE_CLASSES)]] = FINE_TO_COARSE[: len(FINE_CLASSES)]

    def _draw(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        image, fine = render_fine(self._stream, index, self.height, self.width, self.domain)
        return image, self._table[fine]
