"""Figures for the notebooks. Every function returns the matplotlib Figure it drew."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from gss_lite.data.transforms import denormalize
from gss_lite.palette.palette import paint

# Okabe and Ito's colours: told apart by readers with any kind of colour vision. For curves and
# bars, not for classes.
CURVES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


DPI = 100


def to_rgb(tensor: Tensor) -> np.ndarray:
    """(3, H, W): uint8, [0, 1] or ImageNet-normalised → (H, W, 3) for imshow.

    Floats count as normalised where a value lies below −1 or above 2: black becomes −2.1 and white
    2.6 by normalisation, while what a decoder paints leaves [0, 1] by tenths, and is cut there.
    """
    if tensor.dtype == torch.uint8:
        return tensor.permute(1, 2, 0).cpu().numpy()
    normalised = bool((tensor < -1).any() or (tensor > 2).any())
    return (
        (denormalize(tensor) if normalised else tensor.clamp(0, 1)).permute(1, 2, 0).cpu().numpy()
    )


def show_row(
    panels: Sequence[tuple[str, Tensor]], *, height: float = 2.3, cmap: str = "viridis"
) -> Figure:
    """Titled panels side by side: pictures (3, H, W), or maps (H, W) such as token grids, drawn with a colour bar's colours."""
    shapes = [p.shape[-1] / p.shape[-2] for _, p in panels]
    figure, axes = plt.subplots(
        1,
        len(panels),
        figsize=(height * sum(shapes) + 0.1 * len(panels), height + 0.35),
        dpi=DPI,
        gridspec_kw={"width_ratios": shapes},
        squeeze=False,
        layout="constrained",
    )
    for axis, (title, tensor) in zip(axes[0], panels):
        if tensor.ndim == 3:
            axis.imshow(to_rgb(tensor), interpolation="nearest")
        else:
            axis.imshow(tensor.cpu().numpy(), interpolation="nearest", cmap=cmap)
        axis.set_title(title, fontsize=10)
        axis.set_axis_off()
    return figure


def show_masks(
    rows: Sequence[Sequence[Tensor]],
    titles: Sequence[str],
    colors: Tensor,
    names: Sequence[str],
    *,
    width: float = 10.0,
) -> Figure:
    """A grid, one row a picture: photographs (3, H, W) as they are, masks (H, W) painted with `colors`; a legend of class names below."""
    if len(names) != len(colors):
        raise ValueError(f"{len(names)} class names for {len(colors)} colours")
    aspect = rows[0][0].shape[-2] / rows[0][0].shape[-1]
    height = width / len(titles) * aspect * len(rows) + 0.3 + 0.25 * -(-len(names) // 6)
    figure, axes = plt.subplots(
        len(rows),
        len(titles),
        figsize=(width, height),
        dpi=DPI,
        squeeze=False,
        layout="constrained",
    )
    for r, row in enumerate(rows):
        for c, tensor in enumerate(row):
            shown = to_rgb(tensor if tensor.ndim == 3 else paint(tensor, colors.cpu()))
            axes[r, c].imshow(shown, interpolation="nearest")
            axes[r, c].set_axis_off()
            if r == 0:
                axes[r, c].set_title(titles[c], fontsize=10)
    patches = [Patch(facecolor=c, edgecolor="0.4", label=n) for c, n in zip(colors.tolist(), names)]
    figure.legend(handles=patches, loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    return figure


def bar_per_class(
    values: dict[str, Sequence[float]], names: Sequence[str], *, label: str = "IoU"
) -> Figure:
    """Grouped horizontal bars, one group per class; `values` maps a series' name to one value per class (NaN leaves a gap)."""
    _check_series(values)
    figure, axis = plt.subplots(
        figsize=(7.5, 0.32 * len(names) + 1.2), dpi=DPI, layout="constrained"
    )
    thickness = 0.8 / len(values)
    for i, (series, numbers) in enumerate(values.items()):
        axis.barh(
            np.arange(len(names)) + (i - (len(values) - 1) / 2) * thickness,
            numbers,
            thickness,
            label=series,
            color=CURVES[i],
        )
    axis.set_yticks(range(len(names)), names, fontsize=9)
    axis.invert_yaxis()
    axis.set_xlim(0, 1)
    axis.set_xlabel(label)
    axis.grid(axis="x", alpha=0.3)
    if len(values) > 1:
        # inside it would cover bars
        figure.legend(fontsize=9, loc="outside upper center", ncols=len(values), frameon=False)
    return figure


def curves(
    series: dict[str, tuple[Sequence[float], Sequence[float]]],
    *,
    x: str,
    y: str,
    title: str = "",
    log: bool = False,
) -> Figure:
    """Lines {name: (xs, ys)} on one pair of axes."""
    _check_series(series)
    figure, axis = plt.subplots(figsize=(6.5, 3.2), dpi=DPI, layout="constrained")
    for colour, (name, (xs, ys)) in zip(CURVES, series.items()):
        axis.plot(xs, ys, label=name, color=colour)
    axis.set(xlabel=x, ylabel=y, title=title)
    if log:
        axis.set_yscale("log")
    axis.grid(alpha=0.3)
    if len(series) > 1:
        axis.legend(fontsize=8)
    return figure


def _check_series(series: dict) -> None:
    if not 1 <= len(series) <= len(CURVES):
        raise ValueError(
            f"{len(series)} series; a figure takes 1 to {len(CURVES)}, as many as there are "
            "colours to tell them apart"
        )
