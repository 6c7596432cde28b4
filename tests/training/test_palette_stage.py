"""The stages palette-tf and palette-tt: what they learn, write, resume and refuse."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

import gss_lite as gss
from gss_lite.dalle import DalleDVAE
from gss_lite.palette import Palette, random_palette
from gss_lite.presets import PaletteSchedule, learned_palette
from gss_lite.training.palette import PaletteLoss, TrainedColors

QUIET = gss.LoopOptions(progress=False, save_every=2, log_every=1)


def tiny(kind: str, steps: int = 4, **changes) -> gss.Preset:
    """Scenes with few streets and short training, through the shipped tokenizer."""
    base = gss.get_preset("scenes-cpu")
    data = replace(base.data, train_pictures=8, eval_pictures=2)
    preset = learned_palette(replace(base, data=data), kind)
    return preset.with_schedule(f"palette-{kind}", steps=steps, batch=2, crop=(32, 48), **changes)


def weights(folder, kind: str) -> dict:
    return load_file(folder / f"scenes-cpu-{kind}.palette-{kind}.safetensors")


@pytest.fixture(scope="module")
def joint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tt")
    gss.train(tiny("tt"), folder, stage="palette-tt", options=QUIET)
    return folder


def test_the_presets_have_the_papers_schedule_and_are_found_by_name():
    for base in ("scenes-cpu", "camvid", "camvid-pretrained", "many-scenes-cpu", "ade20k-swin-l"):
        for kind in ("tf", "tt"):
            preset = gss.get_preset(f"{base}-{kind}")
            schedule = preset.schedule(f"palette-{kind}")
            assert (schedule.steps, schedule.batch, schedule.optimizer) == (4_000, 16, "sgd")
            assert preset.learned == kind
            same = gss.get_preset(base)
            assert preset.prior == same.prior
            assert preset.schedule("prior") == same.schedule("prior")
    with pytest.raises(ValueError, match="no preset named 'generic-s8-tx'"):
        gss.get_preset("generic-s8-tx")
    with pytest.raises(ValueError, match="generic-s8 has no palette that GSS-TF could replace"):
        gss.get_preset("generic-s8-tf")
    with pytest.raises(ValueError, match='"tf" or "tt"; got \'ff\''):
        learned_palette(gss.get_preset("camvid"), "ff")


def test_colours_outside_the_cube_are_reflected_and_keep_a_gradient():
    trained = TrainedColors(random_palette(2))
    with torch.no_grad():
        trained.free.copy_(torch.tensor([[-0.1, 0.4, 1.2], [2.3, -1.5, 1.0]]))
    expected = torch.tensor([[0.1, 0.4, 0.8], [0.3, 0.5, 1.0]])
    torch.testing.assert_close(trained.colors(), expected)
    trained.colors().sum().backward()
    assert trained.free.grad[0].tolist() == [-1, 1, -1]


@pytest.mark.slow
def test_learning_lowers_the_loss_and_the_folder_holds_a_whole_stage_one(tmp_path):
    """Thirty steps take a tenth of the loss away; the tokenizer is the shipped one."""
    preset = tiny("tf", steps=30)
    gss.train(preset, tmp_path, stage="palette-tf", options=QUIET)
    card = json.loads((tmp_path / "scenes-cpu-tf.palette-tf.json").read_text())
    losses = [entry["loss"] for entry in card["log"]]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    assert card["parameters"] == 33 and card["schedule"]["optimizer"] == "sgd"
    palette = Palette.load(tmp_path / "scenes-cpu-tf.palette.json")
    assert not palette.colors.equal(random_palette(11, 0).colors)
    again, tokenizer = gss.factory.create_stage_one(preset, tmp_path)
    assert again.colors.equal(palette.colors)
    shipped = gss.create_tokenizer("scenes-cpu", pretrained=True)
    assert all(map(torch.equal, tokenizer.state_dict().values(), shipped.state_dict().values()))


@pytest.mark.slow
def test_a_run_that_was_stopped_ends_with_the_same_bits(tmp_path, joint, monkeypatch):
    preset = tiny("tt")
    keep_middle = gss.training.loop._Trainer.keep_middle

    def killed(trainer):
        keep_middle(trainer)
        if trainer.progress.step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(gss.training.loop._Trainer, "keep_middle", killed)
        gss.train(preset, tmp_path, stage="palette-tt", options=QUIET)
    assert not (tmp_path / "scenes-cpu-tt.palette.json").exists()
    gss.train(preset, tmp_path, stage="palette-tt", options=QUIET)
    one, other = weights(joint, "tt"), weights(tmp_path, "tt")
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


@pytest.mark.slow
def test_a_prior_is_trained_on_the_learned_palette_and_tt_brings_its_inverse(joint):
    preset = tiny("tt").with_schedule("prior", steps=1, batch=2, crop=(32, 32), warmup=0)
    gss.train(preset, joint, stage="prior", options=QUIET)
    model = gss.create_model(preset, pretrained=joint, inverse="tt")
    palette = Palette.load(joint / "scenes-cpu-tt.palette.json")
    assert model.palette.colors.equal(palette.colors)
    assert model.inverse.colors.equal(palette.colors)
    assert type(model.inverse).__name__ == "ConvInverse"
    trained = weights(joint, "tt")
    assert model.inverse.to_classes.weight.equal(trained["inverse.to_classes.weight"])


def test_a_missing_palette_names_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match="--preset scenes-cpu --stage palette-tf --out"):
        gss.create_model("scenes-cpu-tf", pretrained=tmp_path)


@pytest.mark.slow
def test_the_palette_of_another_run_or_tokenizer_is_refused(joint):
    preset = tiny("tt")
    with pytest.raises(ValueError, match="palette of another run \\(seed differ\\)"):
        gss.train(preset, joint, stage="palette-tt", seed=1, options=QUIET)
    other = replace(preset, tokenizer="camvid", name=preset.name)
    with pytest.raises(ValueError, match="learned through another tokenizer"):
        gss.factory.create_stage_one(other, joint)


def test_a_palette_is_learned_through_the_dvae_too():
    """OpenAI's dVAE at toy size: β gets a gradient, and the frozen tokenizer gets none."""
    torch.manual_seed(0)
    tokenizer = DalleDVAE(vocab_size=16, width=8, code_dim=8).eval()
    start = random_palette(5)
    trained = TrainedColors(start)
    schedule = PaletteSchedule(steps=1, batch=2, crop=(32, 32), lr=0.02, optimizer="sgd")
    loss_fn = PaletteLoss(trained, tokenizer, start.ignore_color, schedule).train()
    assert not tokenizer.training
    mask = torch.randint(5, (2, 32, 32))
    loss_fn.measure_unit(mask)
    loss, _ = loss_fn(None, mask)
    loss.backward()
    assert trained.free.grad.abs().sum() > 0
    assert all(p.grad is None for p in tokenizer.parameters())


def test_the_maskige_term_is_added_with_its_weight():
    torch.manual_seed(0)
    tokenizer = gss.create_tokenizer("scenes-tiny").eval()
    start = random_palette(5)
    mask = torch.randint(5, (2, 32, 32))

    def loss_of(rebuild: float) -> tuple[float, dict]:
        schedule = PaletteSchedule(steps=1, batch=2, crop=(32, 32), lr=0.02, rebuild=rebuild)
        loss_fn = PaletteLoss(TrainedColors(start), tokenizer, start.ignore_color, schedule)
        loss_fn.measure_unit(mask)
        torch.manual_seed(1)
        loss, scalars = loss_fn(None, mask)
        return loss.item(), scalars

    plain, _ = loss_of(0.0)
    weighted, scalars = loss_of(50.0)
    assert weighted == pytest.approx(plain + 50 * scalars["rebuild"].item(), rel=1e-5)
