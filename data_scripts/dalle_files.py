"""The files of DALL·E's dVAE: the published `encoder.pkl` and `decoder.pkl` into our modules, without running them; our own safetensors.

`inert_pickle` reads the pickles as data; here are torch.save's two containers, the names and
shapes, and what becomes of them.
"""

from __future__ import annotations

import io
import math
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from data_scripts.inert_pickle import Object, StoredTensor, describe, read_pickle, refuse
from gss_lite.dalle import DalleDVAE

ITEM = 4  # bytes of a float32


LEGACY_MAGIC, LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001


# The published files have 215 and 175 million bytes and about 100 modules; the limits only stop
# files made to exhaust the reader.
MAX_FILE, MAX_PICKLE, MAX_MODULES, MAX_NAME = 1 << 30, 1 << 24, 1000, 1 << 16


Fetch = Callable[[str], bytes | memoryview]  # key of a storage → its bytes


def import_published(encoder: str | Path, decoder: str | Path, model: DalleDVAE) -> None:
    """Read both published files into `model`, whose sizes say what they must hold.

    Raises:
        FileNotFoundError, RefusedFile: as `read_published`.
    """
    sizes = (model.encoder.input.out_channels, model.vocab_size, model.decoder.codes.embedding_dim)
    for part, path in (("encoder", encoder), ("decoder", decoder)):
        tensors = {
            _our_name(name): value
            for name, value in read_published(path, part, published_shapes(part, *sizes)).items()
        }
        if part == "encoder":
            tensors["output.weight"] = tensors["output.weight"].flatten(1)
        else:  # a 1×1 convolution of a one-hot map is a row of its weights, plus the bias
            tensors["codes.weight"] = tensors.pop("input.weight").flatten(1).T + tensors.pop(
                "input.bias"
            )
        getattr(model, part).load_state_dict(tensors)


def published_shapes(
    part: str, width: int = 256, vocab_size: int = 8192, code_dim: int = 128
) -> dict[str, tuple[int, ...]]:
    """Name → shape of the 74 tensors in `encoder.pkl` (part "encoder") or the 76 in `decoder.pkl` ("decoder")."""
    outs = [width, 2 * width, 4 * width, 8 * width]
    if part == "encoder":
        first, kernels, last = (width, 3, 7), (3, 3, 3, 1), (vocab_size, 8 * width, 1)
    else:
        first, kernels, last = (code_dim, vocab_size, 1), (1, 3, 3, 3), (6, width, 1)
        outs.reverse()
    # name → (channels out, channels in, kernel size)
    layers, n_in = {"blocks.input": first}, first[0]
    for group, n_out in enumerate(outs, 1):
        for block in (1, 2):
            name = f"blocks.group_{group}.block_{block}"
            widths = [n_in, *[n_out // 4] * 3, n_out]
            for i, kernel in enumerate(kernels):
                layers[f"{name}.res_path.conv_{i + 1}"] = (widths[i + 1], widths[i], kernel)
            if n_in != n_out:
                layers[f"{name}.id_path"] = (n_out, n_in, 1)
            n_in = n_out
    layers["blocks.output.conv"] = last
    return {f"{name}.w": (o, i, k, k) for name, (o, i, k) in layers.items()} | {
        f"{name}.b": (o,) for name, (o, _, _) in layers.items()
    }


def read_published(
    path: str | Path, part: str, expected: dict[str, tuple[int, ...]] | None = None
) -> dict[str, Tensor]:
    """The tensors of a published file, float32, by their published names; nothing of the file is run.

    Args:
        path: `encoder.pkl` or `decoder.pkl`, in torch.save's zip or its legacy container.
        part: "encoder" or "decoder".
        expected: name → shape of every tensor; default `published_shapes(part)`.

    Raises:
        FileNotFoundError: no such file.
        RefusedFile: it asks for anything but what such a module is made of; is cut short or
            damaged; or its tensors are not the expected ones in number, name, shape or dtype.
            Shapes are checked before any number is read.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; `python -m data_scripts.dalle_dvae` downloads it")
    if path.stat().st_size > MAX_FILE:
        refuse(
            path,
            f"it has {path.stat().st_size:,} bytes; the published files have 215 and 175 million",
        )
    data = path.read_bytes()
    root, fetch = (_open_zip if data.startswith(b"PK") else _open_legacy)(data, path)
    wanted = f"dall_e.{part}.{part.capitalize()}"
    if not isinstance(root, Object) or root.kind != wanted:
        refuse(path, f"it holds {describe(root)}, where an object of {wanted} was expected")
    try:
        found = _parameters(root, path)
    except (AttributeError, TypeError) as error:
        refuse(path, f"its modules are not laid out as torch's are ({error})", error)
    _check(found, published_shapes(part) if expected is None else expected, path)
    return {name: _read(name, tensor, fetch, path) for name, tensor in found.items()}


def _our_name(published: str) -> str:
    """blocks.group_2.block_1.res_path.conv_3.w → groups.1.0.res.2.weight, and so on."""
    name = re.sub(r"\.w$", ".weight", re.sub(r"\.b$", ".bias", published.removeprefix("blocks.")))
    name = (
        name.replace("output.conv.", "output.")
        .replace("id_path.", "id.")
        .replace("res_path.conv_", "res.")
    )
    name = name.replace("group_", "groups.").replace("block_", "")
    # from 1, 2, … to 0, 1, …
    return re.sub(r"(?<=\.)\d(?=\.)", lambda digit: str(int(digit[0]) - 1), name)


def _open_zip(data: bytes, path: Path) -> tuple[object, Fetch]:
    """torch.save's container since 1.6: a zip, uncompressed, with NAME/data.pkl and one member NAME/data/KEY a storage."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except Exception as error:  # zipfile raises half a dozen types for a damaged file
        refuse(path, f"its zip container is cut short or damaged ({error}); fetch it again", error)
    members = {}
    for info in archive.infolist():
        name, parts = info.filename, info.filename.split("/")
        if (
            len(parts) < 2
            or {"", ".", ".."} & set(parts)
            or "\\" in name
            or ":" in name
            or name in members
        ):
            refuse(path, f"its zip member {name[:80]!r} is not named as torch.save names them")
        if (
            info.compress_type != zipfile.ZIP_STORED
            or info.flag_bits & 1
            or info.compress_size != info.file_size
        ):
            refuse(
                path,
                f"its zip member {name[:80]!r} is compressed or encrypted, which torch.save never "
                "does",
            )
        members[name] = info
    if sum(info.file_size for info in members.values()) > len(data):
        refuse(path, "its zip members claim more bytes than the file has")
    folder = next(iter(members), "").split("/")[0]
    if any(name.split("/")[0] != folder for name in members):
        refuse(path, "its zip members do not lie in one folder")

    def fetch(name: str) -> bytes:
        if f"{folder}/{name}" not in members:
            refuse(path, f"its zip container has no member {name!r}")
        try:
            return archive.read(members[f"{folder}/{name}"])
        except Exception as error:
            refuse(path, f"its zip member {name!r} is damaged ({error}); fetch it again", error)

    if f"{folder}/byteorder" in members and fetch("byteorder") != b"little":
        refuse(path, "its numbers are not little-endian")
    pickle = fetch("data.pkl")
    if len(pickle) > MAX_PICKLE:
        refuse(path, f"its pickle has {len(pickle):,} bytes, where some 100,000 were expected")
    return read_pickle(io.BytesIO(pickle), path), lambda key: fetch(f"data/{key}")


def _open_legacy(data: bytes, path: Path) -> tuple[object, Fetch]:
    """torch.save's older container: five pickles (magic, version, system, module, keys), then each storage: count and numbers."""
    stream = io.BytesIO(data)
    if (magic := read_pickle(stream, path)) != LEGACY_MAGIC:
        refuse(
            path, f"it is neither of torch.save's containers: its first pickle is {describe(magic)}"
        )
    if (version := read_pickle(stream, path)) != LEGACY_VERSION:
        refuse(
            path,
            "its legacy container is of version "
            f"{version if type(version) is int else describe(version)}, not {LEGACY_VERSION}",
        )
    system = read_pickle(stream, path)
    if type(system) is not dict or system.get("little_endian") is not True:
        refuse(path, "its numbers are not little-endian")
    root, keys = read_pickle(stream, path), read_pickle(stream, path)
    if type(keys) is not list or any(type(key) is not str for key in keys):
        refuse(path, "its list of storages is no list of keys")
    view, at, storages = memoryview(data), stream.tell(), {}
    for key in keys:
        end = at + 8 + ITEM * int.from_bytes(view[at : at + 8], "little")
        if at + 8 > len(data) or end > len(data):
            refuse(
                path,
                f"it is cut short: storage {key[:40]!r} would end at byte {end:,} of "
                f"{len(data):,}; fetch it again",
            )
        storages[key], at = view[at + 8 : end], end

    def fetch(key: str) -> memoryview:
        if key not in storages:
            refuse(path, f"it has no storage {key[:40]!r}")
        return storages[key]

    return root, fetch


def _parameters(root: Object, path: Path) -> dict[str, StoredTensor]:
    """Dotted name → tensor, of every parameter and buffer of the module tree."""
    found, waiting, visited = {}, [("", root)], 0
    while waiting:
        prefix, module = waiting.pop()
        visited += 1
        if visited > MAX_MODULES:  # or a module that contains itself
            refuse(path, f"it has more than {MAX_MODULES} modules")
        for name, value in [
            *module.state.get("_parameters", {}).items(),
            *module.state.get("_buffers", {}).items(),
        ]:
            if isinstance(value, StoredTensor):
                found[prefix + name] = value
            elif value is not None:
                refuse(
                    path,
                    f"its parameter {(prefix + name)[:80]!r} is {describe(value)}, not a tensor",
                )
        if len(prefix) > MAX_NAME:  # nested without end, with names that would fill the memory
            refuse(path, f"its modules are nested too deeply ({prefix[:80]}…)")
        waiting += [
            (f"{prefix}{name}.", child) for name, child in module.state.get("_modules", {}).items()
        ]
    return found


def _check(
    found: dict[str, StoredTensor], expected: dict[str, tuple[int, ...]], path: Path
) -> None:
    missing, additional = (
        [n for n in expected if n not in found],
        [n for n in found if n not in expected],
    )
    if missing:
        refuse(
            path,
            f"{len(missing)} of the {len(expected)} expected tensors are missing (first: "
            f"{missing[0]})",
        )
    if additional:
        refuse(
            path,
            f"it holds {len(additional)} tensors beyond the {len(expected)} expected (first: "
            f"{additional[0][:80]})",
        )
    for name, shape in expected.items():
        if found[name].shape != shape:
            refuse(path, f"{name} has the shape {found[name].shape}; expected {shape}")


def _read(name: str, tensor: StoredTensor, fetch: Fetch, path: Path) -> Tensor:
    raw, size = fetch(tensor.storage.key), math.prod(tensor.shape) * ITEM
    if len(raw) != size:
        refuse(
            path,
            f"{name} of shape {tensor.shape} has {len(raw):,} bytes of numbers; expected {size:,}",
        )
    values = torch.frombuffer(bytearray(raw), dtype=torch.float32).view(tensor.shape)
    if not bool(values.isfinite().all()):
        refuse(path, f"{name} holds numbers that are not finite")
    return values
