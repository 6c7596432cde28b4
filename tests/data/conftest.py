"""A folder of CamVid for the tests of data."""

from __future__ import annotations

import pytest
from camvid_files import write_camvid


@pytest.fixture
def folder(tmp_path):
    """CamVid's folders with two small frames a split."""
    return write_camvid(tmp_path / "camvid")
