"""Parts that do not belong together are refused by name (F2, F13, F16), wherever they meet."""

from __future__ import annotations

import json
import shutil
from dataclasses import MISSING, asdict, fields, replace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from gss_lite.__main__ import main
from gss_lite.factory import (
    SHIPPED,
    create_model,
    create_palette,
    create_stage_one,
    create_tokenizer,
    stage_one_hashes,
)
from gss_lite.palette import Palette, random_palette
from gss_lite.presets import get_preset
from gss_lite.presets.parts import Schedule
from gss_lite.storage import save_weights, weights_hash, what_it_rests_on
from gss_lite.training import LoopOptions, train

PRESET = get_preset("scenes-tiny")
PAINTED = replace(PRESET, palette="by-neighbours")
QUIET = LoopOptions(progress=False)
VQVAE, PRIOR = (f"scenes-tiny.{stage}.safetensors" for stage in ("vqvae", "prior"))


@pytest.fixture(scope="module")
def painted_run(tmp_path_factory):
    """What `painted` copies."""
    folder = tmp_path_factory.mktemp("painted")
    train(PAINTED, folder, options=QUIET)
    return folder


@pytest.fixture
def run(tiny_run, tmp_path):
    """A copy that a test may damage."""
    folder = tmp_path / "run"
    shutil.copytree(tiny_run, folder)
    return folder


def uses(run, picture, out):
    """Everything that puts a prior and a tokenizer of a folder together."""
    tiny = ["--preset", "scenes-tiny"]
    elsewhere = str(out / "elsewhere")
    return [
        ["evaluate", *tiny, "--weights", str(run), "--record", str(out / "r.json")],
        ["evaluate", *tiny, "--weights", str(run), "--flip", "--inverse", "expected"],
        ["predict", *tiny, "--weights", str(run), "--out", str(out / "p"), str(picture)],
        ["train", *tiny, "--stage", "inverse-ft", "--out", str(run)],
        ["train", *tiny, "--stage", "inverse-ft-w", "--stage-one", str(run), "--out", elsewhere],
        ["train", *tiny, "--stage", "inverse-gaussian", "--out", str(run)],
    ]


@pytest.mark.slow
class TestAnotherTokenizer:
    def assert_refused_everywhere(self, run, tmp_path, capsys, message):
        picture = tmp_path / "a.png"
        Image.new("RGB", (40, 40)).save(picture)
        before = {p for p in run.rglob("*")}
        for arguments in uses(run, picture, tmp_path):
            assert main(arguments) == 2, arguments
            said = capsys.readouterr().err
            assert message in said and PRIOR in said, arguments
        assert {p for p in run.rglob("*")} == before
        assert not (tmp_path / "r.json").exists() and not (tmp_path / "p").exists()

    def test_stage_one_trained_again_in_the_same_folder(self, run, tmp_path, capsys):
        for path in (run / VQVAE, run / "scenes-tiny.vqvae.json"):
            path.unlink()
        shutil.rmtree(run / "vqvae")
        train(PRESET, run, stage="vqvae", seed=1, options=QUIET)
        self.assert_refused_everywhere(run, tmp_path, capsys, "trained with another tokenizer")

    def test_its_codes_renumbered(self, run, tmp_path, capsys):
        """Reconstruction stays as it is, and the prediction would be nonsense."""
        tokenizer = create_tokenizer(PRESET, pretrained=run)
        mask = torch.randint(11, (1, 32, 32))
        maskige = create_palette(PRESET)(mask)
        before = tokenizer.decode(tokenizer.encode(maskige))
        order = torch.arange(32).roll(1)
        tensors = load_file(run / VQVAE)
        for name in ("codes", "counts", "sums"):
            tensors[f"codebook.{name}"] = tensors[f"codebook.{name}"][order].contiguous()
        save_file(tensors, run / VQVAE)
        renumbered = create_tokenizer(PRESET, pretrained=run)
        assert torch.equal(renumbered.decode(renumbered.encode(maskige)), before)
        self.assert_refused_everywhere(run, tmp_path, capsys, "trained with another tokenizer")

    def test_a_single_bit(self, run, tmp_path, capsys):
        tensors = load_file(run / VQVAE)
        tensors["codebook.codes"].view(torch.int32)[0, 0] ^= 1
        save_file(tensors, run / VQVAE)
        self.assert_refused_everywhere(run, tmp_path, capsys, "trained with another tokenizer")

    def test_a_prior_that_does_not_say(self, run, tmp_path, capsys):
        save_file(load_file(run / PRIOR), run / PRIOR)
        message = "does not say which palette and tokenizer it was trained with"
        self.assert_refused_everywhere(run, tmp_path, capsys, message)

    @pytest.mark.parametrize("metadata", [{"rests_on": "[]"}, {"rests_on": "half {"}])
    def test_a_prior_whose_word_cannot_be_read(self, run, metadata):
        save_file(load_file(run / PRIOR), run / PRIOR, metadata)
        with pytest.raises(ValueError, match=PRIOR):
            create_model(PRESET, pretrained=run)

    @pytest.mark.parametrize("name", ["scenes-cpu", "scenes-cpu-mobilenet"])
    def test_the_shipped_tokenizer_with_codes_renumbered(self, tmp_path, monkeypatch, name):
        folder = tmp_path / "weights"
        shutil.copytree(SHIPPED, folder)
        monkeypatch.setattr("gss_lite.factory.SHIPPED", folder)
        create_model(name, pretrained=True)
        path = folder / "scenes-cpu.vqvae.safetensors"
        tensors = load_file(path)
        for part in ("codes", "counts", "sums"):
            tensors[f"codebook.{part}"] = tensors[f"codebook.{part}"].roll(1, 0)
        rests_on = what_it_rests_on(path)
        save_file(tensors, path, {"rests_on": json.dumps(rests_on)})
        with pytest.raises(ValueError, match=f"{name}.prior.* trained with another tokenizer"):
            create_model(name, pretrained=True)

    def test_an_inverse_of_another_tokenizer(self, run, tmp_path):
        """The colours are the same ones, so nothing but the hash can tell."""
        other = tmp_path / "other"
        train(PRESET, other, seed=1, options=QUIET)
        train(PRESET, other, stage="inverse-ft", options=QUIET)
        create_model(PRESET, pretrained=other, inverse="ft")
        for end in ("safetensors", "json"):
            shutil.copy(other / f"scenes-tiny.inverse-ft.{end}", run)
        with pytest.raises(ValueError, match="inverse-ft.safetensors was trained with another tok"):
            create_model(PRESET, pretrained=run, inverse="ft")
        file = other / "scenes-tiny.inverse-ft.safetensors"
        with pytest.raises(ValueError, match="inverse-ft.safetensors was trained with another tok"):
            create_model(PRESET, pretrained=run, inverse=file)


class TestAnotherPalette:
    @pytest.fixture
    def painted(self, painted_run, tmp_path):
        """A copy of a run whose palette was made by looking at masks, and lies in a file."""
        folder = tmp_path / "painted"
        shutil.copytree(painted_run, folder)
        return PAINTED, folder

    def test_one_that_is_exchanged_is_refused_before_anything(self, painted):
        preset, folder = painted
        create_model(preset, pretrained=folder)
        path = folder / "scenes-tiny.palette.json"
        palette = Palette.load(path)
        palette.colors.copy_(palette.colors[[1, 0, *range(2, 11)]])  # two classes exchanged
        palette.save(path)
        for run_it in (
            lambda: create_model(preset, pretrained=folder),
            lambda: create_stage_one(preset, folder),
            lambda: train(preset, folder, stage="prior", options=QUIET),
        ):
            with pytest.raises(ValueError, match="vqvae.* was trained with another palette"):
                run_it()

    def test_a_tokenizer_and_prior_that_agree_on_a_third_palette(self, painted):
        """The tokenizer's file says the palette that it is beside, and the prior knows better."""
        preset, folder = painted
        path = folder / "scenes-tiny.palette.json"
        other = random_palette(11, 3)
        other.origin = Palette.load(path).origin
        other.save(path)
        vqvae = create_tokenizer(preset, pretrained=folder)
        hashes = stage_one_hashes(other, vqvae)
        rests_on = {"palette_sha256": hashes["palette_sha256"]}
        save_weights(folder / VQVAE, vqvae, rests_on=rests_on)
        with pytest.raises(ValueError, match="prior.* was trained with another palette"):
            create_model(preset, pretrained=folder)

    @pytest.mark.parametrize("classes", [10, 12])
    def test_one_class_too_few_or_too_many(self, painted, classes):
        """F16."""
        preset, folder = painted
        random_palette(classes, 3).save(folder / "scenes-tiny.palette.json")
        message = f"has {classes} colours, but preset scenes-tiny has 11 classes"
        for make in (create_palette, create_stage_one):
            with pytest.raises(ValueError, match=message):
                make(preset, folder)
        with pytest.raises(ValueError, match=message):
            create_model(preset, pretrained=folder)

    def test_one_on_the_0_to_1_scale(self, painted):
        """F16."""
        preset, folder = painted
        path = folder / "scenes-tiny.palette.json"
        value = json.loads(path.read_text())
        for key in ("colors", "ignore_color"):
            rows = value[key] if key == "colors" else [value[key]]
            rows = [[v / 255 for v in row] for row in rows]
            value[key] = rows if key == "colors" else rows[0]
        path.write_text(json.dumps(value))
        with pytest.raises(ValueError, match="seem to be on the 0–1 scale"):
            create_model(preset, pretrained=folder)


class TestValues:
    """F13: weights that are no numbers."""

    @pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
    @pytest.mark.parametrize("stage", ["vqvae", "prior"])
    def test_values_that_are_not_finite(self, run, stage, value):
        path = run / f"scenes-tiny.{stage}.safetensors"
        tensors = load_file(path)
        name = sorted(k for k, v in tensors.items() if v.is_floating_point())[-1]
        tensors[name].view(-1)[-1] = value
        save_file(tensors, path)
        with pytest.raises(ValueError, match=f"{stage}.* holds values in {name} that are not fini"):
            create_model(PRESET, pretrained=run)

    @pytest.mark.parametrize("kind", [torch.int8, torch.int64, torch.bool])
    def test_whole_numbers_where_floats_belong(self, run, kind):
        tensors = load_file(run / PRIOR)
        name = "to_tokens.weight"
        tensors[name] = tensors[name].to(kind)
        save_file(tensors, run / PRIOR)
        with pytest.raises(ValueError, match=f"to_tokens.weight of {kind} instead of torch.float"):
            create_model(PRESET, pretrained=run)

    @pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
    def test_other_floats_are_read(self, run, kind):
        path = run / PRIOR
        rests_on = {"rests_on": json.dumps(what_it_rests_on(path))}
        tensors = load_file(path)
        save_file(
            {k: v.to(kind) if v.is_floating_point() else v for k, v in tensors.items()},
            path,
            rests_on,
        )
        assert create_model(PRESET, pretrained=run).prior.to_tokens.weight.dtype == torch.float32

    def test_a_file_of_random_bytes(self, run):
        (run / PRIOR).write_bytes(bytes(range(256)) * 40)
        with pytest.raises(ValueError, match="damaged or cut short"):
            create_model(PRESET, pretrained=run)

    def test_a_folder_in_place_of_the_file(self, run):
        (run / PRIOR).unlink()
        (run / PRIOR).mkdir()
        with pytest.raises((ValueError, OSError)):
            create_model(PRESET, pretrained=run)


class TestShipped:
    def test_weights_are_small_and_have_cards(self):
        files = sorted(SHIPPED.glob("*.safetensors"))
        names = {f.name for f in files}
        for preset in ("scenes-cpu", "camvid"):
            assert {f"{preset}.{s}.safetensors" for s in ("vqvae", "prior")} <= names
        assert sum(f.stat().st_size for f in files) <= 40e6
        for file in files:
            card = json.loads(file.with_suffix(".json").read_text())
            assert card["bytes"] == file.stat().st_size
            assert card["command"].startswith("python -m gss_lite train")

    @pytest.mark.parametrize(
        "path",
        sorted(p for s in ("vqvae", "prior", "uvim-*") for p in SHIPPED.glob(f"*.{s}.json")),
        ids=lambda p: p.stem,
    )
    def test_they_were_trained_by_the_presets_schedule(self, path):
        name, stage = path.stem.split(".")
        card = json.loads(path.read_text())
        schedule = get_preset(name).schedule(stage.removesuffix("-ar"))  # one for both decodings
        # for fields that the card is too old to have, and for words that were other ones then
        default = {f.name: f.default for f in fields(Schedule) if f.default is not MISSING}
        said = {**default, **card["schedule"]}
        said |= {k: None for k in ("clip", "ema") if not said[k]}
        said["target_precision"] = said.pop("targets", said["target_precision"])
        assert json.loads(json.dumps(said)) == json.loads(json.dumps(asdict(schedule)))
        assert card["steps"] == schedule.steps and card["preset"] == name

    @pytest.mark.parametrize("name", ["scenes-cpu", "scenes-cpu-mobilenet", "camvid"])
    def test_a_prior_says_what_it_rests_on(self, name):
        palette, tokenizer = create_stage_one(name, True)
        path = SHIPPED / f"{name}.prior.safetensors"
        assert what_it_rests_on(path) == stage_one_hashes(palette, tokenizer)
        model = create_model(name, pretrained=True)
        assert weights_hash(model.tokenizer) == weights_hash(tokenizer)
        assert not model.training

    @pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.inverse-*.safetensors")))
    def test_an_inverse_says_it_too(self, path):
        name = path.name.split(".")[0]
        assert what_it_rests_on(path) == stage_one_hashes(*create_stage_one(name, True))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"preset": "nonsense"}, "no preset named 'nonsense'"),
        (
            {"preset": "scenes-tiny", "model": "pixels"},
            "must be one of gss, pixel, uvim, .*got .pixels",
        ),
        ({"preset": "generic-s4"}, "a tokenizer alone; use create_tokenizer"),
        ({"preset": "scenes-tiny", "inverse": "tf"}, "X⁻¹ must be one of ff, ft, .*got 'tf'"),
    ],
)
def test_what_cannot_be_made_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        create_model(**arguments)


def test_a_palette_that_is_not_there_says_how_to_get_it(tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match="no palette at .*--preset scenes-cpu --stage vqvae.*or pass the folder that holds it",
    ):
        create_palette("scenes-cpu", tmp_path)
