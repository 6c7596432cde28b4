"""CamVid with SegNet's split and 11 classes, from a folder.

Layout: {train,val,test}/*.png|jpg and {train,val,test}annot/*.png. The masks hold 0…10, and 11 for
    void, which becomes 255.
`python -m data_scripts.camvid` fetches the set; the folder is found by `find_camvid`.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.utils.data import Dataset
from torchvision import tv_tensors

CLASSES = (
    "Sky",
    "Building",
    "Pole",
    "Road",
    "Pavement",
    "Tree",
    "SignSymbol",
    "Fence",
    "Car",
    "Pedestrian",
    "Bicyclist",
)


SIZES = {"train": 367, "val": 101, "test": 233}


VOID = 11


LICENCE = "CC BY-NC 4.0 (research and teaching)"


# The mask of this test frame is shifted by about 87 pixels in the published set: report results
# with and without it.
CORRUPT_TEST_FRAME = "Seq05VD_f02610"


def find_camvid(folder: str | Path | None = None) -> Path:
    """The CamVid folder: the one given; or $GSS_DATA/camvid where GSS_DATA is set; or data/camvid; or ../shared/data/camvid.

    Raises:
        FileNotFoundError: none of them holds the set; says how to get it.
    """
    if folder is not None:
        places = [Path(folder)]
    else:
        here = Path(__file__).resolve().parents[2]
        places = [Path("data/camvid"), here / "data/camvid", here.parent / "shared/data/camvid"]
        if "GSS_DATA" in os.environ:
            places = [Path(os.environ["GSS_DATA"]) / "camvid"]
    for place in places:
        if (place / "train").is_dir() and (place / "trainannot").is_dir():
            return place
    raise FileNotFoundError(
        f"CamVid was not found in {', '.join(map(str, places))}. Run `python -m "
        "data_scripts.camvid` to download it into "
        "data/camvid, or set GSS_DATA to a folder that holds camvid/train, camvid/trainannot, …"
    )


def read_image(path: str | Path) -> tv_tensors.Image:
    """A picture file of any kind Pillow reads → uint8 (3, H, W), turned upright as its EXIF orientation says.

    16-bit grey is brought to 8 bits: v/257, so that 65535 becomes 255.

    Raises:
        FileNotFoundError: no such file. ValueError: not a readable picture, one of too many pixels,
            or one of 32-bit values.
    """
    with _opened(path, "picture", "a PNG or JPEG file") as picture:
        mode = picture.mode
        if mode not in {"I", "F"}:
            upright = ImageOps.exif_transpose(picture)
            deep = mode.startswith("I;16")
            values = np.array(upright if deep else upright.convert("RGB"))
    if mode in {"I", "F"}:
        raise ValueError(
            f"{path} holds 32-bit values (Pillow's mode {mode}), whose range nothing tells; save "
            "it with 8 or 16 bits"
        )
    if deep:
        values = np.stack([((values.astype(np.uint32) + 128) // 257).astype(np.uint8)] * 3, axis=-1)
    return tv_tensors.Image(torch.from_numpy(values).permute(2, 0, 1))


def read_mask(path: str | Path) -> tv_tensors.Mask:
    """A one-channel (grey or palette) PNG of ids → uint8 (H, W), ids as in the file.

    Raises:
        FileNotFoundError: no such file. ValueError: not a picture, or one with colour channels.
    """
    with _opened(path, "mask", "a PNG of class ids") as picture:
        ids = np.array(picture)
    if ids.ndim != 2 or ids.dtype != np.uint8:
        raise ValueError(
            f"{path} holds {ids.dtype} values of shape {ids.shape}; expected one channel of 8-bit "
            "class ids (a grey or palette PNG)"
        )
    return tv_tensors.Mask(torch.from_numpy(ids))


@contextmanager
def _opened(path: str | Path, kind: str, expected: str) -> Iterator[Image.Image]:
    """The opened file; whatever Pillow raises then and in the block becomes one FileNotFoundError or ValueError."""
    try:
        with Image.open(path) as picture:
            yield picture
    except (FileNotFoundError, IsADirectoryError) as error:
        raise FileNotFoundError(f"no {kind} file at {path}") from error
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{path} has too many pixels to be read safely ({error}); make it smaller first"
        ) from error
    # Pillow's for what is no picture, or a damaged one
    except (OSError, SyntaxError, struct.error) as error:
        raise ValueError(
            f"{path} is not a {kind} that can be read ({error}); expected {expected}"
        ) from error


class CamVid(Dataset):
    """(picture uint8 (3, 360, 480), mask uint8 (360, 480) with 0…10 and 255) pairs, in the order of their names.

    Args:
        split: "train" (367), "val" (101) or "test" (233).
        folder: see find_camvid.
        transform: applied to (image, mask) together.
    """

    classes, num_classes, ignore_index = CLASSES, len(CLASSES), 255

    def __init__(
        self,
        split: str = "train",
        folder: str | Path | None = None,
        *,
        transform: Callable | None = None,
    ) -> None:
        if split not in SIZES:
            raise ValueError(f"CamVid has the splits {', '.join(SIZES)}; got {split!r}")
        root = find_camvid(folder)
        pictures = sorted(
            p for p in (root / split).iterdir() if p.suffix.lower() in {".png", ".jpg", ".jpeg"}
        )
        self.pairs = [(p, root / f"{split}annot" / f"{p.stem}.png") for p in pictures]
        missing = [str(m) for _, m in self.pairs if not m.exists()]
        if missing or not self.pairs:
            raise FileNotFoundError(
                f"{root / split} holds {len(self.pairs)} pictures and {len(missing)} of their "
                "masks are missing"
                f"{f' (first: {missing[0]})' if missing else ''}; run `python -m "
                "data_scripts.camvid` to fetch the set again"
            )
        self.names = [picture.stem for picture in pictures]
        self.split, self.transform = split, transform

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        picture, annotation = self.pairs[index]
        image, ids = read_image(picture), read_mask(annotation)
        check_pair(image, ids, str(picture))
        wrong = ids > VOID
        if bool(wrong.any()):
            raise ValueError(
                f"{annotation} holds id {int(ids[wrong][0])}; CamVid's masks hold 0…10 and 11 for "
                "void"
            )
        mask = tv_tensors.Mask(torch.where(ids == VOID, torch.tensor(255, dtype=torch.uint8), ids))
        return self.transform(image, mask) if self.transform else (image, mask)


def check_pair(image: torch.Tensor, mask: torch.Tensor, name: str) -> None:
    """Raise ValueError unless picture (3, H, W) and mask (H, W) are of one size."""
    if image.shape[1:] != mask.shape:
        raise ValueError(
            f"{name}: the picture is {image.shape[2]}×{image.shape[1]} (width × height), its mask "
            f"{mask.shape[1]}×{mask.shape[0]}; "
            "they must be of one size"
        )
