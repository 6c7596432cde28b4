"""Lights a composed street: day, dusk or fog, shadows, textures, and what a camera adds (exposure, vignette, noise)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from gss_lite.data.street import Street
from gss_lite.data.street.canvas import SUPERSAMPLE
from gss_lite.data.street.surfaces import halve


@dataclass(frozen=True)
class Light:
    """Colours are linear factors (0–1 RGB); `haze` is the density of the air per metre; `noise` a standard deviation (0–1)."""

    ambient: tuple[float, float, float]
    sun: tuple[float, float, float]
    zenith: tuple[float, float, float]
    horizon: tuple[float, float, float]
    cloud: tuple[float, float, float]
    haze: float
    glow: float
    noise: float


LIGHTS = {
    "day": Light(
        (0.70, 0.73, 0.78),
        (0.48, 0.44, 0.37),
        (0.33, 0.54, 0.86),
        (0.78, 0.86, 0.94),
        (0.96, 0.96, 0.97),
        0.003,
        0.0,
        0.016,
    ),
    "dusk": Light(
        (0.33, 0.31, 0.41),
        (0.40, 0.23, 0.10),
        (0.17, 0.19, 0.40),
        (0.93, 0.55, 0.33),
        (0.60, 0.38, 0.42),
        0.004,
        1.0,
        0.026,
    ),
    "fog": Light(
        (0.72, 0.73, 0.75),
        (0.05, 0.05, 0.05),
        (0.74, 0.76, 0.78),
        (0.80, 0.81, 0.82),
        (0.78, 0.80, 0.81),
        0.040,
        0.35,
        0.012,
    ),
}


_TILE, _TEXELS = 256, 4


def _texture() -> np.ndarray:
    """Smooth noise that repeats every `_TILE` texels, `_TEXELS` to the unit; the same for every scene. Values about ±1."""
    generator = np.random.Generator(np.random.PCG64(1))
    total = np.zeros((_TILE, _TILE), np.float32)
    for cells, weight in ((16, 0.9), (64, 1.0), (256, 0.5)):
        coarse = np.pad(generator.random((cells, cells), dtype=np.float32) - 0.5, 2, mode="wrap")
        texels = _TILE // cells
        size = (cells + 4) * texels
        fine = np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))
        margin = 2 * texels
        total += weight * fine[margin : margin + _TILE, margin : margin + _TILE]
    return total


_TEXTURE = _texture()


def _average(values: np.ndarray) -> np.ndarray:
    """Mean of each output pixel's samples: (2H, 2W, C) → (H, W, C)."""
    rows, columns, channels = values.shape
    pairs = values.reshape(rows // SUPERSAMPLE, SUPERSAMPLE, columns * channels)
    pairs = (pairs[:, 0] + pairs[:, 1]).reshape(-1, columns // SUPERSAMPLE, SUPERSAMPLE, channels)
    return (pairs[:, :, 0] + pairs[:, :, 1]) * 0.25


def picture(street: Street, light: Light) -> np.ndarray:
    """Colour the street under `light`; returns uint8 (H, W, 3)."""
    canvas, surfaces = street.canvas, street.surfaces
    index = surfaces.index
    rgb = np.asarray(canvas.rgb, np.float32)
    ambient, sun = (
        np.asarray(light.ambient, np.float32),
        np.asarray(light.sun, np.float32) * street.sunny,
    )
    # What the sun does not give on a dull day, the bright cloud cover does.
    ambient = ambient + (np.asarray(light.sun, np.float32) - sun) * 0.5
    direct = (np.asarray(canvas.facing, np.float32) + 1.0) * 0.5
    lit = rgb * (ambient + sun * (direct * 1.3)[:, None])
    glow = np.asarray(canvas.emit, np.float32) * light.glow
    colour = (lit + glow).take(index, axis=0)
    colour *= surfaces.shade[..., None]

    rows = index.shape[0]
    y = np.minimum(
        (np.arange(rows, dtype=np.float32) + 0.5) / canvas.scale / canvas.camera.vy, 1.0
    )[:, None]
    gradient = (
        np.asarray(light.zenith, np.float32) * (1 - y**1.3)
        + np.asarray(light.horizon, np.float32) * y**1.3
    )
    dull = 1.0 - street.sunny
    grey = np.asarray(light.cloud, np.float32)
    gradient = gradient * (1 - 0.6 * dull) + grey * (0.6 * dull * 0.92)
    at = np.nonzero((index >= street.first_sky) & (index < street.first_sky + 4))
    density = surfaces.shade[at][:, None]
    cover = np.clip(0.4 + 1.2 * density, 0.0, 1.0) * 0.9
    sky = gradient[at[0]]
    colour[at] = sky + (grey * (1.0 - 0.08 * np.clip(density - 0.5, 0, 1)) - sky) * cover

    colour = _average(colour)
    near = halve(index)
    # Adding a large multiple of the tile keeps the truncation to int a floor.
    u, v = (
        (halve(t) * _TEXELS + 1024 * _TILE).astype(np.int32) & (_TILE - 1)
        for t in (surfaces.texture_u, surfaces.texture_v)
    )
    grain = _TEXTURE[u, v]
    rough = np.asarray(canvas.rough, np.float32)[near]
    # The nearest sample decides, or the far side of an outline would speckle in fog.
    depth = np.minimum.reduce([surfaces.depth[i::2, j::2] for i in (0, 1) for j in (0, 1)])
    factor = 1.0 + grain * rough
    ground = (near >= street.first_ground) & (near < street.first_sky)
    shadow = np.asarray(
        canvas.shadow.filter(ImageFilter.BoxBlur(canvas.rows / 160)), np.float32
    ) * (1 / 255)
    strength = float((sun / (ambient + sun)).mean()) * 0.95 + 0.10
    factor *= 1.0 - strength * shadow * ground
    colour *= factor[..., None]

    air = np.exp(-light.haze * depth)[..., None]
    horizon = np.asarray(light.horizon, np.float32)
    is_sky = depth > 5e3
    air[is_sky] = 0.45 if light.haze > 0.01 else 1.0
    colour = colour * air + horizon * (1 - air)
    if light.glow > 0:
        halo = np.clip(_average(glow.take(index, axis=0)) * air * 255, 0, 255).astype(np.uint8)
        blurred = Image.fromarray(halo).filter(ImageFilter.GaussianBlur(canvas.rows / 28))
        colour += np.asarray(blurred, np.float32) * (0.9 / 255)

    height, width = colour.shape[:2]
    yy = (np.arange(height, dtype=np.float32) / height - 0.5)[:, None]
    xx = (np.arange(width, dtype=np.float32) / width - 0.5)[None, :]
    balance = np.asarray((1 + street.warmth, 1.0, 1 - street.warmth), np.float32) * street.exposure
    colour *= (1.0 - 0.35 * (xx * xx + yy * yy))[..., None] * balance
    colour += street.generator.standard_normal(colour.shape, dtype=np.float32) * light.noise
    return (np.clip(colour, 0.0, 1.0) * 255 + 0.5).astype(np.uint8)
