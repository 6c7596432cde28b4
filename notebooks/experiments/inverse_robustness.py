"""How well every X⁻¹ classifies damaged maskige, and the borders of classes.

The weights come from the work folder of `table_one`, one set for each seed. Reconstructions of true
masks are damaged in two ways: by Gaussian noise on every channel of the maskige, which no decoder
makes, and by wrong tokens, which every prior makes.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

import gss_lite as gss
from gss_lite.contracts import Inverse
from gss_lite.factory import inverse_path
from gss_lite.inference import noisy_pixels, wrong_tokens
from gss_lite.metrics import boundary_iou
from gss_lite.tables import text_table
from gss_lite.training.inverse import measure_gaussians
from notebooks.experiments.runner import Run, new_parser, option

SIGMAS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3)
RATES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3)
WIDTH = 1  # of a boundary in pixels; at 96 × 128 a pole is two pixels wide
TRAINED = {"FT, clean": "ft-clean", "FT": "ft", "FT-W, clean": "ft-w-clean", "FT-W": "ft-w"}
MEASURED = {"Gaussian": "clean", "Gaussian, noisy": "noisy"}


def readers(
    model: gss.GSS, preset: gss.Preset, folder: Path, *, fit_pictures: int = 200
) -> dict[str, Inverse]:
    """Load every X⁻¹ of Table 1 for the preset's palette → row name: X⁻¹.

    The trained ones lie in `folder`, the work folder of `table_one`. The others are measured here.
    """
    device = model.colors.device
    found: dict[str, Inverse] = {"FF": gss.NearestColor(model.colors)}
    for name, choice in TRAINED.items():
        inverse, _ = gss.load_inverse(inverse_path(preset, choice, folder))
        found[name] = inverse.to(device)
    pictures = gss.create_dataset(preset, "train")
    for name, maskige in MEASURED.items():
        inverse = measure_gaussians(model, pictures, maskige=maskige, count=fit_pictures)
        found[name] = inverse.to(device)
    return found


def miou(ids: Tensor, masks: Tensor, num_classes: int) -> float:
    """Compute the mIoU in percent."""
    metrics = gss.SegmentationMetrics(num_classes)
    metrics.update(ids, masks)
    return 100 * metrics.compute().miou


def border_iou(ids: Tensor, masks: Tensor, num_classes: int) -> float:
    """Compute the mean boundary IoU of the classes that occur, in percent."""
    return 100 * float(boundary_iou(ids, masks, num_classes, WIDTH).nanmean())


@torch.no_grad()
def examine(
    inverses: Mapping[str, Inverse], model: gss.GSS, dataset: Dataset, *, seed: int = 0
) -> dict[str, dict]:
    """Compute all figures of one seed, in percent.

    Args:
        dataset: (normalised image, mask) pairs whose sides are multiples of 32.

    Returns:
        {name: figures}. "pixels" and "tokens" are mIoU at each of SIGMAS and RATES. "rim" is the
        boundary IoU of reconstructions. "final" and "final rim" are mIoU and boundary IoU of the
        maskige that the prior predicts.
    """
    pairs = zip(*(dataset[i] for i in range(len(dataset))))
    device = model.colors.device
    images, masks = (torch.stack(parts).to(device) for parts in pairs)

    def by_parts(function: object, values: Tensor) -> Tensor:
        return torch.cat([function(part) for part in values.split(8)])

    def decode(tokens: Tensor) -> Tensor:
        return by_parts(model.tokenizer.decode, tokens)

    masks = masks.long()
    tokens = by_parts(lambda part: model.tokenizer.encode(model.palette(part)), masks)
    clean = decode(tokens)
    predicted = by_parts(lambda part: model.predict(part).maskige, images)
    damaged = {
        "pixels": [noisy_pixels(clean, sigma, seed) for sigma in SIGMAS],
        "tokens": [decode(wrong_tokens(tokens, rate, seed)) for rate in RATES],
    }
    classes = model.num_classes
    found = {}
    for name, inverse in inverses.items():
        final = by_parts(inverse.classify, predicted)
        found[name] = {
            kind: [miou(by_parts(inverse.classify, maskige), masks, classes) for maskige in levels]
            for kind, levels in damaged.items()
        }
        found[name] |= {
            "rim": border_iou(by_parts(inverse.classify, clean), masks, classes),
            "final": miou(final, masks, classes),
            "final rim": border_iou(final, masks, classes),
        }
    return found


def table(rows: Mapping[str, Mapping], key: str, levels: Sequence[float]) -> str:
    """Format the mean mIoU over seeds at each level, and the standard deviation at the last."""
    lines = {}
    for name, row in rows.items():
        columns = list(zip(*row[key]))
        deviation = statistics.stdev(columns[-1]) if len(columns[-1]) > 1 else 0.0
        means = [f"{statistics.mean(column):.1f}" for column in columns]
        lines[name] = [*means, f"± {deviation:.1f}"]
    return text_table((key, *(f"{level:.2f}" for level in levels), ""), lines)


parser = partial(
    new_parser,
    __file__,
    __doc__,
    preset="scenes-cpu",
    weights={},
    work=option("runs/{preset}/table-one", "work folder of table_one", type=Path),
    seeds=3,
    pictures=option(24, "test pictures"),
    fit_pictures=option(200, "training pictures for the Gaussians"),
    record="runs/{preset}/inverse-robustness.json",
)


def main(argv: list[str] | None = None) -> None:
    """Examine every X⁻¹ of every seed, print the tables, write the record."""
    run = Run(parser(), argv)
    given = run.given
    preset = gss.get_preset(given.preset)
    model = gss.create_model(preset, pretrained=given.weights).to(given.device)
    data = replace(preset.data, eval_pictures=given.pictures)
    dataset = gss.create_dataset(replace(preset, data=data), "test")
    rows: dict[str, dict[str, list]] = {}
    for seed in range(given.seeds):
        folder = run.path(given.work) / f"seed-{seed}"
        inverses = readers(model, preset, folder, fit_pictures=given.fit_pictures)
        for name, figures in examine(inverses, model, dataset, seed=seed).items():
            for key, value in figures.items():
                levels = isinstance(value, list)
                rounded = [round(v, 2) for v in value] if levels else round(value, 2)
                rows.setdefault(name, {}).setdefault(key, []).append(rounded)
    print(table(rows, "pixels", SIGMAS), table(rows, "tokens", RATES), sep="\n")
    counts = {"classes": model.num_classes, "pictures": len(dataset), "seeds": given.seeds}
    levels = {"sigmas": SIGMAS, "rates": RATES, "rim": WIDTH}
    run.write(preset.name, {**counts, **levels, "rows": rows})


if __name__ == "__main__":
    main()
