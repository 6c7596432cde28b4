"""Figures: what is drawn is what was given."""

from __future__ import annotations

import json
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
import torch

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
from matplotlib import colors as matplotlib_colors  # noqa: E402

from gss_lite import plotting  # noqa: E402
from gss_lite.data.transforms import IMAGENET_MEAN, IMAGENET_STD, denormalize  # noqa: E402
from gss_lite.palette.palette import Palette  # noqa: E402

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


def titles(figure):
    return [axis.get_title() for axis in figure.axes]


def painted(mask):
    """What a mask of COLORS' classes must look like, (H, W, 3); mid-grey where it is 255."""
    table = [*COLORS.tolist(), [0.5, 0.5, 0.5]]
    return np.array([[table[min(k, 3)] for k in row] for row in mask.tolist()])


def test_a_picture_is_shown_the_same_in_bytes_in_0_to_1_and_denormalised():
    image, normalised = photograph()
    expected = image.permute(1, 2, 0).numpy()
    assert np.array_equal(plotting.to_rgb(image), expected)
    assert plotting.to_rgb(image / 255) == pytest.approx(expected / 255, abs=1e-6)
    assert plotting.to_rgb(denormalize(normalised)) == pytest.approx(expected / 255, abs=1e-6)
    half = (image / 255).bfloat16().requires_grad_()
    assert plotting.to_rgb(half) == pytest.approx(expected / 255, abs=0.01)


@pytest.mark.parametrize("overshoot", [0.02, 0.4])
def test_a_decoders_overshoot_is_cut_and_not_taken_for_normalisation(overshoot):
    maskige = COLORS.T[:, :, None].repeat(1, 1, 4)  # (3, 3, 4)
    decoded = maskige + overshoot * torch.where(maskige > 0.5, 1.0, -1.0)
    assert np.array_equal(plotting.to_rgb(decoded), maskige.permute(1, 2, 0).numpy())


def with_value(value):
    picture = torch.full((3, 2, 2), 0.5)
    picture[1, 0, 1] = value
    return picture


@pytest.mark.parametrize(
    "picture, message",
    [
        (photograph()[1], r"0, 1\]; got -2.12 … 2.64. It looks normalised: use denormalize"),
        (with_value(-0.51), "got -0.51 … 0.50. It looks normalised"),
        (with_value(1.51), "got 0.50 … 1.51. It looks normalised"),
        (with_value(torch.nan), "got nan … nan"),
        (torch.zeros(3, 2, 2).long(), "uint8 or floats in .* got torch.int64"),
        (torch.zeros(1, 3, 2, 2), r"must be \(3, H, W\); got \(1, 3, 2, 2\)"),
        (torch.zeros(11, 2, 2), r"must be \(3, H, W\); got \(11, 2, 2\)"),
    ],
)
def test_what_is_no_picture_is_refused(picture, message):
    with pytest.raises(ValueError, match=message):
        plotting.to_rgb(picture)


def test_a_token_has_one_colour_in_every_figure_and_no_other_token_has_it():
    ids = torch.arange(8192).view(64, 128)
    colors = plotting.token_colors(ids)
    assert colors.shape == (3, 64, 128) and colors.min() >= 0 and colors.max() <= 1
    rows = colors.flatten(1).T
    assert len(rows.unique(dim=0)) == 8192
    assert float((rows[1:] - rows[:-1]).norm(dim=1).min()) > 0.2  # neighbours are unlike
    assert float(rows.amax(1).min()) >= 0.5  # none is nearly black
    some = torch.tensor([[7, 1023], [7, 0]])
    assert torch.equal(plotting.token_colors(some), colors.flatten(1)[:, some])
    assert torch.equal(plotting.token_colors(some.to(torch.uint8) % 8)[:, 0, 0], rows[7])


def test_show_row_draws_pictures_tokens_and_maps_with_their_titles():
    image, _ = photograph()
    tokens = torch.arange(6).view(2, 3)
    heat = torch.rand(4, 6)
    wrong = heat > 0.5
    panels = [("photograph", image), ("tokens", tokens), ("entropy", heat), ("wrong", wrong)]
    figure = plotting.show_row(panels, cmap="magma")
    assert titles(figure) == ["photograph", "tokens", "entropy", "wrong"]
    photo_axis, token_axis, heat_axis, wrong_axis = figure.axes
    assert np.array_equal(shown(photo_axis), image.permute(1, 2, 0).numpy())
    expected = plotting.token_colors(tokens).permute(1, 2, 0).numpy()
    assert shown(token_axis) == pytest.approx(expected, abs=1e-6)
    assert np.array_equal(shown(heat_axis), heat.numpy())
    assert np.array_equal(shown(wrong_axis), wrong.numpy())
    assert heat_axis.images[0].get_cmap().name == "magma"


class TestShow:
    mask = torch.tensor([[0, 1], [2, 255]])

    def test_keywords_are_titles_and_each_panel_is_drawn_as_what_it_is(self):
        image, normalised = photograph(2, 2)
        maskige = COLORS.T[:, :, None].repeat(1, 1, 2)[:, :2]
        tokens = torch.tensor([[5, 900]])
        figure = plotting.show(
            image=normalised[None],
            maskige=maskige[None],
            predicted_tokens=tokens[None],
            truth=self.mask,
            entropy=torch.eye(2),
            palette=Palette(COLORS, ignore_color=(0.0, 0.0, 0.0)),
        )
        assert titles(figure) == ["image", "maskige", "predicted tokens", "truth", "entropy"]
        photo, second, third, fourth, fifth = map(shown, figure.axes)
        assert photo == pytest.approx(image.permute(1, 2, 0).numpy() / 255, abs=1e-6)
        assert np.array_equal(second, maskige.permute(1, 2, 0).numpy())
        expected = plotting.token_colors(tokens).permute(1, 2, 0).numpy()
        assert third == pytest.approx(expected, abs=1e-6)
        assert np.array_equal(fourth, painted(self.mask))
        assert np.array_equal(fifth, np.eye(2))
        assert figure.legends == []

    def test_bytes_under_the_keyword_image_are_no_normalised_photograph(self):
        image, _ = photograph()
        (axis,) = plotting.show(image=image).axes
        assert np.array_equal(shown(axis), image.permute(1, 2, 0).numpy())

    @pytest.mark.parametrize("divide", [False, True])
    def test_a_mask_after_a_picture_is_laid_over_it(self, divide):
        image, _ = photograph(2, 2)
        expected = image.permute(1, 2, 0).numpy() / 255
        first, second, third = plotting.show(
            image / 255 if divide else image, self.mask, self.mask.T, palette=COLORS
        ).axes
        assert np.allclose(shown(first), expected if divide else image.permute(1, 2, 0).numpy())
        assert np.allclose(shown(second), (expected + painted(self.mask)) / 2, atol=1e-6)
        # the next mask lies over the picture too, not over the first mask
        assert np.allclose(shown(third), (expected + painted(self.mask.T)) / 2, atol=1e-6)
        assert [axis.get_title() for axis in (first, second)] == ["", ""]

    def test_masks_without_a_picture_or_with_a_keyword_are_drawn_alone(self):
        (axis,) = plotting.show(self.mask, palette=COLORS).axes
        assert np.array_equal(shown(axis), painted(self.mask))
        image, _ = photograph(2, 2)
        _, axis = plotting.show(image, mask=self.mask.to(torch.uint8), palette=COLORS).axes
        assert np.array_equal(shown(axis), painted(self.mask))

    def test_without_a_palette_whole_numbers_are_tokens(self):
        (axis,) = plotting.show(self.mask).axes
        expected = plotting.token_colors(self.mask).permute(1, 2, 0).numpy()
        assert shown(axis) == pytest.approx(expected, abs=1e-6)

    def test_class_names_give_a_legend(self):
        figure = plotting.show(truth=self.mask, palette=COLORS, names=("a", "b", "c"))
        (legend,) = figure.legends
        assert [text.get_text() for text in legend.get_texts()] == ["a", "b", "c"]
        without = plotting.show(truth=self.mask, palette=COLORS)
        assert figure.get_figheight() > without.get_figheight()

    @pytest.mark.parametrize(
        "given, named, message",
        [
            ((), {}, "show needs a picture"),
            ((torch.zeros(2, 3, 4, 4),), {}, r"panel 1 must be a tensor.*got \(2, 3, 4, 4\)"),
            ((torch.zeros(3),), {}, r"got \(3,\)"),
            ((np.zeros((3, 4, 4)),), {}, "got ndarray"),
            ((), {"image": "street.png"}, "image must be a tensor.*got str"),
            (
                (),
                {"truth": torch.full((2, 2), 7)},
                "truth: the mask holds id 7; expected 0…2.*tokens=",
            ),
            ((torch.full((2, 2), -1),), {}, "panel 1: the mask holds id -1"),
            ((photograph(4, 6)[0], mask), {}, r"mask of \(2, 2\) pixels.*picture \(3, 4, 6\)"),
            ((photograph()[1],), {}, r"use denormalize\(image\)"),
            ((), {"photograph": photograph()[1]}, r"use denormalize\(image\)"),
            ((mask,), {"names": ("a", "b")}, "2 class names for 3 colours"),
            ((mask,), {"names": ("a",), "palette": None}, "1 class names for 0 colours"),
        ],
    )
    def test_what_cannot_be_drawn_is_refused(self, given, named, message):
        with pytest.raises(ValueError, match=message):
            plotting.show(*given, **{"palette": COLORS} | named)
        assert plt.get_fignums() == []  # no empty figure is left to be drawn


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
    normalised = photograph(2, 2)[1]
    with pytest.raises(ValueError, match=r"use denormalize\(image\)"):
        plotting.show_masks([[normalised, mask]], ["photograph", "mask"], COLORS, ["a", "b", "c"])
    assert len(plt.get_fignums()) == 1  # the one that could be drawn


def test_bars_are_as_long_as_the_values_and_do_not_overlap():
    values = {"one": [0.1, 0.2, float("nan")], "two": [0.3, 0.4, 0.5]}
    figure = plotting.bar_per_class(values, ["a", "b", "c"], label="IoU")
    (axis,) = figure.axes
    assert len(axis.containers) == 2
    for bars, numbers, colour in zip(axis.containers, values.values(), plotting.CURVES):
        assert [bar.get_width() for bar in bars] == pytest.approx(numbers, nan_ok=True)
        assert bars[0].get_facecolor()[:3] == matplotlib_colors.to_rgb(colour)
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


LOG = [
    {"step": 10, "seconds": 0.1, "lr": 1e-3, "loss": 3.0, "token": 3.1, "token_accuracy": 0.1},
    {"step": 20, "seconds": 0.2, "lr": 1e-3, "loss": 2.0, "token_accuracy": 0.2, "score": 0.5},
]
FIRST_STAGE = [{"step": 5, "loss": 4.0, "usage": 0.5}, {"step": 9, "loss": 1.0, "usage": 0.7}]


def lines(axis):
    return [line.get_xydata().tolist() for line in axis.lines]


def test_plot_log_draws_the_loss_and_the_scores_of_a_record(tmp_path):
    record = {"kind": "prior", "log": LOG, "metrics": {}}
    path = tmp_path / "record.json"
    path.write_text(json.dumps(record))
    for run, title in ((record, "prior"), (path, "prior"), (str(path), "prior"), (LOG, "")):
        loss, scores = plotting.plot_log(run).axes
        assert lines(loss) == [[[10, 3], [20, 2]]]
        assert (loss.get_title(), loss.get_xlabel(), loss.get_ylabel()) == (title, "step", "loss")
        assert lines(scores) == [[[20, 0.5]], [[10, 0.1], [20, 0.2]]]
        labels = [text.get_text() for text in scores.get_legend().get_texts()]
        assert labels == ["validation mIoU", "token accuracy"]


def test_plot_log_draws_one_row_for_each_stage_of_a_run():
    records = {"inverse": {"log": []}, "vqvae": {"log": FIRST_STAGE}, "prior": {"log": LOG}}
    figure = plotting.plot_log(SimpleNamespace(records=records))
    assert [axis.get_title() for axis in figure.axes[::2]] == ["vqvae", "prior"]
    assert lines(figure.axes[0]) == [[[5, 4], [9, 1]]] and not figure.axes[1].axison
    assert lines(figure.axes[2]) == [[[10, 3], [20, 2]]] and len(lines(figure.axes[3])) == 2
    (axis,) = plotting.plot_log({"log": FIRST_STAGE}).axes  # no scores: no room for them
    assert lines(axis) == [[[5, 4], [9, 1]]]


@pytest.mark.parametrize(
    "run",
    [{}, {"log": []}, [], 3, None, {"log": [{"step": 1}]}, SimpleNamespace(records={})],
)
def test_plot_log_says_what_it_expects(run):
    with pytest.raises(ValueError, match='a run record with a "log".*hold step and loss; got'):
        plotting.plot_log(run)
    with pytest.raises(FileNotFoundError):
        plotting.plot_log("no-such-record.json")
