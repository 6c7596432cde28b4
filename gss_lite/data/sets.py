"""The published data sets on disk: one row each, read by `MaskFolder`.

The layouts are those in which the sets are published. Class ids in files are mapped to 0 … K−1.
"""

from __future__ import annotations

from types import MappingProxyType

from gss_lite.contracts import IGNORE
from gss_lite.data.class_names import (
    ADE20K,
    CAMVID_COLORS,
    CAMVID_MSEG,
    CITYSCAPES,
    LABELMEFACADE,
    PASCAL_CONTEXT,
    PASCAL_CONTEXT_COLORED,
    SCANNET,
    SUNRGBD,
    VOC,
)
from gss_lite.data.folders import MaskFolder


def fixed_ids(*labels: int, ignored: tuple[int, ...] = (IGNORE,)) -> MappingProxyType:
    """Map the ids in files, in the order of the classes, to 0 … K−1; `ignored` ids become 255."""
    return MappingProxyType(
        {**dict.fromkeys(ignored, IGNORE), **{label: k for k, label in enumerate(labels)}}
    )


def own_ids(count: int) -> MappingProxyType:
    """Map ids that are already 0 … K−1 to themselves, and 255 to 255."""
    return fixed_ids(*range(count))


def voc_color(label: int) -> tuple[int, int, int]:
    """Return the colour of an id in Pascal VOC's map, which spreads its bits over R, G and B."""
    color = [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            color[channel] |= ((label >> (3 * bit + channel)) & 1) << (7 - bit)
    return tuple(color)


# Cityscapes' 34 ids, of which 19 are classes. KITTI and WildDash use the same.
CITYSCAPES_IDS = fixed_ids(
    *(7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33),
    ignored=(*range(34), IGNORE),
)


class ADE20K150(MaskFolder):
    """ADE20K's 150 classes (SceneParsing, ADEChallengeData2016)."""

    name = "ade20k"
    title = "ADE20K"
    classes = ADE20K
    ids = fixed_ids(*range(1, 151), ignored=(0, IGNORE))  # 0 is "other"
    splits = MappingProxyType({"train": 20_210, "val": 2_000})
    folders = MappingProxyType({"train": "training", "val": "validation"})
    pictures = "images/{split}"
    masks = "annotations/{split}"
    below = ("", "ADEChallengeData2016")
    script = "python -m data_scripts.ade20k"
    licence = "ADE20K's terms: pictures for non-commercial research and education, masks BSD-3"


class Cityscapes(MaskFolder):
    """Cityscapes with 19 classes, from its labelIds or, where these are absent, labelTrainIds."""

    name = "cityscapes"
    title = "Cityscapes"
    classes = CITYSCAPES
    ids = CITYSCAPES_IDS
    splits = MappingProxyType({"train": 2_975, "val": 500})
    pictures = "leftImg8bit/{split}"
    masks = "gtFine/{split}"
    picture_end = "_leftImg8bit"
    mask_end = "_gtFine_labelIds"
    variants = (MappingProxyType({"mask_end": "_gtFine_labelTrainIds", "ids": own_ids(19)}),)
    script = "python -m data_scripts.cityscapes"
    licence = "Cityscapes' terms: non-commercial"
    mseg = "wilddash-19"


class Kitti(MaskFolder):
    """KITTI's semantic benchmark: 200 street pictures with Cityscapes' classes."""

    name = "kitti"
    title = "KITTI"
    classes = CITYSCAPES
    ids = CITYSCAPES_IDS
    splits = MappingProxyType({"train": 200})
    folders = MappingProxyType({"train": "training"})
    pictures = "{split}/image_2"
    masks = "{split}/semantic"
    below = ("", "data_semantics")
    script = "python -m data_scripts.kitti"
    licence = "CC BY-NC-SA 3.0"
    mseg = "kitti-19"


class WildDash(MaskFolder):
    """The validation pictures of the first WildDash, with Cityscapes' classes."""

    name = "wilddash"
    title = "WildDash"
    classes = CITYSCAPES
    ids = CITYSCAPES_IDS
    splits = MappingProxyType({"val": 70})
    pictures = "wd_val_01"
    masks = "wd_val_01"
    picture_end = "_100000"
    mask_end = "_100000_labelIds"
    script = "python -m data_scripts.wilddash"
    licence = "WildDash's terms: CC BY-NC 4.0"
    mseg = "wilddash-19"


class PascalVOC(MaskFolder):
    """Pascal VOC 2012: palette masks of 21 classes, with 255 at the borders of objects."""

    name = "voc2012"
    title = "Pascal VOC 2012"
    classes = VOC
    ids = own_ids(21)
    splits = MappingProxyType({"train": 1_464, "val": 1_449})
    pictures = "JPEGImages"
    masks = "SegmentationClass"
    list_file = "ImageSets/Segmentation/{split}.txt"
    below = ("", "VOCdevkit/VOC2012", "VOC2012")
    script = "python -m data_scripts.voc2012"
    licence = "the pictures are Flickr's, under its terms of use"
    mseg = "voc2012"


class PascalContext(MaskFolder):
    """Pascal Context with 60 classes. Grey masks and coloured ones have different orders."""

    name = "pascal-context"
    title = "Pascal Context"
    classes = PASCAL_CONTEXT
    ids = own_ids(60)
    colors = MappingProxyType(
        {
            voc_color(label): PASCAL_CONTEXT.index(name)
            for label, name in enumerate(PASCAL_CONTEXT_COLORED)
        }
    )
    splits = MappingProxyType({"train": 4_998, "val": 5_105})
    pictures = "JPEGImages"
    masks = "SegmentationClassContext"
    list_file = "ImageSets/SegmentationContext/{split}.txt"
    below = ("", "VOCdevkit/VOC2010", "VOC2010")
    script = "python -m data_scripts.pascal_context"
    licence = "the pictures are Flickr's, under its terms of use"
    mseg = "pascal-context-60"


class ScanNet(MaskFolder):
    """ScanNet's 25,000 frames with the 20 classes of its benchmark (ids of NYU's 40 in files)."""

    name = "scannet"
    title = "ScanNet"
    classes = SCANNET
    ids = fixed_ids(
        *(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 24, 28, 33, 34, 36, 39),
        ignored=(*range(41), IGNORE),
    )
    splits = MappingProxyType({"train": None, "val": 5_436})
    pictures = "*/color"
    masks = "*/label"
    list_file = "scannetv2_{split}.txt"  # names of scenes
    below = ("", "scannet_frames_25k")
    script = "python -m data_scripts.scannet"
    licence = "ScanNet's terms of use: non-commercial research and education"
    mseg = "scannet-20"


class SunRGBD(MaskFolder):
    """SUN RGB-D with 37 classes, counted from 0; 255 is unlabelled."""

    name = "sunrgbd"
    title = "SUN RGB-D"
    classes = SUNRGBD
    ids = own_ids(37)
    splits = MappingProxyType({"train": 5_285, "test": 5_050})
    pictures = "images/{split}"
    masks = "labels37/{split}"
    script = "python -m data_scripts.sunrgbd"
    licence = "SUN RGB-D's terms: research"


class CamVid32(MaskFolder):
    """CamVid at 960 × 720 with the 31 classes of its coloured masks, in SegNet's split."""

    name = "camvid-32"
    title = "CamVid with its 32 colours"
    classes = tuple(CAMVID_COLORS)
    ids = own_ids(31)
    colors = MappingProxyType(
        {
            **{color: k for k, color in enumerate(CAMVID_COLORS.values())},
            (0, 0, 0): IGNORE,  # Void
        }
    )
    splits = MappingProxyType({"train": 367, "val": 101, "test": 233})
    pictures = "701_StillsRaw_full"
    masks = "LabeledApproved_full"
    mask_end = "_L"
    variants = (MappingProxyType({"masks": "Labels32-RGB"}),)
    script = "python -m data_scripts.camvid_32"
    licence = "CC BY-NC 4.0 (research and teaching)"

    def in_split(self, name: str) -> bool:
        """Tell SegNet's split by the drive and the number of a frame."""
        drive, _, number = name.rpartition("_")
        if drive == "0016E5" and "07959" <= number <= "08159":
            split = "val"
        elif drive == "Seq05VD" or (drive == "0001TP" and number >= "008550"):
            split = "test"
        else:
            split = "train"
        return split == self.split


class CamVidMSeg(CamVid32):
    """CamVid's pictures with MSeg's eleven classes in MSeg's order; other colours are ignored.

    These are not the eleven classes of SegNet, which also merges vans and buses into Car.
    """

    name = "camvid-mseg"
    title = "CamVid as in MSeg"
    classes = CAMVID_MSEG
    ids = own_ids(11)
    colors = MappingProxyType(
        {
            (0, 0, 0): IGNORE,
            **{
                color: CAMVID_MSEG.index(name) if name in CAMVID_MSEG else IGNORE
                for name, color in CAMVID_COLORS.items()
            },
        }
    )
    mseg = "camvid-11"
    place = CamVid32.name  # the files are the same


class LabelMeFacade(MaskFolder):
    """LabelMeFacade: 8 classes of street pictures, coarse and noisy."""

    name = "labelmefacade"
    title = "LabelMeFacade"
    classes = LABELMEFACADE
    ids = own_ids(8)
    colors = MappingProxyType(
        {
            (128, 0, 0): 0,
            (128, 0, 128): 1,
            (128, 128, 0): 2,
            (128, 128, 128): 3,
            (128, 64, 0): 4,
            (0, 128, 128): 5,
            (0, 128, 0): 6,
            (0, 0, 128): 7,
            (0, 0, 0): IGNORE,  # various
        }
    )
    splits = MappingProxyType({"train": 100, "test": 845})
    pictures = "images"
    masks = "labels"
    list_file = "{split}.txt"
    # A part of the test split, as ids.
    variants = (MappingProxyType({"masks": "masks", "list_file": None, "splits": {"test": None}}),)
    below = ("", "labelmefacade-master")
    script = "python -m data_scripts.labelmefacade"
    licence = "non-commercial research"


PUBLISHED: tuple[type[MaskFolder], ...] = (
    ADE20K150,
    Cityscapes,
    Kitti,
    WildDash,
    PascalVOC,
    PascalContext,
    ScanNet,
    SunRGBD,
    CamVid32,
    CamVidMSeg,
    LabelMeFacade,
)
