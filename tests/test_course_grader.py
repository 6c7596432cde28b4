"""Grade the grader: who has all points, who has none, and who loses them in which part."""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from pathlib import Path

import nbformat
import pytest
from course_mistakes import MISTAKES
from course_submissions import (
    HARMED,
    grade,
    harmful,
    moved_to_other_cells,
    other_solution,
    reference,
    with_mistake,
    with_odd_contents,
    write,
)

from notebooks.assignments.course import assignment_names, release
from notebooks.assignments.grading import read_assignment

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="grading needs Linux"),
]
NAMES = assignment_names()


class Grades:
    """The CSV of the parts, by student and part."""

    def __init__(self, out: Path):
        self.out = out
        self.points: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        self.messages: dict[str, dict[str, str]] = defaultdict(lambda: defaultdict(str))
        with (out / "parts.csv").open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                self.points[row["student"]][row["part"]] += int(row["points"])
                self.messages[row["student"]][row["part"]] += row["message"]


@pytest.fixture(scope="module")
def course(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("course") / "release"
    release(folder)
    return folder


@pytest.fixture(scope="module", params=NAMES)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def full(name) -> dict[str, int]:
    """Part → its points."""
    return {part.name: part.points for part in read_assignment(name).parts}


@pytest.fixture(scope="module")
def graded(name, course, tmp_path_factory) -> Grades:
    folder = tmp_path_factory.mktemp(name)
    stub = nbformat.read(course / name / f"{name}.ipynb", as_version=4)
    notebooks = {
        "reference": reference(name),
        "stub": stub,
        "other": other_solution(name),
        "moved": moved_to_other_cells(name),
        "odd": with_odd_contents(name),
        **{f"mistake-{i}": with_mistake(name, i) for i in range(len(MISTAKES[name]))},
        **harmful(name, stub),
    }
    for student, notebook in notebooks.items():
        write(notebook, folder / "submissions", student, name)
    (folder / "submissions" / "broken").mkdir()
    (folder / "submissions" / "broken" / f"{name}.ipynb").write_text("{ no notebook")
    (folder / "submissions" / "absent").mkdir()
    grade(folder / "submissions", folder / "grades")
    return Grades(folder / "grades")


@pytest.mark.parametrize("student", ["reference", "other", "moved", "odd"])
def test_a_right_solution_earns_every_point(graded, full, student):
    assert graded.points[student] == full, graded.messages[student]


@pytest.mark.parametrize("student", ["stub", "broken", "absent"])
def test_no_solution_earns_nothing(graded, full, student):
    assert graded.points[student] == dict.fromkeys(full, 0)


def test_a_stub_is_told_so(graded, full):
    assert {text[:8] for text in graded.messages["stub"].values()} == {"This par"}


def test_a_mistake_costs_points_in_its_part_and_nowhere_else(graded, full, name):
    assert len(MISTAKES[name]) >= 4
    for number, mistake in enumerate(MISTAKES[name]):
        points = graded.points[f"mistake-{number}"]
        message = graded.messages[f"mistake-{number}"][mistake.part]
        assert points[mistake.part] < full[mistake.part], mistake
        assert {**points, mistake.part: full[mistake.part]} == full, mistake
        assert mistake.words in message, message


def test_harm_scores_zero_for_its_part_and_stops_nothing(graded, full, name):
    students = harmful(name, reference(name))
    assert len(students) >= (11 if name == "ps1" else 5)
    for student in students:
        points = graded.points[student]
        assert points == {**full, HARMED: 0}, (student, graded.messages[student])


def test_harm_is_named(graded, name):
    said = {student: each[HARMED] for student, each in graded.messages.items()}
    assert "crashed (SIGSEGV)" in said["crash"] and "too much memory" in said["memory"]
    assert "ended before the test" in said["ends"] and "is missing" in said["deleted"]
    if name == "ps1":
        assert "too much memory" in said["tensor"] and "calls exit()" in said["exits"]
        assert "closed while you are graded" in said["steals"] and "no network" in said["calls"]
        assert "does not end" in said["endless"] and "does not end" in said["endless-cell"]


def test_feedback_and_summary(graded, name, full):
    page = (graded.out / "feedback" / "mistake-0" / f"{name}.html").read_text(encoding="utf-8")
    assert f"of {sum(full.values())} points" in page and "passed" in page
    assert "hidden" not in page.lower()
    odd = (graded.out / "feedback" / "odd" / f"{name}.html").read_text(encoding="utf-8")
    assert "? &lt;script&gt;" in odd and "<script>" not in odd
    summary = (graded.out / "summary.md").read_text(encoding="utf-8")
    assert summary.startswith(f"# {name}: ") and "This part has not been solved yet." in summary
