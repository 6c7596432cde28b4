"""The middle checkpoint of stage II, and X⁻¹ that is trained on its maskige (D.iii)."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import load_file

from gss_lite import training
from gss_lite.factory import create_model
from gss_lite.presets import get_preset
from gss_lite.storage import what_it_rests_on
from gss_lite.training import train
from gss_lite.training.loop import LoopOptions, _Trainer

TINY = get_preset("scenes-tiny")
QUIET = LoopOptions(progress=False)


@pytest.fixture(scope="module")
def with_middle(tiny_run, tmp_path_factory):
    """A prior of twelve steps that kept its weights after the third."""
    folder = tmp_path_factory.mktemp("middle")
    preset = TINY.with_schedule("prior", middle=0.25)
    train(preset, folder, stage="prior", stage_one=tiny_run, options=QUIET)
    return preset, folder


def test_the_middle_weights_are_those_of_a_run_stopped_there(with_middle, tiny_run, tmp_path):
    preset, folder = with_middle
    seen = []
    with pytest.raises(KeyboardInterrupt), fit_until(3, seen):
        train(TINY, tmp_path, stage="prior", stage_one=tiny_run, options=QUIET)
    middle = load_file(folder / "scenes-tiny.prior-middle.safetensors")
    assert all(torch.equal(tensor, seen[0][name]) for name, tensor in middle.items())
    final = load_file(folder / "scenes-tiny.prior.safetensors")
    assert any(not torch.equal(tensor, middle[name]) for name, tensor in final.items())
    said = what_it_rests_on(folder / "scenes-tiny.prior-middle.safetensors")
    assert said == what_it_rests_on(folder / "scenes-tiny.prior.safetensors")


@contextmanager
def fit_until(step, seen):
    """Stop a training after a step, and note the moving average that it would have kept."""
    real = _Trainer.report

    def report(trainer):
        real(trainer)
        if trainer.progress.step == step:
            state = trainer.average.module.state_dict()
            seen.append({name: tensor.clone() for name, tensor in state.items()})
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Trainer, "report", report)
        yield


def test_the_final_weights_are_the_same_with_and_without_a_middle(with_middle, tiny_run):
    _, folder = with_middle
    ours = load_file(folder / "scenes-tiny.prior.safetensors")
    theirs = load_file(tiny_run / "scenes-tiny.prior.safetensors")
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_an_inverse_of_middle_maskige_learns_what_the_middle_prior_predicts(
    with_middle, tmp_path, monkeypatch
):
    preset, folder = with_middle
    used = []
    real = training.train_inverse

    def look(job, kind, gss, **how):
        used.append({name: tensor.clone() for name, tensor in gss.prior.state_dict().items()})
        return real(job, kind, gss, **how)

    monkeypatch.setattr(training, "train_inverse", look)
    run = train(
        preset, tmp_path, stage="inverse-ft", maskige="middle", stage_one=folder, options=QUIET
    )
    middle = load_file(folder / "scenes-tiny.prior-middle.safetensors")
    assert all(torch.equal(tensor, used[0][name]) for name, tensor in middle.items())
    assert set(run.records) == {"inverse-ft-middle"}
    file = tmp_path / "scenes-tiny.inverse-ft-middle.safetensors"
    model = create_model(preset, pretrained=folder, inverse=file)  # with the final prior
    final = load_file(folder / "scenes-tiny.prior.safetensors")
    assert all(torch.equal(v, final[name]) for name, v in model.prior.state_dict().items())


def test_without_a_middle_there_is_nothing_to_learn_from(tiny_run, tmp_path):
    with pytest.raises(FileNotFoundError, match="no weights at .*prior-middle.safetensors"):
        train(
            TINY, tmp_path, stage="inverse-ft", maskige="middle", stage_one=tiny_run, options=QUIET
        )


@pytest.mark.parametrize("share", [0.0, 1.0, 1.5])
def test_a_middle_outside_the_run_is_refused(share):
    with pytest.raises(ValueError, match="middle is a share of the steps between 0 and 1"):
        TINY.with_schedule("prior", middle=share)
