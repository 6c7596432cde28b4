"""Per-pixel detail of the large surfaces: ground (asphalt, markings, kerbs, paving), walls (windows, doors), sky (clouds).

Each pixel's ray meets its plane in closed form; what lies there is decided in metres on that plane,
so the detail is in perspective and the same at every picture size.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from gss_lite.data.street.canvas import GROUND, SKY, SUPERSAMPLE, Canvas, Dice
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


_SCREEN_TEXTURE = 70.0
"""Texture units per picture height on everything that is neither ground nor wall."""


@dataclass
class Ground:
    """The street seen from above: X positions (m) from left to right and what is painted on the road."""

    left_wall: float
    left_kerb: float
    right_kerb: float
    right_wall: float
    dash_phase: float = 0.0
    yellow_centre: bool = False
    yellow_edges: bool = False
    edge_lines: bool = True
    cycle_lane: int = 0
    verges: tuple[bool, bool] = (False, False)
    zebra: float = 0.0
    arrows: float = 0.0
    side_streets: list[tuple[int, float, float]] = field(default_factory=list)
    patches: list[tuple[float, float, float, float]] = field(default_factory=list)


@dataclass
class Surfaces:
    """What `refine` found per buffer pixel, float32 (rows, columns) each: depth in m, brightness factor, texture coordinates."""

    index: np.ndarray
    depth: np.ndarray
    shade: np.ndarray
    texture_u: np.ndarray
    texture_v: np.ndarray


def ground_materials(canvas: Canvas, dice: Dice) -> int:
    """Register the ground's materials in the order of `_GROUND_PARTS`; returns the number of the first."""
    kind = dice.below(3)
    grey = dice.tint(((0.30, 0.31, 0.34), (0.47, 0.47, 0.47), (0.42, 0.38, 0.35))[kind], 0.07)
    paint = dice.tint((0.86, 0.86, 0.83), 0.06)
    colours = {
        "asphalt": (ASPHALTS[kind], grey),
        "patch": ("patch", tuple(c * dice(0.68, 0.82) for c in grey)),
        "yellow line": ("yellow line", dice.tint((0.85, 0.68, 0.18), 0.05)),
        "cycle lane": (
            "cycle lane",
            dice.tint(dice.pick(((0.52, 0.27, 0.23), (0.28, 0.42, 0.33))), 0.05),
        ),
        "grass": ("grass", dice.tint((0.33, 0.45, 0.20), 0.08)),
    }
    for side in ("left", "right"):
        paving = dice.below(3)
        light_kerb = dice.chance(0.6)
        shade = ((0.60, 0.59, 0.56), (0.63, 0.50, 0.45), (0.45, 0.44, 0.46))[paving]
        colours[f"{side} pavement"] = (PAVINGS[paving], dice.tint(shade, 0.07))
        colours[f"{side} kerb"] = (
            ("light kerb", dice.tint((0.74, 0.73, 0.70)))
            if light_kerb
            else ("dark kerb", dice.tint((0.30, 0.30, 0.31)))
        )
    numbers = []
    for part in _GROUND_PARTS:
        fine, rgb = colours.get(part, (part, paint))
        numbers.append(canvas.material(fine, rgb, 0.0, rough=0.22 if part == "grass" else 0.09))
    return numbers[0]


def _ground_part(ground: Ground, x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Index into `_GROUND_PARTS` for ground points x, z (m), both (n,)."""
    number = {part: i for i, part in enumerate(_GROUND_PARTS)}
    part = np.zeros(x.shape, np.int32)
    left, right = ground.left_kerb, ground.right_kerb
    middle = (left + right) / 2
    for px, pz, half_width, half_length in ground.patches:
        part[(np.abs(x - px) < half_width) & (np.abs(z - pz) < half_length)] = number["patch"]
    if ground.cycle_lane:
        edge = left if ground.cycle_lane < 0 else right
        part[np.abs(x - edge) < 1.5] = number["cycle lane"]
    # Far lines are widened a little, as they would otherwise be narrower than a pixel.
    line = np.maximum(0.08, 0.006 * z)
    dashes = (z + ground.dash_phase) % 6.0 < 3.2
    if ground.yellow_centre:
        part[np.abs(x - middle) < line * 1.6] = number["yellow line"]
    else:
        part[(np.abs(x - middle) < line) & dashes] = number["centre line"]
    edge_distance = np.minimum(x - left, right - x)
    if ground.yellow_edges:
        part[np.abs(edge_distance - 0.35) < line] = number["yellow line"]
    elif ground.edge_lines:
        part[np.abs(edge_distance - 0.45) < line] = number["edge line"]
    if ground.arrows:
        along = z - ground.arrows
        for lane in ((left + middle) / 2, (right + middle) / 2):
            off = np.abs(x - lane)
            head = (along > 2.4) & (along < 4.0) & (off < (4.0 - along) * 0.4)
            part[head | ((along > 0) & (along <= 2.4) & (off < 0.14))] = number["arrow"]
    if ground.zebra:
        along = z - ground.zebra
        stripes = ((x - left) % 1.1 < 0.58) & (np.abs(along) < 1.6)
        part[stripes & (edge_distance > 0.3)] = number["zebra stripe"]
        part[(np.abs(along) < 1.6) & ~stripes & (edge_distance > 0)] = number["asphalt"]
        part[(np.abs(along + 2.5) < 0.3) & (x < middle) & (x > left + 0.2)] = number["stop line"]
    for sign, kerb, wall, side, verge in (
        (-1, left, ground.left_wall, "left", ground.verges[0]),
        (1, right, ground.right_wall, "right", ground.verges[1]),
    ):
        beyond = (x - kerb) * sign
        open_road = np.zeros(x.shape, bool)
        for street_side, near, far in ground.side_streets:
            if street_side == sign:
                open_road |= (z > near) & (z < far)
        beside = (beyond > 0) & ~open_road
        part[beside] = number[f"{side} pavement"]
        part[beside & (beyond < np.maximum(0.2, 0.008 * z))] = number[f"{side} kerb"]
        part[beside & ((x - wall) * sign > 0.3)] = number["grass"]
        if verge:
            part[beside & (beyond > 0.4) & (beyond < 1.3)] = number["grass"]
        part[(beyond > 0) & open_road] = number["asphalt"]
    return part


def _wall_part(
    parameters: np.ndarray, u: np.ndarray, v: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Slot of each wall point (see `FACADE_SLOTS`) and its brightness factor; parameters (13, n), u along and v up (m)."""
    (
        _,
        _,
        origin,
        period,
        ground_floor,
        storey,
        half,
        low,
        high,
        door_every,
        shop,
        timber,
        slats,
    ) = parameters
    column_position = (u - origin) / period
    column = np.floor(column_position)
    across = np.abs(column_position - column - 0.5)
    above = v - ground_floor
    level = np.floor(above / storey)
    up = above / storey - level
    is_ground = above < 0
    up = np.where(is_ground, v / np.maximum(ground_floor, 0.1), up)
    part = np.where(is_ground, 1, 0)

    window = (across < half) & (up > low) & (up < high)
    frame = (across < half + 0.07) & (up > low - 0.05) & (up < high + 0.07) & ~window
    beam = (
        (timber > 0)
        & ~is_ground
        & ((across > 0.44) | (up < 0.1) | (np.abs(up - (0.5 - across) * 2.2) < 0.09))
    )
    chance = np.sin(column * 12.9898 + level * 78.233 + origin * 37.719) * 43758.547
    chance -= np.floor(chance)
    is_shop = (shop > 0) & is_ground
    door = (
        is_ground
        & (door_every > 0)
        & (np.mod(column, np.maximum(door_every, 1)) == 0)
        & (across < 0.27)
        & (up < 0.74)
    )
    part = np.where(beam | (is_ground & (up > 0.93)) | (frame & ~is_shop), 5, part)
    part = np.where(window & ~is_shop, np.where(chance < 0.42, 6, 2), part)
    part = np.where(is_shop & (across < 0.43) & (up > 0.12) & (up < 0.74), 4, part)
    part = np.where(is_shop & (up >= 0.74) & (up < 0.93), 5, part)
    part = np.where(door, 3, part)

    glass = (part == 2) | (part == 6) | (part == 4)
    shade = np.where(glass, 0.7 + 0.7 * chance + 0.5 * (up - 0.5), 1.0 - 0.12 * (v < 0.5))
    shade *= np.where((slats > 0) & (np.mod(u * np.abs(slats), 1.0) < 0.35), 0.55, 1.0)
    return part, shade


def refine(
    canvas: Canvas, ground: Ground, first_ground: int, clouds: np.ndarray, cover: float, skies: int
) -> Surfaces:
    """Split ground, wall and sky pixels of the buffer into their parts.

    `clouds` is a small float32 noise grid stretched over the sky, `cover` its threshold, `skies`
    the first of four sky materials.
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
        """Right of and below the vanishing point, in picture heights, for flat buffer positions."""
        row = at // columns
        return x.take(at - row * columns) - camera.vx, y.take(row) - camera.vy

    at = np.flatnonzero(index == GROUND)
    right, below = rays(at)
    z = camera.focal * camera.height / np.maximum(below, 1e-3)
    across = right * z / camera.focal
    index[at] = first_ground + _ground_part(ground, across, z)
    depth[at], texture_u[at], texture_v[at] = z, across * 3.0, z * 1.5

    at = np.flatnonzero(wall >= 0)
    if at.size:
        parameters = np.asarray(canvas.walls, np.float32).T.take(wall[at], axis=1)
        right, below = rays(at)
        right[np.abs(right) < 1e-4] = 1e-4
        faces_us, plane = parameters[0] > 0, parameters[1]
        z = np.where(faces_us, plane, np.clip(camera.focal * plane / right, 0.5, 400))
        v = camera.height - below * z / camera.focal
        u = np.where(faces_us, right * z / camera.focal, z)
        part, factor = _wall_part(parameters, u, v)
        index[at] += part
        shade[at] = factor
        depth[at], texture_u[at], texture_v[at] = z, u * 2.0, v * 4.0

    at = np.flatnonzero(index == SKY)
    noise = Image.fromarray(clouds).resize((columns, rows), Image.Resampling.BICUBIC)
    density = np.asarray(noise).ravel()[at] - cover
    low = y[at // columns] > camera.vy * 0.6
    index[at] = skies + np.where(density > 0, np.where(density > 0.22, 3, 2), low)
    shade[at] = np.clip(density * 4.0, -1.0, 1.0)
    return Surfaces(
        *(values.reshape(rows, columns) for values in (index, depth, shade, texture_u, texture_v))
    )


def halve(values: np.ndarray) -> np.ndarray:
    """One of the buffer samples of every output pixel."""
    return values[::SUPERSAMPLE, ::SUPERSAMPLE]
