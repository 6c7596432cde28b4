"""Names of the released checkpoints' tensors → names in `Prior`, one to one, shapes unchanged.

The released head (`decode_head.` of fudan-zvg/GSS) also stores `relative_position_index`. It is no
weight: our blocks compute it from the window's size.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

HEAD = "decode_head."

UNITS = {  # 1×1 conv + batch norm + ReLU
    "fusion_conv": "aggregation.fuse",
    "fusion_conv_pixel": "pixel_aggregation.fuse",
    "conv_before_seg": "before_tokens",
    **{f"convs.{i}": f"aggregation.levels.{i}" for i in range(4)},
    **{f"convs_pixel.{i}": f"pixel_aggregation.levels.{i}" for i in range(4)},
}
LAYERS = {"swin_ln": "norm", "conv_seg": "to_tokens", "conv_seg_pixel": "to_classes"}
BLOCK_LAYERS = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attn.w_msa.qkv": "attn.qkv",
    "attn.w_msa.proj": "attn.proj",
    "ffn.layers.0.0": "mlp.fc1",
    "ffn.layers.1": "mlp.fc2",
}
BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
TABLE = "relative_position_bias_table"
WITHOUT_WEIGHTS = ("relative_position_index",)


def head_names(depth: int) -> dict[str, str]:
    """{name in a released checkpoint: name in Prior} for a head with `depth` Swin blocks."""
    names = {}
    for theirs, ours in UNITS.items():
        names[f"{HEAD}{theirs}.conv.weight"] = f"{ours}.0.weight"
        for part in BATCH_NORM:
            names[f"{HEAD}{theirs}.bn.{part}"] = f"{ours}.1.{part}"
    layers = dict(LAYERS)
    for i in range(depth):
        block = f"transformer_block.blocks.{i}"
        names[f"{HEAD}{block}.attn.w_msa.{TABLE}"] = f"blocks.{i}.attn.{TABLE}"
        for theirs, ours in BLOCK_LAYERS.items():
            layers[f"{block}.{theirs}"] = f"blocks.{i}.{ours}"
    for theirs, ours in layers.items():
        for part in ("weight", "bias"):
            names[f"{HEAD}{theirs}.{part}"] = f"{ours}.{part}"
    return names


def head_depth(state: Mapping[str, Tensor]) -> int:
    """The number of Swin blocks in the head of a released checkpoint."""
    return sum(
        name.startswith(f"{HEAD}transformer_block.blocks.") and name.endswith(f".{TABLE}")
        for name in state
    )


def head_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The head's tensors of a released checkpoint, under their names in `Prior`.

    Raises:
        ValueError: tensors of the head are missing, or the head has tensors that `Prior` lacks.
    """
    names = head_names(head_depth(state))
    there = {name for name in state if name.startswith(HEAD) and not name.endswith(WITHOUT_WEIGHTS)}
    missing = sorted(names.keys() - there)
    unknown = sorted(there - names.keys())
    if missing or unknown:
        raise ValueError(
            f"not the head of a released GSS-FF checkpoint: {len(missing)} tensors are missing "
            f"(first: {next(iter(missing), '–')}), "
            f"{len(unknown)} are unknown (first: {next(iter(unknown), '–')})"
        )
    return {ours: state[theirs] for theirs, ours in names.items()}
