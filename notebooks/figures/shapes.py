"""The shapes and colours that all diagrams of the lessons are made of."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Rectangle

INK = "#222222"
GREY = "#666666"
PALE = "#eef2f6"
# A palette that colour-blind readers can tell apart (Okabe and Ito, 2008).
BLUE = "#0072B2"
ORANGE = "#D55E00"
GREEN = "#00805e"
PINK = "#CC79A7"
YELLOW = "#E69F00"
SKY = "#56B4E9"
PALE_BLUE = "#dceaf5"
PALE_ORANGE = "#fde8dc"
PALE_GREEN = "#e3f3ea"
# A street of four classes: sky, building, tree and road.
STREET = [[0, 0, 0, 0], [1, 0, 0, 2], [1, 1, 2, 2], [3, 3, 3, 3]]
CLASS_COLORS = [SKY, YELLOW, "#009E73", "#999999"]
TOKENS = [[17, 4], [9, 30]]

Point = tuple[float, float]


def label(
    ax: Axes,
    x: float,
    y: float,
    text: str,
    *,
    size: float = 10,
    color: str = INK,
    ha: str = "center",
) -> None:
    """Write text whose middle lies at the height y."""
    ax.text(x, y, text, ha=ha, va="center", fontsize=size, color=color, linespacing=1.35)


def box(
    ax: Axes, x: float, y: float, text: str, *, w: float = 1.6, h: float = 0.9, color: str = PALE
) -> None:
    """Draw a rounded box with its centre at (x, y)."""
    shape = FancyBboxPatch(
        (x - w / 2, y - h / 2),
        w,
        h,
        boxstyle="round,pad=0,rounding_size=0.12",
        facecolor=color,
        edgecolor=INK,
        linewidth=1.2,
    )
    ax.add_patch(shape)
    label(ax, x, y, text, size=10.5)


def node(ax: Axes, x: float, y: float, text: str, *, color: str = "white") -> None:
    """Draw a round node of a graphical model."""
    ax.add_patch(Circle((x, y), 0.45, facecolor=color, edgecolor=INK, linewidth=1.4))
    label(ax, x, y, text, size=14)


def arrow(
    ax: Axes, start: Point, end: Point, *, color: str = INK, dashed: bool = False, bend: float = 0.0
) -> None:
    """Draw an arrow, straight or bent."""
    shape = FancyArrowPatch(
        start,
        end,
        arrowstyle="-|>",
        mutation_scale=12,
        linewidth=1.5,
        linestyle="--" if dashed else "-",
        color=color,
        shrinkA=0,
        shrinkB=0,
        connectionstyle=f"arc3,rad={bend}",
    )
    ax.add_patch(shape)


def square(ax: Axes, x: float, y: float, w: float, h: float, color: str, edge: str = INK) -> None:
    """Draw a rectangle with its centre at (x, y)."""
    ax.add_patch(
        Rectangle((x - w / 2, y - h / 2), w, h, facecolor=color, edgecolor=edge, linewidth=0.9)
    )


def grid(
    ax: Axes, x: float, y: float, colors: Sequence[Sequence[str]], size: float, edge: str = "white"
) -> None:
    """Draw coloured cells around the centre (x, y)."""
    rows, columns = len(colors), len(colors[0])
    for r, row in enumerate(colors):
        for c, color in enumerate(row):
            cell_x = x + (c - (columns - 1) / 2) * size
            cell_y = y - (r - (rows - 1) / 2) * size
            square(ax, cell_x, cell_y, size, size, color, edge)


def numbers(ax: Axes, x: float, y: float, rows: Sequence[Sequence[int]], size: float) -> None:
    """Draw a grid of integers around the centre (x, y)."""
    grid(ax, x, y, [["white"] * len(row) for row in rows], size, INK)
    for r, row in enumerate(rows):
        for c, number in enumerate(row):
            cell_x = x + (c - (len(row) - 1) / 2) * size
            cell_y = y - (r - (len(rows) - 1) / 2) * size
            label(ax, cell_x, cell_y, str(number), size=8)


def mask(ax: Axes, x: float, y: float, size: float = 0.3) -> None:
    """Draw the street as class numbers."""
    numbers(ax, x, y, STREET, size)


def maskige(ax: Axes, x: float, y: float, size: float = 0.3) -> None:
    """Draw the street in the colours of its classes."""
    grid(ax, x, y, [[CLASS_COLORS[k] for k in row] for row in STREET], size)


def tokens(ax: Axes, x: float, y: float) -> None:
    """Draw the street as four tokens."""
    numbers(ax, x, y, TOKENS, 0.5)


def photograph(ax: Axes, x: float, y: float) -> None:
    """Draw the street as a small picture with a house, a tree and a road."""
    square(ax, x, y, 1.2, 1.2, "#cfe8fb")
    square(ax, x - 0.33, y - 0.08, 0.4, 0.56, "#e8c98a")
    square(ax, x + 0.33, y - 0.2, 0.08, 0.4, "#8a6a4a", "#8a6a4a")
    ax.add_patch(Circle((x + 0.33, y + 0.12), 0.2, facecolor="#5aa777", edgecolor="none"))
    square(ax, x, y - 0.46, 1.2, 0.28, "#b5b5b5")


def pixels(ax: Axes, left: float, bottom: float, count: int, size: float) -> None:
    """Draw an empty grid of count × count pixels by its lines."""
    side = count * size
    square(ax, left + side / 2, bottom + side / 2, side, side, "#f4f4f4", "#f4f4f4")
    for step in range(count + 1):
        at = step * size
        for xs, ys in (
            ([left + at] * 2, [bottom, bottom + side]),
            ([left, left + side], [bottom + at] * 2),
        ):
            ax.plot(xs, ys, color="white", linewidth=0.8)


def span(
    ax: Axes, left: float, bottom: float, size: float, first: int, last: int, color: str
) -> None:
    """Fill the square of the pixels first … last, in both directions, of a grid."""
    side = (last - first + 1) * size
    middle = (first + last + 1) / 2 * size
    square(ax, left + middle, bottom + middle, side, side, color, color)
