"""A run: what identifies it, and how one stage of it is trained, written and taken up again.

A checkpoint is continued, and a result is taken, only by the run that made it. So a run knows the
hash of its schedule, of its data and of everything that it rests on.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset

from gss_lite.data import create_dataset
from gss_lite.data.transforms import InMemory
from gss_lite.distributed import is_main, wait_for_all
from gss_lite.presets import Preset, Schedule
from gss_lite.storage import (
    check_same_run,
    check_writable,
    load_checkpoint,
    load_weights,
    read_json,
    remove_leftovers,
    replace_file,
    run_record,
    save_weights,
    write_json,
)
from gss_lite.training.checks import check_labelled
from gss_lite.training.loop import LoopOptions, fit

SAMPLED_MASKS = 16  # masks that stand for a data set in its hash
STAGE_ONE = ("palette.json", "vqvae.safetensors", "vqvae.json")


@dataclass(frozen=True)
class Job:
    """What a call of `train` is asked for.

    Attributes:
        folder: where weights, checkpoints and records are written.
        data: the folder of a data set that is on disk; None looks in the usual places.
        pretrained_backbone: start the backbone from the weights that the preset names.
        keep: "last", or "best" for the weights with the highest validation score.
        validate_every: steps between two measurements of the validation split's mIoU.
        options: for the loop.
        command: what a person would type to make the record again.
    """

    preset: Preset
    folder: Path
    data: str | Path | None = None
    pretrained_backbone: bool = False
    keep: str = "last"
    validate_every: int | None = None
    options: LoopOptions = field(default_factory=LoopOptions)
    command: str = ""

    def path(self, name: str) -> Path:
        """The file NAME of this preset in the run's folder, as "prior.safetensors"."""
        return self.folder / f"{self.preset.name}.{name}"

    def pictures(self, split: str = "train", transform: object = None) -> InMemory:
        """The preset's pictures, each kept in memory once it was read."""
        dataset = create_dataset(self.preset, split, folder=self.data, transform=transform)
        return InMemory(dataset)


def prepare(folder: Path) -> None:
    """Find out before the work whether its result can be written, and clear what was left over."""
    if is_main():
        check_writable(folder)
        for place in (folder, *folder.glob("*/")):
            remove_leftovers(place)
    wait_for_all()


def schedule_hash(preset: Preset, stage: str, schedule: Schedule) -> str:
    """16 hexadecimal digits of all the parts of a preset that a stage reads.

    What changes memory and time but hardly the step is left out: a run may go on with it, as after
    running out of memory. So are views and held-out pictures, which only evaluation reads.
    """
    said = {
        "data": replace(preset.data, eval_pictures=None),
        "schedule": replace(schedule, accumulate=1, checkpointing=False, compile=False),
    }
    if stage == "vqvae":
        said |= {"palette": preset.palette, "tokenizer": preset.tokenizer}
    elif stage in ("prior", "pixel"):
        said |= {"prior": preset.prior}

    def plain(value: object) -> dict:
        return asdict(value) if is_dataclass(value) else dict(value)

    text = json.dumps(_plain_maps(said), default=plain, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain_maps(value: object) -> object:
    """Dataclasses and read-only mappings as dictionaries, all the way down."""
    if is_dataclass(value):
        value = {name: getattr(value, name) for name in value.__dataclass_fields__}
    if isinstance(value, Mapping):
        return {key: _plain_maps(entry) for key, entry in value.items()}
    return value


def data_hash(dataset: Dataset) -> str:
    """16 hexadecimal digits that tell one training set from another.

    They cover the number of pictures, their names and classes, and the masks of 16 of them, evenly
    spaced.
    """
    inner = getattr(dataset, "dataset", dataset)  # of InMemory
    names = [str(name) for name in getattr(inner, "names", ())]
    classes = list(getattr(inner, "classes", ()))
    digest = hashlib.sha256(json.dumps([len(dataset), names, classes]).encode())
    count = min(SAMPLED_MASKS, len(dataset))
    for index in torch.linspace(0, len(dataset) - 1, count).round().long().tolist():
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
    """Train one stage, then write weights and run record beside each other → the log.

    A run that is finished and written is not trained, written or signed again.

    Args:
        loss_fn: forward(*batch) gives (loss, scalars).
        model: the part of it that is trained.
        dataset: augmented pairs, indexed by (draw, index).
        pictures: what `dataset` was made from; it identifies the run.
        classes: names of the classes to watch for.
        rests_on: the hashes of what was trained before; they go into the file of weights.
        validate: see `fit`.
        extra: more fields for the run record.

    Raises:
        ValueError: no training pixel is labelled. Otherwise as `fit`.
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
        run["pretrained"] = preset.prior.pretrained
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
    if is_main():
        save_weights(weights, model, rests_on=rests_on)
        record = run_record(
            kind=f"train {stage}",
            preset=preset.name,
            seed=preset.seed,
            steps=schedule.steps,
            command=job.command,
            seconds=seconds,
            metrics={name: value for name, value in log[-1].items() if name != "step"},
            device=next(model.parameters()).device,
        )
        parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
        write_json(
            card,
            {
                **record,
                **kept,
                "parameters": parameters,
                "schedule": _plain_maps(schedule),
                "run": run,
                **(extra or {}),
                "log": log,
            },
        )
    wait_for_all()  # the next stage reads what was written
    return log


def is_written(job: Job, run: Mapping, weights: Path, card: Path) -> bool:
    """Whether the files are those that this very run wrote when it ended."""
    if not weights.is_file() or not card.is_file():
        return False
    record = read_json(card)
    same_choice = ("kept" in record) == (job.keep == "best")
    return record.get("run") == dict(run) and same_choice


def check_not_anothers(weights: Path, card: Path, run: Mapping, checkpoint: Path) -> None:
    """Raise ValueError if training would overwrite what another run has trained.

    Weights without a record are this run's if its checkpoint is there: it was killed between the
    two. `fit` refuses the checkpoint of another run.
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
    """Load the weights with the highest validation score into the model → what to record.

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


def check_stage_one(preset: Preset, source: Path, folder: Path) -> None:
    """Raise ValueError if bringing the stage I of `source` would overwrite another in `folder`."""
    if source.resolve() == folder.resolve():
        return
    for end in STAGE_ONE:
        theirs = source / f"{preset.name}.{end}"
        ours = folder / f"{preset.name}.{end}"
        if theirs.is_file() and ours.is_file() and theirs.read_bytes() != ours.read_bytes():
            raise ValueError(
                f"{ours} is another file than {theirs}, which the prior is to be trained on; it "
                "would be overwritten. Train in another folder (--out), or on this folder's own "
                "stage I"
            )


def bring_stage_one(preset: Preset, source: Path, folder: Path) -> None:
    """Copy palette, VQ-VAE and its record beside the prior that was trained on them.

    The folder then holds a whole model.
    """
    if source.resolve() == folder.resolve() or not is_main():
        return
    for end in STAGE_ONE:
        path = source / f"{preset.name}.{end}"
        if path.exists():
            _copy(path, folder / path.name)


def _copy(source: Path, target: Path) -> None:
    replace_file(target, lambda temporary: shutil.copyfile(source, temporary))
