"""Numbers as text: a mean with its spread, and columns under their titles."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence


def spread(values: Sequence[float | None], digits: int = 2) -> str:
    """Mean ± standard deviation of the values that are known, or a dash where none is."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    deviation = statistics.stdev(known) if len(known) > 1 else 0.0
    return f"{statistics.mean(known):.{digits}f} ± {deviation:.{digits}f}"


def text_table(head: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    """Columns under their titles: names to the left, all else to the right."""
    lines = [tuple(head), *((name, *cells) for name, cells in rows.items())]
    widths = [max(map(len, column)) for column in zip(*lines)]
    text = []
    for name, *cells in lines:
        aligned = [cell.rjust(width) for cell, width in zip(cells, widths[1:])]
        text.append("  ".join([name.ljust(widths[0]), *aligned]).rstrip())
    return "\n".join(text)
