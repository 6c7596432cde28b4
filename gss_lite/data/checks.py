"""Checks of a folder before it is used: pairs of pictures and masks, and the ids in the masks."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gss_lite.contracts import IGNORE

PICTURES = frozenset({".png", ".jpg", ".jpeg"})  # suffixes that pictures are read from
MASKS = frozenset({".png"})
# A file with such a suffix may be a frame in a format that is not supported.
OTHER_PICTURES = frozenset(
    {".bmp", ".gif", ".heic", ".jfif", ".jp2", ".npy", ".pgm", ".ppm", ".tif", ".tiff", ".webp"}
)
# Operating systems leave these behind, and names that begin with a dot.
NO_DATA = frozenset({"thumbs.db", "desktop.ini", "__macosx", "@eadir"})


class Listing(NamedTuple):
    """The (picture, mask) pairs of two folders, and messages about missing and wrong files."""

    pairs: list[tuple[Path, Path]]
    missing: list[str]
    wrong: list[str]
    notes: list[str]


def list_pairs(pictures: Path, masks: Path, picture_end: str = "", mask_end: str = "") -> Listing:
    """Pair pictures and masks of the same name, in the order of the pictures' paths."""
    images, unread_images = _list_frames(pictures, picture_end, PICTURES)
    labels, unread_labels = _list_frames(masks, mask_end, MASKS)
    missing, wrong, notes = [], [], []
    no_mask = [masks / f"{name}{mask_end}.png" for name in images if name not in labels]
    no_picture = [paths[0] for name, paths in labels.items() if name not in images]
    if no_mask:
        missing.append(f"{len(no_mask)} of their masks are missing: {_listed(no_mask)}")
    if no_picture:
        missing.append(f"masks without a picture ({len(no_picture)}): {_listed(no_picture)}")
    for frames in (images, labels):
        wrong += [f"a frame is there twice: {_listed(two)}" for two in frames.values() if two[1:]]
    unread = unread_images + unread_labels
    frames = [path for path in unread if path.suffix.lower() in PICTURES | OTHER_PICTURES]
    others = [path for path in unread if path not in frames]
    if frames:
        wrong.append(f"files of a kind that is not read ({len(frames)}): {_listed(frames)}")
    if others:
        notes.append(f"files that are no pictures are left out ({len(others)}): {_listed(others)}")
    pairs = [
        (paths[0], labels[name][0])
        for name, paths in images.items()
        if name in labels and len(paths) == len(labels[name]) == 1
    ]
    return Listing(sorted(pairs), missing, wrong, notes)


def _list_frames(
    folder: Path, end: str, suffixes: Iterable[str]
) -> tuple[dict[str, list[Path]], list[Path]]:
    """List the files below a folder: frame name → readable files, and the other files."""
    frames: dict[str, list[Path]] = {}
    others = []
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or not is_data(path, folder) or not path.stem.endswith(end):
            continue
        if path.suffix.lower() in suffixes:
            frames.setdefault(frame_name(path, folder, end), []).append(path)
        else:
            others.append(path)
    return frames, others


def is_data(path: Path, folder: Path) -> bool:
    """Whether a path below `folder` is neither hidden nor left there by an operating system."""
    parts = path.relative_to(folder).parts
    return not any(part.startswith(".") or part.lower() in NO_DATA for part in parts)


def frame_name(path: Path, folder: Path, end: str = "") -> str:
    """Name a frame by its path below `folder`, without suffix and ending.

    Accents are composed (Unicode NFC), because file systems store them in two forms.
    """
    name = path.relative_to(folder).with_suffix("").as_posix()
    return unicodedata.normalize("NFC", name.removesuffix(end))


def _listed(paths: Sequence[Path], most: int = 5) -> str:
    names = ", ".join(path.name for path in paths[:most])
    return names + (", …" if len(paths) > most else "")


def runs(ids: Iterable[int]) -> str:
    """Write whole numbers as text: 0, 1, 2 and 5 give "0…2, 5"."""
    spans = []
    for _, run in groupby(enumerate(sorted(ids)), lambda pair: pair[1] - pair[0]):
        numbers = [number for _, number in run]
        spans.append(str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}…{numbers[-1]}")
    return ", ".join(spans)


def odd_histogram(
    counts: np.ndarray, ids: Mapping[int, int], shares: Sequence[float] | None = None
) -> list[str]:
    """Describe what looks wrong in a histogram (256,) of the ids in mask files.

    Args:
        ids: id in the files → class id, or 255 for pixels to ignore.
        shares: the classes' shares of the labelled pixels in the published set, if known.
    """
    labels = [k for k, label in ids.items() if label != IGNORE]
    present = np.flatnonzero(counts).tolist()
    classes = [k for k in present if ids.get(k) != IGNORE]
    step = math.gcd(*classes)
    odd = []
    if len(classes) > 3 and step > 1:
        odd.append(f"all ids are multiples of {step}. Are they grey levels and not class ids?")
    if len(labels) > 1 and len(present) == len(classes) == 1:
        odd.append(f"the masks hold nothing but id {classes[0]}")
    found = [k for k in classes if k in labels]
    if len(found) <= len(labels) / 2:
        return odd  # the further checks need more than half of the classes
    if counts[min(labels)] == 0 and counts[max(labels) + 1] > 0:
        odd.append("the ids seem to count from 1, with 0 for void; map them to the set's own first")
    elif shares:
        seen = np.bincount([ids[k] for k in found], counts[found], minlength=len(shares))
        distance = np.abs(seen / seen.sum() - np.asarray(shares)).sum() / 2
        if distance > 0.5:
            odd.append(
                "the classes' shares of the pixels are far from the published set's. Is 0 void, or "
                "are the classes in another order? Map the ids to the set's own first"
            )
    return odd
