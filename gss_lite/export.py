"""Shipping: a run's weights, halved to 16 bits, and its records, shortened to cards, go into the package."""

from __future__ import annotations

import json
from pathlib import Path

from gss_lite.build import build_prior, build_tokenizer
from gss_lite.data.camvid import LICENCE
from gss_lite.inverse_choice import open_inverse
from gss_lite.palette import Palette
from gss_lite.presets import Preset
from gss_lite.training.checkpoints import load_weights, save_weights, write_json

LOG_LINES = 60


def export_weights(preset: Preset, run: Path, folder: Path) -> list[Path]:
    """Copy what `run` holds of NAME.{palette,vqvae,prior,inverse-*} to `folder`, weights in 16 bits and with a JSON card; returns the paths.

    A card is the training record with its log thinned to about 60 lines, enough for a curve, and
    the licence of the data where there is one to keep to.
    """
    written = []
    palette = run / f"{preset.name}.palette.json"
    if palette.exists():
        written.append(folder / palette.name)
        Palette.load(palette).save(written[0])
    modules = {}
    for stage, build in (("vqvae", build_tokenizer), ("prior", build_prior)):
        if (run / f"{preset.name}.{stage}.safetensors").exists():
            modules[stage] = build(preset)
            load_weights(run / f"{preset.name}.{stage}.safetensors", modules[stage])
    for path in sorted(run.glob(f"{preset.name}.inverse-*.safetensors")):
        modules[path.stem.removeprefix(f"{preset.name}.")] = open_inverse(path)[0]
    if not modules:
        raise FileNotFoundError(
            f"{run} holds no weights of {preset.name}; train them first: python -m gss_lite train "
            f"--preset {preset.name}"
        )
    for stage, module in modules.items():
        weights, card = (folder / f"{preset.name}.{stage}.{end}" for end in ("safetensors", "json"))
        save_weights(weights, module, half=True)
        record = json.loads((run / card.name).read_text())
        log = record["log"]
        record["log"] = log[:: max(1, len(log) // LOG_LINES)]
        licence = {"data_licence": LICENCE} if "camvid" in (preset.data, preset.photographs) else {}
        write_json(
            card, {**record, "stored_as": "float16", "bytes": weights.stat().st_size, **licence}
        )
        written += [weights, card]
    return written
