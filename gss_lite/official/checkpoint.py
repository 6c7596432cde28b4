"""Read a released checkpoint file as data; nothing in it is executed."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from gss_lite.palette.palette import Palette

DVAE = "decode_head.d_vae."
NUMPY = (  # in the notes that a training run leaves in a checkpoint
    "numpy.dtype",
    "numpy.ndarray",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
)


class Ignored:
    """Stands for an object in the file that is not needed: it keeps nothing and does nothing."""

    def __new__(cls, *args: object) -> Ignored:
        """Take any arguments."""
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Take any state."""


class Checkpoint(NamedTuple):
    """The contents of a released checkpoint.

    Attributes:
        state: released name → tensor, without "module." and without the dVAE.
        dvae: "encoder." or "decoder." and OpenAI's name → tensor; {} if the file holds none.
        palette: K + 1 colours (K + 1, 3) from 0 to 255, the last one for ignored pixels; None if
            the file does not name them.
        unused: the file's other entries, as its optimizer's state.
    """

    state: dict[str, Tensor]
    dvae: dict[str, Tensor]
    palette: Tensor | None
    unused: list[str]


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a released checkpoint, with or without the wrapper of mmcv, "module." and the dVAE.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, asks to run something, or holds no named tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}; name a released .pth file")
    try:
        with torch.serialization.safe_globals([(Ignored, name) for name in NUMPY]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch raises half a dozen types for a damaged file
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f"it names {asked[1]}" if asked else re.split(r"[.\n]", str(error))[0][:120]
        raise ValueError(
            f"{path} cannot be read as plain tensors, so nothing was imported and nothing in it "
            f"was run. It is cut short or damaged, or it asks for code ({type(error).__name__}: "
            f"{reason}). Fetch it again, and check where it comes from"
        ) from error
    return split_checkpoint(content, path)


def split_checkpoint(content: object, path: str | Path = "the checkpoint") -> Checkpoint:
    """Sort what a checkpoint file holds.

    Args:
        content: a state dict, or a mapping with one under "state_dict".
        path: names the file in errors.

    Raises:
        ValueError: there is no state dict, or a value in it is no plain tensor.
    """
    wrapper = content if isinstance(content, Mapping) else {}
    state = wrapper.get("state_dict", wrapper)
    if not isinstance(state, Mapping) or not state:
        raise ValueError(f"{path} holds no state dict; expected names and tensors")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(
                f"{path} holds no state dict: {str(name)[:80]!r} is a {type(value).__name__}, "
                "where a tensor was expected"
            )
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    for name, tensor in state.items():
        # A few bytes can claim to be a huge tensor, by repeating themselves.
        plain = tensor.layout == torch.strided and not tensor.is_quantized
        if not plain or tensor.untyped_storage().nbytes() < tensor.numel() * tensor.itemsize:
            raise ValueError(f"{path}: {name} is no plain tensor of numbers")
    return Checkpoint(
        state={name: t for name, t in state.items() if not name.startswith(DVAE)},
        dvae={n.removeprefix(DVAE): t for n, t in state.items() if n.startswith(DVAE)},
        palette=_palette(wrapper) if state is not wrapper else None,
        unused=[str(key) for key in wrapper if key not in ("state_dict", "palette")]
        if state is not wrapper
        else [],
    )


def _palette(wrapper: Mapping) -> Tensor | None:
    """The palette in a wrapper: under its own name, or in the config's text that mmcv stores."""
    given = wrapper.get("palette")
    if isinstance(given, Tensor) and given.ndim == 2:
        return given.double()
    meta = wrapper.get("meta")
    config = meta.get("config") if isinstance(meta, Mapping) else None
    return palette_in_config(config) if isinstance(config, str) else None


def palette_in_config(text: str) -> Tensor | None:
    """The `palette=[[r, g, b], …]` in the text of a released config, (K + 1, 3) from 0 to 255.

    The text is parsed, and nothing in it is executed. None if it names no palette.

    Raises:
        ValueError: the text is no Python, or it names different palettes.
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"the text of the config is no Python ({error})") from error
    found = []
    for node in ast.walk(tree):
        pairs = []
        if isinstance(node, ast.keyword):
            pairs = [(node.arg, node.value)]
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            pairs = [(node.targets[0].id, node.value)]
        elif isinstance(node, ast.Dict):
            pairs = [(key.value, v) for key, v in zip(node.keys, node.values) if _is_text(key)]
        found += [_colors(value) for name, value in pairs if name == "palette"]
    palettes = [colors for colors in found if colors is not None]
    if any(not torch.equal(colors, palettes[0]) for colors in palettes):
        raise ValueError("the text of the config names different palettes")
    return palettes[0] if palettes else None


def _is_text(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _colors(node: ast.expr) -> Tensor | None:
    """A literal list of colours as (K + 1, 3); None if it is something else."""
    try:
        colors = torch.tensor(ast.literal_eval(node), dtype=torch.float64)
    except (ValueError, TypeError, SyntaxError, RecursionError, RuntimeError, MemoryError):
        return None
    return colors if colors.ndim == 2 and colors.shape[1] == 3 else None


def read_palette(path: str | Path) -> Tensor:
    """The colours in a palette's JSON file or in a released config (.py), (K + 1, 3) from 0 to 255.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file names no palette.
    """
    path = Path(path)
    if path.suffix != ".py":
        palette = Palette.load(path)
        return 255 * torch.cat([palette.colors, palette.ignore_color[None]]).double()
    if not path.is_file():
        raise FileNotFoundError(f"no config at {path}; name a config of the released code")
    colors = palette_in_config(path.read_text(encoding="utf-8-sig", errors="replace"))
    if colors is None:
        raise ValueError(f"{path} names no palette=[[r, g, b], …]; name a config of a GSS model")
    return colors


def as_palette(colors: Tensor, num_classes: int) -> Palette:
    """The palette of a checkpoint with K classes; its last row is for ignored pixels.

    Raises:
        ValueError: there are not K + 1 colours, or they are no colours from 0 to 255.
    """
    if len(colors) != num_classes + 1:
        raise ValueError(
            f"the palette has {len(colors)} colours; expected {num_classes + 1}, one for each of "
            f"the checkpoint's {num_classes} classes and one for ignored pixels"
        )
    colors = (colors.double() / 255).float()
    return Palette(colors[:-1], "released", colors[-1])
