"""Figures of a tokenizer: what is drawn is what was given."""

from __future__ import annotations

import matplotlib
import pytest
import torch

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402

from gss_lite import plotting_tokens as draw  # noqa: E402


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_every_token_id_stands_in_the_middle_of_its_patch():
    tokens = torch.arange(12).view(3, 4)
    picture = torch.rand(3, 12, 16)
    axis = draw.show_token_ids(picture, tokens, rows=range(1, 3), columns=range(1, 4)).axes[0]
    written = {text.get_position(): text.get_text() for text in axis.texts}
    assert written == {
        (column + 0.5, row + 0.5): str(4 * row + column) for row in (1, 2) for column in (1, 2, 3)
    }
    (image,) = axis.images
    assert image.get_extent() == [1, 4, 3, 1]
    assert torch.equal(torch.tensor(image.get_array()), picture[:, 4:12, 4:16].permute(1, 2, 0))


def test_a_code_is_shown_where_it_occurs_with_its_share():
    tokens = torch.zeros(2, 3, 4, dtype=torch.long)
    tokens[1, 2, 3] = 7
    figure = draw.show_codes(torch.rand(2, 3, 12, 16), tokens, [0, 7], examples=2)
    grid = torch.arange(4).view(2, 2)  # examples down, codes across
    above = [figure.axes[int(k)].get_title() for k in grid[0]]
    assert above == ["0\n96 %", "7\n4.2 %"]
    for k in grid[:, 1]:
        axis = figure.axes[int(k)]
        (patch,) = axis.patches
        assert (patch.get_xy(), patch.get_width(), patch.get_height()) == ((11.5, 7.5), 4, 4)
        assert axis.get_xlim() == (7.5, 19.5)
        assert axis.get_ylim() == (15.5, 3.5)


def test_a_code_that_occurs_nowhere_is_refused():
    tokens = torch.zeros(2, 3, 4, dtype=torch.long)
    with pytest.raises(ValueError, match="code 5 occurs in none of the 2 token grids"):
        draw.show_codes(torch.rand(2, 3, 12, 16), tokens, [0, 5])


def test_codes_that_move_leave_a_line_and_used_ones_are_counted():
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    before = torch.tensor([[0.1, 0.0], [9.0, 9.0]])
    after = torch.tensor([[0.1, 0.0], [1.0, 0.1]])
    states = {"before": (points, before), "after": (points, after)}
    first, second = draw.show_moving_codes(states).axes
    assert first.get_title() == "before:\n1 of 2 codes in use"
    assert second.get_title() == "after:\n2 of 2 codes in use"
    assert len(first.lines) == 2  # points and codes
    moves = [line.get_xydata().tolist() for line in second.lines[1:-1]]
    assert moves[1] == [[9.0, 9.0], pytest.approx([1.0, 0.1])]


def test_a_history_has_one_panel_for_each_name():
    figure = draw.show_history(usage=[0.5, 0.25], loss=[3, 2])
    assert [axis.get_title() for axis in figure.axes] == ["usage", "loss"]
    assert figure.axes[1].lines[0].get_xydata().tolist() == [[1, 3], [2, 2]]
