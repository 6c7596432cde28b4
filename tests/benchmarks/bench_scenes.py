"""Scenes at 96 × 128 on one core: pictures a second, drawn and decoded.

The same pictures and masks are decoded from PNG files in memory.
"""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from gss_lite.data.scenes import DOMAINS, render

PICTURES = 25
ROUNDS = 3
LIMIT = 40  # lenient: about 18 was measured, 130 scenes a second


def cpu_seconds(draw: Callable[[int], object]) -> float:
    """Seconds of this process's own time for one picture: the median of ROUNDS passes.

    A first pass is not counted. Drawing runs in one thread, so with its own time other processes on
    the machine do not matter.
    """
    seconds = []
    for _ in range(ROUNDS + 1):
        start = time.process_time()
        for index in range(PICTURES):
            draw(index)
        seconds.append((time.process_time() - start) / PICTURES)
    return statistics.median(seconds[1:])


def png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("domain", DOMAINS)
def test_drawing_a_scene(domain: str) -> None:
    stored = [tuple(map(png, render(0, index, domain=domain))) for index in range(PICTURES)]

    def decode(index: int) -> list[np.ndarray]:
        return [np.asarray(Image.open(io.BytesIO(file))) for file in stored[index]]

    for ours, read in zip(render(0, 3, domain=domain), decode(3)):
        assert np.array_equal(ours, read)
    drawn = cpu_seconds(lambda index: render(0, index, domain=domain))
    decoded = cpu_seconds(decode)
    print(
        f"\n{domain}: {1 / drawn:.0f} scenes drawn a second, {1 / decoded:.0f} decoded from PNG; "
        f"drawing takes {drawn / decoded:.0f} times as long"
    )
    assert drawn / decoded <= LIMIT
