"""Checkpoints to resume from, and weights to ship: written beside and renamed, read without executing anything.

Run records: what was run, on what, for how long, and what came out, as JSON that notebooks and tests read.

What a run is: hashes that tell one plan, and one frozen stage I, from another, so that a checkpoint is only continued by its own run.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


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


def hardware(device: str | torch.device | None = None) -> str:
    """One line on what `device` is: the GPU's name, or the CPU's and the threads torch uses.

    None stands for the device that Accelerate trains on: the GPU where there is one.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return f"{device.type} on {_cpu_name()}"
    return f"{_cpu_name()}, {torch.get_num_threads()} of {os.cpu_count()} CPU threads"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def commit() -> str | None:
    """The repository's commit, with a + where files differ from it; None outside a clone."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        name = subprocess.run(
            [*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        dirty = subprocess.run(
            [*git, "status", "--porcelain"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return name + ("+" if dirty else "")


def run_record(
    *,
    kind: str,
    preset: str,
    seed: int,
    steps: int | None,
    seconds: float,
    metrics: dict,
    command: str,
    device: str | torch.device | None = None,
) -> dict:
    """The fields every record has: kind, preset, seed, steps, hardware (see there), seconds, metrics, command, commit, versions."""
    return {
        "kind": kind,
        "preset": preset,
        "seed": seed,
        "steps": steps,
        "seconds": round(seconds, 1),
        "hardware": hardware(device),
        "command": command,
        "commit": commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "metrics": metrics,
    }


def tensors_hash(tensors: Iterable[Tensor]) -> str:
    """64 hexadecimal digits that change with any bit of the tensors, taken in their order."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().numpy())
    return digest.hexdigest()


def weights_hash(module: nn.Module) -> str:
    """`tensors_hash` of a module's parameters and buffers, by name: which weights a record was measured with."""
    return tensors_hash(tensor for _, tensor in sorted(module.state_dict().items()))
