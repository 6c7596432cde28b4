"""Get or prepare data. Run as `python -m data_scripts.NAME` from the repository's root."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pooch
import requests
from tqdm import tqdm

CHUNK = 2**16  # bytes; as many at most are lost when a download breaks off


def data_folder(name: str) -> Path:
    """Return the default folder of a data set: below $GSS_DATA if that is set, else below data/."""
    return Path(os.environ.get("GSS_DATA") or "data") / name


def fetch(url: str, path: Path, advice: str, known_hash: str | None = None) -> Path:
    """Download a file to `path`, and return where it is.

    What an interrupted download has fetched stays in PATH.part, and the next call goes on from
    there.

    Args:
        url: where the file is.
        path: where it goes.
        advice: what else can be done when the download fails.
        known_hash: as "sha1:…"; None accepts any file.

    Raises:
        ConnectionError: the download failed. The message ends with `advice`.
        ValueError: the file has another hash. It is deleted.
        OSError: the file cannot be written, as on a full disk.
    """
    try:
        file = pooch.retrieve(
            url,
            known_hash=known_hash,
            path=path.parent,
            fname=path.name,
            downloader=Resuming(path.with_name(f"{path.name}.part")),
        )
        return Path(file)
    except Exception as error:  # requests and urllib3 raise dozens of types
        if isinstance(error, ValueError) and "does not match the known hash" in str(error):
            raise ValueError(
                f"the file from {url} is not the published one: its hash is not {known_hash}. "
                f"Run this again to download it anew, or {advice}."
            ) from error
        if getattr(error, "errno", None) is not None and not isinstance(
            error, requests.RequestException
        ):
            raise OSError(
                f"{path} cannot be written ({error}); make room, and run again"
            ) from error
        raise ConnectionError(
            f"{path.name} could not be downloaded from {url} ({type(error).__name__}: {error}). "
            f"Check the connection, or {advice}."
        ) from error


class Resuming:
    """A downloader for pooch that goes on where an interrupted download has stopped.

    Args:
        part: the file that keeps what has been fetched so far.
    """

    def __init__(self, part: Path) -> None:
        self.part = part

    def __call__(self, url: str, output_file: str, pooch: object) -> None:
        """Fetch the rest of the file, and move it to `output_file`."""
        tag = self.part.with_name(f"{self.part.name}.etag")
        have = self.part.stat().st_size if self.part.is_file() and tag.is_file() else 0
        headers = {"Accept-Encoding": "identity"}
        if have:
            # A server whose file has changed since then sends the whole of it.
            headers |= {"Range": f"bytes={have}-", "If-Range": tag.read_text()}
        with requests.get(url, headers=headers, stream=True, timeout=60) as response:
            if response.status_code == 416:  # the part is no part of this file
                self.part.unlink()
                raise ConnectionError("the server cannot go on with this download; run this again")
            response.raise_for_status()
            goes_on = response.status_code == 206
            name = response.headers.get("ETag") or response.headers.get("Last-Modified")
            if name:
                tag.write_text(name)
            have = have if goes_on else 0
            rest = response.headers.get("Content-Length")
            total = have + int(rest) if rest else None
            bar = tqdm(
                desc=self.part.stem,
                total=total,
                initial=have,
                unit="B",
                unit_scale=True,
                disable=not sys.stderr.isatty(),
                mininterval=1.0,
            )
            with bar, open(self.part, "ab" if goes_on else "wb") as file:
                for chunk in response.iter_content(CHUNK):
                    file.write(chunk)
                    bar.update(len(chunk))
        size = self.part.stat().st_size
        if total is not None and size != total:
            raise ConnectionError(f"it ended after {size:,} of {total:,} bytes; run this again")
        shutil.move(self.part, output_file)
        tag.unlink(missing_ok=True)
