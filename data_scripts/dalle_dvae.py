"""python -m data_scripts.dalle_dvae: fetch DALL·E's dVAE (OpenAI, modified MIT licence).

The script downloads the two published files (390 MB) and reads them without running anything in
them. It checks all 150 tensors and writes dalle_dvae.safetensors into data/dalle_dvae
($GSS_DATA/dalle_dvae where GSS_DATA is set). Then it deletes the pickles. The files' SHA-256 are
noted on first use and must be the same afterwards. `--pickles FOLDER` reads files that you already
have, and leaves them there.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import pooch

from data_scripts import data_folder, fetch
from data_scripts.dalle_pickles import read_published
from gss_lite.cli import print_anything
from gss_lite.dalle import LICENCE, WEIGHTS, DalleDVAE, empty_dalle
from gss_lite.dalle_names import load_published, published_shapes
from gss_lite.storage import load_weights, replace_file, save_weights

URL = "https://cdn.openai.com/dall-e/"
PICKLES = ("encoder.pkl", "decoder.pkl")
NOTE = "dalle_dvae.sha256"  # in the usual format: one line "hash  name" a file


def import_published(encoder: str | Path, decoder: str | Path, model: DalleDVAE) -> None:
    """Read both published files into `model`, whose sizes say what they must hold.

    Raises:
        FileNotFoundError, RefusedFile: see `read_published`.
    """
    sizes = (model.encoder.input.out_channels, model.vocab_size, model.decoder.codes.embedding_dim)
    for part, path in (("encoder", encoder), ("decoder", decoder)):
        tensors = read_published(path, part, published_shapes(part, *sizes))
        load_published(model, part, tensors)


def noted_hashes(folder: Path) -> dict[str, str]:
    """Return name → SHA-256 of the files seen on first use; {} before that.

    Raises:
        ValueError: a line of the note is not "hash  name".
    """
    note = folder / NOTE
    if not note.exists():
        return {}
    text = note.read_text("utf-8-sig", errors="replace")
    lines = [line.split(maxsplit=1) for line in text.splitlines()]
    if any(len(line) != 2 for line in lines):
        raise ValueError(
            f'{note} is damaged: every line must read "hash  name". Delete it and the weights '
            "beside it, and run this again"
        )
    return {name: digest for digest, name in lines}


def check_hash(path: Path, known: dict[str, str]) -> str:
    """Return the file's SHA-256, or raise ValueError if another one was noted on first use."""
    digest = pooch.file_hash(str(path))
    if known.get(path.name, digest) != digest:
        raise ValueError(
            f"{path} has the SHA-256 {digest}, but {known[path.name]} was noted on first use. "
            f"Fetch it again. If a new file was published, delete {NOTE} and the weights beside it."
        )
    return digest


def download(folder: Path, url: str) -> None:
    """Fetch both published files, `url`NAME, into `folder`.

    Raises:
        ConnectionError: a download failed. The message says what to do without a connection.
    """
    advice = (
        f"fetch {' and '.join(PICKLES)} in another way and run "
        "`python -m data_scripts.dalle_dvae --pickles FOLDER`"
    )
    for name in PICKLES:
        fetch(url + name, folder / name, advice)


def convert(pickles: Path, folder: Path) -> None:
    """Convert both files in `pickles` to one safetensors file in `folder`, and note all hashes.

    Raises:
        FileNotFoundError, ValueError: a file is missing, differs from the one first used, or is
            refused by `read_published`.
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
    save_weights(folder / WEIGHTS, model)
    hashes[WEIGHTS] = pooch.file_hash(str(folder / WEIGHTS))
    text = "".join(f"{digest}  {name}\n" for name, digest in hashes.items())
    replace_file(folder / NOTE, lambda path: path.write_text(text))


def verify(folder: Path) -> None:
    """Raise ValueError unless `folder` holds all the weights that were converted there."""
    known = noted_hashes(folder)
    if WEIGHTS not in known:
        raise ValueError(
            f"{folder / NOTE} does not name {WEIGHTS}, so the weights cannot be verified. Delete "
            "them and run this again"
        )
    check_hash(folder / WEIGHTS, known)
    load_weights(folder / WEIGHTS, empty_dalle())


def main(argv: list[str] | None = None) -> int:
    """Verify the weights if they are there, else make them. Return 0 when the dVAE is ready."""
    print_anything()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder", type=Path, default=data_folder("dalle_dvae"), help="where the weights go"
    )
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
        elif (folder / WEIGHTS).exists():
            verify(folder)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            # The pickles are deleted with the temporary folder, also after an error.
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                download(Path(scratch), URL)
                convert(Path(scratch), folder)
    except (ValueError, OSError) as error:  # ConnectionError and FileNotFoundError are OSErrors
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"DALL·E's dVAE is ready: {folder / WEIGHTS}\n{LICENCE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
