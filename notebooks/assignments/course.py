"""The course kit: write the students' release, and grade a folder of submissions.

python -m notebooks.assignments.course release
python -m notebooks.assignments.course grade SUBMISSIONS
"""

from __future__ import annotations

import argparse
import gc
import os
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
RELEASE = ROOT / "build" / "course"
GRADES = ROOT / "build" / "grades"
NEEDED = ("torch", "numpy", "matplotlib", "pillow", "jupyterlab")  # by the students' notebooks
ENVIRONMENT = """\
# conda env create -f environment.yml && conda activate gss-course
name: gss-course
channels:
  - conda-forge
dependencies:
  - python=3.11
  - pip
  - pip:
      - -r requirements.txt
"""
# Canvas puts all files into one folder: doejane_12345_67890_ps1.ipynb, later ps1-1.ipynb.
FLAT = re.compile(r"(?P<student>.+?)[_-](?P<assignment>ps\d+)(?:-(?P<again>\d+))?\.ipynb")


def assignment_names() -> list[str]:
    """Return the names of all assignments in order."""
    return sorted(path.parent.name for path in (HERE / "source").glob("*/*.ipynb"))


# Release -----------------------------------------------------------------------------------------


def student_version(path: Path):
    """Return a source notebook without solutions, hidden tests and outputs, as nbgrader does it."""
    import nbformat
    from nbgrader import preprocessors as steps

    notebook = nbformat.read(path, as_version=4)
    resources: dict = {}
    for step in (
        steps.LockCells,
        steps.ClearSolutions,
        steps.ClearOutput,
        steps.CheckCellMetadata,
        steps.ClearHiddenTests,
        steps.ComputeChecksums,
    ):
        notebook, resources = step().preprocess(notebook, resources)
    return notebook


def pinned_requirements() -> str:
    """Return the lines of requirements.lock for what the students' notebooks need."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    return "".join(f"{line}\n" for line in lines if re.split("==", line)[0] in NEEDED)


def release(out: Path) -> None:
    """Write the folder that students get. An older release in its place is replaced."""
    import nbformat

    if out.exists() and not (out / "requirements.txt").exists():
        raise SystemExit(f"{out} exists and is no release; name another folder with --out")
    fresh = out.with_name(out.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    for source in sorted((HERE / "source").glob("*/*.ipynb")):
        folder = fresh / source.parent.name
        shutil.copytree(
            source.parent, folder, ignore=shutil.ignore_patterns("*.ipynb", ".*", "__pycache__")
        )
        shutil.copy(HERE / "source" / "checks.py", folder)
        nbformat.write(student_version(source), folder / source.name)
    shutil.copy(HERE / "source" / "README.md", fresh)
    (fresh / "environment.yml").write_text(ENVIRONMENT, encoding="utf-8")
    (fresh / "requirements.txt").write_text(pinned_requirements(), encoding="utf-8")
    shutil.rmtree(out, ignore_errors=True)
    fresh.rename(out)
    print(f"The release for students is in {out}; zip this folder and hand it out.")


# Grade -------------------------------------------------------------------------------------------


def find_submissions(folder: Path, names: list[str]) -> dict[str, dict[str, Path]]:
    """Find the notebooks of every student.

    A student is a folder (as Moodle and nbgrader have it) or the beginning of a file's name (as
    Canvas has it).

    Args:
        folder: with STUDENT/ps1.ipynb, STUDENT/ps1/ps1.ipynb or STUDENT_ps1.ipynb in it.
        names: the assignments, as "ps1".

    Returns:
        Student → assignment → file, both sorted.
    """
    found: dict[str, dict[str, Path]] = {}
    for place in sorted(folder.iterdir()):
        if place.name.startswith("."):
            continue
        if place.is_dir():
            mine = found.setdefault(place.name, {})
            for name in names:
                files = [
                    path
                    for path in sorted(place.rglob(f"{name}.ipynb"))
                    if not any(part.startswith(".") for part in path.relative_to(place).parts)
                ]
                if files:
                    mine[name] = files[0]
    flat = [(match, path) for path in folder.iterdir() if (match := FLAT.fullmatch(path.name))]
    flat.sort(key=lambda pair: int(pair[0]["again"] or 0))  # the latest one stays
    for match, path in flat:
        if match["assignment"] in names:
            found.setdefault(match["student"], {})[match["assignment"]] = path
    return dict(sorted(found.items()))


def grade(options: argparse.Namespace) -> None:
    """Grade every submission and write grades.csv, parts.csv, summary.md and feedback/."""
    names = options.only or assignment_names()
    submissions = find_submissions(options.submissions, names)
    # An assignment that nobody has handed in is not due yet.
    due = [name for name in names if any(name in mine for mine in submissions.values())]
    if not due:
        raise SystemExit(
            f"no submission found in {options.submissions}: it needs STUDENT/ps1.ipynb, "
            "STUDENT/ps1/ps1.ipynb or STUDENT_ps1.ipynb"
        )
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, as grading forks
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ["MPLBACKEND"] = "Agg"
    os.environ["GSS_COURSE_SEED"] = str(options.seed)
    import matplotlib.pyplot  # noqa: F401  imported once, here, and not again for every part
    import torch

    from notebooks.assignments import grading, report
    from notebooks.assignments.sandbox import Limits

    torch.set_num_threads(1)
    gc.freeze()  # the forked processes need not copy what was imported here
    limits = Limits(options.cpu_seconds, options.memory_mb)
    marks = report.read_marks(options.written) if options.written else {}
    graded = []
    for name in due:
        assignment = grading.read_assignment(name)
        for student, files in submissions.items():
            results, answers = grading.grade_notebook(assignment, files.get(name), limits)
            graded.append(report.Graded(student, assignment, results, answers, marks))
            print(graded[-1].line(), flush=True)
    report.write_all(graded, options.out)
    print(f"\nGrades, feedback and summary are in {options.out}.")


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and act."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("release", help="write the students' folder")
    one.add_argument("--out", type=Path, default=RELEASE)
    two = commands.add_parser("grade", help="grade a folder of submissions (Linux)")
    two.add_argument("submissions", type=Path)
    two.add_argument("--out", type=Path, default=GRADES)
    two.add_argument("--only", nargs="+", metavar="ps1", help="these assignments")
    two.add_argument("--seed", type=int, default=20230, help="seed of the hidden tests")
    two.add_argument("--cpu-seconds", type=int, default=10, help="computing time of one part")
    two.add_argument("--memory-mb", type=int, default=1024, help="memory of one part")
    two.add_argument("--written", type=Path, help="CSV with your points for written answers")
    options = parser.parse_args(arguments)
    if options.command == "release":
        release(options.out)
        return
    if sys.platform != "linux":
        raise SystemExit("grading needs the process limits of Linux; on Windows use WSL")
    if not options.submissions.is_dir():
        raise SystemExit(f"{options.submissions} is no folder of submissions")
    grade(options)


if __name__ == "__main__":
    main()
