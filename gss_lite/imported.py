"""The files that an imported checkpoint adds to a folder of weights: its sizes and its dVAE."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from gss_lite.presets.parts import Preset, PriorSpec, fixed
from gss_lite.storage import read_json


def imported(preset: Preset, folder: Path) -> Preset:
    """Return a preset with the sizes and the palette of a checkpoint that was imported to a folder.

    Without such a checkpoint in the folder the preset is returned unchanged.

    Raises:
        ValueError: the file of the sizes is damaged.
    """
    path = architecture_path(preset, folder)
    if not path.is_file():
        return preset
    card = read_json(path)
    try:
        spec = PriorSpec(
            card["backbone"], fixed(**card["backbone_arguments"]), fixed(**card["head"])
        )
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{path} does not describe an imported model ({type(error).__name__}: {error}); import "
            "the checkpoint again, into a new folder"
        ) from error
    return replace(preset, prior=spec, palette="imported")


def architecture_path(preset: Preset, folder: Path) -> Path:
    """Return the path of the sizes of an imported model."""
    return folder / f"{preset.name}.architecture.json"


def dvae_path(preset: Preset, folder: Path) -> Path:
    """Return the path of the dVAE that an imported checkpoint brought with it."""
    return folder / f"{preset.name}.dvae.safetensors"


def read_dvae(path: str | Path) -> dict[str, Tensor]:
    """Read a safetensors file of the dVAE's tensors, named as `dvae_from_published` takes them.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no dVAE at {path}; import the checkpoint again")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or cut short ({error})") from error
