"""Figures of a tokenizer: token ids, what codes look like, codes that move, curves of a training.

Every function returns the matplotlib Figure that it drew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from gss_lite.plotting import CURVES, to_rgb

DPI = 120
MARGIN = 4  # pixels shown around a patch
INK = "#222222"


def show_token_ids(
    picture: Tensor, tokens: Tensor, *, rows: range, columns: range, width: float = 8.0
) -> Figure:
    """Write the token ids over the patches of a picture that they stand for.

    Args:
        picture: (3, H, W), as in `plotting.to_rgb`.
        tokens: its token grid (h, w); the stride is H / h.
        rows, columns: the part of the grid that is shown.
        width: of the figure, in inches.
    """
    stride = picture.shape[1] // tokens.shape[0]
    part = picture[
        :,
        stride * rows.start : stride * rows.stop,
        stride * columns.start : stride * columns.stop,
    ]
    figure, axis = plt.subplots(
        figsize=(width, width * len(rows) / len(columns) + 0.6), dpi=DPI, layout="constrained"
    )
    extent = (columns.start, columns.stop, rows.stop, rows.start)
    axis.imshow(to_rgb(part), extent=extent, alpha=0.55, interpolation="nearest")
    for row in rows:
        for column in columns:
            name = str(int(tokens[row, column]))
            axis.text(column + 0.5, row + 0.5, name, ha="center", va="center", fontsize=8)
    axis.set_xticks(range(columns.start, columns.stop + 1))
    axis.set_yticks(range(rows.start, rows.stop + 1))
    axis.grid(color="white", linewidth=0.8)
    axis.set(xlabel="column of the token grid", ylabel="row")
    return figure


def show_codes(
    pictures: Tensor, tokens: Tensor, codes: Sequence[int], *, examples: int = 5
) -> Figure:
    """Draw what codes look like where they occur: one column a code, one row an example.

    The examples of a code are spread evenly over all places that it takes. A square marks the
    token's own patch. Above a column stands the code's id, with its share of all tokens.

    Args:
        pictures: what the decoder painted, (N, 3, H, W), as in `plotting.to_rgb`.
        tokens: the token grids (N, h, w) that it painted from; the stride is H / h.
        codes: ids, each of which occurs in `tokens`.
        examples: rows.

    Raises:
        ValueError: a code occurs nowhere.
    """
    stride = pictures.shape[2] // tokens.shape[1]
    side = stride + 2 * MARGIN
    figure, axes = plt.subplots(
        examples,
        len(codes),
        figsize=(0.78 * len(codes), 0.78 * examples + 0.5),
        dpi=DPI,
        squeeze=False,
        layout="constrained",
    )
    for column, code in zip(axes.T, codes):
        places = (tokens == int(code)).nonzero()  # (n, 3): picture, row, column
        if not len(places):
            raise ValueError(f"code {int(code)} occurs in none of the {len(tokens)} token grids")
        share = 100 * len(places) / tokens.numel()
        column[0].set_title(f"{int(code)}\n{share:.2g} %", fontsize=8)
        for number, axis in enumerate(column):
            picture, row, start = places[number * len(places) // examples].tolist()
            # Beyond the picture's edge the figure stays white.
            axis.imshow(to_rgb(pictures[picture]), interpolation="nearest")
            top = stride * row - MARGIN - 0.5
            left = stride * start - MARGIN - 0.5
            axis.set(xlim=(left, left + side), ylim=(top + side, top), xticks=(), yticks=())
            corner = (left + MARGIN, top + MARGIN)
            axis.add_patch(Rectangle(corner, stride, stride, fill=False, color=INK, linewidth=1))
    return figure


def show_moving_codes(states: Mapping[str, tuple[Tensor, Tensor]]) -> Figure:
    """Draw a codebook of two-dimensional codes at several times, one panel a time.

    A title ends with the number of codes that are in use: each is the nearest to some point. From
    the second panel on, a thin line leads from the old place of a code that has moved.

    Args:
        states: a panel's title → points (N, 2), grey, and codes (V, 2), crosses.
    """
    figure, axes = plt.subplots(
        1,
        len(states),
        figsize=(3.1 * len(states), 3.4),
        dpi=DPI,
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    before = None
    for axis, (title, (points, codes)) in zip(axes[0], states.items()):
        axis.plot(*points.T, ".", color="0.8", markersize=3)
        if before is not None:
            for start, end in zip(before, codes):
                axis.plot(*zip(start.tolist(), end.tolist()), color=CURVES[5], linewidth=0.8)
        axis.plot(*codes.T, "X", color=CURVES[1], markersize=8, markeredgecolor="white")
        used = len(torch.cdist(points, codes).argmin(1).unique())
        axis.set_title(f"{title}:\n{used} of {len(codes)} codes in use", fontsize=10)
        axis.set_xlabel("first number")
        before = codes
    axes[0, 0].set_ylabel("second number")
    return figure


def show_history(**curves: Sequence[float]) -> Figure:
    """Draw numbers that were kept at every training step, one panel for each name."""
    figure, axes = plt.subplots(
        1,
        len(curves),
        figsize=(3.0 * len(curves), 2.6),
        dpi=DPI,
        squeeze=False,
        layout="constrained",
    )
    for axis, (name, values) in zip(axes[0], curves.items()):
        axis.plot(range(1, len(values) + 1), values, color=CURVES[0], linewidth=1.2)
        axis.set(title=name, xlabel="step", ylim=(0, None))
        axis.grid(alpha=0.3)
    return figure
