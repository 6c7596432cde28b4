"""What a schedule and the options can ask of the loop."""

import pickle
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader
from training_toys import OPTIONS, RUN, Line, Stop, train

from gss_lite.backbones import build_backbone, set_checkpointing
from gss_lite.data import create_dataset
from gss_lite.data.transforms import InMemory, SeededAugmentation, train_transform
from gss_lite.factory import create_model
from gss_lite.presets import get_preset
from gss_lite.presets.parts import Schedule
from gss_lite.storage import load_checkpoint
from gss_lite.training import train as train_stage
from gss_lite.training.loop import fit
from gss_lite.training.optimizer import adamw, averaged, poly_with_warmup
from gss_lite.training.prior import SegmenterLoss


@pytest.fixture
def gradients(monkeypatch):
    """The gradient of all parameters at every step of AdamW."""
    seen = []
    step = torch.optim.AdamW.step

    def watching(self, *args, **kwargs):
        parameters = [p for group in self.param_groups for p in group["params"]]
        seen.append(torch.cat([p.grad.flatten() for p in parameters]))
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", watching)
    return seen


@pytest.mark.parametrize("parts", [2, 3, 6])
def test_micro_batches_make_the_step_of_the_whole_batch(tmp_path, gradients, parts):
    whole, log = train(tmp_path / "whole")
    of_whole = gradients.copy()
    gradients.clear()
    split, log_split = train(tmp_path / "split", accumulate=parts)
    torch.testing.assert_close(split.layer.weight, whole.layer.weight)
    # AdamW hardly sees the length of a gradient, so the gradients are compared themselves.
    torch.testing.assert_close(torch.stack(gradients), torch.stack(of_whole))
    assert [e["step"] for e in log_split] == list(range(1, 9))
    assert [e["loss"] for e in log_split] == pytest.approx([e["loss"] for e in log], rel=1e-4)


def test_dropout_draws_other_numbers_in_every_micro_batch_and_for_every_seed(tmp_path):
    """And the same ones when the run is repeated."""

    class Drawing(Line):
        def forward(self, values, classes):
            draws.append(float(torch.rand(())))
            return super().forward(values, classes)

    runs = []
    for name in ("first", "again"):
        draws = []
        train(tmp_path / name, Drawing(), accumulate=2)
        runs.append(draws)
    assert len(set(runs[0])) == 16 and runs[0] == runs[1]


def test_the_gradient_is_clipped_to_the_norm_asked_for(tmp_path, gradients):
    train(tmp_path / "free")
    free = [float(gradient.norm()) for gradient in gradients]
    clip = sorted(free)[4]
    gradients.clear()
    train(tmp_path / "clipped", clip=clip)
    clipped = [float(gradient.norm()) for gradient in gradients]
    assert max(clipped) == pytest.approx(clip, rel=1e-4)
    assert clipped[0] == pytest.approx(min(free[0], clip), rel=1e-4)


def test_the_schedule_warms_up_then_decays_to_zero():
    schedule = Schedule(steps=100, batch=1, crop=(8, 8), lr=1.0, warmup=10)
    factors = [poly_with_warmup(step, schedule) for step in range(101)]
    assert factors[0] == pytest.approx(1e-6) and factors[100] == 0
    assert factors[50] == pytest.approx(0.5)
    assert max(factors) == factors[10] == pytest.approx(0.9)


def test_the_log_says_which_learning_rate_a_step_had(tmp_path):
    _, log = train(tmp_path, warmup=2)
    schedule = replace(Schedule(8, 6, (8, 8), 0.05), warmup=2)
    expected = [0.05 * poly_with_warmup(step, schedule) for step in range(8)]
    assert [e["lr"] for e in log] == pytest.approx(expected, rel=1e-4)


def test_no_weight_decay_on_norms_and_relative_positions():
    gss = create_model("scenes-tiny")
    optimizer = adamw(gss.prior, get_preset("scenes-cpu").schedule("prior"))
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.05, 0]
    decayed, free = ({id(p) for p in group["params"]} for group in optimizer.param_groups)
    named = {name: id(p) for name, p in gss.prior.named_parameters()}
    assert named["to_tokens.weight"] in decayed
    assert named["blocks.0.attn.qkv.weight"] in decayed
    assert named["norm.weight"] in free
    assert named["blocks.0.attn.relative_position_bias_table"] in free
    assert len(decayed) + len(free) == len(named)


def test_checkpointing_gives_the_same_gradients():
    results = []
    for on in (False, True):
        torch.manual_seed(0)
        gss = create_model("scenes-tiny").train()
        if on:
            set_checkpointing(gss.prior)
            assert gss.prior.backbone.grad_checkpointing
        torch.manual_seed(1)
        gss.losses(torch.randn(2, 3, 32, 32), torch.randint(11, (2, 32, 32)))[0].backward()
        results.append({name: p.grad for name, p in gss.prior.named_parameters()})
    torch.testing.assert_close(results[1], results[0])


def test_checkpointing_where_it_is_not_possible(tmp_path):
    said = "checkpointing is not possible for Line; leave it out and set accumulate"
    with pytest.raises(ValueError, match=said):
        train(tmp_path, checkpointing=True)
    holder = nn.Module()
    holder.backbone = build_backbone(
        "hrnet_w18_small", feature_location="", out_indices=(1, 2, 3, 4)
    )
    with pytest.raises(ValueError, match="not possible for HighResolutionNetFeatures"):
        set_checkpointing(holder)


def test_compile_is_asked_of_torch(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(torch, "compile", lambda module: seen.append(module) or module)
    loss_fn, _ = train(tmp_path / "compiled", compile=True)
    assert seen == [loss_fn]
    train(tmp_path / "plain")
    assert len(seen) == 1


def train_tiny_prior(folder, **changes):
    """The preset's prior, from the same weights every time → (GSS, log)."""
    preset = get_preset("scenes-tiny")
    data = SeededAugmentation(
        InMemory(create_dataset(preset, "train", transform=None)), train_transform(32, 32), 0
    )
    torch.manual_seed(0)
    gss = create_model(preset)
    schedule = replace(preset.schedule("prior"), **changes)
    log = fit(
        SegmenterLoss(gss), gss.prior, data, schedule, run=RUN, folder=folder, options=OPTIONS
    )
    return gss, log


@pytest.mark.slow
def test_a_compiled_prior_makes_the_same_steps(tmp_path, monkeypatch):
    """Traced for real, and run by torch's own operations.

    Generated code wants a C++ compiler, which not every machine has.
    """
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module: real(module, backend="eager"))
    compiled, plain = (
        train_tiny_prior(tmp_path / str(on), steps=3, compile=on)[0] for on in (True, False)
    )
    torch.testing.assert_close(
        compiled.prior.state_dict(), plain.prior.state_dict(), atol=1e-5, rtol=1e-4
    )


@pytest.mark.slow
def test_bfloat16_and_float32_begin_alike_and_learn_alike(tmp_path):
    """Over 60 steps they stay within a tenth of what either learned, closer than two seeds."""
    losses = []
    for precision in ("no", "bf16"):
        _, log = train_tiny_prior(tmp_path / precision, precision=precision, steps=60, batch=8)
        losses.append([e["loss"] for e in log])
    full, half = losses
    assert half[0] == pytest.approx(full[0], rel=2e-3)
    learned = full[0] - sum(full[-5:]) / 5
    apart = [abs(a - b) for a, b in zip(full, half)]
    assert learned > 0.5 and 0 < max(apart) < 0.1 * learned


def test_the_best_so_far_is_kept_beside_the_last(tmp_path):
    scores = iter([0.3, 0.7, 0.5, 0.6])
    weights = []

    def validate(model):
        weights.append(model.layer.weight.detach().clone())
        return next(scores)

    loss_fn, log = train(tmp_path, validate=validate, validate_every=2, save_every=4)
    scored = [(e["step"], e["score"]) for e in log if "score" in e]
    assert scored == [(2, 0.3), (4, 0.7), (6, 0.5), (8, 0.6)]
    best = load_checkpoint(tmp_path / "best.pt", RUN)
    assert best["step"] == 4
    assert torch.equal(best["model"]["layer.weight"], weights[1])
    last = load_checkpoint(tmp_path / "checkpoint.pt", RUN)
    assert last["step"] == 8 and last["best"] == {"step": 4, "score": 0.7}
    assert torch.equal(last["model"]["layer.weight"], loss_fn.layer.weight)


def test_after_validation_the_model_trains_on(tmp_path):
    """Validation puts it into eval mode, in which dropout would rest."""
    modes = []

    def validate(model):
        model.eval()
        return 0.0

    line = Line(before=lambda number: modes.append(line.training), dropout=0.5)
    train(tmp_path, line, validate=validate, validate_every=1)
    assert modes == [True] * 8


def test_the_average_is_what_is_validated(tmp_path):
    seen = []

    def validate(model):
        seen.append(model.layer.weight.detach().clone())
        return 0.0

    loss_fn, _ = train(tmp_path, ema=0.9, validate=validate, validate_every=8)
    assert torch.equal(seen[0], loss_fn.layer.weight)  # what remains is the average too
    plain, _ = train(tmp_path / "plain")
    assert not torch.equal(plain.layer.weight, loss_fn.layer.weight)


def test_an_accuracy_over_nothing_is_left_out_of_the_log(tmp_path):
    class Blind(Line):
        def forward(self, values, classes):
            loss, _ = super().forward(values, classes)
            accuracy = float("nan") if self.calls == 2 else 0.5
            return loss, {"accuracy": torch.tensor(accuracy)}

    _, log = train(tmp_path, Blind())
    assert [e.get("accuracy") for e in log] == [0.5, None, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]


def test_tensorboard_gets_the_log(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, log = train(tmp_path, tensorboard=True)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {"y/loss", "y/lr", "y/twice"} <= set(events.Tags()["scalars"])
    written = [(e.step, e.value) for e in events.Scalars("y/loss")]
    assert written == [(e["step"], pytest.approx(e["loss"], rel=1e-4)) for e in log]


def test_without_tensorboard_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match="pip install tensorboard"):
        train(tmp_path, tensorboard=True)


def test_a_batch_that_cannot_be_shared_out_is_refused(tmp_path):
    said = (
        r"batch of 6 cannot be shared out among 4 micro-batches on 1 process\(es\); choose a "
        r"batch that is a multiple of 4"
    )
    with pytest.raises(ValueError, match=said):
        train(tmp_path, accumulate=4)


@pytest.mark.parametrize("stage", ["vqvae", "prior", "inverse-ft"])
def test_the_data_of_every_stage_can_be_handed_to_spawned_processes(
    tiny_run, tmp_path, monkeypatch, stage
):
    """Where processes are not forked (macOS, Windows, Python 3.14), their data are pickled."""

    class Spawning(DataLoader):
        def __init__(self, dataset, **options):
            super().__init__(dataset, **options)
            again = pickle.loads(pickle.dumps((self.dataset, self.collate_fn)))[0]
            torch.testing.assert_close(again[(5, 1)], dataset[(5, 1)])
            raise Stop

    monkeypatch.setattr("gss_lite.training.loop.DataLoader", Spawning)
    with pytest.raises(Stop):
        source = None if stage == "vqvae" else tiny_run
        train_stage("scenes-tiny", tmp_path, stage=stage, stage_one=source)


def test_the_averages_decay_warms_up():
    """After n updates it is at most (1 + n) / (10 + n), so the start is soon forgotten."""
    layer = torch.nn.Linear(1, 1, bias=False)
    average = averaged(layer, Schedule(steps=9, batch=1, crop=(1, 1), lr=1.0, ema=0.25))
    expected = None
    for count, value in enumerate([7.0, 3.0, -2.0, 5.0, 1.0]):
        torch.nn.init.constant_(layer.weight, value)
        average.update_parameters(layer)
        decay = min(0.25, (1 + count) / (10 + count))
        expected = value if expected is None else decay * expected + (1 - decay) * value
        assert float(average.module.weight) == pytest.approx(expected, abs=1e-6)
