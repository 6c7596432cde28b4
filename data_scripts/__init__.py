"""Get or prepare data. Run as `python -m data_scripts.NAME` from the repository's root."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pooch


def data_folder(name: str) -> Path:
    """Return the default folder of a data set: below $GSS_DATA if that is set, else below data/."""
    return Path(os.environ.get("GSS_DATA") or "data") / name


def fetch(url: str, path: Path, advice: str) -> Path:
    """Download a file to `path`, and return where it is.

    Raises:
        ConnectionError: the download failed. The message ends with `advice`.
    """
    try:
        file = pooch.retrieve(
            url,
            known_hash=None,
            path=path.parent,
            fname=path.name,
            progressbar=sys.stderr.isatty(),
        )
        return Path(file)
    except Exception as error:  # requests and urllib3 raise dozens of types
        raise ConnectionError(
            f"{path.name} could not be downloaded from {url} ({type(error).__name__}: {error}). "
            f"Check the connection, or {advice}."
        ) from error
