"""Draw the README's picture: one street through the whole chain."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import matplotlib

import gss_lite as gss
from gss_lite.cli import whole_number
from notebooks.experiments.runner import new_parser, option

parser = partial(
    new_parser,
    __file__,
    __doc__,
    index=option(7, "which test street", type=whole_number(0)),
    out=option("notebooks/figures/chain.png", "where to draw", type=Path),
)


def main(argv: list[str] | None = None) -> None:
    """Draw picture → predicted tokens → decoded maskige → predicted mask, and the true mask."""
    given = parser().parse_args(argv)
    matplotlib.use("Agg")
    from gss_lite.plotting import show_row

    model = gss.create_model("scenes-cpu", pretrained=True)
    image, mask = gss.create_dataset("scenes-cpu", "test")[given.index]
    found = model.predict(image[None])
    panels = [
        ("photograph x", gss.denormalize(image)),
        ("tokens predicted by the prior", found.tokens[0]),
        ("maskige decoded from them", found.maskige[0]),
        ("classes read off its colours", model.palette(found.mask[0])),
        ("true mask", model.palette(mask)),
    ]
    figure = show_row(panels, height=2.0, cmap="tab20")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(given.out, dpi=100)
    print(given.out)


if __name__ == "__main__":
    main()
