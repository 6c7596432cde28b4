"""Buildings and fences: walls along the street or across it, with pitched or flat roofs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from gss_lite.data.street.canvas import FACADE_SLOTS, Canvas, Colour, Dice, Wall, scaled
from gss_lite.data.street.classes import FACADES

_WALL_COLOURS = {
    "red brick": (0.55, 0.29, 0.23),
    "brown brick": (0.45, 0.35, 0.28),
    "white plaster": (0.84, 0.82, 0.78),
    "ochre plaster": (0.80, 0.66, 0.42),
    "sandstone": (0.69, 0.61, 0.49),
    "concrete": (0.54, 0.55, 0.56),
}
_ROOF_COLOURS = ((0.36, 0.22, 0.18), (0.28, 0.28, 0.31), (0.45, 0.30, 0.22), (0.33, 0.31, 0.28))
_DOOR_COLOURS = (
    (0.22, 0.13, 0.10),
    (0.13, 0.24, 0.17),
    (0.16, 0.18, 0.38),
    (0.50, 0.12, 0.10),
    (0.70, 0.70, 0.67),
)
_BEAMS = (0.24, 0.17, 0.13)
_LAMP_LIGHT = (1.0, 0.78, 0.42)
_DARK = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Town:
    """The style of a town: ranges (least, most) for its houses, streets and plants.

    Lengths are in metres; `pitched`, `timber`, `shops` and `tree_share` are probabilities.
    """

    styles: tuple[str, ...] = FACADES
    storeys: tuple[int, int] = (1, 3)
    storey: tuple[float, float] = (2.7, 3.3)
    plot: tuple[float, float] = (7.0, 15.0)
    period: tuple[float, float] = (1.9, 3.2)
    road: tuple[float, float] = (2.9, 4.2)
    pavement: tuple[float, float] = (3.6, 5.4)
    pitched: float = 0.55
    roof_rise: tuple[float, float] = (1.5, 2.8)
    roofs: tuple[Colour, ...] = _ROOF_COLOURS
    timber: float = 0.0
    shops: float = 0.35
    species: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    tree_share: float = 0.5
    boxy_cars: bool = False
    wall_gain: Colour = (1.0, 1.0, 1.0)


HOME = Town()
ELSEWHERE = Town(
    styles=("red brick", "white plaster", "red brick", "ochre plaster", "white plaster"),
    storeys=(1, 3),
    storey=(2.4, 2.8),
    plot=(4.8, 8.5),
    period=(1.4, 2.1),
    road=(2.6, 3.3),
    pavement=(1.8, 2.8),
    pitched=1.0,
    roof_rise=(2.6, 4.2),
    roofs=((0.58, 0.26, 0.17), (0.50, 0.20, 0.15), (0.62, 0.33, 0.22)),
    timber=0.75,
    shops=0.25,
    species=(3, 4, 2, 3),
    tree_share=0.45,
    boxy_cars=True,
    wall_gain=(1.04, 0.98, 0.90),
)


def _wall_materials(
    canvas: Canvas, dice: Dice, style: str, town: Town, depth: float, facing: float, timber: bool
) -> tuple[int, int]:
    """Register a house's materials → the first of its `FACADE_SLOTS` wall slots, and its roof."""
    paint = dice.tint(_WALL_COLOURS[style], 0.08)
    base = tuple(min(1.0, c * gain) for c, gain in zip(paint, town.wall_gain))
    ground = scaled(base, dice(0.72, 1.05))
    glass = dice.tint((0.25, 0.30, 0.36), 0.08)
    trim = _BEAMS
    if not timber:
        trim = dice.tint(dice.pick(((0.88, 0.87, 0.84), (0.40, 0.36, 0.32), base)), 0.05)
    rough = 0.12 if "brick" in style else 0.05
    slots = (
        ("upper wall", base, rough, _DARK),
        ("ground floor", ground, rough, _DARK),
        ("window", glass, 0.05, _DARK),
        ("door", dice.tint(dice.pick(_DOOR_COLOURS)), 0.03, _DARK),
        ("shop window", scaled(glass, 1.1), 0.1, scaled(_LAMP_LIGHT, 0.8)),
        ("upper wall", trim, 0.03, _DARK),
        ("window", glass, 0.05, tuple(c * dice(0.6, 1.0) for c in _LAMP_LIGHT)),
    )
    first = len(canvas.rgb)
    for part, rgb, grain, emit in slots:
        canvas.material(f"{style} {part}", rgb, depth, facing, grain, emit, wall=len(canvas.walls))
    tiles = dice.tint(dice.pick(town.roofs), 0.07)
    roof = canvas.material(f"{style} roof", tiles, depth, facing * 0.5 + 0.3, 0.1)
    return first, roof


def building(
    canvas: Canvas,
    dice: Dice,
    town: Town,
    side: int,
    plane: float,
    near: float,
    far: float,
    facing: float,
) -> None:
    """Draw a house on the plot Z ∈ [near, far], its front on the plane X = plane.

    `side` is −1 on the left and 1 on the right. The roof is drawn first.
    """
    style = dice.pick(town.styles)
    timber = style == "white plaster" and dice.chance(town.timber)
    storey = dice(*town.storey)
    ground_floor = dice(2.9, 3.7)
    storeys = town.storeys[0] + dice.below(town.storeys[1] - town.storeys[0] + 1)
    eaves = ground_floor + storeys * storey - dice(0.0, 0.5)
    half = dice(0.19, 0.32)
    low = dice(0.18, 0.3)
    front = Wall(
        across=0.0,
        plane=plane,
        origin=near + dice(0.0, 1.0),
        period=dice(*town.period),
        ground_floor=ground_floor,
        storey=storey,
        half=half,
        low=low,
        high=dice(0.72, 0.84),
        door_every=float(2 + dice.below(3)),
        shop=float(dice.chance(town.shops)),
        timber=float(timber),
    )
    pitched = dice.chance(town.pitched)
    rise = dice(*town.roof_rise)
    chimney = dice.chance(0.5)
    gable, roof = _wall_materials(canvas, dice, style, town, near, -0.2, timber)
    canvas.walls.append(front._replace(across=1.0, plane=near))
    first = len(canvas.rgb)
    for slot in range(FACADE_SLOTS):
        canvas.twin(gable + slot, facing, len(canvas.walls))
    canvas.walls.append(front)

    start = max(near, 1.0)
    ridge = plane + side * 4.5
    top = eaves + rise
    if pitched:
        if chimney:
            z = near + (far - near) * 0.3
            edge = ridge - side * 0.9
            stack = [(ridge, eaves), (ridge, top + 1.3), (edge, top + 1.3), (edge, eaves)]
            canvas.front(stack, z, gable + 1)
        slope = [(plane, eaves, far), (plane, eaves, start), (ridge, top, start), (ridge, top, far)]
        canvas.quad(slope, roof)
    if near > 1.5:
        back = plane + side * 9.0
        end = [(plane, 0), (plane, eaves), (back, eaves), (back, 0)]
        canvas.front(end, near, gable)
        if pitched:
            canvas.front([(plane, eaves), (ridge, top), (back, eaves)], near, gable)
    canvas.alongside(plane, start, far, eaves, first)
    gutter = plane - side * 0.25
    for up, inner in ((eaves, plane), (eaves + 0.25, gutter)):
        low, high = (gutter, eaves - 0.05), (inner, up)
        canvas.quad([(*low, start), (*high, start), (*high, far), (*low, far)], roof)
    if canvas.sun[0] * side < 0:
        canvas.shade_wall(plane, start, far, eaves)


def backdrop(
    canvas: Canvas, dice: Dice, town: Town, left: float, right: float, depth: float
) -> None:
    """Draw a house that closes the street: its front on the plane Z = depth."""
    style = dice.pick(town.styles)
    storey = dice(*town.storey)
    eaves = 3.2 + storey * (town.storeys[0] + dice.below(2))
    first, roof = _wall_materials(canvas, dice, style, town, depth, 0.2, False)
    front = Wall(
        across=1.0,
        plane=depth,
        origin=left,
        period=dice(*town.period) * 1.4,
        ground_floor=3.2,
        storey=storey,
        half=0.26,
        low=0.25,
        high=0.8,
        door_every=3.0,
        shop=float(dice.chance(0.3)),
    )
    canvas.walls.append(front)
    if dice.chance(town.pitched):
        inset = dice(0.0, 3.0)
        top = eaves + dice(*town.roof_rise) * 1.3
        slope = [(left, eaves), (left + inset, top), (right - inset, top), (right, eaves)]
        canvas.front(slope, depth, roof)
    canvas.front([(left, 0), (left, eaves), (right, eaves), (right, 0)], depth, first)


_FENCE_LOOKS = {  # colours of the panels and of the posts, slats a metre
    "wooden fence": ((0.52, 0.38, 0.25), (0.38, 0.27, 0.18), 4.0),
    "white picket": ((0.84, 0.84, 0.81), (0.92, 0.92, 0.90), 5.0),
    "iron railing": ((0.22, 0.26, 0.24), (0.10, 0.11, 0.12), 5.0),
    "brick wall": ((0.55, 0.33, 0.27), (0.68, 0.62, 0.55), 0.0),
    "guard rail": ((0.62, 0.64, 0.66), (0.45, 0.46, 0.48), 0.0),
}
_PANEL_SLOTS = (2, 6)


def fence(
    canvas: Canvas,
    dice: Dice,
    kind: str,
    plane: float,
    near: float,
    height: float,
    facing: float,
    spans: list[tuple[float, float]],
) -> list[tuple[float, Callable[[], None]]]:
    """Prepare a fence of panels between posts on the plane X = plane.

    Returns:
        (depth, draw) for each of the `spans`, which are intervals of Z.
    """
    panel, posts, slats = _FENCE_LOOKS[kind]
    panel = dice.tint(panel, 0.08)
    posts = dice.tint(posts, 0.06)
    first = len(canvas.rgb)
    for slot in range(FACADE_SLOTS):
        part, rgb = ("panel", panel) if slot in _PANEL_SLOTS else ("posts", posts)
        canvas.material(f"{kind} {part}", rgb, near, facing, 0.08, wall=len(canvas.walls))
    # A fence uses the pattern of walls: one storey of its height, with panels in place of windows.
    pattern = Wall(
        across=0.0,
        plane=plane,
        origin=near,
        period=dice(1.8, 2.6),
        ground_floor=-0.01,
        storey=height * 1.02,
        half=0.43,
        low=0.3 if kind == "guard rail" else 0.1,
        high=0.86,
        slats=slats,
    )
    canvas.walls.append(pattern)

    def draw(start: float, end: float) -> None:
        canvas.alongside(plane, start, end, height, first)
        canvas.shade_wall(plane, start, end, height)

    return [(start, partial(draw, max(start, 1.0), end)) for start, end in spans]
