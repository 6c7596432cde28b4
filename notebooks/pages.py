"""Write notebooks as HTML pages that need no network: formulas as MathML, pictures inside.

The pages keep the folders of the notebooks. A link to a notebook or a text leads to its page.
"""

from __future__ import annotations

import base64
import html
import mimetypes
import os
import re
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
from nbconvert.filters import Highlight2HTML, ansi2html
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode

from notebooks.formulas import FormulaError, mathml

STYLE = Path(__file__).with_name("pages.css")
WIDGET = "application/vnd.jupyter.widget-view+json"
NO_CONTROL = (
    '<p class="control">There is a control here. Open this notebook in JupyterLab '
    "(<code>make lab</code>) to move it.</p>"
)
# The index is README.md, which GitHub and JupyterLab show.
INDEX = "README.md"
NOTEBOOK_LINK = re.compile(r"\]\((\S+\.ipynb)\)")
READING = re.compile(r"Reading: (?:about )?(\d+) minutes?")
TAG = re.compile(r"<[^>]+>")
HTML_TARGET = re.compile(r"""(<(?:a|img)\b[^>]*?\b(?:href|src)=)(["'])(.*?)\2""", re.DOTALL)
# No line ends between a formula and the full stop after it.
FORMULA_AND_STOP = re.compile(r"(<math\b(?:(?!</math>).)*</math>[.,;:!?)]+)", re.DOTALL)
HTML_FORMULA = re.compile(r"(?<![\\$])\$([^$\n]+)\$")


def title(notebook: NotebookNode) -> str:
    """The first heading of the notebook; empty if there is none."""
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    heading = re.search(r"^# +(.+)$", text, re.MULTILINE)
    return heading.group(1).strip() if heading else ""


def reading_minutes(notebook: NotebookNode) -> int | None:
    """The minutes that the first cell promises; None if it promises none."""
    promise = READING.search(notebook.cells[0].source) if notebook.cells else None
    return int(promise.group(1)) if promise else None


def formula(latex: str, display: str = "inline") -> str:
    """LaTeX as MathML.

    A formula that cannot be converted is shown as it is written, and a warning says so.
    """
    try:
        return mathml(latex, display)
    except FormulaError as error:
        warnings.warn(str(error), stacklevel=2)
        return f'<code class="formula">{html.escape(latex)}</code>'


class Renderer(IPythonRenderer):
    """Markdown to HTML, with formulas as MathML and every link and picture passed on.

    `link_to` and `embed` say what stands in the page for the address of a link or a picture. `slug`
    makes the anchor of a heading from its text.
    """

    def __init__(
        self,
        link_to: Callable[[str], str],
        embed: Callable[[str], str],
        slug: Callable[[str], str],
    ) -> None:
        super().__init__(escape=False)
        self.link_to = link_to
        self.embed = embed
        self.slug = slug

    def block_math(self, body: str) -> str:
        """A formula on lines of its own."""
        return f'<div class="formula">{formula(body, "block")}</div>'

    def inline_math(self, body: str) -> str:
        """A formula within a sentence."""
        return formula(body)

    def latex_environment(self, name: str, body: str) -> str:
        """A formula that begins with the name of its environment."""
        return self.block_math(f"\\begin{{{name}}}{body}\\end{{{name}}}")

    def heading(self, text: str, level: int, **attributes: object) -> str:
        """A heading with an anchor."""
        anchor = html.escape(self.slug(html.unescape(TAG.sub("", text))))
        return f'<h{level} id="{anchor}">{text}</h{level}>\n'

    def link(self, text: str, url: str, title: str | None = None) -> str:
        """A link, to a page if there is one."""
        return super().link(text, self.link_to(url), title)

    def image(self, text: str, url: str, title: str | None = None) -> str:
        """A picture, inside the page."""
        alt = html.escape(html.unescape(TAG.sub("", text)))
        return f'<img src="{self.embed(url)}" alt="{alt}">'

    def block_html(self, html: str) -> str:
        """HTML between paragraphs."""
        return self.within_html(html)

    def inline_html(self, html: str) -> str:
        """HTML within a paragraph."""
        return self.within_html(html)

    def within_html(self, text: str) -> str:
        """HTML in Markdown, whose formulas and addresses the parser does not see."""

        def moved(match: re.Match[str]) -> str:
            start, quote, address = match.groups()
            change = self.embed if start.startswith("<img") else self.link_to
            return f"{start}{quote}{change(address)}{quote}"

        text = HTML_TARGET.sub(moved, text)
        return HTML_FORMULA.sub(lambda match: formula(html.unescape(match[1])), text)


def jupyter_slug(heading: str) -> str:
    """The anchor that JupyterLab and GitHub give to a heading of a notebook."""
    return heading.strip().replace(" ", "-")


def github_slug(heading: str) -> str:
    """The anchor that GitHub gives to a heading of a Markdown file."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@dataclass
class Site:
    """The pages of the notebooks and texts in `folder`, written into `target`.

    `results` holds a few words on the run of a notebook, by its path, for the index.
    """

    folder: Path
    target: Path
    results: dict[Path, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder = self.folder.resolve()
        self.target = self.target.resolve()

    @cached_property
    def pages(self) -> dict[Path, Path]:
        """Every notebook and text of the course → its page."""
        names = ["*.ipynb", "solutions/*.ipynb", "reproductions/*.ipynb"]
        names += ["*.md", "experiments/*.md", "reproductions/*.md", "assignments/*.md"]
        sources = [path for name in names for path in sorted(self.folder.glob(name))]
        pages = {
            path: self.target / path.relative_to(self.folder).with_suffix(".html")
            for path in sources
        }
        pages[self.folder / INDEX] = self.target / "index.html"
        return pages

    def link_to(self, source: Path, address: str) -> str:
        """What stands in the page of `source` for an address that `source` links to."""
        parts = urlsplit(address)
        if parts.scheme or parts.netloc or not parts.path:
            return address
        file = (source.parent / unquote(parts.path)).resolve()
        here = self.pages[source].parent
        moved = os.path.relpath(self.pages.get(file, file), here)
        return Path(moved).as_posix() + (f"#{parts.fragment}" if parts.fragment else "")

    @staticmethod
    def embed(source: Path, address: str) -> str:
        """The picture at `address` as text; an address that is no file stays as it is."""
        file = source.parent / unquote(address)
        if urlsplit(address).scheme or not file.is_file():
            return address
        kind = mimetypes.guess_type(file.name)[0]
        return f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"

    def markdown(self, source: Path, text: str) -> str:
        """The HTML of a Markdown text that stands in the file `source`."""
        renderer = Renderer(
            link_to=lambda address: self.link_to(source, address),
            embed=lambda address: self.embed(source, address),
            slug=jupyter_slug if source.suffix == ".ipynb" else github_slug,
        )
        page = MarkdownWithMath(renderer=renderer).render(text)
        return FORMULA_AND_STOP.sub(r'<span class="whole">\1</span>', page)

    def write_notebook(self, source: Path, notebook: NotebookNode | None = None) -> Path:
        """Write the page of a notebook, with the outputs that it has."""
        source = source.resolve()
        if notebook is None:
            notebook = nbformat.read(source, as_version=4)
        parts = []
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                parts.append(
                    f'<section class="text">\n{self.markdown(source, cell.source)}</section>'
                )
            elif cell.cell_type == "code":
                parts.append(code_cell(cell))
        return self.write_page(source, title(notebook) or source.stem, "\n".join(parts))

    def write_text(self, source: Path) -> Path:
        """Write the page of a Markdown file."""
        text = source.read_text(encoding="utf-8")
        if source == self.folder / INDEX:
            text = with_results(text, {path.name: words for path, words in self.results.items()})
        heading = re.search(r"^# +(.+)$", text, re.MULTILINE)
        body = f'<section class="text">\n{self.markdown(source, text)}</section>'
        return self.write_page(source, heading.group(1) if heading else source.stem, body)

    def write_page(self, source: Path, name: str, body: str) -> Path:
        """Write the page of `source`, which has the title `name`."""
        page = self.pages[source]
        kind = "index" if page.name == "index.html" else source.suffix[1:]
        page.parent.mkdir(parents=True, exist_ok=True)
        write_beside(
            page,
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{html.escape(name)}</title>\n"
            f"<style>\n{STYLE.read_text(encoding='utf-8')}</style>\n</head>\n"
            f'<body class="{kind}">\n<main>\n{body}\n</main>\n</body>\n</html>\n',
        )
        return page

    def write(self, done: Collection[Path] = ()) -> Path:
        """Write all pages but those of the notebooks in `done`; the page to open first."""
        ready = {path.resolve() for path in done}
        for source in self.pages:
            if source in ready:
                continue
            if source.suffix == ".ipynb":
                self.write_notebook(source)
            else:
                self.write_text(source)
        return self.target / "index.html"


def with_results(text: str, results: Mapping[str, str]) -> str:
    """The index with one more column in its tables of notebooks: what became of the run."""
    if not results:
        return text
    lines = text.splitlines()
    in_table = False
    for number, line in enumerate(lines):
        ruler = lines[number + 1] if number + 1 < len(lines) else ""
        if line.startswith("|") and re.fullmatch(r"[|:\- ]+", ruler):
            first_row = lines[number + 2] if number + 2 < len(lines) else ""
            in_table = NOTEBOOK_LINK.search(first_row) is not None
            addition = " this run |"
        elif re.fullmatch(r"\|[|:\- ]+", line):
            addition = "---|"
        else:
            in_table = in_table and line.startswith("|")
            link = NOTEBOOK_LINK.search(line)
            addition = f" {results.get(Path(link[1]).name, 'not run') if link else ''} |"
        if in_table:
            lines[number] = line + addition
    return "\n".join(lines) + "\n"


def code_cell(cell: NotebookNode) -> str:
    """The code of a cell and what it printed and drew."""
    tags = cell.metadata.get("tags", [])
    code = Highlight2HTML(pygments_lexer="ipython3")(cell.source)
    number = cell.get("execution_count") or " "
    shown = "\n".join(part for output in cell.outputs for part in show(output, cell, tags))
    kind = "code fill-in" if "fill-in" in tags else "code"
    return (
        f'<section class="{kind}">\n<div class="input" data-number="{number}">{code}</div>\n'
        f'<div class="outputs">\n{shown}\n</div>\n</section>'
    )


def show(output: NotebookNode, cell: NotebookNode, tags: list[str]) -> Iterator[str]:
    """Yield the HTML of one output: the first of its forms that a page can show."""
    if output.output_type == "stream":
        yield f'<pre class="{output.name}">{ansi2html(output.text)}</pre>'
    elif output.output_type == "error":
        # The empty line of a student needs no traceback.
        last = f"{output.ename}: {output.evalue}"
        trace = html.escape(last) if "fill-in" in tags else ansi2html("\n".join(output.traceback))
        yield f'<pre class="error">{trace}</pre>'
    elif WIDGET in output.data:
        yield NO_CONTROL
    elif "text/html" in output.data:
        yield f'<div class="html">{output.data["text/html"]}</div>'
    elif "image/png" in output.data:
        alt = html.escape(cell.metadata.get("alt", ""))
        yield f'<img src="data:image/png;base64,{output.data["image/png"].strip()}" alt="{alt}">'
    elif "text/plain" in output.data:
        yield f'<pre class="stdout">{ansi2html(output.data["text/plain"])}</pre>'


def write_beside(path: Path, text: str) -> None:
    """Replace the file at `path` in one step, so that an interruption leaves the old one whole."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text, encoding="utf-8")
    os.replace(new, path)
