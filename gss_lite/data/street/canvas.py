"""The drawing surface of the street generator: a pinhole camera and a buffer of material numbers.

Each shape is drawn once, with the number of its *material*. Colour, light, depth and class are
columns of the material table, and they are looked up afterwards. Picture and mask therefore agree
in every pixel. In computer graphics this is called deferred shading.

Lengths are metres: X to the right, Y up from the road, Z ahead. Picture coordinates are fractions
of the picture's height.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from gss_lite.data.street.classes import FINE_ID

# Buffer samples per output pixel along each axis. The code for averages and votes assumes 2.
SUPERSAMPLE = 2

# Materials of pixels that no shape covers. `surfaces.refine` splits them further.
GROUND, SKY = 0, 1

# Consecutive materials of a wall: upper wall, ground floor, window, door, shop window, trim, and a
# window that is lit at dusk.
FACADE_SLOTS = 7

Colour = Sequence[float]


class Dice:
    """Uniform random numbers, one at a time and much faster than scalar calls of a Generator."""

    def __init__(self, generator: np.random.Generator) -> None:
        self._generator = generator
        self._values: list[float] = []

    def __call__(self, low: float = 0.0, high: float = 1.0) -> float:
        """Return a number from low to high."""
        if not self._values:
            self._values = self._generator.random(1024).tolist()
        return low + (high - low) * self._values.pop()

    def chance(self, probability: float) -> bool:
        """Return True with this probability."""
        return self() < probability

    def below(self, n: int) -> int:
        """Return a whole number from 0 to n − 1."""
        return int(self() * n)

    def pick(self, options: Sequence):
        """Return one of the options."""
        return options[int(self() * len(options))]

    def tint(self, colour: Colour, spread: float = 0.06) -> tuple[float, float, float]:
        """Return a colour near `colour`: its brightness and, less, each channel are changed."""
        gain = 1.0 + self(-2.0, 2.0) * spread
        return tuple(min(1.0, max(0.0, c * gain + self(-spread, spread) * 0.4)) for c in colour)


def scaled(colour: Colour, gain: float) -> tuple[float, ...]:
    """Return the colour times `gain`, channel by channel."""
    return tuple(c * gain for c in colour)


class Camera(NamedTuple):
    """A pinhole camera `height` m above the road.

    Its vanishing point is (`vx`, `vy`) in picture heights, `vx` counted from the middle column.
    """

    height: float
    focal: float
    vx: float
    vy: float


class Wall(NamedTuple):
    """The pattern of a wall in metres: windows in columns and storeys, doors, beams or slats.

    Attributes:
        across: 1 where the wall stands across the street on the plane Z = `plane`, 0 where it
            stands along it on the plane X = `plane`.
        origin: where the first column of windows begins.
        period: width of a column.
        half: half a window's width, as a fraction of `period`.
        low, high: a window's lower and upper edge, as fractions of the storey.
        door_every: number of columns from one door to the next; 0 for no doors.
        shop, timber: 1 for shop windows on the ground floor, and for timber beams above it.
        slats: slats per metre; 0 for none.
    """

    across: float
    plane: float
    origin: float
    period: float
    ground_floor: float
    storey: float
    half: float
    low: float
    high: float
    door_every: float = 0.0
    shop: float = 0.0
    timber: float = 0.0
    slats: float = 0.0


class Canvas:
    """A buffer of material numbers, `rows` × `columns` output pixels, and its material table."""

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
        # The columns of the material table:
        self.rgb: list[Colour] = []
        self.emit: list[Colour] = []
        self.facing: list[float] = []
        self.depth: list[float] = []
        self.rough: list[float] = []
        self.fine: list[int] = []
        self.wall: list[int] = []
        self.walls: list[Wall] = []
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
        """Register a material and return its number.

        `facing` goes from −1, away from the sun, to 1. `emit` glows at dusk.
        """
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
        column = self.middle + (camera.vx + ratio * x) * self.scale
        row = (camera.vy - ratio * (y - camera.height)) * self.scale
        return column, row

    def pixels_per_metre(self, z: float) -> float:
        """Buffer pixels that one metre covers at depth `z`."""
        return self.camera.focal / z * self.scale

    def polygon(self, points: Sequence[tuple[float, float]], material: int) -> None:
        """Fill the polygon through buffer pixels."""
        self._draw.polygon(points, fill=material)

    def ellipse(self, x: float, y: float, rx: float, ry: float, material: int) -> None:
        """Fill an upright ellipse; centre and half axes in buffer pixels."""
        self._draw.ellipse((x - rx, y - ry, x + rx, y + ry), fill=material)

    def quad(self, points: Sequence[tuple[float, float, float]], material: int) -> None:
        """Fill the polygon through world points."""
        self.polygon([self.project(*point) for point in points], material)

    def front(self, points: Sequence[tuple[float, float]], z: float, material: int) -> None:
        """Fill the upright polygon that faces the camera at depth `z`, through (X, Y) points."""
        self.quad([(x, y, z) for x, y in points], material)

    def upright(
        self,
        x: float,
        z: float,
        bottom: float,
        top: float,
        half: float,
        material: int,
        taper: float = 1.0,
    ) -> None:
        """Fill an upright board that faces the camera; its upper half width is `half` × `taper`."""
        upper = half * taper
        corners = [(x - half, bottom), (x - upper, top), (x + upper, top), (x + half, bottom)]
        self.front(corners, z, material)

    def alongside(
        self, plane: float, near: float, far: float, top: float, material: int, lift: float = 1.0
    ) -> None:
        """Fill a wall that stands along the street on the plane X = plane.

        Its height is `top`, and `top` × `lift` at its far end.
        """
        corners = [(0, near), (top, near), (top * lift, far), (0, far)]
        self.quad([(plane, *corner) for corner in corners], material)

    def thickness(self, metres: float, z: float, least: float) -> float:
        """Return half a width in metres, so wide that it covers `least` picture heights at `z`.

        Thin things stay visible in this way.
        """
        return max(metres, least * z / self.camera.focal) / 2

    def cast(self, x: float, z: float, half: float, top: float, bottom: float = 0.0) -> None:
        """Darken the ground behind an upright thing that reaches from `bottom` to `top`."""
        dx, dz = self.sun
        corners = (
            (x - half + bottom * dx, z + bottom * dz),
            (x + half + bottom * dx, z + bottom * dz),
            (x + half + top * dx, z + top * dz),
            (x - half + top * dx, z + top * dz),
        )
        self.shade([(cx, max(cz, 1.2)) for cx, cz in corners])

    def shade_wall(self, plane: float, near: float, far: float, top: float) -> None:
        """Darken the ground beside a wall along the street, on the plane X = plane."""
        dx, _ = self.sun
        end = plane + top * dx
        self.shade([(plane, near), (plane, far), (end, far), (end, near)])

    def shade(self, corners: Sequence[tuple[float, float]]) -> None:
        """Darken a polygon of the ground, given as (X, Z) corners."""
        points = [self.project(x, 0.0, z) for x, z in corners]
        self._shadow_draw.polygon([(x / SUPERSAMPLE, y / SUPERSAMPLE) for x, y in points], fill=255)

    def blob_shadow(self, x: float, z: float, rx: float, rz: float) -> None:
        """Darken an ellipse of the ground, below a crown or at the foot of a thing."""
        z = max(z, 1.5 + rz)
        centre, _ = self.project(x, 0.0, z)
        _, near = self.project(x, 0.0, z - rz)
        _, far = self.project(x, 0.0, z + rz)
        half = rx * self.camera.focal / z * self.scale
        box = (centre - half, far, centre + half, near)
        self._shadow_draw.ellipse([value / SUPERSAMPLE for value in box], fill=255)
