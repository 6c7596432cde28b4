"""Figures of palettes: swatches with class names, distances, the colour cube, colour vision, reconstructions.

Every function returns the matplotlib Figure it drew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from gss_lite.contracts import IGNORE
from gss_lite.inverse import NearestColor
from gss_lite.palette.maxmin import (
    DEFICIENCIES,
    distances,
    get_space,
    simulate_deficiency,
    srgb_to_oklab,
)
from gss_lite.palette.palette import Palette
from gss_lite.plotting import CURVES, DPI, to_rgb

_UNIT = {"RGB": "RGB, 0–255 scale", "OKLab": "OKLab, lightness 0–100"}


def draw_swatches(
    axis: Axes,
    palette: Palette,
    names: Sequence[str] = (),
    *,
    columns: int = 0,
    fontsize: float = 7,
) -> None:
    """One rectangle a class on `axis`, row by row, with its name (or its number) in black or white, whichever is readable."""
    if names and len(names) != len(palette):
        raise ValueError(f"{len(names)} class names for a palette of {len(palette)} colours")
    columns = columns or max(
        1, round((2.2 if names else 1.2) * len(palette) ** 0.5 / (3 if names else 1))
    )
    rows = -(-len(palette) // columns)
    lightness = srgb_to_oklab(palette.colors)[:, 0]
    for k, color in enumerate(palette.colors.tolist()):
        row, column = divmod(k, columns)
        axis.add_patch(
            Rectangle((column, row), 1, 1, facecolor=color, edgecolor="white", linewidth=1)
        )
        axis.text(
            column + 0.5,
            row + 0.5,
            names[k] if names else str(k),
            ha="center",
            va="center",
            fontsize=fontsize,
            color="black" if lightness[k] > 0.68 else "white",
        )
    axis.set(xlim=(0, columns), ylim=(rows, 0))
    axis.set_axis_off()


def show_swatches(
    palette: Palette,
    names: Sequence[str] = (),
    *,
    columns: int = 0,
    width: float = 10,
    title: str = "",
) -> Figure:
    """All colours with their class names, in the manner of Figures S.7 and S.8."""
    columns = columns or (1 if len(palette) < 4 else 6 if names else 15)
    rows = -(-len(palette) // columns)
    figure, axis = plt.subplots(
        figsize=(width, 0.28 * rows + 0.5 + 0.2 * (rows == 1)), dpi=DPI, layout="constrained"
    )
    draw_swatches(axis, palette, names, columns=columns)
    axis.set_title(title or f"{palette.name}, K = {len(palette)}", fontsize=11)
    return figure


def nearest_distances(palette: Palette, space: str = "RGB") -> Tensor:
    """Distance from every colour to its nearest neighbour (K,), in the unit of `distances`; its minimum is the least distance."""
    chosen = get_space(space)
    points = chosen.from_rgb(palette.colors.double())
    table = chosen.unit * torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    return table.fill_diagonal_(torch.inf).amin(1)


def draw_distances(
    axis: Axes, palette: Palette, space: str = "RGB", *, color: str = CURVES[0], bins: int = 24
) -> None:
    """Histogram on `axis` of all pairwise distances, with the least one marked and written."""
    values = distances(palette.colors, space)
    least = float(values.min())
    axis.hist(values.numpy(), bins=bins, range=(0, float(values.max())), color=color, alpha=0.85)
    axis.axvline(least, color=CURVES[1], linestyle="--", linewidth=1.5)
    axis.annotate(
        f"least: {least:.1f}",
        (least, 0.94),
        xycoords=("data", "axes fraction"),
        xytext=(4, 0),
        textcoords="offset points",
        color=CURVES[1],
        fontsize=9,
        va="top",
    )
    axis.set(xlabel=f"distance ({_UNIT[space]})", ylabel="pairs of classes", xlim=(0, None))


def show_nearest_distances(
    palettes: Mapping[str, Palette], space: str = "RGB", *, width: float = 9
) -> Figure:
    """One row a palette: every colour's distance to its nearest neighbour as a dot, the least as a bar."""
    figure, axis = plt.subplots(
        figsize=(width, 0.42 * len(palettes) + 1), dpi=DPI, layout="constrained"
    )
    for row, palette in enumerate(palettes.values()):
        values = nearest_distances(palette, space)
        # keeps equal values apart
        lift = torch.linspace(-0.22, 0.22, 7)[torch.arange(len(values)) % 7]
        axis.plot(values, row + lift, ".", color=CURVES[0], alpha=0.5, markersize=5)
        axis.plot([values.min()] * 2, [row - 0.36, row + 0.36], color=CURVES[1], linewidth=2.5)
        axis.annotate(
            f"{float(values.min()):.1f}",
            (float(values.min()), row - 0.36),
            ha="center",
            va="bottom",
            fontsize=8,
            color=CURVES[1],
        )
    axis.set_yticks(range(len(palettes)), list(palettes))
    axis.set(
        xlabel=f"distance to the nearest other colour ({_UNIT[space]})",
        xlim=(0, None),
        ylim=(len(palettes) - 0.4, -0.75),
    )
    return figure


def show_cubes(palettes: Mapping[str, Palette], *, width: float = 10) -> Figure:
    """The palettes as points of the RGB cube, side by side."""
    figure = plt.figure(figsize=(width, width / len(palettes) + 0.3), dpi=DPI)
    for number, (title, palette) in enumerate(palettes.items(), 1):
        axis = figure.add_subplot(1, len(palettes), number, projection="3d")
        axis.scatter(
            *(255 * palette.colors.T).numpy(),
            c=palette.colors.numpy(),
            s=38,
            depthshade=False,
            edgecolors="grey",
            linewidths=0.4,
        )
        axis.set(
            xlabel="R", ylabel="G", zlabel="B", xticks=(0, 255), yticks=(0, 255), zticks=(0, 255)
        )
        axis.tick_params(labelsize=7, pad=-2)
        axis.set_title(title, fontsize=10)
        axis.view_init(22, 35)
    figure.subplots_adjust(left=0.01, right=0.97, bottom=0.05, top=0.9, wspace=0.05)
    return figure


def show_deficiencies(palette: Palette, names: Sequence[str] = (), *, width: float = 10) -> Figure:
    """The palette as most people see it and under three colour vision deficiencies, with the least OKLab distance of each."""
    views = {"full colour vision": palette.colors} | {
        kind: simulate_deficiency(palette.colors, kind) for kind in DEFICIENCIES
    }
    figure, axes = plt.subplots(
        len(views), 1, figsize=(width, 0.62 * len(views) + 0.2), dpi=DPI, layout="constrained"
    )
    for axis, (title, colors) in zip(axes, views.items()):
        for k, color in enumerate(colors.tolist()):
            axis.add_patch(Rectangle((k, 0), 1, 1, facecolor=color, edgecolor="white"))
            if names:
                axis.text(
                    k + 0.5,
                    0.5,
                    names[k],
                    ha="center",
                    va="center",
                    fontsize=7,
                    color="black" if srgb_to_oklab(colors[k])[0] > 0.68 else "white",
                )
        axis.set(xlim=(0, len(palette)), ylim=(0, 1))
        axis.set_axis_off()
        axis.set_title(
            f"{title}: least distance {float(distances(colors, 'OKLab').min()):.1f} (OKLab)",
            fontsize=9,
            loc="left",
            pad=2,
        )
    return figure


def show_reconstruction(
    palette: Palette, tokenizer: object, mask: Tensor, *, width: float = 10
) -> Figure:
    """Stage I on one mask (H, W): maskige, decoder's output, nearest colours, and the wrong pixels with their share."""
    maskige = palette(mask)
    rebuilt = tokenizer.decode(tokenizer.encode(maskige[None]))
    ids = NearestColor(palette.colors).classify(rebuilt)[0]
    wrong = (ids != mask) & (mask != IGNORE)
    share = 100 * float(wrong.sum() / (mask != IGNORE).sum())
    panels = {
        "maskige": maskige,
        "decoded tokens": rebuilt[0],
        "nearest colour": palette(ids),
        f"wrong: {share:.1f} % of the pixels": 1 - 0.85 * wrong.float().expand(3, -1, -1),
    }
    figure, axes = plt.subplots(
        1,
        4,
        figsize=(width, width / 4 * mask.shape[0] / mask.shape[1] + 0.35),
        dpi=DPI,
        layout="constrained",
    )
    for axis, (title, panel) in zip(axes, panels.items()):
        axis.imshow(to_rgb(panel), interpolation="nearest")
        axis.set_title(title, fontsize=10)
        axis.set_axis_off()
    return figure
