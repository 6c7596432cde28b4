"""Details of the large surfaces, pixel by pixel: the ground, the walls and the sky.

The point where a pixel's ray meets its plane has a closed form. The detail at this point depends on
metres on the plane. It is therefore in perspective, and the same at every picture size.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from gss_lite.data.street.canvas import GROUND, SKY, Canvas, Colour, Dice, Wall
from gss_lite.data.street.classes import ASPHALTS, PAVINGS

_GROUND_PARTS = (
    "asphalt",
    "patch",
    "centre line",
    "edge line",
    "yellow line",
    "zebra stripe",
    "stop line",
    "arrow",
    "cycle lane",
    "left pavement",
    "right pavement",
    "left kerb",
    "right kerb",
    "grass",
)
_NUMBER = {part: number for number, part in enumerate(_GROUND_PARTS)}

# Texture units per picture height on everything that is neither ground nor wall.
_SCREEN_TEXTURE = 70.0


@dataclass
class Ground:
    """The street from above: X positions (m) from left to right, and the paint on the road.

    Attributes:
        verges: whether there is a strip of grass on the left and on the right pavement.
        cycle_lane: −1 on the left, 1 on the right, 0 for none.
        zebra, arrows: the depth (m) at which they lie; 0 for none.
        side_streets: (side, near, far): where a side street opens, side −1 left and 1 right.
        patches: (X, Z, half width, half length) of repairs in the asphalt.
    """

    left_wall: float
    left_kerb: float
    right_kerb: float
    right_wall: float
    dash_phase: float
    yellow_centre: bool
    yellow_edges: bool
    edge_lines: bool
    cycle_lane: int
    verges: tuple[bool, bool]
    zebra: float
    arrows: float
    side_streets: list[tuple[int, float, float]] = field(default_factory=list)
    patches: list[tuple[float, float, float, float]] = field(default_factory=list)


@dataclass
class Surfaces:
    """The result of `refine`: arrays (rows, columns) over the samples of the buffer.

    `index` is the material. `depth` is in metres, `shade` is a factor of brightness, and
    `texture_u` and `texture_v` are coordinates in the texture. All but `index` are float32.
    """

    index: np.ndarray
    depth: np.ndarray
    shade: np.ndarray
    texture_u: np.ndarray
    texture_v: np.ndarray


def ground_materials(canvas: Canvas, dice: Dice) -> int:
    """Register a material for each of `_GROUND_PARTS` → the number of the first."""
    kind = dice.below(3)
    asphalts = ((0.30, 0.31, 0.34), (0.47, 0.47, 0.47), (0.42, 0.38, 0.35))
    grey = dice.tint(asphalts[kind], 0.07)
    paint = dice.tint((0.86, 0.86, 0.83), 0.06)
    looks: dict[str, tuple[str, Colour]] = {part: (part, paint) for part in _GROUND_PARTS}
    looks["asphalt"] = ASPHALTS[kind], grey
    looks["patch"] = "patch", tuple(c * dice(0.68, 0.82) for c in grey)
    looks["yellow line"] = "yellow line", dice.tint((0.85, 0.68, 0.18), 0.05)
    lane = dice.pick(((0.52, 0.27, 0.23), (0.28, 0.42, 0.33)))
    looks["cycle lane"] = "cycle lane", dice.tint(lane, 0.05)
    looks["grass"] = "grass", dice.tint((0.33, 0.45, 0.20), 0.08)
    for side in ("left", "right"):
        paving = dice.below(3)
        light_kerb = dice.chance(0.6)
        slabs = ((0.60, 0.59, 0.56), (0.63, 0.50, 0.45), (0.45, 0.44, 0.46))[paving]
        looks[f"{side} pavement"] = PAVINGS[paving], dice.tint(slabs, 0.07)
        kerb = (0.74, 0.73, 0.70) if light_kerb else (0.30, 0.30, 0.31)
        looks[f"{side} kerb"] = "light kerb" if light_kerb else "dark kerb", dice.tint(kerb)
    numbers = [
        canvas.material(*looks[part], 0.0, rough=0.22 if part == "grass" else 0.09)
        for part in _GROUND_PARTS
    ]
    return numbers[0]


def _ground_part(ground: Ground, x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Map ground points x, z (m), both (n,), to indices into `_GROUND_PARTS`."""
    part = np.zeros(x.shape, np.int32)
    _paint_road(ground, x, z, part)
    for side, sign, kerb, wall, verge in (
        ("left", -1, ground.left_kerb, ground.left_wall, ground.verges[0]),
        ("right", 1, ground.right_kerb, ground.right_wall, ground.verges[1]),
    ):
        beyond = (x - kerb) * sign
        open_road = np.zeros(x.shape, bool)
        for street_side, near, far in ground.side_streets:
            if street_side == sign:
                open_road |= (z > near) & (z < far)
        beside = (beyond > 0) & ~open_road
        part[beside] = _NUMBER[f"{side} pavement"]
        part[beside & (beyond < np.maximum(0.2, 0.008 * z))] = _NUMBER[f"{side} kerb"]
        part[beside & ((x - wall) * sign > 0.3)] = _NUMBER["grass"]
        if verge:
            part[beside & (beyond > 0.4) & (beyond < 1.3)] = _NUMBER["grass"]
        part[(beyond > 0) & open_road] = _NUMBER["asphalt"]
    return part


def _paint_road(ground: Ground, x: np.ndarray, z: np.ndarray, part: np.ndarray) -> None:
    """Write patches, lines, arrows and the zebra crossing into `part` (n,)."""
    left, right = ground.left_kerb, ground.right_kerb
    middle = (left + right) / 2
    for px, pz, half_width, half_length in ground.patches:
        part[(np.abs(x - px) < half_width) & (np.abs(z - pz) < half_length)] = _NUMBER["patch"]
    if ground.cycle_lane:
        edge = left if ground.cycle_lane < 0 else right
        part[np.abs(x - edge) < 1.5] = _NUMBER["cycle lane"]
    # Far lines are widened, because they would otherwise be narrower than a pixel.
    line = np.maximum(0.08, 0.006 * z)
    dashes = (z + ground.dash_phase) % 6.0 < 3.2
    if ground.yellow_centre:
        part[np.abs(x - middle) < line * 1.6] = _NUMBER["yellow line"]
    else:
        part[(np.abs(x - middle) < line) & dashes] = _NUMBER["centre line"]
    edge_distance = np.minimum(x - left, right - x)
    if ground.yellow_edges:
        part[np.abs(edge_distance - 0.35) < line] = _NUMBER["yellow line"]
    elif ground.edge_lines:
        part[np.abs(edge_distance - 0.45) < line] = _NUMBER["edge line"]
    if ground.arrows:
        along = z - ground.arrows
        for lane in ((left + middle) / 2, (right + middle) / 2):
            off = np.abs(x - lane)
            head = (along > 2.4) & (along < 4.0) & (off < (4.0 - along) * 0.4)
            shaft = (along > 0) & (along <= 2.4) & (off < 0.14)
            part[head | shaft] = _NUMBER["arrow"]
    if ground.zebra:
        along = z - ground.zebra
        crossing = np.abs(along) < 1.6
        stripes = ((x - left) % 1.1 < 0.58) & crossing
        part[stripes & (edge_distance > 0.3)] = _NUMBER["zebra stripe"]
        part[crossing & ~stripes & (edge_distance > 0)] = _NUMBER["asphalt"]
        stop = (np.abs(along + 2.5) < 0.3) & (x < middle) & (x > left + 0.2)
        part[stop] = _NUMBER["stop line"]


def _wall_part(wall: Wall, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the slot of each wall point (see `FACADE_SLOTS`) and its factor of brightness.

    `wall` holds one array (n,) for each of its values; `u` runs along the wall and `v` up (m).
    """
    column_position = (u - wall.origin) / wall.period
    column = np.floor(column_position)
    across = np.abs(column_position - column - 0.5)
    above = v - wall.ground_floor
    level = np.floor(above / wall.storey)
    is_ground = above < 0
    up = np.where(is_ground, v / np.maximum(wall.ground_floor, 0.1), above / wall.storey - level)

    window = (across < wall.half) & (up > wall.low) & (up < wall.high)
    frame = (across < wall.half + 0.07) & (up > wall.low - 0.05) & (up < wall.high + 0.07)
    diagonal = np.abs(up - (0.5 - across) * 2.2) < 0.09
    beam = (wall.timber > 0) & ~is_ground & ((across > 0.44) | (up < 0.1) | diagonal)
    is_shop = (wall.shop > 0) & is_ground
    has_door = np.mod(column, np.maximum(wall.door_every, 1)) == 0
    door = is_ground & (wall.door_every > 0) & has_door & (across < 0.27) & (up < 0.74)
    # A number in [0, 1) for each window, the same whenever the wall is drawn.
    chance = np.sin(column * 12.9898 + level * 78.233 + wall.origin * 37.719) * 43758.547
    chance -= np.floor(chance)

    part = np.where(is_ground, 1, 0)
    part = np.where(beam | (is_ground & (up > 0.93)) | (frame & ~window & ~is_shop), 5, part)
    part = np.where(window & ~is_shop, np.where(chance < 0.42, 6, 2), part)
    part = np.where(is_shop & (across < 0.43) & (up > 0.12) & (up < 0.74), 4, part)
    part = np.where(is_shop & (up >= 0.74) & (up < 0.93), 5, part)
    part = np.where(door, 3, part)

    glass = (part == 2) | (part == 6) | (part == 4)
    shade = np.where(glass, 0.7 + 0.7 * chance + 0.5 * (up - 0.5), 1.0 - 0.12 * (v < 0.5))
    gap = (wall.slats > 0) & (np.mod(u * np.abs(wall.slats), 1.0) < 0.35)
    return part, shade * np.where(gap, 0.55, 1.0)


def refine(
    canvas: Canvas, ground: Ground, first_ground: int, clouds: np.ndarray, cover: float, skies: int
) -> Surfaces:
    """Split the ground, wall and sky samples of the buffer into their parts.

    Args:
        clouds: a small float32 grid of noise, stretched over the sky.
        cover: the noise above which there is a cloud.
        skies: the first of four sky materials.
    """
    camera = canvas.camera
    buffer = np.array(canvas.image, dtype=np.int32)
    rows, columns = buffer.shape
    index = buffer.ravel()
    y = (np.arange(rows, dtype=np.float32) + 0.5) / canvas.scale
    x = (np.arange(columns, dtype=np.float32) + 0.5 - canvas.middle) / canvas.scale
    depth = np.asarray(canvas.depth, np.float32).take(index)
    shade = np.ones(index.shape, np.float32)
    texture_u = np.tile(x * _SCREEN_TEXTURE, rows)
    texture_v = np.repeat(y * _SCREEN_TEXTURE, columns)
    wall = np.asarray(canvas.wall, np.int32).take(index)

    def rays(at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Map flat positions to distances right of and below the vanishing point.

        The unit is the picture's height.
        """
        row = at // columns
        return x.take(at - row * columns) - camera.vx, y.take(row) - camera.vy

    at = np.flatnonzero(index == GROUND)
    right, below = rays(at)
    z = camera.focal * camera.height / np.maximum(below, 1e-3)
    across = right * z / camera.focal
    index[at] = first_ground + _ground_part(ground, across, z)
    depth[at] = z
    texture_u[at] = across * 3.0
    texture_v[at] = z * 1.5

    at = np.flatnonzero(wall >= 0)
    if at.size:
        walls = Wall(*np.asarray(canvas.walls, np.float32).T.take(wall[at], axis=1))  # (n,) each
        right, below = rays(at)
        right[np.abs(right) < 1e-4] = 1e-4
        faces_us = walls.across > 0
        beside = np.clip(camera.focal * walls.plane / right, 0.5, 400)
        z = np.where(faces_us, walls.plane, beside)
        v = camera.height - below * z / camera.focal
        u = np.where(faces_us, right * z / camera.focal, z)
        part, shade[at] = _wall_part(walls, u, v)
        index[at] += part
        depth[at] = z
        texture_u[at] = u * 2.0
        texture_v[at] = v * 4.0

    at = np.flatnonzero(index == SKY)
    noise = Image.fromarray(clouds).resize((columns, rows), Image.Resampling.BICUBIC)
    density = np.asarray(noise).ravel()[at] - cover
    low = y[at // columns] > camera.vy * 0.6
    index[at] = skies + np.where(density > 0, np.where(density > 0.22, 3, 2), low)
    shade[at] = np.clip(density * 4.0, -1.0, 1.0)
    return Surfaces(
        *(values.reshape(rows, columns) for values in (index, depth, shade, texture_u, texture_v))
    )
