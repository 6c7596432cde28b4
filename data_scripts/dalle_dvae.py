"""python -m data_scripts.dalle_dvae: DALL·E's dVAE (OpenAI, modified MIT licence) into data/dalle_dvae, as safetensors.

Downloads the two published files (390 MB), reads them without running anything in them, checks all
150 tensors, writes dalle_dvae.safetensors and deletes the pickles. The files' SHA-256 are noted on
first use and must be the same afterwards. Files that you have already are read with `--pickles
FOLDER`, and left there.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import pooch

from data_scripts.dalle_files import import_published
from gss_lite.dalle import LICENCE, WEIGHTS, empty_dalle
from gss_lite.storage import load_weights, replace_file, save_weights

URL = "https://cdn.openai.com/dall-e/"
PICKLES = ("encoder.pkl", "decoder.pkl")
NOTE = "dalle_dvae.sha256"  # in the usual format: one line "hash  name" a file


def noted_hashes(folder: Path) -> dict[str, str]:
    """Name → SHA-256 of the files seen on first use; {} before that.

    Raises:
        ValueError: a line of the note is not "hash  name".
    """
    note = folder / NOTE
    if not note.exists():
        return {}
    lines = [line.split(maxsplit=1) for line in note.read_text(errors="replace").splitlines()]
    if any(len(line) != 2 for line in lines):
        raise ValueError(
            f'{note} is damaged: every line must read "hash  name". Delete it and the weights '
            "beside it, and run this again"
        )
    return {name: digest for digest, name in lines}


def check_hash(path: Path, known: dict[str, str]) -> str:
    """The file's SHA-256.

    Raises:
        ValueError: another was noted on first use.
    """
    digest = pooch.file_hash(str(path))
    if known.get(path.name, digest) != digest:
        raise ValueError(
            f"{path} has the SHA-256 {digest}, where {known[path.name]} was noted on first use. "
            "Fetch it again; if it was published "
            f"anew, delete {NOTE} and the weights beside it."
        )
    return digest


def download(folder: Path, url: str) -> None:
    """Fetch both published files, `url`NAME, into `folder`.

    Raises:
        ConnectionError: they cannot be had; says how to go on without.
    """
    for name in PICKLES:
        try:
            pooch.retrieve(
                url + name,
                known_hash=None,
                path=folder,
                fname=name,
                progressbar=sys.stderr.isatty(),
            )
        except Exception as error:  # requests and urllib3 raise dozens of types
            raise ConnectionError(
                f"{name} could not be downloaded from {url + name} ({type(error).__name__}: "
                f"{error}). Check the connection, or fetch "
                f"{' and '.join(PICKLES)} in another way and run `python -m "
                "data_scripts.dalle_dvae --pickles FOLDER`."
            ) from error


def convert(pickles: Path, folder: Path) -> None:
    """Both files in `pickles` → `folder`/dalle_dvae.safetensors, written beside and renamed, and the note of all three hashes.

    Raises:
        FileNotFoundError, ValueError: a file is missing, differs from the one first used, or is
            refused by the reader.
    """
    missing = [name for name in PICKLES if not (pickles / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{pickles} holds no {' and no '.join(missing)}; both published files are needed"
        )
    known = noted_hashes(folder)
    hashes = {name: check_hash(pickles / name, known) for name in PICKLES}
    model = empty_dalle()
    import_published(*(pickles / name for name in PICKLES), model)
    save_weights(folder / WEIGHTS.name, model)
    hashes[WEIGHTS.name] = pooch.file_hash(str(folder / WEIGHTS.name))
    text = "".join(f"{digest}  {name}\n" for name, digest in hashes.items())
    replace_file(folder / NOTE, lambda path: path.write_text(text))


def verify(folder: Path) -> None:
    """Raise ValueError unless `folder`'s weights are the ones converted there, with every name and shape."""
    known = noted_hashes(folder)
    if WEIGHTS.name not in known:
        raise ValueError(
            f"{folder / NOTE} does not name {WEIGHTS.name}, so nobody can say whether it is what "
            "was converted. Delete the weights and run this again"
        )
    check_hash(folder / WEIGHTS.name, known)
    load_weights(folder / WEIGHTS.name, empty_dalle())


def main(argv: list[str] | None = None) -> int:
    """Verify the weights if they are there, else convert the given pickles, else download them. 0 when the dVAE is ready."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=WEIGHTS.parent, help="where the weights go")
    parser.add_argument(
        "--pickles",
        type=Path,
        help="a folder with encoder.pkl and decoder.pkl, instead of downloading them",
    )
    arguments = parser.parse_args(argv)
    folder: Path = arguments.folder
    try:
        if arguments.pickles:
            convert(arguments.pickles, folder)
        elif (folder / WEIGHTS.name).exists():
            verify(folder)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            # takes the pickles with it, whatever happens
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                download(Path(scratch), URL)
                convert(Path(scratch), folder)
    except (ValueError, OSError) as error:  # ConnectionError and FileNotFoundError are OSErrors
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"DALL·E's dVAE is ready: {folder / WEIGHTS.name}\n{LICENCE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
