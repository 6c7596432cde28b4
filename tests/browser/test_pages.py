"""Every page, made of the committed outputs, reads well in a real browser without a network."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from lab_page import CHROMIUM, chromium
from playwright.sync_api import Browser, Page

from notebooks.pages import Site

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "notebooks"
NAMES = sorted(page.relative_to(ROOT).as_posix() for page in Site(FOLDER, ROOT).pages.values())
WIDTH = 1280
# What stands outside code and formulas, closed answers included.
PROSE = """() => {
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const texts = [];
    while (walker.nextNode())
        if (!walker.currentNode.parentElement.closest('code, pre, math'))
            texts.push(walker.currentNode.data);
    return texts.join('');
}"""
FORMULA = re.compile(r"\$[^$\n]+\$|\$\$|\\\(|\\\[|\\begin\{")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None,
        reason="the pages go untested: no chromium (apt-get install chromium)",
    ),
]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the pages."""
    folder = tmp_path_factory.mktemp("pages")
    Site(FOLDER, folder).write()
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


class Problems(list):
    """What went wrong while a page was open."""

    def watch(self, page: Page) -> None:
        page.on("pageerror", lambda error: self.append(str(error)))
        page.on("console", lambda line: self.append(line.text) if line.type == "error" else None)
        page.on("request", lambda request: self.leaves(request.url))

    def leaves(self, address: str) -> None:
        if urlsplit(address).scheme not in {"file", "data"}:
            self.append(f"a request leaves the page: {address}")


@pytest.fixture(params=NAMES, scope="module")
def page(request: pytest.FixtureRequest, target: Path, browser: Browser) -> Iterator[Page]:
    """One page, open without a network; whatever goes wrong in it fails the test."""
    problems = Problems()
    context = browser.new_context(viewport={"width": WIDTH, "height": 900}, offline=True)
    page = context.new_page()
    problems.watch(page)
    page.goto((target / request.param).as_uri())
    yield page
    context.close()
    assert problems == []


@cache
def anchors(file: Path) -> set[str]:
    """The places of a page that a link can lead to."""
    return set(re.findall(r'\b(?:id|name)="([^"]+)"', file.read_text(encoding="utf-8")))


def dead(address: str) -> bool:
    """Whether a link leads to no file, or to no such place in a page."""
    parts = urlsplit(address)
    if parts.scheme != "file":
        return False
    file = Path(unquote(parts.path))
    if not file.exists():
        return True
    return bool(parts.fragment) and unquote(parts.fragment) not in anchors(file)


def test_a_page_reads_well(page: Page) -> None:
    assert FORMULA.findall(page.evaluate(PROSE)) == []
    assert page.locator("code.formula").all_inner_texts() == [], "formulas that stayed LaTeX"
    links = page.evaluate("() => [...document.links].map(link => link.href)")
    assert [link for link in links if dead(link)] == []
    width = page.evaluate("() => document.documentElement.scrollWidth")
    assert width <= WIDTH, "the page is wider than the window"


def test_every_picture_is_there_and_described(page: Page) -> None:
    pictures = page.evaluate(
        "() => [...document.images].map(image => [image.naturalWidth > 0, image.alt])"
    )
    assert all(drawn for drawn, _ in pictures), "a picture is not drawn"
    described = [bool(alt.strip()) and "No description" not in alt for _, alt in pictures]
    assert all(described), (
        f"without alt text: pictures {[i for i, d in enumerate(described) if not d]}"
    )
