"""X, the palette: one colour per class (supplement, section B).

A palette is the matrix β of the paper: K rows, one for each class, with a value for each of D
channels. The *maskige* is the mask painted in these colours, x = cβ for one-hot c: a picture that
an image tokenizer can encode.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from gss_lite.color_table import first_of_equals
from gss_lite.contracts import IGNORE, check_mask
from gss_lite.storage import replace_file

KIND = "gss-lite palette"
GREY = 0.5  # every channel of the colour that ignored pixels take by default


class Palette(nn.Module):
    """X: K colours β (K, D) in [0, 1], row k for class k, and a colour for ignored pixels.

    Call it with a mask to get the maskige. The colours are buffers, so `palette.to(device)` moves
    them. They are not in the state_dict, because a palette has its own file, see `save`.

    Args:
        colors: β (K, D) in [0, 1], for any number of channels D. It is copied.
        name: the palette's name in figures and tables.
        ignore_color: D values in [0, 1]; mid-grey by default.

    Raises:
        ValueError: there are fewer than two colours, a value lies outside [0, 1], two colours are
            equal (no X⁻¹ could separate their classes), or the ignore colour is not D values in
            [0, 1].
    """

    def __init__(
        self,
        colors: Tensor | Sequence[Sequence[float]],
        name: str = "custom",
        ignore_color: Tensor | Sequence[float] = (),
    ) -> None:
        super().__init__()
        colors = torch.as_tensor(colors, dtype=torch.float32).detach().clone()
        _check_colors(colors)
        if not len(ignore_color):
            ignore_color = (GREY,) * colors.shape[1]
        ignore = torch.as_tensor(ignore_color, dtype=torch.float32, device=colors.device)
        ignore = ignore.detach().clone()
        if ignore.shape != colors.shape[1:] or not _within_unit_interval(ignore):
            raise ValueError(
                f"the ignore colour needs {colors.shape[1]} values in [0, 1], like the others; got "
                f"{ignore.tolist()}"
            )
        self.name = name
        self.origin: dict = {}  # identifies the training run, if the palette was learned in one
        self.register_buffer("colors", colors, persistent=False)
        self.register_buffer("ignore_color", ignore, persistent=False)

    def forward(self, mask: Tensor) -> Tensor:
        """Mask of class ids (B, H, W) or (H, W) → maskige (B, D, H, W) or (D, H, W) in [0, 1]."""
        return paint(mask, self.colors, self.ignore_color)

    def __len__(self) -> int:
        return len(self.colors)

    def extra_repr(self) -> str:
        """What `print(palette)` shows between the brackets."""
        classes, channels = self.colors.shape
        return f"{self.name!r}, {classes} classes, {channels} channels"

    def least_distance(self) -> float:
        """The smallest Euclidean distance between two colours, on the 0–255 scale of the paper."""
        return 255 * float(torch.pdist(self.colors.cpu().double()).min())

    def save(self, path: str | Path) -> None:
        """Write the palette as JSON on the 0–255 scale; `load` gives back the same floats."""
        colors = [_to_255(color) for color in self.colors]
        head = {
            "kind": KIND,
            "name": self.name,
            "ignore_color": _to_255(self.ignore_color),
        }
        if self.origin:
            head["origin"] = self.origin
        if _looks_like_0_to_1(colors):
            head["scale"] = 255  # so that `load` does not take nearly black colours for 0–1
        head = json.dumps(head, ensure_ascii=False)
        rows = ",\n".join(json.dumps(color) for color in colors)  # one colour a line
        text = f'{head[:-1]},\n"colors": [\n{rows}\n]}}\n'
        replace_file(Path(path), lambda file: file.write_bytes(text.encode()))

    @classmethod
    def load(cls, path: str | Path) -> Palette:
        """Read a file that `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is not JSON, not a palette, or not a valid palette.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no palette at {path}; write one with Palette.save")
        try:
            value = json.loads(path.read_bytes())  # from bytes, so that a byte-order mark is legal
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{path} is not JSON, perhaps cut short ({error}); save the palette again"
            ) from error
        if not isinstance(value, dict) or value.get("kind") != KIND:
            raise ValueError(
                f'{path} holds JSON, but not a palette: expected an object with "kind": "{KIND}"'
            )
        name, colors, ignore = (value.get(key) for key in ("name", "colors", "ignore_color"))
        if not isinstance(name, str):
            raise ValueError(f'{path}: "name" must be a text; got {name!r}')
        if not (isinstance(colors, list) and colors and all(map(_is_color, [*colors, ignore]))):
            raise ValueError(
                f'{path}: "colors" must be a list of rows such as [r, g, b] and "ignore_color" one '
                "such row, numbers from 0 to 255"
            )
        if {len(row) for row in [*colors, ignore]} != {len(ignore)}:
            raise ValueError(
                f"{path}: every colour needs the same number of channels as the ignore colour, "
                f"{len(ignore)}"
            )
        try:
            rows = torch.tensor([*colors, ignore], dtype=torch.float64).div(255).float()
            palette = cls(rows[:-1], name, rows[-1])
        except ValueError as error:
            raise ValueError(f"{path} is not a valid palette: {error}") from error
        if _looks_like_0_to_1(colors) and value.get("scale") != 255:
            raise ValueError(
                f"{path}: no colour has a value above 1, so they seem to be on the 0–1 scale; "
                'multiply them by 255, or add "scale": 255 if they are as dark as that'
            )
        palette.origin = value.get("origin") or {}
        return palette


def paint(
    mask: Tensor, colors: Tensor, ignore_color: Tensor | Sequence[float] | None = None
) -> Tensor:
    """X = cβ by look-up: class ids (…, H, W) and β (K, D) → maskige (…, D, H, W).

    The maskige is on the mask's device.

    Args:
        mask: class ids; 255 marks ignored pixels.
        colors: β (K, D). Gradients flow to it.
        ignore_color: the D values of ignored pixels; mid-grey by default.

    Raises:
        ValueError: an id is neither 0 … K−1 nor 255, or K > 255.
    """
    mask = check_mask(mask, len(colors))
    if ignore_color is None:
        ignore_color = (GREY,) * colors.shape[1]
    ignore = torch.as_tensor(ignore_color, dtype=colors.dtype, device=colors.device)
    table = torch.cat([colors, ignore[None]]).to(mask.device)  # (K + 1, D)
    maskige = table[mask.masked_fill(mask == IGNORE, len(colors))]  # (…, H, W, D)
    return maskige.movedim(-1, -3)  # (…, D, H, W)


def check_size(num_classes: int, channels: int = 3) -> None:
    """Raise ValueError unless K is a whole number from 2 to 256³, and D one from 1 to 16."""
    # 256³ is the number of 8-bit colours. A grid of two points along 16 channels has 65,536 points.
    for name, value, least, most in (
        ("classes", num_classes, 2, 256**3),
        ("channels", channels, 1, 16),
    ):
        if type(value) is not int or not least <= value <= most:
            raise ValueError(
                f"a palette needs a whole number of {name}, from {least} to {most}; got {value!r}"
            )


def _check_colors(colors: Tensor) -> None:
    if colors.ndim != 2 or len(colors) < 2 or colors.shape[1] < 1:
        raise ValueError(
            f"a palette needs K ≥ 2 colours as a (K, D) matrix; got shape {tuple(colors.shape)}"
        )
    if not _within_unit_interval(colors):
        raise ValueError(
            f"palette colours must lie in [0, 1]; got {colors.min():.3g} … {colors.max():.3g} "
            "(divide by 255?)"
        )
    first = first_of_equals(colors)  # (K,)
    for later, earlier in enumerate(first.tolist()):
        if earlier != later:
            raise ValueError(
                f"palette colours must differ; classes {earlier} and {later} share "
                f"{colors[later].tolist()}"
            )


def _within_unit_interval(values: Tensor) -> bool:
    return bool(((values >= 0) & (values <= 1)).all())  # False for NaN too


def _is_color(row: object) -> bool:
    # The bound also excludes NaN, infinity, and integers that are too large for a float.
    return (
        isinstance(row, list)
        and bool(row)
        and all(type(v) in (int, float) and abs(v) < 1e9 for v in row)
    )


def _looks_like_0_to_1(rows: list[list[float]]) -> bool:
    return max(max(row) for row in rows) <= 1


def _to_255(color: Tensor) -> list[float | int]:
    """The shortest decimals that give the same float32 again: 45/255 is stored as 45."""
    levels = []
    for value in color.tolist():
        for digits in range(3, 17):
            level = float(f"{255 * value:.{digits}g}")
            if torch.tensor(level, dtype=torch.float64).div(255).float().item() == value:
                break
        levels.append(int(level) if level.is_integer() else level)
    return levels
