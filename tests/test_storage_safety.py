"""Writing that fails, what must not be replaced, and whose commit a record names (F6, F7, F10)."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from gss_lite import records, storage
from gss_lite.palette import random_palette
from gss_lite.records import commit, run_record
from gss_lite.storage import (
    check_replaceable,
    check_writable,
    load_checkpoint,
    remove_leftovers,
    replace_file,
    save_checkpoint,
    save_weights,
    what_it_rests_on,
    write_json,
)

MODEL = nn.Linear(200, 200)
WRITERS = {
    "json": lambda path: write_json(path, {"a": list(range(20_000))}),
    "checkpoint": lambda path: save_checkpoint(path, {"run": {}, "model": MODEL.state_dict()}),
    "weights": lambda path: save_weights(path, MODEL, rests_on={"a": "b"}),
    "palette": lambda path: random_palette(250, 0).save(path),
}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "precious"
    path.write_text("old")
    return path


class TestFullDisk:
    """F10: one sentence, the old file, and nothing half-written."""

    def assert_one_sentence(self, write, path, reason):
        with pytest.raises(OSError) as failed:
            write(path)
        said = str(failed.value)
        assert f"{path} could not be written" in said and reason in said
        assert "intact" in said and "Make room" in said and len(said.splitlines()) == 1
        assert path.read_text() == "old"
        assert [p.name for p in path.parent.iterdir()] == ["precious"]

    @pytest.mark.parametrize(
        "error",
        [
            OSError(errno.ENOSPC, "No space left on device"),
            OSError(errno.EDQUOT, "Disk quota exceeded"),
            OSError(),
            RuntimeError(
                "[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0\nmore"
            ),
            SafetensorError("I/O error: No space left on device (os error 28)"),
        ],
    )
    def test_what_a_library_raises_is_said_in_one_sentence(self, file, error):
        def write(temporary):
            temporary.write_text("ne")
            raise error

        reason = (str(error) or "OSError").splitlines()[0]
        self.assert_one_sentence(lambda path: replace_file(path, write), file, reason)

    @pytest.mark.parametrize("kind", WRITERS)
    def test_a_write_that_the_system_refuses(self, file, kind):
        """Files may not grow beyond 500 bytes, as on a disk or in a quota that is nearly full."""
        resource = pytest.importorskip("resource", reason="needs Unix")
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)

        def write(path):
            resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
            try:
                WRITERS[kind](path)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)

        self.assert_one_sentence(write, file, "")

    def test_a_rename_that_fails(self, file, monkeypatch):
        def fails(*paths):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(storage.os, "replace", fails)
        self.assert_one_sentence(WRITERS["json"], file, "No space left on device")

    def test_a_fault_of_ours_is_not_called_a_full_disk(self, file):
        def broken(temporary):
            raise KeyError("a fault in the program")

        with pytest.raises(KeyError):
            replace_file(file, broken)
        assert [p.name for p in file.parent.iterdir()] == ["precious"]


class TestWhatMayBeReplaced:
    """F6."""

    @pytest.mark.parametrize("kind", WRITERS)
    def test_a_link_stays_and_its_file_is_written(self, tmp_path, kind):
        (tmp_path / "elsewhere").mkdir()
        real, link = tmp_path / "elsewhere" / "real", tmp_path / "link"
        link.symlink_to(real)
        for _ in range(2):  # first the file is not there
            WRITERS[kind](link)
            assert link.is_symlink() and real.is_file() and not real.is_symlink()
        assert {p.name for p in tmp_path.rglob("*")} == {"elsewhere", "real", "link"}

    def test_links_of_links_are_followed(self, tmp_path):
        real = tmp_path / "real"
        real.write_text("old")
        (tmp_path / "one").symlink_to(real)
        (tmp_path / "two").symlink_to(tmp_path / "one")
        write_json(tmp_path / "two", {"a": 1})
        assert json.loads(real.read_text()) == {"a": 1}
        assert (tmp_path / "one").is_symlink() and (tmp_path / "two").is_symlink()

    @pytest.mark.parametrize("kind", WRITERS)
    @pytest.mark.parametrize("what", ["folder", "pipe", "device", "link to a device", "loop"])
    def test_what_is_no_regular_file_is_refused(self, tmp_path, kind, what):
        path = tmp_path / "there"
        if what == "folder":
            path.mkdir()
        elif what == "pipe":
            os.mkfifo(path)
        elif what == "device":
            path = Path("/dev/null")
        else:
            path.symlink_to("/dev/null" if what == "link to a device" else path)
        before = os.lstat(path)
        with pytest.raises(OSError, match="name a file to write to"):
            WRITERS[kind](path)
        after = os.lstat(path)
        assert (before.st_mode, before.st_ino) == (after.st_mode, after.st_ino)

    @pytest.mark.parametrize("stream", [1, 2])
    @pytest.mark.parametrize("name", ["out.txt", "link", "/dev/fd/{}"])
    def test_ones_own_output_is_not_replaced(self, tmp_path, stream, name):
        """As in `… --record out.txt > out.txt`, or --record /dev/stdout with the same."""
        (tmp_path / "link").symlink_to(tmp_path / "out.txt")
        before = os.dup(stream)
        try:
            with open(tmp_path / "out.txt", "w") as printed:
                os.dup2(printed.fileno(), stream)
                os.write(stream, b"a table")
                with pytest.raises(FileExistsError, match="is where this command prints to"):
                    write_json(tmp_path / name.format(stream), {})
        finally:
            os.dup2(before, stream)
            os.close(before)
        assert (tmp_path / "out.txt").read_text() == "a table"

    def test_a_new_file_in_new_folders_is_made(self, tmp_path):
        write_json(tmp_path / "a" / "b" / "c.json", {})
        check_replaceable(tmp_path / "not there")


class TestCheckWritable:
    def test_it_leaves_nothing(self, tmp_path):
        check_writable(tmp_path)
        check_writable(tmp_path / "a" / "b")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("inside", [".", "deeper", "deeper/still"])
    def test_a_file_in_place_of_a_folder(self, tmp_path, inside):
        (tmp_path / "taken").write_text("a file")
        with pytest.raises(OSError, match="nothing can be written to .*choose another folder"):
            check_writable(tmp_path / "taken" / inside)

    def test_a_folder_that_refuses(self, tmp_path, monkeypatch):
        def refuse(path):
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(Path, "touch", refuse)
        with pytest.raises(OSError, match=r"nothing can be written to .*\(Permission denied\)"):
            check_writable(tmp_path)


class TestLeftovers:
    """F17."""

    def test_those_of_dead_processes_are_removed(self, tmp_path):
        dead = 2**22 + 1
        for name in (f".a.json.{dead}.part", f".b.{dead}.part"):
            (tmp_path / name).touch()
        kept = [f".c.{os.getpid()}.part", ".d.part", ".e.word.part", f"f.{dead}.part", ".g.tmp"]
        for name in kept:
            (tmp_path / name).touch()
        remove_leftovers(tmp_path)
        assert {p.name for p in tmp_path.iterdir()} == set(kept)
        remove_leftovers(tmp_path / "not there")


class TestWhatWeightsRestOn:
    def test_it_is_read_back_and_equal_weights_are_equal_files(self, tmp_path):
        hashes = {"tokenizer_sha256": "1" * 64, "palette_sha256": "2" * 64, "frozen": "3"}
        contents = set()
        for order in (hashes, dict(reversed(hashes.items()))):
            for _ in range(4):
                path = tmp_path / "w.safetensors"
                save_weights(path, MODEL, rests_on=order)
                assert what_it_rests_on(path) == hashes
                contents.add(path.read_bytes())
        assert len(contents) == 1

    def test_without_a_word_it_is_empty(self, tmp_path):
        save_weights(tmp_path / "w.safetensors", MODEL)
        assert what_it_rests_on(tmp_path / "w.safetensors") == {}

    def test_half_a_file_is_named(self, tmp_path):
        path = tmp_path / "w.safetensors"
        save_weights(path, MODEL)
        path.write_bytes(path.read_bytes()[:50])
        with pytest.raises(ValueError, match="w.safetensors cannot be read"):
            what_it_rests_on(path)

    @pytest.mark.parametrize(
        "value, half, message",
        [
            (65_504.0, True, None),
            (70_000.0, False, None),
            (70_000.0, True, "weight holds a value above 65,504"),
            (-70_000.0, True, "weight holds a value above 65,504"),
            (torch.nan, False, "weight holds a value that is not finite in 32 bits"),
            (torch.inf, False, "weight holds a value that is not finite in 32 bits"),
            (torch.nan, True, "weight holds"),
        ],
    )
    def test_values_that_cannot_be_stored_are_refused_by_name(self, tmp_path, value, half, message):
        """F13."""
        model = nn.Linear(3, 3)
        with torch.no_grad():
            model.weight[1, 2] = value
        path = tmp_path / "w.safetensors"
        if message is None:
            save_weights(path, model, half=half)
        else:
            with pytest.raises(ValueError, match=message):
                save_weights(path, model, half=half)
        assert path.exists() == (message is None)


def test_a_checkpoint_says_that_the_data_are_others(tmp_path):
    """F5."""
    save_checkpoint(tmp_path / "c.pt", {"run": {"data": "there", "seed": 0}})
    with pytest.raises(
        ValueError, match=r"\(data: 'there' there, 'now' now\). The pictures, their"
    ):
        load_checkpoint(tmp_path / "c.pt", {"data": "now", "seed": 0})
    with pytest.raises(ValueError) as refused:
        load_checkpoint(tmp_path / "c.pt", {"data": "there", "seed": 1})
    assert "pictures" not in str(refused.value)


class TestCommit:
    """F7: the commit is that of the package's own source."""

    @staticmethod
    def git(folder, *arguments):
        name = ["-c", "user.name=a", "-c", "user.email=a@b.example", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(folder), *name, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    @pytest.fixture
    def package(self, tmp_path, monkeypatch):
        """A copy of the package's file in a repository, in which `commit` believes to be."""
        monkeypatch.delenv("GIT_DIR", raising=False)
        here = tmp_path / "project" / "gss_lite" / "records.py"
        here.parent.mkdir(parents=True)
        shutil.copy(records.__file__, here)
        monkeypatch.setattr(records, "__file__", str(here))
        return here

    def committed(self, folder, *files):
        self.git(folder, "init", "-q")
        self.git(folder, "add", "-f", *files)
        self.git(folder, "commit", "-q", "-m", "x")
        return self.git(folder, "rev-parse", "--short=12", "HEAD")

    def pyproject(self, package, name="gss-lite"):
        path = package.parents[1] / "pyproject.toml"
        path.write_text(f'[project]\nname = "{name}"\n')

    def test_in_its_own_repository(self, package):
        self.pyproject(package)
        project = package.parents[1]
        name = self.committed(project, ".")
        assert commit() == name
        package.write_text(package.read_text() + "# changed\n")
        assert commit() == name + "+"

    def test_installed_inside_another_projects_repository(self, package, tmp_path):
        """Ignored there, as a virtual environment is; or not yet added."""
        project = package.parents[1]
        (project / "theirs.py").write_text("")
        self.committed(project, "theirs.py")
        assert commit() is None

    @pytest.mark.parametrize("with_pyproject", [False, True])
    def test_a_copy_that_another_project_tracks(self, package, with_pyproject):
        project = package.parents[1]
        if with_pyproject:
            self.pyproject(package, "another-project")
        self.committed(project, ".")
        assert commit() is None

    def test_a_copy_deep_in_another_project(self, package, tmp_path):
        self.pyproject(package)  # as an unpacked source archive has it
        (tmp_path / "theirs.py").write_text("")
        self.committed(tmp_path, ".")
        assert commit() is None

    def test_outside_any_repository(self, package, monkeypatch):
        monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(package.parents[2]))
        self.pyproject(package)
        assert commit() is None

    def test_without_git(self, package, monkeypatch):
        monkeypatch.setenv("PATH", "")
        self.pyproject(package)
        assert commit() is None

    def test_a_record_gives_the_version_as_well(self, package):
        more = {"kind": "k", "preset": "p", "seed": 0, "steps": 1, "metrics": {}, "command": "c"}
        record = run_record(seconds=1.0, **more)
        assert record["commit"] is None and record["version"]
