"""From a preset to its parts: data sets, palette, tokenizer, prior, and the assembled GSS with its weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch.utils.data import Dataset

from gss_lite.data.folders import CamVid
from gss_lite.data.scenes import ManyScenes, Scenes
from gss_lite.data.street.classes import FINE_CLASSES
from gss_lite.presets.parts import Preset

NUM_CLASSES = {
    "scenes": Scenes.num_classes,
    "camvid": CamVid.num_classes,
    "many-scenes": len(FINE_CLASSES),
}


def num_classes(preset: Preset) -> int:
    """K."""
    return preset.num_classes or NUM_CLASSES[preset.data]


def dataset_for(
    preset: Preset,
    split: str,
    *,
    folder: str | Path | None = None,
    transform: Callable | None = None,
) -> Dataset:
    """The preset's data set: split "train", "val" or "test"; `folder` says where a set that is on disk lies.

    Raises:
        ValueError: a folder was given, and the preset's pictures are drawn. Else as CamVid, Scenes
            and ManyScenes.
    """
    if preset.data == "camvid":
        return CamVid(split, folder, transform=transform)
    drawn = {"scenes": Scenes, "many-scenes": partial(ManyScenes, num_classes=num_classes(preset))}
    if preset.data not in drawn:
        raise ValueError(
            f"gss_lite has no loader yet for {preset.data}, which preset {preset.name} trains on; "
            f"it has those of camvid, {', '.join(drawn)}"
        )
    if folder is not None and not preset.photographs:  # those are in the folder, see train_vqvae
        raise ValueError(
            f"preset {preset.name} draws its pictures and reads none from {folder}; leave --data "
            "out, or choose --preset camvid"
        )
    length = preset.train_pictures if split == "train" else preset.eval_pictures
    return drawn[preset.data](
        length,
        split=split,
        seed=preset.seed,
        height=preset.size[0],
        width=preset.size[1],
        transform=transform,
    )
