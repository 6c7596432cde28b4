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


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with two notebooks and a solution, in place of the course."""
    monkeypatch.setattr(walkthrough, "HERE", tmp_path / "notebooks")
    monkeypatch.setattr(walkthrough, "PAGES", tmp_path / "build" / "walkthrough")
    cells = {
        "00_first": f"import os\nprint({{name: os.environ[name] for name in {list(KERNEL)}}})",
        "01_second": "raise ValueError('Σ β')",
        "solutions/00_first_solutions": "1",
    }
    (tmp_path / "notebooks" / "solutions").mkdir(parents=True)
    for name, source in cells.items():
        notebook = new_notebook(cells=[new_code_cell(source)])
        nbformat.write(notebook, tmp_path / "notebooks" / f"{name}.ipynb")
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


def test_solutions_are_run_in_place_only(folder):
    names = [path.stem for path in walkthrough.find("*", in_place=False)]
    assert names == ["00_first", "01_second"]
    names = [path.stem for path in walkthrough.find("00*", in_place=True)]
    assert names == ["00_first", "00_first_solutions"]


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
    assert index.count("<tr>") == 2 and ">failed<" in index
