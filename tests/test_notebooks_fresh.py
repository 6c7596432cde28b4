"""Every notebook is the output of one clean Restart-and-Run-All, small, readable anywhere."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted(
    path
    for path in (ROOT / "notebooks").rglob("*.ipynb")
    if not {"assignments", ".ipynb_checkpoints"} & set(path.relative_to(ROOT).parts)
)
MACHINE_PATH = re.compile(
    r"(?<![\w.:/-])(?:/(?:home|root|Users|tmp|opt|mnt|work|usr|var|private)/|[A-Za-z]:\\+Users)"
)
LINK = re.compile(r"""\]\(\s*<?([^)\s>]+)|(?:src|href)\s*=\s*["']([^"']+)""")
# as RESULT_HERE, where a figure was to be written in
PLACEHOLDER = re.compile(r"\b[A-Z]{2,}_[A-Z]{2,}\b|PLACEHOLDER")
# code and formulas
NOT_PROSE = re.compile(r"```.*?```|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]*\$", re.DOTALL)


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook: NotebookNode) -> list[NotebookNode]:
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def output_text(output: NotebookNode) -> str:
    """All text of an output; pictures, which are base64, left out."""
    texts = [output.get("text", ""), *output.get("traceback", ())]
    for kind, data in output.get("data", {}).items():
        if not kind.startswith("image/"):
            texts.append(data if isinstance(data, str) else json.dumps(data))
    return "\n".join(texts)


def prose(notebook: NotebookNode) -> str:
    """The text cells without their code and formulas."""
    return "\n".join(
        NOT_PROSE.sub("", cell.source) for cell in notebook.cells if cell.cell_type == "markdown"
    )


def local_links(notebook: NotebookNode) -> list[str]:
    """Targets of the links and pictures in text cells that are files of the repository."""
    targets = [urlsplit(markdown or html) for markdown, html in LINK.findall(prose(notebook))]
    return [
        unquote(target.path)
        for target in targets
        if not target.scheme and not target.netloc and target.path
    ]


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture
def notebook(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def test_valid_nbformat(path: Path) -> None:
    # Read as plain JSON: nbformat.read would repair some faults before the check.
    content = json.loads(path.read_text(encoding="utf-8"))
    nbformat.validate(content)
    assert (content["nbformat"], content["nbformat_minor"]) >= (4, 5), (
        "cell ids came with nbformat 4.5"
    )
    assert content["metadata"]["kernelspec"]["name"] == "python3"


def test_outputs_of_one_clean_run(notebook: NotebookNode) -> None:
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1)), "run `make notebooks`"
    assert [o.evalue for o in outputs(notebook) if o.output_type == "error"] == []
    assert [o.text for o in outputs(notebook) if o.get("name") == "stderr"] == []


def test_no_widget_state(notebook: NotebookNode) -> None:
    assert "widgets" not in notebook.metadata, (
        "GitHub shows 'Invalid Notebook'; run `make notebooks`"
    )


def statements(source: str) -> int:
    """How many statements a cell has, nested ones and heads of loops included."""
    plain = re.sub(r"^[%!].*$", "pass", source, flags=re.MULTILINE)
    return sum(isinstance(node, ast.stmt) for node in ast.walk(ast.parse(plain)))


def test_small(path: Path, notebook: NotebookNode) -> None:
    assert path.stat().st_size < 2_000_000
    assert len(notebook.cells) < 65
    # The formatter gives a call of many arguments many lines, so statements are counted.
    assert {
        cell.id: count for cell in code_cells(notebook) if (count := statements(cell.source)) > 25
    } == {}, "cells of more than 25 statements"


def test_no_line_is_wider_than_a_page(notebook: NotebookNode) -> None:
    printed = [output.text for output in outputs(notebook) if output.output_type == "stream"]
    texts = [cell.source for cell in code_cells(notebook)] + printed
    assert [line for text in texts for line in text.splitlines() if len(line) > 100] == []


def test_some_output_is_compared(notebook: NotebookNode) -> None:
    assert any(
        "nbval-check-output" in cell.metadata.get("tags", ()) and cell.outputs
        for cell in code_cells(notebook)
    )


def test_no_path_of_a_machine(notebook: NotebookNode) -> None:
    texts = [cell.source for cell in notebook.cells] + [
        output_text(output) for output in outputs(notebook)
    ]
    assert [line for text in texts for line in text.splitlines() if MACHINE_PATH.search(line)] == []


def test_no_placeholder_left(notebook: NotebookNode) -> None:
    assert PLACEHOLDER.findall(prose(notebook)) == []


def test_local_links_resolve(path: Path, notebook: NotebookNode) -> None:
    assert [link for link in local_links(notebook) if not (path.parent / link).exists()] == []
