"""Checkpoints to resume from, and weights to ship: written beside and renamed, read without executing anything."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn


def replace_file(path: Path, write) -> None:
    """Let `write(temporary_path)` write beside `path`, then rename: a reader sees the old file or the new, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: dict) -> None:
    """JSON with two-space indents, atomically."""
    replace_file(path, lambda p: p.write_text(json.dumps(value, indent=2) + "\n"))


def save_checkpoint(path: Path, state: dict) -> None:
    """Everything a training run needs to go on, atomically."""
    replace_file(path, lambda p: torch.save(state, p))


def load_checkpoint(path: Path, run: dict) -> dict | None:
    """The state saved at `path`, or None where there is none.

    Raises:
        ValueError: the checkpoint was made by another run (preset, stage, seed, …), or cannot be
            read.
    """
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen types for a damaged file
        raise ValueError(
            f"checkpoint {path} cannot be read ({type(error).__name__}); delete it to begin again"
        ) from error
    differing = sorted(
        k for k in run.keys() | state["run"].keys() if run.get(k) != state["run"].get(k)
    )
    if differing:
        shown = "; ".join(
            f"{k}: {state['run'].get(k)!r} there, {run.get(k)!r} now" for k in differing
        )
        raise ValueError(
            f"checkpoint {path} belongs to another run ({shown}). Choose another folder, or delete "
            "it to begin again."
        )
    return state


def save_weights(path: Path, module: nn.Module, *, half: bool = False) -> None:
    """Parameters and buffers as safetensors; `half` stores floats in 16 bits, half the size, for shipping."""
    tensors = {
        k: (v.half() if half and v.is_floating_point() else v).detach().cpu().contiguous()
        for k, v in module.state_dict().items()
    }
    replace_file(path, lambda p: save_file(tensors, p))


def load_weights(path: Path, module: nn.Module) -> None:
    """Read safetensors into `module`, strictly.

    Raises:
        FileNotFoundError: no such file. ValueError: damaged, or made for another architecture.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"no weights at {path}; make them with `python -m gss_lite train`, or pass --weights "
            "FOLDER"
        )
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"weights file {path} is damaged or cut short ({error}); fetch it or train it again"
        ) from error
    expected = module.state_dict()
    wrong = sorted(expected.keys() ^ tensors.keys()) + [
        f"{k} {tuple(tensors[k].shape)} instead of {tuple(expected[k].shape)}"
        for k in expected.keys() & tensors.keys()
        if tensors[k].shape != expected[k].shape
    ]
    if wrong:
        raise ValueError(
            f"weights file {path} was made for another architecture: {len(wrong)} tensors differ "
            f"(first: {wrong[0]}). "
            "Use the preset it was trained with."
        )
    module.load_state_dict({k: v.to(expected[k].dtype) for k, v in tensors.items()})
