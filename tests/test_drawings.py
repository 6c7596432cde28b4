"""The drawings of the lessons are what their script draws, and each says what it shows."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import pytest

from notebooks.figures.draw import DRAWINGS, HERE, svg

LOCK = Path(__file__).resolve().parents[1] / "requirements.lock"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(params=DRAWINGS, ids=lambda draw: draw.__name__)
def draw(request):
    return request.param


@pytest.mark.skipif(
    f"matplotlib=={matplotlib.__version__}\n" not in LOCK.read_text(encoding="utf-8"),
    reason="another matplotlib may write other outlines",
)
def test_the_script_draws_the_committed_file(draw):
    committed = (HERE / f"{draw.__name__}.svg").read_bytes().decode("utf-8")
    assert svg(draw) == committed, "run `python -m notebooks.figures.draw`"


def test_a_drawing_has_a_title_and_a_description_and_is_white(draw):
    root = ElementTree.parse(HERE / f"{draw.__name__}.svg").getroot()
    assert root.find(f"{SVG}title").text and len(root.find(f"{SVG}desc").text) > 80
    background = root.find(f".//{SVG}path[@d]")
    assert "#ffffff" in background.get("style")


def test_no_drawing_needs_a_font_or_a_network(draw):
    text = (HERE / f"{draw.__name__}.svg").read_text(encoding="utf-8")
    assert "<text" not in text and "font-family" not in text
    assert set(re.findall(r'href="([^#][^"]*)"', text)) == set()


def test_there_is_no_other_drawing():
    assert {path.stem for path in HERE.glob("*.svg")} == {draw.__name__ for draw in DRAWINGS}
