"""From a preset to its parts: data sets, palette, tokenizer, prior, and the assembled GSS with its weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch.utils.data import Dataset

from gss_lite.dalle import DalleDVAE
from gss_lite.dalle_files import load_dalle
from gss_lite.data.camvid import CamVid
from gss_lite.data.many_scenes import FINE_CLASSES, ManyScenes
from gss_lite.data.scenes import Scenes
from gss_lite.gss import GSS
from gss_lite.inverse import NearestColor
from gss_lite.palette import Palette, farthest_point_palette
from gss_lite.palette_constructions import (
    released_ade20k_palette,
    released_cityscapes_palette,
    released_mseg_palette,
)
from gss_lite.presets import Preset, get_preset
from gss_lite.prior import Prior, build_backbone
from gss_lite.training.checkpoints import load_weights
from gss_lite.vqvae import VQVAE

SHIPPED = Path(__file__).parent / "weights"
NUM_CLASSES = {
    "scenes": Scenes.num_classes,
    "camvid": CamVid.num_classes,
    "many-scenes": len(FINE_CLASSES),
}
TOKENIZERS = {"vqvae": VQVAE, "dalle": DalleDVAE}
RELEASED_PALETTES = {
    "released-cityscapes": lambda seed: released_cityscapes_palette(),
    "released-ade20k": released_ade20k_palette,
    "released-mseg": released_mseg_palette,
}


def num_classes(preset: Preset) -> int:
    """K."""
    return preset.num_classes or NUM_CLASSES[preset.data]


def dataset_for(
    preset: Preset,
    split: str,
    *,
    folder: str | Path | None = None,
    transform: Callable | None = None,
) -> Dataset:
    """The preset's data set: split "train", "val" or "test"; `folder` says where a set that is on disk lies.

    Raises:
        ValueError: a folder was given, and the preset's pictures are drawn. Else as CamVid, Scenes
            and ManyScenes.
    """
    if preset.data == "camvid":
        return CamVid(split, folder, transform=transform)
    drawn = {"scenes": Scenes, "many-scenes": partial(ManyScenes, num_classes=num_classes(preset))}
    if preset.data not in drawn:
        raise ValueError(
            f"gss_lite has no loader yet for {preset.data}, which preset {preset.name} trains on; "
            f"it has those of camvid, {', '.join(drawn)}"
        )
    if folder is not None and not preset.photographs:  # those are in the folder, see train_vqvae
        raise ValueError(
            f"preset {preset.name} draws its pictures and reads none from {folder}; leave --data "
            "out, or choose --preset camvid"
        )
    length = preset.train_pictures if split == "train" else preset.eval_pictures
    return drawn[preset.data](
        length,
        split=split,
        seed=preset.seed,
        height=preset.size[0],
        width=preset.size[1],
        transform=transform,
    )


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
