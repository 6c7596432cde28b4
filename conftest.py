"""What holds for every test and every notebook: CPU, threads, and which files run first."""

from __future__ import annotations

import os

import pytest

# pytest-xdist says how many tests run side by side. Kernels of notebooks inherit these variables.
SIDE_BY_SIDE = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1" if SIDE_BY_SIDE > 1 else "2"
# A thread that waits sleeps. By default it spins, and on a busy machine two threads that wait for
# each other so take the core that both need: a cell of 20 seconds then lasts for minutes.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
os.environ["KMP_BLOCKTIME"] = "0"
# Many tests compare with numbers of the CPU, or fork, which a process that uses a GPU must not do.
# So no process sees a GPU, unless GSS_TEST_GPU=1 is set. It is meant for the few tests that need
# one (tests/palette/test_palette.py, tests/test_inverse.py) and for the benchmarks.
if os.environ.get("GSS_TEST_GPU") != "1":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


def place(item: pytest.Item) -> int:
    """Long files come first, so that no worker is left with one when the others have finished."""
    if item.path.suffix == ".ipynb":
        return 0
    if item.get_closest_marker("browser"):
        return 1
    return 2


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Notebooks first, then the browser, then the files with slow tests, then all others."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (place(item), item.path not in slow))
