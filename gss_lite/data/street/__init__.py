"""The layout of one street, which depends on (seed, index) alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image

from gss_lite.data.street.buildings import ELSEWHERE, HOME, Town, backdrop, building, fence
from gss_lite.data.street.canvas import Camera, Canvas, Dice
from gss_lite.data.street.classes import FENCES
from gss_lite.data.street.furniture import clutter, hedge, lamp_post, sign, traffic_light, tree
from gss_lite.data.street.people import cyclist, pedestrian
from gss_lite.data.street.surfaces import Ground, Surfaces, ground_materials, refine
from gss_lite.data.street.vehicles import car

# Depth (m) at which houses close the street.
FAR = 85.0

# Something to draw: its depth (m), and a function that draws it. Far things are drawn first.
Draw = tuple[float, Callable[[], None]]


@dataclass
class Street:
    """One composed street: its materials, its refined surfaces, and values for the light."""

    canvas: Canvas
    surfaces: Surfaces
    first_ground: int
    first_sky: int
    sunny: float
    exposure: float
    warmth: float
    generator: np.random.Generator


def compose(seed: int, index: int, rows: int, columns: int, elsewhere: bool = False) -> Street:
    """Compose and draw street (`seed`, `index`) on a canvas of `rows` × `columns` output pixels."""
    sequence = np.random.SeedSequence([seed, index, int(elsewhere)])
    generator = np.random.Generator(np.random.PCG64(sequence))
    billows = Image.fromarray(generator.random((16, 9), dtype=np.float32))
    clouds = np.asarray(billows.resize((30, 48), Image.Resampling.BICUBIC))
    clouds = clouds + 0.4 * (generator.random((48, 30), dtype=np.float32) - 0.5)
    dice = Dice(generator)
    town = ELSEWHERE if elsewhere else HOME
    camera = Camera(dice(1.45, 2.1), dice(1.15, 1.35), dice(-0.17, 0.17), dice(0.42, 0.53))
    canvas = Canvas(rows, columns, camera)
    canvas.sun = (dice.pick((-1.0, 1.0)) * dice(0.35, 1.1), dice(-0.25, 0.5))
    sunny = dice.pick((0.15, 0.5, 0.9, 1.0))

    ground = _ground(dice, town)
    first_ground = ground_materials(canvas, dice)
    first_sky = len(canvas.rgb)
    for name in ("high sky", "low sky", "bright cloud", "dark cloud"):
        canvas.material(name, (0.0, 0.0, 0.0), 1e4, rough=0.0)

    _horizon(canvas, dice, town)
    houses: list[Draw] = []
    things: list[Draw] = []
    for side in (-1, 1):
        behind, front = _plots(canvas, dice, town, ground, side)
        houses += behind
        things += front + _pavement_life(canvas, dice, town, ground, side)
    things += _traffic(canvas, dice, town, ground)
    for batch in (houses, things):
        for _, draw in sorted(batch, key=lambda item: -item[0]):
            draw()
    _frame(canvas, dice)
    surfaces = refine(canvas, ground, first_ground, clouds, dice(0.35, 0.75), first_sky)
    exposure = dice(0.88, 1.14)
    warmth = dice(-0.05, 0.05)
    return Street(canvas, surfaces, first_ground, first_sky, sunny, exposure, warmth, generator)


def _ground(dice: Dice, town: Town) -> Ground:
    """Choose the road, its pavements and their paint."""
    half = dice(*town.road)
    own = dice.pick((-1.0, 1.0)) * dice(0.2, 1.7)  # the camera's place right of the road's middle
    left, right = -half + own, half + own
    ground = Ground(
        left_wall=left - dice(*town.pavement),
        left_kerb=left,
        right_kerb=right,
        right_wall=right + dice(*town.pavement),
        dash_phase=dice(0, 6),
        yellow_centre=dice.chance(0.25),
        yellow_edges=dice.chance(0.3),
        edge_lines=dice.chance(0.5),
        cycle_lane=dice.pick((0, 0, 0, -1, 1)),
        verges=(dice.chance(0.2), dice.chance(0.2)),
        zebra=dice(7.0, 15.0) if dice.chance(0.25) else 0.0,
        arrows=dice(5.5, 11.0) if dice.chance(0.25) else 0.0,
    )
    ground.patches = [
        (dice(left + 0.5, right - 0.5), dice(4.0, 14.0), dice(0.4, 1.0), dice(0.5, 2.5))
        for _ in range(dice.below(4))
    ]
    return ground


def _horizon(canvas: Canvas, dice: Dice, town: Town) -> None:
    """Draw distant woods, and the houses and trees that close the street."""
    woods = canvas.material("hedge", dice.tint((0.24, 0.33, 0.22), 0.08), 130.0, -0.2, 0.2)
    skyline = [(-110.0 + 10.0 * k, dice(2.5, 6.5), 130.0) for k in range(23)]
    canvas.quad([(-110.0, 0.0, 130.0), *skyline, (110.0, 0.0, 130.0)], woods)
    x = -70.0
    while x < 70.0:
        width = dice(9.0, 18.0)
        if dice.chance(0.7):
            backdrop(canvas, dice, town, x, x + width, FAR + dice(0.0, 10.0))
        else:
            tree(canvas, dice, x + width / 2, FAR, dice.pick(town.species), dice(3.0, 4.5))
        x += width


def _plots(
    canvas: Canvas, dice: Dice, town: Town, ground: Ground, side: int
) -> tuple[list[Draw], list[Draw]]:
    """Choose the plots along one side → houses, and the things in front gardens."""
    wall = ground.left_wall if side < 0 else ground.right_wall
    facing = 0.8 if canvas.sun[0] * side > 0 else -0.7
    houses: list[Draw] = []
    front: list[Draw] = []

    def add_house(plane: float, start: float, end: float) -> None:
        draw = partial(building, canvas, dice, town, side, plane, start, end, facing)
        houses.append((near, draw))

    near = dice(-6.0, 0.5)
    while near < 62.0:
        width = dice(*town.plot)
        far = near + width
        luck = dice()
        if luck < 0.13 and near > 9.0 and width > 6.0:
            ground.side_streets.append((side, near, near + 6.0))
            far = near + 6.0
        elif luck < 0.40 and near > 3.0:
            set_back = wall + side * dice(5.0, 9.0)
            if dice.chance(0.75):
                add_house(set_back, near + 0.5, far - 0.5)
            front += _garden(canvas, dice, town, wall, side, near, far, facing)
        elif far > 1.5:
            add_house(wall, near, far)
        near = far
    return houses, front


def _garden(
    canvas: Canvas,
    dice: Dice,
    town: Town,
    wall: float,
    side: int,
    near: float,
    far: float,
    facing: float,
) -> list[Draw]:
    """Choose the trees in a front garden, and the fence or hedge around it."""
    things: list[Draw] = []
    for _ in range(1 + dice.below(3)):
        x = wall + side * dice(1.2, 4.5)
        z = dice(near + 1.0, far - 0.5)
        species = dice.pick(town.species)
        things.append((z + 0.5, partial(tree, canvas, dice, x, z, species, dice(1.4, 2.3))))
    if near < 22.0 and dice.chance(0.9):
        height = dice(1.5, 2.0)
        kind = FENCES[dice.below(4)]
        things += fence(canvas, dice, kind, wall, near, height, facing, [(near, far)])
    else:
        things.append((near, partial(hedge, canvas, dice, wall, near, far, dice(1.0, 1.7))))
    return things


def _traffic(canvas: Canvas, dice: Dice, town: Town, ground: Ground) -> list[Draw]:
    """Choose parked, driving and crossing cars, and cyclists."""
    left, right = ground.left_kerb, ground.right_kerb
    middle = (left + right) / 2
    things: list[Draw] = []

    def add_car(x: float, z: float, heading: float) -> None:
        things.append((z, partial(car, canvas, dice, x, z, heading, town.boxy_cars)))

    for kerb, inward, heading in ((left, 1, 0.0), (right, -1, math.pi)):
        busy = dice(0.0, 0.75) if dice.chance(0.75) else 0.0
        z = dice(6.5, 13.0)
        while z < 16.0:
            if dice.chance(busy):
                add_car(kerb + inward * dice(0.7, 1.0), z, heading + dice(-0.05, 0.05))
            z += dice(5.4, 7.5)
    for lane, heading in (((left + middle) / 2, 0.0), ((middle + right) / 2, math.pi)):
        if dice.chance(0.5):
            inward = -1 if lane > middle else 1
            add_car(lane + inward * dice(-0.2, 0.7), dice(7.0, 13.0), heading + dice(-0.06, 0.06))
    if dice.chance(0.16):
        x = dice(left, right)
        z = dice(11.0, 20.0)
        add_car(x, z, dice.pick((-1, 1)) * math.pi / 2 + dice(-0.3, 0.3))
    for _ in range((0, 1, 1, 2)[dice.below(4)]):
        side = dice.pick((-1, 1))
        kerb = left if side < 0 else right
        z = dice(4.2, 7.0)
        across = dice.chance(0.55)
        x = dice(left + 0.5, right - 0.5) if across else kerb - side * dice(0.6, 1.5)
        things.append((z - 0.4, partial(cyclist, canvas, dice, x, z, across, side < 0)))
    return things


def _pavement_life(canvas: Canvas, dice: Dice, town: Town, ground: Ground, side: int) -> list[Draw]:
    """Choose trees, posts, signs, people, railings and clutter on one pavement."""
    kerb = ground.left_kerb if side < 0 else ground.right_kerb
    wall = ground.left_wall if side < 0 else ground.right_wall
    at_kerb = kerb + side * 0.45
    things: list[Draw] = []

    def add(z: float, draw: Callable, *arguments: object) -> None:
        things.append((z, partial(draw, canvas, dice, *arguments)))

    if dice.chance(town.tree_share):
        species = dice.pick(town.species)
        z = dice(8.0, 16.0)
        while z < 20.0:
            add(z, tree, kerb + side * dice(0.6, 1.1), z, species, dice(1.3, 2.2))
            z += dice(7.0, 13.0)
    wooden = dice.chance(0.25)
    z = dice(5.0, 9.0)
    if dice.chance(0.65):
        while z < 12.0:
            add(z, lamp_post, at_kerb, z, -side * dice(0.9, 1.6), wooden)
            z += dice(13.0, 22.0)
    for _ in range((0, 1, 1, 2)[dice.below(4)]):
        z = dice(4.5, 7.5)
        add(z, sign, at_kerb + side * dice(0.0, 0.3), z)
    if dice.chance(0.22):
        z = dice(5.5, 9.0)
        add(z, traffic_light, at_kerb, z)
    if dice.chance(0.26):
        near = dice(3.0, 7.0)
        spans = [(near + 2.0 * k, near + 2.0 * (k + 1)) for k in range(3 + dice.below(5))]
        kind = dice.pick(("iron railing", "guard rail", "guard rail"))
        plane = kerb + side * 0.25
        things += fence(canvas, dice, kind, plane, near, dice(1.1, 1.35), -0.2, spans)
    for _ in range((0, 1, 2, 2, 3)[dice.below(5)]):
        # Nearer than 5 m the pavement lies outside the picture, so near people cross the road.
        if dice.chance(0.25):
            x = dice(ground.left_kerb, ground.right_kerb)
            z = dice(3.6, 6.0)
        else:
            x = kerb + side * dice(0.4, max(0.8, abs(wall - kerb) - 0.5))
            z = dice(5.0, 8.0)
        add(z, pedestrian, x, z)
    if dice.chance(0.35):
        z = dice(5.0, 15.0)
        add(z, clutter, kerb + side * dice(0.8, 2.0), z)
    return things


def _frame(canvas: Canvas, dice: Dice) -> None:
    """Draw the void classes at the camera: the bonnet of its car and a dark border."""
    height, width = canvas.scale, 2 * canvas.middle
    if dice.chance(0.4):
        bonnets = ((0.12, 0.12, 0.14), (0.35, 0.36, 0.38), (0.35, 0.10, 0.10))
        paint = canvas.material("void", dice.tint(dice.pick(bonnets)), 1.0, 0.6, 0.02)
        rise = dice(0.03, 0.07) * height
        arc = [
            (width * t / 12, height - rise * math.sin(math.pi * (0.12 + 0.76 * t / 12)))
            for t in range(13)
        ]
        canvas.polygon([(0.0, height), *arc, (width, height)], paint)
    if dice.chance(0.15):
        dark = canvas.material("void", (0.03, 0.03, 0.03), 1.0, 0.0, 0.0)
        edge = 0.02 * height
        for left, right in ((0.0, edge), (width - edge, width)):
            canvas.polygon([(left, 0.0), (right, 0.0), (right, height), (left, height)], dark)
