"""Every control of every notebook, moved in a real browser, changes its figure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from lab_page import CHROMIUM, LabNotebook, NotebookFailed, chromium, jupyterlab
from nbformat.v4 import new_code_cell, new_notebook
from playwright.sync_api import Browser

ROOT = Path(__file__).resolve().parents[2]
DESCRIPTION = re.compile(r"""description\s*=\s*(["'])(.+?)\1""")

pytestmark = [
    pytest.mark.skipif(
        CHROMIUM is None,
        reason="the notebooks' controls go untested: no chromium (apt-get install chromium)",
    ),
    pytest.mark.timeout(900),
]


def controls() -> list[tuple[str, str]]:
    """(notebook, description) of every control, read from the cells that call `interact`."""
    found = []
    for path in sorted((ROOT / "notebooks").rglob("*.ipynb")):
        name = path.relative_to(ROOT).as_posix()
        if "assignments" in name or ".ipynb_checkpoints" in name:
            continue
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code" and re.search(r"\binteract\(", cell.source):
                descriptions = [text for _, text in DESCRIPTION.findall(cell.source)]
                found += [
                    (name, text) for text in descriptions or ["a control without description"]
                ]
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that JupyterLab serves: the repository's notebooks, and what a test adds."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "notebooks").symlink_to(ROOT / "notebooks")
    return folder


@pytest.fixture(scope="module")
def address(served: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with jupyterlab(served, tmp_path_factory.mktemp("home")) as address:
        yield address


def write(folder: Path, name: str, *sources: str) -> None:
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cells = [new_code_cell(source) for source in sources]
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), folder / name)


SHOW = """%matplotlib inline
import matplotlib.pyplot as plt
from ipywidgets import Dropdown, IntSlider, interact

def show(k, shown=None, limit=9):
    if k > limit:
        raise ValueError("k is over the limit")
    plt.plot(range(shown or k))
    plt.show()
"""


def test_a_control_that_works_is_told_from_one_that_does_not(
    served: Path, address: str, browser: Browser
) -> None:
    write(
        served,
        "controls.ipynb",
        SHOW,
        "interact(lambda k: show(k), k=IntSlider(3, 1, 3, description='at its end'));",
        "interact(lambda k: show(k), k=Dropdown(options=[2, 4], description='a menu'));",
        "interact(lambda k: show(k, shown=3), k=IntSlider(3, description='dead'));",
        "interact(lambda k: show(k, limit=3), k=IntSlider(3, description='raises'));",
    )
    notebook = LabNotebook(browser, address.format(name="controls.ipynb"))
    notebook.run_all()
    notebook.move("at its end")
    notebook.move("a menu")
    with pytest.raises(NotebookFailed, match="did not change within 3 s after 'dead'"):
        notebook.move("dead", timeout=3)
    with pytest.raises(NotebookFailed, match="k is over the limit"):
        notebook.move("raises")
    notebook.close()


def test_a_cell_or_a_first_drawing_that_raises_is_seen(
    served: Path, address: str, browser: Browser
) -> None:
    write(served, "cell.ipynb", "1 / 0", "print('never reached')")
    write(
        served,
        "first.ipynb",
        SHOW,
        "interact(lambda k: show(k, limit=1), k=IntSlider(3, description='raises'));",
    )
    for name, message in (
        ("cell.ipynb", "ZeroDivisionError"),
        ("first.ipynb", "k is over the limit"),
    ):
        notebook = LabNotebook(browser, address.format(name=name))
        with pytest.raises(NotebookFailed, match=message):
            notebook.run_all()
        notebook.close()


@pytest.fixture(scope="module")
def notebook(
    request: pytest.FixtureRequest, address: str, browser: Browser
) -> Iterator[LabNotebook]:
    """The notebook of the repository that `request.param` names, run once for all its controls."""
    notebook = LabNotebook(browser, address.format(name=request.param))
    notebook.run_all()
    yield notebook
    notebook.close()


@pytest.mark.parametrize(
    ("notebook", "description"), controls(), indirect=["notebook"], scope="module"
)
def test_control_changes_its_figure(notebook: LabNotebook, description: str) -> None:
    before, after = notebook.move(description)
    assert before and after and before != after
