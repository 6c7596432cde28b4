"""Every notebook is the output of one clean Restart-and-Run-All, small, readable anywhere."""

from __future__ import annotations

import ast
import json
import re
import warnings
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from nbformat import NotebookNode

from notebooks.pages import Site, reading_minutes

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted(
    path
    for path in (ROOT / "notebooks").rglob("*.ipynb")
    if not {"assignments", ".ipynb_checkpoints"} & set(path.relative_to(ROOT).parts)
)
LESSONS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
MACHINE_PATH = re.compile(
    r"(?<![\w.:/-])(?:/(?:home|root|Users|tmp|opt|mnt|work|usr|var|private)/|[A-Za-z]:\\+Users)"
)
LINK = re.compile(r"""\]\(\s*<?([^)\s>]+)|(?:src|href)\s*=\s*["']([^"']+)""")
# as RESULT_HERE, where a figure was to be written in
PLACEHOLDER = re.compile(r"\b[A-Z]{2,}_[A-Z]{2,}\b|PLACEHOLDER")
FILL_IN = "fill-in"
# [← 03 · Choosing the colours](03_palettes.ipynb) · [Index](README.md) · …
NAVIGATION = re.compile(r"^\[[^]]+\]\([^)]+\)( · \[[^]]+\]\([^)]+\))*$")
MARKDOWN_IMAGE = re.compile(r"!\[([^]]*)\]\(")
HTML_IMAGE = re.compile(r"<img\b[^>]*>")
# code and formulas
FENCE = re.compile(r"```.*?```", re.DOTALL)
NOT_PROSE = re.compile(r"```.*?```|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]*\$", re.DOTALL)


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def fill_in(cell: NotebookNode) -> bool:
    """Whether a student fills in a line of this cell, so that it fails as it is committed."""
    return FILL_IN in cell.metadata.get("tags", ())


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


@pytest.fixture(params=LESSONS, ids=lambda path: path.stem)
def lesson(request: pytest.FixtureRequest) -> NotebookNode:
    return nbformat.read(request.param, as_version=4)


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
    done = [cell for cell in code_cells(notebook) if not fill_in(cell)]
    errors = [o.evalue for cell in done for o in cell.outputs if o.output_type == "error"]
    assert errors == []
    assert [o.text for o in outputs(notebook) if o.get("name") == "stderr"] == []


def test_an_empty_line_fails_by_its_own_check(notebook: NotebookNode) -> None:
    for cell in filter(fill_in, code_cells(notebook)):
        errors = [output for output in cell.outputs if output.output_type == "error"]
        assert [error.ename for error in errors] == ["AssertionError"]
        assert errors[0].evalue, "the check says what to do"


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


def test_every_picture_is_described(notebook: NotebookNode) -> None:
    for cell in notebook.cells:
        if cell.cell_type == "code":
            drawn = any("image/png" in output.get("data", {}) for output in cell.outputs)
            assert not drawn or cell.metadata.get("alt", "").strip(), (
                f'the cell metadata need "alt", a sentence on the figure of:\n{cell.source[:200]}'
            )
        else:
            assert "" not in [text.strip() for text in MARKDOWN_IMAGE.findall(cell.source)]
            assert all(re.search(r'\balt="[^"]+"', tag) for tag in HTML_IMAGE.findall(cell.source))


def test_every_formula_can_be_drawn_without_a_network(path: Path, notebook: NotebookNode) -> None:
    site = Site(ROOT / "notebooks", ROOT)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                site.markdown(path, cell.source)
    assert [str(warning.message) for warning in caught] == []


# Lessons ------------------------------------------------------------------------------------------


def test_a_lesson_can_be_read_in_one_sitting(lesson: NotebookNode) -> None:
    texts = [cell.source for cell in lesson.cells if cell.cell_type == "markdown"]
    words = len(FENCE.sub("", "\n".join(texts)).split())
    lines = sum(
        bool(line.strip()) for cell in code_cells(lesson) for line in cell.source.splitlines()
    )
    assert (words <= 2500, lines <= 250) == (True, True), f"{words} words, {lines} lines of code"


def test_a_lesson_leads_to_its_neighbours(lesson: NotebookNode) -> None:
    first, last = lesson.cells[0], lesson.cells[-1]
    assert NAVIGATION.match(first.source.splitlines()[0])
    assert last.cell_type == "markdown"
    assert NAVIGATION.match(last.source.strip().splitlines()[-1])


def test_what_is_no_lesson_leads_back(path: Path, notebook: NotebookNode) -> None:
    if path not in LESSONS:
        first = notebook.cells[0].source.splitlines()[0]
        index = "README.md" if path.parent.name == "notebooks" else "../README.md"
        assert NAVIGATION.match(first) and f"]({index})" in first


def test_the_index_says_how_long_the_reading_takes(path: Path, notebook: NotebookNode) -> None:
    if path.parent.name == "solutions":
        return
    minutes = reading_minutes(notebook)
    assert minutes, 'the first cell says "*Reading: N minutes. Running: M seconds.*"'
    link = path.relative_to(ROOT / "notebooks").as_posix()
    index = (ROOT / "notebooks" / "README.md").read_text(encoding="utf-8")
    rows = [line for line in index.splitlines() if re.match(rf"\| \[[^]]+\]\({link}\)", line)]
    assert len(rows) == 1 and f"| {minutes} min |" in rows[0]


def test_the_index_leads_to_every_notebook(path: Path) -> None:
    index = ROOT / "notebooks" / "README.md"
    link = path.relative_to(index.parent).as_posix()
    assert f"]({link})" in index.read_text(encoding="utf-8")
