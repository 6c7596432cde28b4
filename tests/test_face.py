"""The README's lines of use run as they are written, on small schedules and few pictures."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import matplotlib
import pytest
import torch
from matplotlib import pyplot as plt
from PIL import Image

import gss_lite as gss
from gss_lite import presets
from gss_lite.inverse_fitted import SwinInverse

README = Path(gss.__file__).resolve().parents[1] / "README.md"


def lines_of_use() -> str:
    """The README's first block of Python."""
    return re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S).group(1)


@pytest.fixture
def small_scenes(monkeypatch):
    """scenes-cpu with its own networks and its shipped weights, trained for two steps."""
    scenes = gss.get_preset("scenes-cpu")
    small = replace(scenes, data=replace(scenes.data, train_pictures=12, eval_pictures=4))
    for stage in scenes.schedules:
        more = {"pictures": 4} if stage.startswith("inverse") else {}
        small = small.with_schedule(stage, steps=2, batch=4, **more)
    known = {**presets.PRESETS, "scenes-cpu": small}
    monkeypatch.setattr(presets, "PRESETS", MappingProxyType(known))


@pytest.fixture
def used(small_scenes, tmp_path, monkeypatch, capsys):
    """The names that are there after the lines have run, and what they printed."""
    monkeypatch.chdir(tmp_path)
    Image.effect_noise((180, 250), 60).convert("RGB").save("street.jpg")
    names: dict = {}
    with matplotlib.rc_context({"backend": "agg"}):
        exec(compile(lines_of_use(), str(README), "exec"), names)
        names["figures"] = plt.get_fignums()
        plt.close("all")
    names["printed"] = capsys.readouterr().out
    return names


@pytest.mark.slow
def test_the_lines_of_use_run_as_they_are_written(used, tmp_path):
    out, streets = used["out"], used["streets"]
    assert out.mask.shape == out.pixel_mask.shape == used["mask"].shape == (96, 128)
    assert out.maskige.shape == (3, 96, 128) and out.tokens.shape == (24, 32)
    assert used["maskige"].shape == (1, 3, 96, 128) and used["tokens"].shape == (1, 24, 32)
    labelled = used["mask"] != gss.IGNORE
    assert (used["again"][0] == used["mask"])[labelled].float().mean() > 0.97
    assert (out.mask == used["mask"])[labelled].float().mean() > 0.8
    found = used["model"].segment(used["street"])
    assert found.mask.shape == used["street"].shape[1:] == (250, 180)
    scores = used["scores"]
    assert len(scores) == len(streets) == 4 and 0.6 < scores.miou < 1
    assert 0 < scores["pixel_head"].miou < 1
    assert scores.table() in used["printed"] and "Bicyclist" in scores.table()
    assert isinstance(used["better"].inverse, SwinInverse)
    last = float(used["printed"].split()[-1])
    again = gss.evaluate(used["better"], streets, flip=True, scales=(1.0, 1.25), progress=False)
    assert last == again.miou
    assert len(used["figures"]) == 3
    assert set(used["run"].records) == {"vqvae", "prior", "inverse-ft-w"}
    assert all(record["seed"] == 1 for record in used["run"].records.values())
    assert used["run"].folder == Path("runs/mine") and (tmp_path / "runs" / "mine").is_dir()


def test_the_lines_are_a_few():
    assert len(lines_of_use().strip().splitlines()) <= 30


def test_list_presets_begins_with_ours():
    names = gss.list_presets()
    assert names[0] == "scenes-cpu" and {"camvid", "ade20k-swin-l"} <= set(names)
    assert all(gss.get_preset(name).name == name for name in names)


def test_every_public_name_has_an_explanation():
    for name in gss.__all__:
        if name not in ("DATASETS", "IGNORE"):
            assert getattr(gss, name).__doc__, name


def test_a_photograph_and_a_batch_of_it_are_predicted_alike(scenes_gss):
    image, _ = gss.create_dataset("scenes-cpu", "test")[1]
    one, batch = scenes_gss.predict(image), scenes_gss.predict(image[None])
    assert torch.equal(one.mask, batch.mask[0]) and torch.equal(one.tokens, batch.tokens[0])
