"""Read an assignment and a submission, and grade one against the other, part by part.

A part passes if it passes in the student's notebook as it stands, or alone, with the reference
solution of every other part. So a mistake costs points where it was made and nowhere else.
"""

from __future__ import annotations

import ast
import random
import re
import shutil
import sys
import tempfile
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
import numpy as np
import torch
from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode

from notebooks.assignments.sandbox import Limits, Report, more_memory, run_isolated

SOURCE = Path(__file__).resolve().parent / "source"
SETUP = "setup"
NOT_SOLVED = "This part has not been solved yet."
ENDED = "Python ended before the test had run. Does your code call exit()?"
NO_ANSWER = "YOUR ANSWER HERE"  # nbgrader writes it into the release
LONGEST = 600  # letters of a message
OUT_OF_MEMORY = re.compile(r"can't allocate memory|not enough memory|[Uu]nable to allocate")
CHECKS = compile((SOURCE / "checks.py").read_text(encoding="utf-8"), "checks.py", "exec")
TITLE = re.compile(r"^## (.+?)(?: \(\d+ points?\))?$", re.MULTILINE)


@dataclass(frozen=True)
class TestCell:
    """A cell of tests and the points that it is worth."""

    name: str
    points: int
    source: str


@dataclass
class Part:
    """One task: the cell that a student fills in, our solution of it, and its tests."""

    name: str
    title: str
    solution: str
    tests: list[TestCell] = field(default_factory=list)

    @property
    def points(self) -> int:
        return sum(test.points for test in self.tests)


@dataclass
class Assignment:
    """What the source of an assignment says.

    Attributes:
        name: as "ps1".
        setup: the code before the first part, which every test finds in place.
        parts: the parts with automatic tests.
        written: cell id → points of the answers that a person marks.
    """

    name: str
    setup: str
    parts: list[Part]
    written: dict[str, int]

    @property
    def points(self) -> int:
        return sum(part.points for part in self.parts)


@dataclass(frozen=True)
class Result:
    """What one cell of tests found in one submission: points, and a message if they are none."""

    part: str
    test: str
    points: int
    earned: int
    message: str


def cell_name(cell: NotebookNode) -> str:
    """Return the id that nbgrader gave to a cell, or nothing."""
    mark = cell.metadata.get("nbgrader")
    return str(mark.get("grade_id", "")) if isinstance(mark, dict) else ""


def read_assignment(name: str) -> Assignment:
    """Read notebooks/assignments/source/NAME/NAME.ipynb."""
    notebook = nbformat.read(SOURCE / name / f"{name}.ipynb", as_version=4)
    found = Assignment(name, "", [], {})
    title = ""
    for cell in notebook.cells:
        mark = cell.metadata.get("nbgrader", {})
        if cell.cell_type == "markdown":
            title = ([title] + TITLE.findall(cell.source))[-1]
            if mark.get("grade"):
                found.written[mark.grade_id] = mark.points
        elif cell_name(cell) == SETUP:
            found.setup = cell.source
        elif mark.get("solution"):
            found.parts.append(Part(mark.grade_id, title, cell.source))
        elif mark.get("grade"):
            test = TestCell(mark.grade_id, mark.points, cell.source)
            found.parts[-1].tests.append(test)
    return found


# Running a part ---------------------------------------------------------------------------------


def plain(source: str) -> str:
    """Turn the magics of a notebook cell into Python."""
    return TransformerManager().transform_cell(source)


def give_setup(assignment: Assignment, names: dict) -> None:
    """Run the setup cell, with checks that no student's code has touched."""
    checks = types.ModuleType("checks")
    exec(CHECKS, checks.__dict__)
    sys.modules["checks"] = checks
    exec(compile(plain(assignment.setup), "setup", "exec"), names)


def fresh_kernel(assignment: Assignment) -> dict:
    """Return the names that a kernel has after the setup cell. Magics do nothing."""

    def ignore(*arguments, **options):
        """Stand for a magic or a shell command."""

    shell = types.SimpleNamespace(run_line_magic=ignore, run_cell_magic=ignore, system=ignore)
    names = {"__name__": "__main__", "get_ipython": lambda: shell, "display": ignore}
    give_setup(assignment, names)
    return names


def seed_all() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def definitions(source: str) -> Iterator[ast.Module]:
    """Yield the imports, functions, classes and plain constants of a cell, each as a module."""
    try:
        statements = ast.parse(plain(source)).body
    except (SyntaxError, ValueError):
        return
    for statement in statements:
        kept = isinstance(
            statement, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
        ) or (isinstance(statement, ast.Assign) and is_constant(statement.value))
        if kept:
            yield ast.Module([statement], type_ignores=[])


def is_constant(value: ast.expr) -> bool:
    try:
        ast.literal_eval(value)
    except (ValueError, TypeError):
        return False
    return True


def code_cells(assignment: Assignment, notebook: NotebookNode) -> list[tuple[str, str]]:
    """Return name and source of every code cell of a student, without setup and tests."""
    ours = {SETUP} | {test.name for part in assignment.parts for test in part.tests}
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [(cell_name(cell), cell.source) for cell in cells if cell_name(cell) not in ours]


def prepare(assignment: Assignment, part: Part, cells, alone: bool) -> tuple[dict, str]:
    """Run what stands before the tests of a part.

    Args:
        assignment, part: what is graded.
        cells: the student's cells by `code_cells`.
        alone: whether the other parts are replaced by the reference solutions.

    Returns:
        The names that the tests see, and an error of the student's cell in words.
    """
    names = fresh_kernel(assignment)
    seed_all()
    places = [number for number, (name, _) in enumerate(cells) if name == part.name]
    if alone:
        for _, source in cells:
            for module in definitions(source):
                attempt(module, "another cell", names)
        for other in assignment.parts:
            if other is not part:
                exec(compile(plain(other.solution), other.name, "exec"), names)
        chosen = [cells[number] for number in places]
    else:
        chosen = cells[: places[-1] + 1] if places else cells
    error = ""
    for name, source in chosen:
        found = attempt(source, "your cell" if name == part.name else "another cell", names)
        if name == part.name:
            error = found
    if not places:
        error = f"The cell of this part ({part.name}) is missing, and no other cell solves it."
    return names, error


def attempt(code: str | ast.Module, where: str, names: dict) -> str:
    """Run a cell; return its error in words, or nothing."""
    try:
        exec(compile(plain(code) if isinstance(code, str) else code, where, "exec"), names)
    except BaseException as error:  # exit() and a Ctrl-C too
        return in_words(error)[:LONGEST]
    return ""


def in_words(error: BaseException) -> str:
    """Describe an error for a student."""
    if isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error)):
        more_memory()
        return "Your code asks for too much memory. Which array is larger than it must be?"
    if isinstance(error, AssertionError) and str(error):
        return str(error)
    if isinstance(error, NotImplementedError):
        return NOT_SOLVED
    if isinstance(error, SystemExit):
        return "Your code calls exit(), which ends Python."
    line = ""
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "your cell":
            line = f" in line {trace.tb_lineno} of your cell"
        trace = trace.tb_next
    if isinstance(error, SyntaxError):
        return f"Python cannot read line {error.lineno} of your cell: {error.msg}."
    return f"{type(error).__name__}{line}: {error}"


def run_part(assignment: Assignment, part: Part, cells, alone: bool, report: Report) -> None:
    """Run the student's code and the tests of one part, and report every test."""
    names, broken = prepare(assignment, part, cells, alone)
    report({"ready": True})
    for test in part.tests:
        seed_all()
        give_setup(assignment, names)
        message = attempt(test.source, "test", dict(names))  # each cell of tests stands alone
        report({"test": test.name, "message": message and (broken or message)})


def grade_part(
    assignment: Assignment, part: Part, cells, ways: list[bool], limits: Limits, folder: Path
) -> list[Result]:
    """Run a part as it stands in the notebook, and again alone if it fails.

    `ways` holds False for the whole notebook and True for alone. The whole notebook is taken out
    of it if the cells themselves end Python, because they would do so for every later part too.
    """
    passed: set[str] = set()
    messages: dict[str, str] = {}
    for alone in list(ways):
        reports, ended = run_isolated(
            lambda report, alone=alone: run_part(assignment, part, cells, alone, report),
            limits,
            folder,
            SOURCE,
        )
        if not reports and not alone:
            ways.remove(alone)
        found = {each["test"]: each["message"] for each in reports if "test" in each}
        passed |= {test for test, message in found.items() if not message}
        # The second messages replace the first: alone, a part is blamed for its own mistakes only.
        messages = {test.name: found.get(test.name, ended or ENDED) for test in part.tests}
        if len(passed) == len(part.tests):
            break
    return [
        Result(part.name, test.name, test.points, test.points, "")
        if test.name in passed
        else Result(part.name, test.name, test.points, 0, messages[test.name])
        for test in part.tests
    ]


# A whole submission ------------------------------------------------------------------------------


def written_answers(assignment: Assignment, notebook: NotebookNode) -> dict[str, str]:
    """Return the text of each written answer, empty if nothing was written."""
    found = dict.fromkeys(assignment.written, "")
    for cell in notebook.cells:
        if cell_name(cell) in found and cell.source.strip() != NO_ANSWER:
            found[cell_name(cell)] += cell.source
    return found


def grade_notebook(
    assignment: Assignment, path: Path | None, limits: Limits
) -> tuple[list[Result], dict[str, str]]:
    """Grade one notebook.

    Args:
        assignment: what to grade it against.
        path: the file, or None if none was handed in.
        limits: for each part.

    Returns:
        One result for each cell of tests, and the text of each written answer.
    """
    problem = "No notebook was handed in."
    notebook = None
    if path is not None:
        try:
            notebook = nbformat.read(path, as_version=4)
            cells = code_cells(assignment, notebook)
            answers = written_answers(assignment, notebook)
        except Exception as error:  # any file may come
            problem = f"The file {path.name} is no notebook: {type(error).__name__}."
            notebook = None
    if notebook is None:
        return [
            Result(part.name, test.name, test.points, 0, problem)
            for part in assignment.parts
            for test in part.tests
        ], dict.fromkeys(assignment.written, "")
    results: list[Result] = []
    ways = [False, True]
    for part in assignment.parts:
        with tempfile.TemporaryDirectory() as folder:
            for file in (SOURCE / assignment.name).iterdir():
                if file.suffix != ".ipynb" and file.is_file():
                    shutil.copy(file, folder)
            results += grade_part(assignment, part, cells, ways, limits, Path(folder))
    return results, answers
