"""Imports go one way, and in no circle: who may know whom, read from the sources themselves."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import gss_lite

PACKAGE = Path(gss_lite.__file__).parent
# A module knows what stands in the rows above its own, and nothing in its row but the same folder.
ROWS = [
    ("contracts",),
    ("color_table", "records", "storage", "distributed", "presets", "metrics"),
    ("palette", "inverse", "inverse_fitted", "vqvae", "dalle", "prior", "token_loss", "data"),
    ("released_backbones", "dalle_names"),
    ("backbones", "imported"),
    ("views",),
    ("gss",),
    ("inference", "baselines"),
    ("factory", "evaluation"),
    ("export", "predict", "training", "official"),
    ("cli",),
    ("__main__",),
]
ROW = {name: number for number, row in enumerate(ROWS) for name in row}
ALONE = {"elbo"}  # it knows nothing of the package
SIDE_BY_SIDE = {("inverse_fitted", "inverse"), ("inverse_fitted", "prior")}
NOTEBOOKS_ONLY = (
    "plotting",
    "plotting_maps",
    "plotting_palettes",
    "plotting_tokens",
    "tables",
    "widgets",
)
FACE = "__init__"  # it gathers what there is


def modules() -> dict[str, Path]:
    """A module's dotted name in the package → its file."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)
        found[name] = path
    return found


MODULES = modules()


def imports(name: str) -> set[str]:
    """Every module that a file imports, also inside functions, by its full name."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name} imports relatively; name the module in full"
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def ours(name: str) -> set[str]:
    """The modules of the package that a file imports."""
    found = set()
    for module in imports(name):
        inner = module.removeprefix("gss_lite.")
        if module != inner and inner in MODULES:
            found.add(inner)
    return found


def room(name: str) -> str:
    return name.split(".")[0]


def may_know(name: str, other: str) -> bool:
    mine, theirs = room(name), room(other)
    if mine == theirs or (mine, theirs) in SIDE_BY_SIDE:
        return True
    return mine in ROW and theirs in ROW and ROW[theirs] < ROW[mine]


@pytest.mark.parametrize("name", [name for name in MODULES if name != FACE])
def test_a_module_knows_only_what_stands_above_it(name):
    if room(name) in NOTEBOOKS_ONLY:
        return
    assert room(name) in ROW or name in ALONE, f"give {name} its row"
    wrong = [other for other in sorted(ours(name)) if not may_know(name, other)]
    assert not wrong


@pytest.mark.parametrize("name", MODULES)
def test_what_serves_notebooks_is_imported_by_no_module(name):
    """Only the face names plotting, and only when a figure is asked for."""
    others = {"notebooks", "data_scripts", "tests"}
    assert not others & {module.split(".")[0] for module in imports(name)}
    if room(name) in NOTEBOOKS_ONLY:
        return
    drawn = {other for other in ours(name) if room(other) in NOTEBOOKS_ONLY}
    if name == FACE:
        top = ast.parse(MODULES[name].read_text(encoding="utf-8")).body
        direct = [node for node in top if isinstance(node, (ast.Import, ast.ImportFrom))]
        assert not any("plotting" in ast.unparse(node) for node in direct)
    else:
        assert not drawn


def test_there_is_no_circle():
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " → ".join((*path, name))
        if name in done:
            return
        for other in ours(name):
            # A folder's __init__ stands for the folder; its files import each other by their names.
            if other != name and not name.startswith(f"{other}."):
                visit(other, (*path, name))
        done.add(name)

    for name in MODULES:
        if name != FACE:
            visit(name, ())


def test_the_face_names_what_is_there():
    assert list(gss_lite.__all__) == sorted(set(gss_lite.__all__), key=gss_lite.__all__.index)
    for name in gss_lite.__all__:
        if name not in ("show", "plot_log"):
            assert getattr(gss_lite, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = gss_lite.nonsense
