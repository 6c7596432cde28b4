"""Which noise teaches X⁻¹? The supplement (D.iii) takes the predictions of a middle checkpoint.

X⁻¹ can be trained on the maskige of true masks (clean), on what the prior predicted after 20 % of
its training (middle), or on what the finished prior predicts (noisy). Every X⁻¹ is then evaluated
behind the finished prior ("final"), and on the maskige of the true masks ("reconstruction").

Training pictures are known to a prior, so its predictions for them hold fewer errors than its
predictions for other pictures. The record therefore says for each kind of maskige which share of
the training pixels has another nearest colour than its class. "test" is this share for the finished
prior on the pictures of the evaluation.

Several folders in --weights are several priors, one for each seed. With a single folder, the seeds
differ in X⁻¹ alone. The priors must have been trained with --middle.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

import gss_lite as gss
from gss_lite.contracts import IGNORE, Inverse
from gss_lite.evaluation import evaluate_masks
from gss_lite.inverse_fitted import KINDS
from gss_lite.metrics import paired_bootstrap, scores_from_confusion
from gss_lite.storage import load_weights, read_json, weights_hash
from gss_lite.tables import spread, text_table
from gss_lite.training.inverse import INPUTS, decode_pictures, stage_name, train_inverse
from gss_lite.training.run import Job, middle_path
from gss_lite.views import resize_to_image
from notebooks.experiments.runner import REQUIRED, Run, new_parser, subset

LABELS = {"ft": "FT", "ft-w": "FT-W"}
FF = "FF"
COLUMNS = ("final", "reconstruction")
COUNTED = 100  # training pictures for the share of wrong pixels


def row_name(kind: str, maskige: str) -> str:
    """Name a row of the record, as "FT-W, middle"."""
    return f"{LABELS[kind]}, {maskige}"


def models_of(preset: gss.Preset, folder: Path) -> dict[str, gss.GSS]:
    """Maskige → the model whose predictions it is made of.

    Raises:
        FileNotFoundError: the prior in the folder has no middle checkpoint.
    """
    model = gss.create_model(preset, pretrained=folder)
    path = middle_path(folder, preset)
    if not path.is_file():
        raise FileNotFoundError(
            f"no middle checkpoint at {path}; train the prior in a new folder with --middle 0.2"
        )
    middle = copy.deepcopy(model)
    load_weights(path, middle.prior)
    return {"clean": model, "middle": middle.eval(), "noisy": model}


@torch.no_grad()
def wrong_share(model: gss.GSS, dataset: Dataset, maskige: str, count: int) -> float:
    """The percentage of labelled pixels whose nearest colour is another class's."""
    pairs = decode_pictures(model, dataset, maskige=maskige, count=count)
    nearest = gss.NearestColor(model.colors.cpu())
    wrong = 0
    labelled = 0
    for picture, mask in pairs:
        ids = nearest.classify(picture[None].float())  # (1, s·H, s·W)
        scale = ids.shape[1] // mask.shape[0]
        ids = ids[0, scale // 2 :: scale, scale // 2 :: scale]  # (H, W)
        known = mask != IGNORE
        wrong += int((ids != mask)[known].sum())
        labelled += int(known.sum())
    return round(100 * wrong / labelled, 2)


def judge(model: gss.GSS, inverses: Mapping[str, Inverse], dataset: Dataset) -> Mapping:
    """Confusion matrices {(row, column): (N, K, K)} of every X⁻¹, with one pass of the prior."""

    @torch.no_grad()
    def classify(image: Tensor, mask: Tensor) -> dict[tuple[str, str], Tensor]:
        maskige = model.predict_maskige(image)
        rebuilt, _ = gss.gss.rebuild(model.palette, model.tokenizer, mask)
        ids = {}
        for name, inverse in inverses.items():
            scores = resize_to_image(inverse.scores(maskige), image.shape[2:])
            ids[name, "final"] = scores.argmax(1)
            ids[name, "reconstruction"] = inverse.classify(rebuilt)
        return ids

    how = {"batch": 1, "device": model.colors.device, "progress": False}
    return evaluate_masks(classify, dataset, model.num_classes, **how).matrices


def add_seed(rows: dict, matrices: Mapping, seconds: Mapping[str, float]) -> None:
    """Add one seed's mIoU (%), and for final mIoU the gains over clean and over noisy maskige."""
    for name in dict.fromkeys(row for row, _ in matrices):
        row = rows.setdefault(name, {column: [] for column in (*COLUMNS, "seconds")})
        for column in COLUMNS:
            miou = 100 * scores_from_confusion(matrices[name, column].sum(0)).miou
            row[column].append(round(miou, 3))
        row["seconds"].append(round(seconds.get(name, 0.0), 1))
        kind = name.partition(",")[0]
        others = (f"{kind}, clean", f"{kind}, noisy") if name != FF else ()
        for other in others:
            if other != name:
                pair = matrices[other, "final"], matrices[name, "final"]
                interval = [round(100 * value, 3) for value in paired_bootstrap(*pair)]
                row.setdefault("gain", {}).setdefault(other, []).append(interval)


def table(rows: Mapping[str, Mapping]) -> str:
    """Format a record's rows: mean ± standard deviation over the seeds."""
    lines = {}
    for name, row in rows.items():
        lines[name] = [spread(row[column]) for column in COLUMNS]
        lines[name].append(f"{statistics.mean(row['seconds']):.0f}")
    return text_table(("X⁻¹, trained on", *COLUMNS, "seconds"), lines)


parser = partial(
    new_parser,
    __file__,
    __doc__,
    preset="scenes-cpu",
    weights={
        "nargs": "+",
        "type": Path,
        "default": REQUIRED,
        "help": "folders of priors with a middle checkpoint, one for each seed, or one for all",
    },
    seeds={"default": 3, "help": "seeds of X⁻¹, if there is one folder"},
    steps={"help": "of X⁻¹ (default: those of the preset's schedules)"},
    data=None,
    split="test",
    pictures=None,
    work="runs/{preset}/inverse-noise",
    record="runs/{preset}/inverse-noise.json",
)


def main(argv: list[str] | None = None) -> None:
    """Train and evaluate every X⁻¹ for every seed, write the record, print the table."""
    run = Run(parser(), argv)
    given = run.given
    preset = gss.get_preset(given.preset)
    dataset = subset(gss.create_dataset(preset, given.split, folder=given.data), given.pictures)
    several = len(given.weights) > 1
    folders = given.weights if several else given.weights * given.seeds
    options = gss.LoopOptions(progress=not given.quiet)
    rows: dict[str, dict] = {}
    wrong: dict[str, list[float]] = {}
    priors = []
    for seed, folder in enumerate(folders):
        job = Job(
            replace(preset, seed=seed),
            run.path(given.work) / f"seed-{seed}",
            data=given.data,
            options=options,
        )
        models = models_of(preset, folder)
        model = models["noisy"]
        inverses: dict[str, Inverse] = {FF: model.inverse}
        seconds = {}
        for kind, maskige in product(KINDS, INPUTS):
            schedule = preset.schedule(f"inverse-{kind}")
            schedule = replace(schedule, steps=given.steps or schedule.steps)
            how = {"maskige": maskige, "schedule": schedule}
            name = row_name(kind, maskige)
            inverses[name] = train_inverse(job, kind, models[maskige], **how)
            card = read_json(job.path(f"{stage_name(kind, maskige)}.json"))
            seconds[name] = card["seconds"]
        add_seed(rows, judge(model, inverses, dataset), seconds)
        if several or not wrong:
            pictures = job.pictures(transform=gss.data.eval_transform())
            for maskige in INPUTS:
                share = wrong_share(models[maskige], pictures, maskige, COUNTED)
                wrong.setdefault(maskige, []).append(share)
            wrong.setdefault("test", []).append(wrong_share(model, dataset, "noisy", COUNTED))
            card = read_json(folder / f"{preset.name}.prior.json")
            facts = {key: card[key] for key in ("seed", "steps", "seconds", "command")}
            priors.append({**facts, "sha256": weights_hash(model.prior)})
        metrics = {
            "split": given.split,
            "pictures": len(dataset),
            "seeds": seed + 1,
            "wrong_pixels": wrong,
            "priors": priors,
            "rows": rows,
        }
        # The record is written after each seed, so a stopped run keeps its finished seeds.
        run.write(preset.name, metrics)
        print(f"after seed {seed}\n{table(rows)}\nwrong pixels (%): {wrong}\n", flush=True)


if __name__ == "__main__":
    main()
