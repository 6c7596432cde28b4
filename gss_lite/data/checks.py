"""Checks of a folder before it is used: pairs of pictures and masks, and the ids in the masks."""

from __future__ import annotations

import math
import os
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    """The frames of two folders.

    Attributes:
        pairs: (picture, mask), in the order of the pictures' paths.
        missing, wrong, notes: messages about missing, unusable and other files.
        names: names of the frames of `pairs`.
        broken: names of the frames in `missing` and `wrong`.
    """

    pairs: list[tuple[Path, Path]]
    missing: list[str]
    wrong: list[str]
    notes: list[str]
    names: list[str]
    broken: list[str]


def list_pairs(
    pictures: Path,
    masks: Path,
    picture_end: str = "",
    mask_end: str = "",
    *,
    starts: tuple[str, str] = ("", ""),
    chosen: Callable[[str], bool] | None = None,
) -> Listing:
    """Pair pictures and masks of the same name, in the order of the pictures' paths.

    Args:
        pictures, masks: folders. One part of a path may be *, which stands for any folder: then
            a frame is named after that folder and its own path, as "scene0000_00/000100".
        picture_end, mask_end: endings of the files' names, without the suffix.
        starts: the beginnings of the names of pictures and masks, which also differ.
        chosen: tells by its name whether a frame belongs to the split; None takes all frames.
    """
    images, unread_images = _list_frames(pictures, starts[0], picture_end, PICTURES, chosen)
    labels, unread_labels = _list_frames(masks, starts[1], mask_end, MASKS, chosen)
    missing, wrong, notes = [], [], []
    no_mask = [Path(f"{name}{mask_end}.png") for name in images if name not in labels]
    no_picture = [paths[0] for name, paths in labels.items() if name not in images]
    if no_mask:
        missing.append(f"{len(no_mask)} of their masks are missing: {_listed(no_mask)}")
    if no_picture:
        missing.append(f"masks without a picture ({len(no_picture)}): {_listed(no_picture)}")
    for found in (images, labels):
        wrong += [f"a frame is there twice: {_listed(two)}" for two in found.values() if two[1:]]
    unread = [path for _, path in unread_images + unread_labels]
    frames = [path for path in unread if path.suffix.lower() in PICTURES | OTHER_PICTURES]
    others = [path for path in unread if path not in frames]
    if frames:
        wrong.append(f"files of a kind that is not read ({len(frames)}): {_listed(frames)}")
    if others:
        notes.append(f"files that are no pictures are left out ({len(others)}): {_listed(others)}")
    pairs = [
        (paths[0], labels[name][0], name)
        for name, paths in images.items()
        if name in labels and len(paths) == len(labels[name]) == 1
    ]
    pairs.sort()
    broken = {name for name in (*images, *labels) if name not in images or name not in labels}
    broken |= {name for found in (images, labels) for name, two in found.items() if two[1:]}
    broken |= {frame for frame, path in unread_images + unread_labels if path in frames}
    return Listing(
        [(picture, mask) for picture, mask, _ in pairs],
        missing,
        wrong,
        notes,
        [name for *_, name in pairs],
        sorted(broken),
    )


def _list_frames(
    folder: Path,
    start: str,
    end: str,
    suffixes: Iterable[str],
    chosen: Callable[[str], bool] | None,
) -> tuple[dict[str, list[Path]], list[tuple[str, Path]]]:
    """List the files below a folder: name → readable files, and (name, file) of the others."""
    frames: dict[str, list[Path]] = {}
    others = []
    base, inner = split_at_star(folder)
    for place in sorted(base.glob(f"*/{inner}")) if inner else [base]:
        above = f"{place.relative_to(base).parts[0]}/" if inner else ""
        for path in sorted(place.rglob("*")):
            if not path.is_file() or not is_data(path, base):
                continue
            if not (path.name.startswith(start) and path.stem.endswith(end)):
                continue
            name = above + frame_name(path, place, end, start)
            if chosen is not None and not chosen(name):
                continue
            if path.suffix.lower() in suffixes:
                frames.setdefault(name, []).append(path)
            else:
                others.append((name, path))
    return frames, others


def split_at_star(folder: Path) -> tuple[Path, str]:
    """Split "base/*/inner" → (base, "inner"); a path without * is (path, "")."""
    parts = folder.parts
    if "*" not in parts:
        return folder, ""
    at = parts.index("*")
    return Path(*parts[:at]), Path(*parts[at + 1 :]).as_posix()


def is_data(path: Path, folder: Path) -> bool:
    """Whether a path below `folder` is neither hidden nor left there by an operating system."""
    parts = path.relative_to(folder).parts
    return not any(part.startswith(".") or part.lower() in NO_DATA for part in parts)


def frame_name(path: Path, folder: Path, end: str = "", start: str = "") -> str:
    """Name a frame by its path below `folder`, without suffix, ending and beginning.

    Accents are composed (Unicode NFC), because file systems store them in two forms.
    """
    below = path.relative_to(folder)
    stem = path.stem.removesuffix(end).removeprefix(start)
    return unicodedata.normalize("NFC", (below.parent / stem).as_posix())


def data_roots() -> list[Path]:
    """Return the folders that data sets are looked for in.

    This is $GSS_DATA alone, if GSS_DATA is set. Otherwise these are data/ in the current folder,
    data/ beside the package, and ../shared/data beside the repository.
    """
    above = os.environ.get("GSS_DATA", "")
    if above:
        return [Path(above).expanduser()]
    repository = Path(__file__).resolve().parents[2]
    return [Path("data"), repository / "data", repository.parent / "shared/data"]


def lacking(place: Path, parts: Iterable[str]) -> list[str]:
    """Return those of the parts, folders with * for any name, that are not in a place."""
    return [part for part in parts if not any(path.is_dir() for path in place.glob(part))]


def read_lines(path: Path) -> set[str]:
    """Return the lines of a text file that are not empty; none if there is no such file."""
    if not path.is_file():
        return set()
    text = path.read_text(encoding="utf-8-sig")
    return {line.strip() for line in text.splitlines() if line.strip()}


def listed_name(line: str) -> str:
    """Name the frame of a line in a list: its first word, without folders and suffix."""
    name = Path(line.split()[0]).name
    stem, suffix = Path(name).stem, Path(name).suffix.lower()
    return stem if suffix in PICTURES | OTHER_PICTURES else name


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
