"""Consoles that cannot show every letter, and pipes that nobody reads: no work is lost (F8)."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from gss_lite.__main__ import main
from gss_lite.cli import parser
from gss_lite.factory import INVERSES
from gss_lite.training import STAGES

ROOT = Path(__file__).resolve().parents[2]
ENCODINGS = ["ascii", "cp1252", "gbk", "cp932", "cp949"]


class Console:
    """Standard output and error of one encoding, as strict as a new process has them."""

    def __init__(self, encoding: str) -> None:
        self.out, self.err = (
            io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict") for _ in range(2)
        )

    def run(self, *arguments: object) -> int:
        """A command in this console. pytest puts its own streams back before every test."""
        with contextlib.redirect_stdout(self.out), contextlib.redirect_stderr(self.err):
            return main([str(argument) for argument in arguments])

    @property
    def printed(self) -> bytes:
        self.out.flush()
        return self.out.buffer.getvalue()

    @property
    def complained(self) -> bytes:
        self.err.flush()
        return self.err.buffer.getvalue()


@pytest.fixture(params=ENCODINGS)
def console(request):
    with pytest.raises(UnicodeEncodeError):  # or the test could not fail
        print("X⁻¹ → ψ", file=io.TextIOWrapper(io.BytesIO(), encoding=request.param), flush=True)
    return Console(request.param)


def run(arguments, folder, **more):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}
    command = [sys.executable, "-m", "gss_lite", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True)


def test_help_names_every_stage_and_every_inverse(capsys):
    for name, words in (("train", STAGES), ("evaluate", INVERSES), ("predict", INVERSES)):
        with pytest.raises(SystemExit):
            parser().parse_args([name, "--help"])
        said = " ".join(capsys.readouterr().out.split())
        said = said.replace("- ", "-")  # a line may end after a hyphen
        assert all(word in said for word in words), name


@pytest.mark.parametrize("arguments", [[], ["train"], ["evaluate"], ["predict"], ["export"]])
def test_help(console, arguments):
    with pytest.raises(SystemExit) as ended:
        console.run(*arguments, "--help")
    assert ended.value.code == 0 and b"usage:" in console.printed


def test_evaluate_writes_its_record(console, tmp_path, tiny_run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["--preset", "scenes-tiny", "--weights", str(tiny_run), "--inverse", "expected"]
    assert console.run("evaluate", *arguments) == 0, console.complained
    assert b"mIoU" in console.printed
    records = list((tmp_path / "runs" / "scenes-tiny").iterdir())
    assert len(records) == 1 and json.loads(records[0].read_text())["metrics"]["pictures"] == 4


def test_train_goes_to_its_end(console, tmp_path):
    arguments = ["--preset", "scenes-tiny", "--stage", "vqvae", "--steps", "2"]
    assert console.run("train", *arguments, "--out", tmp_path / "ü通") == 0, console.complained
    assert b"weights and records are in" in console.printed


def test_predict_goes_on_after_a_name_that_cannot_be_shown(console, tmp_path, tiny_run):
    pictures = []
    for name in ("straße-ü", "通り", "ψ", "last"):
        pictures.append(str(tmp_path / f"{name}.png"))
        Image.new("RGB", (40, 40)).save(pictures[-1])
    out = tmp_path / "out"
    arguments = ["--preset", "scenes-tiny", "--weights", str(tiny_run), "--out", str(out)]
    assert console.run("predict", *arguments, *pictures) == 0, console.complained
    assert len(list(out.iterdir())) == 12 and b"last_mask.png" in console.printed


def test_an_error_that_cannot_be_shown_is_one_line(console, tiny_run):
    arguments = ["--preset", "scenes-tiny", "--weights", str(tiny_run), "--inverse", "ψ"]
    assert console.run("evaluate", *arguments) == 2
    said = console.complained
    assert said.startswith(b"error: X") and len(said.splitlines()) == 1


@pytest.mark.slow
def test_a_real_process_in_the_plain_c_locale(tmp_path, tiny_run):
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    assert run(["train", "--help"], tmp_path, **plain).returncode == 0
    arguments = ["evaluate", "--preset", "scenes-tiny", "--weights", tiny_run]
    done = run([*arguments, "--record", "r.json"], tmp_path, **plain)
    assert done.returncode == 0 and (tmp_path / "r.json").is_file(), done.stderr


@pytest.mark.slow
def test_a_real_process_whose_console_is_ascii(tmp_path):
    done = run(["evaluate", "--help"], tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and b"usage:" in done.stdout, done.stderr


@pytest.mark.slow
def test_a_pipe_that_was_closed_stops_nothing(tmp_path, tiny_run):
    """As behind `| head -1`: the table cannot be printed, and the record is written."""
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    arguments = ["evaluate", "--preset", "scenes-tiny", "--weights", str(tiny_run)]
    command = [sys.executable, "-m", "gss_lite", *arguments, "--record", "r.json"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, stdout=writing, stderr=subprocess.PIPE
    )
    os.close(writing)
    assert done.returncode == 0, done.stderr
    assert b"BrokenPipe" not in done.stderr and (tmp_path / "r.json").is_file()
