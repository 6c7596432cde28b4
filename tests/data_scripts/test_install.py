"""Installing a set: downloads that break off, hostile and damaged archives, full disks, resume."""

from __future__ import annotations

import errno
import hashlib
import importlib
import io
import shutil
import sys
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import data_scripts
from data_scripts import CHUNK, cityscapes, fetch, install, mseg
from data_scripts.install import Archive, Recipe, run
from gss_lite.data import DATASETS
from gss_lite.data.sets import Cityscapes, Kitti

sys.path.append(str(Path(__file__).resolve().parents[1] / "data"))
from trees import plant  # noqa: E402

IDS = np.array([[7, 8, 26, 0], [21, 23, 26, 255]])
FRAMES = {f"{i:06}_10": IDS for i in range(3)}


class Files(BaseHTTPRequestHandler):
    """Serves bytes with ranges, and may break off."""

    content = b""
    tag = '"one"'
    break_after: int | None = None
    asked: list[str | None] = []

    def do_GET(self):
        wanted = self.headers.get("Range")
        self.asked.append(wanted)
        same = self.headers.get("If-Range") in (None, self.tag)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and same else 0
        body = self.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", self.tag)
        self.end_headers()
        if self.break_after is not None:
            self.wfile.write(body[: self.break_after])
            self.wfile.flush()
            self.connection.close()
            return
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    """A server of this process: (its files, its address)."""
    files = type("Some", (Files,), {"asked": []})
    served = HTTPServer(("127.0.0.1", 0), files)
    thread = threading.Thread(target=served.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield files, f"http://127.0.0.1:{served.server_port}/kitti.zip"
    served.shutdown()
    served.server_close()
    thread.join()


@pytest.fixture
def kitti(tmp_path, monkeypatch):
    """A KITTI of three frames, which the script takes for the whole, and its zip file's bytes."""
    monkeypatch.setattr(Kitti, "splits", {"train": 3})
    source = plant(Kitti, tmp_path / "source", "train", FRAMES)
    return source, zipped(source)


def zipped(source, extra=None):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as bundle:
        for file in sorted(source.rglob("*")):
            if file.is_file():
                bundle.write(file, file.relative_to(source))
        for name, value in (extra or {}).items():
            bundle.writestr(name, value)
    return content.getvalue()


def left(folder):
    return sorted(path.name for path in folder.parent.iterdir()) if folder.parent.exists() else []


def downloading(url, content, **changes):
    known = "sha256:" + hashlib.sha256(content).hexdigest()
    return Recipe(Kitti, archives=(Archive(url, **{"known_hash": known, **changes}),))


# Downloads ------------------------------------------------------------------------------------


def test_downloads_verifies_and_installs(server, kitti, tmp_path, capsys):
    files, url = server
    files.content = kitti[1]
    folder = tmp_path / "data" / "kitti"
    recipe = downloading(url, kitti[1])
    assert run(recipe, "", ["--folder", str(folder)]) == 0
    assert f"KITTI is ready in {folder}: 3 train" in capsys.readouterr().out
    assert left(folder) == ["kitti"] and len(Kitti("train", folder)) == 3
    assert run(recipe, "", ["--folder", str(folder)]) == 0 and len(files.asked) == 1  # verified


def test_an_interrupted_download_goes_on_where_it_stopped(server, kitti, tmp_path, capsys):
    files, url = server
    whole = zipped(kitti[0], {"readme.txt": np.random.default_rng(0).bytes(4 * CHUNK)})
    files.content, files.break_after = whole, 2 * CHUNK + 700
    folder = tmp_path / "data" / "kitti"
    recipe = downloading(url, whole)
    assert run(recipe, "", ["--folder", str(folder)]) == 1
    error = capsys.readouterr().err
    assert "could not be downloaded" in error and "--archives FILE" in error
    assert not folder.exists()
    part = folder.parent / "kitti.zip.part"
    have = part.stat().st_size
    assert CHUNK <= have <= files.break_after and part.read_bytes() == whole[:have]
    files.break_after = None
    assert run(recipe, "", ["--folder", str(folder)]) == 0
    assert files.asked == [None, f"bytes={have}-"]
    assert left(folder) == ["kitti"]


def test_a_file_that_has_changed_on_the_server_is_fetched_anew(server, kitti, tmp_path):
    files, url = server
    files.content, files.break_after = b"x" * 3 * CHUNK, 2 * CHUNK
    path = tmp_path / "file.zip"
    with pytest.raises(ConnectionError):
        fetch(url, path, "wait")
    assert path.with_name("file.zip.part").stat().st_size >= CHUNK
    files.content, files.break_after, files.tag = kitti[1], None, '"two"'
    assert fetch(url, path, "wait").read_bytes() == kitti[1]


def test_a_file_with_another_hash_is_refused_and_deleted(server, kitti, tmp_path, capsys):
    files, url = server
    files.content = kitti[1]
    folder = tmp_path / "data" / "kitti"
    recipe = downloading(url, kitti[1], known_hash="sha256:" + "0" * 64)
    assert run(recipe, "", ["--folder", str(folder)]) == 1
    assert "is not the published one: its hash is not sha256:000" in capsys.readouterr().err
    assert left(folder) == []


def test_a_full_disk_while_downloading(server, kitti, tmp_path, monkeypatch, capsys):
    files, url = server
    files.content = kitti[1]

    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    def opened(path, mode="r", *rest, **more):
        return Full() if str(path).endswith(".part") else open(path, mode, *rest, **more)

    monkeypatch.setattr(data_scripts, "open", opened, raising=False)
    folder = tmp_path / "data" / "kitti"
    assert run(downloading(url, kitti[1]), "", ["--folder", str(folder)]) == 1
    assert "No space left on device); make room" in capsys.readouterr().err
    assert not folder.exists()


# Archives -------------------------------------------------------------------------------------


@pytest.fixture
def given(kitti, tmp_path):
    """Install from an archive on disk → (status, folder)."""
    folder = tmp_path / "data" / "kitti"

    def unpacked(content, name="kitti.zip"):
        archive = tmp_path / name
        archive.write_bytes(content)
        arguments = ["--folder", str(folder), "--archives", str(archive)]
        return run(Recipe(Kitti, advice="Ask."), "", arguments), folder

    return unpacked


@pytest.mark.parametrize("name", ["../evil.txt", "/tmp/gss-lite-evil.txt", "a/../../evil.txt"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_path_outside_the_folder_installs_nothing(given, kitti, tmp_path, capsys, kind, name):
    content = zipped(kitti[0], {name: b"evil"})
    if kind == "tar":
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as bundle:
            bundle.add(kitti[0], "kitti")
            entry = tarfile.TarInfo(name)
            entry.size = 4
            bundle.addfile(entry, io.BytesIO(b"evil"))
        content = file.getvalue()
    status, folder = given(content)
    error = capsys.readouterr().err
    if kind == "tar" and name.startswith("/"):  # tarfile strips the slash, so it is inside
        assert not Path(name).exists()
        return
    assert status == 1 and "outside" in error and "evil.txt" in error
    assert not folder.exists() and left(folder) == []
    assert not list(tmp_path.rglob("evil.txt")) and not Path("/tmp/gss-lite-evil.txt").exists()


def test_an_archive_that_is_cut_short_or_none_at_all(given, kitti, capsys):
    for content in (kitti[1][:500], b"<html>busy</html>"):
        status, folder = given(content)
        assert status == 1 and not folder.exists() and left(folder) == []
        assert "is no zip or tar archive" in capsys.readouterr().err


def test_a_damaged_file_in_an_archive_is_named(given, kitti, capsys):
    damaged = bytearray(kitti[1])
    at = damaged.index(b"IHDR")
    damaged[at : at + 8] = b"damaged!"
    status, folder = given(bytes(damaged))
    error = capsys.readouterr().err
    assert status == 1 and "training/" in error and "is damaged" in error
    assert left(folder) == []


@pytest.mark.parametrize("fault", ["missing", "stray id", "unreadable"])
def test_a_set_that_is_not_whole_is_not_moved_into_place(given, kitti, capsys, fault):
    source, _ = kitti
    mask = source / "training" / "semantic" / "000001_10.png"
    if fault == "missing":
        mask.unlink()
        (source / "training" / "image_2" / "000001_10.jpg").unlink()
    elif fault == "stray id":
        Image.fromarray(np.full(IDS.shape, 77, np.uint8)).save(mask)
    else:
        mask.write_bytes(mask.read_bytes()[:40])
    status, folder = given(zipped(source))
    error = capsys.readouterr().err
    expected = {
        "missing": "the train split has 2 pictures; expected 3",
        "stray id": "000001_10.png holds id 77",
        "unreadable": "000001_10.png is not a mask that can be read",
    }
    assert status == 1 and expected[fault] in error
    assert not folder.exists() and left(folder) == []


def test_a_full_disk_while_unpacking(given, kitti, monkeypatch, capsys):
    def full(source, target):
        target.write(b"some")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(install.shutil, "copyfileobj", full)
    status, folder = given(kitti[1])
    assert status == 1 and "No space left on device" in capsys.readouterr().err
    assert not folder.exists() and left(folder) == []


def test_a_folder_of_something_else_is_left_alone(kitti, tmp_path, capsys):
    folder = tmp_path / "kitti"
    (folder / "holidays").mkdir(parents=True)
    assert run(Recipe(Kitti, advice="Ask."), "", ["--folder", str(folder)]) == 1
    assert "holds no folder training/image_2" in capsys.readouterr().err
    assert left(folder) == ["kitti", "source"] and [p.name for p in folder.iterdir()] == [
        "holidays"
    ]


# Every set's script ---------------------------------------------------------------------------

SCRIPTS = sorted(
    {kind.script for kind in DATASETS.values() if getattr(kind, "script", None)}
    - {"python -m data_scripts.camvid"}
)


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_set_has_a_script_that_says_where_to_get_it(script, tmp_path, monkeypatch, capsys):
    def offline(*arguments, **more):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(data_scripts.requests, "get", offline)
    monkeypatch.setenv("GSS_DATA", str(tmp_path / "data"))
    module = importlib.import_module(script.removeprefix("python -m "))
    assert module.main([]) == 1
    error = capsys.readouterr().err
    assert "error: " in error
    if script != mseg.__name__ and hasattr(module, "RECIPE"):
        recipe = module.RECIPE
        assert script.endswith(module.__name__) and script == recipe.kind.script
        said = "no route to host" if recipe.archives else recipe.kind.parts("train")[0]
        assert said in error
        if not recipe.archives:
            assert "http" in recipe.advice and recipe.advice in error
    else:
        assert "no route to host" in error
    place = tmp_path / "data"
    assert not place.exists() or not [p for p in place.rglob("*") if p.is_file()]


def test_msegs_table_is_fetched_and_its_sets_are_named(tmp_path, monkeypatch, capsys):
    table = Path(__file__).resolve().parents[3] / "shared" / "data" / "mseg" / "MSeg_master.tsv"
    if not table.is_file():
        pytest.skip(f"needs MSeg's table, {table}")
    assert hashlib.sha256(table.read_bytes()).hexdigest() == mseg.SHA256

    def retrieve(url, known_hash, path, fname, downloader):
        assert known_hash == f"sha256:{mseg.SHA256}"
        return shutil.copy(table, Path(path) / fname)

    monkeypatch.setattr(data_scripts.pooch, "retrieve", retrieve)
    arguments = ["--table", str(tmp_path / "mseg"), "--folder", str(tmp_path / "mseg_dataset")]
    assert mseg.main(arguments) == 1
    said = capsys.readouterr()
    assert "MSeg's table is ready" in said.out and "7 of 7 sets are not ready" in said.err
    assert "mseg-api" in said.err and "semseg-relabeled37" in said.err


def test_cityscapes_train_ids_are_made_where_they_are_absent(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Cityscapes, "splits", {"train": 1, "val": 1})
    folder = tmp_path / "cityscapes"
    for split in Cityscapes.splits:
        plant(Cityscapes, folder, split, {f"ulm/ulm_{split}": IDS})
    kept = folder / "gtFine" / "val" / "ulm" / "ulm_val_gtFine_labelTrainIds.png"
    Image.fromarray(np.full(IDS.shape, 3, np.uint8)).save(kept)
    assert cityscapes.main(["--folder", str(folder)]) == 0
    made = folder / "gtFine" / "train" / "ulm" / "ulm_train_gtFine_labelTrainIds.png"
    with Image.open(made) as picture:
        assert np.array(picture).tolist() == [[0, 1, 13, 255], [8, 10, 13, 255]]
    with Image.open(kept) as picture:
        assert (np.array(picture) == 3).all()
    by_ids = Cityscapes("train", folder)[0][1].tolist()
    made.with_name("ulm_train_gtFine_labelIds.png").unlink()
    assert Cityscapes("train", folder)[0][1].tolist() == by_ids
