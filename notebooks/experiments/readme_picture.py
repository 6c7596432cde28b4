"""python -m notebooks.experiments.readme_picture: the README's picture, one street through the whole chain."""

from __future__ import annotations

from pathlib import Path

import matplotlib

from gss_lite import dataset_for, get_preset, load_gss
from gss_lite.data.transforms import denormalize, eval_transform


def main(path: Path = Path("notebooks/figures/chain.png"), index: int = 7) -> None:
    """Draw picture → predicted tokens → decoded maskige → predicted mask, and the true mask beside them."""
    matplotlib.use("Agg")
    from gss_lite.plotting import show_row

    preset = get_preset("scenes-cpu")
    gss = load_gss(preset)
    image, mask = dataset_for(preset, "test", transform=eval_transform())[index]
    result = gss.predict(image[None])
    figure = show_row(
        [
            ("photograph x", denormalize(image)),
            ("tokens predicted by the prior", result.tokens[0]),
            ("maskige decoded from them", result.maskige[0]),
            ("classes read off its colours", gss.palette(result.mask[0])),
            ("true mask", gss.palette(mask)),
        ],
        height=2.0,
        cmap="tab20",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    print(path)


if __name__ == "__main__":
    main()
