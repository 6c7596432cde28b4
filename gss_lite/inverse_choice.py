"""X⁻¹ by the name the command line gives it: found beside a model's weights, read back, and grafted on the model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from gss_lite.graft import graft
from gss_lite.gss import GSS
from gss_lite.inference import ExpectedGSS
from gss_lite.presets import Preset
from gss_lite.training.checkpoints import load_weights
from gss_lite.training.gaussian_stage import load_gaussians
from gss_lite.training.inverse_stage import KINDS

TITLES: Mapping[str, str] = MappingProxyType(
    {
        "ff": "GSS-FF",
        "ft": "GSS-FT",
        "ft-clean": "GSS-FT, clean",
        "ft-w": "GSS-FT-W",
        "ft-w-clean": "GSS-FT-W, clean",
        "gaussian": "GSS, Gaussians",
        "gaussian-clean": "GSS, Gaussians, clean",
        "expected": "GSS-FF, expected codes",
    }
)


def with_inverse(gss: GSS, preset: Preset, choice: str, weights: str | Path) -> tuple[GSS, str]:
    """A model as `load_gss` gives it (nearest colour), with the X⁻¹ that `choice` names; and the name, a key of TITLES.

    Args:
        choice: "ff", the model as it is; "expected", nearest colour of the expected codes' maskige;
            another key of TITLES, whose file `train --stage inverse-KIND` left in folder `weights`;
            or the path of such a file.

    Raises:
        ValueError: a choice that is none of these, or an X⁻¹ of another palette (see `graft`).
            FileNotFoundError: no such file.
    """
    if choice == "ff":
        return gss, choice
    if choice == "expected":
        return ExpectedGSS(gss.palette, gss.tokenizer, gss.prior, gss.inverse).train(
            gss.training
        ), choice
    if not choice.endswith(".safetensors") and choice not in TITLES:
        raise ValueError(
            f"X⁻¹ must be one of {', '.join(TITLES)}, or a .safetensors file that `train --stage "
            f"inverse-…` wrote; got {choice!r}"
        )
    path = (
        Path(choice)
        if choice.endswith(".safetensors")
        else Path(weights) / f"{preset.name}.inverse-{choice}.safetensors"
    )
    inverse, name = open_inverse(path)
    return graft(gss, inverse), name


def open_inverse(path: Path) -> tuple[nn.Module, str]:
    """The X⁻¹ in a file of weights, in eval mode, and its name, a key of TITLES. The run record beside it says what it is.

    Raises:
        FileNotFoundError: no weights there, or no record beside them. ValueError: one of the two is
            damaged, or of something else.
    """
    card = path.with_suffix(".json")
    for file, what in ((path, "X⁻¹"), (card, "run record beside the weights")):
        if not file.is_file():
            raise FileNotFoundError(
                f"no {what} at {file}; train --stage inverse-ft, inverse-ft-w or inverse-gaussian "
                "(python -m gss_lite) leaves both in its --out"
            )
    try:
        record = json.loads(card.read_text())
        name = record["kind"].removeprefix("train inverse-")
        if name not in TITLES:
            raise ValueError(f"{path} is no X⁻¹: its record says {record['kind']!r}")
        kind = name.removesuffix("-clean")
        if kind == "gaussian":
            return load_gaussians(path), name
        inverse = KINDS[kind](load_file(path)["colors"], **record["size"])
    except (KeyError, json.JSONDecodeError, SafetensorError) as error:
        raise ValueError(
            f"{path} and the record beside it do not describe an X⁻¹ ({type(error).__name__}: "
            f"{error}); train it again"
        ) from error
    load_weights(path, inverse)
    return inverse.eval(), name
