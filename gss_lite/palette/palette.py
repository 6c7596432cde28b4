"""X, the palette: one colour per class (supplement, section B).

A palette is the matrix β of the paper, K rows of D = 3 colour channels. Painting a mask of class
ids with it, x = cβ for one-hot c, gives the *maskige*: a picture that an image tokenizer can
encode.

The plain arithmetic construction and a greedy max-min one live here; `palette_constructions`,
`palette_search` and `palette_learned` hold the others.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from gss_lite.contracts import IGNORE, check_mask

KIND = "gss-lite palette"


@dataclass(frozen=True, eq=False)
class Palette:
    """K colours β (K, D) in [0, 1], row k for class k, and a colour for ignored pixels (mid-grey by default).

    Raises:
        ValueError: fewer than two colours, a value outside [0, 1], two equal colours (the mask
            could not be read back from the maskige), or an ignore colour that is not D values in
            [0, 1].
    """

    colors: Tensor
    name: str = "custom"
    ignore_color: tuple[float, ...] = field(default=())

    def __post_init__(self) -> None:
        colors = torch.as_tensor(self.colors, dtype=torch.float32)
        if colors.ndim != 2 or len(colors) < 2:
            raise ValueError(
                f"a palette needs K ≥ 2 colours as a (K, D) matrix; got shape {tuple(colors.shape)}"
            )
        if not bool(((colors >= 0) & (colors <= 1)).all()):  # written so that NaN is refused too
            raise ValueError(
                f"palette colours must lie in [0, 1]; got {colors.min():.3g} … {colors.max():.3g} "
                "(divide by 255?)"
            )
        unique, owner = colors.unique(dim=0, return_inverse=True)
        if len(unique) < len(colors):
            twice = int(torch.bincount(owner).argmax())
            ids = (owner == twice).nonzero().flatten().tolist()
            raise ValueError(
                f"palette colours must differ; classes {ids[0]} and {ids[1]} share "
                f"{unique[twice].tolist()}"
            )
        ignore = torch.tensor(
            tuple(self.ignore_color) or (0.5,) * colors.shape[1], dtype=torch.float32
        ).tolist()
        if len(ignore) != colors.shape[1] or not all(0 <= v <= 1 for v in ignore):
            raise ValueError(
                f"the ignore colour needs {colors.shape[1]} values in [0, 1], like the others; got "
                f"{ignore}"
            )
        object.__setattr__(self, "colors", colors)
        object.__setattr__(self, "ignore_color", tuple(ignore))

    def __len__(self) -> int:
        return len(self.colors)

    def paint(self, mask: Tensor) -> Tensor:
        """Mask of class ids (B, H, W) or (H, W) → maskige (B, D, H, W) or (D, H, W) in [0, 1]."""
        return paint(mask, self.colors, self.ignore_color)

    def least_distance(self) -> float:
        """The smallest Euclidean distance between two colours, on the 0–255 scale used in the paper's figures."""
        return 255 * float(torch.pdist(self.colors.double()).min())

    def save(self, path: str | Path) -> None:
        """Write the palette as JSON on the 0–255 scale; `load` gives back the same floats, bit for bit."""
        head = json.dumps(
            {
                "kind": KIND,
                "name": self.name,
                "ignore_color": [_to_255(v) for v in self.ignore_color],
            },
            ensure_ascii=False,
        )
        # one colour a line
        rows = ",\n".join(json.dumps([_to_255(v) for v in row]) for row in self.colors.tolist())
        path = Path(path)
        # renamed when whole: no reader sees half a file
        beside = path.with_name(f".{path.name}.{os.getpid()}.part")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            beside.write_text(f'{head[:-1]},\n"colors": [\n{rows}\n]}}\n', encoding="utf-8")
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | Path) -> Palette:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: no such file. ValueError: not JSON, not a palette, or not a valid
                one; names the file and why.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no palette at {path}; write one with Palette.save")
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:  # of the JSON, or of its UTF-8
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
                f'{path}: "colors" must be a list of [r, g, b] rows and "ignore_color" one such '
                "row, numbers from 0 to 255"
            )
        if {len(row) for row in [*colors, ignore]} != {len(ignore)}:
            raise ValueError(
                f"{path}: every colour needs the same number of channels as the ignore colour, "
                f"{len(ignore)}"
            )
        try:
            rows = torch.tensor([*colors, ignore], dtype=torch.float64).div(255).float()
            return cls(rows[:-1], name, tuple(rows[-1].tolist()))
        except ValueError as error:
            raise ValueError(f"{path} is not a valid palette: {error}") from error


def _is_color(row: object) -> bool:
    return (
        isinstance(row, list)
        and bool(row)
        and all(type(v) in (int, float) and math.isfinite(v) for v in row)
    )


def _to_255(value: float) -> float | int:
    # The shortest decimal that float32 takes back to the very same value: 45/255 is stored as 45.
    value = torch.tensor(value).item()
    for digits in range(3, 17):
        shown = float(f"{255 * value:.{digits}g}")
        if torch.tensor(shown, dtype=torch.float64).div(255).float().item() == value:
            break
    return int(shown) if shown.is_integer() else shown


def paint(mask: Tensor, colors: Tensor, ignore_color: tuple[float, ...] | None = None) -> Tensor:
    """X = cβ by look-up: class ids (…, H, W) and β (K, D) → maskige (…, D, H, W).

    Ignored pixels (255) take `ignore_color` (mid-grey by default).

    Raises:
        ValueError: an id that is neither 0…K−1 nor 255, or K > 255 (255 would be a class and the
            ignore id at once).
    """
    mask = check_mask(mask, len(colors))
    ignore = colors.new_tensor(ignore_color or (0.5,) * colors.shape[1])
    table = torch.cat([colors, ignore[None]])
    # (…, H, W, D) → (…, D, H, W)
    return table[mask.masked_fill(mask == IGNORE, len(colors))].movedim(-1, -3)
