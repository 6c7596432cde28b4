"""The catalogue of street classes: 150 fine classes, each belonging to one of CamVid's 11.

Everything the street generator draws carries a *fine* class; the 11-class mask is only a look-up of
it, so both class sets come from one drawing and cannot disagree.
"""

from __future__ import annotations

import numpy as np

VOID = 255
"""Id of pixels that belong to no class: the ego car's bonnet, clutter, the picture border."""


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
"""CamVid's 11 classes in CamVid order."""


FACADES = ("red brick", "brown brick", "white plaster", "ochre plaster", "sandstone", "concrete")


FACADE_PARTS = ("upper wall", "ground floor", "window", "door", "shop window", "roof")


ASPHALTS = ("dark asphalt", "worn asphalt", "brown asphalt")


MARKINGS = (
    "patch",
    "centre line",
    "edge line",
    "yellow line",
    "zebra stripe",
    "stop line",
    "arrow",
    "cycle lane",
)


PAVINGS = ("grey slabs", "pink pavers", "tarred pavement")


SPECIES = ("plane", "linden", "oak", "conifer", "poplar", "autumn maple")


SIGNS = (
    "red ring",
    "blue disc",
    "warning triangle",
    "stop octagon",
    "yellow diamond",
    "direction board",
    "blue board",
    "green board",
)


FENCES = ("wooden fence", "white picket", "iron railing", "brick wall", "guard rail")


PAINTS = ("white", "black", "silver", "red", "blue", "green", "yellow")


TOPS = (
    "red shirt",
    "blue shirt",
    "green shirt",
    "yellow shirt",
    "white shirt",
    "black shirt",
    "brown shirt",
)


TROUSERS = ("jeans", "black trousers", "khaki trousers", "skirt")


JERSEYS = ("red jersey", "blue jersey", "hi-vis jersey", "green jersey", "white jersey")


_Groups = tuple[tuple[str, ...], ...]


_FINE_BY_CLASS: dict[str, _Groups] = {
    "Sky": (("high sky", "low sky"), ("bright cloud", "dark cloud")),
    "Building": tuple(tuple(f"{style} {part}" for part in FACADE_PARTS) for style in FACADES),
    "Pole": (
        ("dark lamp post", "pale lamp post"),
        ("traffic-light post", "sign post", "telegraph pole"),
    ),
    "Road": (ASPHALTS + MARKINGS[:1], MARKINGS[1:4], MARKINGS[4:7], MARKINGS[7:]),
    "Pavement": (PAVINGS, ("light kerb", "dark kerb")),
    "Tree": tuple((f"{kind} lit crown", f"{kind} shaded crown") for kind in SPECIES)
    + (("dark trunk", "birch trunk"), ("hedge", "grass")),
    "SignSymbol": (
        SIGNS[:5],
        SIGNS[5:],
        ("traffic-light housing", "traffic-light lamp"),
        ("back of a sign",),
    ),
    "Fence": tuple((f"{kind} panel", f"{kind} posts") for kind in FENCES),
    "Car": tuple((f"{paint} flank", f"{paint} end", f"{paint} top") for paint in PAINTS)
    + (("windscreen", "side window"), ("wheel", "bumper"), ("head lamp", "tail lamp")),
    "Pedestrian": (TOPS, TROUSERS, ("face", "fair hair", "dark hair"), ("bag",)),
    "Bicyclist": (
        JERSEYS,
        ("cycling trousers",),
        ("helmet", "cyclist's face"),
        ("bicycle frame", "bicycle wheel"),
    ),
}


FINE_CLASSES: tuple[str, ...] = tuple(
    f"{coarse}: {fine}" for coarse in CLASSES for group in _FINE_BY_CLASS[coarse] for fine in group
)
"""Names of the 150 fine classes, ``"Car: red flank"``; siblings stand next to each other, coarse classes in CamVid order."""


FINE_GROUP: tuple[int, ...] = tuple(
    number
    for number, group in enumerate(group for coarse in CLASSES for group in _FINE_BY_CLASS[coarse])
    for _ in group
)
"""Group of siblings (same house style, same paint, same kind of tree …) of each fine class."""


FINE_ID: dict[str, int] = {
    fine: number for number, fine in enumerate(name.split(": ", 1)[1] for name in FINE_CLASSES)
}


FINE_ID["void"] = VOID


FINE_TO_COARSE = np.full(256, VOID, np.uint8)
"""Look-up table (256,) uint8: fine id → CamVid id; 255 → 255."""


FINE_TO_COARSE[: len(FINE_CLASSES)] = [
    CLASSES.index(name.split(": ", 1)[0]) for name in FINE_CLASSES
]
