"""Pickles that try to run code or to lie, made here: each is refused by name, and nothing runs."""

import os
import pickle
import struct

import pytest
import torch
from dalle_samples import build, dall_e, read, save, wrap  # noqa: F401 - dall_e is a fixture

from data_scripts.dalle_files import read_published
from data_scripts.inert_pickle import RefusedFile


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
    """Name → (a pickle that runs `command` when it is opened in the usual way, what the refusal must name)."""
    system = Evil(os.system, command)
    inner = Evil(eval, f"__import__('os').system({command!r})")
    return {
        "os.system": (pickle.dumps(system, 2), f"{os.name}.system"),
        "stack global": (pickle.dumps(system, 4), f"{os.name}.system"),
        "builtin": (pickle.dumps(inner, 2), "__builtin__.eval"),
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
        (ENCODER + b")R.", "it calls 'dall_e.encoder.Encoder'"),
        (text("os") + text("system") + b"\x86" + b")R.", "it calls a tuple"),
        (ENCODER + b"K\x01\x85\x81.", "from arguments"),
        (b"ctorch\ndevice\n)\x81.", "makes an object of 'torch.device'"),
        (b"(" + ENCODER + b"o.", "instruction OBJ"),
        (ENCODER + b")\x81N}\x86b.", "from a tuple"),
        (ENCODER + b"}b.", "instead of Object"),
        (b"\x82\x01.", "instruction EXT1"),
        (b"Pstorage\n.", "instruction PERSID"),
        (ENCODER + b")\x81.", "74 of the 74 expected tensors are missing"),
        (b"}.", "it holds a dict"),
        (
            b"cdall_e.decoder\nDecoder\n)\x81.",
            "where an object of dall_e.encoder.Encoder was expected",
        ),
        (ENCODER + b")\x81}" + text("_modules") + b"K\x01sb.", "not laid out"),
        (
            ENCODER + b")\x81q\x00}" + text("_modules") + b"}" + text("me") + b"h\x00ssb.",
            "more than 1000 modules",
        ),
        (
            ENCODER + b")\x81q\x00}" + text("_modules") + b"}" + text("m" * 70_000) + b"h\x00ssb.",
            "nested too deeply (mmm",
        ),
        (b"}" + b")" + b"\x85" * 50_000 + b"Ns.", "key of a dictionary"),
        (b"N" * 200_001 + b".", "more than 200,000 instructions"),
        (b"j\xff\xff\xff\xff.", "KeyError"),
        (b"Nr\xff\xff\xff\xff", "exhausted before seeing STOP"),
        (b"\x8d" + b"\xff" * 8 + b".", "fetch it again"),
        (b".", "missing on the stack"),
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
        (parameter(storage(numel=-1)), {}, "a count was expected"),
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
        (parameter(storage()), {}, "no member 'data/0'"),
        (parameter(storage()), {"archive/data/0": b"\xff" * 4 * 588}, "not finite"),
        (parameter(storage("../../secret")), {}, "names the storage '../../secret'"),
        (
            parameter(storage(tag=b"ctorch\nHalfStorage\n")),
            {},
            "stores torch.HalfStorage, where float32",
        ),
        (parameter(storage(tag=b"cos\nsystem\n")), {}, "os.system"),
        (parameter(storage(tag=text("torch.FloatStorage"))), {}, "names no storage of floats"),
        (parameter(storage(), offset=1), {}, "does not fill its storage"),
        (parameter(storage(), strides=b"(K\x31K\x93K\x07K\x01t"), {}, "expected row-major order"),
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


def test_the_reader_never_asks_pythons_unpickler(tmp_path, dall_e, monkeypatch):
    path = save(build("encoder", dall_e), tmp_path / "x.pkl")
    for name in ("load", "loads", "Unpickler", "_Unpickler"):
        monkeypatch.setattr(pickle, name, None)
    monkeypatch.setattr(torch, "load", None)
    assert len(read(path)) == 74
