"""Our names of tensors → the names in a released checkpoint, and the tensors' two orders.

Every name of ours has one released name. A released checkpoint also stores the relative position
index of each window attention. It is no weight, since it follows from the window's size.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from timm.models.swin_transformer import get_relative_position_index
from torch import Tensor

Rules = tuple[tuple[str, str], ...]  # (pattern, replacement), applied one after another

TABLE = "relative_position_bias_table"
INDEX = "relative_position_index"

ATTENTION_BLOCK: Rules = (
    (r"(blocks\.\d+)\.attn\.", r"\1.attn.w_msa."),
    (r"(blocks\.\d+)\.mlp\.fc1\.", r"\1.ffn.layers.0.0."),
    (r"(blocks\.\d+)\.mlp\.fc2\.", r"\1.ffn.layers.1."),
)
BACKBONES: dict[str, Rules] = {
    "Swin Transformer": (
        (r"^body\.", ""),
        (r"^patch_embed\.proj\.", "patch_embed.projection."),
        # The released code merges patches at the end of a stage, timm at the start of the next.
        (r"^layers_(\d)\.downsample", lambda m: f"stages.{int(m[1]) - 1}.downsample"),
        (r"^layers_(\d)\.", r"stages.\1."),
        *ATTENTION_BLOCK,
    ),
    "ResNet-v1c": (
        (r"^conv1\.(\d)\.", r"stem.\1."),
        (r"^bn1\.", "stem.7."),
    ),
    "HRNet": (),
}
# One tensor of ours that only this backbone has.
MARKS = {
    "Swin Transformer": "backbone.body.patch_embed.proj.weight",
    "ResNet-v1c": "backbone.conv1.6.weight",
    "HRNet": "backbone.conv2.weight",
}
UNIT = r"convs\.\d|convs_pixel\.\d|fusion_conv\w*|conv_before_seg"  # 1×1 convolution, batch norm
HEAD: Rules = (
    (r"^blocks\.", "transformer_block.blocks."),
    *ATTENTION_BLOCK,
    (r"^norm\.", "swin_ln."),
    (r"^to_tokens\.", "conv_seg."),
    (r"^to_classes\.", "conv_seg_pixel."),
    (r"^before_tokens\.", "conv_before_seg."),
    (r"^aggregation\.levels\.", "convs."),
    (r"^aggregation\.fuse\.", "fusion_conv."),
    (r"^pixel_aggregation\.levels\.", "convs_pixel."),
    (r"^pixel_aggregation\.fuse\.", "fusion_conv_pixel."),
    (rf"^({UNIT})\.0\.", r"\1.conv."),
    (rf"^({UNIT})\.1\.", r"\1.bn."),
)
INVERSE: Rules = (
    (r"^blocks\.", "post_transformer_block.blocks."),
    *ATTENTION_BLOCK,
    (r"^norm\.", "post_swin_ln."),
    (r"^to_classes\.", "cls_segmap.conv."),
    (r"^embed\.0\.", "projection.conv."),
    (r"^embed\.1\.", "projection.bn."),
)


def prior_names(ours: Iterable[str]) -> dict[str, str]:
    """{name in `Prior`: name in a released checkpoint}, for all tensors of a prior.

    Raises:
        ValueError: the prior's backbone is none of those in the released checkpoints.
    """
    ours = list(ours)
    kind = next((kind for kind, mark in MARKS.items() if mark in ours), None)
    if kind is None:
        raise ValueError(
            f"only models with a {', '.join(BACKBONES)} as in the paper's presets have names in "
            "the released code; this prior has another backbone"
        )
    names = {}
    for name in ours:
        in_backbone = name.startswith("backbone.")
        if in_backbone:
            names[name] = "backbone." + _apply(BACKBONES[kind], name.removeprefix("backbone."))
        else:
            names[name] = "decode_head." + _apply(HEAD, name)
    return names


def inverse_names(ours: Iterable[str]) -> dict[str, str]:
    """{name in `SwinInverse`: name in a released checkpoint}; its palette is not in the file."""
    return {name: "decode_head." + _apply(INVERSE, name) for name in ours if name != "colors"}


def _apply(rules: Rules, name: str) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def released_order(name: str, tensor: Tensor) -> Tensor:
    """A tensor of ours, whose released name is `name`, in the released order of channels.

    Only patch merging has another order: its input is four neighbours of C channels each. The
    released code counts the neighbours (row, column) fastest, timm the channels.
    """
    if _merges(name):
        # (…, column, row, C) → (…, C, row, column)
        tensor = tensor.unflatten(-1, (2, 2, -1)).movedim((-1, -2, -3), (-3, -2, -1)).flatten(-3)
    return tensor


def our_order(name: str, tensor: Tensor) -> Tensor:
    """The inverse of `released_order`."""
    if _merges(name):
        # (…, C, row, column) → (…, column, row, C)
        tensor = tensor.unflatten(-1, (-1, 2, 2)).movedim((-3, -2, -1), (-1, -2, -3)).flatten(-3)
    return tensor


def _merges(name: str) -> bool:
    return re.search(r"\.downsample\.(norm|reduction)\.", name) is not None


def position_indices(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The relative position index that belongs to each bias table in a released state dict.

    Raises:
        ValueError: a table's number of rows is not (2·window − 1)².
    """
    found = {}
    for name, table in state.items():
        if name.endswith(TABLE):
            window = window_side(name, table)
            index = get_relative_position_index(window, window, device=torch.device("cpu"))
            found[name.removesuffix(TABLE) + INDEX] = index  # (window², window²)
    return found


def window_side(name: str, table: Tensor) -> int:
    """The side of the window that a bias table ((2·window − 1)², heads) belongs to."""
    rows = table.shape[0] if table.ndim == 2 else 0
    window = (round(rows**0.5) + 1) // 2
    if window < 1 or (2 * window - 1) ** 2 != rows:
        raise ValueError(
            f"{name} has the shape {tuple(table.shape)}; a table for windows of w × w cells has "
            "(2w − 1)² rows and a column for each head"
        )
    return window
