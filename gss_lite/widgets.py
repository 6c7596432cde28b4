"""Controls for the notebooks: a token painter and a viewer of domains, over `plotting`.

Each control has a function that draws its figure without it, so that a page without a kernel shows
the figure too. All parts of a control are buttons and sliders, which the keyboard reaches.
"""

from __future__ import annotations

from functools import partial

import matplotlib.pyplot as plt
import torch
from IPython.display import clear_output, display
from ipywidgets import (
    HTML,
    Button,
    GridBox,
    HBox,
    IntSlider,
    Layout,
    Output,
    ToggleButtons,
    VBox,
    interactive,
)
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from gss_lite.contracts import IGNORE
from gss_lite.data.scenes import DOMAINS, Scenes
from gss_lite.gss import GSS
from gss_lite.plotting import show_masks, show_row, token_colors

STREETS = 200  # test streets that the viewer of domains leads to
CELL = "26px"  # side of a button of the grid
INK = "#222222"


class TokenPainter(VBox):
    """Change the tokens of one mask by hand, and see what the decoder paints from them.

    A button of the gallery chooses a token. A button of the grid writes the chosen token to its
    place, and the figure below follows. The grid shows a part of all tokens, which a rectangle
    marks in the figure. A token has the same colour in the gallery, the grid and the figure.

    Attributes:
        tokens: the token grid (h, w) with all changes so far.
        chosen: the token id that the next click writes.
        gallery: {token id: name of a class}, see `commonest_tokens`.

    Args:
        model: its palette, tokenizer and inverse are used. It needs no prior.
        mask: class ids (H, W).
        names: K class names.
        rows, columns: the part of the token grid that has buttons.

    Raises:
        ValueError: the mask is no (H, W), or the part does not lie within the token grid.
    """

    def __init__(
        self, model: GSS, mask: Tensor, names: tuple[str, ...], rows: range, columns: range
    ) -> None:
        if mask.ndim != 2:
            raise ValueError(f"the painter takes one mask (H, W); got {tuple(mask.shape)}")
        self._model = model
        self._void = mask == IGNORE
        with torch.no_grad():
            self._true = model.tokenizer.encode(model.palette(mask[None]))[0]  # (h, w)
        height, width = self._true.shape
        for name, part, length in (("rows", rows, height), ("columns", columns, width)):
            if not part or min(part) < 0 or max(part) >= length:
                raise ValueError(f"{name} must lie in 0…{length - 1}, one or more; got {part}")
        self._rows, self._columns = rows, columns
        self._before = self._classes(self._true)
        self.tokens = self._true.clone()
        self.gallery = commonest_tokens(self._true, mask, names)
        self.chosen = next(iter(self.gallery))

        self._choices = {code: self._choice(code, name) for code, name in self.gallery.items()}
        cell = Layout(width=CELL, height=CELL, margin="0", padding="0")
        self._cells = {}
        for row in rows:
            for column in columns:
                self._cells[row, column] = Button(layout=cell)
                self._cells[row, column].on_click(partial(self._paint_and_show, row, column))
        again = Button(description="start again", tooltip="undo all changes")
        again.on_click(lambda _: self._restart_and_show())
        self._status = HTML()
        self._figure = Output()
        grid = Layout(grid_template_columns=f"repeat({len(columns)}, {CELL})", grid_gap="1px")
        super().__init__(
            [
                HBox([*self._choices.values(), again], layout=Layout(flex_flow="row wrap")),
                GridBox(list(self._cells.values()), layout=grid),
                self._status,
                self._figure,
            ]
        )
        self._update_buttons()

    def choose(self, code: int) -> None:
        """Take a token of the gallery for the next clicks.

        Raises:
            ValueError: the gallery does not have this id.
        """
        if code not in self.gallery:
            raise ValueError(f"token {code} is not in the gallery, which has {[*self.gallery]}")
        self.chosen = code
        self._update_buttons()

    def paint(self, row: int, column: int) -> None:
        """Write the chosen token to a place of the token grid.

        Raises:
            ValueError: the place has no button.
        """
        if (row, column) not in self._cells:
            raise ValueError(
                f"row {row}, column {column} has no button; there are buttons for rows "
                f"{self._rows.start}…{self._rows[-1]} and columns "
                f"{self._columns.start}…{self._columns[-1]}"
            )
        self.tokens[row, column] = self.chosen
        self._update_buttons()

    def restart(self) -> None:
        """Undo all changes."""
        self.tokens = self._true.clone()
        self._update_buttons()

    def draw(self) -> Figure:
        """Draw the tokens, what the decoder paints from them, its classes, and what has changed."""
        classes = self._classes(self.tokens)  # (H, W)
        changed = classes != self._before  # (H, W)
        panels = {
            "tokens": self.tokens,
            "decoded": self._decoded(self.tokens),
            "classes": self._model.palette(classes[None])[0],
            f"{int(changed.sum())} pixels of another class": changed,
        }
        figure = show_row(list(panels.items()), cmap="gray")
        corner = (self._columns.start - 0.5, self._rows.start - 0.5)
        sides = (len(self._columns), len(self._rows))
        figure.axes[0].add_patch(Rectangle(corner, *sides, fill=False, color=INK, linewidth=2))
        return figure

    @torch.no_grad()
    def _decoded(self, tokens: Tensor) -> Tensor:
        return self._model.tokenizer.decode(tokens[None])[0]  # (D, H, W)

    def _classes(self, tokens: Tensor) -> Tensor:
        """The classes that the decoder's colours are read as; 255 where the mask has no class."""
        classes = self._model.inverse.classify(self._decoded(tokens)[None])[0]  # (H, W)
        return classes.masked_fill(self._void, IGNORE)

    def _choice(self, code: int, name: str) -> Button:
        button = Button(description=f"{code} {name}", tooltip=f"paint with token {code}")
        _set_color(button, code)
        button.on_click(lambda _: self.choose(code))
        return button

    def _update_buttons(self) -> None:
        for code, button in self._choices.items():
            button.icon = "check" if code == self.chosen else ""
        for (row, column), button in self._cells.items():
            code = int(self.tokens[row, column])
            button.tooltip = f"row {row}, column {column}: token {code}"
            _set_color(button, code)
        changes = int((self.tokens != self._true).sum())
        self._status.value = (
            f"The next click paints token {self.chosen} ({self.gallery[self.chosen]}). "
            f"Changed tokens: {changes}."
        )

    def _paint_and_show(self, row: int, column: int, _: Button) -> None:
        self.paint(row, column)
        self._show()

    def _restart_and_show(self) -> None:
        self.restart()
        self._show()

    def _show(self) -> None:
        with self._figure:
            clear_output(wait=True)
            figure = self.draw()
            display(figure)
            plt.close(figure)  # the notebook would show an open figure a second time


def commonest_tokens(tokens: Tensor, mask: Tensor, names: tuple[str, ...]) -> dict[int, str]:
    """For each class of a mask, the token that stands for most of its pixels.

    Args:
        tokens: the mask's token grid (h, w).
        mask: class ids (H, W); the stride is H / h.
        names: K class names.

    Returns:
        {token id: class name}, in the order of the classes. A token that two classes share stands
        for the first.
    """
    stride = mask.shape[0] // tokens.shape[0]
    of_pixel = tokens.repeat_interleave(stride, 0).repeat_interleave(stride, 1)  # (H, W)
    gallery: dict[int, str] = {}
    for number, name in enumerate(names):
        codes = of_pixel[mask == number]
        if len(codes):
            gallery.setdefault(int(codes.bincount().argmax()), name)
    return gallery


def _set_color(button: Button, code: int) -> None:
    """Give a button the colour of a token, and its text a colour that can be read on it."""
    red, green, blue = token_colors(torch.tensor([[code]]))[:, 0, 0].tolist()
    levels = (round(255 * value) for value in (red, green, blue))
    button.style.button_color = "#" + "".join(f"{level:02x}" for level in levels)
    bright = 0.299 * red + 0.587 * green + 0.114 * blue > 0.45
    button.style.text_color = "black" if bright else "white"


def show_domains(model: GSS, street: int = 21, domains: tuple[str, ...] = DOMAINS) -> Figure:
    """Draw one test street of Scenes in several domains, and what the model predicts.

    A row has the photograph, the true mask, the predicted mask and the wrong pixels in white. Day,
    dusk and fog show one street in three lights. Town is a street of another town.

    Args:
        model: predicts the 11 classes of Scenes.
        street: number of the street, from 0.
        domains: of `DOMAINS`, one row each.
    """
    rows = []
    titles = []
    for domain in domains:
        photograph, mask = Scenes(STREETS, split="test", domain=domain)[street]
        found = model.segment(photograph).mask  # (H, W)
        labelled = mask != IGNORE
        wrong = (found != mask) & labelled
        right = 100 * (1 - wrong.sum() / labelled.sum())
        rows.append([photograph, mask, found, wrong.float().expand(3, -1, -1)])
        titles += [domain, "true mask", f"prediction: {right:.0f} % right", "wrong pixels"]
    figure = show_masks(rows, titles[:4], model.colors, Scenes.classes)
    for axis, title in zip(figure.axes, titles):
        axis.set_title(title, fontsize=10)
    return figure


def domain_viewer(model: GSS, street: int = 21) -> interactive:
    """A control over `show_domains`: buttons choose the domain, a slider chooses the street."""

    def show(domain: str, street: int) -> Figure:
        figure = show_domains(model, street, (domain,))
        display(figure)
        plt.close(figure)
        return figure

    domains = ToggleButtons(options=DOMAINS, description="domain")
    slider = IntSlider(street, 0, STREETS - 1, description="street", continuous_update=False)
    viewer = interactive(show, domain=domains, street=slider)
    viewer.auto_display = False
    return viewer
