"""Figures of palettes: swatches, distances, the colour cube, colour vision, reconstructions.

A `show_…` function returns a new matplotlib Figure; a `draw_…` function draws on a given axis. All
palettes must have three channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from gss_lite.contracts import IGNORE, Tokenizer
from gss_lite.inverse import NearestColor
from gss_lite.palette import Palette, distances
from gss_lite.palette.maxmin import get_space, linear_to_srgb, srgb_to_linear, srgb_to_oklab
from gss_lite.plotting import CURVES, DPI, show_row

_UNIT = {"RGB": "RGB, 0–255 scale", "OKLab": "OKLab, lightness 0–100"}

# Machado, Oliveira and Fernandes (2009), severity 1.0, on linear RGB.
_DEFICIENCY = {
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
DEFICIENCIES = tuple(_DEFICIENCY)


def draw_swatches(
    axis: Axes,
    palette: Palette,
    names: Sequence[str] = (),
    *,
    columns: int = 0,
    fontsize: float = 7,
) -> None:
    """Draw one rectangle for each class, row by row, with its name or its number.

    Args:
        axis: the axis to draw on.
        palette: the colours.
        names: of the classes; their numbers by default.
        columns: rectangles in a row; 0 chooses them by the number of classes.
        fontsize: of the names.

    Raises:
        ValueError: there are not as many names as colours.
    """
    if names and len(names) != len(palette):
        raise ValueError(f"{len(names)} class names for a palette of {len(palette)} colours")
    if not columns:
        wide, high = (2.2, 3) if names else (1.2, 1)
        columns = max(1, round(wide * len(palette) ** 0.5 / high))
    labels = names or [str(k) for k in range(len(palette))]
    corners = [(k % columns, k // columns) for k in range(len(palette))]
    _draw_labelled(axis, palette.colors, labels, corners, fontsize=fontsize, linewidth=1)
    axis.set(xlim=(0, columns), ylim=(-(-len(palette) // columns), 0))
    axis.set_axis_off()


def show_swatches(
    palette: Palette,
    names: Sequence[str] = (),
    *,
    columns: int = 0,
    width: float = 10,
    title: str = "",
) -> Figure:
    """Draw all colours with their class names, as in Figures S.7 and S.8."""
    if not columns:
        usual = 6 if names else 15
        columns = usual if len(palette) >= 4 else 1
    rows = -(-len(palette) // columns)
    figure, axis = plt.subplots(
        figsize=(width, 0.28 * rows + 0.5 + 0.2 * (rows == 1)), dpi=DPI, layout="constrained"
    )
    draw_swatches(axis, palette, names, columns=columns)
    axis.set_title(title or f"{palette.name}, K = {len(palette)}", fontsize=11)
    return figure


def nearest_distances(palette: Palette, space: str = "RGB") -> Tensor:
    """Distance from every colour to its nearest neighbour (K,), in the unit of `distances`."""
    chosen = get_space(space)
    points = chosen.from_rgb(palette.colors.cpu().double())
    table = chosen.unit * torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    return table.fill_diagonal_(torch.inf).amin(1)


def draw_distances(axis: Axes, palette: Palette, space: str = "RGB") -> None:
    """Draw a histogram of all pairwise distances, with the least one marked."""
    values = distances(palette.colors.cpu(), space)
    least = float(values.min())
    axis.hist(values.numpy(), 24, range=(0, float(values.max())), color=CURVES[0], alpha=0.85)
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


def show_nearest_distances(palettes: Mapping[str, Palette], space: str = "RGB") -> Figure:
    """Draw, in one row a palette, the distance of every colour to its nearest neighbour."""
    size = (9, 0.42 * len(palettes) + 1)
    figure, axis = plt.subplots(figsize=size, dpi=DPI, layout="constrained")
    for row, palette in enumerate(palettes.values()):
        values = nearest_distances(palette, space)
        least = float(values.min())
        # Different small vertical shifts, so that equal values do not cover each other.
        lift = torch.linspace(-0.22, 0.22, 7)[torch.arange(len(values)) % 7]
        axis.plot(values, row + lift, ".", color=CURVES[0], alpha=0.5, markersize=5)
        axis.plot([least] * 2, [row - 0.36, row + 0.36], color=CURVES[1], linewidth=2.5)
        axis.annotate(
            f"{least:.1f}",
            (least, row - 0.36),
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
    """Draw the palettes as points of the RGB cube, side by side."""
    figure = plt.figure(figsize=(width, width / len(palettes) + 0.3), dpi=DPI)
    for number, (title, palette) in enumerate(palettes.items(), 1):
        colors = palette.colors.cpu()
        axis = figure.add_subplot(1, len(palettes), number, projection="3d")
        axis.scatter(
            *(255 * colors.T).numpy(),
            c=colors.numpy(),
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


def simulate_deficiency(colors: Tensor, kind: str) -> Tensor:
    """Colours (…, 3) as a person with a colour vision deficiency sees them, (…, 3), both sRGB.

    Args:
        colors: in [0, 1].
        kind: "protanopia", "deuteranopia" or "tritanopia" (Machado et al., 2009).

    Raises:
        ValueError: there is no such kind.
    """
    if kind not in _DEFICIENCY:
        raise ValueError(
            f"no colour vision deficiency named {kind!r}; there are: {', '.join(DEFICIENCIES)}"
        )
    matrix = torch.tensor(_DEFICIENCY[kind], dtype=colors.dtype, device=colors.device)
    return linear_to_srgb((srgb_to_linear(colors) @ matrix.T).clamp(0, 1))


def show_deficiencies(palette: Palette, names: Sequence[str] = ()) -> Figure:
    """Draw the palette for full colour vision and three deficiencies, with the least distances."""
    views = {"full colour vision": palette.colors}
    for kind in DEFICIENCIES:
        views[kind] = simulate_deficiency(palette.colors, kind)
    size = (10, 0.62 * len(views) + 0.2)
    figure, axes = plt.subplots(len(views), 1, figsize=size, dpi=DPI, layout="constrained")
    corners = [(k, 0) for k in range(len(palette))]
    for axis, (title, colors) in zip(axes, views.items()):
        _draw_labelled(axis, colors, names, corners)
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
    palette: Palette, tokenizer: Tokenizer, mask: Tensor, *, width: float = 10
) -> Figure:
    """Draw stage I on a mask (H, W): maskige, decoder's output, nearest colours, wrong pixels."""
    maskige = palette(mask)
    rebuilt = tokenizer.decode(tokenizer.encode(maskige[None]))
    ids = NearestColor(palette.colors).classify(rebuilt)[0]
    labelled = mask != IGNORE
    wrong = (ids != mask) & labelled
    share = 100 * float(wrong.sum() / labelled.sum())
    panels = {
        "maskige": maskige,
        "decoded tokens": rebuilt[0],
        "nearest colour": palette(ids),
        f"wrong: {share:.1f} % of the pixels": 1 - 0.85 * wrong.float().expand(3, -1, -1),
    }
    height = (width - 0.4) / 4 * mask.shape[0] / mask.shape[1]  # show_row adds 0.1 a panel
    return show_row(list(panels.items()), height=height)


def _draw_labelled(
    axis: Axes,
    colors: Tensor,
    labels: Sequence[str],
    corners: Sequence[tuple[int, int]],
    *,
    fontsize: float = 7,
    linewidth: float | None = None,
) -> None:
    """Draw a unit square for each colour (K, 3), with a black label on light colours."""
    light = srgb_to_oklab(colors)[:, 0] > 0.68
    for k, (color, (x, y)) in enumerate(zip(colors.tolist(), corners)):
        axis.add_patch(
            Rectangle((x, y), 1, 1, facecolor=color, edgecolor="white", linewidth=linewidth)
        )
        if labels:
            axis.text(
                x + 0.5,
                y + 0.5,
                labels[k],
                ha="center",
                va="center",
                fontsize=fontsize,
                color="black" if light[k] else "white",
            )
