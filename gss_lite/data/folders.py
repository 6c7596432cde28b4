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
from gss_lite.data.checks import frame_name, is_data, list_pairs, odd_histogram, runs
from gss_lite.data.pictures import check_pair, opened, read_image, read_mask
from gss_lite.data.street.classes import CLASSES

LOOKS = 8  # number of masks whose ids are checked when a set is opened


class MaskFolder(Dataset):
    """Pairs of a picture and a mask of class ids, in the order of the pictures' paths.

    An item is (picture uint8 (3, H, W), mask uint8 (H, W) with 0 … K−1 and 255), or the result of
    `transform` for the two. The names of a picture and its mask differ in ending and suffix only.

    Attributes:
        name: name of the folder that holds the set.
        title: name of the set in messages.
        classes: names of the classes 0 … K−1.
        ids: id in the mask files → class id, or 255 for pixels to ignore.
        splits: split → number of pictures in the published set.
        pictures, masks: folders of a split, with {split} for its name.
        picture_end, mask_end: endings of the names; files with other names are skipped.
        script: the command that fetches the set.
        licence: the licence of the data; None if there is none.
        leave_out: names of broken frames; results are also given without them.
        shares: each class's share of the labelled pixels in the published set, if known.
        drawn: False, because the pictures lie on disk.

    Args:
        split: one of `splits`.
        folder: see `find`.
        transform: called as transform(image, mask).

    Raises:
        ValueError: there is no such split, or files cannot be used (two pictures for one mask).
        FileNotFoundError: the folder or files are missing. One error names all such files.
    """

    name: str
    title: str
    classes: tuple[str, ...]
    num_classes: int
    ids: Mapping[int, int]
    splits: Mapping[str, int]
    pictures = "{split}"
    masks = "{split}annot"
    picture_end = ""
    mask_end = ""
    script: str
    licence: str | None = None
    leave_out: tuple[str, ...] = ()
    shares: tuple[float, ...] | None = None
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
    ) -> None:
        if split not in self.splits:
            raise ValueError(f"{self.title} has the splits {', '.join(self.splits)}; got {split!r}")
        self.split, self.transform = split, transform
        root = self.find(folder, split)
        pictures, masks = (root / part for part in self.parts(split))
        listing = list_pairs(pictures, masks, self.picture_end, self.mask_end)
        self.pairs = listing.pairs
        if listing.missing or listing.wrong or not self.pairs:
            kind = ValueError if self.pairs and not listing.missing else FileNotFoundError
            raise kind(
                f"{pictures} holds {len(self.pairs)} pictures that can be used"
                f"{''.join(f'; {fault}' for fault in listing.missing + listing.wrong)}. Each "
                f"picture needs one mask of its name in {masks}. `{self.script}` fetches the set "
                "again."
            )
        self.names = [frame_name(picture, pictures, self.picture_end) for picture, _ in self.pairs]
        self._class_of = torch.full((256,), -1, dtype=torch.int16)
        for k, label in self.ids.items():
            self._class_of[k] = label
        for note in listing.notes + self._odd_labels():
            warnings.warn(f"{self.title} in {root}, {split}: {note}", stacklevel=2)

    @classmethod
    def parts(cls, split: str) -> tuple[str, str]:
        """Return the folders of a split's pictures and masks, below the set's folder."""
        return cls.pictures.format(split=split), cls.masks.format(split=split)

    @classmethod
    def find(cls, folder: str | Path | None = None, split: str = "train") -> Path:
        """Return the folder that holds the set.

        A given `folder` is the only candidate. Otherwise it is $GSS_DATA/NAME if GSS_DATA is set.
        Otherwise these are tried: data/NAME in the current folder, data/NAME beside the package,
        and ../shared/data/NAME beside the repository.

        Raises:
            FileNotFoundError: no candidate holds the split. The message says what to do.
        """
        above = os.environ.get("GSS_DATA", "")
        repository = Path(__file__).resolve().parents[2]
        if folder is not None:
            places = [Path(folder)]
        elif above:
            places = [Path(above).expanduser() / cls.name]
        else:
            roots = (Path("data"), repository / "data", repository.parent / "shared/data")
            places = [root / cls.name for root in roots]
        reasons = {place: cls._why_not(place, split) for place in places}
        for place, reason in reasons.items():
            if reason is None:
                return place
        advice = (
            f"Run `{cls.script}` to download it into data/{cls.name}, or set GSS_DATA to a folder "
            f"that holds {', '.join(f'{cls.name}/{part}' for part in cls.parts(split))}, …"
        )
        if not above and "GSS_DATA" in os.environ:
            advice += " (GSS_DATA is set, but it is empty, so it names no folder.)"
        raise FileNotFoundError(
            f"{cls.title} was not found: {'; '.join(reasons.values())}. {advice}"
        )

    @classmethod
    def _why_not(cls, place: Path, split: str) -> str | None:
        """Say why a place does not hold the split; None if it does."""
        parts = cls.parts(split)
        missing = [part for part in parts if not (place / part).is_dir()]
        if not missing:
            return None
        if not place.exists():
            return f"there is no {place}"
        if not place.is_dir():
            return f"{place} is a file, not a folder"
        for inner in (place / cls.name, place / cls.title):
            if all((inner / part).is_dir() for part in parts):
                return f"{place} holds the set in {inner.name}, so name {inner}"
        if not any(is_data(path, place) for path in place.iterdir()):
            return f"{place} is empty"
        return f"{place} holds no folder {missing[0]}"

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        picture, annotation = self.pairs[index]
        image = read_image(picture)  # (3, H, W)
        ids = read_mask(annotation)  # (H, W)
        check_pair(image, ids, str(picture))
        labels = self._class_of[ids.long()]  # (H, W)
        unknown = labels < 0
        if bool(unknown.any()):
            known = runs(k for k, label in self.ids.items() if label != IGNORE)
            void = runs(k for k, label in self.ids.items() if label == IGNORE)
            raise ValueError(
                f"{annotation} holds id {int(ids[unknown][0])}; {self.title}'s masks hold {known} "
                f"and {void} for void"
            )
        mask = tv_tensors.Mask(labels.to(torch.uint8))
        return (image, mask) if self.transform is None else self.transform(image, mask)

    def _odd_labels(self) -> list[str]:
        """Check the ids of a few masks, and describe what looks wrong."""
        counts = np.zeros(256, np.int64)
        colors: dict[int, set] = {}
        for k in np.linspace(0, len(self) - 1, min(LOOKS, len(self))).round().astype(int):
            path = self.pairs[k][1]
            try:
                found = np.bincount(read_mask(path).flatten(), minlength=256)
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
