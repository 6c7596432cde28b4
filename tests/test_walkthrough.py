"""notebooks/walkthrough.py: what it chooses, what its kernels inherit, and consoles of any kind."""

from __future__ import annotations

import html
import io
import os
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from notebooks import walkthrough
from notebooks.walkthrough import KERNEL

INDEX = """# All

| lesson | |
|---|---|
| [First](00_first.ipynb) | [solutions](solutions/00_first_solutions.ipynb) |
| [Second](01_second.ipynb) | |

| other | |
|---|---|
| none | |
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A small course: two lessons, a solution, a reproduction, controls and an index."""
    monkeypatch.setattr(walkthrough, "HERE", tmp_path / "notebooks")
    monkeypatch.setattr(walkthrough, "PAGES", tmp_path / "build" / "walkthrough")
    cells = {
        "00_first": f"import os\nprint({{name: os.environ[name] for name in {list(KERNEL)}}})",
        "01_second": "raise ValueError('Σ β')",
        "solutions/00_first_solutions": "1",
        "reproductions/table": "2",
        "controls": "3",
    }
    for name, source in cells.items():
        path = tmp_path / "notebooks" / f"{name}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(new_notebook(cells=[new_code_cell(source)]), path)
    (tmp_path / "notebooks" / "README.md").write_text(INDEX, encoding="utf-8")
    return tmp_path


def run(monkeypatch, *arguments: str) -> tuple[int, str]:
    """Run the command on a console that knows ASCII alone; its exit status and what it printed."""
    console = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "argv", ["walkthrough.py", *arguments])
    monkeypatch.setattr(sys, "stdout", console)
    monkeypatch.setattr(sys, "stderr", console)
    status = walkthrough.main()
    console.flush()
    return status, console.buffer.getvalue().decode()


def test_without_a_pattern_the_lessons_are_run(folder):
    names = [path.stem for path in walkthrough.find(None, in_place=False)]
    assert names == ["00_first", "01_second"]


def test_a_pattern_and_in_place_reach_solutions_and_reproductions(folder):
    names = [path.stem for path in walkthrough.find("00*", in_place=False)]
    assert names == ["00_first", "00_first_solutions"]
    names = [path.stem for path in walkthrough.find("table", in_place=True)]
    assert names == ["table"]
    assert len(walkthrough.find(None, in_place=True)) == 5


@pytest.mark.slow
def test_the_empty_line_of_a_student_is_saved_and_another_error_is_not(folder):
    path = folder / "notebooks" / "00_first.ipynb"
    empty = new_code_cell("assert False, 'fill in'")
    empty.metadata.tags = ["fill-in", "raises-exception"]
    nbformat.write(new_notebook(cells=[empty, new_code_cell("1")]), path)
    run = walkthrough.execute(path)
    walkthrough.save_in_place(run)
    assert run.status == "ok"
    first, second = nbformat.read(path, as_version=4).cells
    assert first.outputs[0].evalue == "fill in" and second.outputs[0].data["text/plain"] == "1"

    nbformat.write(new_notebook(cells=[new_code_cell("1 / 0")]), path)
    before = path.read_text(encoding="utf-8")
    run = walkthrough.execute(path)
    walkthrough.save_in_place(run)
    assert run.status == "failed" and path.read_text(encoding="utf-8") == before


def test_a_console_that_cannot_show_a_character_shows_its_number(folder, monkeypatch):
    status, printed = run(monkeypatch, "--only", "Σ*")
    assert status == 1 and r"matches '\u03a3*'" in printed


@pytest.mark.slow
def test_every_notebook_leaves_a_page_and_a_line(folder, monkeypatch):
    outside = {name: value for name, value in os.environ.items() if name not in KERNEL}
    monkeypatch.setattr(os, "environ", outside)
    status, printed = run(monkeypatch)
    assert status == 1 and r"ValueError: \u03a3 \u03b2" in printed
    pages = folder / "build" / "walkthrough"
    page = html.unescape((pages / "00_first.html").read_text(encoding="utf-8"))
    assert str(KERNEL) in page
    index = (pages / "index.html").read_text(encoding="utf-8")
    assert ">ok<" in index and ">failed<" in index
    assert (pages / "solutions" / "00_first_solutions.html").exists()
    assert (pages / "reproductions" / "table.html").exists()
