"""A preset that shares another's tokenizer: stage I trains nothing, the rest is as usual."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from command_line import command

from gss_lite import __main__ as cli
from gss_lite import factory
from gss_lite.data import create_dataset
from gss_lite.data.scenes import fold
from gss_lite.export import export_weights
from gss_lite.factory import (
    SHIPPED,
    create_model,
    create_palette,
    create_prior,
    create_stage_one,
    create_tokenizer,
    stage_one_hashes,
)
from gss_lite.inverse_fitted import KINDS
from gss_lite.palette import Palette, random_palette
from gss_lite.presets import PRESETS, DataSpec, get_preset
from gss_lite.storage import load_checkpoint, what_it_rests_on
from gss_lite.training import tokenizer as stage
from gss_lite.training.run import Job
from notebooks.experiments.table_one import load_model
from notebooks.experiments.table_one_rows import ROWS

MANY, GENERIC = get_preset("many-scenes-cpu"), get_preset("generic-s4")
TINY = get_preset("scenes-tiny")
SMALL = replace(
    TINY,
    name="many-tiny",
    data=DataSpec("many-scenes", (32, 64), 40, train_pictures=32, eval_pictures=4),
    palette="by-neighbours",
    tokenizer="generic-s4",
).with_schedule("prior", steps=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What `train --stage all` leaves for SMALL, with a palette that takes no time to make."""
    path = tmp_path_factory.mktemp("many")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "max_min_palette", lambda classes: random_palette(classes, 3))
        patch.setattr(cli, "get_preset", lambda name: SMALL)
        assert command("train", "--preset", "many-tiny", "--out", path) == 0
    return path


def test_stage_one_makes_the_palette_and_trains_nothing(folder):
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
    job = Job(replace(get_preset("scenes-cpu-mobilenet"), seed=seed), tmp_path)
    palette = stage.make_palette(job)
    assert torch.equal(palette.colors, create_palette("scenes-cpu").colors)
    assert not list(tmp_path.iterdir())


def test_a_folder_with_other_colours_than_its_tokenizers_is_refused(tmp_path):
    preset = get_preset("scenes-cpu-mobilenet")
    create_palette(preset).save(tmp_path / "scenes-cpu-mobilenet.palette.json")
    ours = create_palette(preset, tmp_path)
    assert torch.equal(ours.colors, create_palette(preset).colors)
    random_palette(11, 3).save(tmp_path / "scenes-cpu-mobilenet.palette.json")
    with pytest.raises(
        ValueError,
        match="not the palette of scenes-cpu, whose tokenizer scenes-cpu-mobilenet shares",
    ):
        create_palette(preset, tmp_path)


def test_a_tokenizer_without_its_palette_gets_no_new_one(tmp_path):
    preset = replace(TINY, palette="by-neighbours")
    (tmp_path / "scenes-tiny.vqvae.safetensors").touch()
    with pytest.raises(
        ValueError,
        match="scenes-tiny.palette.json that it was trained with is not; put the palette back, "
        "or train in a new folder",
    ):
        stage.make_palette(Job(preset, tmp_path))


def test_the_palette_that_comes_with_a_tokenizer_is_part_of_what_a_prior_rests_on(monkeypatch):
    preset = get_preset("scenes-cpu-mobilenet")
    ours = stage_one_hashes(*create_stage_one(preset, True))
    assert ours == what_it_rests_on(SHIPPED / "scenes-cpu-mobilenet.prior.safetensors")
    palette, tokenizer = create_stage_one(preset, True)
    other = stage_one_hashes(random_palette(11, 3), tokenizer)
    assert other["tokenizer_sha256"] == ours["tokenizer_sha256"]
    assert other["palette_sha256"] != ours["palette_sha256"]


def test_the_command_says_that_it_took_the_palette(tmp_path, capsys):
    arguments = ["--preset", "scenes-cpu-mobilenet", "--stage", "vqvae", "--out", tmp_path]
    assert command("train", *arguments) == 0
    assert (
        "shares the trained tokenizer of scenes-cpu: stage I took its palette too, and trained "
        "nothing" in capsys.readouterr().out
    )


def test_the_command_says_that_it_made_one(folder, monkeypatch, capsys):
    monkeypatch.setattr(cli, "get_preset", lambda name: SMALL)
    arguments = ["--preset", "many-tiny", "--stage", "vqvae", "--out", folder]
    assert command("train", *arguments) == 0
    assert (
        "many-tiny shares the trained tokenizer of generic-s4: stage I made its palette, and "
        "trained nothing" in capsys.readouterr().out
    )


def test_the_tokenizer_is_the_shipped_one_wherever_the_weights_are(folder):
    shipped = create_tokenizer(GENERIC, pretrained=True).state_dict()
    for tokenizer in (
        create_tokenizer(SMALL, pretrained=folder),
        create_stage_one(SMALL, folder)[1],
        create_model(SMALL, pretrained=folder).tokenizer,
    ):
        state = tokenizer.state_dict()
        assert all(torch.equal(value, shipped[key]) for key, value in state.items())


def test_an_untrained_model_has_the_trained_tokenizer():
    preset = get_preset("scenes-cpu-mobilenet")
    ours = create_model(preset).tokenizer.state_dict()
    shipped = create_tokenizer("scenes-cpu", pretrained=True).state_dict()
    assert all(torch.equal(value, shipped[key]) for key, value in ours.items())


def test_classes_are_as_many_as_the_preset_says(folder, monkeypatch, tmp_path, capsys):
    gss, dataset = create_model(SMALL, pretrained=folder), create_dataset(SMALL, "test")
    assert gss.num_classes == len(dataset.classes) == gss.prior.to_classes.out_channels == 40
    assert dataset.classes == fold(40)[1]
    assert len(create_dataset(GENERIC, "val").classes) == GENERIC.data.num_classes == 150
    monkeypatch.setattr(cli, "get_preset", lambda name: SMALL)
    path = tmp_path / "r.json"
    assert command("evaluate", "--preset", "many-tiny", "--weights", folder, "--record", path) == 0
    printed = capsys.readouterr().out
    assert all(name[:20] in printed for name in dataset.classes)
    assert len(json.loads(path.read_text())["metrics"]["prediction"]["iou"]) == 40


def test_another_tokenizer_is_another_stage_one(folder):
    """A prior is refused beside another shared tokenizer, and a run does not go on with it."""
    name = "many-tiny.prior.safetensors"
    ours = what_it_rests_on(folder / name)
    assert ours == stage_one_hashes(*create_stage_one(SMALL, folder))
    other = replace(SMALL, tokenizer="generic-s8")
    assert ours != stage_one_hashes(*create_stage_one(other, folder))
    assert ours == stage_one_hashes(*create_stage_one(replace(SMALL, seed=5), folder))
    run = torch.load(folder / "prior" / "checkpoint.pt", weights_only=True)["run"]
    changed = {**run, **stage_one_hashes(*create_stage_one(other, folder))}
    with pytest.raises(ValueError, match="another run .tokenizer_sha256: "):
        load_checkpoint(folder / "prior" / "checkpoint.pt", changed)


def test_export_ships_palette_and_prior(folder, tmp_path):
    names = {path.name for path in export_weights(SMALL, folder, tmp_path)}
    ends = ("palette.json", "prior.safetensors", "prior.json")
    assert names == {f"many-tiny.{end}" for end in ends}
    ours, theirs = (create_model(SMALL, pretrained=f) for f in (tmp_path, folder))
    assert torch.equal(ours.colors, theirs.colors)


def test_table_one_takes_the_model_with_its_prior(folder):
    for tokenizer in (None, "generic-s4"):
        assert load_model(SMALL, folder, tokenizer).prior is not None
    assert set(ROWS) >= {"FF-R", "FF", "FT", "FT-W", "TF", "TT"}


def test_the_preset_is_many_classes_on_the_generic_tokenizer():
    assert MANY.data.num_classes >= 60 and MANY.data.size == (96, 128)
    assert MANY.prior is not None and MANY.palette == "by-neighbours"
    assert {kind: MANY.schedule(f"inverse-{kind}").batch for kind in KINDS} == dict.fromkeys(
        KINDS, 16
    )
    classes = create_dataset(MANY, "val").classes
    assert len(classes) == len(set(classes)) == 64


SHARERS = [preset for preset in PRESETS.values() if isinstance(preset.tokenizer, str)]


@pytest.mark.parametrize("preset", SHARERS, ids=lambda preset: preset.name)
def test_presets_that_share_a_tokenizer_predict_its_codes(preset):
    owner = get_preset(preset.tokenizer)
    assert "vqvae" not in preset.schedules
    assert (SHIPPED / f"{owner.name}.vqvae.safetensors").is_file()
    tokenizer = create_tokenizer(preset, pretrained=True)
    assert tokenizer.vocab_size == owner.tokenizer.arguments["vocab_size"]
    assert create_prior(preset).to_tokens.out_channels == tokenizer.vocab_size
    if owner.palette == "by-neighbours":  # a tokenizer made for one palette is shared with it
        palette = create_model(preset).palette
        theirs = Palette.load(SHIPPED / f"{owner.name}.palette.json")
        assert torch.equal(palette.colors, theirs.colors)
        assert len(palette) == preset.data.num_classes
    assert factory.owns_palette(preset) == (owner.palette is None)
