"""python -m gss_lite predict: what it writes, where, on which device, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from command_line import TINY, command, refused
from live_models import Brightness
from PIL import Image

from gss_lite import __main__ as cli
from gss_lite.factory import SHIPPED, create_model


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "street.png"
    Image.effect_noise((70, 50), 60).convert("RGB").save(path)
    return path


def test_it_writes_mask_maskige_and_overlay(tiny_run, tmp_path, picture, capsys):
    out = tmp_path / "out"
    assert command("predict", *TINY, "--weights", tiny_run, "--out", out, picture) == 0
    names = ["street_mask.png", "street_maskige.png", "street_overlay.png"]
    assert sorted(p.name for p in out.iterdir()) == names
    assert capsys.readouterr().out.split() == [str(out / name) for name in names]
    mask = Image.open(out / "street_mask.png")
    assert mask.size == (70, 50) and mask.mode == "P" and np.array(mask).max() < 11
    colour = np.array(mask.convert("RGB"))[0, 0] / 255
    expected = create_model("scenes-tiny", pretrained=tiny_run).colors[np.array(mask)[0, 0]]
    assert np.abs(colour - expected.numpy()).max() < 1 / 255


def test_git_ignores_where_it_writes():
    folder = cli.parser().parse_args(["predict", "a.png"]).out
    assert f"{folder}/" in (SHIPPED.parents[1] / ".gitignore").read_text().splitlines()


def test_it_runs_on_the_device_asked_for(monkeypatch, tmp_path, picture):
    model, devices = Brightness(), []
    monkeypatch.setattr(model, "to", lambda device: devices.append(device) or model)
    monkeypatch.setattr(cli, "create_model", lambda *args, **more: model)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    parsed = cli.parser().parse_args(["predict", "--device", "meta", "a.png"])
    assert parsed.device == torch.device("meta")
    assert command("predict", *TINY, "--out", tmp_path / "out", picture) == 0
    assert torch.device(devices[0]) == torch.device("cpu") and model.sizes == [(50, 70)]


def test_it_refuses_two_pictures_that_would_be_written_to_one_place(tmp_path, capsys):
    out, twins = tmp_path / "out", [tmp_path / "one" / "x.jpg", tmp_path / "two" / "x.png"]
    for path in twins:
        path.parent.mkdir()
        Image.new("RGB", (40, 40)).save(path)
    said = refused(capsys, "predict", *TINY, "--weights", "nowhere", "--out", out, *twins)
    assert all(str(path) in said for path in twins) and "would both be written to" in said
    assert not out.exists()


def test_it_refuses_to_overwrite_a_picture_it_is_given(tmp_path, capsys):
    pictures = [tmp_path / "x.png", tmp_path / "x_mask.png"]
    for path in pictures:
        Image.new("RGB", (40, 40)).save(path)
    said = refused(capsys, "predict", *TINY, "--weights", "nowhere", "--out", tmp_path, *pictures)
    assert "would overwrite" in said


def test_a_mask_made_by_hand_stays_unless_it_is_to_be_overwritten(
    tiny_run, tmp_path, picture, capsys
):
    """F11."""
    mask = tmp_path / "street_mask.png"
    Image.new("L", (70, 50), 7).save(mask)
    before = mask.read_bytes()
    arguments = ["predict", *TINY, "--weights", tiny_run, "--out", tmp_path, picture]
    assert "was not made by this command" in refused(capsys, *arguments)
    assert mask.read_bytes() == before and len(list(tmp_path.iterdir())) == 2
    assert command(*arguments, "--overwrite") == 0 and mask.read_bytes() != before
    assert command(*arguments) == 0  # now it is a result of ours


@pytest.mark.parametrize("inside", ["", "deeper"])
def test_into_a_file_is_one_line(tiny_run, tmp_path, picture, capsys, inside):
    (tmp_path / "taken").write_text("a file")
    out = tmp_path / "taken" / inside
    said = refused(capsys, "predict", *TINY, "--weights", tiny_run, "--out", out, picture)
    assert "taken" in said


def test_what_is_not_a_picture_is_refused(tiny_run, tmp_path, capsys):
    notes = tmp_path / "notes.txt"
    notes.write_text("hello")
    out = tmp_path / "out"
    said = refused(capsys, "predict", *TINY, "--weights", tiny_run, "--out", out, notes)
    assert "is not a picture that can be read" in said


def test_a_name_that_no_preset_has_is_refused(picture, capsys):
    said = refused(capsys, "predict", "--preset", "nonsense", picture, "--out", picture.parent)
    assert "no preset named 'nonsense'; there are: " in said


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["train", "--steps", "0"], "--steps: must be a whole number, 1 or more; got '0'"),
        (["train", "--steps", "-3"], "--steps: must be a whole number, 1 or more; got '-3'"),
        (["train", "--steps", "1e3"], "--steps: must be a whole number, 1 or more; got '1e3'"),
        (["train", "--save-every", "0"], "--save-every: must be a whole number, 1 or more"),
        (["train", "--workers", "-1"], "--workers: must be a whole number, 0 or more"),
        (["train", "--seed", "-1"], "--seed: must be a whole number, 0 or more"),
        (["predict", "--seed", "1", "a.png"], "unrecognized arguments: --seed"),
        (["predict", "--data", "data", "a.png"], "unrecognized arguments: --data"),
        (["predict", "--device", "abacus", "a.png"], "--device: no device 'abacus' to use here"),
        (["evaluate", "--device", "cuda:99"], "--device: no device 'cuda:99' to use here"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused_at_the_door(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        command(*arguments)
    assert stopped.value.code == 2 and message in capsys.readouterr().err
