"""The course kit around the grading: sources, release, finding of files, reports, limits."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from course_submissions import grade, reference, with_mistake, write
from nbgrader.api import Gradebook
from nbgrader.apps import NbGraderAPI
from nbgrader.nbgraderformat import MetadataValidator
from traitlets.config import Config

from notebooks.assignments import report
from notebooks.assignments.course import HERE, assignment_names, find_submissions, main, release
from notebooks.assignments.grading import Result, cell_name, read_assignment
from notebooks.assignments.sandbox import Limits, run_isolated
from notebooks.assignments.source import checks

NAMES = assignment_names()
REGION = re.compile(
    r"### BEGIN (?P<kind>SOLUTION|HIDDEN TESTS)\n(?P<text>.*?)### END \1", re.DOTALL
)
linux = pytest.mark.skipif(sys.platform != "linux", reason="the limits are those of Linux")


@pytest.fixture(scope="module")
def course(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("course") / "release"
    release(folder)
    return folder


@pytest.fixture(params=NAMES)
def name(request) -> str:
    return request.param


# The sources -------------------------------------------------------------------------------------


def test_there_are_four_assignments():
    assert NAMES == ["ps1", "ps2", "ps3", "ps4"]


def test_points_and_parts(name):
    assignment = read_assignment(name)
    assert 20 <= assignment.points + sum(assignment.written.values()) <= 30
    assert 4 <= len(assignment.parts) + len(assignment.written) <= 7
    assert len(assignment.written) == 1 and all(part.tests for part in assignment.parts)


def test_headings_and_introduction_say_the_points(name):
    assignment = read_assignment(name)
    texts = [cell.source for cell in reference(name).cells if cell.cell_type == "markdown"]
    written = sum(assignment.written.values())
    said = f"**{assignment.points + written} points**: {assignment.points} from automatic tests"
    assert said in texts[0] and f"{written} for a written answer" in texts[0]
    for part in assignment.parts:
        heading = f"## {part.title} ({part.points} points)"
        assert sum(heading in text for text in texts) == 1


def test_sources_are_valid_and_have_no_outputs(name):
    notebook = reference(name)
    nbformat.validate(notebook)
    ids = [cell_name(cell) for cell in notebook.cells if cell_name(cell)]
    assert len(ids) == len(set(ids))
    for cell in notebook.cells:
        MetadataValidator().validate_cell(cell)
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None


def test_every_signature_has_shapes(name):
    for part in read_assignment(name).parts:
        head = part.solution.split("### BEGIN")[0]
        assert re.search(r"\((?:[A-Z]|n|sweeps|count)\w*,? ?.*\)", head.split('"""')[1]), head


# The release -------------------------------------------------------------------------------------


def test_the_release_is_complete(course):
    files = {str(path.relative_to(course)) for path in course.rglob("*") if path.is_file()}
    expected = {"README.md", "environment.yml", "requirements.txt"}
    expected |= {f"{name}/{file}" for name in NAMES for file in (f"{name}.ipynb", "checks.py")}
    assert files == expected | {"ps2/street.png", "ps3/street.png"}
    pins = (course / "requirements.txt").read_text().splitlines()
    assert {"torch", "numpy", "matplotlib", "pillow", "jupyterlab"} == {
        re.split("==", line)[0] for line in pins
    }


def secret_lines(name: str) -> dict[str, list[str]]:
    """Kind → the lines of solutions and hidden tests that say more than a name or a bracket."""
    found: dict[str, list[str]] = {"SOLUTION": [], "HIDDEN TESTS": []}
    for cell in reference(name).cells:
        for kind, text in REGION.findall(cell.source):
            found[kind] += [line.strip() for line in text.splitlines() if len(line.strip()) > 12]
    return found


def in_json(line: str) -> str:
    return json.dumps(line, ensure_ascii=False)[1:-1]


def plain_text(path: Path) -> str:
    """Everything in a file: of a notebook also metadata and outputs."""
    if path.suffix == ".ipynb":
        return json.dumps(json.loads(path.read_text(encoding="utf-8")), ensure_ascii=False)
    return path.read_bytes().decode(errors="replace")


def test_no_solution_leaks(course, name):
    """Not into text, metadata or outputs of any file of the release."""
    secrets = secret_lines(name)
    assert len(secrets["SOLUTION"]) > 20 and len(secrets["HIDDEN TESTS"]) > 40
    visible = "\n".join(REGION.sub("", cell.source) for cell in reference(name).cells)
    texts = {path: plain_text(path) for path in course.rglob("*") if path.is_file()}
    everything = "\n".join(texts.values())
    for line in secrets["SOLUTION"]:
        assert line not in visible, f"the tests of {name} show this line of a solution"
        assert in_json(line) not in everything
    mine = "\n".join(text for path, text in texts.items() if path.parent.name == name)
    for line in secrets["HIDDEN TESTS"]:
        assert line in visible or in_json(line) not in mine
    assert "BEGIN SOLUTION" not in everything and "HIDDEN TESTS" not in everything


def test_students_can_start(course, name):
    notebook = nbformat.read(course / name / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    solutions = [
        cell for cell in notebook.cells if cell.metadata.get("nbgrader", {}).get("solution")
    ]
    assert len(solutions) == len(read_assignment(name).parts) + 1
    for cell in solutions:
        assert (
            "raise NotImplementedError()" if cell.cell_type == "code" else "YOUR ANSWER HERE"
        ) in (cell.source)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None
            compile(cell.source, "cell", "exec")
        if cell_name(cell) and not cell.metadata.nbgrader.solution:
            assert cell.metadata.editable is False


@pytest.mark.slow
def test_a_release_replaces_only_a_release(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(SystemExit, match="is no release"):
        release(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").exists()
    release(tmp_path / "course")
    release(tmp_path / "course")
    assert (tmp_path / "course" / "ps1" / "ps1.ipynb").exists()


# Submissions and reports -------------------------------------------------------------------------


def test_submissions_are_found_as_moodle_canvas_and_nbgrader_leave_them(tmp_path):
    for file in (
        "Jane Doe_12_assignsubmission_file_/ps1.ipynb",
        "bob/ps1/ps1.ipynb",
        "bob/ps2.ipynb",
        "bob/.ipynb_checkpoints/ps3.ipynb",
        "doejohn_12_345_ps1.ipynb",
        "doejohn_12_345_ps1-2.ipynb",
        "doejohn_12_345_ps1-10.ipynb",
        "notes.ipynb",
        ".hidden/ps1.ipynb",
    ):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    found = find_submissions(tmp_path, NAMES)
    assert {student: sorted(mine) for student, mine in found.items()} == {
        "Jane Doe_12_assignsubmission_file_": ["ps1"],
        "bob": ["ps1", "ps2"],
        "doejohn_12_345": ["ps1"],
    }
    assert found["doejohn_12_345"]["ps1"].name.endswith("-10.ipynb")


@linux
def test_a_folder_without_submissions_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="no submission found"):
        main(["grade", str(tmp_path)])
    with pytest.raises(SystemExit, match="is no folder"):
        main(["grade", str(tmp_path / "nothing")])


def test_marks_of_written_answers_are_added(tmp_path):
    (tmp_path / "marks.csv").write_text("student,assignment,written\nann,ps1,3.5\nbob,ps1,\n")
    marks = report.read_marks(tmp_path / "marks.csv")
    assignment = read_assignment("ps1")
    result = Result("part-1", "part-1-values", 2, 2, "")
    bad = Result("part-2", "part-2-values", 3, 0, "<b>&")
    graded = [
        report.Graded(student, assignment, [result, bad], {"answer": "q < p"}, marks)
        for student in ("ann", "bob")
    ]
    report.write_all(graded, tmp_path / "out")
    with (tmp_path / "out" / "grades.csv").open(newline="") as file:
        ann, bob = csv.DictReader(file)
    assert (ann["automatic"], ann["written"], ann["total"], ann["total_max"]) == (
        "2",
        "3.5",
        "5.5",
        "29",
    )
    assert (bob["written"], bob["total"]) == ("", "")
    page = (tmp_path / "out" / "feedback" / "ann" / "ps1.html").read_text()
    assert "q &lt; p" in page and "&lt;b&gt;&amp;" in page and "<b>" not in page


# Checks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "got, words",
    [
        (None, "Does your function return"),
        (..., "still `...`"),
        ([1.0, 2.0, 3.0], r"has the shape \(3,\); the task asks for \(2,\)"),
        ([1.0, float("nan")], "not a number"),
        (["a", "b"], "no real numbers"),
        ([[1.0], [1.0, 2.0]], "cannot be read"),
        ([1.0, 4.0], "you squared it"),
        ([1.0, 2.1], r"1 of 2 numbers are wrong; at \[1\] it is 2.1, not 2"),
    ],
)
def test_a_failed_check_says_what_is_wrong(got, words):
    with pytest.raises(AssertionError, match=words):
        checks.close(got, [1.0, 2.0], "x", traps={"you squared it.": [1.0, 4.0]})


def test_any_kind_of_array_is_right():
    for right in (
        [1, 2],
        (1.0, 2.0),
        np.array([1, 2]),
        torch.tensor([1.0, 2.0], requires_grad=True),
    ):
        checks.close(right, torch.tensor([1.0, 2.0]), "x")
    checks.equal([True, False], torch.tensor([1, 0]), "x")
    with pytest.raises(AssertionError, match="Work on a copy"):
        checks.unchanged([1, 2], [1, 3], "x")


# Limits ------------------------------------------------------------------------------------------


def inside(work, folder: Path, **limits):
    return run_isolated(work, Limits(**limits), folder, HERE / "source")


@linux
@pytest.mark.slow
def test_a_process_is_kept_from_harm(tmp_path):
    outside = tmp_path / "outside.txt"
    outside.write_text("mine")
    (tmp_path / "work").mkdir()
    deeds = {
        "network": lambda: __import__("socket").create_connection(("127.0.0.1", 9)),
        "program": lambda: os.system("true"),
        "kill": lambda: os.kill(os.getppid(), 9),
        "overwrite": lambda: outside.write_text("yours"),
        "delete": outside.unlink,
        "read": lambda: (HERE / "source" / "ps1" / "ps1.ipynb").read_text(),
        "allowed": lambda: Path("notes.txt").write_text("here"),
    }

    def work(tell):
        for name, deed in deeds.items():
            try:
                deed()
                tell({name: "done"})
            except PermissionError:
                tell({name: "refused"})

    reports, ended = inside(work, tmp_path / "work")
    found = {name: value for each in reports for name, value in each.items()}
    assert found == {**dict.fromkeys(deeds, "refused"), "allowed": "done"} and ended == ""
    assert outside.read_text() == "mine" and (tmp_path / "work" / "notes.txt").exists()


@linux
@pytest.mark.slow
def test_what_was_reported_before_the_end_is_kept(tmp_path):
    def endless(tell):
        tell({"first": 1})
        while True:
            pass

    def sleeping(tell):
        tell({"first": 1})
        time.sleep(1000)

    reports, ended = inside(endless, tmp_path, cpu_seconds=1)
    assert reports == [{"first": 1}] and "1 seconds of computing" in ended
    reports, ended = inside(sleeping, tmp_path, wall_seconds=1)
    assert reports == [{"first": 1}] and "wait for" in ended


# All together ------------------------------------------------------------------------------------


@linux
@pytest.mark.slow
def test_two_runs_give_the_same_files_and_another_seed_the_same_points(tmp_path):
    for name in NAMES:
        write(reference(name), tmp_path / "in", "good", name)
        write(with_mistake(name, 1), tmp_path / "in", "bad", name)
    grade(tmp_path / "in", tmp_path / "a")
    grade(tmp_path / "in", tmp_path / "b")
    grade(tmp_path / "in", tmp_path / "c", "--seed", "7")
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*")]
    assert len(files) == 3 + 2 * len(NAMES)
    for path in files:
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()
    grades = [(tmp_path / run / "grades.csv").read_text() for run in "ac"]
    assert grades[0] == grades[1]


@linux
@pytest.mark.slow
def test_nbgrader_itself_releases_and_grades_a_source(tmp_path, monkeypatch):
    """A teacher with an nbgrader course can use the sources as they are."""
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "source" / "ps1"
    shutil.copytree(HERE / "source" / "ps1", source)
    shutil.copy(HERE / "source" / "checks.py", source)
    config = Config()
    config.CourseDirectory.root = str(tmp_path)
    api = NbGraderAPI(config=config)
    assert api.generate_assignment("ps1")["success"]
    shutil.copytree(tmp_path / "release" / "ps1", tmp_path / "submitted" / "ann" / "ps1")
    write(reference("ps1"), tmp_path / "submitted" / "ann", "ps1", "ps1")
    done = api.autograde("ps1", "ann")
    assert done["success"], done["log"]
    with Gradebook(f"sqlite:///{tmp_path}/gradebook.db") as book:
        submission = book.find_submission("ps1", "ann")
        assert (submission.score, submission.max_score) == (25, 29)
