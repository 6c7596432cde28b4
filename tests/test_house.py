"""Imports go one way: a module knows what stands before it, and nothing that stands after it."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "gss_lite"
# A room's place; rooms of one place do not know each other, but for those of one folder.
PLACES = (
    ("contracts",),
    ("color_table", "storage", "distributed", "presets", "metrics", "tables"),
    ("token_loss", "palette", "vqvae", "prior", "data"),
    ("inverse", "dalle", "views"),
    ("inverse_fitted", "gss"),
    ("inference", "baselines"),
    ("factory", "evaluation"),
    ("training", "export", "predict"),
    ("cli",),
    ("__main__",),
)
ALONE = ("elbo", "official")  # they know no other room, and are known by none
FIGURES = ("plotting", "plotting_palettes")  # they serve notebooks
RANK = {room: rank for rank, rooms in enumerate(PLACES) for room in rooms}


def imports() -> list[tuple[str, str]]:
    """(module, module that it imports at its top), both below gss_lite."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom) and node.module:
                targets = [node.module]
            elif isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            else:
                continue
            found += [(module, target) for target in targets]
    return found


def room(module: str) -> str:
    return module.split(".")[0]


def test_no_arrow_runs_back_up() -> None:
    wrong = []
    for module, target in imports():
        if not target.startswith("gss_lite.") or module == "__init__":
            continue
        here = room(module)
        there = room(target.removeprefix("gss_lite."))
        if here != there and here not in FIGURES and not RANK[there] < RANK[here]:
            wrong.append(f"{module} imports {there}")
    assert wrong == []


def test_figures_and_lone_rooms_are_imported_by_no_other() -> None:
    lone = (*ALONE, *FIGURES)
    wrong = [
        f"{module} imports {target}"
        for module, target in imports()
        if room(target.removeprefix("gss_lite.")) in lone and room(module) not in FIGURES
    ]
    assert wrong == []


def test_the_package_knows_neither_notebooks_nor_scripts() -> None:
    outside = ("notebooks", "data_scripts", "tests")
    assert [pair for pair in imports() if room(pair[1]) in outside] == []


def test_every_room_has_a_place() -> None:
    rooms = {room(module) for module, _ in imports()} - {"__init__"}
    assert rooms - {*RANK, *ALONE, *FIGURES} == set()
