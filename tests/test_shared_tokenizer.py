"""A preset that shares another's trained tokenizer and has many classes: stage I trains nothing, everything else is as usual."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace

import pytest
import torch

from gss_lite import __main__ as cli
from gss_lite.data import dataset_for, num_classes
from gss_lite.data.scenes import fold
from gss_lite.factory import (
    SHIPPED,
    build_gss,
    build_palette,
    export_weights,
    load_gss,
    load_tokenizer,
)
from gss_lite.inverse_fitted import KINDS
from gss_lite.palette.constructions import random_palette
from gss_lite.palette.palette import Palette
from gss_lite.presets import PRESETS, get_preset
from gss_lite.presets.plans import plan_for
from gss_lite.training import run as identity
from gss_lite.training import tokenizer as stages
from gss_lite.training.run import stage_one_hash
from notebooks.experiments.table_one import load_model
from notebooks.experiments.table_one_rows import ROWS

MANY, GENERIC = get_preset("many-scenes-cpu"), get_preset("generic-s4")
SMALL = replace(
    get_preset("scenes-tiny"),
    name="many-tiny",
    data="many-scenes",
    num_classes=40,
    palette="assigned",
    size=(32, 64),
    tokenizer=GENERIC.tokenizer,
    tokenizer_from="generic-s4",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What `train --stage all` leaves for SMALL, with a palette that takes no time to make."""
    path, patch = tmp_path_factory.mktemp("many"), pytest.MonkeyPatch()
    patch.setattr(stages, "max_min_palette", lambda classes: random_palette(classes, 3))
    patch.setattr(cli, "get_preset", lambda name: SMALL)
    assert cli.main(["train", "--preset", "many-tiny", "--out", str(path), "--steps", "2"]) == 0
    patch.undo()
    return path


def test_stage_one_makes_the_palette_and_trains_nothing(folder, capsys):
    assert {path.name for path in folder.iterdir()} == {
        "many-tiny.palette.json",
        "many-tiny.prior.json",
        "many-tiny.prior.safetensors",
        "prior",
    }
    record = json.loads((folder / "many-tiny.prior.json").read_text())
    assert record["steps"] == 2 and record["preset"] == "many-tiny"


@pytest.mark.parametrize("seed", [0, 5])
def test_a_tokenizer_made_for_one_palette_brings_that_palette_whatever_the_seed(tmp_path, seed):
    palette = stages.make_palette(replace(get_preset("scenes-cpu-mobilenet"), seed=seed), tmp_path)
    assert torch.equal(palette.colors, build_palette(get_preset("scenes-cpu")).colors)
    assert not list(tmp_path.iterdir())


def test_a_folder_with_other_colours_than_its_tokenizers_is_refused(tmp_path):
    preset = get_preset("scenes-cpu-mobilenet")
    build_palette(preset).save(tmp_path / "scenes-cpu-mobilenet.palette.json")
    assert torch.equal(build_palette(preset, tmp_path).colors, build_palette(preset).colors)
    random_palette(11, 3).save(tmp_path / "scenes-cpu-mobilenet.palette.json")
    with pytest.raises(
        ValueError,
        match="not the palette of scenes-cpu, whose tokenizer scenes-cpu-mobilenet shares",
    ):
        build_palette(preset, tmp_path)


def test_a_tokenizer_without_its_palette_gets_no_new_one(tmp_path):
    (tmp_path / "scenes-cpu.vqvae.safetensors").touch()
    with pytest.raises(
        ValueError,
        match="scenes-cpu.palette.json, in whose colours it was trained, is not; put that back, or "
        "train in a new folder",
    ):
        stages.make_palette(get_preset("scenes-cpu"), tmp_path)


def test_the_palette_that_comes_with_a_tokenizer_is_part_of_stage_one(tmp_path, monkeypatch):
    preset = get_preset("scenes-cpu-mobilenet")
    ours = stage_one_hash(preset, tmp_path)
    for end in identity.STAGE_ONE:
        shutil.copyfile(SHIPPED / f"scenes-cpu.{end}", tmp_path / f"scenes-cpu.{end}")
    monkeypatch.setattr(identity, "SHIPPED", tmp_path)
    assert stage_one_hash(preset, tmp_path) == ours
    random_palette(11, 3).save(tmp_path / "scenes-cpu.palette.json")
    assert stage_one_hash(preset, tmp_path) != ours


def test_the_command_says_that_it_took_the_palette(tmp_path, capsys):
    assert (
        cli.main(
            [
                "train",
                "--preset",
                "scenes-cpu-mobilenet",
                "--stage",
                "vqvae",
                "--out",
                str(tmp_path),
            ]
        )
        == 0
    )
    assert (
        "shares the trained tokenizer of scenes-cpu: stage I took its palette too, and trained "
        "nothing" in capsys.readouterr().out
    )


def test_the_command_says_so(folder, monkeypatch, capsys):
    monkeypatch.setattr(cli, "get_preset", lambda name: SMALL)
    assert (
        cli.main(["train", "--preset", "many-tiny", "--stage", "vqvae", "--out", str(folder)]) == 0
    )
    assert (
        "many-tiny shares the trained tokenizer of generic-s4: stage I made its palette, and "
        "trained nothing" in capsys.readouterr().out
    )


def test_the_tokenizer_is_the_shipped_one_wherever_the_weights_are(folder):
    shipped = load_tokenizer(GENERIC).state_dict()
    for tokenizer in (
        load_tokenizer(SMALL, folder),
        build_gss(SMALL, weights=folder).tokenizer,
        load_gss(SMALL, folder).tokenizer,
    ):
        assert all(
            torch.equal(value, shipped[key]) for key, value in tokenizer.state_dict().items()
        )


def test_classes_are_as_many_as_the_preset_says(folder, monkeypatch, tmp_path, capsys):
    gss, dataset = load_gss(SMALL, folder), dataset_for(SMALL, "test")
    assert (
        num_classes(SMALL)
        == len(gss.colors)
        == len(dataset.classes)
        == gss.prior.to_classes.out_channels
        == 40
    )
    assert dataset.classes == fold(40)[1] and num_classes(GENERIC) == 150 == len(
        dataset_for(GENERIC, "val").classes
    )
    monkeypatch.setattr(cli, "get_preset", lambda name: SMALL)
    assert (
        cli.main(
            [
                "evaluate",
                "--preset",
                "many-tiny",
                "--weights",
                str(folder),
                "--record",
                str(tmp_path / "r.json"),
            ]
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert all(name[:20] in printed for name in dataset.classes)
    assert len(json.loads((tmp_path / "r.json").read_text())["metrics"]["prediction"]["iou"]) == 40


def test_another_tokenizer_is_another_stage_one(folder, monkeypatch, tmp_path):
    ours = stage_one_hash(SMALL, folder)
    assert (
        ours
        == stage_one_hash(replace(SMALL, seed=5), folder)
        != stage_one_hash(replace(SMALL, tokenizer_from="generic-s8"), folder)
    )
    assert ours != stage_one_hash(SMALL, tmp_path)  # without the palette
    monkeypatch.setattr(identity, "SHIPPED", tmp_path)
    assert ours != stage_one_hash(SMALL, folder)


def test_export_ships_palette_and_prior(folder, tmp_path):
    names = [path.name for path in export_weights(SMALL, folder, tmp_path)]
    assert names == [
        "many-tiny.palette.json",
        "many-tiny.prior.safetensors",
        "many-tiny.prior.json",
    ]
    assert torch.equal(load_gss(SMALL, tmp_path).colors, load_gss(SMALL, folder).colors)


def test_table_one_takes_the_model_with_its_prior(folder):
    for tokenizer in (None, "generic-s4"):
        assert load_model(SMALL, folder, tokenizer).prior is not None
    assert set(ROWS) >= {"FF-R", "FF", "FT", "FT-W", "TF", "TT"}


def test_the_preset_is_many_classes_on_the_generic_tokenizer():
    assert (
        num_classes(MANY) >= 60
        and MANY.prior is not None
        and MANY.palette == "assigned"
        and MANY.size == (96, 128)
    )
    assert {kind: plan_for(MANY, kind).schedule.batch for kind in KINDS} == {"ft": 16, "ft-w": 16}
    classes = dataset_for(MANY, "val").classes
    assert len(classes) == len(set(classes)) == 64


@pytest.mark.parametrize(
    "preset", [p for p in PRESETS.values() if p.tokenizer_from], ids=lambda p: p.name
)
def test_presets_that_share_a_tokenizer_say_its_size(preset):
    owner = get_preset(preset.tokenizer_from)
    assert dict(preset.tokenizer) == dict(owner.tokenizer) and asdict(preset.vqvae) == asdict(
        owner.vqvae
    )
    assert (SHIPPED / f"{owner.name}.vqvae.safetensors").is_file()
    if owner.palette == "assigned":  # a tokenizer made for one palette is shared with that palette
        palette = build_gss(preset).palette
        assert torch.equal(
            palette.colors, Palette.load(SHIPPED / f"{owner.name}.palette.json").colors
        ) and len(palette) == num_classes(preset)
