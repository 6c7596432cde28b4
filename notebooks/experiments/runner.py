"""Shared parts of the experiments: options, the run record, and the training of a prior."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset, Subset

from gss_lite.cli import device, print_anything, whole_number
from gss_lite.data.folders import broken_frames
from gss_lite.data.masks import MASK_SETS, evenly_spaced
from gss_lite.factory import SHIPPED
from gss_lite.gss import GSS
from gss_lite.presets import list_presets
from gss_lite.records import run_record
from gss_lite.storage import check_replaceable, write_json
from gss_lite.training import SegmenterLoss, fingerprint, fit
from gss_lite.training.run import Job, schedule_hash
from gss_lite.training.tokenizer import augmented

REQUIRED = object()  # in place of a default
COUNT = {"type": whole_number(1)}
COMMON = {
    "preset": {"help": f"one of {', '.join(list_presets())}"},
    "weights": {"default": str(SHIPPED), "help": "folder of the trained weights"},
    "data": {"help": "folder of the data set (default: $GSS_DATA/NAME, then data/NAME)"},
    "masks": {"choices": MASK_SETS, "help": "the data set"},
    "split": {"choices": ("val", "test"), "help": "the split for evaluation"},
    "pictures": {**COUNT, "help": "the largest number of pictures, evenly spaced"},
    "seeds": {**COUNT, "help": "the number of seeds, from 0"},
    "steps": {**COUNT, "help": "of the training"},
    "work": {"type": Path, "help": "folder for checkpoints; finished parts are not trained again"},
    "record": {"type": Path, "help": "where to write the run record"},
    "device": {
        "type": device,
        "default": "cuda" if torch.cuda.is_available() else "cpu",
        "help": "where to compute",
    },
    "quiet": {"action": "store_true", "help": "no progress bars"},
}


def option(default: object, text: str, **settings: object) -> dict:
    """Describe an option; without `settings` of `add_argument` it is a count."""
    return {**(settings or COUNT), "default": default, "help": text}


def new_parser(file: str, document: str, **options: object) -> argparse.ArgumentParser:
    """Build the command line of an experiment, with `--device` and `--quiet`.

    Args:
        file: the experiment's `__file__`.
        document: its docstring, whose first line describes the command.
        options: name → the default of an option in COMMON, or the result of `option`. In paths
            {preset} and {data} stand for the values of those options.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m notebooks.experiments.{Path(file).stem}",
        description=document.splitlines()[0],
    )
    for name, value in {**options, "device": {}, "quiet": {}}.items():
        given = value if isinstance(value, dict) else {"default": value}
        settings = {**COMMON.get(name, {}), **given}
        if settings.get("default") is REQUIRED:
            del settings["default"]
            settings["required"] = True
        elif settings.get("default") is not None:
            settings["help"] += f" (default: {settings['default']})"
        flag = "data" if name == "masks" else name.replace("_", "-")
        parser.add_argument(f"--{flag}", **settings)
    return parser


class Run:
    """One call of an experiment: its arguments, its command line and its start time.

    Args:
        parser: made by `new_parser`.
        argv: the arguments; by default those of the shell.
    """

    def __init__(self, parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> None:
        print_anything()
        self.given = parser.parse_args(argv)
        words = sys.argv[1:] if argv is None else argv
        self.command = shlex.join([*parser.prog.split(), *words])
        self.kind = parser.prog.rpartition(".")[2].replace("_", " ")
        self.record = self.path(self.given.record)
        check_replaceable(self.record)
        self.started = time.perf_counter()

    def path(self, path: Path) -> Path:
        """Fill {preset} and {data} into a path of the arguments."""
        text = str(path)
        for name in ("preset", "data"):
            text = text.replace(f"{{{name}}}", str(getattr(self.given, name, "")))
        return Path(text)

    def values(self, *names: str) -> dict:
        """Return some of the arguments, for the record."""
        return {name: getattr(self.given, name) for name in names}

    def write(self, preset: str, metrics: dict, **fields: object) -> None:
        """Write the run record, and print its path.

        Args:
            preset: the name of the preset.
            metrics: the results.
            fields: further fields. They may replace the defaults: kind (the module's name), seed
                (0), steps (the argument) and seconds (since the start).
        """
        known = {
            "kind": self.kind,
            "seed": 0,
            "steps": getattr(self.given, "steps", None),
            "seconds": time.perf_counter() - self.started,
        }
        known = {name: fields.pop(name, value) for name, value in known.items()}
        record = run_record(
            preset=preset,
            metrics=metrics,
            command=self.command,
            device=self.given.device,
            **known,
        )
        write_json(self.record, {**record, **fields})
        print(f"run record: {self.record}", flush=True)


def fit_prior(
    model: GSS, job: Job, stage: str, pictures: Dataset, loss_fn: nn.Module | None = None
) -> list[dict]:
    """Train a model's prior by the schedule of the job's preset → the log.

    An interrupted run continues, and a finished one is loaded.

    Args:
        stage: the name of the run and its folder.
        pictures: (picture, mask) pairs without augmentation.
        loss_fn: replaces the model's own `losses`.
    """
    preset = job.preset
    schedule = preset.schedule("prior")
    run = {
        "preset": preset.name,
        "stage": stage,
        "seed": preset.seed,
        "steps": schedule.steps,
        "plan": schedule_hash(preset, "prior", schedule),
        "frozen": fingerprint(model),
    }
    device = model.colors.device
    loss_fn = loss_fn or SegmenterLoss(model)
    data = augmented(job, schedule, pictures)
    how = {"folder": job.folder / re.sub("[^0-9A-Za-z]+", "-", stage), "options": job.options}
    log = fit(loss_fn, model.prior, data, schedule, run=run, **how)
    model.to(device).eval()  # Accelerate moves what it trains
    return log


def picture_names(dataset: Dataset) -> list[str]:
    """Return the names of a data set's pictures, or of a subset's; a drawn set has numbers."""
    whole = dataset.dataset if isinstance(dataset, Subset) else dataset
    picked = dataset.indices if isinstance(dataset, Subset) else range(len(dataset))
    names = getattr(whole, "names", None)
    return [str(names[i] if names else i) for i in picked]


def subset(dataset: Dataset, count: int | None) -> Dataset:
    """Choose `count` evenly spaced pictures of a data set; None or a large count chooses all."""
    picked = evenly_spaced(len(dataset), count)
    if len(picked) == len(dataset):
        return dataset
    if isinstance(dataset, Subset):
        return Subset(dataset.dataset, [dataset.indices[i] for i in picked])
    return Subset(dataset, picked)


def without_broken(dataset: Dataset) -> Dataset:
    """Leave out the frames whose published mask is broken, see `MaskFolder.leave_out`."""
    broken = broken_frames(dataset)
    if not broken:
        return dataset
    return Subset(dataset, [i for i in range(len(dataset)) if i not in broken])
