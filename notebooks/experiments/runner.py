"""What the experiments share: options, the run record, and the training of a prior."""

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

from gss_lite.cli import device, whole_number
from gss_lite.data.masks import MASK_SETS, evenly_spaced
from gss_lite.factory import SHIPPED
from gss_lite.gss import GSS
from gss_lite.presets import list_presets
from gss_lite.storage import check_replaceable, run_record, write_json
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
    "split": {"choices": ("val", "test"), "help": "what is judged on"},
    "pictures": {**COUNT, "help": "how many are judged at most, evenly spaced"},
    "seeds": {**COUNT, "help": "how many, from 0 on"},
    "steps": {**COUNT, "help": "of the training"},
    "work": {"type": Path, "help": "folder for checkpoints; what is finished there is taken up"},
    "record": {"type": Path, "help": "where to write the run record"},
    "device": {
        "type": device,
        "default": "cuda" if torch.cuda.is_available() else "cpu",
        "help": "where to compute",
    },
    "quiet": {"action": "store_true", "help": "no progress bars"},
}


def option(default: object, text: str, **settings: object) -> dict:
    """An option's default, its help, and settings of `add_argument`; a count if there are none."""
    return {**(settings or COUNT), "default": default, "help": text}


def new_parser(file: str, document: str, **options: object) -> argparse.ArgumentParser:
    """The command line of an experiment; `--device` and `--quiet` are always there.

    Args:
        file: the experiment's `__file__`.
        document: its docstring, whose first line describes the command.
        options: name → the default of an option in COMMON, or what `option` gave. In paths
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
    """One call of an experiment: its arguments, its command line, and when it began.

    Args:
        parser: made by `new_parser`.
        argv: the arguments; by default those of the shell.
    """

    def __init__(self, parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> None:
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):  # a console that lacks a letter loses no work
                stream.reconfigure(errors="backslashreplace")
        self.given = parser.parse_args(argv)
        words = sys.argv[1:] if argv is None else argv
        self.command = shlex.join([*parser.prog.split(), *words])
        self.kind = parser.prog.rpartition(".")[2].replace("_", " ")
        self.record = self.path(self.given.record)
        check_replaceable(self.record)
        self.started = time.perf_counter()

    def path(self, path: Path) -> Path:
        """A path of the arguments with {preset} and {data} filled in."""
        text = str(path)
        for name in ("preset", "data"):
            text = text.replace(f"{{{name}}}", str(getattr(self.given, name, "")))
        return Path(text)

    def values(self, *names: str) -> dict:
        """Some of the arguments, for the record."""
        return {name: getattr(self.given, name) for name in names}

    def write(self, preset: str, metrics: dict, **fields: object) -> None:
        """Write the run record, and say where it is.

        Args:
            preset: the name of the preset whose parts were used.
            metrics: what was found.
            fields: further fields, or others than: seed 0, the seconds since the run began, the
                argument `steps`, the module's name as the kind.
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

    A run that was interrupted goes on, and one that is finished is taken up.

    Args:
        stage: names the run and its folder.
        pictures: (picture, mask) pairs as they are on disk, or as they are drawn.
        loss_fn: in place of the model's own `losses`.
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


def subset(dataset: Dataset, count: int | None) -> Dataset:
    """`count` evenly spaced pictures of a data set; all of it where there are no more, or None."""
    picked = evenly_spaced(len(dataset), count)
    return dataset if len(picked) == len(dataset) else Subset(dataset, picked)
