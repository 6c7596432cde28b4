"""Segment one picture file: mask, maskige and overlay as PNG files."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors

from gss_lite.data.camvid import read_image
from gss_lite.data.transforms import eval_transform
from gss_lite.gss import GSS
from gss_lite.palette import paint


def predict_file(gss: GSS, picture: Path, folder: Path) -> list[Path]:
    """Write NAME_mask.png (class ids), NAME_maskige.png (what the decoder painted) and NAME_overlay.png into `folder`.

    Raises:
        FileNotFoundError, ValueError: no such file, or not a picture.
    """
    image = read_image(picture)
    pixels, _ = eval_transform()(image, tv_tensors.Mask(torch.zeros(image.shape[1:], dtype=torch.uint8)))
    result = gss.predict(pixels[None])
    ids = result.mask[0].to(torch.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    indexed = Image.fromarray(ids.numpy())  # putpalette turns the grey picture into an indexed one: values stay class ids
    indexed.putpalette((255 * gss.colors).round().to(torch.uint8).flatten().tolist())
    outputs = {
        "mask": indexed,
        "maskige": to_pil(result.maskige[0]),
        "overlay": to_pil(overlay(image.float() / 255, ids.long(), gss.colors)),
    }
    paths = []
    for name, output in outputs.items():
        paths.append(folder / f"{picture.stem}_{name}.png")
        output.save(paths[-1])
    return paths


def overlay(image: Tensor, mask: Tensor, colors: Tensor, strength: float = 0.55) -> Tensor:
    """Picture (3, H, W) in [0, 1] with the painted mask (H, W) laid over it; ignored pixels keep the picture."""
    painted = torch.where(mask == 255, image, paint(mask, colors))
    return (1 - strength) * image + strength * painted


def to_pil(picture: Tensor) -> Image.Image:
    """(3, H, W) in [0, 1] → an 8-bit PIL picture."""
    return Image.fromarray((255 * picture.clamp(0, 1)).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy())
