"""Light on a composed street: day, dusk or fog, shadows, textures and camera noise."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from gss_lite.data.street import Street
from gss_lite.data.street.canvas import SUPERSAMPLE, Colour


class Light(NamedTuple):
    """Colours are factors from 0 to 1, RGB.

    `haze` is the density of the air per metre, `glow` the strength of lamps, and `noise` the
    camera's standard deviation on the scale 0–1.
    """

    ambient: Colour
    sun: Colour
    zenith: Colour
    horizon: Colour
    cloud: Colour
    haze: float
    glow: float
    noise: float


LIGHTS = {
    "day": Light(
        ambient=(0.70, 0.73, 0.78),
        sun=(0.48, 0.44, 0.37),
        zenith=(0.33, 0.54, 0.86),
        horizon=(0.78, 0.86, 0.94),
        cloud=(0.96, 0.96, 0.97),
        haze=0.003,
        glow=0.0,
        noise=0.016,
    ),
    "dusk": Light(
        ambient=(0.33, 0.31, 0.41),
        sun=(0.40, 0.23, 0.10),
        zenith=(0.17, 0.19, 0.40),
        horizon=(0.93, 0.55, 0.33),
        cloud=(0.60, 0.38, 0.42),
        haze=0.004,
        glow=1.0,
        noise=0.026,
    ),
    "fog": Light(
        ambient=(0.72, 0.73, 0.75),
        sun=(0.05, 0.05, 0.05),
        zenith=(0.74, 0.76, 0.78),
        horizon=(0.80, 0.81, 0.82),
        cloud=(0.78, 0.80, 0.81),
        haze=0.040,
        glow=0.35,
        noise=0.012,
    ),
}

_TILE, _TEXELS = 256, 4


def _texture() -> np.ndarray:
    """Make smooth noise of about ±1 that repeats every `_TILE` texels, equal for all scenes."""
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
    """Average each output pixel's samples: (2H, 2W, C) → (H, W, C)."""
    rows, columns, channels = values.shape
    pairs = values.reshape(rows // SUPERSAMPLE, SUPERSAMPLE, columns * channels)
    pairs = (pairs[:, 0] + pairs[:, 1]).reshape(-1, columns // SUPERSAMPLE, SUPERSAMPLE, channels)
    return (pairs[:, :, 0] + pairs[:, :, 1]) * 0.25


def _first_sample(values: np.ndarray) -> np.ndarray:
    """Take the first sample of every output pixel: (2H, 2W) → (H, W)."""
    return values[::SUPERSAMPLE, ::SUPERSAMPLE]


def illuminate(street: Street, light: Light) -> np.ndarray:
    """Colour the street under `light`; returns uint8 (H, W, 3)."""
    light = Light(*(np.asarray(value, np.float32) for value in light[:5]), *light[5:])
    canvas, index = street.canvas, street.surfaces.index
    sun = light.sun * street.sunny
    # On a dull day the sun gives less light and the clouds give more.
    ambient = light.ambient + (light.sun - sun) * 0.5
    direct = (np.asarray(canvas.facing, np.float32) + 1.0) * 0.5
    lit = np.asarray(canvas.rgb, np.float32) * (ambient + sun * (direct * 1.3)[:, None])
    glow = np.asarray(canvas.emit, np.float32) * light.glow
    colour = (lit + glow).take(index, axis=0)  # (2H, 2W, 3)
    colour *= street.surfaces.shade[..., None]
    _color_sky(street, light, colour)
    colour = _average(colour)  # (H, W, 3)

    # The nearest sample is used, because otherwise outlines would have specks in fog.
    samples = [street.surfaces.depth[i::2, j::2] for i in (0, 1) for j in (0, 1)]
    depth = np.minimum.reduce(samples)  # (H, W)
    strength = float((sun / (ambient + sun)).mean()) * 0.95 + 0.10
    colour *= _grain_and_shadow(street, strength)[..., None]

    air = np.exp(-light.haze * depth)[..., None]
    air[depth > 5e3] = 0.45 if light.haze > 0.01 else 1.0  # the sky
    colour = colour * air + light.horizon * (1 - air)
    if light.glow > 0:
        halo = np.clip(_average(glow.take(index, axis=0)) * air * 255, 0, 255).astype(np.uint8)
        blurred = Image.fromarray(halo).filter(ImageFilter.GaussianBlur(canvas.rows / 28))
        colour += np.asarray(blurred, np.float32) * (0.9 / 255)
    return _photograph(street, light, colour)


def _color_sky(street: Street, light: Light, colour: np.ndarray) -> None:
    """Fill the sky of `colour` (2H, 2W, 3) with a gradient and clouds, in place."""
    canvas, index = street.canvas, street.surfaces.index
    rows = np.arange(index.shape[0], dtype=np.float32)
    down = np.minimum((rows + 0.5) / canvas.scale / canvas.camera.vy, 1.0)[:, None] ** 1.3
    gradient = light.zenith * (1 - down) + light.horizon * down
    dull = 1.0 - street.sunny
    gradient = gradient * (1 - 0.6 * dull) + light.cloud * (0.6 * dull * 0.92)
    at = np.nonzero((index >= street.first_sky) & (index < street.first_sky + 4))
    density = street.surfaces.shade[at][:, None]
    cover = np.clip(0.4 + 1.2 * density, 0.0, 1.0) * 0.9
    sky = gradient[at[0]]
    cloud = light.cloud * (1.0 - 0.08 * np.clip(density - 0.5, 0, 1))
    colour[at] = sky + (cloud - sky) * cover


def _grain_and_shadow(street: Street, strength: float) -> np.ndarray:
    """Compute the brightness factor (H, W) of the surfaces' grain and of shadows on the ground."""
    canvas, surfaces = street.canvas, street.surfaces
    # A large multiple of the tile is added, so that truncation to int rounds down.
    u, v = (
        (_first_sample(t) * _TEXELS + 1024 * _TILE).astype(np.int32) & (_TILE - 1)
        for t in (surfaces.texture_u, surfaces.texture_v)
    )
    near = _first_sample(surfaces.index)
    factor = 1.0 + _TEXTURE[u, v] * np.asarray(canvas.rough, np.float32)[near]
    blurred = canvas.shadow.filter(ImageFilter.BoxBlur(canvas.rows / 160))
    shadow = np.asarray(blurred, np.float32) * (1 / 255)
    ground = (near >= street.first_ground) & (near < street.first_sky)
    return factor * (1.0 - strength * shadow * ground)


def _photograph(street: Street, light: Light, colour: np.ndarray) -> np.ndarray:
    """Add the camera's vignette, white balance, exposure and noise to `colour` (H, W, 3)."""
    height, width = colour.shape[:2]
    yy = (np.arange(height, dtype=np.float32) / height - 0.5)[:, None]
    xx = (np.arange(width, dtype=np.float32) / width - 0.5)[None, :]
    balance = np.asarray((1 + street.warmth, 1.0, 1 - street.warmth), np.float32) * street.exposure
    colour *= (1.0 - 0.35 * (xx * xx + yy * yy))[..., None] * balance
    colour += street.generator.standard_normal(colour.shape, dtype=np.float32) * light.noise
    return (np.clip(colour, 0.0, 1.0) * 255 + 0.5).astype(np.uint8)
