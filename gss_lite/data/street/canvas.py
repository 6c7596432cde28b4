"""The drawing surface of the street generator: a pinhole camera and a buffer of material numbers.

Each shape is drawn once, with the number of its *material*. Colour, light, depth and class are
columns of the material table, looked up afterwards; picture and mask therefore agree to the pixel
by construction (deferred shading). Lengths are metres: X right, Y up from the road, Z ahead.
Picture coordinates are fractions of the picture's height.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from gss_lite.data.street.classes import FINE_ID

SUPERSAMPLE = 2
"""Buffer samples per output pixel, along each axis; the vote over the mask and the averaging count on two."""


GROUND, SKY = 0, 1
"""Materials of pixels that no shape covers; `_street_surfaces` refines them."""


FACADE_SLOTS = 7
"""Consecutive materials of a wall: upper wall, ground floor, window, door, shop window, trim, window lit at dusk."""


Colour = Sequence[float]


class Dice:
    """Uniform random numbers handed out one at a time (much cheaper than scalar calls of a Generator)."""

    def __init__(self, generator: np.random.Generator) -> None:
        self._generator = generator
        self._values: list[float] = []

    def __call__(self, low: float = 0.0, high: float = 1.0) -> float:
        if not self._values:
            self._values = self._generator.random(1024).tolist()
        return low + (high - low) * self._values.pop()

    def chance(self, probability: float) -> bool:
        return self() < probability

    def below(self, n: int) -> int:
        return int(self() * n)

    def pick(self, options: Sequence):
        return options[int(self() * len(options))]

    def tint(self, colour: Colour, spread: float = 0.06) -> tuple[float, float, float]:
        """A colour (0–1) near `colour`: common brightness change plus a smaller change per channel."""
        gain = 1.0 + self(-2.0, 2.0) * spread
        return tuple(min(1.0, max(0.0, c * gain + self(-spread, spread) * 0.4)) for c in colour)


class Camera:
    """Pinhole camera at height `height` m; vanishing point (`vx`, `vy`) in picture heights, `vx` from the middle column."""

    def __init__(self, height: float, focal: float, vx: float, vy: float) -> None:
        self.height, self.focal, self.vx, self.vy = height, focal, vx, vy


class Canvas:
    """Material-number buffer of `rows` × `columns` output pixels, supersampled, with its material table."""

    def __init__(self, rows: int, columns: int, camera: Camera) -> None:
        self.rows, self.columns, self.camera = rows, columns, camera
        self.scale = rows * SUPERSAMPLE
        self.middle = columns * SUPERSAMPLE / 2
        size = (columns * SUPERSAMPLE, rows * SUPERSAMPLE)
        self.image = Image.new("I", size, SKY)
        self._draw = ImageDraw.Draw(self.image)
        self._draw.rectangle((0, camera.vy * self.scale, *size), fill=GROUND)
        self.shadow = Image.new("L", (columns, rows), 0)
        self._shadow_draw = ImageDraw.Draw(self.shadow)
        self.sun = (0.0, 0.0)
        self.rgb: list[Colour] = []
        self.emit: list[Colour] = []
        self.facing: list[float] = []
        self.depth: list[float] = []
        self.rough: list[float] = []
        self.fine: list[int] = []
        self.wall: list[int] = []
        self.walls: list[tuple[float, ...]] = []
        self.material("void", (0, 0, 0), 1e4)
        self.material("high sky", (0, 0, 0), 1e4)

    def material(
        self,
        fine: str,
        rgb: Colour,
        depth: float,
        facing: float = 0.0,
        rough: float = 0.06,
        emit: Colour = (0.0, 0.0, 0.0),
        wall: int = -1,
    ) -> int:
        """Register a material and return its number. `facing` is −1 (away from the sun) … 1; `emit` glows at dusk."""
        self.rgb.append(rgb)
        self.emit.append(emit)
        self.facing.append(facing)
        self.depth.append(depth)
        self.rough.append(rough)
        self.fine.append(FINE_ID[fine])
        self.wall.append(wall)
        return len(self.rgb) - 1

    def twin(self, material: int, facing: float, wall: int) -> int:
        """Register a copy of a material that faces another way, for the wall number `wall`."""
        for column in (self.rgb, self.emit, self.depth, self.rough, self.fine):
            column.append(column[material])
        self.facing.append(facing)
        self.wall.append(wall)
        return len(self.rgb) - 1

    def project(self, x: float, y: float, z: float) -> tuple[float, float]:
        """World point (m) → buffer pixel (column, row)."""
        camera = self.camera
        ratio = camera.focal / z
        return (
            self.middle + (camera.vx + ratio * x) * self.scale,
            (camera.vy - ratio * (y - camera.height)) * self.scale,
        )

    def quad(self, points: Sequence[tuple[float, float, float]], material: int) -> None:
        """Fill the polygon through world points."""
        self._draw.polygon([self.project(*point) for point in points], fill=material)

    def polygon(self, points: Sequence[tuple[float, float]], material: int) -> None:
        """Fill the polygon through buffer pixels."""
        self._draw.polygon(points, fill=material)

    def ellipse(self, x: float, y: float, rx: float, ry: float, material: int) -> None:
        """Fill an upright ellipse; centre and half axes in buffer pixels."""
        self._draw.ellipse((x - rx, y - ry, x + rx, y + ry), fill=material)

    def thickness(self, metres: float, z: float, least: float) -> float:
        """Half the width in metres that shows as at least `least` picture heights at depth `z` (thin things stay visible)."""
        return max(metres, least * z / self.camera.focal) / 2

    def cast(self, x: float, z: float, half_width: float, top: float, bottom: float = 0.0) -> None:
        """Darken the ground where an upright thing of this width, from height `bottom` to `top`, keeps the sun away."""
        dx, dz = self.sun
        near = 1.2
        corners = (
            (x - half_width + bottom * dx, z + bottom * dz),
            (x + half_width + bottom * dx, z + bottom * dz),
            (x + half_width + top * dx, z + top * dz),
            (x - half_width + top * dx, z + top * dz),
        )
        self.shade([(cx, max(cz, near)) for cx, cz in corners])

    def shade(self, corners: Sequence[tuple[float, float]]) -> None:
        """Darken a polygon of the ground, given as (X, Z) corners."""
        points = [self.project(x, 0.0, z) for x, z in corners]
        self._shadow_draw.polygon([(x / SUPERSAMPLE, y / SUPERSAMPLE) for x, y in points], fill=255)

    def blob_shadow(self, x: float, z: float, rx: float, rz: float) -> None:
        """Darken an ellipse of the ground (crowns of trees, contact shadows)."""
        z = max(z, 1.5 + rz)
        _, near = self.project(x, 0.0, z - rz)
        cx, far = self.project(x, 0.0, z + rz)
        half = rx * self.camera.focal / z * self.scale
        cx, _ = self.project(x, 0.0, z)
        box = (cx - half, far, cx + half, near)
        self._shadow_draw.ellipse([value / SUPERSAMPLE for value in box], fill=255)
