"""The file of a palette: there and back, other scales, damage."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_palette import palettes

from gss_lite.palette import (
    Palette,
    arithmetic_palette,
    farthest_point_palette,
    random_palette,
)
from gss_lite.palette.palette import KIND

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = [
    *sorted((ROOT / "gss_lite" / "weights").glob("*.palette.json")),
    *sorted((ROOT / "notebooks" / "records" / "palettes").glob("*.json")),
]


@settings(deadline=None)
@given(palettes())
def test_json_gives_back_the_same_bits(tmp_path_factory, palette):
    path = tmp_path_factory.mktemp("json") / "palette.json"
    palette.save(path)
    again = Palette.load(path)
    assert torch.equal(again.colors, palette.colors)
    assert again.name == palette.name and torch.equal(again.ignore_color, palette.ignore_color)
    assert [p.name for p in path.parent.iterdir()] == ["palette.json"]


def test_json_shows_whole_numbers_from_0_to_255(tmp_path):
    arithmetic_palette(27).save(tmp_path / "new" / "palette.json")
    value = json.loads((tmp_path / "new" / "palette.json").read_text())
    assert value["kind"] == KIND and value["colors"][:2] == [[0, 0, 0], [0, 0, 127]]
    assert all(type(v) is int for row in value["colors"] for v in row)


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "palette.json"
    arithmetic_palette(5).save(path)
    before = path.read_bytes()

    def broken(*args):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", broken)
    with pytest.raises(OSError, match="disk full"):
        farthest_point_palette(5).save(path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_a_shipped_palette_is_saved_as_the_same_bytes(path, tmp_path):
    Palette.load(path).save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()


def test_there_are_shipped_palettes():
    assert len(SHIPPED) >= 5


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_is_understood(tmp_path, encoding):
    path = tmp_path / "palette.json"
    palette = Palette(torch.eye(3), "Größe")
    palette.save(path)
    path.write_text(path.read_text(encoding="utf-8"), encoding=encoding)
    again = Palette.load(path)
    assert torch.equal(again.colors, palette.colors) and again.name == "Größe"


@pytest.mark.parametrize("ignore", [[0.5] * 3, [127.5] * 3])
def test_a_file_on_the_0_to_1_scale_is_refused(tmp_path, ignore):
    path = tmp_path / "palette.json"
    colors = random_palette(19).colors.tolist()
    path.write_text(json.dumps(GOOD | {"colors": colors, "ignore_color": ignore}))
    with pytest.raises(ValueError, match="on the 0–1 scale; multiply them by 255") as error:
        Palette.load(path)
    assert str(path) in str(error.value)


def test_a_palette_of_hardly_any_light_says_its_scale(tmp_path):
    path = tmp_path / "palette.json"
    palette = Palette(torch.tensor([[0.0], [1 / 255]]))
    palette.save(path)
    assert json.loads(path.read_text())["scale"] == 255
    assert torch.equal(Palette.load(path).colors, palette.colors)
    path.write_text(path.read_text().replace('"scale": 255', '"scale": 1'))
    with pytest.raises(ValueError, match="on the 0–1 scale"):
        Palette.load(path)


def test_one_level_above_1_is_enough_to_see_the_scale(tmp_path):
    path = tmp_path / "palette.json"
    Palette(torch.tensor([[0.0], [2 / 255]])).save(path)
    assert "scale" not in json.loads(path.read_text())
    assert Palette.load(path).colors.tolist() == [[0.0], [pytest.approx(2 / 255)]]


GOOD = {"kind": KIND, "name": "x", "ignore_color": [127.5] * 3, "colors": [[0, 0, 0], [0, 0, 255]]}


@pytest.mark.parametrize(
    "change, complaint",
    [
        ({"kind": "recipe"}, "not a palette"),
        ({"name": 3}, "must be a text"),
        ({"colors": []}, "list of"),
        ({"colors": [[0, 0, 0], [0, 0, "255"]]}, "numbers from 0 to 255"),
        ({"colors": [[0, 0, 0], [0, 0, True]]}, "numbers from 0 to 255"),
        ({"colors": [[0, 0, 0], [0, 0, math.nan]]}, "numbers from 0 to 255"),
        ({"colors": [[0, 0, 0], [0, 0, math.inf]]}, "numbers from 0 to 255"),
        ({"colors": [[0, 0, 0], 7]}, "numbers from 0 to 255"),
        ({"colors": [[0, 0, 0], [0, 0, 10**400]]}, "numbers from 0 to 255"),
        ({"colors": [[0, 0, 0], []]}, "numbers from 0 to 255"),
        ({"colors": {"0": [0, 0, 0]}}, "list of"),
        ({"colors": [[0, 0, 0], [0, 0]]}, "same number of channels"),
        ({"colors": [[0, 0, 0], [0, 0, 256]]}, "must lie in"),
        ({"colors": [[0, 0, 0], [0, 0, -1]]}, "must lie in"),
        ({"colors": [[0, 0, 0], [0, 0, 0]]}, "must differ"),
        ({"colors": [[0, 0, 0]]}, "K ≥ 2"),
        ({"ignore_color": [300, 0, 0]}, "must lie in|ignore colour"),
        ({"ignore_color": None}, "ignore_color"),
    ],
)
def test_a_damaged_palette_is_refused_with_the_files_name(tmp_path, change, complaint):
    path = tmp_path / "palette.json"
    path.write_text(json.dumps(GOOD))
    assert len(Palette.load(path)) == 2
    path.write_text(json.dumps(GOOD | change))
    with pytest.raises(ValueError, match=complaint) as error:
        Palette.load(path)
    assert str(path) in str(error.value)


@settings(deadline=None)
@given(st.floats(0, 0.98))
def test_a_file_cut_anywhere_is_refused(tmp_path_factory, share):
    path = tmp_path_factory.mktemp("cut") / "palette.json"
    farthest_point_palette(7).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match="cut short"):
        Palette.load(path)


def test_bytes_that_are_no_text_and_a_missing_file(tmp_path):
    (tmp_path / "noise").write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(ValueError, match="not JSON"):
        Palette.load(tmp_path / "noise")
    (tmp_path / "deep").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="not JSON"):
        Palette.load(tmp_path / "deep")
    (tmp_path / "list").write_text("[1]")
    with pytest.raises(ValueError, match="not a palette"):
        Palette.load(tmp_path / "list")
    with pytest.raises(FileNotFoundError, match="no palette at"):
        Palette.load(tmp_path / "nothing")
