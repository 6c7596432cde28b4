"""People on foot and on bicycles: upright flat figures facing the camera, the walker's or rider's side, or away.

Cars, in true perspective from any side: a body box and a tapered cabin, visible faces only.
"""

from __future__ import annotations

import math

from gss_lite.data.street.canvas import Canvas, Dice
from gss_lite.data.street.classes import JERSEYS, PAINTS, TOPS, TROUSERS

_CLOTH = {
    "red": (0.68, 0.14, 0.14),
    "blue": (0.18, 0.28, 0.60),
    "green": (0.18, 0.42, 0.24),
    "yellow": (0.86, 0.70, 0.20),
    "white": (0.90, 0.89, 0.86),
    "black": (0.10, 0.10, 0.11),
    "brown": (0.42, 0.29, 0.20),
    "hi-vis": (0.80, 0.92, 0.15),
}


_LEGWEAR = {
    "jeans": (0.22, 0.28, 0.44),
    "black trousers": (0.11, 0.11, 0.13),
    "khaki trousers": (0.60, 0.52, 0.38),
    "skirt": (0.55, 0.22, 0.36),
}


_SKIN = ((0.93, 0.76, 0.64), (0.82, 0.62, 0.48), (0.55, 0.38, 0.27), (0.36, 0.24, 0.17))


class _Figure:
    """Local coordinates of an upright figure: metres right of and above the point (x, 0, z) where it stands."""

    def __init__(self, canvas: Canvas, x: float, z: float, size: float, flip: float) -> None:
        self.canvas, self.flip = canvas, flip
        self.unit = canvas.camera.focal / z * canvas.scale * size
        self.x, self.y = canvas.project(x, 0.0, z)

    def shape(self, material: int, *points: tuple[float, float]) -> None:
        self.canvas.polygon(
            [(self.x + self.flip * a * self.unit, self.y - b * self.unit) for a, b in points],
            material,
        )

    def oval(self, material: int, a: float, b: float, ra: float, rb: float) -> None:
        self.canvas.ellipse(
            self.x + self.flip * a * self.unit,
            self.y - b * self.unit,
            ra * self.unit,
            rb * self.unit,
            material,
        )

    def limb(
        self, material: int, start: tuple[float, float], end: tuple[float, float], width: float
    ) -> None:
        (a, b), (c, d) = start, end
        norm = math.hypot(c - a, d - b) or 1.0
        across, along = -(d - b) / norm * width / 2, (c - a) / norm * width / 2
        self.shape(
            material,
            (a + across, b + along),
            (c + across, d + along),
            (c - across, d - along),
            (a - across, b - along),
        )


def pedestrian(canvas: Canvas, dice: Dice, x: float, z: float) -> None:
    """A person standing or walking at (x, z) m: legs, torso, arms, head, hair, perhaps a bag. 1.15–1.9 m tall."""
    child = dice.chance(0.12)
    figure = _Figure(
        canvas, x, z, dice(0.68, 0.82) if child else dice(0.95, 1.1), dice.pick((-1.0, 1.0))
    )
    top, legs = dice.pick(TOPS), dice.pick(TROUSERS)
    cloth = dice.tint(_CLOTH[top.split()[0]], 0.08)
    shirt = canvas.material(top, cloth, z, 0.2, 0.06)
    sleeve = canvas.material(top, tuple(c * 0.78 for c in cloth), z, -0.2, 0.06)
    leg_colour = dice.tint(_LEGWEAR[legs], 0.08)
    leg = canvas.material(legs, leg_colour, z, 0.0, 0.06)
    far_leg = canvas.material(legs, tuple(c * 0.75 for c in leg_colour), z, -0.2, 0.06)
    skin = canvas.material("face", dice.tint(dice.pick(_SKIN), 0.04), z, 0.2, 0.02)
    fair = dice.chance(0.4)
    hair_colour = (
        (0.70, 0.55, 0.32) if fair else dice.pick(((0.12, 0.09, 0.08), (0.28, 0.18, 0.12)))
    )
    hair = canvas.material("fair hair" if fair else "dark hair", hair_colour, z, 0.0, 0.04)
    bag = canvas.material(
        "bag", dice.tint(dice.pick(((0.45, 0.16, 0.12), (0.20, 0.22, 0.16), (0.55, 0.42, 0.20)))), z
    )
    canvas.cast(x, z, 0.28, 1.7)
    canvas.blob_shadow(x, z, 0.35, 0.2)

    view = dice.below(3)
    stride = dice(0.04, 0.14) if view == 0 else dice(0.0, 0.04)
    figure.limb(far_leg, (0.08, 0.95), (0.10 + stride, 0.0), 0.26)
    figure.limb(leg, (-0.08, 0.95), (-0.10 - stride, 0.0), 0.26)
    if legs == "skirt":
        figure.shape(leg, (-0.19, 0.98), (0.19, 0.98), (0.29, 0.42), (-0.29, 0.42))
    width = 0.19 if view == 0 else 0.25
    swing = stride * 0.8
    figure.limb(sleeve, (width, 1.40), (width + 0.07 + swing * 0.5, 0.88), 0.14)
    figure.shape(shirt, (-width, 1.46), (width, 1.46), (width * 0.92, 0.86), (-width * 0.92, 0.86))
    figure.limb(sleeve, (-width, 1.40), (-width - 0.07 - swing * 0.5, 0.88), 0.14)
    carried = dice.below(4)
    if carried == 0:
        figure.shape(
            bag,
            (-width - 0.20, 0.95),
            (-width + 0.06, 0.95),
            (-width + 0.08, 0.58),
            (-width - 0.22, 0.58),
        )
    elif carried == 1:
        figure.shape(
            bag,
            (-width * 0.8, 1.40),
            (width * 0.8, 1.40),
            (width * 0.85, 1.02),
            (-width * 0.85, 1.02),
        )
    figure.oval(hair, 0.0, 1.64, 0.15, 0.165)
    if view == 0:
        figure.oval(skin, 0.05, 1.60, 0.10, 0.12)
    elif view == 1:
        figure.oval(skin, 0.0, 1.59, 0.115, 0.125)


def cyclist(canvas: Canvas, dice: Dice, x: float, z: float, across: bool, away: bool) -> None:
    """A rider on a bicycle at (x, z) m, seen from the side (`across`), from behind (`away`) or from the front."""
    figure = _Figure(canvas, x, z, dice(0.97, 1.12), dice.pick((-1.0, 1.0)))
    jersey_name = dice.pick(JERSEYS)
    cloth = dice.tint(_CLOTH[jersey_name.split()[0]], 0.06)
    jersey = canvas.material(jersey_name, cloth, z, 0.2, 0.05)
    sleeve = canvas.material(jersey_name, tuple(c * 0.78 for c in cloth), z, -0.2, 0.05)
    leg_colour = dice.tint(dice.pick(((0.10, 0.10, 0.12), (0.20, 0.24, 0.34), (0.33, 0.32, 0.30))))
    leg = canvas.material("cycling trousers", leg_colour, z, 0.0, 0.04)
    far_leg = canvas.material(
        "cycling trousers", tuple(c * 0.75 for c in leg_colour), z, -0.2, 0.04
    )
    skin = canvas.material("cyclist's face", dice.tint(dice.pick(_SKIN), 0.04), z, 0.2, 0.02)
    helmet_colour = dice.pick(
        ((0.92, 0.92, 0.90), (0.75, 0.12, 0.12), (0.10, 0.10, 0.12), (0.15, 0.35, 0.65))
    )
    helmet = canvas.material("helmet", helmet_colour, z, 0.4, 0.02)
    frame = canvas.material(
        "bicycle frame",
        dice.tint(dice.pick(((0.65, 0.12, 0.10), (0.12, 0.25, 0.55), (0.12, 0.12, 0.13)))),
        z,
    )
    tyre = canvas.material("bicycle wheel", (0.08, 0.08, 0.09), z)
    spokes = canvas.material("bicycle wheel", dice.tint((0.44, 0.44, 0.45), 0.05), z)
    canvas.cast(x, z, 0.8 if across else 0.28, 1.6)
    canvas.blob_shadow(x, z, 0.85 if across else 0.3, 0.35)
    if across:
        for hub in (-0.55, 0.55):
            figure.oval(tyre, hub, 0.35, 0.37, 0.37)
            figure.oval(spokes, hub, 0.35, 0.27, 0.27)
        figure.limb(far_leg, (-0.22, 0.95), (0.12, 0.62), 0.19)
        figure.limb(far_leg, (0.12, 0.62), (0.02, 0.18), 0.16)
        for start, end in (
            ((-0.55, 0.35), (-0.2, 0.82)),
            ((-0.2, 0.82), (0.42, 0.84)),
            ((0.0, 0.33), (0.42, 0.84)),
            ((-0.55, 0.35), (0.0, 0.33)),
            ((0.55, 0.35), (0.40, 0.98)),
            ((0.0, 0.33), (-0.2, 0.82)),
        ):
            figure.limb(frame, start, end, 0.09)
        figure.limb(leg, (-0.24, 0.97), (0.14, 0.70), 0.21)
        figure.limb(leg, (0.14, 0.70), (-0.04, 0.25), 0.17)
        figure.shape(
            jersey, (-0.36, 0.92), (-0.12, 0.86), (0.32, 1.34), (0.12, 1.56), (-0.05, 1.45)
        )
        figure.limb(sleeve, (0.18, 1.38), (0.44, 1.02), 0.13)
        figure.oval(skin, 0.34, 1.60, 0.13, 0.15)
        figure.oval(helmet, 0.30, 1.68, 0.18, 0.12)
        return
    figure.limb(tyre, (0.0, 0.0), (0.0, 0.68), 0.13)
    figure.limb(far_leg, (0.11, 0.95), (0.15, 0.22), 0.19)
    figure.limb(leg, (-0.11, 0.95), (-0.15, 0.45), 0.20)
    figure.limb(frame, (-0.32, 1.02), (0.32, 1.02), 0.09)
    figure.limb(sleeve, (0.22, 1.42), (0.32, 1.04), 0.15)
    figure.limb(sleeve, (-0.22, 1.42), (-0.32, 1.04), 0.15)
    figure.shape(jersey, (-0.24, 1.48), (0.24, 1.48), (0.20, 0.84), (-0.20, 0.84))
    figure.oval(skin, 0.0, 1.61, 0.13, 0.15)
    figure.oval(helmet, 0.0, 1.66 if away else 1.71, 0.15, 0.15 if away else 0.10)


_PAINT_COLOURS = {
    "white": (0.90, 0.90, 0.90),
    "black": (0.10, 0.10, 0.12),
    "silver": (0.62, 0.63, 0.65),
    "red": (0.66, 0.10, 0.10),
    "blue": (0.14, 0.24, 0.52),
    "green": (0.14, 0.34, 0.24),
    "yellow": (0.88, 0.70, 0.14),
}


# length, width, height, belt line, cabin bottom (rear, front), cabin top (rear, front);
# along-positions as parts of the length
_BODIES = (
    (3.9, 1.75, 1.50, 0.92, (-0.50, 0.22), (-0.40, 0.06)),
    (4.5, 1.80, 1.45, 0.90, (-0.36, 0.24), (-0.22, 0.08)),
    (4.6, 1.85, 1.75, 1.05, (-0.50, 0.24), (-0.47, 0.10)),
    (5.0, 1.95, 2.25, 1.25, (-0.50, 0.42), (-0.50, 0.30)),
)


_BOXY = (
    (3.4, 1.55, 1.45, 0.85, (-0.48, 0.20), (-0.44, 0.12)),
    (4.2, 1.65, 1.45, 0.88, (-0.30, 0.20), (-0.24, 0.14)),
    (4.4, 1.80, 2.05, 1.10, (-0.50, 0.46), (-0.50, 0.40)),
)


_TURNS = tuple(k * 0.6283 for k in range(10))


def _is_front(points: list[tuple[float, float]]) -> bool:
    """Whether a face, its corners counter-clockwise seen from outside, looks at the camera."""
    area = 0.0
    for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1]):
        area += x0 * y1 - x1 * y0
    return area < 0


def _between(face: list, low: float, high: float, left: float, right: float) -> list:
    """A quadrilateral inside a face given by corners bottom-left, bottom-right, top-right, top-left."""

    def at(s: float, t: float) -> tuple[float, float, float]:
        a, b, c, d = face
        return tuple(
            (a[i] * (1 - s) + b[i] * s) * (1 - t) + (d[i] * (1 - s) + c[i] * s) * t
            for i in range(3)
        )

    return [at(left, low), at(right, low), at(right, high), at(left, high)]


def car(canvas: Canvas, dice: Dice, x: float, z: float, heading: float, boxy: bool = False) -> None:
    """Draw a car standing at (x, z) m; heading 0 drives away from the camera, π towards it, ±π/2 across."""
    length, width, height, belt, bottom, top = dice.pick(_BOXY if boxy else _BODIES)
    paint = dice.pick(PAINTS)
    rgb = dice.tint(_PAINT_COLOURS[paint], 0.07)
    if boxy:
        rgb = tuple(0.75 * c + 0.13 for c in rgb)
    sine, cosine = math.sin(heading), math.cos(heading)
    sun_side = 1.0 if canvas.sun[0] * cosine < 0 else -1.0
    flank_sun = canvas.material(f"{paint} flank", rgb, z, 0.5, 0.02)
    flank_shade = canvas.material(f"{paint} flank", rgb, z, -0.5, 0.02)
    end = canvas.material(f"{paint} end", tuple(c * 0.9 for c in rgb), z, -0.1, 0.02)
    deck = canvas.material(
        f"{paint} top", tuple(min(1.0, c * 1.12 + 0.06) for c in rgb), z, 0.8, 0.02
    )
    cabin_sun = canvas.material(f"{paint} top", rgb, z, 0.5, 0.02)
    cabin_shade = canvas.material(f"{paint} top", rgb, z, -0.3, 0.02)
    glass = dice.tint((0.17, 0.21, 0.26), 0.08)
    screen = canvas.material("windscreen", tuple(c * 1.3 for c in glass), z, 0.2, 0.03)
    gleam = canvas.material("windscreen", tuple(c * 1.3 + 0.13 for c in glass), z, 0.2, 0.03)
    window = canvas.material("side window", glass, z, 0.0, 0.03)
    tyre = canvas.material("wheel", (0.07, 0.07, 0.08), z, 0.0, 0.02)
    hub = canvas.material("wheel", dice.tint((0.55, 0.55, 0.57)), z, 0.0, 0.02)
    bumper = canvas.material("bumper", (0.12, 0.12, 0.13), z, 0.0, 0.02)
    head = canvas.material("head lamp", (0.88, 0.88, 0.82), z, 0.3, 0.0, (1.0, 0.95, 0.75))
    tail = canvas.material("tail lamp", (0.62, 0.06, 0.05), z, 0.3, 0.0, (1.0, 0.12, 0.08))
    plate = canvas.material("bumper", (0.88, 0.84, 0.55), z, 0.0, 0.0)

    def world(along: float, across: float, up: float) -> tuple[float, float, float]:
        return x + along * sine + across * cosine, up, z + along * cosine - across * sine

    def visible(face: list) -> bool:
        return _is_front([canvas.project(*corner) for corner in face])

    def slab(rear: tuple, front: tuple, low: float, high: float, inset: float) -> dict[str, list]:
        """Faces of a box whose bottom spans `rear[0]`…`front[0]` along and whose top `rear[1]`…`front[1]`, narrowed by `inset`."""
        half, upper = width / 2, width / 2 - inset
        corners = {
            (end_, side, level): world(span[level], (half, upper)[level] * side, (low, high)[level])
            for end_, span in ((0, rear), (1, front))
            for side in (-1, 1)
            for level in (0, 1)
        }

        def face(a: tuple, b: tuple) -> list:
            return [corners[(*a, 0)], corners[(*b, 0)], corners[(*b, 1)], corners[(*a, 1)]]

        return {
            "rear": face((0, -1), (0, 1)),
            "right": face((0, 1), (1, 1)),
            "front": face((1, 1), (1, -1)),
            "left": face((1, -1), (0, -1)),
            "top": [
                corners[(0, -1, 1)],
                corners[(0, 1, 1)],
                corners[(1, 1, 1)],
                corners[(1, -1, 1)],
            ],
        }

    half = length / 2
    ends = length * 0.02
    canvas.shade(
        [
            world(a, b, 0.0)[::2]
            for a, b in ((-half, -0.95), (half, -0.95), (half, 0.95), (-half, 0.95))
        ]
    )
    canvas.cast(x, z, half * abs(sine) + width / 2 * abs(cosine), height * 0.9)
    body = slab((-half, -half + ends), (half, half - ends), 0.22, belt, 0.06)
    cabin = slab(
        (bottom[0] * length, top[0] * length),
        (bottom[1] * length, top[1] * length),
        belt,
        height,
        0.2,
    )
    underside = slab((-half + 0.1, -half), (half - 0.1, half), 0.05, 0.3, 0.0)
    for name in ("rear", "front", "left", "right"):
        if visible(underside[name]):
            canvas.quad(underside[name], bumper)
    if visible(body["top"]):
        canvas.quad(body["top"], deck)
    for name in ("rear", "front", "left", "right"):
        face = body[name]
        if not visible(face):
            continue
        if name in ("left", "right"):
            lit = (1.0 if name == "right" else -1.0) == sun_side
            canvas.quad(face, flank_sun if lit else flank_shade)
            across = (1 if name == "right" else -1) * (width / 2 + 0.01)
            radius = 0.31 * height / 1.5
            for along in (-0.31 * length, 0.31 * length):
                for material, size in ((tyre, 1.0), (hub, 0.55)):
                    canvas.quad(
                        [
                            world(
                                along + radius * size * math.cos(turn),
                                across,
                                radius + radius * size * math.sin(turn),
                            )
                            for turn in _TURNS
                        ],
                        material,
                    )
        else:
            lamp = tail if name == "rear" else head
            canvas.quad(face, end)
            canvas.quad(_between(face, 0.0, 0.27, 0.0, 1.0), bumper)
            canvas.quad(_between(face, 0.52, 0.80, 0.03, 0.22), lamp)
            canvas.quad(_between(face, 0.52, 0.80, 0.78, 0.97), lamp)
            canvas.quad(_between(face, 0.18, 0.42, 0.34, 0.66), plate)
    for name in ("rear", "front", "left", "right"):
        face = cabin[name]
        if not visible(face):
            continue
        if name in ("left", "right"):
            lit = (1.0 if name == "right" else -1.0) == sun_side
            canvas.quad(face, cabin_sun if lit else cabin_shade)
            canvas.quad(_between(face, 0.08, 0.86, 0.08, 0.47), window)
            canvas.quad(_between(face, 0.08, 0.86, 0.53, 0.92), window)
        else:
            canvas.quad(face, cabin_shade)
            canvas.quad(_between(face, 0.06, 0.88, 0.07, 0.93), screen)
            canvas.quad(_between(face, 0.50, 0.88, 0.09, 0.60), gleam)
    if visible(cabin["top"]):
        canvas.quad(cabin["top"], deck)
