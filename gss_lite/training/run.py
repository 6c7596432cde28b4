"""What a run is: hashes that tell one plan, and one frozen stage I, from another, so that a checkpoint is only continued by its own run.

The stages: I, the VQ-VAE on maskige; II, the prior on photographs. Each is one call, seeded and resumable.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path

from torch import nn

from gss_lite.data import dataset_for
from gss_lite.data.transforms import InMemory, SeededAugmentation, train_transform
from gss_lite.distributed import is_main, wait_for_all
from gss_lite.factory import SHIPPED, comes_with_tokenizer
from gss_lite.presets.parts import Preset, Schedule
from gss_lite.storage import load_checkpoint, replace_file, run_record, save_weights, write_json
from gss_lite.training.checks import check_labelled
from gss_lite.training.loop import fit

OTHER_STAGE = {
    "vqvae": {"prior", "backbone", "backbone_args", "head", "pretrained", "window"},
    "prior": {"vqvae", "readback"},
}


STAGE_ONE = ("palette.json", "vqvae.safetensors")


def plan_hash(preset: Preset, stage: str) -> str:
    """16 hexadecimal digits of all that the preset says about `stage`; what only the other stage or evaluation reads is left out."""
    left_out = OTHER_STAGE.get(stage, set()) | {"notes", "eval_pictures", "test_size"}
    # what changes memory and time and hardly the step: a run may go on with it, as after running
    # out of memory
    if preset.prior:
        preset = replace(
            preset, prior=replace(preset.prior, accumulate=1, checkpointing=False, compile=False)
        )
    said = {f.name: getattr(preset, f.name) for f in fields(preset) if f.name not in left_out}
    text = json.dumps(
        said,
        default=lambda value: asdict(value) if is_dataclass(value) else dict(value),
        sort_keys=True,
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def stage_one_hash(preset: Preset, folder: Path) -> str:
    """16 hexadecimal digits of the palette and VQ-VAE files in `folder`; of the shipped ones where they are another preset's."""
    palette, vqvae = (folder / f"{preset.name}.{end}" for end in STAGE_ONE)
    if comes_with_tokenizer(preset):
        palette = SHIPPED / f"{preset.tokenizer_from}.{STAGE_ONE[0]}"
    if preset.tokenizer_from:
        vqvae = SHIPPED / f"{preset.tokenizer_from}.{STAGE_ONE[1]}"
    digest = hashlib.sha256()
    for path in (palette, vqvae):
        if path.exists():
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def bring_stage_one(preset: Preset, source: Path, folder: Path) -> None:
    """Copy palette, VQ-VAE and its record beside the prior trained on them: `--weights folder` then finds a whole model."""
    if source.resolve() == folder.resolve():
        return
    for end in (*STAGE_ONE, "vqvae.json"):
        path = source / f"{preset.name}.{end}"
        if path.exists():
            replace_file(
                folder / path.name, lambda target, path=path: shutil.copyfile(path, target)
            )


def run_stage(
    preset: Preset,
    name: str,
    stage: nn.Module,
    learner: nn.Module,
    schedule: Schedule,
    folder: Path,
    data: str | Path | None,
    *,
    command: str = "",
    frozen: str = "",
    pretrained: str = "",
    keep: str = "last",
    **options: object,
) -> None:
    """Train one stage with the preset's data, then write weights and run record beside each other (the first process does).

    Args:
        frozen: hash of the files of the stage before, if this one rests on them; a checkpoint made
            on others is refused.
        pretrained: what the learner started from, if not from random weights; also part of what the
            run is.
        keep: "last", or "best" for the weights with the highest validation score. options: for
            `fit`.

    Raises:
        ValueError: no training pixel is labelled. Else as `fit`.
    """
    pictures = InMemory(dataset_for(preset, "train", folder=data))
    check_labelled(pictures)
    dataset = SeededAugmentation(
        pictures,
        train_transform(
            *schedule.crop,
            scales=schedule.scales,
            image_size=preset.size,
            distortion=schedule.distortion,
        ),
        preset.seed,
    )
    run = {
        "preset": preset.name,
        "stage": name,
        "seed": preset.seed,
        "steps": schedule.steps,
        "batch": schedule.batch,
        "plan": plan_hash(preset, name),
        "frozen": frozen,
        **({"pretrained": pretrained} if pretrained else {}),
    }
    # a tokenizer for any palette needs no class in particular
    classes = () if preset.palette == "random" else pictures.dataset.classes
    started = time.perf_counter()
    log = fit(
        stage, learner, dataset, schedule, run=run, folder=folder / name, classes=classes, **options
    )
    if is_main():
        kept = {}
        if keep == "best":
            best = load_checkpoint(folder / name / "best.pt", run)
            if best is None:
                raise ValueError(
                    f"no best.pt in {folder / name}: no step of this run was validated. Train with "
                    "validation from the start, or keep the last"
                )
            learner.load_state_dict(best["learner"])
            kept = {"kept": {"step": best["step"], "score": best["score"]}}
        _write(
            preset,
            name,
            learner,
            schedule,
            folder,
            log,
            time.perf_counter() - started,
            command,
            kept,
        )
    wait_for_all()  # the next stage reads what was written


def _write(
    preset: Preset,
    name: str,
    learner: nn.Module,
    schedule: Schedule,
    folder: Path,
    log: list[dict],
    seconds: float,
    command: str,
    kept: dict,
) -> None:
    save_weights(folder / f"{preset.name}.{name}.safetensors", learner)
    record = run_record(
        kind=f"train {name}",
        preset=preset.name,
        seed=preset.seed,
        steps=schedule.steps,
        command=command,
        seconds=max(log[-1]["seconds"], seconds),
        metrics={k: v for k, v in log[-1].items() if k != "step"},
        device=next(learner.parameters()).device,
    )
    parameters = sum(p.numel() for p in learner.parameters() if p.requires_grad)
    write_json(
        folder / f"{preset.name}.{name}.json",
        {
            **record,
            **kept,
            "parameters": parameters,
            "schedule": asdict(schedule),
            "log": log,
        },
    )
