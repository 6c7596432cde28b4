"""Segment picture files, and write the mask, the maskige and an overlay as PNG files."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

import torch
from PIL import Image, PngImagePlugin
from torch import Tensor

from gss_lite.baselines.uvim import UViM
from gss_lite.contracts import IGNORE
from gss_lite.data.pictures import read_image
from gss_lite.gss import GSS
from gss_lite.palette import paint
from gss_lite.storage import check_replaceable, replace_file

OUTPUTS = ("mask", "maskige", "overlay")
MADE_BY = "gss_lite predict"  # a note in every file that is written here, see `is_ours`


def predict_file(model: GSS | UViM, picture: Path, folder: Path) -> list[Path]:
    """Write NAME_mask.png (class ids), NAME_maskige.png and NAME_overlay.png into `folder`.

    All three have the picture's own size. UViM has no maskige.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no picture.
    """
    image = read_image(picture)  # (3, H, W)
    found = model.segment(image)
    ids = found.mask.to(torch.uint8).cpu()  # (H, W)
    colors = model.colors.cpu()
    indexed = Image.fromarray(ids.numpy())
    # putpalette turns the grey picture into an indexed one. Its values stay class ids.
    indexed.putpalette((255 * colors).round().to(torch.uint8).flatten().tolist())
    laid_over = overlay(image.float() / 255, ids.long(), colors)
    pictures = [indexed, to_pil(laid_over)]
    paths = output_paths(picture, folder)
    if isinstance(model, UViM):
        paths = [paths[OUTPUTS.index(name)] for name in ("mask", "overlay")]
    else:
        pictures.insert(1, to_pil(found.maskige))
    for path, output in zip(paths, pictures):
        note = PngImagePlugin.PngInfo()
        note.add_text("Software", _signature(output))
        replace_file(path, partial(output.save, format="png", pnginfo=note))
    return paths


def output_paths(picture: Path, folder: Path) -> list[Path]:
    """Return the paths of `predict_file`, in the order of OUTPUTS."""
    return [folder / f"{picture.stem}_{name}.png" for name in OUTPUTS]


def check_outputs(pictures: list[Path], folder: Path, overwrite: bool = False) -> None:
    """Check that all pictures can be read and no file is lost, before anything is written.

    Args:
        overwrite: also replace files that `predict` did not make.

    Raises:
        FileNotFoundError: a picture is missing.
        FileExistsError: `folder` is a file, or a result would replace a file of another origin.
        ValueError: a result would overwrite another result, or one of the pictures.
        OSError: a result would replace a folder or a device.
    """
    for picture in pictures:
        if not picture.is_file():
            raise FileNotFoundError(f"no picture file at {picture}; nothing is segmented")
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; results need a folder, as --out predictions")
    given = {picture.resolve(): picture for picture in pictures}
    owner: dict[Path, Path] = {}
    for picture in pictures:
        for path in output_paths(picture, folder):
            if path in owner:
                raise ValueError(
                    f"{owner[path]} and {picture} would both be written to {path}; rename one, or "
                    "choose another --out for it"
                )
            if path.resolve() in given:
                raise ValueError(
                    f"the result {path} of {picture} would overwrite {given[path.resolve()]}, a "
                    "picture to segment; choose another --out"
                )
            if path.exists() and not overwrite and not is_ours(path):
                raise FileExistsError(
                    f"{path} is there and was not made by this command; choose another --out, "
                    "or give --overwrite to replace it"
                )
            check_replaceable(path)
            owner[path] = picture


def is_ours(path: Path) -> bool:
    """Whether `predict_file` wrote the file and nobody has edited it since."""
    try:
        with Image.open(path) as picture:
            return picture.info.get("Software") == _signature(picture)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


def _signature(picture: Image.Image) -> str:
    """Make the note in a result: the program's name, and a hash of the pixels."""
    return f"{MADE_BY} {hashlib.sha256(picture.tobytes()).hexdigest()[:16]}"


def overlay(image: Tensor, mask: Tensor, colors: Tensor, strength: float = 0.55) -> Tensor:
    """Lay the painted mask (H, W) over a picture (3, H, W) in [0, 1] → (3, H, W).

    Ignored pixels show the picture alone.
    """
    painted = torch.where(mask == IGNORE, image, paint(mask, colors))  # (3, H, W)
    return (1 - strength) * image + strength * painted


def to_pil(picture: Tensor) -> Image.Image:
    """Convert a picture (3, H, W) in [0, 1] to PIL with 8 bits a channel."""
    levels = (255 * picture.clamp(0, 1)).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).cpu().numpy())
