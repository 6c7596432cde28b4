"""From a preset to its parts: data sets, palette, tokenizer, prior, and the assembled GSS with its weights.

X⁻¹ by the name the command line gives it: found beside a model's weights, read back, and grafted on the model.

Shipping: a run's weights, halved to 16 bits, and its records, shortened to cards, go into the package.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from gss_lite.dalle import DalleDVAE, load_dalle
from gss_lite.data import num_classes
from gss_lite.data.folders import LICENCE
from gss_lite.gss import GSS, ExpectedGSS, graft
from gss_lite.inverse import NearestColor
from gss_lite.inverse_fitted import KINDS, load_gaussians
from gss_lite.palette.constructions import (
    released_ade20k_palette,
    released_cityscapes_palette,
    released_mseg_palette,
)
from gss_lite.palette.maxmin import farthest_point_palette
from gss_lite.palette.palette import Palette
from gss_lite.presets import get_preset
from gss_lite.presets.parts import Preset
from gss_lite.prior import Prior, build_backbone
from gss_lite.storage import load_weights, save_weights, write_json
from gss_lite.vqvae import VQVAE

SHIPPED = Path(__file__).parent / "weights"


TOKENIZERS = {"vqvae": VQVAE, "dalle": DalleDVAE}


RELEASED_PALETTES = {
    "released-cityscapes": lambda seed: released_cityscapes_palette(),
    "released-ade20k": released_ade20k_palette,
    "released-mseg": released_mseg_palette,
}


def comes_with_tokenizer(preset: Preset) -> bool:
    """Whether the palette is that of the preset whose tokenizer it shares: one that was trained in a palette knows no other."""
    return bool(preset.tokenizer_from) and get_preset(preset.tokenizer_from).palette != "random"


def build_palette(preset: Preset, weights: str | Path = SHIPPED) -> Palette:
    """The palette of the preset's classes: constructed, or read from folder `weights` where its making looked at masks; or that
    of the preset whose tokenizer it shares, as shipped, whatever the folder.

    Raises:
        ValueError: the preset is a tokenizer for any palette and has none of its own; or `weights`
            holds a palette that is not its tokenizer's.
        FileNotFoundError: `weights` lacks the palette that stage I makes.
    """
    if preset.palette == "random":
        raise ValueError(
            f"preset {preset.name} has no palette of its own: its tokenizer serves any. Choose a "
            "palette and use load_tokenizer"
        )
    path = Path(weights) / f"{preset.name}.palette.json"
    if comes_with_tokenizer(preset):
        palette = build_palette(get_preset(preset.tokenizer_from))
        if path.is_file() and not Palette.load(path).colors.equal(palette.colors):
            raise ValueError(
                f"{path} is not the palette of {preset.tokenizer_from}, whose tokenizer "
                f"{preset.name} shares and which knows no other colours: "
                "what was trained there was trained with another tokenizer. Train again in a new "
                "folder"
            )
        return palette
    if preset.palette == "assigned":
        if not path.is_file():
            raise FileNotFoundError(
                f"no palette at {path}; stage I makes it. Train that first (python -m gss_lite "
                f"train --preset {preset.name} "
                "--stage vqvae --out FOLDER), or pass the folder that holds it (--weights, or "
                "--stage-one for stage II)"
            )
        return Palette.load(path)
    if preset.palette in RELEASED_PALETTES:
        return RELEASED_PALETTES[preset.palette](preset.seed)
    return farthest_point_palette(num_classes(preset))


def build_tokenizer(preset: Preset) -> VQVAE | DalleDVAE:
    """The preset's tokenizer, untrained."""
    return TOKENIZERS[preset.tokenizer_kind](**preset.tokenizer)


def build_prior(
    preset: Preset, vocab_size: int | None = None, *, pretrained: bool = False
) -> Prior:
    """The preset's I_ψ with random weights; `pretrained`: the backbone as trained on ImageNet (see Preset.pretrained).

    `vocab_size`: of a tokenizer other than the preset's own.

    Raises:
        ValueError: pretrained weights are asked for and the preset names none. RuntimeError: they
            cannot be had.
    """
    if pretrained and not preset.pretrained:
        raise ValueError(
            f"preset {preset.name} names no pretrained weights that timm has; build it without, "
            "and load a state_dict into prior.backbone"
        )
    backbone = build_backbone(
        preset.pretrained if pretrained else preset.backbone,
        pretrained=pretrained,
        **preset.backbone_args,
    )
    return Prior(
        backbone, vocab_size or preset.tokenizer["vocab_size"], num_classes(preset), **preset.head
    )


def build_gss(preset: Preset, tokenizer: VQVAE | None = None, weights: str | Path = SHIPPED) -> GSS:
    """The preset's whole model (GSS-FF: nearest colour), untrained but for the tokenizer given; its palette is `build_palette`'s.

    Where the preset shares the tokenizer of another and none is given, that one is there, trained.

    Raises:
        ValueError: the preset is a tokenizer alone.
    """
    if preset.prior is None:
        raise ValueError(
            f"preset {preset.name} is a tokenizer alone; choose one with a prior, as scenes-cpu or "
            "camvid"
        )
    palette = build_palette(preset, weights)
    tokenizer = tokenizer or (
        load_tokenizer(preset) if preset.tokenizer_from else build_tokenizer(preset)
    )
    return GSS(
        palette, tokenizer, build_prior(preset, tokenizer.vocab_size), NearestColor(palette.colors)
    )


def load_tokenizer(preset: Preset, weights: str | Path = SHIPPED) -> VQVAE | DalleDVAE:
    """The preset's VQ-VAE with the weights in folder `weights` (default: the ones that come with the package), in eval mode.

    Whatever the folder, a tokenizer shared with another preset is the one that comes with the
    package, and OpenAI's dVAE lies where `python -m data_scripts.dalle_dvae` leaves it.
    """
    if preset.tokenizer_kind == "dalle":
        return load_dalle()
    if preset.tokenizer_from:
        return load_tokenizer(get_preset(preset.tokenizer_from))
    tokenizer = build_tokenizer(preset)
    load_weights(Path(weights) / f"{preset.name}.vqvae.safetensors", tokenizer)
    return tokenizer.eval()


def load_gss(preset: Preset, weights: str | Path = SHIPPED) -> GSS:
    """The preset's trained model from folder `weights` (default: the ones that come with the package), in eval mode."""
    gss = build_gss(preset, load_tokenizer(preset, weights), weights)
    load_weights(Path(weights) / f"{preset.name}.prior.safetensors", gss.prior)
    return gss.eval()


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
