"""What the grader writes: two CSV files, a page of feedback for each notebook, and a summary."""

from __future__ import annotations

import csv
import html
import io
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from notebooks.assignments.grading import Assignment, Result

Marks = dict[tuple[str, str], float]  # (student, assignment) → points of the written answer
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 16px/1.5 sans-serif; max-width: 50em; margin: 2em auto; padding: 0 1em }}
table {{ border-collapse: collapse; width: 100% }}
td, th {{ border-bottom: 1px solid #ccc; padding: .4em .6em }}
td, th {{ text-align: left; vertical-align: top }}
.ok {{ color: #00664b }} .no {{ color: #a33b00 }} pre {{ white-space: pre-wrap }}
</style></head><body>
<h1>{title}</h1>
<p>{total}</p>
<table><tr><th>part</th><th>test</th><th>points</th><th>what the test says</th></tr>
{rows}
</table>
{answers}
</body></html>
"""


@dataclass(frozen=True)
class Graded:
    """One student's notebook after grading."""

    student: str
    assignment: Assignment
    results: list[Result]
    answers: dict[str, str]
    marks: Marks

    @property
    def automatic(self) -> int:
        return sum(result.earned for result in self.results)

    @property
    def written(self) -> float | None:
        """The teacher's points for the written answers, if they are known."""
        return self.marks.get((self.student, self.assignment.name))

    @property
    def written_points(self) -> int:
        return sum(self.assignment.written.values())

    def earned(self, part: str) -> int:
        return sum(result.earned for result in self.results if result.part == part)

    def messages(self, part: str) -> list[str]:
        """Return what the tests of a part say, without repetitions."""
        said = [result.message for result in self.results if result.part == part]
        return list(dict.fromkeys(text for text in said if text))

    def line(self) -> str:
        return (
            f"{self.student}: {self.assignment.name} {self.automatic} of {self.assignment.points}"
        )


def read_marks(path: Path) -> Marks:
    """Read the points of written answers: a CSV with the columns student, assignment, written."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    needed = {"student", "assignment", "written"}
    if rows and not needed <= rows[0].keys():
        raise SystemExit(f"{path} needs the columns student, assignment, written")
    return {
        (row["student"], row["assignment"]): float(row["written"]) for row in rows if row["written"]
    }


def write_all(graded: list[Graded], out: Path) -> None:
    """Write all reports into a folder; older ones of the same names are replaced."""
    replace_text(out / "grades.csv", as_csv([grade_row(each) for each in graded]))
    replace_text(out / "parts.csv", as_csv([row for each in graded for row in part_rows(each)]))
    replace_text(out / "summary.md", summary(graded))
    for each in graded:
        page = out / "feedback" / each.student / f"{each.assignment.name}.html"
        replace_text(page, feedback(each))


def replace_text(path: Path, text: str) -> None:
    """Write a file beside `path` and rename it, so that nobody sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    # A student's text may hold letters that no file can.
    temporary.write_text(text, encoding="utf-8", errors="replace")
    os.replace(temporary, path)


def as_csv(rows: list[dict]) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def grade_row(each: Graded) -> dict:
    written = each.written
    return {
        "student": each.student,
        "assignment": each.assignment.name,
        "automatic": each.automatic,
        "automatic_max": each.assignment.points,
        "written": "" if written is None else f"{written:g}",
        "written_max": each.written_points,
        "total": "" if written is None else f"{each.automatic + written:g}",
        "total_max": each.assignment.points + each.written_points,
    }


def part_rows(each: Graded) -> list[dict]:
    return [
        {
            "student": each.student,
            "assignment": each.assignment.name,
            "part": result.part,
            "test": result.test,
            "points": result.earned,
            "max": result.points,
            "message": result.message,
        }
        for result in each.results
    ]


def feedback(each: Graded) -> str:
    """Return the page that one student gets for one assignment."""
    titles = {part.name: part.title for part in each.assignment.parts}
    rows = []
    for result in each.results:
        style = "no" if result.message else "ok"
        rows.append(
            f"<tr><td>{html.escape(titles[result.part])}</td><td>{html.escape(result.test)}</td>"
            f'<td>{result.earned} / {result.points}</td><td class="{style}">'
            f"{html.escape(result.message or 'passed')}</td></tr>"
        )
    total = f"Automatic tests: {each.automatic} of {each.assignment.points} points."
    if each.written is None:
        total += f" The written answer ({each.written_points} points) is marked by a person."
    else:
        total += f" Written answer: {each.written:g} of {each.written_points} points."
    answers = "".join(
        f"<h2>Your written answer</h2>\n<pre>{html.escape(text or 'There is none.')}</pre>\n"
        for text in each.answers.values()
    )
    title = html.escape(f"{each.assignment.name}: {each.student}")
    return PAGE.format(title=title, total=total, rows="\n".join(rows), answers=answers)


def summary(graded: list[Graded]) -> str:
    """Return a text in Markdown: points of each part, and the commonest messages."""
    lines = []
    for name in dict.fromkeys(each.assignment.name for each in graded):
        mine = [each for each in graded if each.assignment.name == name]
        assignment = mine[0].assignment
        mean = sum(each.automatic for each in mine) / len(mine)
        lines += [
            f"# {name}: {len(mine)} students, mean {mean:.1f} of {assignment.points}",
            "",
            "| part | points | mean | full marks | commonest message |",
            "|---|---|---|---|---|",
        ]
        for part in assignment.parts:
            earned = [each.earned(part.name) for each in mine]
            messages = Counter(text for each in mine for text in each.messages(part.name))
            common = [f"{count} × {cell(text)}" for text, count in messages.most_common(3)]
            full = sum(value == part.points for value in earned)
            lines.append(
                f"| {part.title} | {part.points} | {sum(earned) / len(earned):.1f} | {full} | "
                f"{'<br>'.join(common)} |"
            )
        lines.append("")
    return "\n".join(lines)


def cell(text: str) -> str:
    """Fit a message into a cell of a Markdown table."""
    return re.sub(r"\s+", " ", text).replace("|", "\\|")[:160]
