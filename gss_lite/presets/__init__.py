"""All experiments by name: see `get_preset("scenes-cpu")` and `list_presets()`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from gss_lite.presets.paper import PAPER_PRESETS
from gss_lite.presets.parts import (
    DataSpec,
    InverseSchedule,
    PaletteSchedule,
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
    "PaletteSchedule",
    "Preset",
    "PriorSpec",
    "Schedule",
    "TokenizerSpec",
    "UViMSpec",
    "ViewSpec",
    "fixed",
    "get_preset",
    "learned_palette",
    "list_presets",
    "tokenizer_owner",
]

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {preset.name: preset for preset in (*SMALL_PRESETS, *PAPER_PRESETS)}
)


def get_preset(name: str | Preset) -> Preset:
    """Return a preset by its name. A preset is returned unchanged.

    NAME-tf and NAME-tt are the presets of GSS-TF and GSS-TT, see `learned_palette`.

    Raises:
        ValueError: there is no such name; the message lists all names.
    """
    if isinstance(name, Preset):
        return name
    base, _, kind = str(name).rpartition("-")
    if kind in ("tf", "tt") and base in PRESETS:
        return learned_palette(PRESETS[base], kind)
    if name not in PRESETS:
        near = difflib.get_close_matches(str(name), PRESETS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"no preset named {name!r}; there are: {', '.join(PRESETS)}.{hint}")
    return PRESETS[name]


def learned_palette(preset: Preset, kind: str) -> Preset:
    """Return the same preset with a learned palette: GSS-TF or GSS-TT (D.ii).

    The palette is learned through the preset's tokenizer, which stays as it is: 4,000 steps of SGD
    with batch 16, on crops of the size that X⁻¹ is trained on. The learning rate is ours; the paper
    gives none.

    Args:
        kind: "tf", or "tt" for a palette that is learned together with X⁻¹.

    Raises:
        ValueError: no such kind, or the preset has no prior, or its palette is a learned one.
    """
    if kind not in ("tf", "tt"):
        raise ValueError(f'a palette is learned as in GSS-TF or GSS-TT: "tf" or "tt"; got {kind!r}')
    if preset.learned == kind:
        return preset
    if preset.prior is None or preset.palette is None or preset.learned:
        raise ValueError(
            f"preset {preset.name} has no palette that GSS-{kind.upper()} could replace; choose a "
            "preset with a prior, as scenes-cpu or camvid"
        )
    inverse = preset.schedules.get("inverse-ft")
    crop = (inverse or preset.schedule("prior")).crop
    own = not isinstance(preset.tokenizer, str) and preset.tokenizer.kind == "vqvae"
    schedule = PaletteSchedule(
        steps=4_000,
        batch=16,
        crop=crop,
        lr=0.02,
        warmup=0,
        weight_decay=0.0,
        optimizer="sgd",
        network=inverse.network if inverse else {},
    )
    return replace(
        preset,
        name=f"{preset.name}-{kind}",
        palette=f"learned-{kind}",
        tokenizer=preset.name if own else preset.tokenizer,
        schedules={**preset.schedules, f"palette-{kind}": schedule},
        notes=f"{preset.name} with the palette of GSS-{kind.upper()}.",
    )


def list_presets() -> list[str]:
    """List the names of all presets: ours first, then the paper's."""
    return list(PRESETS)


def tokenizer_owner(preset: Preset) -> Preset:
    """Return the preset that owns the tokenizer: the preset itself, or the one it shares with."""
    return get_preset(preset.tokenizer) if isinstance(preset.tokenizer, str) else preset
