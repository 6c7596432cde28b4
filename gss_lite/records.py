"""Run records: what was run, on what, for how long, by which commit, and with what result."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import torch


def hardware(device: str | torch.device | None = None) -> str:
    """Describe a device in one line: the GPU's name, or the CPU's name and torch's threads.

    None stands for the GPU if there is one, as for Accelerate.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return f"{device.type} on {_cpu_name()}"
    return f"{_cpu_name()}, {torch.get_num_threads()} of {os.cpu_count()} CPU threads"


def _cpu_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        lines = text.splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def commit() -> str | None:
    """Return the commit of this package's source, with a + if files differ from it.

    It is None if the package lies outside its own repository.
    """
    here = Path(__file__).resolve()
    git = ["git", "-C", str(here.parent)]
    try:
        project = (here.parents[1] / "pyproject.toml").read_text(encoding="utf-8")
        tracked = _answer([*git, "ls-files", "--full-name", "--error-unmatch", here.name])
        name = _answer([*git, "rev-parse", "--short=12", "HEAD"])
        dirty = _answer([*git, "status", "--porcelain"])
    except (OSError, ValueError, subprocess.CalledProcessError):
        return None
    if 'name = "gss-lite"' not in project or tracked != f"{here.parent.name}/{here.name}":
        return None
    return name + ("+" if dirty else "")


def _answer(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def version() -> str:
    """Return the version of the installed package; "unknown" if it is not installed."""
    try:
        return importlib.metadata.version("gss-lite")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


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
    """Make the fields of every run record: the run, its hardware, its duration and its result.

    Args:
        kind: "train STAGE", "evaluate SPLIT …" or the name of an experiment.
        device: see `hardware`.
    """
    return {
        "kind": kind,
        "preset": preset,
        "seed": seed,
        "steps": steps,
        "seconds": round(seconds, 1),
        "hardware": hardware(device),
        "command": command,
        "commit": commit(),
        "version": version(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "metrics": metrics,
    }
