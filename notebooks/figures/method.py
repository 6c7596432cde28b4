"""Diagrams of the method: the chain, its probabilities, and what each stage optimises."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.patches import Circle, Polygon

from notebooks.figures.shapes import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PALE,
    PALE_BLUE,
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
    square,
    tokens,
)


def steps_between(
    ax: Axes, y: float, steps: Sequence[tuple[str, str]], *, above: float, size: float
) -> None:
    """Draw an arrow with a name, in its colour, between each two of five places in a row."""
    for k, (step, color) in enumerate(steps):
        arrow(ax, (1.8 + 3 * k, y), (3.2 + 3 * k, y), color=color)
        label(ax, 2.5 + 3 * k, y + above, step, size=size, color=color)


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
    steps_between(ax, y, steps, above=0.28, size=10)
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
    steps_between(ax, y, steps, above=0.32, size=11)
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
