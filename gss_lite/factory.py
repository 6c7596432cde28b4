"""Make the objects that a preset describes: models, tokenizers, palettes and X⁻¹, trained or not.

The argument `pretrained` chooses the weights: False for random ones, True for those that come with
the package, or the folder that `train` wrote to.
"""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from gss_lite.backbones import create_backbone
from gss_lite.baselines.build import create_uvim
from gss_lite.baselines.pixel import PixelTwin
from gss_lite.contracts import Inverse, Segmenter, Tokenizer
from gss_lite.dalle import DalleDVAE, load_dalle
from gss_lite.dalle_names import dvae_from_published
from gss_lite.gss import GSS
from gss_lite.imported import dvae_path, imported, read_dvae
from gss_lite.inference import ExpectedGSS
from gss_lite.inverse import NearestColor
from gss_lite.inverse_fitted import KINDS, load_gaussians
from gss_lite.palette import (
    Palette,
    farthest_point_palette,
    released_ade20k_palette,
    released_cityscapes_palette,
    released_mseg_palette,
)
from gss_lite.presets import Preset, get_preset, tokenizer_owner
from gss_lite.prior import Prior
from gss_lite.storage import (
    check_rests_on,
    load_weights,
    read_json,
    tensors_hash,
    weights_hash,
)
from gss_lite.vqvae import VQVAE

SHIPPED = Path(__file__).parent / "weights"

# The name of each X⁻¹ on the command line → the name of its predictions in tables.
INVERSES = {
    "ff": "GSS-FF",
    "ft": "GSS-FT",
    "ft-middle": "GSS-FT, middle",
    "ft-clean": "GSS-FT, clean",
    "ft-w": "GSS-FT-W",
    "ft-w-middle": "GSS-FT-W, middle",
    "ft-w-clean": "GSS-FT-W, clean",
    "tt": "GSS-TT",
    "gaussian": "GSS, Gaussians",
    "gaussian-middle": "GSS, Gaussians, middle",
    "gaussian-clean": "GSS, Gaussians, clean",
    "expected": "GSS-FF, expected codes",
}

# The name of each model on the command line → the name of its predictions in tables.
MODELS = {
    "gss": "GSS-FF",
    "pixel": "pixel twin",
    "uvim": "UViM, one pass",
    "uvim-ar": "UViM, autoregressive",
}

Weights = bool | str | Path


def create_model(
    preset: str | Preset,
    *,
    pretrained: Weights = False,
    inverse: str | Path = "ff",
    model: str = "gss",
) -> Segmenter:
    """Make a preset's whole model, in eval mode if it is trained.

    Args:
        preset: a preset or its name, see `list_presets`.
        pretrained: False for random weights, True for the weights that come with the package, or a
            run's folder. A tokenizer shared with another preset is always trained.
        inverse: X⁻¹: a key of INVERSES, or the path of a file that `train --stage inverse-…` wrote.
            "ff" is the nearest colour; "expected" is the nearest colour of expected codes.
        model: a key of MODELS: "gss", "pixel" for the discriminative twin, and "uvim" or "uvim-ar"
            for UViM with a language model that decodes in one pass or autoregressively.

    Raises:
        ValueError: the preset, model or X⁻¹ does not exist, or weights do not belong together.
        FileNotFoundError: a file of weights is missing.
    """
    preset = get_preset(preset)
    if model not in MODELS:
        raise ValueError(
            f"model must be one of {', '.join(MODELS)} (pixel is the discriminative twin); "
            f"got {model!r}"
        )
    if preset.prior is None:
        raise ValueError(
            f"preset {preset.name} is a tokenizer alone; use create_tokenizer, or choose a preset "
            "with a prior, as scenes-cpu or camvid"
        )
    if model != "gss" and inverse != "ff":
        who = "the discriminative twin" if model == "pixel" else "UViM"
        raise ValueError(
            f"{who} paints no maskige and has no X⁻¹; leave the inverse or the model out"
        )
    if model == "pixel":
        return _create_twin(preset, pretrained)
    if model != "gss":
        folder = weights_folder(pretrained) if pretrained else None
        return create_uvim(preset, folder, autoregressive=model == "uvim-ar")
    return with_inverse(_create_gss(preset, pretrained), preset, inverse, pretrained)


def _create_gss(preset: Preset, pretrained: Weights) -> GSS:
    folder = weights_folder(pretrained)
    preset = imported(preset, folder)
    if pretrained:
        palette, tokenizer = create_stage_one(preset, folder)
    else:
        palette = create_palette(preset, folder)
        tokenizer = create_tokenizer(preset, pretrained=isinstance(preset.tokenizer, str))
    prior = create_prior(preset, tokenizer.vocab_size)
    gss = assemble_gss(preset, palette, tokenizer, prior)
    if not pretrained:
        return gss
    path = folder / f"{preset.name}.prior.safetensors"
    load_weights(path, prior)
    check_rests_on(path, stage_one_hashes(palette, tokenizer))
    return gss.eval()


def assemble_gss(preset: Preset, palette: Palette, tokenizer: Tokenizer, prior: Prior) -> GSS:
    """Put a GSS-FF together from its parts, with the preset's view and picture size."""
    return GSS(
        palette,
        tokenizer,
        prior,
        NearestColor(palette.colors),
        view=preset.view,
        picture_size=preset.data.size,
    )


def _create_twin(preset: Preset, pretrained: Weights) -> PixelTwin:
    network = create_prior(preset, preset.data.num_classes)
    twin = PixelTwin(network, view=preset.view)
    if not pretrained:
        return twin
    load_weights(weights_folder(pretrained) / f"{preset.name}.pixel.safetensors", network)
    return twin.eval()


def weights_folder(pretrained: Weights) -> Path:
    """Return the folder of the weights; for True and False it is that of the package."""
    return SHIPPED if isinstance(pretrained, bool) else Path(pretrained)


def palette_hash(palette: Palette) -> dict[str, str]:
    """Return the hash of the colours that a tokenizer is trained with."""
    return {"palette_sha256": tensors_hash([palette.colors])}


def stage_one_hashes(palette: Palette, tokenizer: Tokenizer) -> dict[str, str]:
    """Return the hashes of the palette and the tokenizer that a prior or an X⁻¹ is trained with."""
    return {**palette_hash(palette), "tokenizer_sha256": weights_hash(tokenizer)}


def owns_palette(preset: Preset) -> bool:
    """Whether the palette is the preset's own.

    A tokenizer that was trained in a palette knows no other colours, so a preset that shares such a
    tokenizer shares its palette too. A learned palette is the exception: it was learned through
    this tokenizer.
    """
    shared = isinstance(preset.tokenizer, str) and tokenizer_owner(preset).palette is not None
    return bool(preset.learned) or not shared


def create_palette(preset: str | Preset, weights: Weights = True) -> Palette:
    """Return the palette of a preset's classes.

    There are three cases. Most palettes are constructed. A palette that was made from masks is read
    from the folder `weights`. A preset that shares a tokenizer takes the shipped palette of its
    owner.

    Raises:
        ValueError: the preset's tokenizer serves any palette. Or the folder holds another palette
            than that of the shared tokenizer, or one with another number of classes.
        FileNotFoundError: the folder lacks the palette, which stage I makes.
    """
    preset = get_preset(preset)
    if preset.palette is None:
        raise ValueError(
            f"preset {preset.name} has no palette of its own: its tokenizer serves any. "
            "Choose a palette and use create_tokenizer"
        )
    folder = weights_folder(weights)
    palette = _find_palette(preset, folder)
    if len(palette) != preset.data.num_classes:
        raise ValueError(
            f"the palette in {folder} has {len(palette)} colours, but preset {preset.name} has "
            f"{preset.data.num_classes} classes; use the palette of its own run"
        )
    return palette


def _find_palette(preset: Preset, folder: Path) -> Palette:
    path = folder / f"{preset.name}.palette.json"
    if not owns_palette(preset):
        palette = create_palette(tokenizer_owner(preset))
        if path.is_file() and not Palette.load(path).colors.equal(palette.colors):
            raise ValueError(
                f"{path} is not the palette of {preset.tokenizer}, whose tokenizer {preset.name} "
                "shares. That tokenizer was trained with its own palette alone. Train again in a "
                "new folder"
            )
        return palette
    if preset.learned and not path.is_file():
        base = preset.name.removesuffix(f"-{preset.learned}")
        raise FileNotFoundError(
            f"no learned palette at {path}; learn it first (python -m gss_lite train --preset "
            f"{base} --stage palette-{preset.learned} --out FOLDER), or pass the folder that holds "
            "it (--weights, or --stage-one for stage II)"
        )
    if preset.learned or preset.palette == "imported":
        return Palette.load(path)
    if preset.needs_masks:
        if not path.is_file():
            raise FileNotFoundError(
                f"no palette at {path}; stage I makes it. Train that first (python -m gss_lite "
                f"train --preset {preset.name} --stage vqvae --out FOLDER), or pass the folder "
                "that holds it (--weights, or --stage-one for stage II)"
            )
        return Palette.load(path)
    if preset.palette == "released-cityscapes":
        return released_cityscapes_palette()
    if preset.palette == "released-ade20k":
        return released_ade20k_palette(preset.seed)
    if preset.palette == "released-mseg":
        return released_mseg_palette(preset.seed)
    return farthest_point_palette(preset.data.num_classes)


def create_tokenizer(preset: str | Preset, *, pretrained: Weights = False) -> Tokenizer:
    """Make a preset's tokenizer, in eval mode if it is trained.

    Two trained tokenizers do not come from the folder `pretrained`. A tokenizer that is shared with
    another preset comes with the package. OpenAI's dVAE is read from the folder of
    `python -m data_scripts.dalle_dvae`, unless an imported checkpoint brought its own.

    Raises:
        FileNotFoundError: the file of weights is missing.
    """
    preset = get_preset(preset)
    owner = tokenizer_owner(preset)
    if owner.tokenizer.kind == "dalle":
        if not pretrained:
            return DalleDVAE(**owner.tokenizer.arguments)
        own = dvae_path(preset, weights_folder(pretrained))
        return dvae_from_published(read_dvae(own)) if own.is_file() else load_dalle()
    tokenizer = VQVAE(**owner.tokenizer.arguments)
    if not pretrained:
        return tokenizer
    load_weights(tokenizer_path(preset, pretrained), tokenizer)
    return tokenizer.eval()


def tokenizer_path(preset: Preset, weights: Weights) -> Path:
    """Return the path of a preset's VQ-VAE; one that is shared comes with the package."""
    owner = tokenizer_owner(preset)
    folder = weights_folder(weights) if owner is preset else SHIPPED
    return folder / f"{owner.name}.vqvae.safetensors"


def create_stage_one(preset: str | Preset, weights: Weights) -> tuple[Palette, Tokenizer]:
    """Return a preset's palette and the tokenizer that was trained with it.

    Raises:
        ValueError: the tokenizer was trained with another palette.
        FileNotFoundError: one of them is missing.
    """
    preset = get_preset(preset)
    palette = create_palette(preset, weights)
    tokenizer = create_tokenizer(preset, pretrained=weights)
    owner = tokenizer_owner(preset)
    if preset.learned:
        learned_with = palette.origin.get("tokenizer")
        if learned_with != weights_hash(tokenizer):
            raise ValueError(
                f"the palette of {preset.name} was learned through another tokenizer than the one "
                f"of preset {owner.name}; learn it again"
            )
    elif owner.needs_masks:  # its palette is a file, so somebody may have replaced it
        check_rests_on(tokenizer_path(preset, weights), palette_hash(palette))
    return palette, tokenizer


def create_prior(
    preset: str | Preset,
    vocab_size: int | None = None,
    *,
    pretrained_backbone: bool | str | Path = False,
) -> Prior:
    """Make a preset's prior I_ψ, with random weights.

    Args:
        vocab_size: outputs of the token head; by default the tokenizer's vocabulary.
        pretrained_backbone: True starts from the backbone weights that the preset names. A path
            starts from that file, and "timm" from timm's default download for the backbone.

    Raises:
        ValueError: the preset names no pretrained weights, or they are those of another model.
        OSError: these weights can neither be downloaded nor found in timm's cache.
        ImportError: the package that holds them is not installed.
    """
    preset = get_preset(preset)
    backbone = create_backbone(preset, pretrained_backbone)
    vocab_size = vocab_size or tokenizer_owner(preset).tokenizer.arguments["vocab_size"]
    return Prior(backbone, vocab_size, preset.data.num_classes, **preset.prior.head)


def with_inverse(gss: GSS, preset: Preset, choice: str | Path, weights: Weights = True) -> GSS:
    """Return the model with the X⁻¹ that `choice` names, see `create_model`."""
    if choice == "ff":
        return gss
    if choice == "expected":
        return ExpectedGSS.of(gss)
    path = inverse_path(preset, choice, weights)
    inverse, _ = load_inverse(path)
    merged = gss.with_inverse(inverse)
    # with_inverse compares the colours. An X⁻¹ serves every prior with the same tokenizer.
    check_rests_on(path, {"tokenizer_sha256": weights_hash(gss.tokenizer)})
    return merged


def inverse_path(preset: Preset, choice: str | Path, weights: Weights = True) -> Path:
    """Return the path of the X⁻¹ that `choice` names.

    Raises:
        ValueError: the choice is neither a key of INVERSES nor a .safetensors file.
    """
    if str(choice).endswith(".safetensors"):
        return Path(choice)
    if choice not in INVERSES:
        raise ValueError(
            f"X⁻¹ must be one of {', '.join(INVERSES)}, or a .safetensors file that "
            f"`train --stage inverse-…` wrote; got {choice!r}"
        )
    return weights_folder(weights) / f"{preset.name}.inverse-{choice}.safetensors"


def load_inverse(path: str | Path) -> tuple[Inverse, str]:
    """Load an X⁻¹ from a file of weights and the run record beside it.

    Returns:
        The X⁻¹ in eval mode, and its name, a key of INVERSES.

    Raises:
        FileNotFoundError: the weights or the record are missing.
        ValueError: one of the two is damaged, or does not describe an X⁻¹.
    """
    path = Path(path)
    card = path.with_suffix(".json")
    for file, what in ((path, "X⁻¹"), (card, "run record beside the weights")):
        if not file.is_file():
            raise FileNotFoundError(
                f"no {what} at {file}; train --stage inverse-ft, inverse-ft-w or inverse-gaussian "
                "(python -m gss_lite) writes both to its --out"
            )
    try:
        record = read_json(card)
        name = record["kind"].removeprefix("train ").removeprefix("import ")
        name = name.removeprefix("inverse-")
        if name not in INVERSES:
            raise ValueError(f"{path} is no X⁻¹: its record says {record['kind']!r}")
        kind = name.removesuffix("-clean").removesuffix("-middle")
        if kind == "gaussian":
            return load_gaussians(path), name
        kind = "ft" if kind == "tt" else kind  # the same network
        inverse = KINDS[kind](load_file(path)["colors"].float(), **record["size"])
    except (KeyError, SafetensorError) as error:
        raise ValueError(
            f"{path} and the record beside it do not describe an X⁻¹ "
            f"({type(error).__name__}: {error}); train it again"
        ) from error
    load_weights(path, inverse)
    return inverse.eval(), name
