"""Install a published data set: download or unpack, verify in a scratch folder, then move."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data_scripts import data_folder, fetch
from gss_lite.cli import print_anything
from gss_lite.data.folders import MaskFolder
from gss_lite.data.inspection import inspect


@dataclass(frozen=True)
class Archive:
    """A file that may be downloaded without an account.

    Attributes:
        url: where it is.
        known_hash: as "md5:…"; None if the publishers give none.
        folder: the folder that it is unpacked to, below the set's.
    """

    url: str
    known_hash: str | None = None
    folder: str = ""


@dataclass(frozen=True)
class Recipe:
    """How a set is installed.

    Attributes:
        kind: the class of the set.
        archives: what is downloaded; empty if the set needs an account or an agreement.
        advice: where to register or to find the files, and what to put where.
        finish: called with the set's folder when it is verified.
    """

    kind: type[MaskFolder]
    archives: tuple[Archive, ...] = ()
    advice: str = ""
    finish: Callable[[Path], object] | None = None


def is_empty(folder: Path) -> bool:
    """Whether a folder does not exist or holds only hidden files."""
    if not folder.is_dir():
        return not folder.exists()
    return all(path.name.startswith(".") for path in folder.iterdir())


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip or tar archive, no file of which may lie outside the folder.

    Raises:
        ValueError: it is no archive, it is damaged, or a path in it leads outside. The message
            names the archive and the file in it.
        OSError: a file cannot be written, as on a full disk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if zipfile.is_zipfile(archive):
        _unpack_zip(archive, folder)
        return
    try:
        with tarfile.open(archive) as bundle:
            bundle.extractall(folder, filter="data")
    except tarfile.FilterError as error:
        raise ValueError(f"{archive.name}: {error}; nothing of it was kept") from error
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(
            f"{archive.name} ({archive.stat().st_size:,} bytes) is no zip or tar archive, or it is "
            f"damaged ({error}); download it anew"
        ) from error


def _unpack_zip(archive: Path, folder: Path) -> None:
    inside = folder.resolve()
    with zipfile.ZipFile(archive) as bundle:
        for member in bundle.infolist():
            target = (inside / member.filename).resolve()
            if not target.is_relative_to(inside):
                raise ValueError(
                    f"{archive.name}: {member.filename!r} leads outside the folder; nothing of it "
                    "was kept"
                )
            if member.is_dir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with bundle.open(member) as source, open(target, "wb") as file:
                    shutil.copyfileobj(source, file)
            except OSError:
                raise
            except Exception as error:  # zipfile raises half a dozen types for damage
                raise ValueError(
                    f"{archive.name}: {member.filename!r} is damaged ({error}); download the "
                    "archive anew"
                ) from error


def verify(kind: type[MaskFolder], folder: Path) -> dict[str, int]:
    """Read every picture and mask of a set → split: number of pictures.

    Raises:
        FileNotFoundError: none of its splits is there.
        ValueError: a split has another number of pictures than the published one, a file cannot
            be read, or a mask holds an unknown id.
    """
    counts = {}
    faults = []
    for split, expected in kind.splits.items():
        dataset = kind(split, folder, check=False)
        report = inspect(dataset)
        faults += report.faults
        if expected is not None and len(dataset) != expected:
            faults.append(f"the {split} split has {len(dataset):,} pictures; expected {expected:,}")
        counts[split] = len(dataset)
    if faults:
        more = f" (and {len(faults) - 3} more)" if len(faults) > 3 else ""
        raise ValueError(f"{kind.title} in {folder}: {'; '.join(faults[:3])}{more}")
    return counts


def install(recipe: Recipe, folder: Path, archives: list[Path]) -> dict[str, int]:
    """Unpack archives beside `folder`, verify the set there, move it → what `verify` returns.

    Raises:
        ConnectionError: an archive cannot be downloaded.
        ValueError, OSError: see `unpack` and `verify`. The folder is left as it was.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    places = [""] * len(archives)
    fetched: list[Path] = []
    if not archives:
        advice = f"fetch it in another way and run this with --archives FILE. {recipe.advice}"
        for archive in recipe.archives:
            path = folder.parent / archive.url.rsplit("/", 1)[-1]
            fetched.append(fetch(archive.url, path, advice.strip(), archive.known_hash))
            places.append(archive.folder)
        archives = fetched
    try:
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unpacked-") as scratch:
            unpacked = Path(scratch) / folder.name
            for archive, place in zip(archives, places):
                unpack(archive, unpacked / place)
            counts = verify(recipe.kind, unpacked)
            if folder.is_dir():  # it is empty
                shutil.rmtree(folder)
            os.replace(unpacked, folder)
        return counts
    finally:
        for path in fetched:  # a sound set needs it no more, and a damaged one is fetched anew
            path.unlink(missing_ok=True)


def run(recipe: Recipe, document: str, argv: list[str] | None = None) -> int:
    """Install or verify a set, as the script's command line asks. Return 0 when it is ready."""
    print_anything()
    kind = recipe.kind
    parser = argparse.ArgumentParser(
        description=document, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=data_folder(kind.place or kind.name))
    parser.add_argument(
        "--archives",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="zip or tar files of the set that you have downloaded",
    )
    arguments = parser.parse_args(argv)
    folder = arguments.folder
    try:
        missing = [path for path in arguments.archives if not path.is_file()]
        if missing:
            raise FileNotFoundError(f"there is no archive {missing[0]}")
        if is_empty(folder):
            if not (arguments.archives or recipe.archives):
                raise FileNotFoundError(
                    f"{kind.title} cannot be downloaded by a script. {recipe.advice} "
                    f"{kind.layout()} Put it into {folder} and run this again to verify it, or "
                    "name the downloaded archives: --archives FILE …"
                )
            counts = install(recipe, folder, arguments.archives)
        else:
            counts = verify(kind, folder)
        if recipe.finish:
            recipe.finish(kind.find(folder, next(iter(kind.splits))))
    except (ValueError, OSError) as error:  # ConnectionError and FileNotFoundError are OSErrors
        print(f"error: {error}", file=sys.stderr)
        return 1
    listed = ", ".join(f"{count:,} {split}" for split, count in counts.items())
    print(f"{kind.title} is ready in {folder}: {listed} pictures")
    return 0
