"""Data sets of picture and mask files on disk.

`MaskFolder` reads all of them. Each set is a subclass that names its folders and its class ids.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from torch.utils.data import Dataset
from torchvision import tv_tensors

from gss_lite.contracts import IGNORE
from gss_lite.data.checks import (
    Listing,
    data_roots,
    is_data,
    lacking,
    list_pairs,
    listed_name,
    odd_histogram,
    read_lines,
    runs,
)
from gss_lite.data.pictures import check_pair, opened, read_image, read_mask
from gss_lite.data.street.classes import CLASSES

LOOKS = 8  # number of masks whose ids are checked when a set is opened
EXCLUDED = "exclude.txt"  # a list of frames to leave out, beside the set's own folders


class MaskFolder(Dataset):
    """Pairs of a picture and a mask of class ids, in the order of the pictures' paths.

    An item is (picture uint8 (3, H, W), mask uint8 (H, W) with 0 … K−1 and 255), or the result of
    `transform` for the two. The names of a picture and its mask differ in beginning, ending and
    suffix only. Frames that a file exclude.txt in the set's folder names are left out.

    Attributes:
        name: name of the set, and of the folder that holds it unless `place` names another.
        title: name of the set in messages.
        classes: names of the classes 0 … K−1.
        ids: id in the mask files → class id, or 255 for pixels to ignore.
        colors: RGB colour → id in `ids`, if masks may be coloured.
        splits: split → number of pictures in the published set; None if it is not known.
        folders: split → the word that stands for {split} in a folder's name, where it differs.
        pictures, masks: folders of a split, with {split} for its name; * stands for any folder.
        picture_end, mask_end: endings of the names; files with other names are skipped.
        starts: beginnings of the names of pictures and masks.
        list_file: a file that lists a split's frames, or the folders above them.
        variants: attributes of other layouts, which are tried where the first has no files.
        below: folders in which the set may lie below the one that is named.
        script: the command that fetches the set, or says where it is.
        licence: the licence of the data; None if there is none.
        leave_out: names of broken frames; results are also given without them.
        shares: each class's share of the labelled pixels in the published set, if known.
        mseg: the set's column in MSeg's table of classes, if it is one of its test sets.
        drawn: False, because the pictures lie on disk.

    Args:
        split: one of `splits`.
        folder: see `find`.
        transform: called as transform(image, mask).
        check: False opens a set with missing or unusable files too; `faults` describes them, and
            `broken` names their frames.

    Raises:
        ValueError: there is no such split, or files cannot be used (two pictures for one mask).
        FileNotFoundError: the folder or files are missing. One error names all such files.
    """

    name: str
    place: str = ""
    title: str
    classes: tuple[str, ...]
    num_classes: int
    ids: Mapping[int, int]
    splits: Mapping[str, int | None]
    colors: Mapping[tuple[int, int, int], int] | None = None
    folders: Mapping[str, str] = MappingProxyType({})
    pictures = "{split}"
    masks = "{split}annot"
    picture_end = ""
    mask_end = ""
    starts = ("", "")
    list_file: str | None = None
    variants: tuple[Mapping[str, object], ...] = ()
    below: tuple[str, ...] = ("",)
    script: str
    licence: str | None = None
    leave_out: tuple[str, ...] = ()
    shares: tuple[float, ...] | None = None
    mseg: str | None = None
    drawn = False
    ignore_index = IGNORE

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.num_classes = len(cls.classes)

    def __init__(
        self,
        split: str = "train",
        folder: str | Path | None = None,
        *,
        transform: Callable | None = None,
        check: bool = True,
    ) -> None:
        if split not in self.splits:
            raise ValueError(f"{self.title} has the splits {', '.join(self.splits)}; got {split!r}")
        self.split, self.transform = split, transform
        self.root = self.find(folder, split)
        listing = self._listing()
        self.faults = listing.missing + listing.wrong
        self.broken = listing.broken
        if check and (self.faults or not self.pairs):
            self._refuse(listing)
        self._class_of = np.full(256, IGNORE, np.uint8)
        self._known = np.zeros(256, bool)
        for k, label in self.ids.items():
            self._class_of[k] = label
            self._known[k] = True
        self.notes = listing.notes + self._odd_labels()
        for note in self.notes if check else ():
            warnings.warn(f"{self.title} in {self.root}, {split}: {note}", stacklevel=2)

    def _listing(self) -> Listing:
        """List the frames in the first layout that has any, and take over its attributes."""
        first = None
        for variant in ({}, *self.variants):
            if self.split not in variant.get("splits", self.splits):
                continue
            before = dict(vars(self))
            vars(self).update(variant)
            if all(self._exists(place) for place in self.split_folders()):
                listing = self._listed()
                if listing.pairs:
                    break
                first = first or listing
            vars(self).clear()
            vars(self).update(before)
        else:
            listing = first or self._listed()
        self.pairs = listing.pairs
        self.names = listing.names
        return listing

    def _exists(self, place: Path) -> bool:
        return not lacking(self.root, [place.relative_to(self.root).as_posix()])

    def split_folders(self) -> tuple[Path, Path]:
        """Return the folders of the split's pictures and masks."""
        word = self.folders.get(self.split, self.split)
        return (
            self.root / self.pictures.format(split=word),
            self.root / self.masks.format(split=word),
        )

    def _listed(self) -> Listing:
        excluded = read_lines(self.root / EXCLUDED)
        listed = self._list_of_split()

        def chosen(name: str) -> bool:
            if name in excluded or not self.in_split(name):
                return False
            return listed is None or name in listed or name.split("/")[0] in listed

        listing = list_pairs(
            *self.split_folders(),
            self.picture_end,
            self.mask_end,
            starts=self.starts,
            chosen=chosen,
        )
        if excluded:
            note = f"frames that {EXCLUDED} names are left out ({len(excluded)})"
            listing.notes.append(note)
        if listed is not None:
            above = {name.split("/")[0] for name in listing.names}
            unseen = sorted(listed - set(listing.names) - above - excluded)
            if unseen and listing.pairs:
                named = ", ".join(unseen[:5])
                listing.missing.append(
                    f"{len(unseen)} frames of {self.list_file.format(split=self.split)} have no "
                    f"picture and mask: {named}{', …' if len(unseen) > 5 else ''}"
                )
                listing.broken.extend(unseen)
        return listing

    def _list_of_split(self) -> set[str] | None:
        """Return the names in the list of the split; None if the layout has no lists."""
        if self.list_file is None:
            return None
        path = self.root / self.list_file.format(split=self.split)
        if not path.is_file():
            raise FileNotFoundError(
                f"{self.title} in {self.root} lacks the list of its {self.split} split, {path}. "
                f"{self.layout(self.split)}"
            )
        return {listed_name(line) for line in read_lines(path)}

    def in_split(self, name: str) -> bool:
        """Whether a frame belongs to the split, for sets whose folders and lists do not say it."""
        return True

    def _refuse(self, listing: Listing) -> None:
        """Raise an error that names every file which is missing or cannot be used."""
        kind = ValueError if self.pairs and not listing.missing else FileNotFoundError
        pictures, masks = self.split_folders()
        raise kind(
            f"{pictures} holds {len(self.pairs)} pictures that can be used"
            f"{''.join(f'; {fault}' for fault in self.faults)}. Each "
            f"picture needs one mask of its name in {masks}. `{self.script}` fetches the set "
            f"again; `{self.check_command()} --exclude` leaves such frames out."
        )

    def check_command(self) -> str:
        """Return the command that looks through the set's files."""
        return f"python -m gss_lite data check {self.name} --data {self.root}"

    @classmethod
    def parts(cls, split: str) -> tuple[str, str]:
        """Return the folders of a split's pictures and masks, below the set's folder."""
        word = cls.folders.get(split, split)
        return cls.pictures.format(split=word), cls.masks.format(split=word)

    @classmethod
    def layout(cls, split: str | None = None) -> str:
        """Say which files the set consists of, as paths with patterns."""
        lines = []
        for name in [split] if split else cls.splits:
            pictures, masks = cls.parts(name)
            files = [
                f"{pictures}/{cls.starts[0]}*{cls.picture_end}.{{png,jpg}}",
                f"{masks}/{cls.starts[1]}*{cls.mask_end}.png",
            ]
            if cls.list_file:
                files.append(cls.list_file.format(split=name))
            count = cls.splits.get(name)
            size = f" ({count:,} pictures)" if count else ""
            lines.append(f"{name}{size}: {', '.join(files)}")
        return f"Expected below data/{cls.place or cls.name}: {'; '.join(lines)}."

    @classmethod
    def find(cls, folder: str | Path | None = None, split: str = "train") -> Path:
        """Return the folder that holds the set.

        A given `folder` is the only candidate. Otherwise it is $GSS_DATA/NAME if GSS_DATA is set.
        Otherwise these are tried: data/NAME in the current folder, data/NAME beside the package,
        and ../shared/data/NAME beside the repository.

        Raises:
            FileNotFoundError: no candidate holds the split. The message says what to do.
        """
        name = cls.place or cls.name
        places = [Path(folder)] if folder else [root / name for root in data_roots()]
        tried = [(place / inner, place) for place in places for inner in cls.below]
        for inner, _ in tried:
            if cls._why_not(inner, split) is None:
                return inner
        reasons = [cls._why_not(place, split) for place in places]
        parts = dict.fromkeys(cls.parts(split))
        advice = (
            f"Run `{cls.script}` to get it into data/{name}, or set GSS_DATA to a folder "
            f"that holds {', '.join(f'{name}/{part}' for part in parts)}, …"
        )
        if os.environ.get("GSS_DATA") == "":
            advice += " (GSS_DATA is set, but it is empty, so it names no folder.)"
        raise FileNotFoundError(
            f"{cls.title} was not found: {'; '.join(reasons)}. {advice} {cls.layout(split)}"
        )

    @classmethod
    def _why_not(cls, place: Path, split: str) -> str | None:
        """Say why a place does not hold the split; None if it does."""
        missing = lacking(place, cls.parts(split))
        word = cls.folders.get(split, split)
        for variant in cls.variants:
            folders = (
                str(variant.get("pictures", cls.pictures)).format(split=word),
                str(variant.get("masks", cls.masks)).format(split=word),
            )
            if split in variant.get("splits", cls.splits) and not lacking(place, folders):
                return None
        if not missing:
            return None
        if not place.exists():
            return f"there is no {place}"
        if not place.is_dir():
            return f"{place} is a file, not a folder"
        for inner in (place / cls.name, place / cls.title):
            if not lacking(inner, cls.parts(split)):
                return f"{place} holds the set in {inner.name}, so name {inner}"
        if not any(is_data(path, place) for path in place.iterdir()):
            return f"{place} is empty"
        return f"{place} holds no folder {missing[0]}"

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        picture, annotation = self.pairs[index]
        image = read_image(picture)  # (3, H, W)
        ids = read_mask(annotation, self.colors)  # (H, W)
        check_pair(image, ids, str(picture))
        found = ids.numpy()  # (H, W)
        known = self._known[found]
        if not known.all():
            holds = runs(k for k, label in self.ids.items() if label != IGNORE)
            void = runs(k for k, label in self.ids.items() if label == IGNORE)
            raise ValueError(
                f"{annotation} holds id {int(found[~known][0])}; {self.title}'s masks hold {holds} "
                f"and {void} for void"
            )
        mask = tv_tensors.Mask(torch.from_numpy(self._class_of[found]))  # (H, W)
        return (image, mask) if self.transform is None else self.transform(image, mask)

    def _odd_labels(self) -> list[str]:
        """Check the ids of a few masks, and describe what looks wrong."""
        counts = np.zeros(256, np.int64)
        colors: dict[int, set] = {}
        for k in np.linspace(0, len(self) - 1, min(LOOKS, len(self))).round().astype(int):
            path = self.pairs[k][1]
            try:
                found = np.bincount(read_mask(path, self.colors).flatten(), minlength=256)
                with opened(path, "mask", "a PNG") as (picture, _):
                    table = picture.getpalette() if picture.mode == "P" else []
            except (ValueError, OSError):
                continue  # reading the item raises an error that names the fault
            counts += found
            for label in np.flatnonzero(found)[: len(table) // 3]:
                colors.setdefault(label, set()).add(tuple(table[3 * label : 3 * label + 3]))
        odd = odd_histogram(counts, self.ids, self.shares)
        if any(len(different) > 1 for different in colors.values()):
            odd.append(
                "one id has different colours in the palettes of two masks. Were coloured masks "
                "reduced to palettes one by one? Then equal ids do not mean equal classes"
            )
        return odd


def broken_frames(dataset: Dataset) -> list[int]:
    """List the indices of the frames that the set's `leave_out` names; [] for drawn sets."""
    names = getattr(dataset, "names", ())
    return [i for i, name in enumerate(names) if name in dataset.leave_out]


class CamVid(MaskFolder):
    """CamVid with SegNet's split and 11 classes: street pictures (3, 360, 480).

    `python -m data_scripts.camvid` fetches the set.
    """

    name = "camvid"
    title = "CamVid"
    classes = CLASSES
    ids = MappingProxyType({**{k: k for k in range(11)}, 11: IGNORE})
    splits = MappingProxyType({"train": 367, "val": 101, "test": 233})
    script = "python -m data_scripts.camvid"
    licence = "CC BY-NC 4.0 (research and teaching)"
    leave_out = ("Seq05VD_f02610",)  # its published mask is shifted by about 87 pixels
    shares = (0.175, 0.242, 0.010, 0.330, 0.047, 0.101, 0.012, 0.012, 0.061, 0.007, 0.003)
