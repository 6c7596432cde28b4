"""MSeg: seven training sets with one universal taxonomy of 194 classes (Lambert et al., 2020).

The masks are the relabeled ones that MSeg's own scripts make, in the folders that they make. Their
ids count the names in the set's column of MSeg_master.tsv in alphabetical order.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import MappingProxyType

import torch
from torch.utils.data import Dataset

from gss_lite.contracts import IGNORE
from gss_lite.data.folders import MaskFolder
from gss_lite.data.taxonomy import Taxonomy, find_table

SCRIPT = "python -m data_scripts.mseg"


@cache
def _universal(path: Path) -> Taxonomy:
    return Taxonomy.read(path)


class Part(MaskFolder):
    """One of MSeg's training sets, in universal classes.

    Attributes:
        column: the set's column in MSeg's table.
        repeats: how often the set is repeated in training, so that no set is drowned by the others
            (the released configs).
    """

    column: str
    repeats: int
    place = "mseg_dataset"
    classes = ()
    ids = MappingProxyType({})
    script = SCRIPT

    def __init__(
        self,
        split: str = "train",
        folder: str | Path | None = None,
        *,
        transform: Callable | None = None,
        check: bool = True,
    ) -> None:
        taxonomy = _universal(find_table())
        label_map = taxonomy.to_universal(self.column)
        self.classes = taxonomy.classes
        self.num_classes = len(self.classes)
        self.ids = {**dict(enumerate(label_map.ids)), IGNORE: IGNORE}
        super().__init__(split, folder, transform=transform, check=check)


class ADE20KPart(Part):
    """ADE20K, relabeled."""

    name, title, column, repeats = "mseg-ade20k", "ADE20K in MSeg", "ade20k-150-relabeled", 6
    splits = MappingProxyType({"train": 20_210, "val": 2_000})
    folders = MappingProxyType({"train": "training", "val": "validation"})
    pictures = "ADE20K/ADEChallengeData2016/images/{split}"
    masks = "ADE20K/ADEChallengeData2016/annotations_semseg150_relabeled/{split}"


class BDDPart(Part):
    """Berkeley Deep Drive, relabeled."""

    name, title, column, repeats = "mseg-bdd", "BDD in MSeg", "bdd-relabeled", 17
    splits = MappingProxyType({"train": 7_000, "val": 1_000})
    pictures = "BDD/bdd100k/seg/images/{split}"
    masks = "BDD/bdd100k/seg_relabeled/labels/{split}"
    mask_end = "_train_id"


class CityscapesPart(Part):
    """Cityscapes, relabeled."""

    name, title = "mseg-cityscapes", "Cityscapes in MSeg"
    column, repeats = "cityscapes-19-relabeled", 40
    splits = MappingProxyType({"train": 2_975, "val": 500})
    pictures = "Cityscapes/leftImg8bit/{split}"
    masks = "Cityscapes/gtFine_19cls_relabeled/{split}"
    picture_end = "_leftImg8bit"
    mask_end = "_gtFine_labelIds"


class COCOPart(Part):
    """COCO Panoptic, relabeled."""

    name, title = "mseg-coco", "COCO Panoptic in MSeg"
    column, repeats = "coco-panoptic-133-relabeled", 1
    splits = MappingProxyType({"train": 118_287, "val": 5_000})
    folders = MappingProxyType({"train": "train2017", "val": "val2017"})
    pictures = "COCOPanoptic/images/{split}"
    masks = "COCOPanoptic/semantic_relabeled133/{split}"


class IDDPart(Part):
    """India Driving, relabeled."""

    name, title, column, repeats = "mseg-idd", "IDD in MSeg", "idd-39-relabeled", 17
    splits = MappingProxyType({"train": 6_993, "val": 981})
    pictures = "IDD/IDD_Segmentation/leftImg8bit/{split}"
    masks = "IDD/IDD_Segmentation/gtFine39_relabeled/{split}"
    picture_end = "_leftImg8bit"
    mask_end = "_gtFine_labelids"


class MapillaryPart(Part):
    """Mapillary Vistas, relabeled."""

    name, title = "mseg-mapillary", "Mapillary Vistas in MSeg"
    column, repeats = "mapillary-public65-relabeled", 7
    splits = MappingProxyType({"train": 18_000, "val": 2_000})
    folders = MappingProxyType({"train": "training", "val": "validation"})
    pictures = "MapillaryVistasPublic/{split}/images"
    masks = "MapillaryVistasPublic/{split}_semseg65_relabeled/labels"


class SunRGBDPart(Part):
    """SUN RGB-D, relabeled. MSeg takes its test pictures for validation."""

    name, title, column, repeats = "mseg-sunrgbd", "SUN RGB-D in MSeg", "sunrgbd-37-relabeled", 24
    splits = MappingProxyType({"train": 5_285, "val": 5_050})
    folders = MappingProxyType({"train": "train", "val": "test"})
    pictures = "SUNRGBD/image/{split}"
    masks = "SUNRGBD/semseg-relabeled37/{split}"
    starts = ("img-", "00")


PARTS: tuple[type[Part], ...] = (
    ADE20KPart,
    BDDPart,
    CityscapesPart,
    COCOPart,
    IDDPart,
    MapillaryPart,
    SunRGBDPart,
)


class MSeg(Dataset):
    """MSeg's seven training sets one after the other, each repeated as the released configs do it.

    An item is (picture uint8 (3, H, W), mask uint8 (H, W) with 0 … 193 and 255), or the result of
    `transform` for the two. In the validation split every picture is there once.

    Attributes:
        classes: the names of the universal classes, from MSeg_master.tsv.
        parts: the seven data sets.

    Args:
        split: "train" or "val".
        folder: the folder mseg_dataset; by default it is found as those of other sets are.
        transform: called as transform(image, mask).

    Raises:
        ValueError: there is no such split.
        FileNotFoundError: one of the sets or the table is missing. One error names all of them.
    """

    name = "mseg"
    title = "MSeg"
    classes: tuple[str, ...] = ()
    num_classes = 194
    splits = MappingProxyType({"train": None, "val": None})
    licence: str | None = "those of its seven sets; MSeg's own labels are CC BY 4.0"
    leave_out: tuple[str, ...] = ()
    mseg: str | None = None
    script = SCRIPT
    kinds = PARTS
    drawn = False
    ignore_index = IGNORE

    def __init__(
        self,
        split: str = "train",
        folder: str | Path | None = None,
        *,
        transform: Callable | None = None,
    ) -> None:
        if split not in self.splits:
            raise ValueError(f"MSeg has the splits {', '.join(self.splits)}; got {split!r}")
        self.split = split
        self.classes = _universal(find_table()).classes
        missing = []
        for part in PARTS:
            try:
                part.find(folder, split)
            except FileNotFoundError as error:
                missing.append(f"{part.title} ({', '.join(part.parts(split))})")
                first = str(error)
        if missing:
            raise FileNotFoundError(
                f"{len(missing)} of MSeg's {len(PARTS)} sets are missing: {'; '.join(missing)}. "
                f"For the last one: {first}"
            )
        self.parts = [part(split, folder, transform=transform) for part in PARTS]
        self._items = [
            (number, index)
            for number, part in enumerate(self.parts)
            for _ in range(part.repeats if split == "train" else 1)
            for index in range(len(part))
        ]
        self.names = [
            f"{self.parts[number].name}/{self.parts[number].names[index]}"
            for number, index in self._items
        ]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        number, inner = self._items[index]
        return self.parts[number][inner]
