"""The street classes: 150 fine classes, each belonging to one of CamVid's 11.

The street generator gives every pixel a *fine* class. A table maps it to one of the 11 classes, so
the two masks always agree.
"""

from __future__ import annotations

import numpy as np

from gss_lite.contracts import IGNORE

# CamVid's classes in CamVid's order.
CLASSES: tuple[str, ...] = (
    "Sky",
    "Building",
    "Pole",
    "Road",
    "Pavement",
    "Tree",
    "SignSymbol",
    "Fence",
    "Car",
    "Pedestrian",
    "Bicyclist",
)

FACADES = ("red brick", "brown brick", "white plaster", "ochre plaster", "sandstone", "concrete")
FACADE_PARTS = ("upper wall", "ground floor", "window", "door", "shop window", "roof")
ASPHALTS = ("dark asphalt", "worn asphalt", "brown asphalt")
LINES = ("centre line", "edge line", "yellow line")
STRIPES = ("zebra stripe", "stop line", "arrow")
PAVINGS = ("grey slabs", "pink pavers", "tarred pavement")
SPECIES = ("plane", "linden", "oak", "conifer", "poplar", "autumn maple")
SIGNS = ("red ring", "blue disc", "warning triangle", "stop octagon", "yellow diamond")
BOARDS = ("direction board", "blue board", "green board")
FENCES = ("wooden fence", "white picket", "iron railing", "brick wall", "guard rail")
PAINTS = ("white", "black", "silver", "red", "blue", "green", "yellow")
SHIRTS = ("red", "blue", "green", "yellow", "white", "black", "brown")
TROUSERS = ("jeans", "black trousers", "khaki trousers", "skirt")
JERSEYS = ("red", "blue", "hi-vis", "green", "white")

_Groups = tuple[tuple[str, ...], ...]


def _each(kinds: tuple[str, ...], *parts: str) -> _Groups:
    """Make one group of siblings for each kind: its parts, as "red brick door"."""
    return tuple(tuple(f"{kind} {part}" for part in parts) for kind in kinds)


_FINE_BY_CLASS: dict[str, _Groups] = {
    "Sky": (("high sky", "low sky"), ("bright cloud", "dark cloud")),
    "Building": _each(FACADES, *FACADE_PARTS),
    "Pole": (
        ("dark lamp post", "pale lamp post"),
        ("traffic-light post", "sign post", "telegraph pole"),
    ),
    "Road": ((*ASPHALTS, "patch"), LINES, STRIPES, ("cycle lane",)),
    "Pavement": (PAVINGS, ("light kerb", "dark kerb")),
    "Tree": (
        *_each(SPECIES, "lit crown", "shaded crown"),
        ("dark trunk", "birch trunk"),
        ("hedge", "grass"),
    ),
    "SignSymbol": (
        SIGNS,
        BOARDS,
        ("traffic-light housing", "traffic-light lamp"),
        ("back of a sign",),
    ),
    "Fence": _each(FENCES, "panel", "posts"),
    "Car": (
        *_each(PAINTS, "flank", "end", "top"),
        ("windscreen", "side window"),
        ("wheel", "bumper"),
        ("head lamp", "tail lamp"),
    ),
    "Pedestrian": (
        tuple(f"{colour} shirt" for colour in SHIRTS),
        TROUSERS,
        ("face", "fair hair", "dark hair"),
        ("bag",),
    ),
    "Bicyclist": (
        tuple(f"{colour} jersey" for colour in JERSEYS),
        ("cycling trousers",),
        ("helmet", "cyclist's face"),
        ("bicycle frame", "bicycle wheel"),
    ),
}

_GROUPS = [(coarse, group) for coarse in CLASSES for group in _FINE_BY_CLASS[coarse]]

# Names of the 150 fine classes, as "Car: red flank". Siblings are neighbours. The coarse classes
# are in CamVid's order.
FINE_CLASSES: tuple[str, ...] = tuple(
    f"{coarse}: {fine}" for coarse, group in _GROUPS for fine in group
)

# For each fine class, the number of its group of siblings (one house style, one paint, one tree).
FINE_GROUP: tuple[int, ...] = tuple(
    number for number, (_, group) in enumerate(_GROUPS) for _ in group
)

FINE_ID: dict[str, int] = {name.split(": ", 1)[1]: k for k, name in enumerate(FINE_CLASSES)}
FINE_ID["void"] = IGNORE

# Look-up table (256,) uint8: fine id → CamVid id, and 255 → 255.
FINE_TO_COARSE = np.full(256, IGNORE, np.uint8)
FINE_TO_COARSE[: len(FINE_CLASSES)] = [
    CLASSES.index(name.split(": ", 1)[0]) for name in FINE_CLASSES
]
