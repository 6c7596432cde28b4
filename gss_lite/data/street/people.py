"""People on foot and on bicycles: upright flat figures, seen from the front, the side or behind."""

from __future__ import annotations

import math

from gss_lite.data.street.canvas import Canvas, Dice, scaled
from gss_lite.data.street.classes import JERSEYS, SHIRTS, TROUSERS

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
_FAIR_HAIR = (0.70, 0.55, 0.32)
_DARK_HAIR = ((0.12, 0.09, 0.08), (0.28, 0.18, 0.12))
_BAGS = ((0.45, 0.16, 0.12), (0.20, 0.22, 0.16), (0.55, 0.42, 0.20))
_CYCLING_TROUSERS = ((0.10, 0.10, 0.12), (0.20, 0.24, 0.34), (0.33, 0.32, 0.30))
_HELMETS = ((0.92, 0.92, 0.90), (0.75, 0.12, 0.12), (0.10, 0.10, 0.12), (0.15, 0.35, 0.65))
_FRAMES = ((0.65, 0.12, 0.10), (0.12, 0.25, 0.55), (0.12, 0.12, 0.13))

Point = tuple[float, float]


class _Figure:
    """An upright figure in its own coordinates: metres right of and above the point (x, 0, z)."""

    def __init__(self, canvas: Canvas, x: float, z: float, size: float, flip: float) -> None:
        self.canvas, self.flip = canvas, flip
        self.unit = canvas.pixels_per_metre(z) * size
        self.x, self.y = canvas.project(x, 0.0, z)

    def shape(self, material: int, *points: Point) -> None:
        """Fill the polygon through these points."""
        self.canvas.polygon(
            [(self.x + self.flip * a * self.unit, self.y - b * self.unit) for a, b in points],
            material,
        )

    def oval(self, material: int, a: float, b: float, ra: float, rb: float) -> None:
        """Fill an ellipse; its centre is (a, b), its half axes are ra and rb."""
        x = self.x + self.flip * a * self.unit
        y = self.y - b * self.unit
        self.canvas.ellipse(x, y, ra * self.unit, rb * self.unit, material)

    def limb(self, material: int, start: Point, end: Point, width: float) -> None:
        """Fill a bar of this width between two points."""
        (a, b), (c, d) = start, end
        norm = math.hypot(c - a, d - b) or 1.0
        across = -(d - b) / norm * width / 2
        along = (c - a) / norm * width / 2
        self.shape(
            material,
            (a + across, b + along),
            (c + across, d + along),
            (c - across, d - along),
            (a - across, b - along),
        )


def pedestrian(canvas: Canvas, dice: Dice, x: float, z: float) -> None:
    """Draw a person of 1.15 to 1.9 m at (x, z) m, who stands or walks, perhaps with a bag."""
    child = dice.chance(0.12)
    size = dice(0.68, 0.82) if child else dice(0.95, 1.1)
    figure = _Figure(canvas, x, z, size, dice.pick((-1.0, 1.0)))
    top = dice.pick(SHIRTS)
    legs = dice.pick(TROUSERS)
    cloth = dice.tint(_CLOTH[top], 0.08)
    shirt = canvas.material(f"{top} shirt", cloth, z, 0.2, 0.06)
    sleeve = canvas.material(f"{top} shirt", scaled(cloth, 0.78), z, -0.2, 0.06)
    leg_colour = dice.tint(_LEGWEAR[legs], 0.08)
    leg = canvas.material(legs, leg_colour, z, 0.0, 0.06)
    far_leg = canvas.material(legs, scaled(leg_colour, 0.75), z, -0.2, 0.06)
    skin = canvas.material("face", dice.tint(dice.pick(_SKIN), 0.04), z, 0.2, 0.02)
    fair = dice.chance(0.4)
    hair_colour = _FAIR_HAIR if fair else dice.pick(_DARK_HAIR)
    hair = canvas.material("fair hair" if fair else "dark hair", hair_colour, z, 0.0, 0.04)
    bag = canvas.material("bag", dice.tint(dice.pick(_BAGS)), z)
    canvas.cast(x, z, 0.28, 1.7)
    canvas.blob_shadow(x, z, 0.35, 0.2)

    view = dice.below(3)  # from the side, from the front, from behind
    stride = dice(0.04, 0.14) if view == 0 else dice(0.0, 0.04)
    figure.limb(far_leg, (0.08, 0.95), (0.10 + stride, 0.0), 0.26)
    figure.limb(leg, (-0.08, 0.95), (-0.10 - stride, 0.0), 0.26)
    if legs == "skirt":
        figure.shape(leg, (-0.19, 0.98), (0.19, 0.98), (0.29, 0.42), (-0.29, 0.42))
    w = 0.19 if view == 0 else 0.25  # half the width of the shoulders
    swing = stride * 0.8
    figure.limb(sleeve, (w, 1.40), (w + 0.07 + swing * 0.5, 0.88), 0.14)
    figure.shape(shirt, (-w, 1.46), (w, 1.46), (w * 0.92, 0.86), (-w * 0.92, 0.86))
    figure.limb(sleeve, (-w, 1.40), (-w - 0.07 - swing * 0.5, 0.88), 0.14)
    carried = dice.below(4)
    if carried == 0:
        figure.shape(
            bag, (-w - 0.20, 0.95), (-w + 0.06, 0.95), (-w + 0.08, 0.58), (-w - 0.22, 0.58)
        )
    elif carried == 1:
        figure.shape(bag, (-w * 0.8, 1.40), (w * 0.8, 1.40), (w * 0.85, 1.02), (-w * 0.85, 1.02))
    figure.oval(hair, 0.0, 1.64, 0.15, 0.165)
    if view == 0:
        figure.oval(skin, 0.05, 1.60, 0.10, 0.12)
    elif view == 1:
        figure.oval(skin, 0.0, 1.59, 0.115, 0.125)


_FRAME_BARS = (
    ((-0.55, 0.35), (-0.2, 0.82)),
    ((-0.2, 0.82), (0.42, 0.84)),
    ((0.0, 0.33), (0.42, 0.84)),
    ((-0.55, 0.35), (0.0, 0.33)),
    ((0.55, 0.35), (0.40, 0.98)),
    ((0.0, 0.33), (-0.2, 0.82)),
)


def cyclist(canvas: Canvas, dice: Dice, x: float, z: float, across: bool, away: bool) -> None:
    """Draw a rider at (x, z) m, seen from the side (`across`), from behind (`away`) or in front."""
    figure = _Figure(canvas, x, z, dice(0.97, 1.12), dice.pick((-1.0, 1.0)))
    top = dice.pick(JERSEYS)
    cloth = dice.tint(_CLOTH[top], 0.06)
    jersey = canvas.material(f"{top} jersey", cloth, z, 0.2, 0.05)
    sleeve = canvas.material(f"{top} jersey", scaled(cloth, 0.78), z, -0.2, 0.05)
    leg_colour = dice.tint(dice.pick(_CYCLING_TROUSERS))
    leg = canvas.material("cycling trousers", leg_colour, z, 0.0, 0.04)
    far_leg = canvas.material("cycling trousers", scaled(leg_colour, 0.75), z, -0.2, 0.04)
    skin = canvas.material("cyclist's face", dice.tint(dice.pick(_SKIN), 0.04), z, 0.2, 0.02)
    helmet = canvas.material("helmet", dice.pick(_HELMETS), z, 0.4, 0.02)
    frame = canvas.material("bicycle frame", dice.tint(dice.pick(_FRAMES)), z)
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
        for start, end in _FRAME_BARS:
            figure.limb(frame, start, end, 0.09)
        figure.limb(leg, (-0.24, 0.97), (0.14, 0.70), 0.21)
        figure.limb(leg, (0.14, 0.70), (-0.04, 0.25), 0.17)
        torso = ((-0.36, 0.92), (-0.12, 0.86), (0.32, 1.34), (0.12, 1.56), (-0.05, 1.45))
        figure.shape(jersey, *torso)
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
