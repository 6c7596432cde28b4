"""python -m gss_lite evaluate: table and record agree, views, and records that stay."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest
import torch
from command_line import TINY, command, refused

from gss_lite import __main__ as cli
from gss_lite.data import create_dataset
from gss_lite.evaluation import evaluate
from gss_lite.factory import create_model
from gss_lite.gss import GSS
from gss_lite.presets import PRESETS, ViewSpec, get_preset
from gss_lite.prior import Prior
from gss_lite.records import hardware, run_record
from gss_lite.storage import weights_hash

PRESET = get_preset("scenes-tiny")


@pytest.fixture
def evaluated(tiny_run, tmp_path):
    """A function from options to the metrics in the record."""

    def run(*options):
        path = tmp_path / "record.json"
        arguments = [*TINY, "--weights", tiny_run, "--device", "cpu", "--record", path]
        assert command("evaluate", *arguments, *options) == 0
        return json.loads(path.read_text())["metrics"]

    return run


def test_it_prints_the_table_and_the_record_agrees(tiny_run, tmp_path, capsys):
    path = tmp_path / "record.json"
    assert command("evaluate", *TINY, "--weights", tiny_run, "--record", path) == 0
    printed = capsys.readouterr().out
    record = json.loads(path.read_text())
    for row, key in [
        ("GSS-FF prediction", "prediction"),
        ("auxiliary pixel head", "pixel_head"),
        ("reconstruction of the true masks", "reconstruction"),
    ]:
        line = next(line for line in printed.splitlines() if line.startswith(row))
        miou = 100 * record["metrics"][key]["miou"]
        assert float(line.split()[-3]) == pytest.approx(miou, abs=0.006)
    assert "Bicyclist" in printed and str(path) in printed
    assert record["metrics"]["pictures"] == PRESETS["scenes-tiny"].data.eval_pictures
    assert record["command"].startswith("python -m gss_lite evaluate --preset scenes-tiny")
    assert record["kind"] == "evaluate test" and record["seed"] == 0
    prior = create_model(PRESET, pretrained=tiny_run).prior
    assert record["metrics"]["prior_sha256"] == weights_hash(prior)
    assert len(record["metrics"]["picture_accuracy"]) == 4


def test_the_record_is_what_evaluation_gives(tiny_run, evaluated):
    model = create_model(PRESET, pretrained=tiny_run)
    expected = evaluate(model, create_dataset(PRESET, "val"), progress=False)
    metrics = evaluated("--split", "val")
    for name, scores in expected.scores().items():
        assert metrics[name] == json.loads(json.dumps(scores.as_dict()))


def test_it_looks_through_the_presets_windows_and_mirrors(
    tiny_run, evaluated, monkeypatch, tiny_gss
):
    preset = replace(PRESET, view=ViewSpec(window=(32, 16)))
    monkeypatch.setattr(cli, "get_preset", lambda name: preset)
    sizes = []
    encode = Prior.encode

    def noted(prior, image):
        sizes.append(tuple(image.shape))
        return encode(prior, image)

    monkeypatch.setattr(Prior, "encode", noted)
    metrics = evaluated("--flip")
    # nine windows of the batch of four, and their mirror images; each once
    assert sizes == [(4, 3, 32, 32)] * 9 * 2
    assert metrics["window"] == [32, 16] and metrics["flip"] is True
    assert metrics["averaged"] == "probabilities of X⁻¹"
    model = create_model(preset, pretrained=tiny_run)
    expected = evaluate(model, create_dataset(PRESET, "test"), flip=True, progress=False)
    assert metrics["prediction"] == expected["prediction"].as_dict()
    whole = evaluate(model, create_dataset(PRESET, "test"), view=ViewSpec(), progress=False)
    found = metrics["reconstruction"]["miou"]
    assert found == pytest.approx(whole["reconstruction"].miou, abs=1e-6)


@pytest.mark.slow
def test_the_twin_is_looked_at_in_the_same_way(tmp_path):
    folder = tmp_path / "run"
    assert command("train", *TINY, "--stage", "pixel", "--steps", 6, "--out", folder) == 0
    path = tmp_path / "record.json"
    common = ["--model", "pixel", "--weights", folder, "--device", "cpu", "--record", path]
    assert command("evaluate", *TINY, *common, "--flip", "--scales", 1, 1.5) == 0
    twin = create_model(PRESET, pretrained=folder, model="pixel")
    test = create_dataset(PRESET, "test")
    expected = evaluate(twin, test, flip=True, scales=(1, 1.5), progress=False)
    record = json.loads(path.read_text())
    metrics = record["metrics"]
    assert record["kind"] == "evaluate test pixel" and "averaged" not in metrics
    assert metrics["prediction"] == expected["prediction"].as_dict()
    assert metrics["flip"] is True and metrics["scales"] == [1.0, 1.5]


def test_a_scale_that_is_no_positive_number_is_refused(tiny_run, capsys):
    for text in ("0", "-1", "big", "inf"):
        with pytest.raises(SystemExit):
            command("evaluate", *TINY, "--weights", tiny_run, "--scales", text)
        assert f"must be a positive number, as 1.25; got '{text}'" in capsys.readouterr().err


def test_records_name_what_the_run_was_on_and_not_what_else_there_is(
    monkeypatch, tiny_run, tmp_path
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: f"a GPU called {device}")
    assert hardware("cuda:1") == "a GPU called cuda:1"
    assert hardware() == "a GPU called cuda"
    assert "CPU threads" in hardware("cpu")
    more = {"kind": "k", "preset": "p", "seed": 0, "steps": 1, "metrics": {}, "command": "c"}
    assert run_record(seconds=1.0, device="cpu", **more)["hardware"] == hardware("cpu")
    path = tmp_path / "record.json"
    arguments = [*TINY, "--weights", tiny_run, "--device", "cpu", "--record", path]
    assert command("evaluate", *arguments) == 0
    assert json.loads(path.read_text())["hardware"] == hardware("cpu")


@pytest.mark.parametrize(
    "error, said",
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore"),
            "the GPU ran out of memory (CUDA out of memory. Tried to allocate 2.00 GiB.).*or "
            "--device cpu",
        ),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate"),
            "the machine ran out of memory (.*can't allocate).*take smaller pictures",
        ),
        (MemoryError(), "the machine ran out of memory (MemoryError).*take smaller pictures"),
    ],
)
@pytest.mark.parametrize("name", ["evaluate", "predict"])
def test_memory_that_runs_out_is_one_line_too(
    tiny_run, monkeypatch, capsys, tmp_path, error, said, name
):
    def full(gss, image):
        raise error

    from PIL import Image

    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    monkeypatch.setattr(GSS, "outputs", full)
    more = [tmp_path / "a.png", "--out", tmp_path / "out"] if name == "predict" else []
    assert command(name, *TINY, "--weights", tiny_run, "--device", "cpu", *more) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    first, last = said.split(".*")[0], said.split(".*")[-1]
    assert line.startswith(f"error: {first}") and last in line


class TestRecordsStay:
    """F12: no record is overwritten by another result."""

    @pytest.mark.slow
    def test_the_name_says_how_pictures_were_looked_at(self, tiny_run, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        common = ["evaluate", *TINY, "--weights", tiny_run]
        names = []
        for options, name in [
            ([], "evaluate-test"),
            (["--flip"], "evaluate-test-flip"),
            (["--split", "val"], "evaluate-val"),
            (["--scales", 1, 1.25], "evaluate-test-scales-1-1.25"),
            (["--seed", 3], "evaluate-test-seed-3"),
            (["--inverse", "expected"], "evaluate-test-inverse-expected"),
        ]:
            assert command(*common, *options) == 0
            names.append(f"{name}.json")
        assert {p.name for p in (tmp_path / "runs/scenes-tiny").iterdir()} == set(names)

    def test_the_same_result_is_written_in_its_place(self, tiny_run, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for _ in range(2):
            assert command("evaluate", *TINY, "--weights", tiny_run) == 0
        folder = tmp_path / "runs/scenes-tiny"
        assert [p.name for p in folder.iterdir()] == ["evaluate-test.json"]

    def test_what_the_name_does_not_say_gets_a_number(self, tiny_run, tmp_path, monkeypatch):
        """Other weights, a file of X⁻¹, another device: the older record is kept."""
        monkeypatch.chdir(tmp_path)
        folder = tmp_path / "runs/scenes-tiny"
        assert command("evaluate", *TINY, "--weights", tiny_run) == 0
        first = (folder / "evaluate-test.json").read_bytes()
        assert command("evaluate", *TINY, "--weights", tiny_run, "--device", "cpu") == 0
        (folder / "evaluate-test-3.json").write_text("notes")
        assert command("evaluate", *TINY, "--weights", f"{tiny_run}/") == 0
        assert (folder / "evaluate-test.json").read_bytes() == first
        assert (folder / "evaluate-test-3.json").read_text() == "notes"
        assert {p.name for p in folder.iterdir()} == {
            f"evaluate-test{end}.json" for end in ("", "-2", "-3", "-4")
        }

    @pytest.mark.parametrize("content", [b"\x89PNG", b"{}", b'{"kind": "gss-lite palette"}', b""])
    def test_a_file_that_is_no_record_is_not_replaced(self, tmp_path, capsys, content):
        path = tmp_path / "precious"
        path.write_bytes(content)
        said = refused(capsys, "evaluate", *TINY, "--weights", "nowhere", "--record", path)
        assert "precious is there and is no run record" in said
        assert path.read_bytes() == content

    def test_a_record_that_is_named_is_written_again(self, tiny_run, tmp_path):
        path = tmp_path / "r.json"
        for options in ([], ["--flip"]):
            assert (
                command("evaluate", *TINY, "--weights", tiny_run, "--record", path, *options) == 0
            )
        assert json.loads(path.read_text())["metrics"]["flip"] is True


class TestWhereRecordsGo:
    """F6 and F17: through links, never over devices, and noticed before the work."""

    @pytest.fixture(autouse=True)
    def no_work(self, monkeypatch):
        self.worked = []
        evaluate = cli.evaluate

        def noted(*args, **more):
            self.worked.append(1)
            return evaluate(*args, **more)

        monkeypatch.setattr(cli, "evaluate", noted)

    def test_a_link_is_written_through(self, tiny_run, tmp_path):
        (tmp_path / "elsewhere").mkdir()
        real = tmp_path / "elsewhere" / "real.json"
        for content in (None, '{"kind": "k", "metrics": {}}'):
            if content:
                real.write_text(content)
            link = tmp_path / "link.json"
            link.unlink(missing_ok=True)
            link.symlink_to(real)
            assert command("evaluate", *TINY, "--weights", tiny_run, "--record", link) == 0
            assert link.is_symlink() and json.loads(real.read_text())["kind"] == "evaluate test"

    @pytest.mark.parametrize("what", ["device", "pipe", "link to a device", "folder", "loop"])
    def test_what_is_no_regular_file_is_refused(self, tiny_run, tmp_path, capsys, what):
        path = tmp_path / "record.json"
        if what == "device":
            path = "/dev/null"
        elif what == "pipe":
            os.mkfifo(path)
        elif what == "folder":
            path.mkdir()
        else:
            path.symlink_to("/dev/null" if what == "link to a device" else path)
        said = refused(capsys, "evaluate", *TINY, "--weights", tiny_run, "--record", path)
        expected = {"folder": "is a folder", "loop": "leads back to itself"}
        assert expected.get(what, "is a device or a pipe") in said
        assert not self.worked and os.path.lexists(path)
        assert os.path.islink(path) == (what in ("link to a device", "loop"))

    def test_a_folder_that_cannot_be_written_to_is_noticed_before_the_work(
        self, tiny_run, tmp_path, capsys
    ):
        (tmp_path / "taken").write_text("a file")
        record = tmp_path / "taken" / "deeper" / "r.json"
        said = refused(capsys, "evaluate", *TINY, "--weights", tiny_run, "--record", record)
        assert "nothing can be written to" in said and not self.worked


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--preset", "camvid", "--data", "nowhere"], "CamVid was not found: there is no nowhere"),
        ([*TINY, "--weights", "nowhere"], "no weights at nowhere"),
        (
            [*TINY, "--data", "streets"],
            "preset scenes-tiny draws its pictures and reads none from streets",
        ),
        (["--preset", "nonsense"], "no preset named 'nonsense'; there are: "),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    arguments, message, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, "evaluate", *arguments)
    assert not list(tmp_path.iterdir())


def test_the_leaning_frame_is_left_out_in_a_second_figure(tmp_path, monkeypatch, tiny_run, capsys):
    """The registry says which frames of a set are broken."""
    dataset = create_dataset(PRESET, "test")
    dataset.names = ["a", "b", "c", "d"]
    monkeypatch.setattr(cli, "create_dataset", lambda *args, **more: dataset)
    monkeypatch.setattr(type(dataset), "leave_out", ("c",))
    path = tmp_path / "r.json"
    assert command("evaluate", *TINY, "--weights", tiny_run, "--record", path) == 0
    metrics = json.loads(path.read_text())["metrics"]
    model = create_model(PRESET, pretrained=tiny_run)
    whole = evaluate(model, dataset, progress=False)
    without = whole.scores(leave_out=[2])
    assert metrics["without_corrupt_frame"] == {k: s.miou for k, s in without.items()}
    assert "without c, whose mask is shifted" in capsys.readouterr().out
