"""notebooks/pages.py and formulas.py: formulas, links, pictures and outputs of a page."""

from __future__ import annotations

import base64
import re
from xml.etree import ElementTree

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from notebooks import pages
from notebooks.formulas import FormulaError, mathml
from notebooks.pages import Site, reading_minutes, title, with_results

PNG = base64.b64encode(b"a picture").decode()


@pytest.fixture
def site(tmp_path):
    """The pages of a small course, with an index, a lesson, a solution, a text and a picture."""
    files = {
        "README.md": "# All\n",
        "00_first.ipynb": "",
        "symbols.md": "# Symbols\n\n## The tokens, $z$\n",
        "solutions/00_first_solutions.ipynb": "",
        "figures/chain.svg": "<svg></svg>",
        "records/run.json": "{}",
    }
    for name, text in files.items():
        path = tmp_path / "notebooks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return Site(tmp_path / "notebooks", tmp_path / "build" / "walkthrough")


def page_of(site: Site, *cells, name: str = "00_first.ipynb") -> str:
    path = site.write_notebook(site.folder / name, new_notebook(cells=list(cells)))
    return path.read_text(encoding="utf-8").split("<main>")[1]


def texts(result: str) -> list[str]:
    """The letters of a formula in order."""
    return [node.text for node in ElementTree.fromstring(result).iter() if node.text]


@pytest.mark.parametrize(
    "latex, letters",
    [
        (r"\mathcal X_\beta", ["𝒳", "β"]),
        (r"\mathbb 1", ["𝟙"]),
        (r"\arg\max_v \ell_v", ["arg", "max", "v", "ℓ", "v"]),
        (r"\big\| x \big\rangle", ["‖", "x", "⟩"]),
        (r"\begin{aligned} a &= b \\ &\le c \end{aligned}", ["a", "=", "b", "≤", "c"]),
        (r"p(c\mid x)", ["p", "(", "c", "∣", "x", ")"]),
    ],
)
def test_a_formula_has_the_letters_that_it_should(latex, letters):
    assert texts(mathml(latex)) == letters


def test_a_name_has_a_space_after_it_except_before_a_bracket():
    assert "mspace" in mathml(r"\log p") and "mspace" not in mathml(r"\log(p)")
    # A space inside msub would be a third child, which msub cannot have.
    index = ElementTree.fromstring(mathml(r"\min_\theta a"))
    assert [len(node) for node in index.iter() if node.tag.endswith("msub")] == [2]


@pytest.mark.parametrize(
    "latex, grow", [(r"\lVert x\rVert^2", "false"), (r"\left\| x\right\|", "true")]
)
def test_bars_grow_only_if_they_are_told_to(latex, grow):
    bars = [node for node in ElementTree.fromstring(mathml(latex)).iter() if node.text == "‖"]
    assert [bar.get("stretchy") for bar in bars] == [grow, grow]


def test_the_index_of_a_maximum_stands_below_it_on_a_line_of_its_own():
    assert "munder" in mathml(r"\max_j d_j", "block") and "munder" not in mathml(r"\max_j d_j")


@pytest.mark.parametrize("latex", [r"\nosuchcommand x", r"\frac{a}", r"a & b"])
def test_a_formula_that_is_not_understood_is_refused_and_shown_as_written(latex):
    with pytest.raises(FormulaError, match=re.escape(repr(latex))):
        mathml(latex)
    with pytest.warns(UserWarning, match=re.escape(repr(latex))):
        assert '<code class="formula">' in pages.formula(latex)


def test_formulas_are_found_in_text_and_not_in_code(site):
    text = "A $z$, `$PATH$`\n\n```bash\necho $A$\n```\n\n$$\na < b\n$$\n\n5\\$ and 6\\$."
    page = page_of(site, new_markdown_cell(text), new_code_cell("price = '$x$'"))
    assert page.count("<math") == 2 and 'display="block"' in page
    assert "<code>$PATH$</code>" in page and "5$ and 6$." in page and "$x$" in page


def test_formulas_are_found_in_a_summary(site):
    text = "<details><summary>Why $z$?</summary>\n\nBecause $x$.\n\n</details>"
    assert page_of(site, new_markdown_cell(text)).count("<math") == 2


def test_links_lead_to_pages_from_any_folder(site):
    text = (
        "[a](../00_first.ipynb#1.-The-bound) [b](../README.md) [c](../symbols.md#the-tokens-z) "
        '[d](https://doi.org/10.1) [e](#here) <a href="../00_first.ipynb">f</a> '
        "[g](../records/run.json)"
    )
    name = "solutions/00_first_solutions.ipynb"
    page = page_of(site, new_markdown_cell(text), name=name)
    assert re.findall(r'href="([^"]+)"', page) == [
        "../00_first.html#1.-The-bound",
        "../index.html",
        "../symbols.html#the-tokens-z",
        "https://doi.org/10.1",
        "#here",
        "../00_first.html",
        "../../../notebooks/records/run.json",
    ]


def test_headings_have_the_anchors_of_jupyterlab_in_notebooks_and_of_github_in_texts(site):
    assert 'id="1.-The-bound"' in page_of(site, new_markdown_cell("# 1. The bound"))
    text = site.write_text(site.folder / "symbols.md").read_text(encoding="utf-8")
    assert 'id="the-tokens-z"' in text


def test_pictures_lie_in_the_page_and_say_what_they_show(site):
    drawing = new_markdown_cell("![The chain of $X$](../figures/chain.svg)")
    figure = new_code_cell("draw()", metadata={"alt": 'Two "panels"'}, execution_count=1)
    figure.outputs = [new_output("display_data", {"image/png": PNG, "text/plain": "<Figure>"})]
    page = page_of(site, drawing, figure, name="solutions/00_first_solutions.ipynb")
    assert 'src="data:image/svg+xml;base64,PHN2Zz48L3N2Zz4="' in page
    assert 'alt="The chain of X"' in page
    assert f'src="data:image/png;base64,{PNG}" alt="Two &quot;panels&quot;"' in page
    assert "&lt;Figure" not in page


def test_an_empty_line_shows_its_message_alone_and_another_error_its_traceback(site):
    error = new_output("error", ename="AssertionError", evalue="fill in", traceback=["in line 7"])
    task = new_code_cell("...", metadata={"tags": ["fill-in"]}, outputs=[error])
    page = page_of(site, task)
    assert "AssertionError: fill in" in page and "in line 7" not in page
    assert "in line 7" in page_of(site, new_code_cell("...", outputs=[error]))


def test_a_control_is_told_of(site):
    control = new_output("display_data", {pages.WIDGET: {}, "text/plain": "interactive(…)"})
    page = page_of(site, new_code_cell("interact()", outputs=[control]))
    assert "There is a control here" in page and "interactive(…)" not in page


def test_the_index_has_a_column_for_the_run():
    first = "| a | b |\n|---|---|\n| [x](0.ipynb) | b |\n| [y](1.ipynb) | b |\n"
    text = f"# All\n\n{first}\n| c |\n|---|\n| d |\n"
    assert with_results(text, {"0.ipynb": "ok"}).splitlines()[2:] == [
        "| a | b | this run |",
        "|---|---|---|",
        "| [x](0.ipynb) | b | ok |",
        "| [y](1.ipynb) | b | not run |",
        "",
        "| c |",
        "|---|",
        "| d |",
    ]
    assert with_results(text, {}) == text


def test_the_first_cell_says_the_title_and_the_minutes():
    first = new_markdown_cell(
        "[Index](README.md)\n\n# 04 · T\n\n*Reading: 35 minutes. Running: 50 seconds.*"
    )
    notebook = new_notebook(cells=[first])
    assert (title(notebook), reading_minutes(notebook)) == ("04 · T", 35)
    assert (title(new_notebook()), reading_minutes(new_notebook())) == ("", None)
