"""Numbers as text: a mean with its spread, and columns under their titles."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence


def spread(values: Sequence[float | None], digits: int = 2) -> str:
    """Mean ± standard deviation of the values that are not None, or a dash if all are."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    deviation = statistics.stdev(known) if len(known) > 1 else 0.0
    return f"{statistics.mean(known):.{digits}f} ± {deviation:.{digits}f}"


def text_table(head: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    """A text table: one row a name, names aligned to the left and cells to the right."""
    lines = [tuple(head), *((name, *cells) for name, cells in rows.items())]
    widths = [max(map(len, column)) for column in zip(*lines)]
    text = []
    for name, *cells in lines:
        aligned = [cell.rjust(width) for cell, width in zip(cells, widths[1:])]
        text.append("  ".join([name.ljust(widths[0]), *aligned]).rstrip())
    return "\n".join(text)
