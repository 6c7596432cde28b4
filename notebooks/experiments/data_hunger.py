"""Do generative models need more data? GSS and its twin on 100 to 6,400 streets.

Section J says that generative models need larger amounts of data, because they learn "the
distribution of the entire sample space" and discriminative models only decision boundaries. As
evidence it names MSeg, where the results are better than on smaller sets. It varies no set's size.

Here both networks are trained from random weights on the first 100, 400, 1,600 and 6,400 streets of
a stream. Schedule and number of steps are the same for every size. With the default 400 steps of 16
streets, 6,400 streets are seen once each and 100 streets 64 times, mirrored and with distorted
colours. Two seeds are trained at the smallest and the largest size. Another seed changes the
streets, their order and the weights at the start. The held-out streets never change.

Two limits of this comparison: the tokenizer and the palette are the trained ones of the preset, and
they come from masks of many more streets; and training is short.

`gain` is mIoU − the twin's mIoU, with a 95 % interval over held-out streets, for this training.
"Train" figures are those of training streets, without augmentation. They show what was learned by
heart. Started again, the command skips the trainings in its record, if the settings are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

import gss_lite as gss
from gss_lite.baselines.pixel import PixelTwin
from gss_lite.cli import whole_number
from gss_lite.contracts import Segmenter
from gss_lite.data.transforms import InMemory, collate, eval_transform
from gss_lite.evaluation import evaluate_masks
from gss_lite.factory import create_stage_one, stage_one_hashes
from gss_lite.inference import expected_maskige
from gss_lite.metrics import paired_bootstrap
from gss_lite.storage import read_json
from gss_lite.tables import spread, text_table
from gss_lite.training.prior import train_pixel, train_prior
from gss_lite.training.run import Job, schedule_hash
from gss_lite.views import resize_to_image
from notebooks.experiments.runner import Run, new_parser, option
from notebooks.experiments.twin_comparison import HEAD, TWIN

BATCH = 8
FF = "GSS-FF"
EXPECTED = "expected codes"


def trainings(streets: list[int], end_seeds: int) -> list[tuple[int, int]]:
    """List (streets, seed): seed 0 for every size, and `end_seeds` seeds at both ends."""
    ends = (min(streets), max(streets))
    first = [(count, 0) for count in sorted(set(streets))]
    more = [(count, seed) for seed in range(1, end_seeds) for count in sorted(set(ends))]
    return first + more


@torch.no_grad()
def judge_masks(
    model: gss.GSS, twin: PixelTwin, dataset: Dataset, progress: bool = False
) -> dict[str, dict]:
    """MIoU of each answer in percent, and the interval of its gain over the twin."""

    def classify(image: Tensor, _: Tensor) -> dict[str, Tensor]:
        outputs = model.outputs(image)
        soft = expected_maskige(outputs.token_logits, model.tokenizer)
        sides = image.shape[2:]
        scores = {
            FF: model.inverse.probabilities(outputs.maskige),
            EXPECTED: model.inverse.probabilities(soft),
            HEAD: outputs.pixel_logits,
            TWIN: twin.scores(image)["prediction"],
        }
        return {name: resize_to_image(v, sides).argmax(1) for name, v in scores.items()}

    how = {"batch": BATCH, "device": model.colors.device, "progress": progress}
    result = evaluate_masks(classify, dataset, model.num_classes, **how)
    rows = {}
    for name, matrices in result.matrices.items():
        rows[name] = {"miou": round(100 * result[name].miou, 3)}
        if name != TWIN:
            interval = paired_bootstrap(result.matrices[TWIN], matrices)
            rows[name]["gain"] = round(rows[name]["miou"] - 100 * result[TWIN].miou, 3)
            rows[name]["interval"] = [round(100 * value, 3) for value in interval]
    return rows


@torch.no_grad()
def mean_scalars(segmenter: Segmenter, dataset: Dataset) -> dict[str, float]:
    """Average the scalars of a segmenter's `losses` over a data set, in eval mode.

    For GSS these are the cross-entropies "token" and "pixel" and the "token_accuracy"; for the twin
    "classifier", "pixel" and "pixel_accuracy". Every picture counts the same.
    """
    device = next(segmenter.parameters()).device
    totals: dict[str, float] = {}
    for image, mask in DataLoader(dataset, 1, collate_fn=collate):
        _, scalars = segmenter.losses(image.to(device), mask.to(device))
        for name, value in scalars.items():
            totals[name] = totals.get(name, 0.0) + float(value)
    return {name: round(total / len(dataset), 4) for name, total in totals.items()}


def run_one(
    preset: gss.Preset, job: Job, weights: Path, held_out: Dataset, device: str | torch.device
) -> dict:
    """Train GSS and its twin on the preset's streets, and measure both.

    Args:
        preset: with its number of training streets and its seed.
        job: for the folder and the options.
        weights: the folder of the trained stage I.
        held_out: (normalised picture, mask) pairs.
        device: where to evaluate.
    """
    job = replace(job, preset=preset)
    model = train_prior(job, weights).to(device)
    twin = train_pixel(job).to(device)
    streets = gss.create_dataset(preset, "train", transform=eval_transform())
    seen = InMemory(Subset(streets, range(min(len(streets), len(held_out)))))
    progress = job.options.progress
    rows = {
        "held_out": judge_masks(model, twin, held_out, progress),
        "train": judge_masks(model, twin, seen, progress),
    }
    for split, dataset in (("held_out", held_out), ("train", seen)):
        rows[split][FF] |= mean_scalars(model, dataset)
        rows[split][TWIN] |= mean_scalars(twin, dataset)
    cards = [read_json(job.path(f"{stage}.json")) for stage in ("prior", "pixel")]
    rows["seconds"] = {name: card["seconds"] for name, card in zip(("GSS", TWIN), cards)}
    return rows


def table(rows: Mapping[str, Mapping[str, Mapping]]) -> str:
    """Format the record's rows: the mean ± standard deviation over the seeds of each size."""
    names = (FF, EXPECTED, HEAD, TWIN)
    lines = {}
    for count, seeds in sorted(rows.items(), key=lambda row: int(row[0])):
        found = [result["held_out"] for result in seeds.values()]
        seen = [result["train"] for result in seeds.values()]
        lines[count] = [spread([each[name]["miou"] for each in found], 1) for name in names]
        lines[count].append(spread([each[FF]["gain"] for each in found], 1))
        lines[count] += [spread([each[name]["miou"] for each in seen], 1) for name in (FF, TWIN)]
    head = ("streets", *names, "GSS-FF − twin", "GSS-FF, train", "twin, train")
    return text_table(head, lines)


parser = partial(
    new_parser,
    __file__,
    __doc__,
    preset="scenes-cpu",
    weights={},
    streets={
        "type": whole_number(1),
        "nargs": "+",
        "default": [100, 400, 1600, 6400],
        "help": "numbers of training streets",
    },
    end_seeds=option(2, "seeds at the smallest and the largest number"),
    steps=option(400, "of every training"),
    held_out=option(200, "test streets"),
    work="runs/{preset}/data-hunger",
    record="runs/{preset}/data-hunger.json",
)


def main(argv: list[str] | None = None) -> None:
    """Train and measure every size and seed. The record is written after each one."""
    run = Run(parser(), argv)
    given = run.given
    preset = gss.get_preset(given.preset)
    preset = replace(preset, data=replace(preset.data, eval_pictures=given.held_out))
    warmup = max(1, given.steps // 10)
    preset = preset.with_schedule("prior", steps=given.steps, warmup=warmup, ema=0.98)
    schedule = preset.schedule("prior")
    settings = {
        "held_out": given.held_out,
        "split": "test",
        "batch": schedule.batch,
        "lr": schedule.lr,
        "plan": schedule_hash(preset, "prior", schedule),
        "stage_one": stage_one_hashes(*create_stage_one(preset, given.weights)),
    }
    before = read_json(run.record) if run.record.exists() else {"metrics": {}}
    same = before.get("steps") == given.steps and settings.items() <= before["metrics"].items()
    rows = before["metrics"]["rows"] if same else {}
    if same:
        run.started -= before["seconds"]
    elif before["metrics"]:
        print(f"{run.record} has other settings; it begins anew", flush=True)
    held_out = InMemory(gss.create_dataset(preset, "test"))
    options = gss.LoopOptions(save_every=100, progress=not given.quiet)
    for count, seed in trainings(given.streets, given.end_seeds):
        if str(seed) in rows.get(str(count), {}):
            continue
        data = replace(preset.data, train_pictures=count)
        folder = run.path(given.work) / f"{count}-streets-{given.steps}-steps-seed-{seed}"
        its_preset = replace(preset, data=data, seed=seed)
        job = Job(its_preset, folder, options=options, command=run.command)
        found = run_one(its_preset, job, Path(given.weights), held_out, given.device)
        rows.setdefault(str(count), {})[str(seed)] = found
        run.write(preset.name, {**settings, "rows": rows})
        row = found["held_out"]
        print(
            f"{count:5d} streets, seed {seed}: GSS-FF {row[FF]['miou']:.1f}, twin "
            f"{row[TWIN]['miou']:.1f}, difference {row[FF]['gain']:+.1f} "
            "({:+.1f} … {:+.1f})".format(*row[FF]["interval"]),
            flush=True,
        )
    print(f"\n{table(rows)}")


if __name__ == "__main__":
    main()
