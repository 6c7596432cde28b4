"""Cells in which a student fills in one line: the empty line fails, the folded answer passes."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import matplotlib.pyplot as plt
import nbformat
import pytest
import torch
from slices import control_slice

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
LESSONS = sorted(FOLDER.glob("[0-9][0-9]_*.ipynb"))
EMPTY = re.compile(r"^( *)(.*\.\.\.)  # ← fill in$", re.MULTILINE)
ANSWER = re.compile(r"<details>.*?```python\n(.*?)\n```.*?</details>", re.DOTALL)


class FillIn(NamedTuple):
    """A cell with an empty line, the number of the cell among the code cells, and the answer."""

    lesson: Path
    number: int
    answer: str


def fill_ins(lesson: Path) -> list[FillIn]:
    """Find the cells tagged "fill-in" and the answers in the text cells below them."""
    cells = nbformat.read(lesson, as_version=4).cells
    found = []
    number = -1
    for cell, below in zip(cells, [*cells[1:], None]):
        number += cell.cell_type == "code"
        if "fill-in" not in cell.metadata.get("tags", ()):
            continue
        assert "raises-exception" in cell.metadata.tags, "Run All would end at the empty line"
        assert len(EMPTY.findall(cell.source)) == 1, "one line to fill in"
        answers = ANSWER.findall(below.source)
        assert len(answers) == 1 and "\n" not in answers[0], "one folded answer of one line"
        found.append(FillIn(lesson, number, answers[0].strip()))
    return found


def statements_for(fill_in: FillIn, line: str | None) -> str:
    """Return what a kernel would run for the cell, with the empty line replaced by `line`."""
    cells = nbformat.read(fill_in.lesson, as_version=4).cells
    sources = [cell.source for cell in cells if cell.cell_type == "code"]
    if line is not None:
        empty = EMPTY.search(sources[fill_in.number])
        before, after = sources[fill_in.number].split(empty.group(0))
        sources[fill_in.number] = before + empty.group(1) + line + after
    return "\n".join(control_slice(sources, {fill_in.number}))


def run(code: str) -> None:
    """Run the statements of a notebook in this process."""
    no_magic = SimpleNamespace(run_line_magic=lambda *arguments: None)
    exec(code, {"get_ipython": lambda: no_magic, "__name__": "__main__"})


@pytest.fixture
def in_notebooks(monkeypatch):
    """Run in the notebooks' folder, and undo afterwards what their cells set for the process."""
    monkeypatch.chdir(FOLDER)
    dtype = torch.get_default_dtype()
    grad = torch.is_grad_enabled()
    with plt.rc_context():
        yield
    plt.close("all")
    torch.set_default_dtype(dtype)
    torch.set_grad_enabled(grad)


ALL = [fill_in for lesson in LESSONS for fill_in in fill_ins(lesson)]
NAMES = [f"{fill_in.lesson.stem}-{fill_in.number}" for fill_in in ALL]


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)
def test_every_lesson_has_two(lesson):
    assert len(fill_ins(lesson)) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("fill_in", ALL, ids=NAMES)
def test_the_empty_line_fails_with_a_message_and_the_answer_passes(fill_in, in_notebooks):
    with pytest.raises(AssertionError, match=r"\w+"):
        run(statements_for(fill_in, None))
    run(statements_for(fill_in, fill_in.answer))
