"""python -m data_scripts.dalle_dvae: fetch DALL·E's dVAE (OpenAI, modified MIT licence).

The script downloads the two published files (390 MB) and reads them without running anything in
them. It checks all 150 tensors and writes dalle_dvae.safetensors into data/dalle_dvae
($GSS_DATA/dalle_dvae where GSS_DATA is set). Then it deletes the pickles. The files' SHA-256 are
noted on first use and must be the same afterwards. `--pickles FOLDER` reads files that you already
have, and leaves them there.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path

import pooch
import torch

from data_scripts import data_folder, fetch
from data_scripts.dalle_pickles import read_published
from gss_lite.cli import print_anything
from gss_lite.dalle import LICENCE, WEIGHTS, DalleDVAE, empty_dalle
from gss_lite.storage import load_weights, replace_file, save_weights

URL = "https://cdn.openai.com/dall-e/"
PICKLES = ("encoder.pkl", "decoder.pkl")
NOTE = "dalle_dvae.sha256"  # in the usual format: one line "hash  name" a file


def published_name(ours: str) -> str:
    """Translate a name: groups.1.0.res.2.weight → blocks.group_2.block_1.res_path.conv_3.w."""
    name = re.sub(r"(?<=\.)\d", lambda digit: str(int(digit[0]) + 1), ours)  # OpenAI counts from 1
    name = re.sub(r"groups\.(\d)\.(\d)", r"group_\1.block_\2", name)
    name = re.sub(r"res\.(\d)", r"res_path.conv_\1", name).replace(".id.", ".id_path.")
    name = name.replace("output.", "output.conv.").replace("codes.", "input.")
    return "blocks." + name.replace(".weight", ".w").replace(".bias", ".b")


def published_shapes(
    part: str, width: int = 256, vocab_size: int = 8192, code_dim: int = 128
) -> dict[str, tuple[int, ...]]:
    """Return name → shape of the 74 tensors in `encoder.pkl` or the 76 in `decoder.pkl`.

    Args:
        part: "encoder" or "decoder".
        width, vocab_size, code_dim: the sizes of `DalleDVAE`.
    """
    with torch.device("meta"):
        ours = getattr(DalleDVAE(vocab_size, width, code_dim), part).state_dict()
    shapes = {published_name(name): tuple(tensor.shape) for name, tensor in ours.items()}
    if part == "encoder":
        shapes["blocks.output.conv.w"] += (1, 1)
    else:
        shapes["blocks.input.w"] = (code_dim, vocab_size, 1, 1)
        shapes["blocks.input.b"] = (code_dim,)
    return shapes


def import_published(encoder: str | Path, decoder: str | Path, model: DalleDVAE) -> None:
    """Read both published files into `model`, whose sizes say what they must hold.

    Raises:
        FileNotFoundError, RefusedFile: see `read_published`.
    """
    sizes = (model.encoder.input.out_channels, model.vocab_size, model.decoder.codes.embedding_dim)
    for part, path in (("encoder", encoder), ("decoder", decoder)):
        tensors = read_published(path, part, published_shapes(part, *sizes))
        if part == "encoder":
            tensors["blocks.output.conv.w"] = tensors["blocks.output.conv.w"].flatten(1)
        else:
            # A 1×1 convolution of a one-hot map is one row of its weights, plus the bias.
            table = tensors["blocks.input.w"].flatten(1).T + tensors["blocks.input.b"]
            tensors["blocks.input.w"] = table
        ours = getattr(model, part)
        ours.load_state_dict({name: tensors[published_name(name)] for name in ours.state_dict()})


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
