"""A run: what identifies it, and how one stage of it is trained, written and resumed.

Only the run that made a checkpoint or a result may use it again. A run is therefore identified by
the hashes of its schedule, of its data and of the weights that it builds on.
"""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset

from gss_lite.data import create_dataset
from gss_lite.data.masks import evenly_spaced
from gss_lite.data.transforms import InMemory
from gss_lite.distributed import is_main, wait_for_all
from gss_lite.presets import Preset, Schedule
from gss_lite.records import run_record
from gss_lite.storage import (
    check_same_run,
    check_writable,
    load_checkpoint,
    load_weights,
    read_json,
    remove_leftovers,
    replace_file,
    save_weights,
    weights_hash,
    write_json,
)
from gss_lite.training.checks import check_labelled
from gss_lite.training.loop import LoopOptions, fit

SAMPLED_MASKS = 16  # so many masks of a data set enter its hash
STAGE_ONE = ("palette.json", "vqvae.safetensors", "vqvae.json")
UVIM_STAGE_ONE = ("uvim-base.safetensors", "uvim-base.json")


@dataclass(frozen=True)
class Job:
    """The preset and the options of one call of `train`, which explains them.

    Attributes:
        folder: where weights, checkpoints and records are written.
        data: the folder of a data set that is on disk; None looks in the usual places.
    """

    preset: Preset
    folder: Path
    data: str | Path | None = None
    pretrained_backbone: bool | str | Path = False
    keep: str = "last"
    validate_every: int | None = None
    options: LoopOptions = field(default_factory=LoopOptions)
    command: str = ""

    def path(self, name: str) -> Path:
        """Return the path of a file of this preset in the run's folder, as "prior.safetensors"."""
        return self.folder / f"{self.preset.name}.{name}"

    def pictures(self, split: str = "train", transform: object = None) -> InMemory:
        """Make the preset's data set. Each picture stays in memory after it was read once."""
        dataset = create_dataset(self.preset, split, folder=self.data, transform=transform)
        return InMemory(dataset)


def prepare(folder: Path) -> None:
    """Check that the folder can be written to, and delete half-written files in it."""
    if is_main():
        check_writable(folder)
        for place in (folder, *folder.glob("*/")):
            remove_leftovers(place)
    wait_for_all()


def schedule_hash(preset: Preset, stage: str, schedule: Schedule) -> str:
    """Hash all parts of a preset that a stage reads → 16 hexadecimal digits.

    Settings of memory and time are left out, so a run that ran out of memory may go on with others.
    So is the middle checkpoint, which changes nothing in the training. Views and held-out pictures
    are left out too, because only evaluation reads them.
    """
    settings = replace(schedule, accumulate=1, checkpointing=False, compile=False)
    # Runs that are older than the choice of an optimizer keep their hash, and so do presets without
    # a list of classes.
    left_out = ("middle", "optimizer") if schedule.optimizer == "adamw" else ("middle",)
    data = vars(replace(preset.data, eval_pictures=None))
    parts = {
        "data": {k: v for k, v in data.items() if k != "class_list" or v},
        "schedule": {k: v for k, v in vars(settings).items() if k not in left_out},
    }
    if stage == "vqvae":
        parts |= {"palette": preset.palette, "tokenizer": preset.tokenizer}
    elif stage in ("prior", "pixel"):
        parts |= {"prior": preset.prior}
    elif stage == "uvim-base":
        parts |= {"uvim": preset.uvim.stage_one}
    elif stage.startswith("uvim-code"):
        parts |= {"prior": replace(preset.prior, head={}), "uvim": replace(preset.uvim, view=None)}
    text = json.dumps(_plain_maps(parts), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain_maps(value: object) -> object:
    """Turn dataclasses and read-only mappings into dictionaries, nested ones too."""
    if is_dataclass(value):
        value = vars(value)
    if isinstance(value, Mapping):
        return {key: _plain_maps(entry) for key, entry in value.items()}
    return value


def data_hash(dataset: Dataset) -> str:
    """Hash a training set → 16 hexadecimal digits.

    The hash covers the number of pictures, their names and classes, and 16 evenly spaced masks.
    """
    inner = getattr(dataset, "dataset", dataset)  # of InMemory
    names = [str(name) for name in getattr(inner, "names", ())]
    classes = list(getattr(inner, "classes", ()))
    digest = hashlib.sha256(json.dumps([len(dataset), names, classes]).encode())
    for index in evenly_spaced(len(dataset), SAMPLED_MASKS):
        mask = torch.as_tensor(dataset[index][1]).to(torch.uint8)
        digest.update(str(tuple(mask.shape)).encode())
        digest.update(mask.contiguous().numpy())
    return digest.hexdigest()[:16]


def run_stage(
    job: Job,
    stage: str,
    loss_fn: nn.Module,
    model: nn.Module,
    schedule: Schedule,
    dataset: Dataset,
    *,
    pictures: Dataset,
    classes: tuple[str, ...] = (),
    rests_on: Mapping[str, str] | None = None,
    validate: object = None,
    extra: Mapping[str, object] | None = None,
) -> list[dict]:
    """Train one stage, then write its weights and its run record → the log.

    If this run has already finished, its weights are loaded and nothing is trained or written.

    Args:
        loss_fn: forward(*batch) gives (loss, scalars).
        model: the part of `loss_fn` that is trained.
        dataset: augmented pairs, indexed by (draw, index).
        pictures: the data set behind `dataset`; its hash identifies the run.
        classes, validate: see `LoopOptions`.
        rests_on: hashes of the earlier stages, for the file of weights.
        extra: more fields for the run record.

    Raises:
        ValueError: no training pixel is labelled.
        Exception: the errors of `fit`.
    """
    check_labelled(pictures)
    preset = job.preset
    run = {
        "preset": preset.name,
        "stage": stage,
        "seed": preset.seed,
        "steps": schedule.steps,
        "batch": schedule.batch,
        "plan": schedule_hash(preset, stage, schedule),
        "data": data_hash(pictures),
        **(rests_on or {}),
    }
    if job.pretrained_backbone:
        source = job.pretrained_backbone
        named = {True: preset.prior.pretrained, "timm": "timm"}
        run["pretrained"] = named.get(source, "a file")  # its hash follows, its place may change
        run["backbone_sha256"] = weights_hash(model.backbone)
    weights = job.path(f"{stage}.safetensors")
    card = job.path(f"{stage}.json")
    if is_written(job, run, weights, card):
        load_weights(weights, model)
        return read_json(card)["log"]
    check_not_anothers(weights, card, run, job.folder / stage / "checkpoint.pt")
    options = replace(
        job.options,
        classes=classes,
        validate=validate,
        validate_every=job.validate_every if validate else None,
    )
    started = time.perf_counter()
    log = fit(
        loss_fn, model, dataset, schedule, run=run, folder=job.folder / stage, options=options
    )
    seconds = max(log[-1]["seconds"], time.perf_counter() - started)
    kept = keep_best(job, stage, model, run) if job.keep == "best" else {}
    fields = {
        **kept,
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "schedule": _plain_maps(schedule),
        "run": run,
        **(extra or {}),
        "log": log,
    }
    write_result(
        job,
        stage,
        model,
        rests_on,
        fields,
        steps=schedule.steps,
        seconds=seconds,
        metrics={name: value for name, value in log[-1].items() if name != "step"},
        device=next(model.parameters()).device,
    )
    if schedule.middle:
        save_middle(job, stage, model, run, rests_on)
    return log


def middle_path(folder: Path, preset: Preset, stage: str = "prior") -> Path:
    """Return the path of the weights that a stage had at its middle checkpoint."""
    return folder / f"{preset.name}.{stage}-middle.safetensors"


def save_middle(
    job: Job, stage: str, model: nn.Module, run: Mapping, rests_on: Mapping[str, str] | None
) -> None:
    """Write the weights that the loop kept in middle.pt as safetensors; `model` stays as it is.

    Raises:
        ValueError: the run went past its middle before this version could keep it.
    """
    kept = load_checkpoint(job.folder / stage / "middle.pt", run)
    if kept is None:
        raise ValueError(
            f"no middle.pt in {job.folder / stage}: the run was past its middle when the schedule "
            "began to ask for it. Train in a new folder, or set middle=None"
        )
    if is_main():
        middle = copy.deepcopy(model)
        middle.load_state_dict(kept["model"])
        save_weights(middle_path(job.folder, job.preset, stage), middle, rests_on=rests_on)
    wait_for_all()


def write_result(
    job: Job,
    stage: str,
    model: nn.Module,
    rests_on: Mapping[str, str] | None,
    fields: Mapping[str, object],
    **measured: object,
) -> None:
    """Write the weights of a stage, and its run record beside them.

    The first process writes, and all processes wait for it.

    Args:
        rests_on: hashes of the earlier stages.
        fields: further fields of the record.
        measured: steps, seconds, metrics and device, see `run_record`.
    """
    if is_main():
        save_weights(job.path(f"{stage}.safetensors"), model, rests_on=rests_on)
        preset = job.preset
        record = run_record(
            kind=f"train {stage}",
            preset=preset.name,
            seed=preset.seed,
            command=job.command,
            **measured,
        )
        write_json(job.path(f"{stage}.json"), {**record, **fields})
    wait_for_all()


def is_written(job: Job, run: Mapping, weights: Path, card: Path) -> bool:
    """Whether this run has finished and written both files."""
    if not weights.is_file() or not card.is_file():
        return False
    record = read_json(card)
    same_choice = ("kept" in record) == (job.keep == "best")
    return record.get("run") == dict(run) and same_choice


def check_not_anothers(weights: Path, card: Path, run: Mapping, checkpoint: Path) -> None:
    """Raise ValueError if training would overwrite what another run has trained.

    Weights without a record are accepted if there is a checkpoint: the run may have been killed
    before it wrote the record. `fit` refuses the checkpoint of another run.
    """
    if not weights.is_file():
        return
    if card.is_file():
        check_same_run(str(weights), read_json(card).get("run", {}), run)
    elif not checkpoint.is_file():
        raise ValueError(
            f"{weights} has no record beside it and would be overwritten. Choose another folder, "
            "or delete it to begin again."
        )


def keep_best(job: Job, stage: str, model: nn.Module, run: Mapping) -> dict:
    """Load the weights with the highest validation score → fields for the record.

    Raises:
        ValueError: no step of this run was validated.
    """
    folder = job.folder / stage
    best = load_checkpoint(folder / "best.pt", run)
    if best is None:
        raise ValueError(
            f"no best.pt in {folder}: no step of this run was validated. Train with validation "
            "from the start, or keep the last weights"
        )
    model.load_state_dict(best["model"])
    return {"kept": {"step": best["step"], "score": best["score"]}}


def check_stage_one(
    preset: Preset, source: Path, folder: Path, ends: Sequence[str] = STAGE_ONE
) -> None:
    """Raise ValueError if `bring_stage_one` would overwrite another stage I in `folder`."""
    for theirs, ours in stage_one_files(preset, source, folder, ends):
        if ours.is_file() and theirs.read_bytes() != ours.read_bytes():
            raise ValueError(
                f"{ours} differs from {theirs}, which stage II is trained on, and would be "
                "overwritten. Train in another folder (--out), or on this folder's own stage I"
            )


def bring_stage_one(
    preset: Preset, source: Path, folder: Path, ends: Sequence[str] = STAGE_ONE
) -> None:
    """Copy stage I and its record into the folder of stage II, so that it is complete."""
    if not is_main():
        return
    for theirs, ours in stage_one_files(preset, source, folder, ends):
        replace_file(ours, partial(shutil.copyfile, theirs))


def stage_one_files(
    preset: Preset, source: Path, folder: Path, ends: Sequence[str] = STAGE_ONE
) -> list[tuple[Path, Path]]:
    """List the files of stage I in `source`, each with its place in another folder."""
    if source.resolve() == folder.resolve():
        return []
    names = [f"{preset.name}.{end}" for end in ends]
    return [(source / name, folder / name) for name in names if (source / name).is_file()]
