"""python -m data_scripts.mseg: fetch MSeg's table of classes, and verify its seven training sets.

The table (42 kB, CC BY 4.0) goes into data/mseg. The seven sets need several accounts; MSeg's own
scripts relabel them. The script says what is expected where, and verifies the sets that are there.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from data_scripts import data_folder, fetch
from data_scripts.install import verify
from gss_lite.cli import print_anything
from gss_lite.data.mseg import PARTS
from gss_lite.data.taxonomy import Taxonomy

URL = (
    "https://raw.githubusercontent.com/mseg-dataset/mseg-api/master/mseg/class_remapping_files/"
    "MSeg_master.tsv"
)
SHA256 = "50b30f887a8fea39f8b37a3c318a88f41bcac98c8c4090ebc9ff6d7f5a8ec40b"
ADVICE = (
    "Follow https://github.com/mseg-dataset/mseg-api/tree/master/download_scripts, which downloads "
    "and relabels the sets into mseg_dataset"
)


def fetch_table(folder: Path) -> Path:
    """Download the table into `folder`, unless it is there.

    Raises:
        ConnectionError, ValueError, OSError: see `data_scripts.fetch`; or it is not the table.
    """
    path = folder / "MSeg_master.tsv"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        fetch(URL, path, f"put MSeg_master.tsv into {folder} yourself", f"sha256:{SHA256}")
    Taxonomy.read(path)
    return path


def main(argv: list[str] | None = None) -> int:
    """Fetch the table and verify the sets. Return 0 when all seven are ready."""
    print_anything()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", type=Path, default=data_folder("mseg"), help="of the table")
    parser.add_argument("--folder", type=Path, default=data_folder("mseg_dataset"))
    arguments = parser.parse_args(argv)
    try:
        print(f"MSeg's table is ready: {fetch_table(arguments.table)}")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    faults = 0
    for part in PARTS:
        try:
            counts = verify(part, arguments.folder)
            listed = ", ".join(f"{count:,} {split}" for split, count in counts.items())
            print(f"{part.title} is ready: {listed} pictures")
        except (ValueError, OSError) as error:
            faults += 1
            print(f"error: {error}", file=sys.stderr)
    if faults:
        print(f"error: {faults} of {len(PARTS)} sets are not ready. {ADVICE}.", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
