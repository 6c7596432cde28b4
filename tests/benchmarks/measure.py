"""Seconds and memory of a callable, for benchmarks that compare with a plain baseline."""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile


def measure(run: Callable[[], object], repeats: int = 5) -> float:
    """Median seconds of `repeats` calls of `run()`, after one call that is not counted.

    Waits for the GPU if there is one.
    """
    seconds = []
    for _ in range(repeats + 1):
        _synchronize()
        start = time.perf_counter()
        run()
        _synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def peak_extra_bytes(run: Callable[[], object]) -> int:
    """The most bytes of CPU tensors alive at once during `run()`, beyond those alive before.

    Its result counts too.

    Added up from every allocation and release that torch's own profiler records, so the figure
    repeats exactly and does not depend on what the process has freed earlier, as its resident
    memory would.
    """
    with (
        _silent_stderr(),
        profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler,
    ):
        result = run()  # kept until the profiler has stopped, as a caller would keep it
    del result
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    changes = [
        (event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]"
    ]
    if not changes:
        raise RuntimeError(
            "the profiler recorded no allocation; does run() create any tensor on the CPU?"
        )
    alive = peak = 0
    # stable: events of the same instant stay in order
    for _, change in sorted(changes, key=lambda item: item[0]):
        alive += change
        peak = max(peak, alive)
    return peak


def report(title: str, rows: dict[str, tuple[float, int]]) -> None:
    """Print {name: (seconds, bytes)} as a table; ratios are to the first row, the baseline."""
    base_seconds, base_bytes = next(iter(rows.values()))
    print(
        f"\n{title} ({torch.get_num_threads()} threads)\n{'':32} {'seconds':>9} {'faster':>9} "
        f"{'extra MB':>9} {'memory':>8}"
    )
    for name, (seconds, size) in rows.items():
        ratio = f"1/{base_bytes / size:.0f}" if size < base_bytes else f"{size / base_bytes:.1f}"
        print(
            f"{name:32} {seconds:9.4f} {base_seconds / seconds:8.1f}x {size / 1e6:9.1f} {ratio:>8}"
        )


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """The profiler's C++ part would log its start and stop to file descriptor 2, amid tables."""
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
