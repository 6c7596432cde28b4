"""Data sets by name: the one place that knows which there are.

Every data set holds pairs of a picture and a mask of class ids 0 … K−1, with 255 for pixels that do
not count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from torch.utils.data import Dataset

from gss_lite.data.folders import CORRUPT_TEST_FRAME, LICENCE, CamVid
from gss_lite.data.scenes import ManyScenes, Scenes
from gss_lite.data.transforms import eval_transform
from gss_lite.presets import DataSpec, Preset, get_preset, tokenizer_owner


@dataclass(frozen=True)
class DataSetEntry:
    """One row of the registry.

    Attributes:
        build: the class, or a function that makes a data set.
        drawn: whether the pictures are drawn by a program; the others lie on disk.
        licence: what who uses the data must keep to; None where there is nothing.
        leave_out: names of frames that are known to be broken; results are also given without.
    """

    build: Callable[..., Dataset]
    drawn: bool
    licence: str | None = None
    leave_out: tuple[str, ...] = ()


DATASETS: Mapping[str, DataSetEntry] = MappingProxyType(
    {
        "scenes": DataSetEntry(Scenes, drawn=True),
        "many-scenes": DataSetEntry(ManyScenes, drawn=True),
        "camvid": DataSetEntry(
            CamVid, drawn=False, licence=LICENCE, leave_out=(CORRUPT_TEST_FRAME,)
        ),
    }
)

NORMALIZED = eval_transform()


def create_dataset(
    preset: str | Preset,
    split: str = "train",
    *,
    folder: str | Path | None = None,
    transform: Callable | None = NORMALIZED,
) -> Dataset:
    """A preset's data set.

    Args:
        split: "train", "val" or "test".
        folder: where a set that is on disk lies; by default $GSS_DATA/NAME, then data/NAME.
        transform: called with (picture uint8 (3, H, W), mask uint8 (H, W)). By default items are
            (normalised image float (3, H, W), mask long (H, W)); None leaves them as they are.

    Raises:
        ValueError: there is no loader for the set, or a folder was given for pictures that are
            drawn. FileNotFoundError: the set is not on disk.
    """
    preset = get_preset(preset)
    spec = preset.data
    if spec.name not in DATASETS:
        raise ValueError(
            f"gss_lite has no loader yet for {spec.name}, which preset {preset.name} trains on; "
            f"it has those of {', '.join(DATASETS)}"
        )
    entry = DATASETS[spec.name]
    if not entry.drawn:
        return entry.build(split, folder, transform=transform)
    reads_photographs = tokenizer_owner(preset).tokenizer.photographs
    if folder is not None and not reads_photographs:  # those are in the folder
        raise ValueError(
            f"preset {preset.name} draws its pictures and reads none from {folder}; leave --data "
            "out, or choose --preset camvid"
        )
    return _draw(entry, spec, split, preset.seed, transform)


def _draw(
    entry: DataSetEntry, spec: DataSpec, split: str, seed: int, transform: Callable | None
) -> Dataset:
    more = {"num_classes": spec.num_classes} if entry.build is ManyScenes else {}
    return entry.build(
        spec.train_pictures if split == "train" else spec.eval_pictures,
        split=split,
        seed=seed,
        height=spec.size[0],
        width=spec.size[1],
        transform=transform,
        **more,
    )
