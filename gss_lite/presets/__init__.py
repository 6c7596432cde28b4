"""All experiments by name: see `get_preset("scenes-cpu")` and `list_presets()`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType

from gss_lite.presets.paper import PAPER_PRESETS
from gss_lite.presets.parts import (
    DataSpec,
    InverseSchedule,
    Preset,
    PriorSpec,
    Schedule,
    TokenizerSpec,
    UViMSpec,
    ViewSpec,
    fixed,
)
from gss_lite.presets.small import SMALL_PRESETS

__all__ = [
    "PAPER_PRESETS",
    "PRESETS",
    "DataSpec",
    "InverseSchedule",
    "Preset",
    "PriorSpec",
    "Schedule",
    "TokenizerSpec",
    "UViMSpec",
    "ViewSpec",
    "fixed",
    "get_preset",
    "list_presets",
    "tokenizer_owner",
]

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {preset.name: preset for preset in (*SMALL_PRESETS, *PAPER_PRESETS)}
)


def get_preset(name: str | Preset) -> Preset:
    """Return a preset by its name. A preset is returned unchanged.

    Raises:
        ValueError: there is no such name; the message lists all names.
    """
    if isinstance(name, Preset):
        return name
    if name not in PRESETS:
        near = difflib.get_close_matches(str(name), PRESETS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"no preset named {name!r}; there are: {', '.join(PRESETS)}.{hint}")
    return PRESETS[name]


def list_presets() -> list[str]:
    """List the names of all presets: ours first, then the paper's."""
    return list(PRESETS)


def tokenizer_owner(preset: Preset) -> Preset:
    """Return the preset that owns the tokenizer: the preset itself, or the one it shares with."""
    return get_preset(preset.tokenizer) if isinstance(preset.tokenizer, str) else preset
