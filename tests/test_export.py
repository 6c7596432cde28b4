"""Export: 16 bits and a card for each; whole and of one run, or nothing changes (F1)."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gss_lite import export
from gss_lite.__main__ import main
from gss_lite.data import DATASETS, create_dataset
from gss_lite.export import export_weights
from gss_lite.factory import SHIPPED, create_model, create_prior, create_tokenizer, load_inverse
from gss_lite.inverse_fitted import ConvInverse
from gss_lite.presets import PRESETS, get_preset
from gss_lite.storage import save_weights, what_it_rests_on
from gss_lite.training import LoopOptions, train

PRESET = get_preset("scenes-tiny")
QUIET = LoopOptions(progress=False)


@pytest.fixture(scope="module")
def whole_run(tiny_run, tmp_path_factory):
    """Both stages and one X⁻¹; not to be changed."""
    folder = tmp_path_factory.mktemp("export") / "run"
    shutil.copytree(tiny_run, folder)
    train(PRESET, folder, stage="inverse-ft", options=QUIET)
    return folder


@pytest.fixture
def run(whole_run, tmp_path):
    """A copy that a test may damage."""
    folder = tmp_path / "run"
    shutil.copytree(whole_run, folder)
    return folder


@pytest.fixture(scope="module")
def other_run(tmp_path_factory):
    """The same preset with another seed."""
    folder = tmp_path_factory.mktemp("other")
    train(PRESET, folder, seed=1, options=QUIET)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_weights_are_halved_and_records_kept(whole_run, tmp_path):
    paths = export_weights(PRESET, whole_run, tmp_path)
    stages = ("inverse-ft", "prior", "vqvae")
    names = {f"scenes-tiny.{s}.{e}" for s in stages for e in ("safetensors", "json")}
    assert {p.name for p in paths} == names == {p.name for p in tmp_path.iterdir()}
    for stage in stages:
        path = tmp_path / f"scenes-tiny.{stage}.safetensors"
        card = json.loads(path.with_suffix(".json").read_text())
        assert card["stored_as"] == "float16" and card["bytes"] == path.stat().st_size
        assert card["log"] and "data_licence" not in card
        full, half = load_file(whole_run / path.name), load_file(path)
        assert full.keys() == half.keys()
        for name, values in full.items():
            rounded = values.half() if values.is_floating_point() else values
            assert torch.equal(half[name], rounded), name
    prior = "scenes-tiny.prior.safetensors"
    assert (tmp_path / prior).stat().st_size < 0.7 * (whole_run / prior).stat().st_size
    full, half = (create_model(PRESET, pretrained=folder) for folder in (whole_run, tmp_path))
    picture = create_dataset(PRESET, "test")[0][0][None]
    with torch.no_grad():
        for ours, rounded in zip(full.prior(picture), half.prior(picture), strict=True):
            # 16 bits hold 11 binary digits: 5e-4 a weight
            assert float((ours - rounded).abs().max()) < 1e-2 * float(ours.abs().max())


def test_what_is_shipped_fits_together_after_rounding(whole_run, tmp_path):
    export_weights(PRESET, whole_run, tmp_path)
    create_model(PRESET, pretrained=tmp_path, inverse="ft")
    name = "scenes-tiny.prior.safetensors"
    ours, theirs = (what_it_rests_on(folder / name) for folder in (tmp_path, whole_run))
    assert ours["palette_sha256"] == theirs["palette_sha256"]
    assert ours["tokenizer_sha256"] != theirs["tokenizer_sha256"]


def test_a_long_log_is_thinned(run, tmp_path):
    path = run / "scenes-tiny.prior.json"
    card = json.loads(path.read_text())
    card["log"] = [{"step": i} for i in range(1000)]
    path.write_text(json.dumps(card))
    export_weights(PRESET, run, tmp_path / "package")
    log = json.loads((tmp_path / "package" / path.name).read_text())["log"]
    assert 55 <= len(log) <= 70 and log[0] == {"step": 0}


def test_an_inverse_trained_alone_is_exported_alone(whole_run, tmp_path):
    for end in ("safetensors", "json"):
        shutil.copy(whole_run / f"scenes-tiny.inverse-ft.{end}", tmp_path)
    paths = export_weights(PRESET, tmp_path, tmp_path / "package")
    names = {p.name for p in paths}
    assert names == {"scenes-tiny.inverse-ft.safetensors", "scenes-tiny.inverse-ft.json"}
    weights = next(p for p in paths if p.suffix == ".safetensors")
    ours, theirs = (what_it_rests_on(p) for p in (weights, whole_run / weights.name))
    assert ours["tokenizer_sha256"] == theirs["tokenizer_sha256"]


def test_cards_of_weights_trained_on_camvid_say_its_licence(whole_run, tmp_path, monkeypatch):
    licence = DATASETS["camvid"].licence
    assert licence.startswith("CC BY-NC 4.0")
    data = replace(PRESET.data, name="camvid")
    paths = export_weights(replace(PRESET, data=data), whole_run, tmp_path)
    cards = [p for p in paths if p.suffix == ".json"]
    shipped = ("camvid*.vqvae.json", "generic*.json", "camvid*.prior.json")
    for card in [*cards, *(p for pattern in shipped for p in SHIPPED.glob(pattern))]:
        assert json.loads(card.read_text())["data_licence"].startswith("CC BY-NC 4.0"), card


def test_the_command_names_what_it_wrote(whole_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export.export_weights, "__defaults__", (tmp_path,))
    assert main(["export", "--preset", "scenes-tiny", "--run", str(whole_run)]) == 0
    printed = capsys.readouterr().out.split()
    assert {Path(p).name for p in printed} == {p.name for p in tmp_path.iterdir()}


class TestNothingChanges:
    """Whatever is wrong with a run, the package stays as it was, to the byte."""

    @pytest.fixture
    def package(self, whole_run, tmp_path):
        folder = tmp_path / "package"
        export_weights(PRESET, whole_run, folder)
        return folder

    def assert_refused(self, error, message, run, package):
        before = contents(package)
        with pytest.raises(error, match=message):
            export_weights(PRESET, run, package)
        assert contents(package) == before
        assert {p.name for p in package.iterdir()} == set(before)  # no folder is left either

    @pytest.mark.parametrize("stage", ["vqvae", "prior", "inverse-ft"])
    @pytest.mark.parametrize("damage", ["no record", "no log", "a log that is none", "half JSON"])
    def test_a_record_that_is_missing_or_damaged(self, run, package, stage, damage):
        path = run / f"scenes-tiny.{stage}.json"
        card = json.loads(path.read_text())
        if damage == "no record":
            path.unlink()
        elif damage == "half JSON":
            path.write_bytes(path.read_bytes()[:100])
        else:
            card.pop("log")
            card |= {"log": "none"} if damage == "a log that is none" else {}
            path.write_text(json.dumps(card))
        self.assert_refused((FileNotFoundError, ValueError), f"scenes-tiny.{stage}", run, package)

    @pytest.mark.parametrize("stage", ["vqvae", "prior", "inverse-ft"])
    @pytest.mark.parametrize("keep", [0.5, 0.999, 0.0])
    def test_weights_that_are_cut_short(self, run, package, stage, keep):
        path = run / f"scenes-tiny.{stage}.safetensors"
        content = path.read_bytes()
        path.write_bytes(content[: int(keep * len(content))])
        self.assert_refused(ValueError, f"scenes-tiny.{stage}", run, package)

    @pytest.mark.parametrize("value", [70_000.0, torch.inf, torch.nan])
    @pytest.mark.parametrize("stage", ["vqvae", "prior"])
    def test_values_that_sixteen_bits_cannot_hold(self, run, package, stage, value):
        """F13: the largest number of 16 bits is 65,504."""
        path = run / f"scenes-tiny.{stage}.safetensors"
        model = create_tokenizer(PRESET) if stage == "vqvae" else create_prior(PRESET)
        model.load_state_dict(load_file(path))
        tensors = model.state_dict()
        name = next(k for k, v in tensors.items() if v.is_floating_point())
        rests_on = what_it_rests_on(path)
        if value == 70_000.0:
            tensors[name].view(-1)[0] = value
            save_weights(path, model, rests_on=rests_on)
            if stage == "vqvae":  # or the prior, trained with another one, would be refused
                self.remove_the_rest(run)
            message = "65,504"
        else:
            tensors[name].view(-1)[0] = value
            save_file({k: v.contiguous() for k, v in tensors.items()}, path)
            message = "not finite"
        self.assert_refused(ValueError, message, run, package)

    def remove_the_rest(self, run):
        for name in ("scenes-tiny.prior", "scenes-tiny.inverse-ft"):
            for end in ("safetensors", "json"):
                (run / f"{name}.{end}").unlink()

    def test_a_prior_without_its_tokenizer(self, run, package):
        (run / "scenes-tiny.vqvae.safetensors").unlink()
        self.assert_refused(ValueError, "without its tokenizer|no weights", run, package)

    @pytest.mark.parametrize("stage", ["vqvae", "prior"])
    def test_parts_of_two_runs(self, run, package, other_run, stage):
        for end in ("safetensors", "json"):
            name = f"scenes-tiny.{stage}.{end}"
            shutil.copy(other_run / name, run / name)
        self.assert_refused(ValueError, "trained with another tokenizer", run, package)

    def test_stage_one_alone_under_a_prior_that_stays(self, package, other_run, tmp_path):
        alone = tmp_path / "alone"
        alone.mkdir()
        for end in ("safetensors", "json"):
            shutil.copy(other_run / f"scenes-tiny.vqvae.{end}", alone)
        self.assert_refused(
            ValueError,
            "scenes-tiny.inverse-ft.safetensors, scenes-tiny.prior.safetensors.*predict nonsense",
            alone,
            package,
        )

    def test_both_stages_under_an_inverse_that_stays(self, package, other_run):
        self.assert_refused(
            ValueError, "holds scenes-tiny.inverse-ft.safetensors,", other_run, package
        )

    def test_priors_of_other_presets_that_share_the_tokenizer_are_named(
        self, package, other_run, monkeypatch
    ):
        sharer = replace(PRESET, name="sharer-tiny", tokenizer="scenes-tiny")
        monkeypatch.setattr(export, "PRESETS", {**PRESETS, "sharer-tiny": sharer})
        for path in package.glob("scenes-tiny.inverse-ft.*"):
            path.unlink()
        shutil.copy(
            package / "scenes-tiny.prior.safetensors", package / "sharer-tiny.prior.safetensors"
        )
        self.assert_refused(
            ValueError, "holds sharer-tiny.prior.safetensors, trained with", other_run, package
        )

    def test_the_same_tokenizer_again_is_no_reason_to_refuse(self, run, package):
        for path in run.glob("scenes-tiny.prior.*"):
            path.unlink()
        for path in run.glob("scenes-tiny.inverse-ft.*"):
            path.unlink()
        kept = [package / f"scenes-tiny.{stage}.safetensors" for stage in ("prior", "inverse-ft")]
        before = [path.read_bytes() for path in kept]
        export_weights(PRESET, run, package)
        assert [path.read_bytes() for path in kept] == before
        model = create_model(PRESET, pretrained=package, inverse="ft")
        assert isinstance(model.inverse, ConvInverse)

    def test_an_inverse_of_another_tokenizer_than_the_packages(self, package, other_run, tmp_path):
        folder = tmp_path / "inverse"
        train(PRESET, folder, stage="inverse-ft", stage_one=other_run, options=QUIET)
        self.assert_refused(ValueError, "trained with another tokenizer", folder, package)

    def test_a_run_without_weights(self, package, tmp_path):
        self.assert_refused(FileNotFoundError, "holds no weights of", tmp_path / "no", package)

    @pytest.mark.parametrize("fails_at", range(1, 12))
    def test_a_move_that_fails(self, other_run, whole_run, tmp_path, monkeypatch, fails_at):
        """The disk fails at any of the moves: the old files come back."""
        package = tmp_path / "package"
        without = tmp_path / "without"
        shutil.copytree(whole_run, without, ignore=shutil.ignore_patterns("*.inverse-*"))
        export_weights(PRESET, without, package)
        (package / "scenes-tiny.prior.json").unlink()  # one file is new, the others replaced
        before = contents(package)
        moves = []
        real = os.replace

        def sometimes(source, target):
            moves.append(source)
            if len(moves) == fails_at:
                raise OSError(28, "No space left on device")
            return real(source, target)

        staged = export._check_nothing_breaks

        def then(*arguments):
            staged(*arguments)
            moves.clear()
            monkeypatch.setattr(export.os, "replace", sometimes)

        monkeypatch.setattr(export, "_check_nothing_breaks", then)
        if fails_at <= 7:  # four files: three old ones go, four new ones come
            with pytest.raises(OSError, match="No space left"):
                export_weights(PRESET, other_run, package)
            assert contents(package) == before
        else:
            export_weights(PRESET, other_run, package)
            assert len(moves) == 7
        assert not [p for p in package.iterdir() if p.is_dir()]


def test_inverses_that_are_shipped_read_as_before(whole_run, tmp_path):
    export_weights(PRESET, whole_run, tmp_path)
    name = "scenes-tiny.inverse-ft.safetensors"
    ours, theirs = (load_inverse(folder / name)[0] for folder in (tmp_path, whole_run))
    maskige = torch.rand(2, 3, 32, 32)
    assert float((ours.classify(maskige) == theirs.classify(maskige)).double().mean()) > 0.98
