"""Export: copy a run's weights, in 16 bits, and its records into the package.

Everything is read and checked before the first file changes. The export is refused if it would
replace the tokenizer of weights that stay in the package.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from gss_lite.baselines.build import (
    create_language_model,
    create_uvim_base,
    uvim_base_hash,
)
from gss_lite.contracts import Tokenizer
from gss_lite.data import DATASETS
from gss_lite.factory import (
    SHIPPED,
    create_palette,
    create_prior,
    create_tokenizer,
    load_inverse,
    owns_palette,
    palette_hash,
    stage_one_hashes,
    tokenizer_path,
)
from gss_lite.palette import Palette
from gss_lite.presets import PRESETS, Preset, get_preset, tokenizer_owner
from gss_lite.storage import (
    check_rests_on,
    check_writable,
    load_weights,
    read_json,
    save_weights,
    weights_hash,
    what_it_rests_on,
    write_json,
)

LOG_LINES = 60


def export_weights(
    preset: str | Preset, run: str | Path, folder: str | Path = SHIPPED
) -> list[Path]:
    """Copy NAME.{palette,vqvae,prior,inverse-*,uvim-*} of `run` to `folder` → the files' paths.

    Weights are stored in 16 bits, each with a JSON card. The card is the training record, with
    about 60 entries of its log and the licence of the data, if there is one.

    After an error nothing is changed.

    Raises:
        FileNotFoundError: the run holds no weights of the preset, or a record is missing.
        ValueError: a file is damaged; parts belong to different runs; or weights that stay in
            `folder` were trained with the tokenizer that would be replaced.
        OSError: the files cannot be written.
    """
    preset = get_preset(preset)
    run = Path(run)
    folder = Path(folder)
    modules = _read_modules(preset, run)
    rivals = _read_uvim(preset, run)
    if not modules and not rivals:
        raise FileNotFoundError(
            f"{run} holds no weights of {preset.name}; train them first: "
            f"python -m gss_lite train --preset {preset.name}"
        )
    stages = [*modules, *rivals]
    cards = {stage: _read_card(run / f"{preset.name}.{stage}.json") for stage in stages}
    palette = _read_palette(preset, run)
    _check_belongs_together(preset, run, folder, modules, palette)
    check_writable(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as made:
        staged = Path(made)
        hashes = _write_stage_one(preset, modules, cards, palette, staged, folder)
        for stage in modules.keys() - {"vqvae"}:
            # Without a tokenizer beside it, an X⁻¹ keeps the hashes of its own file.
            known = what_it_rests_on(run / f"{preset.name}.{stage}.safetensors")
            _write(preset, stage, modules[stage], cards[stage], staged, hashes or known)
        _write_uvim(preset, rivals, cards, staged, folder)
        _check_nothing_breaks(preset, modules, hashes, folder)
        return _exchange(sorted(staged.iterdir()), folder)


def _read_modules(preset: Preset, run: Path) -> dict[str, nn.Module]:
    modules: dict[str, nn.Module] = {}
    vqvae = run / f"{preset.name}.vqvae.safetensors"
    prior = run / f"{preset.name}.prior.safetensors"
    if vqvae.exists() and tokenizer_owner(preset) is preset:
        modules["vqvae"] = create_tokenizer(preset, pretrained=run)
    if prior.exists():
        modules["prior"] = create_prior(preset)
        load_weights(prior, modules["prior"])
    for path in sorted(run.glob(f"{preset.name}.inverse-*.safetensors")):
        modules[path.stem.removeprefix(f"{preset.name}.")] = load_inverse(path)[0]
    return modules


def _read_uvim(preset: Preset, run: Path) -> dict[str, nn.Module]:
    """Read UViM's stages, the first one first. Stage II is read with the stage I beside it."""
    paths = {path.stem.removeprefix(f"{preset.name}."): path for path in _uvim_files(preset, run)}
    if not paths:
        return {}
    modules: dict[str, nn.Module] = {"uvim-base": create_uvim_base(preset, run)}
    for stage in paths.keys() - modules.keys():
        modules[stage] = create_language_model(preset, stage == "uvim-code-ar")
        load_weights(paths[stage], modules[stage])
        check_rests_on(paths[stage], uvim_base_hash(modules["uvim-base"]))
    return modules


def _uvim_files(preset: Preset, folder: Path) -> list[Path]:
    names = ("uvim-base", "uvim-code", "uvim-code-ar")
    paths = [folder / f"{preset.name}.{name}.safetensors" for name in names]
    return [path for path in paths if path.exists()]


def _read_card(path: Path) -> dict:
    if not path.is_file():
        raise FileNotFoundError(
            f"no run record at {path} beside the weights; put it back, or train the stage again"
        )
    card = read_json(path)
    if not isinstance(card.get("log"), list):
        raise ValueError(f"{path} is no training record: it has no log")
    return card


def _read_palette(preset: Preset, run: Path) -> Palette | None:
    """Return the run's palette; None if the preset has no palette, or the run only an X⁻¹."""
    stages = ("vqvae", "prior")
    trained = any((run / f"{preset.name}.{s}.safetensors").exists() for s in stages)
    return create_palette(preset, run) if preset.palette and trained else None


def _check_belongs_together(
    preset: Preset, run: Path, folder: Path, modules: Mapping, palette: Palette | None
) -> None:
    """Check that all weights were trained with the palette and tokenizer that they end up with."""
    owned = tokenizer_owner(preset) is preset and preset.tokenizer.kind == "vqvae"
    if "prior" in modules and owned and "vqvae" not in modules:
        path = run / f"{preset.name}.prior.safetensors"
        raise ValueError(
            f"{path} is there without its tokenizer; put the VQ-VAE of its run beside it"
        )
    if "vqvae" in modules and palette:
        check_rests_on(run / f"{preset.name}.vqvae.safetensors", palette_hash(palette))
    tokenizer = modules.get("vqvae") or _tokenizer_in(preset, folder)
    if tokenizer is None:
        return
    hashes = {"tokenizer_sha256": weights_hash(tokenizer)}
    for stage in modules.keys() - {"vqvae"}:
        wanted = {**hashes, **palette_hash(palette)} if stage == "prior" else hashes
        check_rests_on(run / f"{preset.name}.{stage}.safetensors", wanted)


def _tokenizer_in(preset: Preset, folder: Path) -> Tokenizer | None:
    """Return the tokenizer of the preset's weights in `folder`; None if there is none."""
    if tokenizer_owner(preset).tokenizer.kind == "vqvae":
        folder = folder if tokenizer_path(preset, folder).exists() else None
    return create_tokenizer(preset, pretrained=folder) if folder else None


def _write_stage_one(
    preset: Preset,
    modules: Mapping,
    cards: Mapping,
    palette: Palette | None,
    staged: Path,
    folder: Path,
) -> dict[str, str]:
    """Write palette and tokenizer → their hashes in 16 bits, for the weights that use them."""
    if palette and preset.needs_masks and owns_palette(preset):
        palette.save(staged / f"{preset.name}.palette.json")
    if "vqvae" in modules:
        rests_on = palette_hash(palette) if palette else {}
        _write(preset, "vqvae", modules["vqvae"], cards["vqvae"], staged, rests_on)
        tokenizer = create_tokenizer(preset, pretrained=staged)
    else:
        tokenizer = _tokenizer_in(preset, folder)
    if tokenizer is None:
        return {}
    if palette:
        return stage_one_hashes(palette, tokenizer)
    return {"tokenizer_sha256": weights_hash(tokenizer)}


def _write_uvim(
    preset: Preset, rivals: Mapping, cards: Mapping, staged: Path, folder: Path
) -> None:
    """Write UViM's stages, so that stage II rests on stage I in 16 bits.

    Raises:
        ValueError: a stage II that stays in `folder` would lose its stage I.
    """
    rests_on: dict[str, str] = {}
    for stage, module in rivals.items():
        _write(preset, stage, module, cards[stage], staged, rests_on)
        if stage == "uvim-base":
            rests_on = uvim_base_hash(create_uvim_base(preset, staged))
    for path in _uvim_files(preset, folder):
        stays = path.stem.removeprefix(f"{preset.name}.") not in rivals
        if stays and rivals and what_it_rests_on(path) != rests_on:
            raise ValueError(
                f"{folder} holds {path.name}, trained with the stage I that this export would "
                "replace. Train it on the new one and export it too, or remove it first"
            )


def _write(
    preset: Preset,
    stage: str,
    module: nn.Module,
    card: dict,
    staged: Path,
    rests_on: Mapping[str, str],
) -> None:
    path = staged / f"{preset.name}.{stage}.safetensors"
    save_weights(path, module, half=True, rests_on=rests_on)
    thinned = card["log"][:: max(1, len(card["log"]) // LOG_LINES)]
    card = {**card, "log": thinned, "stored_as": "float16", "bytes": path.stat().st_size}
    licence = _licence(preset)
    if licence:
        card["data_licence"] = licence
    write_json(path.with_suffix(".json"), card)


def _licence(preset: Preset) -> str | None:
    spec = tokenizer_owner(preset).tokenizer
    for name in (preset.data.name, spec.photographs):
        if name in DATASETS and DATASETS[name].licence:
            return DATASETS[name].licence
    return None


def _check_nothing_breaks(
    preset: Preset, modules: Mapping, hashes: Mapping[str, str], folder: Path
) -> None:
    """Raise ValueError if a prior or an X⁻¹ that stays would lose its tokenizer."""
    if "vqvae" not in modules:
        return
    broken = []
    for other in PRESETS.values():
        if tokenizer_owner(other).name != preset.name:
            continue
        for path in sorted(folder.glob(f"{other.name}.*.safetensors")):
            stage = path.stem.removeprefix(f"{other.name}.")
            replaced = other.name == preset.name and stage in modules
            if replaced or not (stage == "prior" or stage.startswith("inverse-")):
                continue
            if what_it_rests_on(path).get("tokenizer_sha256") != hashes["tokenizer_sha256"]:
                broken.append(path.name)
    if broken:
        raise ValueError(
            f"{folder} holds {', '.join(broken)}, trained with the tokenizer that this export "
            "would replace; they would predict nonsense. Train them on the new tokenizer and "
            "export them too, or remove them first"
        )


def _exchange(files: list[Path], folder: Path) -> list[Path]:
    """Move the new files to their places. If one cannot be moved, put the old ones back."""
    kept = Path(tempfile.mkdtemp(prefix=".old-", dir=folder))
    moved: list[Path] = []
    try:
        for file in files:
            target = folder / file.name
            if target.exists():
                os.replace(target, kept / file.name)
            moved.append(target)
            os.replace(file, target)
    except BaseException:
        for target in moved:
            target.unlink(missing_ok=True)
        for file in kept.iterdir():
            os.replace(file, folder / file.name)
        kept.rmdir()
        raise
    shutil.rmtree(kept)
    return moved
