"""Buildings and fences: walls standing along the street or across it, with pitched or flat roofs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from gss_lite.data.street.canvas import FACADE_SLOTS, Canvas, Dice
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


_LAMP_LIGHT = (1.0, 0.78, 0.42)


@dataclass(frozen=True)
class Town:
    """How a town builds: the ranges (least, most) its houses, streets and plants are drawn from."""

    styles: tuple[str, ...] = FACADES
    storeys: tuple[int, int] = (1, 3)
    storey: tuple[float, float] = (2.7, 3.3)
    plot: tuple[float, float] = (7.0, 15.0)
    period: tuple[float, float] = (1.9, 3.2)
    road: tuple[float, float] = (2.9, 4.2)
    pavement: tuple[float, float] = (3.6, 5.4)
    pitched: float = 0.55
    roof_rise: tuple[float, float] = (1.5, 2.8)
    roofs: tuple[tuple[float, float, float], ...] = _ROOF_COLOURS
    timber: float = 0.0
    shops: float = 0.35
    species: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    tree_share: float = 0.5
    boxy_cars: bool = False
    wall_gain: tuple[float, float, float] = (1.0, 1.0, 1.0)


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
    """Materials of one house: first wall slot (all `FACADE_SLOTS` consecutive) and the roof."""
    base = tuple(
        min(1.0, c * g) for c, g in zip(dice.tint(_WALL_COLOURS[style], 0.08), town.wall_gain)
    )
    gain = dice(0.72, 1.05)
    ground = tuple(c * gain for c in base)
    glass = dice.tint((0.25, 0.30, 0.36), 0.08)
    trim = (
        (0.24, 0.17, 0.13)
        if timber
        else dice.tint(dice.pick(((0.88, 0.87, 0.84), (0.40, 0.36, 0.32), base)), 0.05)
    )
    rough = 0.12 if "brick" in style else 0.05
    slots = (
        ("upper wall", base, rough, (0, 0, 0)),
        ("ground floor", ground, rough, (0, 0, 0)),
        ("window", glass, 0.05, (0, 0, 0)),
        ("door", dice.tint(dice.pick(_DOOR_COLOURS)), 0.03, (0, 0, 0)),
        ("shop window", tuple(c * 1.1 for c in glass), 0.1, tuple(c * 0.8 for c in _LAMP_LIGHT)),
        ("upper wall", trim, 0.03, (0, 0, 0)),
        ("window", glass, 0.05, tuple(c * dice(0.6, 1.0) for c in _LAMP_LIGHT)),
    )
    first = len(canvas.rgb)
    for part, rgb, grain, emit in slots:
        canvas.material(f"{style} {part}", rgb, depth, facing, grain, emit, wall=len(canvas.walls))
    return first, canvas.material(
        f"{style} roof", dice.tint(dice.pick(town.roofs), 0.07), depth, facing * 0.5 + 0.3, 0.1
    )


def building(
    canvas: Canvas,
    dice: Dice,
    town: Town,
    side: int,
    wall: float,
    near: float,
    far: float,
    facing: float,
) -> None:
    """A house on plot Z ∈ [near, far], its front on the plane X = wall; side −1 left, +1 right; drawn roof first."""
    style = dice.pick(town.styles)
    timber = style == "white plaster" and dice.chance(town.timber)
    storey, ground_floor = dice(*town.storey), dice(2.9, 3.7)
    storeys = town.storeys[0] + dice.below(town.storeys[1] - town.storeys[0] + 1)
    eaves = ground_floor + storeys * storey - dice(0.0, 0.5)
    half, low = dice(0.19, 0.32), dice(0.18, 0.3)
    origin, period = near + dice(0.0, 1.0), dice(*town.period)
    details = (
        origin,
        period,
        ground_floor,
        storey,
        half,
        low,
        dice(0.72, 0.84),
        float(2 + dice.below(3)),
        float(dice.chance(town.shops)),
        float(timber),
        0.0,
    )
    back = wall + side * 9.0
    pitched, rise = dice.chance(town.pitched), dice(*town.roof_rise)
    chimney = dice.chance(0.5)
    end_first, roof = _wall_materials(canvas, dice, style, town, near, -0.2, timber)
    canvas.walls.append((1.0, near, *details))
    first = len(canvas.rgb)
    for slot in range(FACADE_SLOTS):
        canvas.twin(end_first + slot, facing, len(canvas.walls))
    canvas.walls.append((0.0, wall, *details))

    start = max(near, 1.0)
    if pitched:
        ridge = wall + side * 4.5
        if chimney:
            z = near + (far - near) * 0.3
            canvas.quad(
                [
                    (ridge, eaves, z),
                    (ridge, eaves + rise + 1.3, z),
                    (ridge - side * 0.9, eaves + rise + 1.3, z),
                    (ridge - side * 0.9, eaves, z),
                ],
                end_first + 1,
            )
        canvas.quad(
            [
                (wall, eaves, far),
                (wall, eaves, start),
                (ridge, eaves + rise, start),
                (ridge, eaves + rise, far),
            ],
            roof,
        )
    if near > 1.5:
        canvas.quad(
            [(wall, 0, near), (wall, eaves, near), (back, eaves, near), (back, 0, near)], end_first
        )
        if pitched:
            canvas.quad(
                [(wall, eaves, near), (wall + side * 4.5, eaves + rise, near), (back, eaves, near)],
                end_first,
            )
    canvas.quad([(wall, 0, start), (wall, eaves, start), (wall, eaves, far), (wall, 0, far)], first)
    over = wall - side * 0.25
    for low, plane in ((eaves, wall), (eaves + 0.25, over)):
        canvas.quad(
            [
                (over, eaves - 0.05, start),
                (plane, low, start),
                (plane, low, far),
                (over, eaves - 0.05, far),
            ],
            roof,
        )
    dx, _ = canvas.sun
    if dx * side < 0:
        canvas.shade(
            [(wall, start), (wall, far), (wall + eaves * dx, far), (wall + eaves * dx, start)]
        )


def backdrop(
    canvas: Canvas, dice: Dice, town: Town, left: float, right: float, depth: float
) -> None:
    """A house that closes the street: its front on the plane Z = depth."""
    style = dice.pick(town.styles)
    storey = dice(*town.storey)
    eaves = 3.2 + storey * (town.storeys[0] + dice.below(2))
    first, roof = _wall_materials(canvas, dice, style, town, depth, 0.2, False)
    canvas.walls.append(
        (
            1.0,
            depth,
            left,
            dice(*town.period) * 1.4,
            3.2,
            storey,
            0.26,
            0.25,
            0.8,
            3.0,
            float(dice.chance(0.3)),
            0.0,
            0.0,
        )
    )
    if dice.chance(town.pitched):
        inset, rise = dice(0.0, 3.0), dice(*town.roof_rise) * 1.3
        canvas.quad(
            [
                (left, eaves, depth),
                (left + inset, eaves + rise, depth),
                (right - inset, eaves + rise, depth),
                (right, eaves, depth),
            ],
            roof,
        )
    canvas.quad(
        [(left, 0, depth), (left, eaves, depth), (right, eaves, depth), (right, 0, depth)], first
    )


_FENCE_LOOKS = {
    "wooden fence": ((0.52, 0.38, 0.25), (0.38, 0.27, 0.18), 4.0),
    "white picket": ((0.84, 0.84, 0.81), (0.92, 0.92, 0.90), 5.0),
    "iron railing": ((0.22, 0.26, 0.24), (0.10, 0.11, 0.12), 5.0),
    "brick wall": ((0.55, 0.33, 0.27), (0.68, 0.62, 0.55), 0.0),
    "guard rail": ((0.62, 0.64, 0.66), (0.45, 0.46, 0.48), 0.0),
}


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
    """A fence of panels between posts on the plane X = plane, cut into Z `spans`; returns (depth, draw) for each of them."""
    panel, posts, slats = _FENCE_LOOKS[kind]
    panel, posts = dice.tint(panel, 0.08), dice.tint(posts, 0.06)
    panel_slots = (2, 6)
    first = len(canvas.rgb)
    for slot in range(FACADE_SLOTS):
        part, rgb = ("panel", panel) if slot in panel_slots else ("posts", posts)
        canvas.material(f"{kind} {part}", rgb, near, facing, 0.08, wall=len(canvas.walls))
    low = 0.3 if kind == "guard rail" else 0.1
    # One "storey" of the fence's height with panels for windows: the wall's own pattern draws it.
    canvas.walls.append(
        (
            0.0,
            plane,
            near,
            dice(1.8, 2.6),
            -0.01,
            height * 1.02,
            0.43,
            low,
            0.86,
            0.0,
            0.0,
            0.0,
            slats,
        )
    )
    dx, _ = canvas.sun

    def draw(start: float, end: float) -> None:
        canvas.quad(
            [(plane, 0, start), (plane, height, start), (plane, height, end), (plane, 0, end)],
            first,
        )
        canvas.shade(
            [(plane, start), (plane, end), (plane + height * dx, end), (plane + height * dx, start)]
        )

    return [(start, partial(draw, max(start, 1.0), end)) for start, end in spans]
