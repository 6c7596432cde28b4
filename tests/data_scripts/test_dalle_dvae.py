"""data_scripts.dalle_dvae with a small copy served here: download, notes, conversion, errors."""

import functools
import http.server
import os
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from dalle_samples import build, save

from data_scripts import dalle_dvae
from gss_lite.dalle import DalleDVAE
from gss_lite.storage import load_weights


def small(**options) -> DalleDVAE:
    return DalleDVAE(16, 4, 4, **options)


@pytest.fixture
def published(tmp_path, dall_e, monkeypatch) -> Path:
    """A folder with a small encoder.pkl and decoder.pkl, whose sizes the script will expect."""
    monkeypatch.setattr(dalle_dvae, "empty_dalle", small)
    folder = tmp_path / "published"
    folder.mkdir()
    for part in ("encoder", "decoder"):
        save(build(part, dall_e), folder / f"{part}.pkl")
    return folder


@pytest.fixture
def server(published, monkeypatch) -> Iterator[str]:
    """The folder over HTTP."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments) -> None:
            pass

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(published))
    ) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{httpd.server_port}/"
        monkeypatch.setattr(dalle_dvae, "URL", url)
        yield url
        httpd.shutdown()
        thread.join()


def test_downloads_converts_and_deletes_the_pickles(server, tmp_path, dall_e, capsys):
    folder = tmp_path / "new" / "dvae"
    assert dalle_dvae.main(["--folder", str(folder)]) == 0
    assert sorted(path.name for path in folder.iterdir()) == [
        "dalle_dvae.safetensors",
        "dalle_dvae.sha256",
    ]
    assert "clearly indicate that it was used" in capsys.readouterr().out
    model = small()
    load_weights(folder / "dalle_dvae.safetensors", model)
    w = dict(build("encoder", dall_e).named_parameters())["blocks.group_2.block_1.id_path.w"]
    assert torch.equal(model.encoder.groups[1][0].id.weight, w)


def test_a_second_call_only_verifies(server, published, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "dvae"
    assert dalle_dvae.main(["--folder", str(folder)]) == 0
    monkeypatch.setattr(dalle_dvae, "download", None)
    assert dalle_dvae.main(["--folder", str(folder)]) == 0
    weights = folder / "dalle_dvae.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert dalle_dvae.main(["--folder", str(folder)]) == 1
    assert "was noted on first use" in capsys.readouterr().err


def test_another_file_than_the_first_is_refused_afterwards(
    server, published, tmp_path, dall_e, capsys
):
    folder = tmp_path / "dvae"
    assert dalle_dvae.main(["--folder", str(folder)]) == 0
    (folder / "dalle_dvae.safetensors").unlink()
    save(build("decoder", dall_e).requires_grad_(False), published / "decoder.pkl")
    assert dalle_dvae.main(["--folder", str(folder)]) == 1
    assert "decoder.pkl has the SHA-256" in capsys.readouterr().err
    assert not (folder / "dalle_dvae.safetensors").exists()


def test_files_that_are_there_are_read_and_left(published, tmp_path, monkeypatch):
    monkeypatch.setattr(dalle_dvae, "download", None)
    folder = tmp_path / "dvae"
    assert dalle_dvae.main(["--folder", str(folder), "--pickles", str(published)]) == 0
    assert sorted(path.name for path in published.iterdir()) == ["decoder.pkl", "encoder.pkl"]
    assert (folder / "dalle_dvae.safetensors").exists()


def test_both_files_are_needed(published, tmp_path, capsys):
    (published / "decoder.pkl").unlink()
    assert dalle_dvae.main(["--folder", str(tmp_path / "dvae"), "--pickles", str(published)]) == 1
    assert "holds no decoder.pkl" in capsys.readouterr().err


def test_without_a_connection_it_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(dalle_dvae, "URL", "http://127.0.0.1:9/")  # nothing listens there
    assert dalle_dvae.main(["--folder", str(tmp_path / "dvae")]) == 1
    message = capsys.readouterr().err
    assert (
        "could not be downloaded from http://127.0.0.1:9/encoder.pkl" in message
        and "--pickles FOLDER" in message
    )
    assert list((tmp_path / "dvae").iterdir()) == []


def test_a_hostile_download_runs_nothing_and_is_deleted(server, published, tmp_path, capsys):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'it-ran'}",)

    (published / "encoder.pkl").write_bytes(pickle.dumps(Evil(), 2))
    assert dalle_dvae.main(["--folder", str(tmp_path / "dvae")]) == 1
    assert f"{os.name}.system" in capsys.readouterr().err
    assert not (tmp_path / "it-ran").exists() and list((tmp_path / "dvae").iterdir()) == []


@pytest.mark.parametrize("note", [None, "", "0123  encoder.pkl\n"])
def test_weights_that_no_note_names_are_not_called_verified(published, tmp_path, capsys, note):
    folder = tmp_path / "dvae"
    folder.mkdir()
    assert dalle_dvae.main(["--folder", str(folder), "--pickles", str(published)]) == 0
    (folder / dalle_dvae.NOTE).unlink()
    if note is not None:
        (folder / dalle_dvae.NOTE).write_text(note)
    assert dalle_dvae.main(["--folder", str(folder)]) == 1
    assert "does not name dalle_dvae.safetensors" in capsys.readouterr().err


def test_a_damaged_note_is_named(published, tmp_path, capsys):
    folder = tmp_path / "dvae"
    folder.mkdir()
    assert dalle_dvae.main(["--folder", str(folder), "--pickles", str(published)]) == 0
    (folder / dalle_dvae.NOTE).write_text("cut sho rt\nhalf\n")
    assert dalle_dvae.main(["--folder", str(folder)]) == 1
    assert "dalle_dvae.sha256 is damaged" in capsys.readouterr().err
