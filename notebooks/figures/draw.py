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

from notebooks.figures.method import (
    figure_s1,
    figure_s2,
    graphical_model,
    gss_chain,
    third_class_blend,
)
from notebooks.figures.networks import (
    aggregation,
    fields_of_view,
    shifted_windows,
    straight_through,
    vqvae,
)

HERE = Path(__file__).resolve().parent
UNIT = 0.6  # inches
STYLE = {
    "font.family": "DejaVu Sans",  # it comes with matplotlib
    "mathtext.fontset": "dejavusans",
    "svg.fonttype": "path",
    "svg.hashsalt": "gss-lite",
}


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
