"""The stages: I, the VQ-VAE on maskige; II, the prior on photographs. Each is one call, seeded and resumable."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from gss_lite.build import (
    build_gss,
    build_palette,
    build_prior,
    build_tokenizer,
    comes_with_tokenizer,
    dataset_for,
    load_tokenizer,
    num_classes,
)
from gss_lite.data.transforms import InMemory, SeededAugmentation, eval_transform, train_transform
from gss_lite.gss import GSS
from gss_lite.inverse import NearestColor
from gss_lite.palette import Palette, paint
from gss_lite.palette_assignment import assign_colors
from gss_lite.palette_search import max_min_palette
from gss_lite.presets import Preset, Schedule
from gss_lite.prior import Prior
from gss_lite.processes import is_main, wait_for_all
from gss_lite.training.checkpoints import load_checkpoint, save_weights, write_json
from gss_lite.training.evaluation import validator
from gss_lite.training.generic_stage import GenericStage, Photographs
from gss_lite.training.guards import check_labelled
from gss_lite.training.identity import bring_stage_one, plan_hash, stage_one_hash
from gss_lite.training.loop import fit
from gss_lite.training.readback import readback_loss
from gss_lite.training.records import run_record
from gss_lite.vqvae import VQVAE


class VQVAEStage(nn.Module):
    """Stage I: forward(image, mask) paints the mask and gives the VQ-VAE's loss; the photograph is not used.

    `readback` weighs a second term, the cross-entropy of X⁻¹(x̂) against the mask (S.2 with D.i's
    cross-entropy). It trains the decoder to put a border pixel on one side or the other, where a
    distance in colour alone is content with a blend.
    """

    def __init__(self, tokenizer: VQVAE, palette: Palette, readback: float) -> None:
        super().__init__()
        self.tokenizer, self.palette, self.readback = tokenizer, palette, readback
        self.inverse = NearestColor(palette.colors)

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Mask (B, H, W) → (loss, scalars)."""
        maskige = paint(mask, self.inverse.colors, self.palette.ignore_color)
        picture, quantized = self.tokenizer(maskige)
        loss, scalars = self.tokenizer.losses(maskige, picture, quantized)
        if self.readback:
            scalars["readback"] = readback_loss(self.inverse(picture), mask)
            loss = loss + self.readback * scalars["readback"]
        return loss, {name: value.detach() for name, value in scalars.items()}


class PriorStage(nn.Module):
    """Stage II: forward(image, mask) gives GSS's loss; tokenizer and X⁻¹ are frozen."""

    def __init__(self, gss: GSS, targets: str = "no") -> None:
        super().__init__()
        self.gss = gss
        if targets not in ("no", "bf16"):
            raise ValueError(f'targets are encoded in "no" (float32) or "bf16"; got {targets!r}')
        gss.target_precision = targets

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Photograph (B, 3, H, W), mask (B, H, W) → (loss, scalars)."""
        return self.gss.losses(image, mask)


def make_palette(preset: Preset, folder: Path, *, data: str | Path | None = None) -> Palette:
    """The preset's palette; an assigned one is made from 600 training masks and left in `folder` as NAME.palette.json, unless it
    comes with another preset's tokenizer.

    Raises:
        ValueError: `folder` holds a tokenizer that was trained without this palette.
    """
    path = folder / f"{preset.name}.palette.json"
    trained = folder / f"{preset.name}.vqvae.safetensors"
    missing = (
        preset.palette == "assigned" and not comes_with_tokenizer(preset) and not path.exists()
    )
    if missing and trained.exists():  # in every process, or the others would wait for the first
        raise ValueError(
            f"{trained} is there, and {path.name}, in whose colours it was trained, is not; put "
            "that back, or train in a new folder (--out)"
        )
    if missing and is_main():
        masks = dataset_for(preset, "train", folder=data)
        masks = torch.stack([masks[i][1] for i in range(min(600, len(masks)))])
        assign_colors(max_min_palette(num_classes(preset)), masks, seed=preset.seed).save(path)
    wait_for_all()  # the others read what the first has written
    return build_palette(preset, folder)


def trains_tokenizer(preset: Preset) -> bool:
    """Whether the preset has a tokenizer of its own to train: not another's, and not OpenAI's."""
    return not preset.tokenizer_from and preset.tokenizer_kind == "vqvae"


def train_vqvae(
    preset: Preset, folder: Path, *, data: str | Path | None = None, **options: object
) -> VQVAE:
    """Stage I. Leaves NAME.vqvae.safetensors and its record NAME.vqvae.json in `folder`; resumes what it finds there.

    Where the preset shares another's tokenizer, or takes OpenAI's, only the palette is made (or
    taken, if the tokenizer was made for one), and that tokenizer returned as it is.
    """
    palette = None if preset.palette == "random" else make_palette(preset, folder, data=data)
    if not trains_tokenizer(preset):
        return load_tokenizer(preset)
    torch.manual_seed(preset.seed)
    tokenizer = build_tokenizer(preset)
    if palette:
        stage = VQVAEStage(tokenizer, palette, preset.readback)
    else:
        stage = GenericStage(tokenizer, preset.readback, Photographs.of(preset.photographs, data))
    run_stage(preset, "vqvae", stage, tokenizer, preset.vqvae, folder, data, **options)
    return tokenizer.eval()


def train_prior(
    preset: Preset,
    folder: Path,
    *,
    stage_one: Path | None = None,
    data: str | Path | None = None,
    pretrained: bool = False,
    validate_every: int = 0,
    **options: object,
) -> GSS:
    """Stage II, on palette and tokenizer found in `stage_one` (default: `folder`). Leaves NAME.prior.safetensors and NAME.prior.json.

    Args:
        pretrained: start from the backbone weights that the preset names. validate_every: steps
            between two measurements of the validation split's mIoU; 0 for none. options: for
            `run_stage`.
    """
    torch.manual_seed(preset.seed)
    gss = build_gss(preset, load_tokenizer(preset, stage_one or folder), stage_one or folder)
    if pretrained:
        gss.prior = pretrained_prior(preset, gss.tokenizer.vocab_size)
        options["pretrained"] = preset.pretrained
    if validate_every:
        options |= {
            "validate": validator(gss, validation_set(preset, data)),
            "validate_every": validate_every,
        }
    # about a quarter faster for convolutions, on CPU and GPU
    gss.prior.to(memory_format=torch.channels_last)
    stage_one = stage_one or folder
    stage = PriorStage(gss, preset.prior.targets)
    run_stage(
        preset,
        "prior",
        stage,
        gss.prior,
        preset.prior,
        folder,
        data,
        frozen=stage_one_hash(preset, stage_one),
        **options,
    )
    if is_main():
        bring_stage_one(preset, stage_one, folder)
    wait_for_all()
    return gss.eval()


def pretrained_prior(preset: Preset, vocab_size: int) -> Prior:
    """The preset's prior on the backbone weights that the preset names.

    Raises:
        ValueError: it names none. OSError: they cannot be had (no network, and none kept from an
            earlier download).
    """
    try:
        return build_prior(preset, vocab_size, pretrained=True)
    except RuntimeError as error:
        raise OSError(str(error)) from error


def validation_set(preset: Preset, data: str | Path | None = None) -> InMemory:
    """The preset's validation pictures, as evaluation takes them."""
    return InMemory(dataset_for(preset, "val", folder=data, transform=eval_transform()))


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
