"""Controls without a browser: what a press of a button does, and what is refused."""

from __future__ import annotations

import matplotlib
import pytest
import torch

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402

import gss_lite as gss  # noqa: E402
from gss_lite import widgets  # noqa: E402

ROWS, COLUMNS = range(18, 21), range(6, 10)


@pytest.fixture(scope="module")
def model():
    return gss.create_model("scenes-cpu", pretrained=True)


@pytest.fixture(scope="module")
def mask():
    return gss.create_dataset("scenes-cpu", "test")[0][1]


@pytest.fixture
def painter(model, mask):
    yield widgets.TokenPainter(model, mask, gss.Scenes.classes, ROWS, COLUMNS)
    plt.close("all")


def buttons(painter):
    """The gallery's buttons by class name, the grid's by place, and the one that starts again."""
    gallery, grid = painter.children[:2]
    by_name = {button.description.split(" ", 1)[1]: button for button in gallery.children}
    places = [(row, column) for row in ROWS for column in COLUMNS]
    return by_name, dict(zip(places, grid.children, strict=True)), gallery.children[-1]


def test_the_gallery_has_the_token_of_most_pixels_of_a_class():
    mask = torch.tensor([[0, 0, 1, 1, 0, 255], [0, 0, 1, 0, 0, 255]])
    tokens = torch.tensor([[7, 5, 9]])  # 9 has two pixels of class 0, and two without a class
    assert widgets.commonest_tokens(tokens, mask, ("a", "b", "c")) == {7: "a", 5: "b"}


def test_a_token_of_two_classes_stands_in_the_gallery_once():
    mask = torch.tensor([[0, 1], [1, 0]])
    assert widgets.commonest_tokens(torch.tensor([[3]]), mask, ("a", "b")) == {3: "a"}


def test_a_press_paints_the_chosen_token_and_the_figure_follows(painter):
    by_name, cells, again = buttons(painter)
    before = painter.tokens.clone()
    (sky,) = [code for code, name in painter.gallery.items() if name == "Sky"]
    by_name["Sky"].click()
    assert painter.chosen == sky and by_name["Sky"].icon == "check"
    assert not by_name["Road"].icon
    cells[19, 8].click()
    different = (painter.tokens != before).nonzero().tolist()
    assert different == [[19, 8]] and painter.tokens[19, 8] == sky
    assert cells[19, 8].tooltip == f"row 19, column 8: token {sky}"
    assert cells[19, 8].style.button_color == by_name["Sky"].style.button_color

    *_, classes, changed = painter.draw().axes
    pixels = torch.tensor(changed.images[0].get_array())  # (96, 128)
    assert changed.get_title() == f"{int(pixels.sum())} pixels of another class"
    # The token has the pixels 76…79, 32…35, and a token reaches 17 pixels at most.
    assert pixels[76:80, 32:36].any()
    assert not pixels[:76].any(1)[:50].any() and not pixels[:, 60:].any()

    again.click()
    assert torch.equal(painter.tokens, before)
    assert not torch.tensor(painter.draw().axes[3].images[0].get_array()).any()


def test_pixels_without_a_class_are_grey_and_never_count_as_changed(painter, mask):
    for place in painter._cells:
        painter.paint(*place)
    *_, classes, changed = painter.draw().axes
    void = mask == gss.IGNORE
    shown = torch.tensor(classes.images[0].get_array())
    assert void.any() and len(shown[void].unique(dim=0)) == 1
    assert not torch.tensor(changed.images[0].get_array())[void].any()


def test_two_painters_do_not_share_their_tokens(model, mask, painter):
    other = widgets.TokenPainter(model, mask, gss.Scenes.classes, ROWS, COLUMNS)
    painter.paint(19, 8)
    assert not torch.equal(painter.tokens, other.tokens)


def test_a_wrong_token_place_or_part_is_refused(model, mask, painter):
    with pytest.raises(ValueError, match="token -1 is not in the gallery, which has"):
        painter.choose(-1)
    with pytest.raises(ValueError, match=r"row 0, column 8 has no button.* rows 18…20"):
        painter.paint(0, 8)
    for rows in (range(20, 25), range(0)):
        with pytest.raises(ValueError, match="rows must lie in 0…23"):
            widgets.TokenPainter(model, mask, gss.Scenes.classes, rows, COLUMNS)
    with pytest.raises(ValueError, match=r"one mask \(H, W\); got \(1, 96, 128\)"):
        widgets.TokenPainter(model, mask[None], gss.Scenes.classes, ROWS, COLUMNS)


def test_every_domain_is_a_row_with_its_share_of_right_pixels(model):
    figure = widgets.show_domains(model, 3, ("day", "fog"))
    titles = [axis.get_title() for axis in figure.axes]
    assert titles[0::4] == ["day", "fog"]
    for start, domain in ((0, "day"), (4, "fog")):
        photograph, mask = gss.Scenes(4, split="test", domain=domain)[3]
        found = model.segment(photograph).mask
        share = (found == mask)[mask != gss.IGNORE].float().mean()
        assert titles[start + 2] == f"prediction: {100 * share:.0f} % right"
    plt.close("all")


def test_the_viewer_follows_its_buttons_and_its_slider(model, capsys):
    viewer = widgets.domain_viewer(model, street=3)
    domains, street = viewer.children[:2]
    assert domains.options == widgets.DOMAINS and street.value == 3
    pictures = []
    domains.value = "fog"
    assert viewer.result.axes[0].get_title() == "fog"
    pictures.append(torch.tensor(viewer.result.axes[0].images[0].get_array()))
    street.value = 4
    pictures.append(torch.tensor(viewer.result.axes[0].images[0].get_array()))
    for index, picture in zip((3, 4), pictures):
        fog = gss.Scenes(5, split="test", domain="fog")[index][0]
        assert torch.equal(picture, fog.permute(1, 2, 0))
    plt.close("all")
