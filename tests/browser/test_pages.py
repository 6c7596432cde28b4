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


def new_page(browser: Browser) -> tuple[Page, list[str]]:
    """An empty page without a network, and the list of what will go wrong in it."""
    wrong: list[str] = []
    page = browser.new_context(viewport={"width": WIDTH, "height": 900}, offline=True).new_page()
    page.on("pageerror", lambda error: wrong.append(f"error: {error}"))

    def leaves(address: str) -> None:
        if urlsplit(address).scheme not in {"file", "data"}:
            wrong.append(f"a request leaves the page: {address}")

    page.on("request", lambda request: leaves(request.url))
    return page, wrong


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


def problems(page: Page) -> Iterator[str]:
    """What a reader of the open page would miss."""
    for text in FORMULA.findall(page.evaluate(PROSE)):
        yield f"LaTeX in the text: {text}"
    for text in page.locator("code.formula").all_inner_texts():
        yield f"a formula that is not drawn: {text}"
    for address in page.evaluate("() => [...document.links].map(link => link.href)"):
        if dead(address):
            yield f"a dead link: {address}"
    pictures = page.evaluate(
        "() => [...document.images].map(image => [image.src, image.alt, image.naturalWidth])"
    )
    for number, (source, alt, width) in enumerate(pictures):
        if not alt.strip() or "No description" in alt:
            yield f"picture {number} has no alt text"
        if not width:
            yield f"picture {number} is not drawn: {source[:80]}"
    width = page.evaluate("() => document.documentElement.scrollWidth")
    if width > WIDTH:
        yield f"the page is {width} pixels wide"


@pytest.mark.parametrize("name", NAMES)
def test_a_page_reads_well_without_a_network(name: str, target: Path, browser: Browser) -> None:
    page, wrong = new_page(browser)
    page.goto((target / name).as_uri())
    wrong += problems(page)
    page.context.close()
    assert wrong == []


BROKEN = """<!doctype html><body style="margin: 0"><p id="here">A token $z$ and \\(x\\).
<code>$PATH$</code> <code class="formula">\\oops</code></p>
<a href="#here">a</a> <a href="#there">b</a> <a href="gone.html">c</a> <a href="https://d.org">d</a>
<img src="https://example.org/a.png" alt="A picture"><script>undefined_name</script>
<img src="data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA=" alt=" ">
<div style="width: 2000px">wide</div></body>
"""


def test_every_kind_of_problem_is_seen(tmp_path: Path, browser: Browser) -> None:
    file = tmp_path / "broken.html"
    file.write_text(BROKEN, encoding="utf-8")
    page, wrong = new_page(browser)
    page.goto(file.as_uri())
    wrong += problems(page)
    page.context.close()
    assert sorted(wrong) == [
        "LaTeX in the text: $z$",
        "LaTeX in the text: \\(",
        f"a dead link: {file.as_uri()}#there",
        "a dead link: " + (tmp_path / "gone.html").as_uri(),
        "a formula that is not drawn: \\oops",
        "a request leaves the page: https://example.org/a.png",
        "error: undefined_name is not defined",
        "picture 0 is not drawn: https://example.org/a.png",
        "picture 1 has no alt text",
        "the page is 2000 pixels wide",
    ]
