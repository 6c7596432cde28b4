"""Files like the published ones: OpenAI's layout, random weights, both of torch's containers."""

import pickle
import warnings
import zipfile
from pathlib import Path

import torch
from torch import nn

from data_scripts.dalle_dvae import published_shapes
from data_scripts.dalle_pickles import read_published

SIZES = {"width": 4, "vocab_size": 16, "code_dim": 4}
LEGACY = b"".join(
    pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
)


def build(part: str, dall_e: dict[str, type]) -> nn.Module:
    """A module of the published layout with random weights."""
    torch.manual_seed(0)
    root = dall_e[part.capitalize()]()
    for name, shape in published_shapes(part, **SIZES).items():
        module, parents = root, name.split(".")[:-1]
        for depth, parent in enumerate(parents):
            if parent not in module._modules:
                leaf = dall_e["Conv2d"] if depth == len(parents) - 1 else nn.Sequential
                module.add_module(
                    parent,
                    dall_e[f"{part.capitalize()}Block"]()
                    if parent.startswith("block_")
                    else leaf(),
                )
            module = module._modules[parent]
        module.register_parameter(name[-1], nn.Parameter(torch.randn(shape) / shape[0]))
    return root


def save(module: nn.Module, path: Path, container: str = "zip") -> Path:
    # the legacy container wants the classes' source, and stand-ins have none
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(module, path, _use_new_zipfile_serialization=container == "zip")
    return path


def read(path: Path, part: str = "encoder") -> dict[str, torch.Tensor]:
    return read_published(path, part, published_shapes(part, **SIZES))


def wrap(
    pickled: bytes, path: Path, container: str, members: dict[str, bytes] | None = None
) -> Path:
    """A file of torch.save's whose module pickle is `pickled`."""
    if container == "legacy":
        path.write_bytes(LEGACY + pickled + pickle.dumps([], 2))
        return path
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {
            "archive/data.pkl": pickled,
            "archive/version": b"3\n",
            **(members or {}),
        }.items():
            archive.writestr(name, content)
    return path
