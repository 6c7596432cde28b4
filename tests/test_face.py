"""The README's lines of use run as they stand, and give what they promise."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib
import pytest
import torch
from PIL import Image
from torch.utils.data import Subset

import gss_lite as gss

README = Path(__file__).resolve().parents[1] / "README.md"


def test_every_name_of_the_face_is_there() -> None:
    assert all(hasattr(gss, name) for name in (*gss.__all__, "show", "plot_log"))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = gss.nothing


@pytest.mark.slow
def test_the_readmes_lines_of_use_run(tmp_path, monkeypatch, capsys) -> None:
    """Training is scenes-tiny's, and evaluation looks at three streets; all else stays as it is."""
    matplotlib.use("agg")
    monkeypatch.chdir(tmp_path)
    code = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)[1]
    assert len([line for line in code.splitlines() if line.strip()]) <= 25
    Image.new("RGB", (200, 150), (90, 120, 160)).save("street.jpg")
    before, after = code.split("run = gss.train", 1)
    after = "run = gss.train" + after.replace("scenes-cpu", "scenes-tiny")
    names: dict = {}
    exec(before.replace("(model, streets)", "(model, few(streets))"), {"few": few}, names)
    exec(after.replace("(better, streets", "(better, few(streets)"), names | {"few": few}, names)
    assert names["scores"].miou > 0.6
    assert f"{100 * names['scores'].miou:.2f}" in capsys.readouterr().out
    assert names["out"].mask.shape == names["mask"].shape
    assert (names["again"][0] == names["mask"])[names["mask"] != 255].float().mean() > 0.95
    assert {"vqvae", "prior", "inverse-ft-w"} <= names["run"].records.keys()
    assert isinstance(names["better"].inverse, gss.SwinInverse)


def few(streets: torch.utils.data.Dataset) -> Subset:
    return Subset(streets, range(3))


def test_a_model_by_name_is_the_shipped_one() -> None:
    assert "scenes-cpu" in gss.list_presets()
    model = gss.create_model("scenes-cpu", pretrained=True)
    assert not model.training and len(model.palette) == len(gss.Scenes.classes)
