"""Get or prepare data. Run as `python -m data_scripts.NAME` from the repository's root."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def data_folder(name: str) -> Path:
    """Where a data set goes by default: below $GSS_DATA if that is set, else below data/."""
    return Path(os.environ.get("GSS_DATA") or "data") / name


def print_anything() -> None:
    """Print what the console cannot encode as an escape sequence instead of raising an error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # notebooks put other objects in their place
            stream.reconfigure(errors="backslashreplace")
