"""Submissions of students, made from reference and release, and the command that grades them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
from course_mistakes import MISTAKES
from course_solutions import OTHER
from nbformat import NotebookNode

from notebooks.assignments.course import HERE, ROOT
from notebooks.assignments.grading import cell_name

HARMED = "part-2"  # the part that is broken in `harmful`
# What stands first in the function of this part.
HARM = {
    "crash": "import ctypes\n    ctypes.string_at(0)",
    "memory": "hog = [0]\n    while True:\n        hog.extend(hog)",
    "ends": "import os\n    os._exit(0)",
}
MORE_HARM = {  # tried in the first assignment only, because the machinery is the same for all
    "endless": "while True:\n        pass",
    "tensor": "torch.ones(10**13)",
    "exits": "raise SystemExit(0)",
    "steals": "from pathlib import Path\n    Path(SOURCE).read_text()",
    "calls": "import socket\n    socket.create_connection(('127.0.0.1', 9))",
}


def reference(name: str) -> NotebookNode:
    return nbformat.read(HERE / "source" / name / f"{name}.ipynb", as_version=4)


def cells(notebook: NotebookNode, name: str) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell_name(cell) == name]


def with_source(name: str, part: str, source: str) -> NotebookNode:
    notebook = reference(name)
    cells(notebook, part)[0].source = source
    return notebook


def with_mistake(name: str, number: int) -> NotebookNode:
    part, right, wrong, _ = MISTAKES[name][number]
    source = cells(reference(name), part)[0].source
    assert source.count(right) == 1, f"{name}, {part}: the reference no longer has {right}"
    if name == "ps1" and "old" in wrong:
        source = source.replace("bounds = []", "bounds = []\n    old = q_left")
    return with_source(name, part, source.replace(right, wrong))


def with_first_line(name: str, line: str) -> NotebookNode:
    """Return the reference with a line at the beginning of the function of part 2."""
    source = cells(reference(name), HARMED)[0].source
    mark = "    ### BEGIN SOLUTION\n"
    return with_source(name, HARMED, source.replace(mark, f"{mark}    {line}\n"))


def other_solution(name: str) -> NotebookNode:
    notebook = reference(name)
    for part, source in OTHER[name].items():
        cells(notebook, part)[0].source = source.strip()
    return notebook


def without_cell(name: str) -> NotebookNode:
    notebook = reference(name)
    notebook.cells = [cell for cell in notebook.cells if cell_name(cell) != HARMED]
    return notebook


def with_edited_tests(name: str, stub: NotebookNode) -> NotebookNode:
    """Return a notebook without part 2, whose tests and checks pass all the same."""
    notebook = reference(name)
    for cell in notebook.cells:
        mark = cell.metadata.get("nbgrader", {})
        if mark.get("grade") and cell.cell_type == "code":
            cell.source = "pass"
            mark["points"] = 100
    tamper = "\nimport checks\nchecks.close = checks.equal = lambda *a, **k: None\n"
    cells(notebook, "setup")[0].source += tamper
    cells(notebook, HARMED)[0].source = cells(stub, HARMED)[0].source + tamper
    return notebook


def moved_to_other_cells(name: str) -> NotebookNode:
    """Return the reference after an editor that loses the cells' metadata, with a helper cell."""
    notebook = reference(name)
    for cell in notebook.cells:
        cell.metadata = {}
    notebook.cells.insert(0, nbformat.v4.new_code_cell("%matplotlib inline\n1 / 0"))
    return notebook


def with_odd_contents(name: str) -> NotebookNode:
    """Return the reference with metadata and letters that nobody expects."""
    notebook = reference(name)
    notebook.cells[0].metadata = {"nbgrader": None}
    notebook.cells[0].source = "\ud800"
    notebook.cells[-1].source = "\ud800 <script>alert(1)</script>"
    error = nbformat.v4.new_code_cell("raise ValueError('\\ud800' * 10**6)")
    notebook.cells.insert(2, error)
    return notebook


def write(notebook: NotebookNode, folder: Path, student: str, name: str) -> None:
    path = folder / student / f"{name}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(notebook), encoding="utf-8")


def harmful(name: str, stub: NotebookNode) -> dict[str, NotebookNode]:
    """Student → notebook in which part 2 does harm; all else is right."""
    source = str(HERE / "source" / name / f"{name}.ipynb")
    harm = HARM | MORE_HARM if name == "ps1" else HARM
    found = {
        student: with_first_line(name, line.replace("SOURCE", repr(source)))
        for student, line in harm.items()
    }
    found["deleted"] = without_cell(name)
    found["edited"] = with_edited_tests(name, stub)
    if name == "ps1":
        unsolved = cells(stub, HARMED)[0].source
        found["endless-cell"] = with_source(name, HARMED, f"{unsolved}\n\n\nwhile True:\n    pass")
    return found


def grade(submissions: Path, out: Path, *options: str) -> None:
    """Run the command as `make grade` does, with limits that a test can wait for."""
    command = [sys.executable, "-m", "notebooks.assignments.course", "grade", str(submissions)]
    command += ["--out", str(out), "--cpu-seconds", "2", "--memory-mb", "256", *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
