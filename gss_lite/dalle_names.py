"""OpenAI's names of the dVAE's tensors ⇄ ours.

Two layers are stored in another form here. The encoder's last 1×1 convolution is a linear layer.
The decoder's first one is a table of codes, with the bias added to every row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from gss_lite.dalle import DalleDVAE

PARTS = ("encoder", "decoder")


def published_name(ours: str) -> str:
    """Translate a name: groups.1.0.res.2.weight → blocks.group_2.block_1.res_path.conv_3.w."""
    name = re.sub(r"(?<=\.)\d", lambda digit: str(int(digit[0]) + 1), ours)  # OpenAI counts from 1
    name = re.sub(r"groups\.(\d)\.(\d)", r"group_\1.block_\2", name)
    name = re.sub(r"res\.(\d)", r"res_path.conv_\1", name).replace(".id.", ".id_path.")
    name = name.replace("output.", "output.conv.").replace("codes.", "input.")
    return "blocks." + name.replace(".weight", ".w").replace(".bias", ".b")


def published_shapes(
    part: str, width: int = 256, vocab_size: int = 8192, code_dim: int = 128
) -> dict[str, tuple[int, ...]]:
    """Return name → shape of the 74 tensors in `encoder.pkl` or the 76 in `decoder.pkl`.

    Args:
        part: "encoder" or "decoder".
        width, vocab_size, code_dim: the sizes of `DalleDVAE`.
    """
    with torch.device("meta"):
        ours = getattr(DalleDVAE(vocab_size, width, code_dim), part).state_dict()
    shapes = {published_name(name): tuple(tensor.shape) for name, tensor in ours.items()}
    if part == "encoder":
        shapes["blocks.output.conv.w"] += (1, 1)
    else:
        shapes["blocks.input.w"] = (code_dim, vocab_size, 1, 1)
        shapes["blocks.input.b"] = (code_dim,)
    return shapes


def load_published(model: DalleDVAE, part: str, tensors: Mapping[str, Tensor]) -> None:
    """Load the published tensors of one part, "encoder" or "decoder", into `model`."""
    tensors = dict(tensors)
    if part == "encoder":
        tensors["blocks.output.conv.w"] = tensors["blocks.output.conv.w"].flatten(1)
    else:
        # A 1×1 convolution of a one-hot map is one row of its weights, plus the bias.
        table = tensors["blocks.input.w"].flatten(1).T + tensors["blocks.input.b"]
        tensors["blocks.input.w"] = table
    ours = getattr(model, part)
    ours.load_state_dict({name: tensors[published_name(name)] for name in ours.state_dict()})


def dvae_from_published(tensors: Mapping[str, Tensor]) -> DalleDVAE:
    """Build a dVAE of any width from its published tensors, in eval mode and frozen.

    Args:
        tensors: "encoder." or "decoder." and the published name → tensor, 150 in all.

    Raises:
        ValueError: tensors are missing, unknown, or of shapes that do not fit each other.
    """
    needed = ("encoder.blocks.input.w", "decoder.blocks.input.w")
    missing = [name for name in needed if name not in tensors or tensors[name].ndim != 4]
    if missing:
        raise ValueError(f"this is no dVAE of OpenAI's architecture: it lacks {missing[0]}")
    width = tensors["encoder.blocks.input.w"].shape[0]
    code_dim, vocab_size = tensors["decoder.blocks.input.w"].shape[:2]
    expected = {
        f"{part}.{name}": shape
        for part in PARTS
        for name, shape in published_shapes(part, width, vocab_size, code_dim).items()
    }
    faults = [f"{name} is missing" for name in expected if name not in tensors]
    faults += [f"{name} is unknown" for name in tensors if name not in expected]
    faults += [
        f"{name} has the shape {tuple(tensors[name].shape)} instead of {shape}"
        for name, shape in expected.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    if faults:
        raise ValueError(
            f"this is no dVAE of OpenAI's architecture with width {width}: {len(faults)} tensors "
            f"differ (first: {faults[0]})"
        )
    model = DalleDVAE(vocab_size, width, code_dim)
    for part in PARTS:
        start = f"{part}."
        own = {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
        load_published(model, part, own)
    return model.eval().requires_grad_(False)
