"""python -m notebooks.experiments.inverse_robustness: how every X⁻¹ stands damaged maskige, and how it reads the classes' rims.

It reads the weights that `table_one` left in its work folder, one set a seed. Damage is done to
reconstructions of true masks, in two ways: Gaussian noise on every channel of the maskige, which no
decoder makes; and wrong tokens, which every prior makes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from gss_lite.contracts import IGNORE
from gss_lite.data import dataset_for
from gss_lite.data.transforms import eval_transform
from gss_lite.factory import SHIPPED, load_gss
from gss_lite.gss import GSS
from gss_lite.inverse import NearestColor
from gss_lite.inverse_fitted import fit_gaussians
from gss_lite.metrics import SegmentationMetrics, boundary_iou
from gss_lite.presets import PRESETS, get_preset
from gss_lite.presets.parts import Preset
from gss_lite.storage import run_record, write_json
from gss_lite.training.inverse import decode_pictures, load_inverse

SIGMAS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3)


RATES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3)


RIM = 1  # pixels; at 96 × 128 a pole is two pixels wide


def noisy_pixels(maskige: Tensor, sigma: float, seed: int = 0) -> Tensor:
    """Gaussian noise of standard deviation `sigma` on every channel of maskige (B, 3, H, W); not cut to [0, 1]."""
    return maskige + sigma * torch.randn(
        maskige.shape, generator=torch.Generator().manual_seed(seed)
    )


def wrong_tokens(tokens: Tensor, rate: float, seed: int = 0) -> Tensor:
    """Tokens (B, h, w) of which each, with probability `rate`, is replaced by the token of another random place of the batch.

    The same seed gives nested damage: what is wrong at a low rate is wrong in the same way at a
        higher one.

    Raises:
        ValueError: a rate outside 0…1.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"the rate is a share of the tokens, in 0…1; got {rate}")
    generator = torch.Generator().manual_seed(seed)
    hit = torch.rand(tokens.shape, generator=generator) < rate
    other = torch.randint(tokens.numel(), tokens.shape, generator=generator)
    return torch.where(hit.to(tokens.device), tokens.flatten()[other.to(tokens.device)], tokens)


def readers(
    gss: GSS, preset: Preset, folder: Path, *, fit_pictures: int = 200
) -> dict[str, nn.Module]:
    """Every X⁻¹ of Table 1 that reads the preset's palette, by its row's name: the trained ones from `folder`."""
    found: dict[str, nn.Module] = {"FF": NearestColor(gss.colors)}
    train = dataset_for(preset, "train", transform=eval_transform())
    for name, kind, maskige in (
        ("FT", "ft", "clean"),
        ("FT, noisy", "ft", "noisy"),
        ("FT-W, clean", "ft-w", "clean"),
        ("FT-W", "ft-w", "noisy"),
    ):
        found[name] = load_inverse(preset, kind, gss.palette, folder, maskige=maskige)
    for name, maskige in (("Gaussian", "clean"), ("Gaussian, noisy", "noisy")):
        pairs = decode_pictures(gss, train, maskige=maskige, count=fit_pictures)
        found[name] = fit_gaussians(
            gss.colors, ((x.float(), c) for x, c in DataLoader(pairs, batch_size=8))
        )
    return found


@torch.no_grad()
def read(inverse: nn.Module, pictures: Tensor, batch: int = 8) -> Tensor:
    """Maskige (N, 3, H, W) → ids (N, H, W), a few pictures at a time."""
    return torch.cat([inverse.classify(part) for part in pictures.split(batch)])


def miou(ids: Tensor, masks: Tensor, num_classes: int) -> float:
    """In percent."""
    metrics = SegmentationMetrics(num_classes)
    metrics.update(ids, masks)
    return 100 * metrics.compute().miou


def rim_iou(ids: Tensor, masks: Tensor, num_classes: int, width: int = RIM) -> float:
    """Mean boundary IoU of the classes that occur, in percent."""
    return 100 * float(boundary_iou(ids, masks, num_classes, width).nanmean())


@torch.no_grad()
def examine(
    inverses: Mapping[str, nn.Module], gss: GSS, dataset: Dataset, *, seed: int = 0
) -> dict[str, dict]:
    """All figures of one seed, in percent, over (normalised image, mask) pairs whose sides are multiples of 32.

    Returns:
        {name: {"pixels": mIoU at each of SIGMAS, "tokens": mIoU at each of RATES, "rim": of
        reconstructions, "final", "final rim": of the prior's maskige}}.
    """
    images, masks = (
        torch.stack(parts) for parts in zip(*(dataset[i] for i in range(len(dataset))))
    )
    masks, classes = masks.long(), len(gss.colors)
    tokens = torch.cat([gss.tokenizer.encode(gss.palette(part)) for part in masks.split(8)])
    decode = lambda t: torch.cat([gss.tokenizer.decode(part) for part in t.split(8)])  # noqa: E731
    clean, predicted = (
        decode(tokens),
        torch.cat([gss.predict(part).maskige for part in images.split(8)]),
    )
    pixels = [noisy_pixels(clean, sigma, seed) for sigma in SIGMAS]
    damaged = [decode(wrong_tokens(tokens, rate, seed)) for rate in RATES]
    found = {}
    for name, inverse in inverses.items():
        final = read(inverse, predicted)
        found[name] = {
            "pixels": [miou(read(inverse, p), masks, classes) for p in pixels],
            "tokens": [miou(read(inverse, p), masks, classes) for p in damaged],
            "rim": rim_iou(read(inverse, clean), masks, classes),
            "final": miou(final, masks, classes),
            "final rim": rim_iou(final, masks, classes),
        }
    return found


def near_borders(masks: Tensor, reach: int) -> Tensor:
    """Pixels of masks (B, H, W) with another class, or an ignored pixel, at most `reach` pixels away, diagonal steps counting one; (B, H, W) bool.

    Ignored pixels themselves are none.
    """
    ids = masks.masked_fill(masks == IGNORE, -1).float()[:, None]
    padded = F.pad(ids, (reach,) * 4, mode="replicate")
    high, low = F.max_pool2d(padded, 2 * reach + 1, 1), -F.max_pool2d(-padded, 2 * reach + 1, 1)
    return ((high != low) & (ids >= 0))[:, 0]


def table(rows: Mapping[str, Mapping], key: str, levels: tuple[float, ...]) -> str:
    """Mean over the seeds of the mIoU at each level, a line a reader, and the standard deviation over seeds at the last."""
    lines = [f"{key:16s}" + "".join(f"{level:8.2f}" for level in levels)]
    for name, row in rows.items():
        columns = list(zip(*row[key]))
        spread = statistics.stdev(columns[-1]) if len(columns[-1]) > 1 else 0
        lines.append(
            f"{name:16s}"
            + "".join(f"{statistics.mean(c):8.1f}" for c in columns)
            + f" ± {spread:.1f}"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Command line; leaves a record with one entry a reader, one value a seed."""
    parser = argparse.ArgumentParser(
        prog="python -m notebooks.experiments.inverse_robustness",
        description=__doc__.splitlines()[0],
    )
    parser.add_argument("--preset", default="scenes-cpu", help=f"one of {', '.join(PRESETS)}")
    parser.add_argument(
        "--weights",
        default=str(SHIPPED),
        help="folder of the trained GSS-FF (default: the shipped one)",
    )
    parser.add_argument(
        "--work",
        type=Path,
        help="where table_one left its weights (default: runs/PRESET/table-one)",
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=24, help="test pictures (default: 24)")
    parser.add_argument(
        "--fit-pictures",
        type=int,
        default=200,
        help="training pictures for the Gaussians (default: 200)",
    )
    parser.add_argument(
        "--record",
        type=Path,
        help="where to write the record (default: runs/PRESET/inverse-robustness.json)",
    )
    given = parser.parse_args(argv)
    preset, started = get_preset(given.preset), time.perf_counter()
    gss = load_gss(preset, given.weights)
    dataset = dataset_for(
        replace(preset, eval_pictures=given.pictures), "test", transform=eval_transform()
    )
    rows: dict[str, dict[str, list]] = {}
    for seed in range(given.seeds):
        folder = (given.work or Path(f"runs/{preset.name}/table-one")) / f"seed-{seed}"
        inverses = readers(gss, preset, folder, fit_pictures=given.fit_pictures)
        for name, figures in examine(inverses, gss, dataset, seed=seed).items():
            for key, value in figures.items():
                rounded = (
                    [round(v, 2) for v in value] if isinstance(value, list) else round(value, 2)
                )
                rows.setdefault(name, {}).setdefault(key, []).append(rounded)
    print(table(rows, "pixels", SIGMAS), table(rows, "tokens", RATES), sep="\n")
    line = f"python -m notebooks.experiments.inverse_robustness --preset {preset.name} --seeds {given.seeds} --pictures {len(dataset)}"
    metrics = {
        "classes": len(gss.colors),
        "pictures": len(dataset),
        "seeds": given.seeds,
        "sigmas": SIGMAS,
        "rates": RATES,
        "rim": RIM,
        "rows": rows,
    }
    path = given.record or Path(f"runs/{preset.name}/inverse-robustness.json")
    write_json(
        path,
        run_record(
            kind="inverse robustness",
            preset=preset.name,
            seed=0,
            steps=None,
            seconds=time.perf_counter() - started,
            metrics=metrics,
            command=line,
        ),
    )


if __name__ == "__main__":
    main()
