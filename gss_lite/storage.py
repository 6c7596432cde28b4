"""Files: atomic writing, JSON, and weights and checkpoints that execute nothing.

A file of weights names the hashes of the weights that it builds on. A prior names those of its
tokenizer and palette. They are compared when a model is put together.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

LARGEST_HALF = torch.finfo(torch.float16).max
RESTS_ON = "rests_on"  # the entry of a weights file's metadata, see `save_weights`


def replace_file(path: str | Path, write: Callable[[Path], object]) -> None:
    """Let `write(temporary_path)` write a file beside `path`, then rename it.

    Other programs see the old file or the new one, never half a file. If `path` is a link, the
    link stays and the file that it points to is replaced.

    Raises:
        OSError: `path` is no regular file, or the new file could not be written (a full disk). The
            old file is unchanged, and the temporary file is deleted.
    """
    check_replaceable(path)
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        os.replace(temporary, target)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch raises RuntimeError here
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise OSError(
            f"{path} could not be written ({reason}). What was there before is intact. Make room "
            "or choose another place, and run the same command again."
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def check_replaceable(path: str | Path) -> None:
    """Raise OSError if `path` is a folder, a device, a pipe or this command's own output."""
    if os.path.islink(os.path.realpath(path)):
        raise OSError(f"{path} is a link that leads back to itself; name a file to write to")
    if not os.path.exists(path):
        return
    if not os.path.isfile(path):
        kind = "a folder" if os.path.isdir(path) else "a device or a pipe, no regular file"
        raise OSError(f"{path} is {kind}; name a file to write to")
    if _is_a_stream(path):
        raise FileExistsError(f"{path} is where this command prints to; name a file to write to")


def _is_a_stream(path: str | Path) -> bool:
    """Whether standard output or standard error is written to this file."""
    for stream in (1, 2):
        with suppress(OSError):
            if os.path.samestat(os.stat(path), os.fstat(stream)):
                return True
    return False


def check_writable(folder: str | Path) -> None:
    """Raise OSError unless `folder`, or the folder that it would be made in, can be written to."""
    place = Path(folder)
    while not place.exists() and place != place.parent:
        place = place.parent
    probe = place / f".gss-lite.{os.getpid()}.part"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(
            f"nothing can be written to {folder} ({error.strerror}); choose another folder"
        ) from error


def remove_leftovers(folder: str | Path) -> None:
    """Delete the half-written files that killed processes left in `folder`."""
    for path in Path(folder).glob(".*.part"):
        owner = path.name.removesuffix(".part").rpartition(".")[2]
        if owner.isdecimal() and not _is_running(int(owner)):
            path.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    if os.name == "nt":  # there os.kill would end the process
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def write_json(path: str | Path, value: dict) -> None:
    """Write JSON with an indent of two spaces, atomically."""
    text = json.dumps(value, indent=2) + "\n"
    replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_json(path: str | Path) -> dict:
    """Read a JSON object from a file. A byte-order mark is skipped.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds no JSON object.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except ValueError as error:  # the JSON or its UTF-8
        raise ValueError(f"{path} is not JSON, perhaps cut short ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds JSON, but no object; expected names and values in {{…}}")
    return value


def save_checkpoint(path: str | Path, state: dict) -> None:
    """Save everything that a training run needs to continue, atomically."""

    def write(temporary: Path) -> None:
        try:
            with open(temporary, "wb") as file:
                torch.save(state, file)
        except RuntimeError as error:
            # Torch hides the system's error (a full disk) behind its own. Raise the system's.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise

    replace_file(path, write)


def load_checkpoint(path: Path, run: Mapping) -> dict | None:
    """Load the state saved at `path`; None if there is no file.

    Args:
        run: what identifies the run that continues: preset, stage, seed, data and more.

    Raises:
        ValueError: another run made the checkpoint, or it cannot be read.
    """
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        saved = state["run"]
    except Exception as error:  # torch raises half a dozen types for a damaged file
        raise ValueError(
            f"checkpoint {path} cannot be read ({type(error).__name__}); delete it to begin again"
        ) from error
    check_same_run(f"checkpoint {path}", saved, run)
    return state


def check_same_run(what: str, there: Mapping, now: Mapping) -> None:
    """Raise ValueError, naming every difference, unless both runs are the same.

    Args:
        what: the file of the run `there`.
        there: what identifies that run.
        now: what identifies the run that continues.
    """
    differing = sorted(k for k in now.keys() | there.keys() if now.get(k) != there.get(k))
    if not differing:
        return
    shown = "; ".join(f"{k}: {there.get(k)!r} there, {now.get(k)!r} now" for k in differing)
    data = "The pictures, their classes or their masks differ. " if "data" in differing else ""
    raise ValueError(
        f"{what} belongs to another run ({shown}). {data}Choose another folder, or delete it to "
        "begin again."
    )


def save_weights(
    path: str | Path,
    module: nn.Module,
    *,
    half: bool = False,
    rests_on: Mapping[str, str] | None = None,
) -> None:
    """Save parameters and buffers as safetensors.

    Args:
        half: store floats in 16 bits instead of 32, for the package.
        rests_on: name → hash of a part that the weights were trained with; see `what_it_rests_on`.

    Raises:
        ValueError: a value is not finite, or too large for 16 bits. The message names the tensor.
    """
    tensors = {}
    for name, tensor in module.state_dict().items():
        tensor = tensor.detach().cpu().contiguous()
        if tensor.is_floating_point():
            limit = LARGEST_HALF if half else torch.inf
            if not bool((tensor.abs() <= limit).all()) or not bool(tensor.isfinite().all()):
                fault = "a value above 65,504" if half else "a value"
                raise ValueError(
                    f"{name} holds {fault} that is not finite in {'16' if half else '32'} bits; "
                    f"{path} is not written"
                )
            tensor = tensor.half() if half else tensor
        tensors[name] = tensor
    # One entry only: safetensors writes several in any order, so equal weights could give
    # different files.
    metadata = {RESTS_ON: json.dumps(dict(rests_on), sort_keys=True)} if rests_on else None
    replace_file(path, lambda temporary: save_file(tensors, temporary, metadata))


def load_weights(path: str | Path, module: nn.Module) -> None:
    """Load safetensors into `module`; names, shapes and types must agree.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, was made for another architecture, or holds NaN or
            infinity. The message names the first wrong tensor.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"no weights at {path}; make them with `python -m gss_lite train`, "
            "or pass --weights FOLDER"
        )
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"weights file {path} is damaged or cut short ({error}); fetch it or train it again"
        ) from error
    expected = module.state_dict()
    wrong = sorted(expected.keys() ^ tensors.keys())
    for name in sorted(expected.keys() & tensors.keys()):
        there, wanted = tensors[name], expected[name]
        if there.shape != wanted.shape:
            wrong.append(f"{name} {tuple(there.shape)} instead of {tuple(wanted.shape)}")
        elif there.is_floating_point() != wanted.is_floating_point():
            wrong.append(f"{name} of {there.dtype} instead of {wanted.dtype}")
    if wrong:
        raise ValueError(
            f"weights file {path} was made for another architecture: {len(wrong)} tensors differ "
            f"(first: {wrong[0]}). Use the preset it was trained with."
        )
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.float().isfinite().all()):
            raise ValueError(
                f"weights file {path} holds values in {name} that are not finite, so it cannot "
                "predict anything; fetch it or train it again"
            )
    module.load_state_dict({k: v.to(expected[k].dtype) for k, v in tensors.items()})


def what_it_rests_on(path: str | Path) -> dict[str, str]:
    """Return the hashes that `save_weights` put into a file of weights, or {}.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return json.loads((file.metadata() or {}).get(RESTS_ON, "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"weights file {path} cannot be read ({error})") from error


def check_rests_on(path: Path, hashes: Mapping[str, str]) -> None:
    """Raise ValueError unless the weights in `path` were trained with parts of these hashes.

    Args:
        hashes: a part's name and "_sha256" → its hash, see `stage_one_hashes`.
    """
    trained_on = what_it_rests_on(path)
    unknown = _named(name for name in hashes if name not in trained_on)
    if unknown:
        raise ValueError(
            f"{path} does not say which {unknown} it was trained with. An earlier version of "
            "gss_lite or another program made it. Train it again in a new folder"
        )
    other = _named(name for name, value in hashes.items() if trained_on[name] != value)
    if other:
        raise ValueError(
            f"{path} was trained with another {other} than the one it is used with, so the "
            "prediction would be wrong. Put the files of one run together, or train it again in a "
            "new folder"
        )


def _named(hashes: Iterable[str]) -> str:
    return " and ".join(name.removesuffix("_sha256") for name in hashes)


def tensors_hash(tensors: Iterable[Tensor]) -> str:
    """Hash tensors in their order → 64 hexadecimal digits of SHA-256."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().numpy())
    return digest.hexdigest()


def weights_hash(module: nn.Module) -> str:
    """Hash a module's parameters and buffers in the order of their names, see `tensors_hash`."""
    return tensors_hash(tensor for _, tensor in sorted(module.state_dict().items()))
