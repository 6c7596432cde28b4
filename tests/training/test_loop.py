"""What a schedule can ask of the loop, and what it says when something breaks."""

import sys
from dataclasses import replace

import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer
from torch import nn

from gss_lite.data import dataset_for
from gss_lite.data.transforms import InMemory, SeededAugmentation, train_transform
from gss_lite.factory import build_gss
from gss_lite.presets import get_preset
from gss_lite.presets.parts import Schedule
from gss_lite.prior import build_backbone
from gss_lite.storage import load_checkpoint
from gss_lite.training.loop import fit, set_checkpointing
from gss_lite.training.prior import PriorStage

RUN = {"preset": "x", "stage": "y", "seed": 0}


class Pictures(torch.utils.data.Dataset):
    """Twelve random pictures with a class id each, in place of a mask."""

    def __init__(self):
        self.values = torch.randn(12, 6, generator=torch.Generator().manual_seed(0))

    def __len__(self):
        return 12

    def __getitem__(self, item):
        return self.values[item[1]], item[1] % 3


class Line(nn.Module):
    """A linear classifier and its loss."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(6, 3)

    def forward(self, values, classes):
        loss = nn.functional.cross_entropy(self.layer(values), classes)
        return loss, {"twice": 2 * loss.detach()}


def train(folder, stage=None, dataset=None, run=RUN, schedule=None, **options):
    stage = stage or Line()
    names = {"save_every", "workers", "log_every", "validate", "validate_every", "tensorboard"}
    given = {k: options.pop(k) for k in list(options) if k in names}
    plan = replace(schedule or Schedule(8, 6, (8, 8), 0.05, warmup=0), **options)
    return stage, fit(
        stage,
        stage,
        dataset or Pictures(),
        plan,
        run=run,
        folder=folder,
        progress=False,
        **{"log_every": 1, **given},
    )


@pytest.mark.parametrize("parts", [2, 3, 6])
def test_micro_batches_make_the_step_of_the_whole_batch(tmp_path, parts):
    whole, log = train(tmp_path / "whole")
    split, log_split = train(tmp_path / "split", accumulate=parts)
    torch.testing.assert_close(split.layer.weight, whole.layer.weight)
    assert [e["step"] for e in log_split] == list(range(1, 9))
    assert [e["loss"] for e in log_split] == pytest.approx([e["loss"] for e in log], rel=1e-4)


def test_a_run_with_micro_batches_resumes_where_it_was(tmp_path):
    whole, _ = train(tmp_path / "whole", accumulate=2)

    class Stop(Exception):
        pass

    class Stopping(Line):
        calls = 0

        def forward(self, values, classes):
            Stopping.calls += 1
            if Stopping.calls == 11:  # in the middle of the sixth step
                raise Stop
            return super().forward(values, classes)

    with pytest.raises(Stop):
        train(tmp_path / "cut", Stopping(), accumulate=2, save_every=2)
    assert load_checkpoint(tmp_path / "cut" / "checkpoint.pt", RUN)["step"] == 4
    again, _ = train(tmp_path / "cut", accumulate=2, save_every=2)
    assert torch.equal(again.layer.weight, whole.layer.weight)


def test_a_batch_that_cannot_be_shared_out_is_refused(tmp_path):
    with pytest.raises(
        ValueError,
        match=r"batch of 6 cannot be shared out among 4 micro-batches on 1 process\(es\).*multiple "
        r"of 4",
    ):
        train(tmp_path, accumulate=4)


def test_the_gradient_is_clipped_to_the_norm_asked_for(tmp_path, monkeypatch):
    norms = []
    step = torch.optim.AdamW.step

    def watching(self, *args, **kwargs):
        norms.append(
            float(
                torch.cat([p.grad.flatten() for g in self.param_groups for p in g["params"]]).norm()
            )
        )
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", watching)
    train(tmp_path / "free")
    free, clip = norms.copy(), sorted(norms)[4]
    norms.clear()
    train(tmp_path / "clipped", clip=clip)
    assert max(norms) == pytest.approx(clip, rel=1e-4) and norms[0] == pytest.approx(
        min(free[0], clip), rel=1e-4
    )


def test_checkpointing_gives_the_same_gradients():
    results = []
    for on in (False, True):
        torch.manual_seed(0)
        gss = build_gss(get_preset("scenes-tiny")).train()
        if on:
            set_checkpointing(gss.prior)
            assert gss.prior.backbone.grad_checkpointing
        torch.manual_seed(1)
        gss.losses(torch.randn(2, 3, 32, 32), torch.randint(11, (2, 32, 32)))[0].backward()
        results.append({n: p.grad for n, p in gss.prior.named_parameters()})
    for name, gradient in results[0].items():
        torch.testing.assert_close(results[1][name], gradient, msg=lambda m: f"{name}: {m}")  # noqa: B023


def test_checkpointing_where_it_is_not_possible(tmp_path):
    with pytest.raises(
        ValueError, match="checkpointing is not possible for Line; leave it out and set accumulate"
    ):
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
    stage, _ = train(tmp_path / "compiled", compile=True)
    assert seen == [stage]
    train(tmp_path / "plain")
    assert len(seen) == 1


def test_a_compiled_prior_makes_the_same_steps(tmp_path, monkeypatch):
    """Traced for real, and run by torch's own operations: generated code wants a C++ compiler, which not every machine has."""
    real, preset, weights = torch.compile, get_preset("scenes-tiny"), []
    monkeypatch.setattr(torch, "compile", lambda module: real(module, backend="eager"))
    data = SeededAugmentation(InMemory(dataset_for(preset, "train")), train_transform(32, 32), 0)
    for compiled in (False, True):
        torch.manual_seed(0)
        gss = build_gss(preset)
        plan = replace(preset.prior, steps=3, compile=compiled)
        fit(
            PriorStage(gss),
            gss.prior,
            data,
            plan,
            run=RUN,
            folder=tmp_path / str(compiled),
            progress=False,
        )
        weights.append(gss.prior.state_dict())
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        torch.testing.assert_close(
            weights[1][name], value, atol=1e-5, rtol=1e-4, msg=lambda m: f"{name}: {m}"
        )  # noqa: B023


def test_the_best_so_far_is_kept_beside_the_last(tmp_path):
    scores = iter([0.3, 0.7, 0.5, 0.6])
    weights = []

    def validate(learner):
        weights.append(learner.layer.weight.detach().clone())
        return next(scores)

    stage, log = train(tmp_path, validate=validate, validate_every=2, save_every=4)
    assert [(e["step"], e["score"]) for e in log if "score" in e] == [
        (2, 0.3),
        (4, 0.7),
        (6, 0.5),
        (8, 0.6),
    ]
    best = load_checkpoint(tmp_path / "best.pt", RUN)
    assert best["step"] == 4 and torch.equal(best["learner"]["layer.weight"], weights[1])
    last = load_checkpoint(tmp_path / "checkpoint.pt", RUN)
    assert (
        last["step"] == 8
        and last["best"] == {"step": 4, "score": 0.7}
        and torch.equal(last["learner"]["layer.weight"], stage.layer.weight)
    )


def test_the_average_is_what_is_validated(tmp_path):
    seen = []
    stage, _ = train(
        tmp_path,
        ema=0.9,
        validate=lambda learner: seen.append(learner.layer.weight.detach().clone()) or 0.0,
        validate_every=8,
    )
    assert torch.equal(seen[0], stage.layer.weight)  # what remains is the average too


def test_tensorboard_gets_the_log(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, log = train(tmp_path, tensorboard=True)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {"y/loss", "y/lr", "y/twice"} <= set(events.Tags()["scalars"])
    assert [(e.step, e.value) for e in events.Scalars("y/loss")] == [
        (e["step"], pytest.approx(e["loss"], rel=1e-4)) for e in log
    ]


def test_without_tensorboard_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match="pip install tensorboard"):
        train(tmp_path, tensorboard=True)


def test_out_of_memory_says_what_to_change(tmp_path):
    class Greedy(Line):
        calls = 0

        def forward(self, values, classes):
            Greedy.calls += 1
            if Greedy.calls == 4:
                raise torch.OutOfMemoryError(
                    "CUDA out of memory. Tried to allocate 20.00 MiB.\nmore"
                )
            return super().forward(values, classes)

    with pytest.raises(
        MemoryError,
        match=r"at step 4, with micro-batches of 6 crops of "
        r"8×8.*accumulate=2.*checkpointing=True.*Tried to allocate",
    ):
        train(tmp_path, Greedy(), save_every=1)
    assert load_checkpoint(tmp_path / "checkpoint.pt", RUN)["step"] == 3


def test_so_does_the_machines_memory(tmp_path):
    class Greedy(Line):
        def forward(self, values, classes):
            torch.empty(1 << 60)  # an exabyte
            return super().forward(values, classes)

    with pytest.raises(
        MemoryError, match=r"the machine ran out of memory at step 1, .*accumulate=2"
    ):
        train(tmp_path, Greedy())


class _Poisoned(torch.autograd.Function):
    """The identity, with a gradient of NaN."""

    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * float("nan")


@pytest.mark.parametrize("step", [4, 8])
@pytest.mark.parametrize("ema, clip", [(0.0, 0.0), (0.9, 0.0), (0.9, 1.0)])
def test_a_gradient_that_is_not_finite_never_reaches_weights_average_or_checkpoint(
    tmp_path, step, ema, clip
):
    """The loss itself is finite, and the step would be saved; the eighth is the last one."""

    class Unlucky(Line):
        calls = 0

        def forward(self, values, classes):
            loss, scalars = super().forward(values, classes)
            self.calls += 1
            return (_Poisoned.apply(loss) if self.calls == step else loss), scalars

    stage = Unlucky()
    with pytest.raises(
        FloatingPointError,
        match=rf"the gradient became nan at step {step}, with a finite loss; .*is intact",
    ):
        train(tmp_path, stage, save_every=1, ema=ema, clip=clip)
    assert bool(torch.isfinite(stage.layer.weight).all())
    state = load_checkpoint(tmp_path / "checkpoint.pt", RUN)
    assert state["step"] == step - 1
    assert all(
        bool(torch.isfinite(v).all())
        for part in ("learner", "average")
        for v in state.get(part, {}).values()
    )


def test_fp16_that_skips_every_step_ends_with_a_message(tmp_path, monkeypatch):
    """fp16 wants a GPU; what its optimizer says of a step is put in its place: three good steps, and then none."""
    steps = iter([False] * 3 + [True] * 100)
    monkeypatch.setattr(
        AcceleratedOptimizer, "step_was_skipped", property(lambda self: next(steps))
    )
    with pytest.raises(
        FloatingPointError,
        match=r"NaN or infinite in the last 50 steps, up to step 53, .*In a new folder, "
        r".*--precision bf16",
    ):
        train(tmp_path, Line(), steps=60, save_every=10)
    assert load_checkpoint(tmp_path / "checkpoint.pt", RUN)["step"] == 50


def test_a_step_that_was_not_skipped_begins_the_count_again(tmp_path, monkeypatch):
    skipped = iter(([True] * 49 + [False]) * 2)
    monkeypatch.setattr(
        AcceleratedOptimizer, "step_was_skipped", property(lambda self: next(skipped))
    )
    assert train(tmp_path, Line(), steps=100)[1][-1]["step"] == 100


def test_a_lost_worker_says_what_to_change_and_the_run_can_go_on(tmp_path):
    """Raised as torch raises it, whose signal handler may do so at any point of the loop."""

    class Bereaved(Line):
        calls = 0

        def forward(self, values, classes):
            Bereaved.calls += 1
            if Bereaved.calls == 6:
                raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
            return super().forward(values, classes)

    with pytest.raises(
        ChildProcessError, match=r"process that loads data died.*--workers, now 0.*is intact"
    ):
        train(tmp_path, Bereaved(), save_every=1)
    assert load_checkpoint(tmp_path / "checkpoint.pt", RUN)["step"] == 5
    resumed, _ = train(tmp_path, save_every=1)
    whole, _ = train(tmp_path / "whole")
    assert torch.equal(resumed.layer.weight, whole.layer.weight)


def test_bfloat16_and_float32_begin_alike_and_learn_alike(tmp_path):
    """Over 60 steps they stay within a tenth of what either has learned, far closer than two seeds are."""
    preset, losses = get_preset("scenes-tiny"), {}
    data = SeededAugmentation(InMemory(dataset_for(preset, "train")), train_transform(32, 32), 0)
    for precision in ("no", "bf16"):
        torch.manual_seed(0)
        gss = build_gss(preset)
        plan = replace(preset.prior, precision=precision, steps=60, batch=8)
        log = fit(
            PriorStage(gss),
            gss.prior,
            data,
            plan,
            run=RUN,
            folder=tmp_path / precision,
            progress=False,
            log_every=1,
        )
        losses[precision] = [e["loss"] for e in log]
    assert losses["bf16"][0] == pytest.approx(losses["no"][0], rel=2e-3)
    learned = losses["no"][0] - sum(losses["no"][-5:]) / 5
    apart = [abs(a - b) for a, b in zip(losses["no"], losses["bf16"])]
    assert learned > 0.5 and 0 < max(apart) < 0.1 * learned
