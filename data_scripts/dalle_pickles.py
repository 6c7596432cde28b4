"""The published files of DALL·E's dVAE, read as data: nothing in them is executed.

`encoder.pkl` and `decoder.pkl` are pickles of whole modules, and a pickle may call any function.
This module uses the documented restriction: a `pickle.Unpickler` with its own `find_class` and
`persistent_load`. Every name in a file becomes an empty class that only stores its arguments.
Afterwards the tensors are found by their names, checked, and read as plain numbers.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import reprlib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

# All classes and functions that the published files name, by module.
NAMES = {
    "dall_e.encoder": ("Encoder", "EncoderBlock"),
    "dall_e.decoder": ("Decoder", "DecoderBlock"),
    "dall_e.utils": ("Conv2d",),
    "torch.nn.modules.container": ("Sequential",),
    "torch.nn.modules.linear": ("Identity",),
    "torch.nn.modules.activation": ("ReLU",),
    "torch.nn.modules.pooling": ("MaxPool2d",),
    "torch.nn.modules.upsampling": ("Upsample",),
    "torch._utils": ("_rebuild_tensor_v2", "_rebuild_parameter"),
    "torch": ("FloatStorage", "device"),
    "collections": ("OrderedDict",),
    "__builtin__": ("set",),
    "builtins": ("set",),
}
LEGACY_START = [0x1950A86A20F9469CFC6C, 1001]  # magic number and version of the older container

# These limits only stop files that were made to exhaust the memory or the stack.
MAX_FILE = 1 << 30  # bytes; the published files have 215 and 175 million
MAX_INSTRUCTIONS = 200_000  # of the pickle; some 13,000 in a published file
MAX_TUPLES = 5_000  # some 500 in a published file; Python crashes on a hash of 200,000 nested ones
MAX_PARTS = 1_000  # modules and tensors; about 180 in a published file
MAX_NAME = 200  # characters of a dotted name

Fetch = Callable[[str], bytes | memoryview]  # key of a storage → its bytes


class RefusedFile(ValueError):
    """The file is damaged, differs from the published one, or asks to run something."""


class Inert:
    """Replaces every class and function in a file: it stores its arguments and does nothing."""

    __slots__ = ("args", "state")

    def __new__(cls, *args: object) -> Inert:
        """Keep the arguments."""
        self = super().__new__(cls)
        self.args = args
        self.state = {}
        return self

    def __setstate__(self, state: object) -> None:
        """Keep the attributes together. Without this method pickle would set each of them."""
        self.state = state

    def __setitem__(self, key: object, value: object) -> None:
        """Keep an entry of an OrderedDict."""
        self.state[key] = value


class InertUnpickler(pickle.Unpickler):
    """Unpickles into Inert objects and plain values."""

    def find_class(self, module: str, name: str) -> type[Inert]:
        """Make an empty class for a name that the published files need. Refuse any other name."""
        full = f"{module}.{name}"
        if name not in NAMES.get(module, ()):
            raise RefusedFile(f"it asks for {full[:80]!r}, which a dVAE in float32 does not need")
        return type(full, (Inert,), {"__slots__": ()})

    def persistent_load(self, pid: object) -> Inert | type[Inert]:
        """Describe a storage. Old files also name classes in this way, with their source code."""
        match pid:
            case ("storage", type(__name__="torch.FloatStorage"), str(key), _, int(numel), *_):
                return Inert(key, numel)
            case ("module", type() as kind, _, _):
                return kind
        raise RefusedFile("a persistent id in it names no storage of float32 numbers")


def unpickle(stream: BinaryIO) -> object:
    """Read one pickle, and leave `stream` after its last byte."""
    start = stream.tell()
    tuples = 0
    for count, (op, arg, _) in enumerate(pickletools.genops(stream)):
        if op.name.startswith("EXT"):  # would not pass through `find_class`
            raise RefusedFile(f"instruction {op.name} in its pickle names a class by a number")
        tuples += op.name.startswith("TUPLE")
        numbered = "PUT" in op.name and arg > MAX_INSTRUCTIONS
        if numbered or count > MAX_INSTRUCTIONS or tuples > MAX_TUPLES:
            raise RefusedFile("its pickle is longer or nested deeper than a published one could be")
    stream.seek(start)
    return InertUnpickler(stream).load()


def open_zip(data: bytes) -> tuple[object, Fetch]:
    """Open torch.save's container since 1.6: an uncompressed zip with one member a storage."""
    archive = zipfile.ZipFile(io.BytesIO(data))
    folder = archive.namelist()[0].split("/")[0]
    seen = set()
    for info in archive.infolist():
        member = f"its zip member {info.filename[:80]!r}"
        usual = re.fullmatch(re.escape(folder) + r"/(\.?data/)?\.?\w[\w.]*", info.filename)
        if not usual or info.filename in seen:
            raise RefusedFile(f"{member} is not named as torch.save names them")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise RefusedFile(f"{member} is compressed or encrypted, which torch.save never does")
        seen.add(info.filename)
    if sum(info.file_size for info in archive.infolist()) > len(data):
        raise RefusedFile("its zip members claim more bytes than the file has")
    if f"{folder}/byteorder" in seen and archive.read(f"{folder}/byteorder") != b"little":
        raise RefusedFile("its numbers are not little-endian")
    root = unpickle(io.BytesIO(archive.read(f"{folder}/data.pkl")))
    return root, lambda key: archive.read(f"{folder}/data/{key}")


def open_legacy(data: bytes) -> tuple[object, Fetch]:
    """Open torch.save's older container: five pickles, then size and numbers of each storage."""
    stream = io.BytesIO(data)
    if [unpickle(stream), unpickle(stream)] != LEGACY_START:
        raise RefusedFile("it is neither of torch.save's containers, or of another version")
    if unpickle(stream)["little_endian"] is not True:
        raise RefusedFile("its numbers are not little-endian")
    root = unpickle(stream)
    storages = {}
    for key in unpickle(stream):
        size = 4 * int.from_bytes(stream.read(8), "little")
        storages[key] = memoryview(data)[stream.tell() : stream.tell() + size]
        stream.seek(size, io.SEEK_CUR)
    return root, storages.__getitem__


def find_tensors(root: Inert) -> dict[str, Inert]:
    """Find every parameter and buffer in the tree of modules → dotted name: its description."""

    def entries(module: Inert, kind: str) -> list[tuple[str, Inert]]:
        held = module.state.get(kind, {})
        return [*(held.state if isinstance(held, Inert) else held).items()]

    found: dict[str, Inert] = {}
    waiting = [("", root)]
    visited = 0
    while waiting:
        prefix, module = waiting.pop()
        visited += 1
        # a module may contain itself
        if visited + len(waiting) + len(found) > MAX_PARTS or len(prefix) > MAX_NAME:
            raise RefusedFile(f"it has too many modules, or nested too deeply ({prefix[:80]}…)")
        for name, value in entries(module, "_parameters") + entries(module, "_buffers"):
            if value is not None:
                found[prefix + name] = value
        waiting += [(prefix + name + ".", child) for name, child in entries(module, "_modules")]
    return found


def read_tensor(name: str, value: Inert, shape: tuple[int, ...], fetch: Fetch) -> Tensor:
    """Read one tensor of the expected shape. It must fill its own storage, in any axis order."""
    if type(value).__name__ == "torch._utils._rebuild_parameter":
        value = value.args[0]
    if type(value).__name__ != "torch._utils._rebuild_tensor_v2":
        raise RefusedFile(f"its parameter {name} is a {type(value).__name__}, not a tensor")
    storage, offset, found, strides = value.args[:4]
    if found != shape:
        raise RefusedFile(f"{name} has the shape {reprlib.repr(found)}; expected {shape}")
    size = 1
    for stride, length in sorted(zip(strides, shape, strict=True)):
        if length > 1 and stride != size:
            raise RefusedFile(
                f"{name} of shape {shape} has the strides {reprlib.repr(strides)}, which do not "
                "fill a storage"
            )
        size *= length
    key, numel = storage.args
    if offset != 0 or numel != size:
        raise RefusedFile(
            f"{name} of shape {shape} does not fill its storage, which is said to hold {numel} "
            "numbers"
        )
    raw = fetch(key)
    if len(raw) != 4 * size:
        raise RefusedFile(
            f"{name} has {len(raw):,} bytes of numbers; expected {4 * size:,}. It is cut short or "
            "damaged"
        )
    values = torch.frombuffer(bytearray(raw), dtype=torch.float32).as_strided(shape, strides)
    if not bool(values.isfinite().all()):
        raise RefusedFile(f"{name} holds numbers that are not finite")
    return values.contiguous()


def read_published(
    path: str | Path, part: str, expected: dict[str, tuple[int, ...]]
) -> dict[str, Tensor]:
    """Read the tensors of a published file: published name → float32 tensor.

    Args:
        path: `encoder.pkl` or `decoder.pkl`, in torch.save's zip or its legacy container.
        part: "encoder" or "decoder".
        expected: name → shape of every tensor.

    Raises:
        FileNotFoundError: no such file.
        RefusedFile: the file names a class that such a module does not need, or is damaged. Or its
            tensors differ from the expected ones in number, name, shape or dtype.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; `python -m data_scripts.dalle_dvae` downloads it")
    try:
        if path.stat().st_size > MAX_FILE:
            raise RefusedFile(f"it has {path.stat().st_size:,} bytes, more than {MAX_FILE:,}")
        return _read(path.read_bytes(), f"dall_e.{part}.{part.capitalize()}", expected)
    except RefusedFile as error:
        raise RefusedFile(f"{path} refused: {error}. Nothing in it was run.") from error
    except OSError:
        raise
    except Exception as error:  # pickle and zipfile raise a dozen types for a damaged file
        raise RefusedFile(
            f"{path} refused: it is cut short, damaged, or no such file at all "
            f"({type(error).__name__}: {str(error)[:120]}); fetch it again. Nothing in it was run."
        ) from error


def _read(data: bytes, kind: str, expected: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    root, fetch = open_zip(data) if data.startswith(b"PK") else open_legacy(data)
    if type(root).__name__ != kind:
        raise RefusedFile(
            f"it holds an object of {type(root).__name__}, where an object of {kind} was expected"
        )
    found = find_tensors(root)
    missing = [name for name in expected if name not in found]
    if missing:
        raise RefusedFile(
            f"{len(missing)} of the {len(expected)} expected tensors are missing (first: "
            f"{missing[0]})"
        )
    more = [name for name in found if name not in expected]
    if more:
        raise RefusedFile(
            f"it holds {len(more)} tensors beyond the {len(expected)} expected (first: "
            f"{more[0][:80]})"
        )
    return {name: read_tensor(name, found[name], shape, fetch) for name, shape in expected.items()}
