"""Shared by all tests: a steady start, the paths of CamVid and of reference outputs, a tiny run."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from gss_lite.gss import GSS

# The process that hands out the tests reads this file and runs none of them, so torch and gss_lite,
# which take seconds to import, are imported where they are used.

ROOT = Path(__file__).resolve().parents[1]
# The tests hold for any number of threads and for any seed; these two variables try others.
THREADS = int(os.environ.get("GSS_TEST_THREADS", "1"))
SEED = int(os.environ.get("GSS_TEST_SEED", "0"))

# Hypothesis tries the same examples every time, and new ones with another seed. Its limits of time
# are off: on a busy machine nothing may fail by time alone.
hypothesis.settings.register_profile(
    "steady",
    derandomize=SEED == 0,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("steady")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Iterator[None]:
    """Give every test the same threads and random numbers, whatever ran before it.

    An autouse fixture would come too late for the fixtures of the module and of the session.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    torch.manual_seed(SEED)
    result = yield
    torch.set_num_threads(before)
    return result


@pytest.fixture(scope="session")
def camvid() -> Path:
    """The real CamVid folder, or a skip that says where it was looked for."""
    from gss_lite.data.folders import CamVid

    try:
        return CamVid.find()
    except FileNotFoundError as error:
        pytest.skip(f"needs CamVid: {error}")


@pytest.fixture(scope="session")
def parity() -> Path:
    """Folder of the authors' reference outputs ($GSS_PARITY, else ../shared/parity), or a skip."""
    folder = Path(os.environ.get("GSS_PARITY", ROOT.parent / "shared" / "parity"))
    if not folder.is_dir():
        pytest.skip(
            f"needs the reference outputs of the released code; none in {folder} (set GSS_PARITY)"
        )
    return folder


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both stages of the preset scenes-tiny, trained for a second each."""
    from gss_lite.training import LoopOptions, train

    folder = tmp_path_factory.mktemp("tiny")
    train("scenes-tiny", folder, options=LoopOptions(progress=False), command="test")
    return folder


@pytest.fixture(scope="session")
def live_tiny() -> GSS:
    """What `tiny_gss` copies."""
    from live_models import live

    return live("scenes-tiny")


@pytest.fixture
def tiny_gss(live_tiny: GSS) -> GSS:
    """An untrained model of scenes-tiny that uses many codes and classes; a test may change it."""
    return copy.deepcopy(live_tiny)


@pytest.fixture(scope="session")
def stride_8() -> GSS:
    """An untrained model whose maskige is twice as large as the picture; no test may change it."""
    from live_models import live

    from gss_lite.presets import TokenizerSpec, fixed, get_preset

    arguments = fixed(vocab_size=32, stride=8, width=16, depth=1)
    return live(replace(get_preset("scenes-tiny"), tokenizer=TokenizerSpec(arguments)))


@pytest.fixture(scope="session")
def scenes_gss() -> GSS:
    """The shipped model of Scenes. It serves many tests, so none may change it."""
    from gss_lite.factory import create_model

    return create_model("scenes-cpu", pretrained=True)
