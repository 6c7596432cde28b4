"""Draw the README's picture: one street through the whole chain."""

from __future__ import annotations

from pathlib import Path

import matplotlib

import gss_lite as gss


def main(path: Path = Path("notebooks/figures/chain.png"), index: int = 7) -> None:
    """Draw picture → predicted tokens → decoded maskige → predicted mask, and the true mask."""
    matplotlib.use("Agg")
    from gss_lite.plotting import show_row

    model = gss.create_model("scenes-cpu", pretrained=True)
    image, mask = gss.create_dataset("scenes-cpu", "test")[index]
    found = model.predict(image[None])
    panels = [
        ("photograph x", image),
        ("tokens predicted by the prior", found.tokens[0]),
        ("maskige decoded from them", found.maskige[0]),
        ("classes read off its colours", model.palette(found.mask[0])),
        ("true mask", model.palette(mask)),
    ]
    figure = show_row(panels, height=2.0, cmap="tab20")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    print(path)


if __name__ == "__main__":
    main()
