"""A tokenizer made for one palette is measured with that palette, on the data it was made for."""

from __future__ import annotations

import json
import shutil

import pytest

from gss_lite.factory import SHIPPED
from notebooks.experiments import generic_tokenizer


@pytest.mark.slow
def test_a_tokenizer_made_for_one_palette_is_measured_with_that_palette(tmp_path):
    path = tmp_path / "record.json"
    other = tmp_path / "copy"
    shutil.copytree(SHIPPED, other)
    arguments = ["--preset", "scenes-cpu", "--weights", str(other), "--data", "scenes"]
    generic_tokenizer.main([*arguments, "--pictures", "2", "--record", str(path)])
    record = json.loads(path.read_text())
    palettes = record["metrics"]["palettes"]
    assert next(iter(palettes)) == "own"
    assert f"--preset scenes-cpu --weights {other} --data scenes" in record["command"]
    assert palettes["own"]["miou"] > max(palettes[f"random {seed}"]["miou"] for seed in range(5))
    with pytest.raises(ValueError, match="made for the palette of scenes, and --data is camvid"):
        generic_tokenizer.measure("scenes-cpu", "camvid", "test", 2)
