"""Small trees of files in the layouts in which data sets are published."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gss_lite.data.checks import split_at_star

ROOT = Path(__file__).resolve().parents[2]


def shared(name: str) -> Path:
    """A folder of real data beside the repository (or in $GSS_DATA), or a skip."""
    roots = [os.environ["GSS_DATA"]] if os.environ.get("GSS_DATA") else []
    for root in (*roots, ROOT / "data", ROOT.parent / "shared" / "data"):
        if (Path(root) / name).exists():
            return Path(root) / name
    pytest.skip(f"needs the folder {name}, in ../shared/data or below $GSS_DATA")


def paths(kind, split: str, names, root: Path):
    """The picture and the mask of each frame, in the layout of a set."""
    for name in names:
        found = []
        for pattern, start, end, suffix in zip(
            kind.parts(split), kind.starts, (kind.picture_end, kind.mask_end), (".jpg", ".png")
        ):
            base, inner = split_at_star(Path(pattern))
            frame = Path(name)
            folder = root / base / frame.parent / inner if inner else root / base / frame.parent
            found.append(folder / f"{start}{frame.name}{end}{suffix}")
        yield found


def list_frames(kind, split: str, names, root: Path) -> None:
    """Write the list of a split, if the set has lists."""
    if kind.list_file:
        path = root / kind.list_file.format(split=split)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(dict.fromkeys(name.split("/")[0] for name in names)) + "\n")


def plant(kind, root: Path, split: str, frames: dict[str, np.ndarray]) -> Path:
    """Write frames: name → ids (H, W) or colours (H, W, 3) of the mask file."""
    for (picture, mask), values in zip(paths(kind, split, frames, root), frames.values()):
        picture.parent.mkdir(parents=True, exist_ok=True)
        mask.parent.mkdir(parents=True, exist_ok=True)
        values = np.asarray(values, np.uint8)
        Image.new("RGB", values.shape[1::-1], (90, 120, 30)).save(picture)
        Image.fromarray(values).save(mask)
    list_frames(kind, split, frames, root)
    return root


def replant(kind, root: Path, split: str, source: Path) -> Path:
    """Copy the files of a folder images/ and masks/ into the layout of a set."""
    names = [path.stem for path in sorted((source / "masks").glob("*.png"))]
    for name, (picture, mask) in zip(names, paths(kind, split, names, root)):
        picture.parent.mkdir(parents=True, exist_ok=True)
        mask.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / "images" / f"{name}.jpg", picture)
        shutil.copy(source / "masks" / f"{name}.png", mask)
    list_frames(kind, split, names, root)
    return root


def histogram(mask) -> dict[int, int]:
    """Id → number of pixels."""
    ids, counts = np.unique(np.asarray(mask), return_counts=True)
    return dict(zip(ids.tolist(), counts.tolist()))
