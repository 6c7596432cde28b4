"""Look through every file of a data set: counts, sizes, a label histogram, and what is broken."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from gss_lite.contracts import IGNORE
from gss_lite.data.checks import odd_histogram, read_lines
from gss_lite.data.folders import EXCLUDED, MaskFolder
from gss_lite.data.own import OwnFolder
from gss_lite.data.registry import DATASETS
from gss_lite.storage import replace_file

SHOWN = 20  # faults that a report prints


@dataclass
class Report:
    """What was found in one split of a data set.

    Attributes:
        dataset: the split, opened without its own check.
        sizes: (width, height) → number of pictures.
        pixels: number of pixels of each class, (K + 1,); the last is that of ignored pixels.
        pictures: number of pictures in which each class occurs, (K,).
        faults: one message for each fault.
        broken: names of the frames that cannot be used.
    """

    dataset: MaskFolder
    sizes: Counter = field(default_factory=Counter)
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    pictures: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    faults: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        """The report as text."""
        dataset = self.dataset
        expected = dataset.splits.get(dataset.split)
        count = f"{len(dataset):,} pictures with masks"
        if expected:
            count += f" (the published set has {expected:,})"
        sizes = [f"{w}×{h} ({n:,})" for (w, h), n in self.sizes.most_common(5)]
        lines = [
            f"{dataset.title}, {dataset.split}: {count}, in {dataset.root}",
            f"sizes (width × height): {', '.join(sizes) or 'none'}"
            + (f" and {len(self.sizes) - 5} more" if len(self.sizes) > 5 else ""),
            "",
            f"{'id':>3}  {'class':<24} {'% of pixels':>11} {'pictures':>9}",
        ]
        total = max(int(self.pixels[:-1].sum()), 1)
        for k, name in enumerate(dataset.classes):
            share = 100 * self.pixels[k] / total
            lines.append(f"{k:>3}  {name:<24} {share:>11.3f} {self.pictures[k]:>9,}")
        ignored = 100 * self.pixels[-1] / max(int(self.pixels.sum()), 1)
        lines.append(f"{IGNORE:>3}  {'(ignored, of all pixels)':<24} {ignored:>11.3f}")
        lines += ["", *(f"note: {note}" for note in self.notes)]
        lines += [f"fault: {fault}" for fault in self.faults[:SHOWN]]
        if len(self.faults) > SHOWN:
            lines.append(f"… and {len(self.faults) - SHOWN} more faults")
        if not self.faults:
            lines.append("no faults")
        return "\n".join(lines)


def inspect(dataset: MaskFolder, *, progress: bool = True) -> Report:
    """Read every picture and mask of a split.

    Args:
        dataset: opened with `check=False`.
        progress: whether to show a progress bar on a terminal.
    """
    classes = len(dataset.classes)
    report = Report(
        dataset,
        pixels=np.zeros(classes + 1, np.int64),
        pictures=np.zeros(classes, np.int64),
        faults=list(dataset.faults),
        broken=list(dataset.broken),
        notes=list(dataset.notes),
    )

    def read(index: int) -> tuple[tuple[int, int], np.ndarray] | str:
        try:
            image, mask = dataset[index]
        except (ValueError, OSError, MemoryError) as error:
            return str(error)
        return (image.shape[2], image.shape[1]), np.bincount(mask.flatten(), minlength=256)

    hidden = not progress or not sys.stderr.isatty()
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        found = threads.map(read, range(len(dataset)))
        for index, result in enumerate(tqdm(found, total=len(dataset), disable=hidden)):
            if isinstance(result, str):
                report.faults.append(result)
                report.broken.append(dataset.names[index])
                continue
            size, counts = result
            report.sizes[size] += 1
            report.pixels += [*counts[:classes], counts[IGNORE]]
            report.pictures += counts[:classes] > 0
    expected = dataset.splits.get(dataset.split)
    if expected and expected != len(dataset):
        report.notes.append(f"the published split has {expected:,} pictures")
    counts = np.zeros(256, np.int64)
    counts[:classes] = report.pixels[:-1]
    own = {**{k: k for k in range(classes)}, IGNORE: IGNORE}
    for oddity in odd_histogram(counts, own, dataset.shares):
        if oddity not in report.notes:
            report.notes.append(oddity)
    return report


def open_splits(
    name: str,
    folder: str | Path | None = None,
    classes: str | Path | None = None,
    split: str | None = None,
) -> list[MaskFolder]:
    """Open the splits of a set, or of any folder, without a check of its files.

    Args:
        name: a key of DATASETS, or the path of a folder.
        folder: where the set lies; by default it is looked for.
        classes: the list of classes of a folder, see `ClassList`.
        split: one split; by default all that are there.

    Raises:
        ValueError: there is no such set or folder, or its pictures are drawn.
        FileNotFoundError: none of its splits is on disk.
    """
    if name not in DATASETS:
        if not Path(name).is_dir():
            raise ValueError(
                f"{name!r} is no data set and no folder; the data sets are {', '.join(DATASETS)}"
            )
        if folder is not None:
            raise ValueError("--data says where a published set lies; leave it out for a folder")
        splits = [split] if split else OwnFolder.present(Path(name))
        return [OwnFolder(each, name, classes, check=False) for each in splits]
    if classes is not None:
        raise ValueError(f"{name} has its own classes; leave --classes out")
    kind = DATASETS[name]
    if kind.drawn:
        raise ValueError(f"{name} is drawn by the code, so there are no files to check")
    opened = []
    absent: list[FileNotFoundError] = []
    for part in getattr(kind, "kinds", (kind,)):
        for each in [split] if split else part.splits:
            try:
                opened.append(part(each, folder, check=False))
            except FileNotFoundError as error:
                absent.append(error)
    if not opened:
        raise absent[0]
    return opened


def check_files(
    datasets: list[MaskFolder],
    list_file: str | Path | None = None,
    *,
    leave_out: bool = False,
    say: Callable[[str], object] = print,
) -> list[Report]:
    """Inspect the splits of a set and print a report of each.

    Args:
        datasets: see `open_splits`.
        list_file: where to list the usable frames, if anywhere.
        leave_out: whether to name the broken frames in exclude.txt, so that the rest can be used.
        say: prints a text.

    Raises:
        ValueError: there are faults, and `leave_out` is False.
    """
    reports = []
    for dataset in datasets:
        reports.append(inspect(dataset))
        say(reports[-1].text() + "\n")
    if list_file:
        write_list(reports, Path(list_file))
        say(f"the usable frames are listed in {list_file}")
    if leave_out:
        for root in dict.fromkeys(dataset.root for dataset in datasets):
            path = exclude([report for report in reports if report.dataset.root == root])
            if path:
                say(f"{path} names the broken frames; the data set leaves them out from now on")
        return reports
    faults = sum(len(report.faults) for report in reports)
    if faults:
        raise ValueError(
            f"{faults} faults, see above. Mend or replace these files, or give --exclude to leave "
            "their frames out"
        )
    return reports


def exclude(reports: list[Report]) -> Path | None:
    """Add the broken frames of a set's splits to its exclude.txt; None if there are none.

    The data set then leaves them out. Nothing is deleted.
    """
    broken = {name for report in reports for name in report.broken}
    if not broken:
        return None
    path = reports[0].dataset.root / EXCLUDED
    names = sorted(read_lines(path) | broken)
    _write_lines(path, names)
    return path


def write_list(reports: list[Report], path: Path) -> None:
    """Write "picture mask" on a line for each frame that can be used, below the set's folder."""
    lines = []
    for report in reports:
        dataset = report.dataset
        for (picture, mask), name in zip(dataset.pairs, dataset.names):
            if name not in report.broken:
                below = (part.relative_to(dataset.root).as_posix() for part in (picture, mask))
                lines.append(" ".join(below))
    _write_lines(path, lines)


def _write_lines(path: Path, lines: list[str]) -> None:
    text = "\n".join(lines) + "\n"
    replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
