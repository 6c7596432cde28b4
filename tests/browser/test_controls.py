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
from slices import control_slice

ROOT = Path(__file__).resolve().parents[2]
CONTROL = re.compile(r"\binteract\(")
DESCRIPTION = re.compile(r"""description\s*=\s*(["'])(.+?)\1""")
WIDGETS = ("painter", "widgets.domain_viewer(")  # cells that end in a control of the package

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None,
        reason="the notebooks' controls go untested: no chromium (apt-get install chromium)",
    ),
    pytest.mark.timeout(1800),
]


def code_of(path: Path) -> list[str]:
    """The sources of a notebook's code cells."""
    cells = nbformat.read(path, as_version=4).cells
    return [cell.source for cell in cells if cell.cell_type == "code"]


def controls() -> list[tuple[str, str]]:
    """(notebook, description) of every control, read from the cells that call `interact`."""
    found = []
    for path in sorted((ROOT / "notebooks").rglob("*.ipynb")):
        name = path.relative_to(ROOT).as_posix()
        if "assignments" in name or ".ipynb_checkpoints" in name:
            continue
        for source in code_of(path):
            if CONTROL.search(source):
                descriptions = [text for _, text in DESCRIPTION.findall(source)]
                found += [
                    (name, text) for text in descriptions or ["a control without description"]
                ]
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def mirror(source: Path, target: Path) -> None:
    """Link what lies in the folder `source` into the new folder `target`, notebooks left out.

    Folders that hold notebooks are new folders too: what a test writes there stays there.
    """
    target.mkdir()
    for path in source.iterdir():
        holds_notebooks = path.is_dir() and path.name[0] != "." and any(path.rglob("*.ipynb"))
        if holds_notebooks:
            mirror(path, target / path.name)
        elif path.suffix != ".ipynb":
            (target / path.name).symlink_to(path)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that JupyterLab serves: the repository without its notebooks."""
    folder = tmp_path_factory.mktemp("browser") / "served"
    mirror(ROOT, folder)
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
from ipywidgets import Dropdown, IntSlider, ToggleButtons, interact

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
        "interact(lambda k: show(k), k=ToggleButtons(options=[2, 4], description='buttons'));",
        "interact(lambda k: show(k, shown=3), k=IntSlider(3, description='dead'));",
        "interact(lambda k: show(k, limit=3), k=IntSlider(3, description='raises'));",
    )
    notebook = LabNotebook(browser, address.format(name="controls.ipynb"))
    notebook.run_all()
    notebook.move("at its end")
    notebook.move("a menu")
    notebook.move("buttons")
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
    request: pytest.FixtureRequest, served: Path, address: str, browser: Browser
) -> Iterator[LabNotebook]:
    """The controls of the notebook `request.param` and what they need, run once.

    nbval runs the other cells.
    """
    cells = code_of(ROOT / request.param)
    wanted = {i for i, source in enumerate(cells) if CONTROL.search(source)}
    write(served, request.param, *control_slice(cells, wanted))
    notebook = LabNotebook(browser, address.format(name=request.param))
    notebook.run_all()
    yield notebook
    notebook.close()


# pytest brings equal parameters of the module together: with the notebook's name in it, a
# control's stays beside those of the same notebook, which so opens once.
@pytest.mark.parametrize(
    ("notebook", "control"),
    [(name, (name, description)) for name, description in controls()],
    ids=["-".join(control) for control in controls()],
    indirect=["notebook"],
    scope="module",
)
def test_control_changes_its_figure(notebook: LabNotebook, control: tuple[str, str]) -> None:
    before, after = notebook.move(control[1])
    assert before and after and before != after


# Controls of gss_lite.widgets ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def of_widgets(served: Path, address: str, browser: Browser) -> Iterator[LabNotebook]:
    """The notebook of the token painter and the viewer of domains, run once."""
    name = "notebooks/controls.ipynb"
    cells = code_of(ROOT / name)
    wanted = {i for i, source in enumerate(cells) if source.startswith(WIDGETS)}
    assert len(wanted) == len(WIDGETS)
    write(served, name, *control_slice(cells, wanted))
    notebook = LabNotebook(browser, address.format(name=name))
    notebook.run_all()
    yield notebook
    notebook.close()


def test_tokens_are_painted_by_key_and_by_mouse(of_widgets: LabNotebook) -> None:
    page = of_widgets.page
    cell = page.locator(".jp-OutputArea-child").filter(has=page.get_by_title("undo all changes"))
    figures = cell.last.locator(".widget-output img")
    of_widgets.press(page.get_by_title("undo all changes"), figures)
    page.get_by_title("paint with token").last.press("Enter")  # it chooses, and draws nothing
    page.get_by_text("The next click paints token").get_by_text("Bicyclist").wait_for()
    place = page.get_by_title("row 19, column 8: token")
    old = place.get_attribute("title")
    of_widgets.press(place, figures)
    assert place.get_attribute("title") != old
    page.get_by_text("Changed tokens: 1.").wait_for()
    page.get_by_title("row 17, column 8: token").click()
    page.get_by_text("Changed tokens: 2.").wait_for()
    page.keyboard.press("Tab")  # the next place has the focus
    focus = page.evaluate("document.activeElement.title")
    assert focus.startswith("row 17, column 9: token")
    of_widgets.check()


def test_domains_and_streets_are_reached_by_key(of_widgets: LabNotebook) -> None:
    page = of_widgets.page
    fog = page.get_by_role("button", name="fog")
    cell = page.locator(".jp-OutputArea-child").filter(has=fog)
    of_widgets.press(fog, cell.last.locator(".widget-output img"))
    of_widgets.move("domain")
    of_widgets.move("street")
