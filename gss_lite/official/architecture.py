"""The sizes of a model, read from the names and shapes in a released state dict."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gss_lite.backbones import build_backbone
from gss_lite.inverse_fitted import SwinInverse
from gss_lite.official.names import TABLE, window_side
from gss_lite.presets.paper import HRNET, R101, SWIN_L
from gss_lite.presets.parts import PriorSpec, fixed
from gss_lite.prior import Prior

# What a released checkpoint's backbone is called here → its settings in the paper's presets, and
# one tensor that only this kind has.
KINDS: Mapping[str, tuple[PriorSpec, str]] = {
    "Swin Transformer": (SWIN_L, "backbone.patch_embed.projection.weight"),
    "ResNet-v1c": (R101, "backbone.stem.0.weight"),
    "HRNet": (HRNET, "backbone.conv2.weight"),
}
HEAD = "decode_head."


@dataclass(frozen=True)
class Architecture:
    """What a released checkpoint is a checkpoint of.

    Attributes:
        kind: a key of KINDS.
        prior: the backbone and the head with the sizes of the state dict.
        vocab_size: V.
        num_classes: K.
        inverse: arguments of `SwinInverse` for a GSS-FT-W; None for a GSS-FF.
    """

    kind: str
    prior: PriorSpec
    vocab_size: int
    num_classes: int
    inverse: Mapping | None

    def build_prior(self) -> Prior:
        """The prior with random weights."""
        backbone = build_backbone(self.prior.backbone, **self.prior.backbone_arguments)
        return Prior(backbone, self.vocab_size, self.num_classes, **self.prior.head)

    def build_inverse(self, colors: Tensor | None = None) -> SwinInverse | None:
        """X⁻¹ with random weights for the palette `colors` (K, 3); None for a GSS-FF.

        Without a palette every colour is black.
        """
        if self.inverse is None:
            return None
        colors = torch.zeros(self.num_classes, 3) if colors is None else colors
        return SwinInverse(colors, **self.inverse)

    def as_json(self) -> dict:
        """What `imported.imported` needs to build the model again."""
        return {
            "kind": "imported architecture",
            "backbone": self.prior.backbone,
            "backbone_arguments": dict(self.prior.backbone_arguments),
            "head": dict(self.prior.head),
        }


def read_architecture(state: Mapping[str, Tensor]) -> Architecture:
    """Read all sizes from a released state dict, without its wrappers and its dVAE.

    Raises:
        ValueError: it is no GSS-FF or GSS-FT-W with a Swin, ResNet-v1c or HRNet, or a tensor that
            tells a size is missing. The message names it.
    """
    kind = next((kind for kind, (_, mark) in KINDS.items() if mark in state), None)
    if kind is None:
        backbone = [name for name in state if name.startswith("backbone.")]
        raise ValueError(
            f"the checkpoint's backbone is no {', no '.join(KINDS)}; its first tensor is "
            f"{min(backbone, default='missing')}"
        )
    readers = {"Swin Transformer": _swin, "ResNet-v1c": _resnet, "HRNet": _hrnet}
    settings, _ = KINDS[kind]
    arguments = fixed(**{**settings.backbone_arguments, **readers[kind](state)})
    vocab_size = _shape(state, HEAD + "conv_seg.weight")[0]
    inverse = None
    if HEAD + "cls_segmap.conv.weight" in state or HEAD + "projection.conv.weight" in state:
        num_classes = _shape(state, HEAD + "cls_segmap.conv.weight")[0]
        inverse = fixed(
            dim=_shape(state, HEAD + "projection.conv.weight")[0],
            **_blocks(state, HEAD + "post_transformer_block.blocks."),
        )
    else:
        num_classes = _shape(state, HEAD + "conv_seg_pixel.weight")[0]
    # A GSS-FT-W has a pixel head only if both stages were merged into one file.
    has_pixel_head = inverse is None or HEAD + "conv_seg_pixel.weight" in state
    has_pixel_convs = any(name.startswith(HEAD + "convs_pixel.") for name in state)
    head = fixed(
        level_dim=_shape(state, HEAD + "convs.0.conv.weight")[0],
        fuse_dim=_shape(state, HEAD + "fusion_conv.conv.weight")[0],
        token_dim=_shape(state, HEAD + "conv_before_seg.conv.weight")[0],
        pixel_dim=_shape(state, HEAD + "conv_seg_pixel.weight")[1] if has_pixel_convs else None,
        shared_aggregation=has_pixel_head and not has_pixel_convs,
        dropout=settings.head["dropout"],
        **_blocks(state, HEAD + "transformer_block.blocks."),
    )
    prior = PriorSpec(settings.backbone, arguments, head)
    return Architecture(kind, prior, vocab_size, num_classes, inverse)


def _shape(state: Mapping[str, Tensor], name: str) -> torch.Size:
    if name not in state or not state[name].ndim:
        raise ValueError(f"the checkpoint lacks {name}, so it is no GSS-FF and no GSS-FT-W")
    return state[name].shape


def _count(state: Mapping[str, Tensor], start: str) -> int:
    """How many different numbers follow `start` in the names."""
    found = {re.match(r"\d+", name[len(start) :]) for name in state if name.startswith(start)}
    return len({int(match[0]) for match in found if match})


def _blocks(state: Mapping[str, Tensor], start: str) -> dict[str, int]:
    """Depth, heads, window and MLP width of a sequence of Swin blocks."""
    depth = _count(state, start)
    if not depth:
        raise ValueError(f"the checkpoint has no Swin block named {start}0, so it is no GSS")
    table = f"{start}0.attn.w_msa.{TABLE}"
    return {
        "depth": depth,
        "heads": _shape(state, table)[-1],
        "window": window_side(table, state[table]),
        "ffn_dim": _shape(state, f"{start}0.ffn.layers.0.0.weight")[0],
    }


def _swin(state: Mapping[str, Tensor]) -> dict:
    stages = _count(state, "backbone.stages.")
    blocks = [_blocks(state, f"backbone.stages.{i}.blocks.") for i in range(stages)]
    embed_dim, _, patch, _ = _shape(state, "backbone.patch_embed.projection.weight")
    if stages != 4 or patch != 4:
        raise ValueError(
            f"a released Swin has four stages and patches of 4 × 4 pixels; this one has {stages} "
            f"and {patch}"
        )
    return {
        "embed_dim": embed_dim,
        "depths": tuple(block["depth"] for block in blocks),
        "num_heads": tuple(block["heads"] for block in blocks),
        "window_size": blocks[0]["window"],
        "mlp_ratio": blocks[0]["ffn_dim"] / embed_dim,
    }


def _resnet(state: Mapping[str, Tensor]) -> dict:
    stages = [f"backbone.layer{i}." for i in range(1, 5)]
    channels = [_shape(state, f"{stage}0.conv1.weight")[0] for stage in stages]
    _shape(state, f"{stages[0]}0.conv3.weight")  # bottlenecks; basic blocks dilate otherwise
    return {
        "layers": tuple(_count(state, stage) for stage in stages),
        "channels": tuple(channels),
        "stem_width": _shape(state, "backbone.stem.0.weight")[0],
    }


def _hrnet(state: Mapping[str, Tensor]) -> dict:
    first = {
        "num_modules": 1,
        "num_branches": 1,
        "block_type": "BOTTLENECK",
        "num_blocks": (_count(state, "backbone.layer1."),),
        "num_channels": (_shape(state, "backbone.layer1.0.conv1.weight")[0],),
        "fuse_method": "SUM",
    }
    stages = {"stage1": first}
    for number in (2, 3, 4):
        stage = f"backbone.stage{number}."
        branches = [f"{stage}0.branches.{i}." for i in range(number)]
        stages[f"stage{number}"] = {
            "num_modules": _count(state, stage),
            "num_branches": number,
            "block_type": "BASIC",
            "num_blocks": tuple(_count(state, branch) for branch in branches),
            "num_channels": tuple(
                _shape(state, f"{branch}0.conv1.weight")[0] for branch in branches
            ),
            "fuse_method": "SUM",
        }
    return stages
