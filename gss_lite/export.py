"""Shipping: a run's weights, in 16 bits, and its records go into the package, or nothing does.

Everything is read and checked before the first file changes. A prior whose tokenizer would be
exchanged under it is named, and the export is refused.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from torch import nn

from gss_lite.data import DATASETS
from gss_lite.factory import (
    SHIPPED,
    create_palette,
    create_prior,
    create_tokenizer,
    load_inverse,
    owns_palette,
    stage_one_hashes,
)
from gss_lite.palette import Palette
from gss_lite.presets import PRESETS, Preset, get_preset, tokenizer_owner
from gss_lite.storage import (
    load_weights,
    read_json,
    save_weights,
    what_it_rests_on,
    write_json,
)

LOG_LINES = 60


def export_weights(
    preset: str | Preset, run: str | Path, folder: str | Path = SHIPPED
) -> list[Path]:
    """Copy what `run` holds of NAME.{palette,vqvae,prior,inverse-*} to `folder` → the paths.

    Weights are stored in 16 bits, each with a JSON card: the training record with its log thinned
    to about 60 lines, which is enough for a curve, and the licence of the data where there is one
    to keep to.

    Raises:
        FileNotFoundError: the run holds no weights of the preset, or a record is missing.
        ValueError: a file is damaged; parts belong to different runs; or a prior in `folder` that
            stays there rests on the tokenizer that would be replaced. Nothing is changed then.
    """
    preset = get_preset(preset)
    run = Path(run)
    folder = Path(folder)
    modules = _read_modules(preset, run)
    cards = {stage: _read_card(run / f"{preset.name}.{stage}.json") for stage in modules}
    _check_belongs_together(preset, run, modules)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as made:
        staged = Path(made)
        _write_all(preset, run, modules, cards, staged)
        _check_nothing_breaks(preset, modules, staged, folder)
        return _exchange(sorted(staged.iterdir()), folder)


def _read_modules(preset: Preset, run: Path) -> dict[str, nn.Module]:
    modules: dict[str, nn.Module] = {}
    vqvae = run / f"{preset.name}.vqvae.safetensors"
    prior = run / f"{preset.name}.prior.safetensors"
    if vqvae.exists() and tokenizer_owner(preset) is preset:
        modules["vqvae"] = create_tokenizer(preset)
        load_weights(vqvae, modules["vqvae"])
    if prior.exists():
        modules["prior"] = create_prior(preset)
        load_weights(prior, modules["prior"])
    for path in sorted(run.glob(f"{preset.name}.inverse-*.safetensors")):
        modules[path.stem.removeprefix(f"{preset.name}.")] = load_inverse(path)[0]
    if not modules:
        raise FileNotFoundError(
            f"{run} holds no weights of {preset.name}; train them first: "
            f"python -m gss_lite train --preset {preset.name}"
        )
    return modules


def _read_card(path: Path) -> dict:
    if not path.is_file():
        raise FileNotFoundError(
            f"no run record at {path}, which the weights beside it need; put it back, or train "
            "the stage again"
        )
    card = read_json(path)
    if not isinstance(card.get("log"), list):
        raise ValueError(f"{path} is no training record: it has no log")
    return card


def _check_belongs_together(preset: Preset, run: Path, modules: dict) -> None:
    """A prior must rest on the palette and the tokenizer that are exported with it."""
    if "prior" not in modules:
        return
    path = run / f"{preset.name}.prior.safetensors"
    owned = tokenizer_owner(preset) is preset
    tokenizer = modules.get("vqvae") or create_tokenizer(preset, pretrained=True)
    if owned and "vqvae" not in modules and preset.tokenizer.kind == "vqvae":
        raise ValueError(f"{path} is there without its tokenizer; a prior is exported with it")
    hashes = stage_one_hashes(create_palette(preset, run), tokenizer)
    if any(what_it_rests_on(path).get(name) != value for name, value in hashes.items()):
        raise ValueError(
            f"{path} was not trained on the palette and tokenizer in {run}; train the prior again"
        )


def _write_all(preset: Preset, run: Path, modules: dict, cards: dict, staged: Path) -> None:
    palette = run / f"{preset.name}.palette.json"
    if palette.exists() and owns_palette(preset):
        Palette.load(palette).save(staged / palette.name)
    for stage, module in modules.items():
        path = staged / f"{preset.name}.{stage}.safetensors"
        rests_on = None
        if stage == "prior":
            rests_on = _hashes_as_shipped(preset, run, modules, staged)
        save_weights(path, module, half=True, rests_on=rests_on)
        card = cards[stage]
        card["log"] = card["log"][:: max(1, len(card["log"]) // LOG_LINES)]
        card |= {"stored_as": "float16", "bytes": path.stat().st_size}
        licence = _licence(preset)
        if licence:
            card["data_licence"] = licence
        write_json(path.with_suffix(".json"), card)


def _hashes_as_shipped(preset: Preset, run: Path, modules: dict, staged: Path) -> dict[str, str]:
    """The hashes that a reader of the shipped files will find, after rounding to 16 bits."""
    if "vqvae" in modules:
        tokenizer = create_tokenizer(preset, pretrained=staged)
    else:
        tokenizer = create_tokenizer(preset, pretrained=True)
    return stage_one_hashes(create_palette(preset, run), tokenizer)


def _licence(preset: Preset) -> str | None:
    spec = tokenizer_owner(preset).tokenizer
    for name in (preset.data.name, spec.photographs):
        entry = DATASETS.get(name)
        if entry and entry.licence:
            return entry.licence
    return None


def _check_nothing_breaks(preset: Preset, modules: dict, staged: Path, folder: Path) -> None:
    """Refuse to exchange a tokenizer under a prior that stays."""
    if "vqvae" not in modules:
        return
    tokenizer = create_tokenizer(preset, pretrained=staged)
    palette = create_palette(preset, staged) if preset.palette else None
    hashes = stage_one_hashes(palette, tokenizer) if palette else {}
    broken = []
    for other in PRESETS.values():
        path = folder / f"{other.name}.prior.safetensors"
        replaced = other.name == preset.name and "prior" in modules
        if tokenizer_owner(other).name != preset.name or replaced or not path.exists():
            continue
        trained_on = what_it_rests_on(path)
        if any(trained_on.get(name) != value for name, value in hashes.items()):
            broken.append(path.name)
    if broken:
        raise ValueError(
            f"{folder} holds {', '.join(broken)}, trained on the tokenizer that this export would "
            "replace; they would predict nonsense. Train them on the new tokenizer and export them "
            "too, or remove them first"
        )


def _exchange(files: list[Path], folder: Path) -> list[Path]:
    """Move the new files to their places; if one cannot be moved, the old ones come back."""
    kept = Path(tempfile.mkdtemp(prefix=".old-", dir=folder))
    moved: list[Path] = []
    try:
        for file in files:
            target = folder / file.name
            if target.exists():
                shutil.move(target, kept / file.name)
            shutil.move(file, target)
            moved.append(target)
    except OSError:
        for target in moved:
            target.unlink(missing_ok=True)
        for file in kept.iterdir():
            shutil.move(file, folder / file.name)
        raise
    finally:
        shutil.rmtree(kept)
    return moved
