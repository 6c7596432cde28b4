"""Shared by all tests: where CamVid and the reference outputs are, and a tiny trained run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from gss_lite.data.folders import find_camvid
from gss_lite.presets import get_preset
from gss_lite.training.prior import train_prior
from gss_lite.training.tokenizer import train_vqvae

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def camvid() -> Path:
    """The real CamVid folder, or a skip that says where it was looked for."""
    try:
        return find_camvid()
    except FileNotFoundError as error:
        pytest.skip(f"needs CamVid: {error}")


@pytest.fixture(scope="session")
def parity() -> Path:
    """Folder of reference outputs of the authors' code ($GSS_PARITY, else ../shared/parity), or a skip."""
    folder = Path(os.environ.get("GSS_PARITY", ROOT.parent / "shared" / "parity"))
    if not folder.is_dir():
        pytest.skip(
            f"needs the reference outputs of the released code; none in {folder} (set GSS_PARITY)"
        )
    return folder


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory) -> Path:
    """A folder with both stages of the preset scenes-tiny, trained for a second each."""
    folder = tmp_path_factory.mktemp("tiny")
    torch.set_num_threads(1)
    preset = get_preset("scenes-tiny")
    train_vqvae(preset, folder, progress=False, command="test")
    train_prior(preset, folder, progress=False, command="test")
    return folder
