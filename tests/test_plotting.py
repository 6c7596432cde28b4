"""Figures: what is drawn is what was given."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest
import torch

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.colors import to_rgb  # noqa: E402

from gss_lite import plotting  # noqa: E402
from gss_lite.data.transforms import IMAGENET_MEAN, IMAGENET_STD  # noqa: E402

COLORS = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def photograph(height=4, width=6):
    """uint8 (3, height, width) with black and white in it, and the same normalised."""
    image = torch.randint(
        0, 256, (3, height, width), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    image[:, 0, 0], image[:, 0, 1] = 0, 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return image, (image / 255 - mean) / std


def shown(axis):
    """What imshow was given."""
    return np.asarray(axis.images[0].get_array())


def test_a_picture_is_shown_the_same_in_bytes_in_0_to_1_and_normalised():
    image, normalised = photograph()
    expected = image.permute(1, 2, 0).numpy()
    assert np.array_equal(plotting.to_rgb(image), expected)
    assert plotting.to_rgb(image / 255) == pytest.approx(expected / 255, abs=1e-6)
    assert plotting.to_rgb(normalised) == pytest.approx(expected / 255, abs=1e-6)


@pytest.mark.parametrize("overshoot", [0.02, 0.4])
def test_a_decoders_overshoot_is_cut_and_not_taken_for_normalisation(overshoot):
    painted = COLORS.T[:, :, None].repeat(1, 1, 4)  # (3, 3, 4)
    decoded = painted + overshoot * torch.where(painted > 0.5, 1.0, -1.0)
    assert np.array_equal(plotting.to_rgb(decoded), painted.permute(1, 2, 0).numpy())


def test_show_row_draws_pictures_and_maps_with_their_titles():
    image, normalised = photograph()
    tokens = torch.arange(6).view(2, 3)
    axes = plotting.show_row([("photograph", normalised), ("tokens", tokens)], cmap="tab20").axes
    assert [axis.get_title() for axis in axes] == ["photograph", "tokens"]
    assert shown(axes[0]) == pytest.approx(image.permute(1, 2, 0).numpy() / 255, abs=1e-6)
    assert (
        np.array_equal(shown(axes[1]), tokens.numpy())
        and axes[1].images[0].get_cmap().name == "tab20"
    )


def test_show_masks_paints_ids_and_names_the_colours():
    image, _ = photograph(2, 2)
    mask = torch.tensor([[0, 1], [2, 255]])
    figure = plotting.show_masks(
        [[image, mask], [image, mask.flip(0)]], ["photograph", "mask"], COLORS, ["a", "b", "c"]
    )
    assert [axis.get_title() for axis in figure.axes] == ["photograph", "mask", "", ""]
    assert np.array_equal(shown(figure.axes[0]), image.permute(1, 2, 0).numpy())
    assert shown(figure.axes[1]).tolist() == [[[1, 0, 0], [0, 1, 0]], [[0, 0, 1], [0.5, 0.5, 0.5]]]
    assert shown(figure.axes[3]).tolist() == [[[0, 0, 1], [0.5, 0.5, 0.5]], [[1, 0, 0], [0, 1, 0]]]
    legend = figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b", "c"]
    assert [patch.get_facecolor()[:3] for patch in legend.get_patches()] == [
        (1, 0, 0),
        (0, 1, 0),
        (0, 0, 1),
    ]
    with pytest.raises(ValueError, match="2 class names for 3 colours"):
        plotting.show_masks([[image, mask]], ["photograph", "mask"], COLORS, ["a", "b"])


def test_bars_are_as_long_as_the_values_and_do_not_overlap():
    values = {"one": [0.1, 0.2, float("nan")], "two": [0.3, 0.4, 0.5]}
    figure = plotting.bar_per_class(values, ["a", "b", "c"], label="IoU")
    (axis,) = figure.axes
    assert len(axis.containers) == 2
    for bars, numbers, colour in zip(axis.containers, values.values(), plotting.CURVES):
        assert [bar.get_width() for bar in bars] == pytest.approx(numbers, nan_ok=True)
        assert bars[0].get_facecolor()[:3] == to_rgb(colour)
    spans = sorted(
        (bar.get_y(), bar.get_y() + bar.get_height()) for bars in axis.containers for bar in bars
    )
    assert all(end <= begin + 1e-9 for (_, end), (begin, _) in zip(spans, spans[1:]))
    centres = [bar.get_y() + bar.get_height() / 2 for bars in axis.containers for bar in bars]
    assert [round(centre) for centre in centres] == [0, 1, 2, 0, 1, 2]  # at their classes
    assert [label.get_text() for label in axis.get_yticklabels()] == [
        "a",
        "b",
        "c",
    ] and axis.yaxis_inverted()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "one",
        "two",
    ] and axis.get_xlabel() == "IoU"
    assert plotting.bar_per_class({"one": [0.1]}, ["a"]).legends == []


def test_curves_draw_every_series():
    (axis,) = plotting.curves(
        {"loss": ([1, 2, 3], [9, 4, 1]), "usage": ([1, 3], [0.5, 0.7])},
        x="step",
        y="value",
        title="t",
        log=True,
    ).axes
    assert [line.get_xydata().tolist() for line in axis.lines] == [
        [[1, 9], [2, 4], [3, 1]],
        [[1, 0.5], [3, 0.7]],
    ]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["loss", "usage"]
    assert (axis.get_xlabel(), axis.get_ylabel(), axis.get_title(), axis.get_yscale()) == (
        "step",
        "value",
        "t",
        "log",
    )
    (axis,) = plotting.curves({"loss": ([1, 2], [3, 4])}, x="step", y="value").axes
    assert axis.get_legend() is None and axis.get_yscale() == "linear"


def test_more_series_than_colours_are_refused():
    eight = {str(i): ([0, 1], [i, i]) for i in range(8)}
    with pytest.raises(ValueError, match="8 series; a figure takes 1 to 7"):
        plotting.curves(eight, x="x", y="y")
    with pytest.raises(ValueError, match="8 series"):
        plotting.bar_per_class(eight, ["a", "b"])
