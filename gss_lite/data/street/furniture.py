"""Trees, lamp posts, signs, traffic lights and the clutter that CamVid leaves unlabelled."""

from __future__ import annotations

import math

import numpy as np

from gss_lite.data.street.canvas import Canvas, Dice
from gss_lite.data.street.classes import SIGNS, SPECIES

_THIN = 0.034
"""Least width of posts and trunks in picture heights: 3.3 px at 96 rows."""


_CROWNS = {
    "plane": (0.34, 0.48, 0.20),
    "linden": (0.48, 0.56, 0.20),
    "oak": (0.20, 0.34, 0.15),
    "conifer": (0.13, 0.28, 0.20),
    "poplar": (0.30, 0.42, 0.26),
    "autumn maple": (0.66, 0.38, 0.12),
}


def _outlines(corners: int, count: int = 16) -> list[list[tuple[float, float]]]:
    """Unit circles with an uneven edge, as leaves make it."""
    jitter = np.random.Generator(np.random.PCG64(corners)).uniform(0.93, 1.06, (count, corners))
    angle = np.arange(corners) * 2 * np.pi / corners
    return np.stack([np.cos(angle) * jitter, np.sin(angle) * jitter], -1).tolist()


_OUTLINES = {corners: _outlines(corners) for corners in (11, 18, 26)}


def _ragged(
    dice: Dice, cx: float, cy: float, rx: float, ry: float, corners: int = 18
) -> list[tuple[float, float]]:
    """A leafy outline about (cx, cy), mirrored at random."""
    if dice.chance(0.5):
        rx = -rx
    return [(cx + rx * a, cy + ry * b) for a, b in dice.pick(_OUTLINES[corners])]


def tree(canvas: Canvas, dice: Dice, x: float, z: float, species: int, size: float) -> None:
    """A tree at (x, z) m: trunk and a crown of a lit and a shaded side; `size` is the crown's radius in m."""
    name = SPECIES[species]
    base = dice.tint(_CROWNS[name], 0.09)
    lit = canvas.material(f"{name} lit crown", tuple(c * 1.12 for c in base), z, 0.6, 0.34)
    shaded = canvas.material(f"{name} shaded crown", tuple(c * 0.70 for c in base), z, -0.5, 0.34)
    birch = name in ("linden", "poplar")
    bark = dice.tint((0.66, 0.64, 0.60) if birch else (0.28, 0.21, 0.16), 0.06)
    trunk = canvas.material("birch trunk" if birch else "dark trunk", bark, z, 0.0, 0.15)
    clear = dice(1.9, 2.7)
    half = canvas.thickness(dice(0.26, 0.42), z, _THIN)
    unit = canvas.camera.focal / z * canvas.scale
    px, _ = canvas.project(x, 0.0, z)

    def level(up: float) -> float:
        return canvas.project(x, up, z)[1]

    side = -1.0 if canvas.sun[0] > 0 else 1.0
    top = clear + 1.9 * size
    canvas.quad(
        [
            (x - half * 1.25, 0, z),
            (x - half * 0.8, clear + 0.7, z),
            (x + half * 0.8, clear + 0.7, z),
            (x + half * 1.25, 0, z),
        ],
        trunk,
    )
    canvas.cast(x, z, half, clear)
    dx, dz = canvas.sun
    canvas.blob_shadow(x + dx * (clear + size), z + dz * (clear + size), size, size * 0.8)
    if name == "conifer":
        low, tip = clear * 0.45, clear + 3.1 * size
        for k in range(4):
            foot = low + (tip - low) * k * 0.22
            head = min(tip, foot + (tip - low) * 0.46)
            wide = size * (0.95 - 0.2 * k) * unit
            canvas.polygon(
                [(px - wide, level(foot)), (px, level(head)), (px + wide, level(foot))], shaded
            )
            canvas.polygon(
                [(px, level(foot + 0.1)), (px, level(head)), (px + side * wide, level(foot))], lit
            )
        return
    if name == "poplar":
        tall = (clear + 4.2 * size - clear * 0.6) / 2
        centre = level(clear * 0.6 + tall)
        canvas.polygon(_ragged(dice, px, centre, size * 0.62 * unit, tall * unit), shaded)
        sunny_x, sunny_y = px + side * size * 0.2 * unit, centre - 0.1 * tall * unit
        canvas.polygon(_ragged(dice, sunny_x, sunny_y, size * 0.36 * unit, tall * 0.8 * unit), lit)
        return
    centre = level((clear + top) / 2 + 0.2 * size)
    radius = size * unit
    canvas.polygon(_ragged(dice, px, centre, radius, radius * dice(0.82, 1.0), 26), shaded)
    for _ in range(3):
        canvas.polygon(
            _ragged(
                dice,
                px + dice(-0.75, 0.75) * radius,
                centre + dice(-0.35, 0.4) * radius,
                radius * 0.48,
                radius * 0.42,
                11,
            ),
            shaded,
        )
    for _ in range(5):
        canvas.polygon(
            _ragged(
                dice,
                px + (side * 0.3 + dice(-0.5, 0.5)) * radius,
                centre - dice(-0.15, 0.75) * radius,
                radius * dice(0.22, 0.42),
                radius * dice(0.18, 0.34),
                11,
            ),
            lit,
        )


def hedge(canvas: Canvas, dice: Dice, plane: float, near: float, far: float, height: float) -> None:
    """A clipped hedge along the street on the plane X = plane."""
    green = dice.tint((0.22, 0.36, 0.16), 0.08)
    side = canvas.material("hedge", green, (near + far) / 2, -0.1, 0.3)
    canvas.quad(
        [(plane, 0, near), (plane, height, near), (plane, height * 1.05, far), (plane, 0, far)],
        side,
    )


def lamp_post(canvas: Canvas, dice: Dice, x: float, z: float, reach: float, wooden: bool) -> None:
    """A lamp post whose arm reaches `reach` m sideways over the road, or a wooden telegraph pole."""
    height = dice(5.2, 7.5)
    half = canvas.thickness(0.15, z, _THIN)
    if wooden:
        post = canvas.material("telegraph pole", dice.tint((0.40, 0.31, 0.24), 0.08), z, 0.0, 0.12)
    else:
        colour = dice.pick(((0.30, 0.32, 0.33), (0.56, 0.57, 0.58), (0.14, 0.22, 0.19)))
        fine = "pale lamp post" if colour[0] > 0.5 else "dark lamp post"
        post = canvas.material(fine, dice.tint(colour, 0.07), z)
    canvas.quad(
        [
            (x - half, 0, z),
            (x - half * 0.9, height, z),
            (x + half * 0.9, height, z),
            (x + half, 0, z),
        ],
        post,
    )
    canvas.cast(x, z, half, height)
    if wooden:
        bar, under = height - 0.5, height - 0.5 - half * 2
        canvas.quad(
            [(x - 0.8, bar, z), (x + 0.8, bar, z), (x + 0.8, under, z), (x - 0.8, under, z)], post
        )
        return
    lamp = canvas.material(fine, dice.tint((0.80, 0.80, 0.76)), z, 0.3, 0.0, (1.0, 0.85, 0.5))
    thick = max(0.16, half * 1.5)
    canvas.quad(
        [
            (x - half, height, z),
            (x - half, height - thick, z),
            (x + reach, height + 0.1 - thick, z),
            (x + reach, height + 0.1, z),
        ],
        post,
    )
    canvas.quad(
        [
            (x + reach * 0.55, height + 0.1, z),
            (x + reach * 0.55, height - 0.15 - thick, z),
            (x + reach * 1.15, height - 0.15 - thick, z),
            (x + reach * 1.15, height + 0.1, z),
        ],
        lamp,
    )


_SIGN_COLOURS = {  # rim, face
    "red ring": ((0.78, 0.08, 0.10), (0.93, 0.93, 0.92)),
    "blue disc": ((0.92, 0.92, 0.92), (0.10, 0.28, 0.68)),
    "warning triangle": ((0.80, 0.09, 0.10), (0.94, 0.94, 0.90)),
    "stop octagon": ((0.94, 0.94, 0.94), (0.76, 0.08, 0.10)),
    "yellow diamond": ((0.94, 0.94, 0.92), (0.93, 0.74, 0.12)),
    "direction board": ((0.20, 0.20, 0.22), (0.92, 0.92, 0.88)),
    "blue board": ((0.92, 0.92, 0.92), (0.12, 0.32, 0.66)),
    "green board": ((0.90, 0.92, 0.90), (0.06, 0.38, 0.24)),
}


def sign(canvas: Canvas, dice: Dice, x: float, z: float) -> None:
    """A traffic sign or board on a post; one in six shows its grey back."""
    kind = dice.pick(SIGNS)
    rim_colour, face_colour = _SIGN_COLOURS[kind]
    back = dice.chance(0.16)
    fine = "back of a sign" if back else kind
    if back:
        rim_colour, face_colour = (0.50, 0.51, 0.52), (0.58, 0.59, 0.60)
    post = canvas.material("sign post", dice.tint((0.52, 0.53, 0.54), 0.08), z)
    rim = canvas.material(fine, dice.tint(rim_colour, 0.04), z, 0.1, 0.02)
    face = canvas.material(fine, dice.tint(face_colour, 0.04), z, 0.1, 0.02)
    board = kind.endswith("board")
    radius = dice(0.40, 0.52) * max(1.0, z / 13.0)
    height = dice(2.1, 2.6) + radius
    half = canvas.thickness(0.09, z, _THIN)
    canvas.quad(
        [(x - half, 0, z), (x - half, height, z), (x + half, height, z), (x + half, 0, z)], post
    )
    canvas.cast(x, z, half, height)
    canvas.cast(x, z, radius, height + radius, height - radius)
    cx, cy = canvas.project(x, height, z)
    size = radius * canvas.camera.focal / z * canvas.scale
    shapes = {
        "warning triangle": (3, -0.5),
        "stop octagon": (8, 0.125),
        "yellow diamond": (4, -0.5),
    }
    for scale, material in ((1.0, rim), (0.68, face)):
        reach = size * scale
        if board:
            canvas.polygon(
                [
                    (cx - 1.5 * reach, cy - 0.9 * reach),
                    (cx + 1.5 * reach, cy - 0.9 * reach),
                    (cx + 1.5 * reach, cy + 0.9 * reach),
                    (cx - 1.5 * reach, cy + 0.9 * reach),
                ],
                material,
            )
        elif kind in shapes:
            n, turn = shapes[kind]
            angles = [math.pi * (turn + 2 * k / n) for k in range(n)]
            canvas.polygon(
                [
                    (cx + 1.15 * reach * math.cos(a), cy + 1.15 * reach * math.sin(a))
                    for a in angles
                ],
                material,
            )
        else:
            canvas.ellipse(cx, cy, reach, reach, material)


def traffic_light(canvas: Canvas, dice: Dice, x: float, z: float) -> None:
    """A traffic light on a post; one of its three lamps is lit."""
    post = canvas.material("traffic-light post", dice.tint((0.30, 0.31, 0.32), 0.08), z)
    box = canvas.material("traffic-light housing", (0.07, 0.08, 0.08), z, 0.0, 0.02)
    half = canvas.thickness(0.13, z, _THIN)
    foot, wide = 2.4, max(0.24, half * 1.4)
    canvas.quad(
        [(x - half, 0, z), (x - half, foot + 0.3, z), (x + half, foot + 0.3, z), (x + half, 0, z)],
        post,
    )
    canvas.quad(
        [
            (x - wide, foot, z),
            (x - wide, foot + 1.25, z),
            (x + wide, foot + 1.25, z),
            (x + wide, foot, z),
        ],
        box,
    )
    canvas.cast(x, z, half, foot + 1.2)
    lit = dice.below(3)
    colours = ((0.15, 0.85, 0.35), (0.95, 0.65, 0.10), (0.95, 0.12, 0.08))
    radius = 0.17 * canvas.camera.focal / z * canvas.scale * max(1.0, wide / 0.3)
    for k, colour in enumerate(colours):
        glow = k == lit
        shown, emitted = (
            (colour, colour) if glow else (tuple(c * 0.28 for c in colour), (0.0, 0.0, 0.0))
        )
        lamp = canvas.material("traffic-light lamp", shown, z, 0.0, 0.0, emitted)
        cx, cy = canvas.project(x, foot + 0.22 + 0.4 * k, z)
        canvas.ellipse(cx, cy, radius, radius, lamp)


def clutter(canvas: Canvas, dice: Dice, x: float, z: float) -> None:
    """Something unlabelled (void): a bin, a box or a traffic cone."""
    colour = dice.tint(
        dice.pick(((0.20, 0.26, 0.22), (0.25, 0.25, 0.27), (0.60, 0.48, 0.34), (0.20, 0.28, 0.42))),
        0.08,
    )
    void = canvas.material("void", colour, z, 0.0, 0.08)
    dark = canvas.material("void", tuple(c * 0.6 for c in colour), z, 0.0, 0.08)
    kind = dice.below(3)
    canvas.blob_shadow(x, z, 0.5, 0.35)
    if kind == 0:
        canvas.quad(
            [(x - 0.26, 0, z), (x - 0.32, 1.05, z), (x + 0.32, 1.05, z), (x + 0.26, 0, z)], void
        )
        canvas.quad(
            [(x - 0.34, 1.0, z), (x - 0.34, 1.12, z), (x + 0.34, 1.12, z), (x + 0.34, 1.0, z)], dark
        )
    elif kind == 1:
        canvas.quad([(x - 0.4, 0, z), (x - 0.4, 0.6, z), (x + 0.4, 0.6, z), (x + 0.4, 0, z)], void)
        canvas.quad(
            [(x - 0.4, 0.6, z), (x - 0.3, 0.75, z), (x + 0.5, 0.75, z), (x + 0.4, 0.6, z)], dark
        )
    else:
        orange = canvas.material("void", dice.tint((0.88, 0.38, 0.12)), z, 0.2, 0.03)
        white = canvas.material("void", (0.90, 0.90, 0.88), z, 0.2, 0.03)
        canvas.quad(
            [(x - 0.22, 0, z), (x - 0.04, 0.75, z), (x + 0.04, 0.75, z), (x + 0.22, 0, z)], orange
        )
        canvas.quad(
            [(x - 0.14, 0.32, z), (x - 0.1, 0.5, z), (x + 0.1, 0.5, z), (x + 0.14, 0.32, z)], white
        )
