"""Draw trees, lamp posts, signs, traffic lights, and clutter that CamVid does not label."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from gss_lite.data.street.canvas import Canvas, Dice, scaled
from gss_lite.data.street.classes import BOARDS, SIGNS, SPECIES

# Least width of posts and trunks in picture heights: 3.3 pixels at 96 rows.
_THIN = 0.034

_CROWNS = {
    "plane": (0.34, 0.48, 0.20),
    "linden": (0.48, 0.56, 0.20),
    "oak": (0.20, 0.34, 0.15),
    "conifer": (0.13, 0.28, 0.20),
    "poplar": (0.30, 0.42, 0.26),
    "autumn maple": (0.66, 0.38, 0.12),
}


def _outlines(corners: int, count: int = 16) -> list[list[tuple[float, float]]]:
    """Make unit circles with an uneven edge, like that of leaves."""
    jitter = np.random.Generator(np.random.PCG64(corners)).uniform(0.93, 1.06, (count, corners))
    angle = np.arange(corners) * 2 * np.pi / corners
    return np.stack([np.cos(angle) * jitter, np.sin(angle) * jitter], -1).tolist()


_OUTLINES = {corners: _outlines(corners) for corners in (11, 18, 26)}


def tree(canvas: Canvas, dice: Dice, x: float, z: float, species: int, size: float) -> None:
    """Draw a tree at (x, z) m, its crown `size` m in radius, with a lit and a shaded side."""
    name = SPECIES[species]
    base = dice.tint(_CROWNS[name], 0.09)
    lit = canvas.material(f"{name} lit crown", scaled(base, 1.12), z, 0.6, 0.34)
    shaded = canvas.material(f"{name} shaded crown", scaled(base, 0.70), z, -0.5, 0.34)
    birch = name in ("linden", "poplar")
    bark = dice.tint((0.66, 0.64, 0.60) if birch else (0.28, 0.21, 0.16), 0.06)
    trunk = canvas.material("birch trunk" if birch else "dark trunk", bark, z, 0.0, 0.15)
    clear = dice(1.9, 2.7)  # the trunk's height below the crown
    half = canvas.thickness(dice(0.26, 0.42), z, _THIN)
    foot, fork = half * 1.25, half * 0.8
    stem = [(x - foot, 0), (x - fork, clear + 0.7), (x + fork, clear + 0.7), (x + foot, 0)]
    canvas.front(stem, z, trunk)
    canvas.cast(x, z, half, clear)
    dx, dz = canvas.sun
    canvas.blob_shadow(x + dx * (clear + size), z + dz * (clear + size), size, size * 0.8)
    crown = _Crown(canvas, dice, x, z, clear, size, lit, shaded)
    if name == "conifer":
        crown.draw_conifer()
    elif name == "poplar":
        crown.draw_poplar()
    else:
        crown.draw_round()


class _Crown(NamedTuple):
    """A tree's crown: `clear` m of trunk below it, `size` m in radius, and its two materials."""

    canvas: Canvas
    dice: Dice
    x: float
    z: float
    clear: float
    size: float
    lit: int
    shaded: int

    @property
    def sunny(self) -> float:
        """−1 where the sun lights the left side, 1 where it lights the right one."""
        return -1.0 if self.canvas.sun[0] > 0 else 1.0

    def leaves(self, x: float, y: float, rx: float, ry: float, corners: int, material: int) -> None:
        """Fill a leafy outline about (x, y) in buffer pixels, mirrored at random."""
        if self.dice.chance(0.5):
            rx = -rx
        outline = self.dice.pick(_OUTLINES[corners])
        self.canvas.polygon([(x + rx * a, y + ry * b) for a, b in outline], material)

    def draw_conifer(self) -> None:
        """Draw four triangles above each other."""
        unit = self.canvas.pixels_per_metre(self.z)
        low = self.clear * 0.45
        tip = self.clear + 3.1 * self.size
        for k in range(4):
            bottom = low + (tip - low) * k * 0.22
            top = min(tip, bottom + (tip - low) * 0.46)
            wide = self.size * (0.95 - 0.2 * k) * unit
            x, y = self.canvas.project(self.x, bottom, self.z)
            head = self.canvas.project(self.x, top, self.z)
            inner = self.canvas.project(self.x, bottom + 0.1, self.z)
            self.canvas.polygon([(x - wide, y), head, (x + wide, y)], self.shaded)
            self.canvas.polygon([inner, head, (x + self.sunny * wide, y)], self.lit)

    def draw_poplar(self) -> None:
        """Draw one tall outline with a smaller lit one inside."""
        unit = self.canvas.pixels_per_metre(self.z)
        size = self.size
        tall = (self.clear + 4.2 * size - self.clear * 0.6) / 2
        x, y = self.canvas.project(self.x, self.clear * 0.6 + tall, self.z)
        self.leaves(x, y, size * 0.62 * unit, tall * unit, 18, self.shaded)
        x += self.sunny * size * 0.2 * unit
        y -= 0.1 * tall * unit
        self.leaves(x, y, size * 0.36 * unit, tall * 0.8 * unit, 18, self.lit)

    def draw_round(self) -> None:
        """Draw one large outline, with tufts of leaves at its edge and on its lit side."""
        dice = self.dice
        top = self.clear + 1.9 * self.size
        x, y = self.canvas.project(self.x, (self.clear + top) / 2 + 0.2 * self.size, self.z)
        radius = self.size * self.canvas.pixels_per_metre(self.z)
        self.leaves(x, y, radius, radius * dice(0.82, 1.0), 26, self.shaded)
        for _ in range(3):
            cx = x + dice(-0.75, 0.75) * radius
            cy = y + dice(-0.35, 0.4) * radius
            self.leaves(cx, cy, radius * 0.48, radius * 0.42, 11, self.shaded)
        for _ in range(5):
            cx = x + (self.sunny * 0.3 + dice(-0.5, 0.5)) * radius
            cy = y - dice(-0.15, 0.75) * radius
            rx = radius * dice(0.22, 0.42)
            ry = radius * dice(0.18, 0.34)
            self.leaves(cx, cy, rx, ry, 11, self.lit)


def hedge(canvas: Canvas, dice: Dice, plane: float, near: float, far: float, height: float) -> None:
    """Draw a clipped hedge along the street on the plane X = plane."""
    green = dice.tint((0.22, 0.36, 0.16), 0.08)
    side = canvas.material("hedge", green, (near + far) / 2, -0.1, 0.3)
    canvas.alongside(plane, near, far, height, side, lift=1.05)


def lamp_post(canvas: Canvas, dice: Dice, x: float, z: float, reach: float, wooden: bool) -> None:
    """Draw a lamp post with an arm `reach` m long over the road, or a wooden telegraph pole."""
    height = dice(5.2, 7.5)
    half = canvas.thickness(0.15, z, _THIN)
    if wooden:
        fine = "telegraph pole"
        post = canvas.material(fine, dice.tint((0.40, 0.31, 0.24), 0.08), z, 0.0, 0.12)
    else:
        colour = dice.pick(((0.30, 0.32, 0.33), (0.56, 0.57, 0.58), (0.14, 0.22, 0.19)))
        fine = "pale lamp post" if colour[0] > 0.5 else "dark lamp post"
        post = canvas.material(fine, dice.tint(colour, 0.07), z)
    canvas.upright(x, z, 0, height, half, post, taper=0.9)
    canvas.cast(x, z, half, height)
    if wooden:
        canvas.upright(x, z, height - 0.5 - half * 2, height - 0.5, 0.8, post)
        return
    lamp = canvas.material(fine, dice.tint((0.80, 0.80, 0.76)), z, 0.3, 0.0, (1.0, 0.85, 0.5))
    thick = max(0.16, half * 1.5)
    end = x + reach
    rise = height + 0.1
    arm = [(x - half, height), (x - half, height - thick), (end, rise - thick), (end, rise)]
    canvas.front(arm, z, post)
    left, right = x + reach * 0.55, x + reach * 1.15
    under = height - 0.15 - thick
    head = [(left, rise), (left, under), (right, under), (right, rise)]
    canvas.front(head, z, lamp)


_SIGN_COLOURS = {  # of the edge and of the face
    "red ring": ((0.78, 0.08, 0.10), (0.93, 0.93, 0.92)),
    "blue disc": ((0.92, 0.92, 0.92), (0.10, 0.28, 0.68)),
    "warning triangle": ((0.80, 0.09, 0.10), (0.94, 0.94, 0.90)),
    "stop octagon": ((0.94, 0.94, 0.94), (0.76, 0.08, 0.10)),
    "yellow diamond": ((0.94, 0.94, 0.92), (0.93, 0.74, 0.12)),
    "direction board": ((0.20, 0.20, 0.22), (0.92, 0.92, 0.88)),
    "blue board": ((0.92, 0.92, 0.92), (0.12, 0.32, 0.66)),
    "green board": ((0.90, 0.92, 0.90), (0.06, 0.38, 0.24)),
}
_BACK = ((0.50, 0.51, 0.52), (0.58, 0.59, 0.60))
# Number of corners, and the angle of the first one in units of π.
_SIGN_SHAPES = {
    "warning triangle": (3, -0.5),
    "stop octagon": (8, 0.125),
    "yellow diamond": (4, -0.5),
}


def sign(canvas: Canvas, dice: Dice, x: float, z: float) -> None:
    """Draw a traffic sign or board on a post; one in six shows its grey back."""
    kind = dice.pick(SIGNS + BOARDS)
    back = dice.chance(0.16)
    fine = "back of a sign" if back else kind
    edge_colour, face_colour = _BACK if back else _SIGN_COLOURS[kind]
    post = canvas.material("sign post", dice.tint((0.52, 0.53, 0.54), 0.08), z)
    edge = canvas.material(fine, dice.tint(edge_colour, 0.04), z, 0.1, 0.02)
    face = canvas.material(fine, dice.tint(face_colour, 0.04), z, 0.1, 0.02)
    radius = dice(0.40, 0.52) * max(1.0, z / 13.0)
    height = dice(2.1, 2.6) + radius
    half = canvas.thickness(0.09, z, _THIN)
    canvas.upright(x, z, 0, height, half, post)
    canvas.cast(x, z, half, height)
    canvas.cast(x, z, radius, height + radius, height - radius)
    cx, cy = canvas.project(x, height, z)
    size = radius * canvas.camera.focal / z * canvas.scale
    for scale, material in ((1.0, edge), (0.68, face)):
        reach = size * scale
        if kind in BOARDS:
            corners = ((-1.5, -0.9), (1.5, -0.9), (1.5, 0.9), (-1.5, 0.9))
            canvas.polygon([(cx + a * reach, cy + b * reach) for a, b in corners], material)
        elif kind in _SIGN_SHAPES:
            n, turn = _SIGN_SHAPES[kind]
            angles = [math.pi * (turn + 2 * k / n) for k in range(n)]
            outer = 1.15 * reach
            points = [(cx + outer * math.cos(a), cy + outer * math.sin(a)) for a in angles]
            canvas.polygon(points, material)
        else:
            canvas.ellipse(cx, cy, reach, reach, material)


def traffic_light(canvas: Canvas, dice: Dice, x: float, z: float) -> None:
    """Draw a traffic light on a post; one of its three lamps is lit."""
    post = canvas.material("traffic-light post", dice.tint((0.30, 0.31, 0.32), 0.08), z)
    box = canvas.material("traffic-light housing", (0.07, 0.08, 0.08), z, 0.0, 0.02)
    half = canvas.thickness(0.13, z, _THIN)
    foot = 2.4
    wide = max(0.24, half * 1.4)
    canvas.upright(x, z, 0, foot + 0.3, half, post)
    canvas.upright(x, z, foot, foot + 1.25, wide, box)
    canvas.cast(x, z, half, foot + 1.2)
    lit = dice.below(3)
    colours = ((0.15, 0.85, 0.35), (0.95, 0.65, 0.10), (0.95, 0.12, 0.08))
    radius = 0.17 * canvas.camera.focal / z * canvas.scale * max(1.0, wide / 0.3)
    for k, colour in enumerate(colours):
        shown = colour if k == lit else scaled(colour, 0.28)
        emitted = colour if k == lit else (0.0, 0.0, 0.0)
        lamp = canvas.material("traffic-light lamp", shown, z, 0.0, 0.0, emitted)
        cx, cy = canvas.project(x, foot + 0.22 + 0.4 * k, z)
        canvas.ellipse(cx, cy, radius, radius, lamp)


def clutter(canvas: Canvas, dice: Dice, x: float, z: float) -> None:
    """Draw something unlabelled (void): a bin, a box or a traffic cone."""
    colours = ((0.20, 0.26, 0.22), (0.25, 0.25, 0.27), (0.60, 0.48, 0.34), (0.20, 0.28, 0.42))
    colour = dice.tint(dice.pick(colours), 0.08)
    void = canvas.material("void", colour, z, 0.0, 0.08)
    dark = canvas.material("void", scaled(colour, 0.6), z, 0.0, 0.08)
    kind = dice.below(3)
    canvas.blob_shadow(x, z, 0.5, 0.35)
    if kind == 0:
        body = [(x - 0.26, 0), (x - 0.32, 1.05), (x + 0.32, 1.05), (x + 0.26, 0)]
        canvas.front(body, z, void)
        canvas.upright(x, z, 1.0, 1.12, 0.34, dark)
    elif kind == 1:
        canvas.upright(x, z, 0, 0.6, 0.4, void)
        lid = [(x - 0.4, 0.6), (x - 0.3, 0.75), (x + 0.5, 0.75), (x + 0.4, 0.6)]
        canvas.front(lid, z, dark)
    else:
        orange = canvas.material("void", dice.tint((0.88, 0.38, 0.12)), z, 0.2, 0.03)
        white = canvas.material("void", (0.90, 0.90, 0.88), z, 0.2, 0.03)
        cone = [(x - 0.22, 0), (x - 0.04, 0.75), (x + 0.04, 0.75), (x + 0.22, 0)]
        canvas.front(cone, z, orange)
        stripe = [(x - 0.14, 0.32), (x - 0.1, 0.5), (x + 0.1, 0.5), (x + 0.14, 0.32)]
        canvas.front(stripe, z, white)
