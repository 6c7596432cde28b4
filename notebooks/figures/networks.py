"""Diagrams of the networks: tokenizer, inverse and prior."""

from __future__ import annotations

from matplotlib.axes import Axes

from notebooks.figures.shapes import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    PALE_BLUE,
    PALE_GREEN,
    PALE_ORANGE,
    SKY,
    arrow,
    box,
    label,
    maskige,
    pixels,
    span,
    square,
)


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
