"""Read single picture and mask files. Every fault is one error that names the file."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors

_ORIENTATION = 0x0112  # the EXIF tag
# Value of the tag → the operation that turns the picture upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(path: str | Path) -> tv_tensors.Image:
    """Read a picture file → uint8 (3, H, W), turned upright as its EXIF orientation says.

    Grey pictures of 16 bits are converted to 8. If their values use only 8, 10, 12 or 14 bits, that
    range is scaled to 8 bits, with a warning.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no readable picture, has too many pixels, or holds 32-bit values.
        MemoryError: the picture is too large for the free memory.
    """
    with opened(path, "picture", "a PNG or JPEG file") as (picture, deep):
        mode = picture.mode
        grey = deep and mode.startswith("I")
        values = np.array(picture if mode in {"I", "F"} or grey else picture.convert("RGB"))
    if mode in {"I", "F"} and not grey:
        raise ValueError(
            f"{path} holds 32-bit values (Pillow's mode {mode}) of unknown range; save it with 8 "
            "or 16 bits"
        )
    if grey:
        values = _to_eight_bits(values, path)  # (H, W)
        values = np.repeat(values[..., None], 3, axis=2)  # (H, W, 3)
    elif deep and values.max() < 64:  # Pillow keeps the upper 8 of 16 bits a colour
        warnings.warn(
            f"{path} has colours of 16 bits and uses a quarter of their range or less, so it "
            "looks nearly black; save it with 8 bits",
            stacklevel=2,
        )
    return tv_tensors.Image(torch.from_numpy(values).permute(2, 0, 1))


def _to_eight_bits(values: np.ndarray, path: str | Path) -> np.ndarray:
    """Scale values of 16 bits to 8 bits, by the number of bits that they use."""
    largest = int(values.max())
    bits = next(bits for bits in (8, 10, 12, 14, 16) if largest < 2**bits)
    if bits < 16 and largest:
        warnings.warn(
            f"{path} holds 16-bit values up to {largest} only; they are read as {bits}-bit values",
            stacklevel=3,
        )
    top = 2**bits - 1
    return ((values.astype(np.uint32) * 255 + top // 2) // top).astype(np.uint8)


def read_mask(
    path: str | Path, colors: Mapping[tuple[int, int, int], int] | None = None
) -> tv_tensors.Mask:
    """Read a PNG of ids → uint8 (H, W), ids as in the file.

    It is turned upright as its EXIF orientation says, like a picture.

    Args:
        path: a grey or palette PNG of ids. With `colors`, also an RGB one.
        colors: RGB colour (0 … 255) → id, for masks that show a class by its colour.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no picture, or has colour channels and no `colors` are given, or
            one of its colours is unknown.
        MemoryError: the mask is too large for the free memory.
    """
    with opened(path, "mask", "a PNG of class ids") as (picture, _):
        ids = np.array(picture.convert("RGB") if colors and picture.mode == "RGBA" else picture)
    if colors and ids.ndim == 3 and ids.dtype == np.uint8:
        ids = _ids_of_colors(ids, colors, path)  # (H, W)
    if ids.ndim != 2 or ids.dtype != np.uint8:
        raise ValueError(
            f"{path} holds {ids.dtype} values of shape {ids.shape}; expected one channel of 8-bit "
            "class ids (a grey or palette PNG)"
        )
    return tv_tensors.Mask(torch.from_numpy(ids))


def _ids_of_colors(
    pixels: np.ndarray, colors: Mapping[tuple[int, int, int], int], path: str | Path
) -> np.ndarray:
    """Colours (H, W, 3) uint8 → ids (H, W) uint8."""
    red, green, blue = (pixels[..., k].astype(np.int32) for k in range(3))
    codes = (red << 16) | (green << 8) | blue  # (H, W)
    known = np.array(sorted((r << 16) | (g << 8) | b for r, g, b in colors))
    id_of = {(r << 16) | (g << 8) | b: k for (r, g, b), k in colors.items()}
    at = np.searchsorted(known, codes).clip(max=len(known) - 1)  # (H, W)
    unknown = known[at] != codes
    if unknown.any():
        color = tuple(pixels[unknown][0].tolist())
        raise ValueError(
            f"{path} holds the colour {color} in {int(unknown.sum())} pixels, which is no class's; "
            "expected a mask in the set's own colours"
        )
    return np.array([id_of[code] for code in known.tolist()], np.uint8)[at]


@contextmanager
def opened(path: str | Path, kind: str, expected: str) -> Iterator[tuple[Image.Image, bool]]:
    """Open a file → the upright picture, and whether the file holds 16 bits a value.

    Every error raised inside becomes an error that names the file.
    """
    try:
        with Image.open(path) as picture:
            deep = ";16" in str(picture.tile)
            picture.load()
            yield _upright(picture), deep
    except (FileNotFoundError, IsADirectoryError) as error:
        raise FileNotFoundError(f"no {kind} file at {path}") from error
    except MemoryError as error:
        raise MemoryError(
            f"{path} is too large for the memory that is left; make it smaller first"
        ) from error
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{path} has too many pixels to be read safely ({error}); make it smaller first"
        ) from error
    except Exception as error:  # Pillow's decoders raise a dozen types for damage
        raise ValueError(
            f"{path} is not a {kind} that can be read ({error}); expected {expected}"
        ) from error


def _upright(picture: Image.Image) -> Image.Image:
    """Turn a picture as its EXIF orientation says; damaged metadata are ignored."""
    try:
        turn = _TURNS.get(picture.getexif().get(_ORIENTATION))
    except Exception:  # the pixels may be intact although the metadata are damaged
        turn = None
    return picture if turn is None else picture.transpose(turn)


def check_pair(image: torch.Tensor, mask: torch.Tensor, name: str) -> None:
    """Raise ValueError unless picture (3, H, W) and mask (H, W) have the same size."""
    if image.shape[1:] != mask.shape:
        raise ValueError(
            f"{name}: the picture is {image.shape[2]}×{image.shape[1]} (width × height), its mask "
            f"{mask.shape[1]}×{mask.shape[0]}; they must be of one size"
        )
