"""Giving out colours by neighbours: the measures against hand counts, and the exchange."""

import torch

from gss_lite.palette.palette import Palette
from gss_lite.palette.refinement import assign_colors, border_lengths, strangers


def test_border_lengths_against_a_hand_count():
    mask = torch.tensor([[[0, 0, 1], [0, 2, 1], [255, 2, 1]]])
    lengths = border_lengths(mask, 3)
    # areas 3, 3, 2; borders: 0|1 once, 0|2 twice, 1|2 twice; the ignored pixel has none
    expected = torch.tensor(
        [[0, 1 / 3, 2 / 2], [1 / 3, 0, 2 / 2], [1.0, 1.0, 0]], dtype=torch.double
    )
    torch.testing.assert_close(lengths, expected)


def test_grey_is_a_stranger_between_black_and_white():
    colors = torch.tensor([[0.0, 0, 0], [1, 1, 1], [0.5, 0.5, 0.5]])
    between = strangers(colors)
    assert between[0, 1] == between[1, 0] > 0.5
    assert between[0, 2] == between[1, 2] == between.diag().max() == 0


def test_assignment_keeps_the_colours_and_parts_neighbours_from_strangers():
    palette = Palette(torch.tensor([[0.0, 0, 0], [1, 1, 1], [0.5, 0.5, 0.5]]))
    # classes 0 and 1 share a long border, 2 touches nothing but a corner of 0
    masks = torch.zeros(1, 8, 8, dtype=torch.long)
    masks[:, :, 4:] = 1
    masks[:, 0, 0] = 2
    assigned = assign_colors(palette, masks, rounds=200)
    assert sorted(assigned.colors.tolist()) == sorted(palette.colors.tolist())
    assert strangers(assigned.colors)[0, 1] == 0  # black and white no longer meet across grey
    assert assigned.least_distance() == palette.least_distance()
    again = assign_colors(palette, masks, rounds=200)
    assert torch.equal(again.colors, assigned.colors)
