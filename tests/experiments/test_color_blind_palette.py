"""The colour-blind safe palette: its distances, and the search that found it."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import pytest
import torch

import gss_lite as gss
from notebooks.experiments import color_blind_palette as experiment

RECORDS = Path(__file__).resolve().parents[2] / "notebooks" / "records"
SHIPPED = RECORDS / "palettes" / "color-blind-11.json"

# Machado, Oliveira and Fernandes (2009), Table 1, severity 1.0; rows of R, G and B on linear light.
MACHADO = {
    "full vision": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def linear(value: float) -> float:
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


def oklab(color: list[float], kind: str) -> list[float]:
    """One sRGB colour as it is seen, in OKLab with L up to 100, by the formulas alone."""
    light = [linear(value) for value in color]
    seen = [sum(m * v for m, v in zip(row, light)) for row in MACHADO[kind]]
    r, g, b = (min(max(value, 0.0), 1.0) for value in seen)
    # Ottosson (2020)
    long = (0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b) ** (1 / 3)
    middle = (0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b) ** (1 / 3)
    short = (0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b) ** (1 / 3)
    return [
        100 * (0.2104542553 * long + 0.7936177850 * middle - 0.0040720468 * short),
        100 * (1.9779984951 * long - 2.4285922050 * middle + 0.4505937099 * short),
        100 * (0.0259040371 * long + 0.7827717662 * middle - 0.8086757660 * short),
    ]


def least(palette: gss.Palette, kind: str) -> float:
    points = [oklab(color, kind) for color in palette.colors.double().tolist()]
    return min(
        sum((x - y) ** 2 for x, y in zip(one, other)) ** 0.5
        for one, other in combinations(points, 2)
    )


@pytest.mark.parametrize("kind", MACHADO)
def test_eleven_colours_stay_apart_for_every_reader(kind):
    palette = gss.Palette.load(SHIPPED)
    assert len(palette) == 11
    assert least(palette, kind) >= 17.5
    said = json.loads((RECORDS / "color-blind-palette.json").read_text())["metrics"]
    assert least(palette, kind) == pytest.approx(said["least_oklab_distance"][kind], abs=0.01)
    assert least(palette, kind) == pytest.approx(
        experiment.least_distances(palette)[kind], abs=0.01
    )


def test_the_shipped_colours_are_8_bit_ones_from_dark_to_light():
    levels = 255 * gss.Palette.load(SHIPPED).colors.double()
    assert torch.allclose(levels, levels.round(), atol=1e-4)
    assert bool((experiment.lightness(levels / 255).diff() >= 0).all())


def test_max_min_colours_do_not_stay_apart():
    palette = gss.create_model("scenes-cpu", pretrained=True).palette
    assert least(palette, "full vision") == pytest.approx(15.4, abs=0.1)
    assert min(least(palette, kind) for kind in MACHADO) == pytest.approx(3.5, abs=0.1)


def test_pair_distances_are_those_of_each_view():
    colors = torch.rand(2, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = experiment.pair_distances(colors).view(2, 4, 6)  # S, views, pairs
    for number, kind in enumerate(MACHADO):
        points = [oklab(color, kind) for color in colors[1].tolist()]
        wanted = [torch.dist(*map(torch.tensor, pair)) for pair in combinations(points, 2)]
        assert torch.allclose(found[1, number].float(), torch.stack(wanted), atol=1e-2)


def test_climbing_and_polishing_never_lose():
    _, before = experiment.climb(4, starts=3, steps=0, seed=0)
    colors, after = experiment.climb(4, starts=3, steps=40, seed=0)
    assert bool((after > before).all())
    rough = (255 * colors[0]).round() / 255
    polished = experiment.polish(colors[0], trials=50, seed=0)
    smallest = [experiment.pair_distances(each[None]).min() for each in (rough, polished)]
    assert smallest[1] >= smallest[0]
    again = experiment.polish(colors[0], trials=50, seed=0)
    assert torch.equal(polished, again)


def test_the_command_writes_the_record_and_the_palette(tmp_path):
    record = tmp_path / "found.json"
    arguments = "--classes 3 --starts 2 --steps 5 --trials 5 --device cpu"
    (tmp_path / "palettes").mkdir()
    experiment.main([*arguments.split(), "--record", str(record)])
    palette = gss.Palette.load(tmp_path / "palettes" / "color-blind-3.json")
    said = json.loads(record.read_text())["metrics"]["least_oklab_distance"]
    assert said == pytest.approx(experiment.least_distances(palette), abs=1e-3)
