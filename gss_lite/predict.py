"""Segment one picture file: mask, maskige and overlay as PNG files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2

from gss_lite.data.camvid import read_image
from gss_lite.data.transforms import eval_transform
from gss_lite.gss import GSS
from gss_lite.inference import Scorer, painting_scorer
from gss_lite.palette import paint

OUTPUTS = ("mask", "maskige", "overlay")


def predict_file(
    gss: GSS,
    picture: Path,
    folder: Path,
    size: tuple[int, int],
    device: str | torch.device = "cpu",
    view: Callable[[Scorer], Scorer] | None = None,
) -> list[Path]:
    """Write NAME_mask.png (class ids), NAME_maskige.png (what the decoder painted) and NAME_overlay.png into `folder`.

    All three have the picture's own size. The model sees a picture whose short side is longer than
    that of `size`, the preset's (height, width), shrunk to it: it was trained on things of that
    size, and memory grows with the pixels. (A `view` that fits pictures into a size also enlarges
    small ones.)

    Args:
        view: how a preset evaluates, by sliding windows or at a certain size
            (`evaluation.view_of`); by default it is looked at whole.

    Raises:
        FileNotFoundError, ValueError: no such file, or not a picture.
    """
    image = read_image(picture)
    small = shrink(image, min(size))
    pixels, _ = eval_transform()(
        small, tv_tensors.Mask(torch.zeros(small.shape[1:], dtype=torch.uint8))
    )
    gss, pixels, colors = gss.to(device), pixels[None].to(device), gss.colors.cpu()
    if view:
        votes, maskige = view(painting_scorer(gss))(pixels).split([len(colors), 3], 1)
        mask = votes.argmax(1)
    else:
        result = gss.predict(pixels)
        # The maskige still has the padding to multiples of 32, at stride/4 times the pixels of the
        # padded picture.
        height, width = (side * gss.tokenizer.stride // 4 for side in small.shape[1:])
        mask, maskige = result.mask, result.maskige[:, :, :height, :width]
    ids, maskige = (
        v2.functional.resize(values.cpu(), list(image.shape[1:]), InterpolationMode.NEAREST_EXACT)
        for values in (mask.to(torch.uint8), maskige[0])
    )
    ids = ids[0]
    folder.mkdir(parents=True, exist_ok=True)
    # putpalette turns the grey picture into an indexed one: values stay class ids
    indexed = Image.fromarray(ids.numpy())
    indexed.putpalette((255 * colors).round().to(torch.uint8).flatten().tolist())
    paths = output_paths(picture, folder)
    for path, output in zip(
        paths, (indexed, to_pil(maskige), to_pil(overlay(image.float() / 255, ids.long(), colors)))
    ):
        output.save(path)
    return paths


def output_paths(picture: Path, folder: Path) -> list[Path]:
    """Where predict_file writes, in the order of OUTPUTS."""
    return [folder / f"{picture.stem}_{name}.png" for name in OUTPUTS]


def check_outputs(pictures: list[Path], folder: Path) -> None:
    """What must hold before anything is written.

    Raises:
        FileExistsError: `folder` is a file. ValueError: a result would overwrite another one, or a
            picture that is given.
    """
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
            owner[path] = picture


def shrink(image: Tensor, short: int) -> Tensor:
    """Picture (3, H, W) → the same with its short side `short` pixels long, or as it is where that would enlarge it."""
    least = min(image.shape[1:])
    if least <= short:
        return image
    return v2.functional.resize(
        image, [round(side * short / least) for side in image.shape[1:]], antialias=True
    )


def overlay(image: Tensor, mask: Tensor, colors: Tensor, strength: float = 0.55) -> Tensor:
    """Picture (3, H, W) in [0, 1] with the painted mask (H, W) laid over it; ignored pixels keep the picture."""
    painted = torch.where(mask == 255, image, paint(mask, colors))
    return (1 - strength) * image + strength * painted


def to_pil(picture: Tensor) -> Image.Image:
    """(3, H, W) in [0, 1] → an 8-bit PIL picture."""
    return Image.fromarray(
        (255 * picture.clamp(0, 1)).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    )
