"""Cars in true perspective, from any side: a body and a tapered cabin, visible faces only."""

from __future__ import annotations

import math
from typing import NamedTuple

from gss_lite.data.street.canvas import Canvas, Dice, scaled
from gss_lite.data.street.classes import PAINTS

_PAINT_COLOURS = {
    "white": (0.90, 0.90, 0.90),
    "black": (0.10, 0.10, 0.12),
    "silver": (0.62, 0.63, 0.65),
    "red": (0.66, 0.10, 0.10),
    "blue": (0.14, 0.24, 0.52),
    "green": (0.14, 0.34, 0.24),
    "yellow": (0.88, 0.70, 0.14),
}

Point = tuple[float, float, float]
Face = list[Point]


class _Body(NamedTuple):
    """A car's shape in metres.

    `bottom` and `top` are the (rear, front) ends of the cabin at the belt line and at the roof, as
    fractions of the car's length.
    """

    length: float
    width: float
    height: float
    belt: float
    bottom: tuple[float, float]
    top: tuple[float, float]


_BODIES = (
    _Body(3.9, 1.75, 1.50, 0.92, (-0.50, 0.22), (-0.40, 0.06)),
    _Body(4.5, 1.80, 1.45, 0.90, (-0.36, 0.24), (-0.22, 0.08)),
    _Body(4.6, 1.85, 1.75, 1.05, (-0.50, 0.24), (-0.47, 0.10)),
    _Body(5.0, 1.95, 2.25, 1.25, (-0.50, 0.42), (-0.50, 0.30)),
)
_BOXY = (
    _Body(3.4, 1.55, 1.45, 0.85, (-0.48, 0.20), (-0.44, 0.12)),
    _Body(4.2, 1.65, 1.45, 0.88, (-0.30, 0.20), (-0.24, 0.14)),
    _Body(4.4, 1.80, 2.05, 1.10, (-0.50, 0.46), (-0.50, 0.40)),
)
_TURNS = tuple(k * 0.6283 for k in range(10))
_SIDES = ("rear", "front", "left", "right")


def _between(face: Face, low: float, high: float, left: float, right: float) -> Face:
    """Return a quadrilateral inside a face, its corners counter-clockwise from below left."""

    def at(s: float, t: float) -> Point:
        a, b, c, d = face
        return tuple(
            (a[i] * (1 - s) + b[i] * s) * (1 - t) + (d[i] * (1 - s) + c[i] * s) * t
            for i in range(3)
        )

    return [at(left, low), at(right, low), at(right, high), at(left, high)]


class _Car:
    """One car at (x, z) m: its shape, its materials, and its coordinates in the street."""

    def __init__(
        self, canvas: Canvas, dice: Dice, x: float, z: float, heading: float, boxy: bool
    ) -> None:
        self.canvas, self.x, self.z = canvas, x, z
        self.body: _Body = dice.pick(_BOXY if boxy else _BODIES)
        self.sine = math.sin(heading)
        self.cosine = math.cos(heading)
        self.sunny = "right" if canvas.sun[0] * self.cosine < 0 else "left"
        self._mix_materials(dice, boxy)

    def _mix_materials(self, dice: Dice, boxy: bool) -> None:
        paint = dice.pick(PAINTS)
        rgb = dice.tint(_PAINT_COLOURS[paint], 0.07)
        if boxy:
            rgb = tuple(0.75 * c + 0.13 for c in rgb)
        add, z = self.canvas.material, self.z
        self.flank_sun = add(f"{paint} flank", rgb, z, 0.5, 0.02)
        self.flank_shade = add(f"{paint} flank", rgb, z, -0.5, 0.02)
        self.end = add(f"{paint} end", scaled(rgb, 0.9), z, -0.1, 0.02)
        deck = tuple(min(1.0, c * 1.12 + 0.06) for c in rgb)
        self.deck = add(f"{paint} top", deck, z, 0.8, 0.02)
        self.cabin_sun = add(f"{paint} top", rgb, z, 0.5, 0.02)
        self.cabin_shade = add(f"{paint} top", rgb, z, -0.3, 0.02)
        glass = dice.tint((0.17, 0.21, 0.26), 0.08)
        self.screen = add("windscreen", scaled(glass, 1.3), z, 0.2, 0.03)
        self.gleam = add("windscreen", tuple(c * 1.3 + 0.13 for c in glass), z, 0.2, 0.03)
        self.window = add("side window", glass, z, 0.0, 0.03)
        self.tyre = add("wheel", (0.07, 0.07, 0.08), z, 0.0, 0.02)
        self.hub = add("wheel", dice.tint((0.55, 0.55, 0.57)), z, 0.0, 0.02)
        self.bumper = add("bumper", (0.12, 0.12, 0.13), z, 0.0, 0.02)
        self.head = add("head lamp", (0.88, 0.88, 0.82), z, 0.3, 0.0, (1.0, 0.95, 0.75))
        self.tail = add("tail lamp", (0.62, 0.06, 0.05), z, 0.3, 0.0, (1.0, 0.12, 0.08))
        self.plate = add("bumper", (0.88, 0.84, 0.55), z, 0.0, 0.0)

    def world(self, along: float, across: float, up: float) -> Point:
        """Convert metres ahead of, right of and above the car's middle to a world point."""
        x = self.x + along * self.sine + across * self.cosine
        z = self.z + along * self.cosine - across * self.sine
        return x, up, z

    def visible(self, face: Face) -> bool:
        """Whether the camera sees a face; its corners are counter-clockwise from outside."""
        points = [self.canvas.project(*corner) for corner in face]
        area = 0.0
        for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1]):
            area += x0 * y1 - x1 * y0
        return area < 0

    def slab(
        self, rear: tuple, front: tuple, low: float, high: float, inset: float
    ) -> dict[str, Face]:
        """Return the faces of a box between the heights `low` and `high`.

        Its bottom spans `rear[0]` … `front[0]` along the car. Its top spans `rear[1]` … `front[1]`
        and is narrower by `inset` on either side.
        """
        half = self.body.width / 2
        halves = (half, half - inset)
        corners = {
            (end, side, level): self.world(span[level], halves[level] * side, (low, high)[level])
            for end, span in ((0, rear), (1, front))
            for side in (-1, 1)
            for level in (0, 1)
        }

        def face(a: tuple, b: tuple) -> Face:
            return [corners[(*a, 0)], corners[(*b, 0)], corners[(*b, 1)], corners[(*a, 1)]]

        return {
            "rear": face((0, -1), (0, 1)),
            "right": face((0, 1), (1, 1)),
            "front": face((1, 1), (1, -1)),
            "left": face((1, -1), (0, -1)),
            "top": [corners[(*end, 1)] for end in ((0, -1), (0, 1), (1, 1), (1, -1))],
        }

    def draw_shadow(self) -> None:
        """Darken the ground below the car and behind it."""
        half = self.body.length / 2
        corners = ((-half, -0.95), (half, -0.95), (half, 0.95), (-half, 0.95))
        self.canvas.shade([self.world(a, b, 0.0)[::2] for a, b in corners])
        reach = half * abs(self.sine) + self.body.width / 2 * abs(self.cosine)
        self.canvas.cast(self.x, self.z, reach, self.body.height * 0.9)

    def draw_underside(self) -> None:
        """Draw the dark part between the wheels."""
        half = self.body.length / 2
        faces = self.slab((-half + 0.1, -half), (half - 0.1, half), 0.05, 0.3, 0.0)
        for name in _SIDES:
            if self.visible(faces[name]):
                self.canvas.quad(faces[name], self.bumper)

    def draw_body(self) -> None:
        """Draw the car below its belt line: bonnet, flanks with wheels, ends with lamps."""
        fill = self.canvas.quad
        half = self.body.length / 2
        slope = self.body.length * 0.02
        faces = self.slab((-half, -half + slope), (half, half - slope), 0.22, self.body.belt, 0.06)
        if self.visible(faces["top"]):
            fill(faces["top"], self.deck)
        for name in _SIDES:
            face = faces[name]
            if not self.visible(face):
                continue
            if name in ("left", "right"):
                fill(face, self.flank_sun if name == self.sunny else self.flank_shade)
                self.draw_wheels(1 if name == "right" else -1)
                continue
            lamp = self.tail if name == "rear" else self.head
            fill(face, self.end)
            fill(_between(face, 0.0, 0.27, 0.0, 1.0), self.bumper)
            fill(_between(face, 0.52, 0.80, 0.03, 0.22), lamp)
            fill(_between(face, 0.52, 0.80, 0.78, 0.97), lamp)
            fill(_between(face, 0.18, 0.42, 0.34, 0.66), self.plate)

    def draw_wheels(self, side: int) -> None:
        """Draw both wheels of one side: −1 left, 1 right."""
        across = side * (self.body.width / 2 + 0.01)
        radius = 0.31 * self.body.height / 1.5
        for along in (-0.31 * self.body.length, 0.31 * self.body.length):
            for material, size in ((self.tyre, 1.0), (self.hub, 0.55)):
                reach = radius * size
                circle = [
                    self.world(along + reach * math.cos(a), across, radius + reach * math.sin(a))
                    for a in _TURNS
                ]
                self.canvas.quad(circle, material)

    def draw_cabin(self) -> None:
        """Draw the car above its belt line: side windows, screens and the roof."""
        fill, body = self.canvas.quad, self.body
        rear = (body.bottom[0] * body.length, body.top[0] * body.length)
        front = (body.bottom[1] * body.length, body.top[1] * body.length)
        faces = self.slab(rear, front, body.belt, body.height, 0.2)
        for name in _SIDES:
            face = faces[name]
            if not self.visible(face):
                continue
            if name in ("left", "right"):
                fill(face, self.cabin_sun if name == self.sunny else self.cabin_shade)
                fill(_between(face, 0.08, 0.86, 0.08, 0.47), self.window)
                fill(_between(face, 0.08, 0.86, 0.53, 0.92), self.window)
            else:
                fill(face, self.cabin_shade)
                fill(_between(face, 0.06, 0.88, 0.07, 0.93), self.screen)
                fill(_between(face, 0.50, 0.88, 0.09, 0.60), self.gleam)
        if self.visible(faces["top"]):
            fill(faces["top"], self.deck)


def car(canvas: Canvas, dice: Dice, x: float, z: float, heading: float, boxy: bool = False) -> None:
    """Draw a car at (x, z) m; heading 0 drives away from the camera, π towards it, ±π/2 across."""
    one = _Car(canvas, dice, x, z, heading, boxy)
    one.draw_shadow()
    one.draw_underside()
    one.draw_body()
    one.draw_cabin()
