"""Pickles that try to run code or to lie: each is refused by name, and nothing runs."""

import os
import pickle
import struct
import sys
from pathlib import Path

import pytest
import torch
from dalle_samples import build, read, save, wrap

from data_scripts import dalle_pickles
from data_scripts.dalle_pickles import Inert, RefusedFile, read_published


class Evil:
    """Unpickled in the usual way, it runs a command."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def text(value: str) -> bytes:
    """Instruction BINUNICODE."""
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def hostile(command: str) -> dict[str, tuple[bytes, str]]:
    """Name → (a pickle that runs `command` when opened as usual, what the refusal must name)."""
    system = Evil(os.system, command)
    inner = Evil(eval, f"__import__('os').system({command!r})")
    return {
        "os.system": (pickle.dumps(system, 2), f"{os.name}.system"),
        "stack global": (pickle.dumps(system, 4), f"{os.name}.system"),
        "builtin": (pickle.dumps(inner, 2), "__builtin__.eval"),
        "getattr": (
            b"c__builtin__\ngetattr\n(c__builtin__\n__import__\n"
            + text("os")
            + b"\x85R"
            + text("system")
            + b"tR"
            + text(command)
            + b"\x85R.",
            "__builtin__.getattr",
        ),
        "nested in an argument": (pickle.dumps(Evil(set, [inner]), 2), "__builtin__.eval"),
        "INST": (b"(" + text(command) + b"ios\nsystem\n.", "os.system"),
        "OBJ": (b"(cos\nsystem\n" + text(command) + b"o.", "os.system"),
        "BUILD": (
            b"ctypes\nSimpleNamespace\n)\x81}"
            + text("x")
            + b"cos\nsystem\n"
            + text(command)
            + b"\x85Rsb.",
            "types.SimpleNamespace",
        ),
        "behind an admitted call": (
            b"ccollections\nOrderedDict\n)R"
            + text("x")
            + b"cos\nsystem\n"
            + text(command)
            + b"\x85Rs.",
            "os.system",
        ),
    }


@pytest.mark.parametrize("container", ["zip", "legacy"])
@pytest.mark.parametrize("name", list(hostile("")))
def test_a_pickle_that_runs_code_is_refused_by_name(tmp_path, name, container):
    marker = tmp_path / "it-ran"
    pickled, named = hostile(f"touch {marker}")[name]
    with pytest.raises(RefusedFile, match=named.replace(".", r"\.")) as refusal:
        read(wrap(pickled, tmp_path / "x.pkl", container))
    assert "Nothing in it was run" in str(refusal.value)
    assert not marker.exists()
    pickle.loads(pickled)  # our own command: the file is as hostile as it says
    assert marker.exists()


@pytest.mark.parametrize("container", ["zip", "legacy"])
def test_code_deep_inside_a_proper_module_is_refused(tmp_path, dall_e, container):
    module = build("encoder", dall_e)
    module.blocks.group_3.block_2._forward_hooks["hook"] = Evil(
        os.system, f"touch {tmp_path / 'it-ran'}"
    )
    with pytest.raises(RefusedFile, match=rf"{os.name}\.system"):
        read(save(module, tmp_path / "x.pkl", container))
    assert not (tmp_path / "it-ran").exists()


ENCODER = b"cdall_e.encoder\nEncoder\n"


@pytest.mark.parametrize(
    ("pickled", "named"),
    [
        (b"ctorch.hub\nload\n.", "torch.hub.load"),
        (b"ctorch._utils\n_rebuild_device_tensor_from_numpy\n.", "_rebuild_device_tensor"),
        (b"ctorch.nn.modules.linear\nLinear\n.", "torch.nn.modules.linear.Linear"),
        (ENCODER + b")R.", "74 of the 74 expected tensors are missing"),
        (text("os") + text("system") + b"\x86" + b")R.", "'tuple' object is not callable"),
        (ENCODER + b"K\x01\x85\x81.", "74 of the 74 expected tensors are missing"),
        (b"ctorch\ndevice\n)\x81.", "it holds an object of torch.device"),
        (b"(" + ENCODER + b"o.", "74 of the 74 expected tensors are missing"),
        (ENCODER + b")\x81N}\x86b.", "'tuple' object has no attribute"),
        (ENCODER + b"}b.", "missing 1 required positional argument"),
        (b"\x82\x01.", "instruction EXT1"),
        (b"Pstorage\n.", "names no storage of float32"),
        (ENCODER + b")\x81.", "74 of the 74 expected tensors are missing"),
        (b"}.", "it holds an object of dict"),
        (
            b"cdall_e.decoder\nDecoder\n)\x81.",
            "where an object of dall_e.encoder.Encoder was expected",
        ),
        (ENCODER + b")\x81}" + text("_modules") + b"K\x01sb.", "has no attribute 'items'"),
        (
            ENCODER + b")\x81q\x00}" + text("_modules") + b"}" + text("me") + b"h\x00ssb.",
            "too many modules, or nested too deeply (me.me.",
        ),
        (
            ENCODER + b")\x81q\x00}" + text("_modules") + b"}" + text("m" * 70_000) + b"h\x00ssb.",
            "too many modules, or nested too deeply (mmm",
        ),
        (
            ENCODER
            + b")\x81}"
            + text("_modules")
            + b"}("
            + b"".join(text(str(n)) + ENCODER + b")\x81" for n in range(1000))
            + b"usb.",
            "too many modules",
        ),
        (
            ENCODER
            + b")\x81}"
            + text("_modules")
            + b"}"
            + text("m" * 200)
            + ENCODER
            + b")\x81ssb.",
            "nested too deeply (mmm",
        ),
        # Python crashes when it takes the hash of a tuple that is nested so deeply.
        (b"}" + b")" + b"\x85" * 190_000 + b"Ns.", "longer or nested deeper than a published"),
        (b"N" * 200_002 + b".", "longer or nested deeper than a published"),
        (b"j\xff\xff\xff\xff.", "Memo value not found"),
        # Python sets aside 64 GB for this instruction.
        (b"Nr\xff\xff\xff\xff.", "longer or nested deeper than a published"),
        (b"\x8d" + b"\xff" * 8 + b".", "fetch it again"),
        (b".", "unpickling stack underflow"),
    ],
)
def test_instructions_no_published_file_holds_are_refused(tmp_path, pickled, named):
    with pytest.raises(RefusedFile) as refusal:
        read(wrap(pickled, tmp_path / "x.pkl", "zip"))
    assert named in str(refusal.value)


def parameter(
    pid: bytes,
    shape: bytes = b"(K\x04K\x03K\x07K\x07t",
    strides: bytes = b"(K\x93K\x31K\x07K\x01t",
    offset: int = 0,
) -> bytes:
    """An Encoder with one parameter, rebuilt from the persistent id given."""
    rebuild = (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + pid
        + b"QK"
        + bytes([offset])
        + shape
        + strides
        + b"\x89Nt"
        + b"R"
    )
    tree = (
        ENCODER
        + b")\x81}"
        + text("_modules")
        + b"}"
        + text("blocks")
        + b"ctorch.nn.modules.container\nSequential\n)\x81}"
    )
    conv = (
        b"cdall_e.utils\nConv2d\n)\x81}" + text("_parameters") + b"}" + text("w") + rebuild + b"ssb"
    )
    return tree + text("_modules") + b"}" + text("input") + conv + b"ssbssb."


def storage(key: str = "0", numel: int = 588, tag: bytes = b"ctorch\nFloatStorage\n") -> bytes:
    return (
        b"("
        + text("storage")
        + tag
        + text(key)
        + text("cpu")
        + b"J"
        + struct.pack("<i", numel)
        + b"t"
    )


@pytest.mark.parametrize(
    ("pickled", "members", "named"),
    [
        (parameter(storage()), {"archive/data/0": bytes(4 * 588)}, None),
        (
            parameter(storage(numel=587)),
            {"archive/data/0": bytes(4 * 588)},
            "shape (4, 3, 7, 7) does not fill its storage, which is said to hold 587 numbers",
        ),
        (
            parameter(storage(numel=2**31 - 1)),
            {"archive/data/0": bytes(4 * 588)},
            "said to hold 2147483647 numbers",
        ),
        (parameter(storage(numel=-1)), {}, "said to hold -1 numbers"),
        (
            parameter(storage()),
            {"archive/data/0": bytes(4 * 587)},
            "has 2,348 bytes of numbers; expected 2,352",
        ),
        (
            parameter(storage()),
            {"archive/data/0": bytes(4 * 589)},
            "has 2,356 bytes of numbers; expected 2,352",
        ),
        (parameter(storage()), {}, "no item named 'archive/data/0'"),
        (parameter(storage()), {"archive/data/0": b"\xff" * 4 * 588}, "not finite"),
        (parameter(storage("../../secret")), {}, "no item named 'archive/data/../../secret'"),
        (
            parameter(storage(tag=b"ctorch\nHalfStorage\n")),
            {},
            "asks for 'torch.HalfStorage', which a dVAE in float32 does not need",
        ),
        (parameter(storage(tag=b"cos\nsystem\n")), {}, "os.system"),
        (parameter(storage(tag=text("torch.FloatStorage"))), {}, "names no storage of float32"),
        (parameter(storage(), offset=1), {}, "does not fill its storage"),
        (
            parameter(storage(), strides=b"(K\x31K\x93K\x07K\x01t"),
            {},
            "which do not fill a storage",
        ),
        (
            parameter(storage(), shape=b"(K\x04K\x03K\x31t", strides=b"(K\x93K\x31K\x01t"),
            {},
            "has the shape (4, 3, 49); expected (4, 3, 7, 7)",
        ),
    ],
)
def test_tensors_that_lie_about_themselves_are_refused(tmp_path, pickled, members, named):
    expected = {"blocks.input.w": (4, 3, 7, 7)}
    path = wrap(pickled, tmp_path / "x.pkl", "zip", members)
    if named is None:  # the file that the others are variations of
        assert torch.equal(
            read_published(path, "encoder", expected)["blocks.input.w"], torch.zeros(4, 3, 7, 7)
        )
        return
    with pytest.raises(RefusedFile) as refusal:
        read_published(path, "encoder", expected)
    assert named in str(refusal.value)


@pytest.mark.parametrize("container", ["zip", "legacy"])
@pytest.mark.parametrize(
    ("function", "named"),
    [
        (torch.hub.load, "torch.hub.load"),
        (torch.load, "torch.serialization.load"),
        (torch._utils._rebuild_device_tensor_from_numpy, "_rebuild_device_tensor_from_numpy"),
        (torch._utils._rebuild_sparse_tensor, "_rebuild_sparse_tensor"),
        (torch.nn.Linear, "torch.nn.modules.linear.Linear"),
        (torch.Size, "torch.Size"),
        (getattr, "__builtin__.getattr"),
        (type, "__builtin__.type"),
    ],
)
def test_in_a_proper_module_no_other_name_is_admitted(tmp_path, dall_e, function, named, container):
    module = build("encoder", dall_e)
    module.blocks.group_1.more = Evil(function, "x")
    with pytest.raises(RefusedFile, match=rf"asks for '[\w.]*{named.replace('.', '[.]')}'"):
        read(save(module, tmp_path / "x.pkl", container))


@pytest.mark.parametrize("container", ["zip", "legacy"])
def test_attributes_of_a_module_are_kept_and_never_set(tmp_path, dall_e, container):
    module = build("encoder", dall_e)
    kind = dall_e["Conv2d"]
    tricks = {"__setstate__": kind, "__class__": kind, "__init__": kind, "state": {}, "args": ()}
    module.blocks.group_2.__dict__.update(tricks)
    tensors = read(save(module, tmp_path / "x.pkl", container))
    assert all(torch.equal(tensors[n], p) for n, p in module.named_parameters())
    assert not hasattr(Inert(), "__dict__") and Inert.__setstate__ is not kind


@pytest.mark.parametrize(
    "pid",
    [
        b"(" + text("module") + b"cos\nsystem\n" + text("a") + text("b") + b"tQ",
        b"(" + text("module") + text("os.system") + text("a") + text("b") + b"tQ",
        b"(" + text("storage") + ENCODER + text("0") + text("cpu") + b"K\x01tQ",
        b"(" + text("file") + text("/etc/passwd") + b"tQ",
        text("module") + b"Q",
    ],
)
@pytest.mark.parametrize("container", ["zip", "legacy"])
def test_persistent_ids_of_another_kind_are_refused(tmp_path, pid, container):
    with pytest.raises(RefusedFile, match=r"os\.system|names no storage of float32"):
        read(wrap(pid + b".", tmp_path / "x.pkl", container))


@pytest.mark.parametrize("container", ["zip", "legacy"])
def test_no_name_in_a_file_is_looked_up(tmp_path, dall_e, container, monkeypatch):
    path = save(build("encoder", dall_e), tmp_path / "x.pkl", container)
    for name in [name for name in sys.modules if name.partition(".")[0] == "dall_e"]:
        monkeypatch.setitem(sys.modules, name, None)  # an import of it raises an error
    assert len(read(path)) == 74


def test_a_file_too_large_to_be_the_published_one_is_not_read(tmp_path, monkeypatch):
    path = wrap(b"}.", tmp_path / "x.pkl", "zip")
    monkeypatch.setattr(dalle_pickles, "MAX_FILE", path.stat().st_size - 1)
    monkeypatch.setattr(Path, "read_bytes", None)
    with pytest.raises(RefusedFile, match=r"it has \d+ bytes, more than"):
        read(path)
