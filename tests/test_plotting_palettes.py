"""Palette figures: what is drawn is what was given."""

from __future__ import annotations

import math

import matplotlib
import pytest
import torch

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402

from gss_lite import plotting_palettes as draw  # noqa: E402
from gss_lite.palette import Palette, arithmetic_palette, distances, random_palette  # noqa: E402
from gss_lite.plotting_palettes import DEFICIENCIES, simulate_deficiency  # noqa: E402


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_swatches_show_every_colour_once_with_its_name():
    palette, names = random_palette(7), [f"class {k}" for k in range(7)]
    axis = draw.show_swatches(palette, names, columns=3).axes[0]
    assert [t.get_text() for t in axis.texts] == names
    shown = torch.tensor([p.get_facecolor()[:3] for p in axis.patches], dtype=torch.float32)
    assert torch.allclose(shown, palette.colors)
    assert [(p.get_x(), p.get_y()) for p in axis.patches][3:5] == [(0, 1), (1, 1)]
    with pytest.raises(ValueError, match="6 class names for a palette of 7"):
        draw.show_swatches(palette, names[:6])


def test_writing_is_black_on_light_and_white_on_dark():
    axis = draw.show_swatches(
        Palette(torch.tensor([[1.0, 1, 1], [0, 0, 0], [1, 1, 0], [0, 0, 1]]))
    ).axes[0]
    assert [t.get_color() for t in axis.texts] == ["black", "white", "black", "white"]


@pytest.mark.parametrize("k", [2, 19, 194])
def test_nearest_distances_by_looking_at_all_pairs(k):
    palette = random_palette(k, 5)
    rows = (255 * palette.colors.double()).tolist()
    brute = [min(math.dist(a, b) for j, b in enumerate(rows) if j != i) for i, a in enumerate(rows)]
    assert draw.nearest_distances(palette).tolist() == pytest.approx(brute, rel=1e-6)
    assert float(draw.nearest_distances(palette, "OKLab").min()) == pytest.approx(
        float(distances(palette.colors, "OKLab").min())
    )


def test_the_histogram_counts_every_pair_and_writes_the_least_distance():
    figure, axis = plt.subplots()
    draw.draw_distances(axis, arithmetic_palette(8))
    assert sum(p.get_height() for p in axis.patches) == 28
    assert [t.get_text() for t in axis.texts] == ["least: 255.0"]


def test_rows_of_nearest_distances_name_their_palettes_and_their_least():
    palettes = {"a": arithmetic_palette(8), "b": random_palette(20, 1)}
    axis = draw.show_nearest_distances(palettes).axes[0]
    assert [t.get_text() for t in axis.get_yticklabels()] == ["a", "b"]
    assert [t.get_text() for t in axis.texts] == ["255.0", f"{palettes['b'].least_distance():.1f}"]


def test_colour_vision_panels_show_the_simulated_colours():
    palette = random_palette(5)
    axes = draw.show_deficiencies(palette, list("abcde")).axes
    assert len(axes) == 1 + len(DEFICIENCIES)
    for axis, kind in zip(axes[1:], DEFICIENCIES):
        shown = torch.tensor([p.get_facecolor()[:3] for p in axis.patches], dtype=torch.float32)
        assert torch.allclose(shown, simulate_deficiency(palette.colors, kind), atol=1e-6)
        assert axis.get_title(loc="left").startswith(kind)


@pytest.mark.parametrize("kind", DEFICIENCIES)
def test_a_deficiency_leaves_grey_alone_and_stays_in_range(kind):
    grey = torch.linspace(0, 1, 9)[:, None].expand(9, 3)
    assert torch.allclose(simulate_deficiency(grey, kind), grey, atol=2e-3)
    seen = simulate_deficiency(torch.rand(500, 3, generator=torch.Generator().manual_seed(0)), kind)
    assert float(seen.min()) >= 0 and float(seen.max()) <= 1


def test_red_and_green_come_closer_for_red_green_deficiencies_only():
    pair = torch.tensor([[0.85, 0.2, 0.2], [0.35, 0.55, 0.1]])
    gap = {
        kind: float(distances(simulate_deficiency(pair, kind), "OKLab")) for kind in DEFICIENCIES
    }
    full = float(distances(pair, "OKLab"))
    assert (
        gap["protanopia"] < 0.7 * full
        and gap["deuteranopia"] < 0.7 * full
        and gap["tritanopia"] > 0.7 * full
    )
    with pytest.raises(ValueError, match="protanopia"):
        simulate_deficiency(pair, "colour")


@pytest.mark.slow
def test_cubes_hold_one_point_a_colour():
    figure = draw.show_cubes({"one": random_palette(9), "two": random_palette(4)})
    assert [len(a.collections[0].get_offsets()) for a in figure.axes] == [9, 4]


class Darker:
    """A tokenizer whose decoder turns every picture black."""

    def encode(self, maskige):
        return maskige

    def decode(self, tokens):
        return torch.zeros_like(tokens)


def test_a_reconstruction_counts_its_wrong_pixels_without_the_ignored_ones():
    mask = torch.tensor([[0, 1, 1, 255]]).repeat(4, 1)
    palette = Palette(torch.tensor([[0.0, 0, 0], [1, 1, 1]]))
    titles = [a.get_title() for a in draw.show_reconstruction(palette, Darker(), mask).axes]
    assert titles[0] == "maskige" and titles[3] == "wrong: 66.7 % of the pixels"
