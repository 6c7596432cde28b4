"""A pickle of one of DALL·E's modules read as data: nothing in it is run.

A pickle is a program for a small stack machine, and opened in the usual way it runs whatever it
asks for. This machine makes names, numbers, tuples, lists and dictionaries only: a class is its
name, an object a name with attributes, and the functions that such a module needs are known by name
and answered with data. All else is refused by name.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

MODULES = frozenset(
    {
        "dall_e.encoder.Encoder",
        "dall_e.encoder.EncoderBlock",
        "dall_e.decoder.Decoder",
        "dall_e.decoder.DecoderBlock",
        "dall_e.utils.Conv2d",
        "torch.nn.modules.container.Sequential",
        "torch.nn.modules.linear.Identity",
        "torch.nn.modules.activation.ReLU",
        "torch.nn.modules.pooling.MaxPool2d",
        "torch.nn.modules.upsampling.Upsample",
    }
)


FUNCTIONS = frozenset(
    {
        "collections.OrderedDict",
        "__builtin__.set",
        "builtins.set",
        "torch.device",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_parameter",
    }
)


FLOATS = "torch.FloatStorage"


# The published pickles have some 20,000 instructions; the limits only stop files made to exhaust
# the reader.
MAX_INSTRUCTIONS, MAX_DIMS = 200_000, 8


class RefusedFile(ValueError):
    """The file is damaged, is not what was published, or asks for something to be run. Nothing in it was run."""


class Name(str):
    """The dotted name of a class or function that a pickle asks for, and nothing more."""


@dataclass(eq=False)
class Object:
    """What a pickle calls an instance: the name of its class, and its attributes."""

    kind: Name
    state: dict


@dataclass(frozen=True)
class Storage:
    """The key under which the container keeps a tensor's floats, and how many the pickle says there are."""

    key: str
    numel: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor not yet read."""

    storage: Storage
    shape: tuple[int, ...]


def read_pickle(stream: BinaryIO, path: Path) -> object:
    """One pickle from `stream`, which is left behind its end, as Names, Objects, StoredTensors and plain values.

    Raises:
        RefusedFile: a name or an instruction that the published files do not use, or no well-formed
            pickle. `path` is named.
    """
    machine = _Machine(path)
    try:
        for count, (op, arg, at) in enumerate(pickletools.genops(stream)):
            if count == MAX_INSTRUCTIONS:
                refuse(path, f"its pickle has more than {MAX_INSTRUCTIONS:,} instructions")
            machine.step(op.name, arg, at)
        return machine.pop(1)[0]
    except RefusedFile:
        raise
    except (
        ValueError,
        IndexError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        MemoryError,
    ) as error:
        refuse(
            path,
            f"it is cut short, damaged, or no such file at all ({type(error).__name__}: "
            f"{str(error)[:120]}); fetch it again",
            error,
        )


def refuse(path: Path, reason: str, cause: Exception | None = None) -> NoReturn:
    """Raise RefusedFile."""
    raise RefusedFile(f"{path} refused: {reason}. Nothing in it was run.") from cause


def describe(value: object) -> str:
    """A few words for an error message, whatever the file made of the value."""
    if isinstance(value, Object):
        return f"an object of {value.kind}"
    return repr(str(value)[:80]) if isinstance(value, str) else f"a {type(value).__name__}"


class _Machine:
    """The stack machine that a pickle is a program for, without the ability to call anything."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stack: list = []
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}

    def step(self, op: str, arg: object, at: int | None) -> None:
        """Carry out one instruction; `arg` is written in the pickle itself, `at` is its byte."""
        stack = self.stack
        match op:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[op])
            case (
                "BININT"
                | "BININT1"
                | "BININT2"
                | "LONG1"
                | "BINFLOAT"
                | "BINUNICODE"
                | "SHORT_BINUNICODE"
            ):
                stack.append(arg)
            case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
                stack.append({"EMPTY_DICT": {}, "EMPTY_LIST": [], "EMPTY_TUPLE": ()}[op])
            case "MARK":
                self.marks.append(len(stack))
            case "TUPLE":
                stack.append(tuple(self.since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self.pop(int(op[-1]))))
            case "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                self.memo[len(self.memo) if op == "MEMOIZE" else arg] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self.memo[arg])
            case "SETITEM" | "SETITEMS":
                items = self.pop(2) if op == "SETITEM" else self.since_mark()
                if any(type(key) is not str for key in items[::2]):
                    raise TypeError("a key of a dictionary that is no string")
                self.top(dict).update(zip(items[::2], items[1::2], strict=True))
            case "APPEND" | "APPENDS":
                items = self.pop(1) if op == "APPEND" else self.since_mark()
                self.top(list).extend(items)
            case "GLOBAL":
                stack.append(self.admitted(arg.replace(" ", "."), op, at))
            case "STACK_GLOBAL":
                stack.append(self.admitted(".".join(self.pop(2)), op, at))
            case "NEWOBJ":
                kind, args = self.pop(2)
                if not isinstance(kind, Name) or kind not in MODULES or args != ():
                    refuse(
                        self.path,
                        f"it makes an object of {describe(kind)} from arguments (byte {at})",
                    )
                stack.append(Object(kind, {}))
            case "BUILD":
                state = stack.pop()
                if type(state) is not dict:
                    refuse(
                        self.path,
                        f"it sets the attributes of {describe(stack[-1])} from a "
                        f"{type(state).__name__} (byte {at})",
                    )
                self.top(Object).state = state
            case "REDUCE":
                function, args = self.pop(2)
                if (
                    not isinstance(function, Name)
                    or function not in FUNCTIONS
                    or type(args) is not tuple
                ):
                    refuse(self.path, f"it calls {describe(function)} (byte {at})")
                stack.append(self.answer(function, args))
            case "BINPERSID":
                stack.append(self.stored(stack.pop()))
            case _:  # INST carries the name of a class to make and call at once
                named = str(arg)[:80].replace(" ", ".")
                refuse(
                    self.path,
                    f"instruction {op} {named!r} (byte {at}) does not occur in the published files",
                )

    def pop(self, n: int) -> list:
        """The last n values, in the order in which they were pushed."""
        if len(self.stack) < n:
            raise IndexError("a value is missing on the stack")
        values = self.stack[-n:]
        del self.stack[-n:]
        return values

    def since_mark(self) -> list:
        """The values pushed after the last mark."""
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def top(self, kind: type) -> object:
        """The last value, which stays where it is; it must be of the type given."""
        if type(self.stack[-1]) is not kind:
            raise TypeError(f"{describe(self.stack[-1])} instead of {kind.__name__}")
        return self.stack[-1]

    def admitted(self, name: str, op: str, at: int | None) -> Name:
        """The name, if a published file may ask for it."""
        if name.startswith("torch.") and name.endswith("Storage") and name != FLOATS:
            refuse(self.path, f"it stores {name[:80]}, where float32 ({FLOATS}) was expected")
        if name not in MODULES and name not in FUNCTIONS and name != FLOATS:
            refuse(
                self.path,
                f"it asks for {name[:80]!r} (instruction {op}, byte {at}), which no part of the "
                "dVAE needs",
            )
        return Name(name)

    def answer(self, function: Name, args: tuple) -> object:
        """What stands for the result of a call. Sets and devices are torch's bookkeeping, which nothing here reads."""
        match function:
            case "collections.OrderedDict":
                if args:
                    raise TypeError("an OrderedDict made from arguments")
                return {}
            case "torch._utils._rebuild_parameter":
                if not args or not isinstance(args[0], StoredTensor):
                    raise TypeError("a parameter that is no tensor")
                return args[0]
            case "torch._utils._rebuild_tensor_v2":
                return self.tensor(*args[:4])
        return None

    def tensor(
        self, storage: object, offset: object, shape: object, strides: object
    ) -> StoredTensor:
        """A tensor that fills its storage, in row-major order, as the published ones do."""
        if (
            not isinstance(storage, Storage)
            or type(shape) is not tuple
            or type(strides) is not tuple
            or len(shape) > MAX_DIMS
        ):
            raise TypeError("a tensor without a storage, or with more than the usual dimensions")
        shape, strides = tuple(map(_natural, shape)), tuple(map(_natural, strides))
        size = 1
        for length, stride in zip(reversed(shape), reversed(strides), strict=True):
            if length > 1 and stride != size:
                refuse(
                    self.path,
                    f"a tensor of shape {shape} has the strides {strides}; expected row-major "
                    "order",
                )
            size *= length
        if type(offset) is not int or offset != 0 or size != storage.numel:
            refuse(
                self.path,
                f"a tensor of shape {shape} does not fill its storage, which is said to hold "
                f"{storage.numel} numbers",
            )
        return StoredTensor(storage, shape)

    def stored(self, pid: object) -> Storage | Name:
        """A persistent id: ("storage", type, key, device, numbers[, None]), or in old files ("module", class, file, source)."""
        if type(pid) is not tuple or len(pid) not in (4, 5, 6) or pid[5:] not in ((), (None,)):
            raise TypeError("a persistent id of an unknown form")
        if len(pid) == 4 and pid[0] == "module" and isinstance(pid[1], Name):
            return pid[1]
        if len(pid) == 4 or pid[0] != "storage" or not isinstance(pid[1], Name) or pid[1] != FLOATS:
            raise TypeError("a persistent id that names no storage of floats")
        if type(pid[2]) is not str or not (pid[2].isascii() and pid[2].isdigit()):
            refuse(
                self.path,
                f"a persistent id names the storage {describe(pid[2])}, where a number was "
                "expected",
            )
        return Storage(pid[2], _natural(pid[4]))


def _natural(value: object) -> int:
    if type(value) is not int or value < 0:
        raise TypeError(f"{describe(value)} where a count was expected")
    return value
