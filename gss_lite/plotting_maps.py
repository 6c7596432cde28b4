"""Figures of maps that share one scale, of reliability, and the small pictures of run records."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from gss_lite.metrics import Calibration
from gss_lite.plotting import CURVES, to_rgb

DPI = 120
FEWEST = 0.001  # a bin with a smaller share of the pixels is not drawn


def show_maps(
    panels: Mapping[str, Tensor],
    label: str,
    low: float,
    high: float,
    *,
    width: float = 10.0,
    cmap: str = "magma",
) -> Figure:
    """Draw pictures and maps side by side; all maps share one scale and one colour bar.

    Args:
        panels: title → picture (3, H, W) as in `plotting.to_rgb`, or map (H, W) of numbers.
        label: of the colour bar, with the unit.
        low, high: the ends of the scale.
        width: of the figure, in inches.
        cmap: the colour map.

    Raises:
        ValueError: there is no map among the panels, so there is nothing to put a scale to.
    """
    if all(panel.ndim == 3 for panel in panels.values()):
        raise ValueError(f"no map (H, W) among the panels {', '.join(panels) or '(none)'}")
    aspects = [panel.shape[-1] / panel.shape[-2] for panel in panels.values()]
    figure, axes = plt.subplots(
        1,
        len(panels),
        figsize=(width, (width - 1) / sum(aspects) + 0.35),
        dpi=DPI,
        gridspec_kw={"width_ratios": aspects},
        squeeze=False,
        layout="constrained",
    )
    for axis, (title, panel) in zip(axes[0], panels.items()):
        if panel.ndim == 3:
            axis.imshow(to_rgb(panel), interpolation="nearest")
        else:
            values = panel.detach().cpu().numpy()
            scale = axis.imshow(values, vmin=low, vmax=high, cmap=cmap, interpolation="nearest")
        axis.set_title(title, fontsize=10)
        axis.set_axis_off()
    figure.colorbar(scale, ax=axes[0], label=label, pad=0.01)
    return figure


def show_reliability(curves: Mapping[str, Calibration]) -> Figure:
    """Draw accuracy against confidence, one curve for each {name: Calibration}.

    Bins that hold less than a thousandth of the pixels are left out.
    """
    figure, axis = plt.subplots(figsize=(5.0, 3.6), dpi=DPI, layout="constrained")
    axis.plot([0, 1], [0, 1], ":", color="0.5")
    lowest = 1.0
    for color, (name, curve) in zip(CURVES, curves.items()):
        kept = curve.share > FEWEST
        confidence, accuracy = curve.confidence[kept], curve.accuracy[kept]
        axis.plot(confidence, accuracy, "o-", color=color, label=name, markersize=4)
        lowest = min(lowest, float(confidence.min()), float(accuracy.min()))
    limits = (lowest - 0.02, 1.02)
    axis.set(xlabel="confidence", ylabel="accuracy", xlim=limits, ylim=limits)
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    return figure


def record_panels(record: Mapping) -> dict[str, Tensor]:
    """A run record's small pictures: title → uint8 (3, H, W).

    Args:
        record: has "panels", the titles, and "jpeg_base64", one JPEG of the pictures side by side.

    Raises:
        ValueError: the JPEG's width is no multiple of the number of titles.
    """
    jpeg = io.BytesIO(base64.b64decode(record["jpeg_base64"]))
    strip = torch.from_numpy(plt.imread(jpeg, format="jpg").copy()).movedim(2, 0)  # (3, H, n·W)
    titles = record["panels"]
    if strip.shape[2] % len(titles):
        raise ValueError(f"{strip.shape[2]} pixels cannot be cut into {len(titles)} pictures")
    return dict(zip(titles, strip.split(strip.shape[2] // len(titles), dim=2)))
