"""Table 1 at our scale, and the final mIoU, which the paper gives for FF and FT-W only.

Palettes, X⁻¹ and training pictures change with the seed; tokenizer, prior and test pictures do not.
The tokenizer is frozen, as in the paper. But it was trained on maskige of the preset's own palette,
not on photographs, which is a disadvantage for rows with other colours (FF-R, TF, TT). The prior
was not trained to predict the tokens of these rows either. --prior-steps N therefore trains a copy
of the prior on their tokens for N steps. With 0 their final mIoU stays empty.

--tokenizer generic-s4 takes the tokenizer for any palette, which favours no row. --preset
generic-s4 also has many classes. Neither has a prior, so there is only the reconstruction, without
the rows that need noisy maskige. --preset many-scenes-cpu has the same tokenizer, 64 classes and a
prior. It gives every row after `gss_lite train` has made it.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import Tensor
from torch.utils.data import Dataset

import gss_lite as gss
from gss_lite.cli import whole_number
from gss_lite.data.masks import stack_masks
from gss_lite.evaluation import evaluate_masks
from gss_lite.metrics import paired_bootstrap, scores_from_confusion
from gss_lite.palette import by_neighbours
from gss_lite.presets import tokenizer_owner
from gss_lite.storage import weights_hash
from gss_lite.tables import spread, text_table
from gss_lite.training.run import Job
from notebooks.experiments.runner import Run, new_parser, option, subset, without_broken
from notebooks.experiments.table_one_rows import ROWS, Budget, Row, build_rows

COLUMNS = ("reconstruction", "final")
COMPARED = ("FF", "FT-W")  # the gains of the other rows over these are given
FACTS = ("x", "inverse", "x_trained", "inverse_trained", "x_parameters", "inverse_parameters")
# Reconstruction on ADE20K val (Table 1).
PAPER = {"FF-R": 62.83, "FF": 84.31, "FT": 86.10, "TF": 84.37, "TT": 36.11, "FT-W": 87.73}

Matrices = Mapping[tuple[str, str], Tensor]
"""(row, column) → confusion matrices (N, K, K), one for each picture; empty columns are absent."""


def load_model(preset: gss.Preset, weights: str | Path, tokenizer: str | None = None) -> gss.GSS:
    """Make the preset's GSS-FF.

    It has no prior if the tokenizer is another preset's, or the preset has no prior.
    """
    if preset.prior and tokenizer in (None, preset.name, tokenizer_owner(preset).name):
        return gss.create_model(preset, pretrained=weights)
    palette = gss.create_palette(preset, weights) if preset.palette else crowded_palette(preset)
    encoder = gss.create_tokenizer(tokenizer or preset, pretrained=weights)
    return gss.GSS(palette, encoder, None, gss.NearestColor(palette.colors)).eval()


def crowded_palette(preset: gss.Preset, pictures: int = 100) -> gss.Palette:
    """Make max-min colours for a preset without a palette, assigned to classes by neighbours."""
    dataset = gss.create_dataset(preset, "train", transform=None)
    masks = stack_masks(dataset, range(min(pictures, len(dataset))))
    return by_neighbours(gss.max_min_palette(len(dataset.classes)), masks, seed=preset.seed)


def judge(rows: Sequence[Row], dataset: Dataset, *, batch: int = 8) -> Matrices:
    """Evaluate rows on (normalised image, mask) pairs: tokens of true masks, and of the prior."""
    colors = rows[0].model.colors

    def classify(image: Tensor, mask: Tensor) -> dict[tuple[str, str], Tensor]:
        ids = {}
        for row in rows:
            ids[row.name, "reconstruction"], _ = row.model.reconstruct(mask)
            if row.model.prior is not None:
                ids[row.name, "final"] = row.model.scores(image)["prediction"].argmax(1)
        return ids

    how = {"batch": batch, "device": colors.device, "progress": False}
    return evaluate_masks(classify, dataset, len(colors), **how).matrices


def miou(matrices: Matrices, row: str, column: str) -> float | None:
    """Return the mIoU over all pictures in percent; None if the column is empty."""
    counts = matrices.get((row, column))
    return None if counts is None else 100 * scores_from_confusion(counts.sum(0)).miou


def collect(entries: dict, row: Row, matrices: Matrices) -> None:
    """Add one row's result for one seed to the entries of a record."""
    if row.name not in entries:
        lists = (*COLUMNS, "seconds", "prior_seconds", "least_distance")
        entries[row.name] = {fact: getattr(row, fact) for fact in FACTS}
        entries[row.name] |= {name: [] for name in lists}
        entries[row.name]["paper"] = PAPER.get(row.name)
    entry = entries[row.name]
    for column in COLUMNS:
        score = miou(matrices, row.name, column)
        entry[column].append(None if score is None else round(score, 3))
        for other in COMPARED:
            one, two = (matrices.get((name, column)) for name in (other, row.name))
            if row.name != other and one is not None and two is not None:
                # The 95 % interval of the row's gain on other pictures of the same kind.
                interval = [round(100 * value, 3) for value in paired_bootstrap(one, two)]
                gain = entry.setdefault("gain", {}).setdefault(other, {})
                gain.setdefault(column, []).append(interval)
    entry["seconds"].append(round(row.seconds, 1))
    entry["prior_seconds"].append(round(row.prior_seconds, 1))
    entry["least_distance"].append(round(row.model.palette.least_distance(), 2))
    if row.joint and "film" not in entry:  # of the first seed
        colors = [[[round(v, 4) for v in c] for c in f] for f in row.joint.history.tolist()]
        entry["film"] = {"steps": row.joint.moments, "colors": colors}


def table(entries: Mapping[str, Mapping]) -> str:
    """Format a record's rows: mean ± standard deviation, and the paper's reconstruction mIoU."""
    head = ("variant", "X trained", "X⁻¹ trained", "X", "X⁻¹", *COLUMNS)
    lines = {}
    for name, entry in entries.items():
        lines[name] = [
            "yes" if entry["x_trained"] else "no",
            "yes" if entry["inverse_trained"] else "no",
            str(entry["x_parameters"]),
            str(entry["inverse_parameters"]),
            *(spread(entry[column]) for column in COLUMNS),
            f"{statistics.mean(entry['seconds']):.1f}",
            f"{statistics.mean(entry['prior_seconds']):.1f}",
            "–" if entry["paper"] is None else f"{entry['paper']:.2f}",
        ]
    return text_table((*head, "seconds", "of the prior", "(paper)"), lines)


rows_option = {"nargs": "+", "choices": list(ROWS), "metavar": "ROW"}
parser = partial(
    new_parser,
    __file__,
    __doc__,
    preset="scenes-cpu",
    weights={},
    tokenizer={"help": "preset whose tokenizer is used (default: --preset's, with its prior)"},
    data=None,
    split="val",
    pictures=None,
    seeds=3,
    rows={**rows_option, "help": f"some of {'; '.join(ROWS)} (default: all)"},
    steps={"help": "of FT and FT-W (default: those of the preset's schedules)"},
    palette_steps=option(300, "of TF; the paper takes 4,000"),
    joint_steps=option(400, "of TT; the paper takes 4,000"),
    prior_steps=option(0, "of stage II on the tokens of FF-R, TF and TT", type=whole_number(0)),
    fit_pictures=option(200, "training pictures for TF, TT, Gaussians and the code table"),
    work="runs/{preset}/table-one",
    record="runs/{preset}/table-one.json",
)


def main(argv: list[str] | None = None) -> None:
    """Build and evaluate every row for every seed, print the table, write the record."""
    run = Run(parser(), argv)
    given = run.given
    preset = gss.get_preset(given.preset)
    model = load_model(preset, given.weights, given.tokenizer).to(given.device)
    dataset = without_broken(gss.create_dataset(preset, given.split, folder=given.data))
    dataset = subset(dataset, given.pictures)
    asked = ("steps", "palette_steps", "joint_steps", "prior_steps", "fit_pictures")
    budget = Budget(**run.values(*asked))
    options = gss.LoopOptions(progress=not given.quiet)
    entries: dict[str, dict] = {}
    for seed in range(given.seeds):
        folder = run.path(given.work) / f"seed-{seed}"
        job = Job(replace(preset, seed=seed), folder, data=given.data, options=options)
        rows = list(build_rows(model, job, budget, tuple(given.rows or ())))
        matrices = judge(rows, dataset)
        for row in rows:
            collect(entries, row, matrices)
        print(f"after seed {seed}\n{table(entries)}\n", flush=True)
    metrics = {
        "classes": model.num_classes,
        "tokenizer": given.tokenizer or tokenizer_owner(preset).name,
        "split": given.split,
        "pictures": len(dataset),
        "without_broken_frames": True,
        **run.values("seeds", *asked),
        "rows": entries,
    }
    if model.prior is not None:
        metrics["prior_sha256"] = weights_hash(model.prior)
    run.write(preset.name, metrics)


if __name__ == "__main__":
    main()
