"""Draw the diagrams of the lessons as SVG files beside this script, all in one style.

python -m notebooks.figures.draw

A unit of length is 0.6 inches. The letters are drawn as outlines, so no font is needed to see them,
and the background is white, so that a dark page does not hide them. The description in each file is
the docstring of the function that draws it.
"""

from __future__ import annotations

import html
import inspect
import io
import re
from collections.abc import Callable
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Polygon

from notebooks.figures.shapes import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PALE,
    PALE_BLUE,
    PALE_GREEN,
    PALE_ORANGE,
    PINK,
    SKY,
    Point,
    arrow,
    box,
    label,
    mask,
    maskige,
    node,
    photograph,
    pixels,
    span,
    square,
    tokens,
)

HERE = Path(__file__).resolve().parent
UNIT = 0.6  # inches
STYLE = {
    "font.family": "DejaVu Sans",  # it comes with matplotlib
    "mathtext.fontset": "dejavusans",
    "svg.fonttype": "path",
    "svg.hashsalt": "gss-lite",
}


def gss_chain(ax: Axes) -> None:
    """A row of five pictures, joined by arrows.

    The mask is a grid of class numbers. X paints it as a maskige, a grid of colours. The encoder E
    turns the maskige into four integers, the tokens. The decoder D turns the tokens into a maskige
    again, and X⁻¹ reads a mask from its colours. This row is stage I. Below it, a network I
    predicts the tokens from a photograph. This is stage II.
    """
    y = 3.1
    names = (
        "mask $c$",
        "maskige $x^{(c)}$",
        "tokens $z$",
        "maskige $\\hat{x}^{(c)}$",
        "mask $\\hat{c}$",
    )
    for k, (draw, name) in enumerate(zip((mask, maskige, tokens, maskige, mask), names)):
        draw(ax, 1 + 3 * k, y)
        label(ax, 1 + 3 * k, y + 0.92, name, size=10.5)
    steps = (
        ("paint $X$", ORANGE),
        ("encode $E_\\phi$", BLUE),
        ("decode $D_\\theta$", BLUE),
        ("read $X^{-1}$", ORANGE),
    )
    for k, (step, color) in enumerate(steps):
        arrow(ax, (1.8 + 3 * k, y), (3.2 + 3 * k, y), color=color)
        label(ax, 2.5 + 3 * k, y + 0.28, step, color=color)
    photograph(ax, 7, 0.8)
    label(ax, 6.2, 0.8, "photograph $x$", size=10.5, ha="right")
    arrow(ax, (7, 1.5), (7, 2.45), color=GREEN)
    label(ax, 7.2, 1.95, "predict $I_\\psi$", color=GREEN, ha="left")
    label(ax, 7, 4.7, "Stage I: a mask becomes integers and comes back.", color=GREY)
    label(ax, 8.1, 0.8, "Stage II: a photograph\npredicts the integers.", color=GREY, ha="left")


def graphical_model(ax: Axes) -> None:
    """Three nodes in a row: the photograph x, the tokens z and the mask c.

    An arrow leads from x to z, the prior p(z|x), and one from z to c, the decoder p(c|z). A dashed
    arrow leads back from c to z, the encoder q(z|c). The nodes x and c are shaded: they are
    observed. The node z is white: it is not.
    """
    for x, name, symbol, color in (
        (1, "photograph", "$x$", PALE),
        (4.4, "tokens", "$z$", "white"),
        (7.8, "mask", "$c$", PALE),
    ):
        node(ax, x, 1.7, symbol, color=color)
        label(ax, x, 2.45, name, color=GREY)
    arrow(ax, (1.45, 1.7), (3.95, 1.7))
    label(ax, 2.7, 1.98, "prior $p_\\psi(z\\,|\\,x)$")
    arrow(ax, (4.85, 1.7), (7.35, 1.7))
    label(ax, 6.1, 1.98, "decoder $p_\\theta(c\\,|\\,z)$")
    arrow(ax, (7.55, 1.32), (4.65, 1.32), color=ORANGE, dashed=True, bend=-0.3)
    label(ax, 6.1, 0.55, "encoder $q_\\phi(z\\,|\\,c)$", color=ORANGE)


def vqvae(ax: Axes) -> None:
    """The parts of a VQ-VAE from left to right.

    A maskige enters the encoder, which gives vectors v. Each vector is compared with the rows of a
    codebook, and the nearest row e_z takes its place. The decoder rebuilds the maskige from these
    rows. The number of the nearest row is the token z.
    """
    y = 2.0
    maskige(ax, 0.9, y)
    label(ax, 0.9, y - 0.85, "maskige", color=GREY)
    arrow(ax, (1.65, y), (2.3, y))
    box(ax, 3.15, y, "encoder\n$E_\\phi$", h=1.2, color=PALE_BLUE)
    arrow(ax, (4.05, y), (4.7, y))
    for k in range(3):
        square(ax, 5.25 + 0.15 * (k - 1), y + 0.3 * (k - 1), 0.8, 0.22, "#9ecae1")
    label(ax, 5.25, y - 0.85, "vectors $v$", color=GREY)
    arrow(ax, (5.95, y), (7.15, y))
    label(ax, 6.55, y + 0.25, "nearest")
    for k, color in enumerate((SKY, "#f0b48a", "#7fceb6", "#e5bcd3", "#f3cf80")):
        square(ax, 7.95, y + 0.42 * (2 - k), 1.3, 0.3, color)
        label(ax, 8.8, y + 0.42 * (2 - k), str(k), size=9, color=GREY)
    label(ax, 7.95, y + 1.35, "codebook", color=GREY)
    arrow(ax, (9.1, y), (9.9, y))
    label(ax, 9.5, y + 0.25, "$e_z$")
    box(ax, 10.75, y, "decoder\n$D_\\theta$", h=1.2, color=PALE_BLUE)
    arrow(ax, (11.65, y), (12.3, y))
    maskige(ax, 13.05, y)
    label(ax, 13.05, y - 0.85, "rebuilt", color=GREY)
    label(ax, 7.95, 0.35, "The number of the nearest row is the token $z$.")


def straight_through(ax: Axes) -> None:
    """Boxes from left to right: v, nearest code, e_z, decoder and loss.

    Solid arrows lead forward through all of them. Dashed arrows lead backward from the loss through
    the decoder to e_z. From there one dashed arrow passes below the nearest code and reaches v: the
    gradient is copied.
    """
    y = 1.9
    box(ax, 1.0, y, "$v$", w=1.0)
    box(ax, 3.9, y, "nearest code", w=2.1, color=PALE_ORANGE)
    box(ax, 6.8, y, "$e_z$", w=1.0)
    box(ax, 9.7, y, "decoder", w=1.7, color=PALE_BLUE)
    box(ax, 12.6, y, "loss", w=1.3)
    for start, end in ((1.5, 2.85), (4.95, 6.3), (7.3, 8.85), (10.55, 11.95)):
        arrow(ax, (start, y + 0.18), (end, y + 0.18), color=BLUE)
    for start, end in ((11.95, 10.55), (8.85, 7.3)):
        arrow(ax, (start, y - 0.18), (end, y - 0.18), color=ORANGE, dashed=True)
    arrow(ax, (6.7, y - 0.45), (1.1, y - 0.45), color=ORANGE, dashed=True, bend=-0.17)
    label(ax, 3.9, 2.8, "forward: the code takes the place of $v$", color=BLUE)
    label(ax, 10.1, 2.8, "the decoder receives $v + \\mathrm{sg}(e_z - v)$")
    label(ax, 3.9, 0.45, "backward: $v$ receives the gradient of $e_z$", color=ORANGE)


def third_class_blend(ax: Axes) -> None:
    """A plane of colours, divided into the regions of four classes by the nearest colour.

    The straight line from Road's colour to Sky's colour crosses the region of Fence. The middle of
    the line, half Road and half Sky, lies in it.
    """
    spots = {"Road": (0.8, 1.0), "Sky": (5.6, 1.0), "Fence": (3.2, 1.5), "Tree": (3.2, 3.4)}
    colors = {"Road": ORANGE, "Sky": SKY, "Fence": PINK, "Tree": "#009E73"}
    left, right, bottom, top = 0.2, 6.2, 0.2, 4.05

    def border(first: str, second: str, y: float) -> Point:
        """The point at the height y that is as far from one colour as from the other."""
        (x1, y1), (x2, y2) = spots[first], spots[second]
        x = (x2**2 + y2**2 - x1**2 - y1**2 - 2 * (y2 - y1) * y) / (2 * (x2 - x1))
        return x, y

    height = (spots["Fence"][1] + spots["Tree"][1]) / 2  # between Fence and Tree
    low_left, low_right = border("Road", "Fence", bottom), border("Fence", "Sky", bottom)
    high_left, high_right = border("Road", "Fence", height), border("Fence", "Sky", height)
    top_left, top_right = border("Road", "Tree", top), border("Tree", "Sky", top)
    regions = {
        "Fence": [low_left, high_left, high_right, low_right],
        "Road": [(left, bottom), low_left, high_left, top_left, (left, top)],
        "Sky": [(right, bottom), low_right, high_right, top_right, (right, top)],
        "Tree": [high_left, high_right, top_right, top_left],
    }
    for name, corners in regions.items():
        shape = Polygon(corners, facecolor=colors[name], alpha=0.22, edgecolor="white", linewidth=2)
        ax.add_patch(shape)
    (x1, y1), (x2, y2) = spots["Road"], spots["Sky"]
    ax.plot([x1, x2], [y1, y2], color=INK, linewidth=1.4, linestyle="--")
    for name, (x, y) in spots.items():
        ax.add_patch(Circle((x, y), 0.17, facecolor=colors[name], edgecolor="white"))
        label(ax, x, y + 0.38, name)
    ax.add_patch(Circle((3.2, 1.0), 0.1, facecolor="white", edgecolor=INK, linewidth=1.3))
    label(ax, 3.2, 0.6, "half Road, half Sky", size=9)
    arrow(ax, (6.75, 1.95), (4.15, 1.75))
    label(ax, 6.9, 1.95, "In this region Fence\nis the nearest colour.", ha="left")
    label(ax, 6.9, 0.8, "A blurred border between Road\nand Sky is read as Fence.", ha="left")


def fields_of_view(ax: Axes) -> None:
    """Three grids of pixels, with the pixels on which the class of one pixel depends.

    For the nearest colour it is the pixel alone. For FT, with a 3 × 3 convolution, it is a square
    of 3 × 3 pixels. For FT-W, with one block of 7 × 7 windows and one of shifted windows, it is
    each window that the shifted window of the pixel touches, together 14 × 14 pixels.
    """
    size, count, window, shift, pixel, bottom = 0.16, 21, 7, 3, 8, 1.2
    lefts = (0.4, 5.2, 10.0)
    titles = ("nearest colour", "FT: 1×1, 3×3, 1×1", "FT-W: two window blocks")
    notes = (
        "the pixel alone",
        "3 × 3 pixels",
        "first block: solid windows,\nsecond block: dashed window",
    )
    for left, name, note in zip(lefts, titles, notes):
        pixels(ax, left, bottom, count, size)
        middle = left + count * size / 2
        label(ax, middle, bottom + count * size + 0.3, name, size=10.5)
        label(ax, middle, 0.6, note, size=9.5, color=GREY)
    span(ax, lefts[1], bottom, size, pixel - 1, pixel + 1, "#9ecae1")

    # The shifted window that holds the pixel, and the windows that it touches.
    first = (pixel - shift) // window * window + shift
    last = first + window - 1
    reached = (first // window * window, last // window * window + window - 1)
    span(ax, lefts[2], bottom, size, *reached, "#c6dbef")
    side = count * size
    for step in range(0, count + 1, window):
        at = step * size
        ax.plot([lefts[2] + at] * 2, [bottom, bottom + side], color=GREY, linewidth=1)
        ax.plot([lefts[2], lefts[2] + side], [bottom + at] * 2, color=GREY, linewidth=1)
    low, high = first * size, (last + 1) * size
    xs = [lefts[2] + at for at in (low, high, high, low, low)]
    ys = [bottom + at for at in (low, low, high, high, low)]
    ax.plot(xs, ys, color=BLUE, linewidth=1.6, linestyle="--")
    for left in lefts:
        span(ax, left, bottom, size, pixel, pixel, ORANGE)


def aggregation(ax: Axes) -> None:
    """Four feature maps, at 1/4, 1/8, 1/16 and 1/32 of the picture, each in a row of its own.

    Each passes a 1×1 convolution. The three smaller ones are resized to 1/4. All four are
    concatenated. A 1×1 convolution, D window blocks and a last 1×1 convolution follow, which gives
    V scores, one for each token of the vocabulary.
    """
    rows = (("1/4", 0.8), ("1/8", 0.55), ("1/16", 0.38), ("1/32", 0.26))
    for k, (share, side) in enumerate(rows):
        y = 4.0 - 1.0 * k
        label(ax, 0.35, y, share)
        square(ax, 1.25, y, side, side, PALE_BLUE)
        arrow(ax, (1.8, y), (2.3, y))
        box(ax, 3.1, y, "1×1 conv", w=1.5, h=0.6)
        arrow(ax, (3.95, y), (5.0, y))
        if k:
            label(ax, 4.45, y + 0.22, "resize", size=9.5)
        square(ax, 5.5, y, 0.8, 0.8, PALE_BLUE)
        arrow(ax, (6.0, y), (6.5, y))
    y = 2.5
    box(ax, 7.15, y, "concat", w=1.2, h=3.9)
    arrow(ax, (7.8, y), (8.3, y))
    box(ax, 9.1, y, "1×1 conv", w=1.5)
    arrow(ax, (9.9, y), (10.4, y))
    box(ax, 11.2, y, "$D$ window\nblocks", w=1.5, h=1.1, color=PALE_ORANGE)
    arrow(ax, (12.0, y), (12.5, y))
    box(ax, 13.5, y, "1×1 conv to\n$V$ scores", w=1.9, h=1.1, color=PALE_GREEN)
    label(
        ax,
        11.25,
        1.2,
        "In every cell, a soft-max of the scores\nis a distribution over the tokens.",
        color=GREY,
    )


def shifted_windows(ax: Axes) -> None:
    """Two grids of 8 × 8 cells, divided by bold lines.

    In the left grid the lines make four windows of 4 × 4 cells. In the right grid they are shifted
    by two cells, which makes one whole window in the middle and parts of windows around it. Two
    cells A and B lie side by side. In the left grid a line divides them, in the right grid none
    does.
    """
    size, count, bottom = 0.45, 8, 0.4
    side = count * size
    panels = (
        (0.4, "one block: windows", (0, 4, 8)),
        (5.0, "the next block: shifted windows", (0, 2, 6, 8)),
    )
    for left, name, lines in panels:
        for r, (low, high) in enumerate(zip(lines, lines[1:])):
            for c, (start, end) in enumerate(zip(lines, lines[1:])):
                w, h = (end - start) * size, (high - low) * size
                x = left + start * size + w / 2
                y = bottom + low * size + h / 2
                square(ax, x, y, w, h, ("#cfe8fb", "#fbe6bd")[(r + c) % 2], "white")
        for step in range(count + 1):
            bold = step in lines
            color, width = (INK, 2) if bold else ("white", 0.8)
            at = step * size
            order = 3 if bold else 2
            ax.plot([left + at] * 2, [bottom, bottom + side], color=color, lw=width, zorder=order)
            ax.plot([left, left + side], [bottom + at] * 2, color=color, lw=width, zorder=order)
        for letter, column in (("A", 3), ("B", 4)):
            label(ax, left + (column + 0.5) * size, bottom + 3.5 * size, letter, size=11)
        label(ax, left + side / 2, bottom + side + 0.32, name, size=10.5)
    text = (
        "Cells within one bold frame\nattend to each other.\n\n"
        "A and B meet only in the\nsecond block."
    )
    label(ax, 9.2, bottom + side / 2, text, size=10.5, ha="left")


def figure_s1(ax: Axes) -> None:
    """The two terms of the transformed objective, after Figure S.1 of the paper's supplement.

    A row of boxes leads from the mask c over the maskige x^(c), the tokens ẑ and the rebuilt
    maskige to the rebuilt mask. A dashed arrow below leads from the rebuilt maskige to the maskige:
    the maskige is reconstructed. A dashed arrow above leads from the rebuilt mask to the mask: the
    mask is reconstructed.
    """
    y = 2.4
    names = (
        "mask\n$c$",
        "maskige\n$x^{(c)} = c\\beta$",
        "tokens\n$\\hat{z}$",
        "maskige\n$\\hat{x}^{(c)}$",
        "mask\n$\\hat{c}$",
    )
    for k, name in enumerate(names):
        box(ax, 1 + 3 * k, y, name, h=1.1)
    steps = (
        ("$\\mathcal{X}_\\beta$", ORANGE),
        ("$q_{\\hat{\\phi}}$", BLUE),
        ("$\\mathcal{D}_\\theta$", BLUE),
        ("$\\mathcal{X}^{-1}_\\gamma$", ORANGE),
    )
    for k, (step, color) in enumerate(steps):
        arrow(ax, (1.8 + 3 * k, y), (3.2 + 3 * k, y), color=color)
        label(ax, 2.5 + 3 * k, y + 0.32, step, size=11, color=color)
    arrow(ax, (13, y + 0.55), (1, y + 0.55), color=ORANGE, dashed=True, bend=0.12)
    arrow(ax, (10, y - 0.55), (4, y - 0.55), color=BLUE, dashed=True, bend=-0.16)
    loss = "$\\|\\mathcal{X}^{-1}_\\gamma(\\hat{x}^{(c)}) - c\\|$"
    text = f"second term, mask reconstruction: {loss} is left to optimise"
    label(ax, 7, y + 1.75, text, color=ORANGE)
    loss = "$\\|\\hat{x}^{(c)} - x^{(c)}\\|$"
    text = f"first term, maskige reconstruction: {loss} is the objective of a VQ-VAE"
    label(ax, 7, y - 1.6, text, color=BLUE)


def figure_s2(ax: Axes) -> None:
    """The architecture of GSS, after Figure S.2 of the paper's supplement.

    The image encoder takes a photograph and gives four feature maps, at 1/4, 1/8, 1/16 and 1/32.
    Multi-level aggregation predicts tokens from them. The frozen decoder D paints the predicted
    maskige, and X⁻¹ reads the predicted mask from it.
    """
    y = 2.2
    photograph(ax, 0.85, y)
    label(ax, 0.85, y - 0.85, "photograph", size=9.5, color=GREY)
    arrow(ax, (1.55, y), (1.95, y))
    for k, (share, height) in enumerate(
        (("1/4", 2.2), ("1/8", 1.6), ("1/16", 1.1), ("1/32", 0.75))
    ):
        x = 2.35 + 0.6 * k
        square(ax, x, y, 0.5, height, PALE_BLUE)
        label(ax, x, y, share, size=8)
    label(ax, 3.25, y - 1.45, "image encoder $I_\\psi$", color=GREY)
    arrow(ax, (4.5, y), (4.9, y))
    box(ax, 5.85, y, "multi-level\naggregation", w=1.85, h=1.2, color=PALE_ORANGE)
    arrow(ax, (6.8, y), (7.2, y))
    tokens(ax, 7.75, y)
    label(ax, 7.75, y - 0.85, "tokens", size=9.5, color=GREY)
    arrow(ax, (8.3, y), (8.7, y))
    box(ax, 9.5, y, "decoder\n$D_\\theta$, frozen", h=1.2, color=PALE_BLUE)
    arrow(ax, (10.35, y), (10.7, y))
    maskige(ax, 11.3, y, 0.26)
    label(ax, 11.3, y - 0.85, "maskige", size=9.5, color=GREY)
    arrow(ax, (11.9, y), (12.7, y), color=ORANGE)
    label(ax, 12.3, y + 0.3, "$X^{-1}$", color=ORANGE)
    mask(ax, 13.3, y, 0.26)
    label(ax, 13.3, y - 0.85, "mask", size=9.5, color=GREY)


# The width and the height of each drawing, in units.
DRAWINGS: dict[Callable[[Axes], None], tuple[float, float]] = {
    gss_chain: (14, 5.0),
    graphical_model: (8.8, 2.8),
    vqvae: (14, 3.7),
    straight_through: (13.6, 3.2),
    third_class_blend: (11.2, 4.25),
    fields_of_view: (13.8, 5.2),
    aggregation: (14.7, 4.65),
    shifted_windows: (13.0, 4.7),
    figure_s1: (14, 4.6),
    figure_s2: (14, 3.6),
}


def svg(draw: Callable[[Axes], None]) -> str:
    """A drawing as the text of an SVG file, with its title and its description."""
    width, height = DRAWINGS[draw]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width * UNIT, height * UNIT), facecolor="white")
        FigureCanvasSVG(figure)
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
        axes.set_axis_off()
        draw(axes)
        file = io.StringIO()
        # The date and the version would make two runs differ.
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    name = draw.__name__.replace("_", " ")
    description = " ".join(inspect.getdoc(draw).split())
    texts = f"<title>{html.escape(name)}</title>\n <desc>{html.escape(description)}</desc>"
    lines = re.sub(r"(<svg [^>]*)>", rf'\1 role="img">\n {texts}', file.getvalue(), count=1)
    return "\n".join(line.rstrip() for line in lines.splitlines()) + "\n"


def main() -> None:
    """Write all drawings."""
    for draw in DRAWINGS:
        path = HERE / f"{draw.__name__}.svg"
        path.write_text(svg(draw), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
