"""pyproject.toml, requirements.lock, environment.yml and the running environment say the same."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK_TEXT = (ROOT / "requirements.lock").read_text()
LOCK = [
    Requirement(line)
    for line in LOCK_TEXT.splitlines()
    if line and not line.lstrip().startswith("#")
]
# The lock serves these three; a package may be pinned for some of them only.
SYSTEMS = [
    {
        "sys_platform": "linux",
        "platform_system": "Linux",
        "os_name": "posix",
        "platform_machine": "x86_64",
    },
    {
        "sys_platform": "darwin",
        "platform_system": "Darwin",
        "os_name": "posix",
        "platform_machine": "arm64",
    },
    {
        "sys_platform": "win32",
        "platform_system": "Windows",
        "os_name": "nt",
        "platform_machine": "AMD64",
    },
]
LOCKED = ("notebooks", "test", "pretrained", "course")  # the extras that the lock covers
PYTHONS = ["3.11", "3.12", "3.13"]


def pins(environment: dict[str, str] | None = None) -> dict[str, str]:
    """Package → exact version by the lock, in `environment` or by default in the running one."""
    chosen = [line for line in LOCK if line.marker is None or line.marker.evaluate(environment)]
    versions = {
        canonicalize_name(line.name): str(line.specifier).removeprefix("==") for line in chosen
    }
    assert len(versions) == len(chosen), "the lock pins a package twice for one environment"
    return versions


def asked() -> list[Requirement]:
    """What pyproject.toml asks for in the core and in the extras that the lock covers."""
    extras = PROJECT["optional-dependencies"]
    return [
        Requirement(text)
        for text in (*PROJECT["dependencies"], *(t for name in LOCKED for t in extras[name]))
    ]


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system["sys_platform"])
def test_lock_pins_every_dependency_within_its_range(system: dict[str, str], python: str) -> None:
    locked = pins({**system, "python_version": python, "python_full_version": f"{python}.9"})
    for requirement in asked():
        name = canonicalize_name(requirement.name)
        assert name in locked, (
            f"{name} is in pyproject.toml and not in requirements.lock: run `make lock`"
        )
        assert requirement.specifier.contains(locked[name]), (
            f"{requirement} excludes the locked {locked[name]}: run `make lock`"
        )


def test_every_lock_line_is_one_exact_version() -> None:
    assert [
        str(line) for line in LOCK if not re.fullmatch(r"==[0-9][^,*]*", str(line.specifier))
    ] == []


def test_lock_names_no_index_and_no_path() -> None:
    assert re.findall(r"https?:|file:|--index|--find-links|(?:^|\s)/\w+|@ ", LOCK_TEXT) == []


def test_cuda_packages_are_for_linux_only() -> None:
    for system in SYSTEMS[1:]:
        locked = pins({**system, "python_version": "3.11", "python_full_version": "3.11.9"})
        assert [name for name in locked if name.startswith("nvidia-") or name == "triton"] == []


def test_conda_environment_reads_the_lock() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert pip == ["-r requirements.lock", "-e ."]
    assert sorted(entry.split("=")[0] for entry in conda) == ["pip", "python"], (
        "versions belong in the lock"
    )
    (python,) = [entry.split("=")[1] for entry in conda if entry.startswith("python=")]
    assert PROJECT["requires-python"] == f">={python}"


def test_running_environment_is_the_locked_one() -> None:
    different = {}
    for name, locked in pins().items():
        try:
            # "+cpu" and the like name a build of the same version
            installed = version(name).split("+")[0]
        except PackageNotFoundError:
            installed = "not installed"
        if installed != locked:
            different[name] = f"{installed}, locked {locked}"
    assert different == {}, "install the lock: make test, or pip install -r requirements.lock"
