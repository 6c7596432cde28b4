"""Run records: what was run, on what, for how long, and what came out, as JSON that notebooks and tests read."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import torch


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
