"""Data sets by name.

Every item of a data set is a picture and a mask of class ids 0 … K−1, with 255 for pixels to
ignore. The class of a set describes it: `.classes`, `.licence`, `.leave_out`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch.utils.data import Dataset

from gss_lite.data.choice import number_of_classes, with_data
from gss_lite.data.folders import CamVid
from gss_lite.data.masks import load_masks, near_borders, tiles
from gss_lite.data.mseg import MSeg
from gss_lite.data.own import ClassList, OwnFolder
from gss_lite.data.pictures import read_image
from gss_lite.data.registry import DATASETS
from gss_lite.data.scenes import ManyScenes, Scenes, render_fine
from gss_lite.data.taxonomy import LabelMap, Relabeled, Taxonomy
from gss_lite.data.transforms import (
    InMemory,
    SeededAugmentation,
    denormalize,
    eval_transform,
    train_transform,
)
from gss_lite.presets import Preset, get_preset, tokenizer_owner

__all__ = [
    "DATASETS",
    "CamVid",
    "ClassList",
    "InMemory",
    "LabelMap",
    "MSeg",
    "ManyScenes",
    "OwnFolder",
    "Relabeled",
    "Scenes",
    "SeededAugmentation",
    "Taxonomy",
    "create_dataset",
    "denormalize",
    "eval_transform",
    "load_masks",
    "near_borders",
    "read_image",
    "render_fine",
    "tiles",
    "train_transform",
    "with_data",
]

NORMALIZED = eval_transform()


def create_dataset(
    preset: str | Preset,
    split: str = "train",
    *,
    folder: str | Path | None = None,
    transform: Callable | None = NORMALIZED,
) -> Dataset:
    """Make the data set of a preset.

    Args:
        preset: a preset or its name.
        split: "train", "val" or "test".
        folder: where a set on disk lies, see `MaskFolder.find`.
        transform: called as transform(picture uint8 (3, H, W), mask uint8 (H, W)). By default an
            item is (normalised picture float32 (3, H, W), mask int64 (H, W)); None returns items
            unchanged.

    Raises:
        ValueError: there is no such set, it has another number of classes, or a folder was given
            for pictures that are drawn.
        FileNotFoundError: the set is not on disk.
    """
    preset = get_preset(preset)
    spec = preset.data
    if spec.name == OwnFolder.name:
        return OwnFolder(split, folder, spec.class_list or None, transform=transform)
    if spec.name not in DATASETS:
        raise ValueError(
            f"there is no data set {spec.name}, which preset {preset.name} names; there are: "
            f"{', '.join(DATASETS)}"
        )
    kind = DATASETS[spec.name]
    if kind is not ManyScenes and spec.num_classes != number_of_classes(spec.name):
        raise ValueError(
            f"preset {preset.name} is for {spec.num_classes} classes, and {spec.name} has "
            f"{number_of_classes(spec.name)}; correct num_classes in its data"
        )
    if not kind.drawn:
        return kind(split, folder, transform=transform)
    # The folder may hold a tokenizer's photographs although the preset's own pictures are drawn.
    if folder is not None and not tokenizer_owner(preset).tokenizer.photographs:
        raise ValueError(
            f"preset {preset.name} draws its pictures and reads none from {folder}; leave --data "
            "out, or choose --preset camvid. For your own pictures, give --classes FILE too"
        )
    height, width = spec.size
    return kind(
        spec.train_pictures if split == "train" else spec.eval_pictures,
        split=split,
        seed=preset.seed,
        height=height,
        width=width,
        transform=transform,
        **({"num_classes": spec.num_classes} if kind is ManyScenes else {}),
    )
