"""A released checkpoint file ⇄ a folder that `create_model`, `predict` and `evaluate` read."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from gss_lite.contracts import Tokenizer
from gss_lite.dalle_names import dvae_from_published
from gss_lite.factory import create_model, create_tokenizer, stage_one_hashes
from gss_lite.imported import architecture_path, dvae_path, read_dvae
from gss_lite.inverse_fitted import SwinInverse
from gss_lite.official.architecture import Architecture, read_architecture
from gss_lite.official.checkpoint import DVAE, Checkpoint, as_palette, read_checkpoint, read_palette
from gss_lite.official.convert import check_vocabulary, our_tensors, released_state
from gss_lite.palette import Palette, released_cityscapes_palette
from gss_lite.presets import Preset, get_preset
from gss_lite.records import run_record
from gss_lite.storage import (
    check_replaceable,
    check_writable,
    replace_file,
    save_checkpoint,
    save_weights,
    write_json,
)


def import_checkpoint(
    path: str | Path,
    preset: str | Preset,
    out: str | Path,
    *,
    palette: str | Path | None = None,
    dvae: str | Path | None = None,
    command: str = "",
) -> tuple[list[Path], str]:
    """Convert a released checkpoint to a folder of safetensors and JSON files.

    Everything is read and checked before the first file is written. If a file cannot be written,
    those before it are removed.

    Args:
        path: a released GSS-FF or GSS-FT-W, as .pth.
        preset: one of the paper's; it gives the data set, the views, K and the kind of backbone.
        out: the folder to write to; it must not hold a model of this preset.
        palette: the released config (.py) or a palette (.json), where the checkpoint does not name
            its colours. Cityscapes' are known.
        dvae: a file of the dVAE's 150 tensors, see `read_dvae`, where the checkpoint does not hold
            them. By default OpenAI's published dVAE is used, from where `find_dalle` finds it.
        command: kept in the record.

    Returns:
        The written files, and one line for each thing that a reader should know.

    Raises:
        FileNotFoundError: a file is missing.
        FileExistsError: the folder already holds a model of this preset.
        ValueError: the checkpoint cannot be used. The message names the difference; nothing in the
            file was run.
    """
    started = time.perf_counter()
    preset = get_preset(preset)
    out = Path(out)
    mine = f"{preset.name}.*"  # the names of all files of a model
    if any(out.glob(mine)):
        raise FileExistsError(
            f"{out} already holds a model of {preset.name}; choose another folder, one a checkpoint"
        )
    checkpoint = read_checkpoint(path)
    architecture = read_architecture(checkpoint.state)
    check_preset(architecture, preset)
    prior_tensors, inverse_tensors = our_tensors(checkpoint.state, architecture)
    colors = _find_palette(checkpoint, preset, palette, architecture.num_classes)
    tensors = checkpoint.dvae
    if dvae is not None:
        tensors = read_dvae(dvae)
    tokenizer = dvae_from_published(tensors) if tensors else _published(preset)
    check_vocabulary(architecture, tokenizer)
    check_writable(out)

    with torch.device("meta"):
        prior = architecture.build_prior()
    prior.load_state_dict(prior_tensors, assign=True)
    inverse = architecture.build_inverse(colors.colors)
    if inverse is not None:
        inverse.load_state_dict({"colors": colors.colors, **inverse_tensors})
    hashes = stage_one_hashes(colors, tokenizer)
    try:
        colors.save(out / f"{preset.name}.palette.json")
        write_json(architecture_path(preset, out), architecture.as_json())
        if tensors:
            replace_file(dvae_path(preset, out), partial(_save, tensors))
        for stage, network in (("inverse-ft-w", inverse), ("prior", prior)):
            if network is not None:
                path = out / f"{preset.name}.{stage}.safetensors"
                save_weights(path, network, rests_on=hashes)
                record = _record(f"import {stage}", preset, started, checkpoint, command)
                if stage != "prior":
                    record["size"] = dict(architecture.inverse)
                write_json(path.with_suffix(".json"), record)
    except BaseException:
        for path in out.glob(mine):  # the folder held none before
            path.unlink()
        raise
    return sorted(out.glob(mine)), _report(checkpoint, architecture, preset)


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def _published(preset: Preset) -> Tokenizer:
    """OpenAI's dVAE from its usual place; FileNotFoundError says how to get it."""
    return create_tokenizer(preset, pretrained=True)


def check_preset(architecture: Architecture, preset: Preset) -> None:
    """Raise ValueError unless a checkpoint has a preset's kind of backbone and number of classes.

    Its widths and depths may differ; the preset takes them over.
    """
    wanted = preset.prior.backbone if preset.prior else "no prior"
    if architecture.prior.backbone != wanted or not preset.prior.backbone_arguments.get("released"):
        raise ValueError(
            f"the checkpoint's backbone is a {architecture.kind} ({architecture.prior.backbone}), "
            f"but preset {preset.name} has {wanted}; name the config that it was trained with"
        )
    if architecture.num_classes != preset.data.num_classes:
        raise ValueError(
            f"the checkpoint has {architecture.num_classes} classes, but preset {preset.name} has "
            f"{preset.data.num_classes}; name the config that it was trained with"
        )


def _find_palette(
    checkpoint: Checkpoint, preset: Preset, path: str | Path | None, num_classes: int
) -> Palette:
    if path is not None:
        return as_palette(read_palette(path), num_classes)
    if checkpoint.palette is not None:
        return as_palette(checkpoint.palette, num_classes)
    if preset.palette == "released-cityscapes":
        return released_cityscapes_palette()
    raise ValueError(
        "the checkpoint does not name its palette, and the colours of "
        f"{preset.data.name} cannot be made again from a rule; pass the released config of this "
        "model with --palette CONFIG.py. It is read as text"
    )


def _record(
    kind: str, preset: Preset, started: float, checkpoint: Checkpoint, command: str
) -> dict:
    return run_record(
        kind=kind,
        preset=preset.name,
        seed=preset.seed,
        steps=None,
        seconds=time.perf_counter() - started,
        metrics={"tensors": len(checkpoint.state) + len(checkpoint.dvae)},
        command=command,
        device="cpu",
    )


def _report(checkpoint: Checkpoint, architecture: Architecture, preset: Preset) -> str:
    """Say what became of the file's contents, a line each."""
    variant = "GSS-FF" if architecture.inverse is None else "GSS-FT-W"
    lines = [
        f"{variant} with a {architecture.kind}: {len(checkpoint.state)} tensors, all of them used"
    ]
    if checkpoint.dvae:
        lines.append(f"the dVAE's {len(checkpoint.dvae)} tensors, kept under OpenAI's names")
    if checkpoint.unused:
        lines.append(f"not used: {', '.join(sorted(checkpoint.unused))}")
    there = {**architecture.prior.backbone_arguments, **architecture.prior.head}
    paper = {**preset.prior.backbone_arguments, **preset.prior.head}
    other = [f"{k} {there[k]}, not {paper[k]}" for k in paper if there.get(k, paper[k]) != paper[k]]
    if other:
        lines.append(f"other sizes than the paper's: {'; '.join(other)}")
    return "\n".join(lines)


def export_checkpoint(preset: str | Preset, folder: str | Path, path: str | Path) -> Path:
    """Write a folder's model under the released names, for the released code: the way back.

    The file holds the prior, X⁻¹ of GSS-FT-W if the folder has one, and the dVAE if the folder has
    its own. The released code loads OpenAI's dVAE from other files.

    Args:
        preset: the model's preset.
        folder: what `import_checkpoint` or `train` wrote.
        path: the .pth file to write.

    Raises:
        FileNotFoundError: the folder holds no weights of this preset.
        ValueError: the model is none of the paper's architectures.
        OSError: the file cannot be written.
    """
    preset, folder, path = get_preset(preset), Path(folder), Path(path)
    check_replaceable(path)
    has_inverse = (folder / f"{preset.name}.inverse-ft-w.safetensors").is_file()
    gss = create_model(preset, pretrained=folder, inverse="ft-w" if has_inverse else "ff")
    inverse = gss.inverse if isinstance(gss.inverse, SwinInverse) else None
    state = released_state(gss.prior, inverse)
    if dvae_path(preset, folder).is_file():
        state |= {DVAE + name: t for name, t in read_dvae(dvae_path(preset, folder)).items()}
    palette = gss.palette
    colors = 255 * torch.cat([palette.colors, palette.ignore_color[None]]).double()
    rows = [[round(value, 4) for value in color] for color in colors.tolist()]
    save_checkpoint(path, {"meta": {"config": f"palette = {rows}\n"}, "state_dict": state})
    return path
