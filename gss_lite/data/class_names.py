"""Class names of the published data sets, each tuple in the order of its class ids."""

from __future__ import annotations


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.replace("\n", " ").split(","))


# The order of objectInfo150: by the share of pixels. It is not alphabetical.
ADE20K = _names("""
wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person,
earth, door, table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea,
mirror, rug, field, armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion,
base, box, column, signboard, chest of drawers, counter, sand, sink, skyscraper, fireplace,
refrigerator, grandstand, path, stairs, runway, case, pool table, pillow, screen door, stairway,
river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill, bench, countertop, stove,
palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, hovel, bus, towel, light,
truck, tower, chandelier, awning, streetlight, booth, television receiver, airplane, dirt track,
apparel, pole, land, bannister, escalator, ottoman, bottle, buffet, poster, stage, van, ship,
fountain, conveyer belt, canopy, washer, plaything, swimming pool, stool, barrel, basket, waterfall,
tent, bag, minibike, cradle, oven, ball, food, step, tank, trade name, microwave, pot, animal,
bicycle, lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase, traffic light, tray,
ashcan, fan, pier, crt screen, plate, monitor, bulletin board, shower, radiator, glass, clock, flag
""")

CITYSCAPES = _names("""
road, sidewalk, building, wall, fence, pole, traffic light, traffic sign, vegetation, terrain, sky,
person, rider, car, truck, bus, train, motorcycle, bicycle
""")

VOC = _names("""
background, aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, dog,
horse, motorbike, person, pottedplant, sheep, sofa, train, tvmonitor
""")

# The order of the ids in grey masks: background, then alphabetical.
PASCAL_CONTEXT = _names("""
background, aeroplane, bag, bed, bedclothes, bench, bicycle, bird, boat, book, bottle, building,
bus, cabinet, car, cat, ceiling, chair, cloth, computer, cow, cup, curtain, dog, door, fence, floor,
flower, food, grass, ground, horse, keyboard, light, motorbike, mountain, mouse, person, plate,
platform, pottedplant, road, rock, sheep, shelves, sidewalk, sign, sky, snow, sofa, table, track,
train, tree, truck, tvmonitor, wall, water, window, wood
""")

# The order of the colours in coloured masks: the classes of Pascal VOC come first.
PASCAL_CONTEXT_COLORED = _names("""
background, aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, table, dog, horse,
motorbike, person, pottedplant, sheep, sofa, train, tvmonitor, bag, bed, bench, book, building,
cabinet, ceiling, cloth, computer, cup, door, fence, floor, flower, food, grass, ground, keyboard,
light, mountain, mouse, curtain, platform, sign, plate, road, rock, shelves, sidewalk, sky, snow,
bedclothes, track, tree, truck, wall, water, window, wood
""")

SCANNET = _names("""
wall, floor, cabinet, bed, chair, sofa, table, door, window, bookshelf, picture, counter, desk,
curtain, refridgerator, shower curtain, toilet, sink, bathtub, otherfurniture
""")

SUNRGBD = _names("""
wall, floor, cabinet, bed, chair, sofa, table, door, window, bookshelf, picture, counter, blinds,
desk, shelves, curtain, dresser, pillow, mirror, floor mat, clothes, ceiling, books, refridgerator,
television, paper, towel, shower curtain, box, whiteboard, person, night stand, toilet, sink, lamp,
bathtub, bag
""")

LABELMEFACADE = _names("building, car, door, pavement, road, sky, vegetation, window")

# MSeg's order of its eleven classes, with the names of the original colour masks.
CAMVID_MSEG = _names("""
Building, Tree, Sky, Car, SignSymbol, Road, Pedestrian, Fence, Column_Pole, Sidewalk, Bicyclist
""")

# Colours of the original CamVid masks. Void is left out, because it is no class.
CAMVID_COLORS = {
    "Animal": (64, 128, 64),
    "Archway": (192, 0, 128),
    "Bicyclist": (0, 128, 192),
    "Bridge": (0, 128, 64),
    "Building": (128, 0, 0),
    "Car": (64, 0, 128),
    "CartLuggagePram": (64, 0, 192),
    "Child": (192, 128, 64),
    "Column_Pole": (192, 192, 128),
    "Fence": (64, 64, 128),
    "LaneMkgsDriv": (128, 0, 192),
    "LaneMkgsNonDriv": (192, 0, 64),
    "Misc_Text": (128, 128, 64),
    "MotorcycleScooter": (192, 0, 192),
    "OtherMoving": (128, 64, 64),
    "ParkingBlock": (64, 192, 128),
    "Pedestrian": (64, 64, 0),
    "Road": (128, 64, 128),
    "RoadShoulder": (128, 128, 192),
    "Sidewalk": (0, 0, 192),
    "SignSymbol": (192, 128, 128),
    "Sky": (128, 128, 128),
    "SUVPickupTruck": (64, 128, 192),
    "TrafficCone": (0, 0, 64),
    "TrafficLight": (0, 64, 64),
    "Train": (192, 64, 128),
    "Tree": (128, 128, 0),
    "Truck_Bus": (192, 128, 192),
    "Tunnel": (64, 0, 64),
    "VegetationMisc": (192, 192, 0),
    "Wall": (64, 192, 0),
}
