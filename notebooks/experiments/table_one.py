"""python -m notebooks.experiments.table_one: Table 1 at our scale, and the final mIoU, which the paper gives for FF and FT-W only.

Palettes, X⁻¹ and training pictures change with the seed; tokenizer, prior and the pictures judged
do not. The tokenizer is frozen, as the paper's is, but it was trained on maskige of the preset's
own palette, not on photographs: rows that paint in other colours (FF-R, TF, TT) also pay for that.
Their tokens are not those the prior was trained to predict, so their final mIoU needs --prior-steps
N: a copy of the prior, trained on for N steps with their tokens. With 0 the column stays empty
there.

--tokenizer generic-s4 takes the tokenizer for any palette in place of the preset's own, as neutral
as the paper's, and --preset generic-s4 also has many classes. Neither has a prior: reconstruction
only, and no row trained on noisy maskige. --preset many-scenes-cpu has that tokenizer, 64 classes
and a prior: every row, once `gss_lite train` has made it.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gss_lite.contracts import IGNORE
from gss_lite.data import dataset_for
from gss_lite.data.transforms import eval_transform
from gss_lite.factory import SHIPPED, build_palette, load_gss, load_tokenizer
from gss_lite.gss import GSS, pad_picture, resize_mask
from gss_lite.inverse import NearestColor
from gss_lite.metrics import confusion_matrix, paired_bootstrap, scores_from_confusion
from gss_lite.palette import Palette, by_neighbours, max_min_palette
from gss_lite.presets import PRESETS, get_preset
from gss_lite.presets.parts import Preset
from gss_lite.storage import run_record, weights_hash, write_json
from notebooks.experiments.table_one_rows import ROWS, Row, build_rows

COMPARED = ("FF", "FT-W")  # rows that the others' gains are given over


# reconstruction, ADE20K val (Table 1)
PAPER = {"FF-R": 62.83, "FF": 84.31, "FT": 86.10, "TF": 84.37, "TT": 36.11, "FT-W": 87.73}


@dataclass(frozen=True)
class Judged:
    """One row's confusion matrices (N, K, K), a picture each: of the true masks' tokens, and of the prior's (None without a prior)."""

    reconstruction: Tensor
    final: Tensor | None

    def miou(self, column: str) -> float | None:
        """Over all pictures, 0–1; None where the column is empty."""
        counts = getattr(self, column)
        return None if counts is None else scores_from_confusion(counts.sum(0)).miou


def load_model(preset: Preset, weights: str | Path, tokenizer: str | None = None) -> GSS:
    """The preset's GSS-FF; with another preset's tokenizer, or where the preset is a tokenizer alone, one without prior (None)."""
    if tokenizer in (None, preset.name, preset.tokenizer_from) and preset.prior is not None:
        return load_gss(preset, weights)
    palette = (
        build_palette(preset, weights) if preset.palette != "random" else crowded_palette(preset)
    )
    model = GSS(
        palette,
        load_tokenizer(get_preset(tokenizer or preset.name), weights),
        None,
        NearestColor(palette.colors),
    )
    return model.eval()


def crowded_palette(preset: Preset, pictures: int = 100) -> Palette:
    """Max-min colours for all classes of a preset without a palette of its own, given out by looking at training masks."""
    dataset = dataset_for(preset, "train")
    masks = torch.stack(
        [torch.as_tensor(dataset[i][1]) for i in range(min(pictures, len(dataset)))]
    )
    return by_neighbours(max_min_palette(len(dataset.classes)), masks, seed=preset.seed)


@torch.no_grad()
def judge(rows: Sequence[Row], gss: GSS, dataset: Dataset, *, batch: int = 8) -> dict[str, Judged]:
    """Rows → confusion matrices over (normalised image, mask) pairs, picture by picture.

    Every row with the same palette sees the same tokens, and with the same prior the same logits,
    computed once a batch.
    """
    classes = len(gss.colors)
    reconstruction, final = (
        {row.name: [] for row in rows if wanted(row)}
        for wanted in (lambda row: True, lambda row: row.prior is not None)
    )
    for image, mask in DataLoader(dataset, batch_size=batch):
        height, width = mask.shape[1:]
        encoded, predicted = {}, {}
        for row in rows:
            colors, prior = id(row.palette), id(row.prior)
            if colors not in encoded:
                encoded[colors] = _true_tokens(gss, row, mask)
            ids = row.reading.tokens(encoded[colors])[:, :height, :width]
            reconstruction[row.name] += [confusion_matrix(p, t, classes) for p, t in zip(ids, mask)]
            if row.prior is None:
                continue
            if prior not in predicted:
                predicted[prior] = row.prior(pad_picture(image)).token_logits
            ids = row.reading.logits(predicted[prior])
            ids = resize_mask(ids, [height + -height % 32, width + -width % 32], classes)[
                :, :height, :width
            ]
            final[row.name] += [confusion_matrix(p, t, classes) for p, t in zip(ids, mask)]
    stacked = lambda found: None if found is None else torch.stack(found).int()  # noqa: E731
    return {
        row.name: Judged(stacked(reconstruction[row.name]), stacked(final.get(row.name)))
        for row in rows
    }


def _true_tokens(gss: GSS, row: Row, mask: Tensor) -> Tensor:
    stride = gss.tokenizer.stride
    padded = F.pad(mask, (0, -mask.shape[2] % stride, 0, -mask.shape[1] % stride), value=IGNORE)
    return gss.tokenizer.encode(row.palette(padded))


def collect(entries: dict, row: Row, judged: Mapping[str, Judged]) -> None:
    """Add one row's result, for one seed, to the entries of a record; `judged` holds all rows', to compare with."""
    entry = entries.setdefault(
        row.name,
        {
            "x": row.x,
            "inverse": row.inverse,
            "x_trained": row.x_trained,
            "inverse_trained": row.inverse_trained,
            "x_parameters": row.x_parameters,
            "inverse_parameters": row.inverse_parameters,
            "reconstruction": [],
            "final": [],
            "seconds": [],
            "prior_seconds": [],
            "least_distance": [],
            "paper": PAPER.get(row.name),
        },
    )
    for column in ("reconstruction", "final"):
        score = judged[row.name].miou(column)
        entry[column].append(None if score is None else round(100 * score, 3))
        # the 95 % interval of what the row gains over it, had the pictures been others of their
        # kind
        for other in COMPARED:
            one, two = (
                getattr(judged[name], column) if name in judged else None
                for name in (other, row.name)
            )
            if row.name != other and one is not None and two is not None:
                interval = [round(100 * value, 3) for value in paired_bootstrap(one, two)]
                entry.setdefault("gain", {}).setdefault(other, {}).setdefault(column, []).append(
                    interval
                )
    entry["seconds"].append(round(row.seconds, 1))
    entry["prior_seconds"].append(round(row.prior_seconds, 1))
    entry["least_distance"].append(round(row.palette.least_distance(), 2))
    if row.film is not None and "film" not in entry:  # of the first seed
        entry["film"] = {
            "steps": row.film.moments,
            "colors": [[[round(v, 4) for v in c] for c in f] for f in row.film.history.tolist()],
        }


def table(entries: Mapping[str, Mapping]) -> str:
    """A record's rows as text: mean ± standard deviation over the seeds, and the paper's reconstruction mIoU beside."""

    def spread(values: Sequence[float | None]) -> str:
        known = [v for v in values if v is not None]
        return (
            f"{statistics.mean(known):6.2f} ± "
            f"{statistics.stdev(known) if len(known) > 1 else 0:4.2f}"
            if known
            else f"{'–':>13s}"
        )

    lines = [
        f"{'variant':16s} {'X trained':>9s} {'X⁻¹ trained':>11s} {'X':>5s} {'X⁻¹':>8s} "
        f"{'reconstruction':>14s} {'final':>13s} "
        f"{'seconds':>8s} {'of the prior':>12s}   (paper)"
    ]
    for name, e in entries.items():
        yes = ["yes" if e[key] else "no" for key in ("x_trained", "inverse_trained")]
        paper = "–" if e["paper"] is None else f"{e['paper']:.2f}"
        lines.append(
            f"{name:16s} {yes[0]:>9s} {yes[1]:>11s} {e['x_parameters']:5d} "
            f"{e['inverse_parameters']:8d} {spread(e['reconstruction']):>14s} "
            f"{spread(e['final'])} {statistics.mean(e['seconds']):8.1f} "
            f"{statistics.mean(e['prior_seconds']):12.1f}   {paper}"
        )
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    main = argparse.ArgumentParser(
        prog="python -m notebooks.experiments.table_one", description=__doc__.splitlines()[0]
    )
    main.add_argument("--preset", default="scenes-cpu", help=f"one of {', '.join(PRESETS)}")
    main.add_argument(
        "--weights",
        default=str(SHIPPED),
        help="folder of the trained GSS-FF (default: the shipped one)",
    )
    main.add_argument(
        "--tokenizer",
        help="name of the preset whose tokenizer is taken (default: --preset's own, with its "
        "prior)",
    )
    main.add_argument(
        "--data", help="folder of the data set (default: $GSS_DATA/NAME, then data/NAME)"
    )
    main.add_argument("--split", default="val", choices=["val", "test"])
    main.add_argument(
        "--pictures", type=int, help="judge on this many pictures only, evenly spaced"
    )
    main.add_argument("--seeds", type=int, default=3)
    main.add_argument(
        "--rows",
        nargs="+",
        default=[],
        choices=list(ROWS),
        metavar="ROW",
        help=f"some of: {'; '.join(ROWS)} (default: all)",
    )
    main.add_argument("--steps", type=int, help="of FT and FT-W, instead of their plans'")
    main.add_argument(
        "--palette-steps", type=int, default=300, help="of TF (default: 300; the paper: 4,000)"
    )
    main.add_argument(
        "--joint-steps", type=int, default=400, help="of TT (default: 400; the paper: 4,000)"
    )
    main.add_argument(
        "--prior-steps",
        type=int,
        default=0,
        help="of stage II on the tokens of FF-R, TF and TT (default: 0, no final mIoU there)",
    )
    main.add_argument(
        "--fit-pictures",
        type=int,
        default=200,
        help="training pictures for TF, TT and what is measured (default: 200)",
    )
    main.add_argument(
        "--work",
        type=Path,
        help="folder for checkpoints (default: runs/PRESET/table-one); what is trained there is "
        "taken up",
    )
    main.add_argument(
        "--record",
        type=Path,
        help="where to write the run record (default: runs/PRESET/table-one.json)",
    )
    return main


def main(argv: list[str] | None = None) -> None:
    """Run every row for every seed, print the table, write the record."""
    given = parser().parse_args(argv)
    preset = get_preset(given.preset)
    gss = load_model(preset, given.weights, given.tokenizer)
    dataset = dataset_for(preset, given.split, folder=given.data, transform=eval_transform())
    if given.pictures and given.pictures < len(dataset):
        picked = torch.linspace(0, len(dataset) - 1, given.pictures).round().long().tolist()
        dataset = torch.utils.data.Subset(dataset, picked)
    work, entries, started = (
        given.work or Path(f"runs/{preset.name}/table-one"),
        {},
        time.perf_counter(),
    )
    for seed in range(given.seeds):
        rows = list(
            build_rows(
                gss,
                replace(preset, seed=seed),
                work / f"seed-{seed}",
                steps=given.steps,
                palette_steps=given.palette_steps,
                joint_steps=given.joint_steps,
                prior_steps=given.prior_steps,
                fit_pictures=given.fit_pictures,
                data=given.data,
                progress=True,
                only=tuple(given.rows),
            )
        )
        judged = judge(rows, gss, dataset)
        for row in rows:
            collect(entries, row, judged)
        print(f"after seed {seed}\n{table(entries)}\n", flush=True)
    path = given.record or Path(f"runs/{preset.name}/table-one.json")
    line = shlex.join(
        [
            "python",
            "-m",
            "notebooks.experiments.table_one",
            *(sys.argv[1:] if argv is None else argv),
        ]
    )
    metrics = {
        "classes": len(gss.colors),
        "tokenizer": given.tokenizer or preset.tokenizer_from or preset.name,
        "split": given.split,
        "pictures": len(dataset),
        "seeds": given.seeds,
        "steps": given.steps,
        "palette_steps": given.palette_steps,
        "joint_steps": given.joint_steps,
        "prior_steps": given.prior_steps,
        "fit_pictures": given.fit_pictures,
        "rows": entries,
        **({"prior_sha256": weights_hash(gss.prior)} if gss.prior is not None else {}),
    }
    write_json(
        path,
        run_record(
            kind="table one",
            preset=preset.name,
            seed=0,
            steps=given.steps,
            seconds=time.perf_counter() - started,
            metrics=metrics,
            command=line,
        ),
    )
    print(f"run record: {path}")


if __name__ == "__main__":
    main()
