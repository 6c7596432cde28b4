"""Figures for the notebooks. Every function returns the matplotlib Figure that it drew."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from gss_lite.data.transforms import denormalize
from gss_lite.palette.palette import Palette, paint

# Okabe and Ito's colours for curves and bars; they differ under any kind of colour vision.
CURVES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DPI = 120
# Steps of hue, saturation and value from one token id to the next: Roberts's R3 sequence (2018),
# whose first n points are spread evenly through a cube, for every n.
TOKEN_STEPS = (0.8191725134, 0.6710436067, 0.5497004779)
SCORES = {"score": "validation mIoU", "miou": "mIoU", "token_accuracy": "token accuracy"}


def to_rgb(picture: Tensor) -> np.ndarray:
    """Picture (3, H, W), uint8 or floats in [0, 1] → (H, W, 3) for imshow.

    Floats are clamped to [0, 1], because a decoder's output can exceed this range by some tenths.

    Raises:
        ValueError: another shape or type, or floats outside [−0.5, 1.5], as in most normalised
            photographs.
    """
    if picture.ndim != 3 or len(picture) != 3:
        raise ValueError(f"a picture must be (3, H, W); got {tuple(picture.shape)}")
    if picture.is_floating_point():
        low, high = picture.aminmax()
        if not (low >= -0.5 and high <= 1.5):
            raise ValueError(
                f"a picture must lie in [0, 1]; got {float(low):.2f} … {float(high):.2f}. "
                "It looks normalised: use denormalize(image) from gss_lite.data.transforms"
            )
        picture = picture.detach().float().clamp(0, 1)
    elif picture.dtype != torch.uint8:
        raise ValueError(f"a picture must be uint8 or floats in [0, 1]; got {picture.dtype}")
    return picture.permute(1, 2, 0).cpu().numpy()


def token_colors(tokens: Tensor) -> Tensor:
    """Token ids (h, w) → a picture (3, h, w) in [0, 1]; an id has the same colour in all figures.

    The order of ids has no meaning, so consecutive ids have unlike colours.
    """
    points = tokens.cpu().numpy()[..., None] * np.array(TOKEN_STEPS) % 1  # (h, w, 3) in a cube
    hsv = np.array([0.0, 0.4, 0.5]) + np.array([1.0, 0.6, 0.5]) * points  # neither pale nor dark
    return torch.from_numpy(hsv_to_rgb(hsv)).movedim(-1, 0)  # (3, h, w)


def show(
    *pictures: Tensor,
    palette: Palette | Tensor | None = None,
    names: Sequence[str] = (),
    height: float = 2.3,
    **named: Tensor,
) -> Figure:
    """Draw pictures, masks, token grids and maps side by side.

    `show(image=image, prediction=out.mask, truth=mask, palette=model.palette)` draws three panels
    with these titles. `show(street, mask, palette=palette)` draws a street, and the mask laid over
    it. A panel may be:

    - (3, H, W), uint8 or floats in [0, 1]: a picture. Floats under the keyword `image`, and only
      there, are a data set's normalised photograph.
    - (H, W) of whole numbers: a mask, in the palette's colours and mid-grey for 255. Without a
      palette, or under a keyword with "token" in it, it is a token grid in `token_colors`.
    - (H, W) of floats or bools: a map.

    Args:
        pictures: panels without titles. A mask after a picture is laid over it.
        palette: a Palette, or its colours (K, 3).
        names: K class names for a legend.
        height: of a panel, in inches.
        named: panels with titles, in which underscores become spaces.

    Raises:
        ValueError: there is no panel, or one has another shape (a batch dimension of 1 is allowed);
            a mask has ids that the palette lacks, or another size than the picture below it; there
            are not K names.
    """
    if not pictures and not named:
        raise ValueError("show needs a picture, a mask, a token grid or a map to draw")
    colors = palette.colors if isinstance(palette, Palette) else palette
    panels = []
    picture = None
    for number, tensor in enumerate(pictures, 1):
        tensor = _without_batch(f"panel {number}", tensor)
        panel = _painted(f"panel {number}", tensor, colors)
        if panel is not tensor and picture is not None:
            panel = _laid_over(panel, picture)
        if tensor.ndim == 3:
            picture = tensor
        panels.append(("", panel))
    for name, tensor in named.items():
        tensor = _without_batch(name, tensor)
        if name == "image" and tensor.ndim == 3 and tensor.is_floating_point():
            tensor = denormalize(tensor)
        if "token" not in name:
            tensor = _painted(name, tensor, colors)
        panels.append((name.replace("_", " "), tensor))
    patches = _legend_patches(colors, names) if names else []
    figure = show_row(panels, height=height)
    _add_legend(figure, patches)
    return figure


def _without_batch(name: str, tensor: Tensor) -> Tensor:
    came = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
    if isinstance(tensor, Tensor) and tensor.ndim in (3, 4) and len(tensor) == 1:
        tensor = tensor[0]
    if not isinstance(tensor, Tensor) or tensor.ndim not in (2, 3):
        raise ValueError(
            f"{name} must be a tensor: one picture (3, H, W), or one mask, token grid or map "
            f"(H, W); got {came}. Of a batch, choose one: batch[0]"
        )
    return tensor


def _painted(name: str, tensor: Tensor, colors: Tensor | None) -> Tensor:
    """Paint a mask (H, W) → (3, H, W); other panels are returned unchanged."""
    if colors is None or not _is_grid(tensor):
        return tensor
    try:
        return paint(tensor, colors)
    except ValueError as error:
        raise ValueError(
            f"{name}: {error} A token grid belongs under a keyword such as tokens=…"
        ) from error


def _laid_over(painted: Tensor, picture: Tensor) -> Tensor:
    """The mean of a painted mask and a picture, both (3, H, W)."""
    if painted.shape != picture.shape:
        raise ValueError(
            f"a mask of {tuple(painted.shape[1:])} pixels cannot lie over a picture "
            f"{tuple(picture.shape)}; give it a keyword to draw it alone"
        )
    unit = picture / 255 if picture.dtype == torch.uint8 else picture
    return (painted.cpu() + unit.cpu()) / 2


def _is_grid(tensor: Tensor) -> bool:
    """Whether a panel is (H, W) of whole numbers."""
    return tensor.ndim == 2 and not tensor.is_floating_point() and tensor.dtype != torch.bool


def show_row(
    panels: Sequence[tuple[str, Tensor]], *, height: float = 2.3, cmap: str = "viridis"
) -> Figure:
    """Draw titled panels side by side.

    Args:
        panels: (title, tensor) pairs. Pictures are (3, H, W) as in `to_rgb`, maps (H, W) of floats
            or bools, token grids (h, w) of whole numbers.
        height: of a panel, in inches.
        cmap: the colour map of maps. Token grids have their own, `token_colors`.
    """
    images = [_to_image(tensor) for _, tensor in panels]
    width = height * sum(image.shape[1] / image.shape[0] for image in images)
    size = (width + 0.1 * len(panels), height + 0.35)
    return _draw_grid([images], [title for title, _ in panels], size, cmap)


def _draw_grid(
    rows: Sequence[Sequence[np.ndarray]],
    titles: Sequence[str],
    size: tuple[float, float],
    cmap: str = "viridis",
) -> Figure:
    """Draw rows of images, with titles over the first row, in a figure of `size` inches."""
    ratios = [image.shape[1] / image.shape[0] for image in rows[0]]
    figure, axes = plt.subplots(
        len(rows),
        len(titles),
        figsize=size,
        dpi=DPI,
        gridspec_kw={"width_ratios": ratios},
        squeeze=False,
        layout="constrained",
    )
    for axis, image in zip(axes.flat, itertools.chain(*rows)):
        axis.imshow(image, interpolation="nearest", cmap=cmap)
        axis.set_axis_off()
    for axis, title in zip(axes[0], titles):
        axis.set_title(title, fontsize=10)
    return figure


def _to_image(panel: Tensor) -> np.ndarray:
    """A panel of `show_row` as imshow takes it: (H, W, 3), or (H, W) for a map."""
    if _is_grid(panel):
        panel = token_colors(panel)
    return to_rgb(panel) if panel.ndim == 3 else panel.cpu().numpy()


def show_masks(
    rows: Sequence[Sequence[Tensor]],
    titles: Sequence[str],
    colors: Tensor,
    names: Sequence[str],
    *,
    width: float = 10.0,
) -> Figure:
    """Draw a grid of pictures and masks, with a legend of class names below.

    Args:
        rows: each row has pictures (3, H, W) as in `to_rgb`, and masks (H, W). Masks are drawn in
            the palette's colours, and in mid-grey for 255.
        titles: of the columns.
        colors: the palette's (K, 3).
        names: K class names.
        width: of the figure, in inches.
    """
    patches = _legend_patches(colors, names)
    painted = [[p if p.ndim == 3 else paint(p, colors) for p in row] for row in rows]
    images = [[to_rgb(panel) for panel in row] for row in painted]
    aspect = images[0][0].shape[0] / images[0][0].shape[1]
    size = (width, width / len(titles) * aspect * len(rows) + 0.3)
    figure = _draw_grid(images, titles, size)
    _add_legend(figure, patches)
    return figure


def _legend_patches(colors: Tensor | None, names: Sequence[str]) -> list[Patch]:
    values = [] if colors is None else colors.tolist()
    if len(names) != len(values):
        raise ValueError(f"{len(names)} class names for {len(values)} colours")
    return [Patch(facecolor=c, edgecolor="0.4", label=name) for c, name in zip(values, names)]


def _add_legend(figure: Figure, patches: Sequence[Patch]) -> None:
    """Put a legend below the figure, and make the figure higher by the legend's height."""
    if not patches:
        return
    columns = min(6, max(1, int(figure.get_figwidth() / 1.2)))
    place = {"loc": "outside lower center", "ncols": columns}
    figure.legend(handles=patches, fontsize=8, frameon=False, **place)
    lines = -(-len(patches) // columns)
    figure.set_figheight(figure.get_figheight() + 0.25 * lines)


def bar_per_class(
    values: Mapping[str, Sequence[float]], names: Sequence[str], *, label: str = "IoU"
) -> Figure:
    """Draw grouped horizontal bars, one group a class.

    Args:
        values: a series' name → one value in [0, 1] for each class; NaN leaves a gap.
        names: of the classes.
        label: of the axis.
    """
    _check_series(values)
    figure, axis = plt.subplots(
        figsize=(7.5, 0.32 * len(names) + 1.2), dpi=DPI, layout="constrained"
    )
    thickness = 0.8 / len(values)
    for i, (series, numbers) in enumerate(values.items()):
        centres = np.arange(len(names)) + (i - (len(values) - 1) / 2) * thickness
        axis.barh(centres, numbers, thickness, label=series, color=CURVES[i])
    axis.set_yticks(range(len(names)), names, fontsize=9)
    axis.invert_yaxis()
    axis.set_xlim(0, 1)
    axis.set_xlabel(label)
    axis.grid(axis="x", alpha=0.3)
    if len(values) > 1:
        # Inside the axes it would cover bars.
        figure.legend(fontsize=9, loc="outside upper center", ncols=len(values), frameon=False)
    return figure


def curves(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    x: str,
    y: str,
    title: str = "",
    log: bool = False,
) -> Figure:
    """Draw lines {name: (xs, ys)} on one pair of axes; `log` makes the y axis logarithmic."""
    figure, axis = plt.subplots(figsize=(6.5, 3.2), dpi=DPI, layout="constrained")
    _draw_curves(axis, series)
    axis.set(xlabel=x, ylabel=y, title=title)
    if log:
        axis.set_yscale("log")
    return figure


def _draw_curves(axis: Axes, series: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> None:
    _check_series(series)
    for color, (name, (xs, ys)) in zip(CURVES, series.items()):
        axis.plot(xs, ys, label=name, color=color)
    axis.grid(alpha=0.3)
    if len(series) > 1:
        axis.legend(fontsize=8)


def _check_series(series: Mapping) -> None:
    if not 1 <= len(series) <= len(CURVES):
        raise ValueError(
            f"{len(series)} series; a figure takes 1 to {len(CURVES)}, as many as there are "
            "colours to tell them apart"
        )


def plot_log(run: object) -> Figure:
    """Draw the training loss by step and, beside it, the scores in the log.

    Args:
        run: the result of `train` (one row of axes for each stage), a run record, its log, or the
            path of a record's JSON file.

    Raises:
        ValueError: `run` is none of these, or has no log.
        FileNotFoundError: there is no such file.
    """
    logs = _logs(run)
    columns = 1 + any(key in entry for log in logs.values() for entry in log for key in SCORES)
    figure, axes = plt.subplots(
        len(logs),
        columns,
        figsize=(4.5 * columns, 2.6 * len(logs)),
        dpi=DPI,
        squeeze=False,
        layout="constrained",
    )
    for row, (stage, log) in zip(axes, logs.items()):
        row[0].set(title=stage, xlabel="step", ylabel="loss")
        _draw_curves(row[0], {"loss": _series(log, "loss")})
        scores = {SCORES[key]: _series(log, key) for key in SCORES if any(key in e for e in log)}
        if scores:
            row[1].set(title=stage, xlabel="step", ylabel=" and ".join(scores), ylim=(0, 1))
            _draw_curves(row[1], scores)
        elif columns > 1:
            row[1].set_axis_off()
    return figure


def _series(log: Sequence[Mapping], key: str) -> tuple[list[int], list[float]]:
    """The steps at which a log has the key, and its values."""
    kept = [entry for entry in log if key in entry]
    return [entry["step"] for entry in kept], [entry[key] for entry in kept]


def _logs(run: object) -> dict[str, Sequence[Mapping]]:
    """{stage: log} of anything that `plot_log` takes."""
    if isinstance(run, str | Path):
        run = json.loads(Path(run).read_text())
    records = getattr(run, "records", None)
    if records is None and isinstance(run, Mapping):
        records = {run.get("kind", ""): run}
    if records is None and isinstance(run, Sequence):
        records = {"": {"log": run}}
    logs = {stage: record.get("log") for stage, record in (records or {}).items()}
    logs = {stage: log for stage, log in logs.items() if log}
    if not logs or not all("step" in e and "loss" in e for log in logs.values() for e in log):
        raise ValueError(
            'plot_log draws what train returns, a run record with a "log", or the path of one, '
            f"whose entries hold step and loss; got {str(run)[:80]}"
        )
    return logs
