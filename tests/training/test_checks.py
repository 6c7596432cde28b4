"""What goes wrong in training: what is said, and what is intact."""

import gc
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import warnings

import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer
from torch.utils.data import TensorDataset
from training_toys import RUN, Line, Pictures, Stop, stop_at, train

from gss_lite.baselines.pixel import PixelTwin
from gss_lite.data.transforms import ClassShareCrop
from gss_lite.factory import create_model
from gss_lite.storage import load_checkpoint
from gss_lite.training.checks import ClassWatch, check_labelled


def reached(folder) -> int:
    """The step of the last checkpoint."""
    return load_checkpoint(folder / "checkpoint.pt", RUN)["step"]


def test_whatever_ends_a_run_says_that_the_checkpoint_is_intact(tmp_path):
    with pytest.raises(Stop) as caught:
        train(tmp_path, Line(stop_at(3)))
    assert caught.value.__notes__ == [f"No checkpoint had been saved in {tmp_path} yet."]
    with pytest.raises(Stop) as caught:
        train(tmp_path, Line(stop_at(3)), save_every=1)
    assert caught.value.__notes__ == [
        f"The last checkpoint, {tmp_path / 'checkpoint.pt'}, is intact: the same command goes on "
        "from it."
    ]
    assert reached(tmp_path) == 2


def interrupted(number: int) -> None:
    if number == 3:
        raise KeyboardInterrupt


def test_so_does_a_person_who_interrupts_it(tmp_path):
    with pytest.raises(KeyboardInterrupt) as caught:
        train(tmp_path, Line(interrupted), save_every=1)
    assert "the same command goes on from it" in caught.value.__notes__[0]


class Diverging(Line):
    """Its loss is finite for three steps, then NaN."""

    def forward(self, values, classes):
        loss, scalars = super().forward(values, classes)
        return loss * (float("nan") if self.calls > 3 else 1.0), scalars


def test_a_loss_that_is_not_finite_stops_with_the_checkpoint_intact(tmp_path):
    said = r"(?s)the loss became nan at step 4; lower the learning rate \(now 0.05\).*is intact"
    with pytest.raises(FloatingPointError, match=said):
        train(tmp_path, Diverging(), save_every=2)
    assert reached(tmp_path) == 2


class _Poisoned(torch.autograd.Function):
    """The identity, with a gradient of NaN."""

    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * float("nan")


@pytest.mark.parametrize("step", [4, 8])
@pytest.mark.parametrize("ema, clip", [(None, None), (0.9, None), (0.9, 1.0)])
def test_a_gradient_that_is_not_finite_never_reaches_weights_average_or_checkpoint(
    tmp_path, step, ema, clip
):
    """The loss itself is finite, and the step would be saved; the eighth is the last one."""

    class Unlucky(Line):
        def forward(self, values, classes):
            loss, scalars = super().forward(values, classes)
            return (_Poisoned.apply(loss) if self.calls == step else loss), scalars

    line = Unlucky()
    said = rf"(?s)the gradient, with a finite loss, became nan at step {step}; .*is intact"
    with pytest.raises(FloatingPointError, match=said):
        train(tmp_path, line, save_every=1, ema=ema, clip=clip)
    assert bool(torch.isfinite(line.layer.weight).all())
    state = load_checkpoint(tmp_path / "checkpoint.pt", RUN)
    assert state["step"] == step - 1
    for part in ("model", "average"):
        for value in state.get(part, {}).values():
            assert bool(torch.isfinite(value).all())


def test_fp16_that_skips_every_step_ends_with_a_message(tmp_path, monkeypatch):
    """fp16 wants a GPU, so what its optimizer says of a step is put in its place.

    Three steps are good, and then none.
    """
    steps = iter([False] * 3 + [True] * 100)
    skipped = property(lambda self: next(steps))
    monkeypatch.setattr(AcceleratedOptimizer, "step_was_skipped", skipped)
    said = (
        r"NaN or infinite in the last 50 steps, up to step 53, .*In a new folder, .*"
        r"--precision bf16"
    )
    with pytest.raises(FloatingPointError, match=said):
        train(tmp_path, steps=60, save_every=10)
    assert reached(tmp_path) == 50


def test_a_step_that_was_not_skipped_begins_the_count_again(tmp_path, monkeypatch):
    steps = iter(([True] * 49 + [False]) * 2)
    skipped = property(lambda self: next(steps))
    monkeypatch.setattr(AcceleratedOptimizer, "step_was_skipped", skipped)
    assert train(tmp_path, steps=100)[1][-1]["step"] == 100


def ask_for_too_much_of_a_gpu(number: int) -> None:
    if number == 4:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nmore")


def test_out_of_memory_says_what_to_change(tmp_path):
    said = (
        r"(?s)the GPU ran out of memory at step 4, with micro-batches of 6 crops of 8×8.*"
        r"accumulate=2.*checkpointing=True.*bf16.*Tried to allocate 20.00 MiB.\).*is intact"
    )
    with pytest.raises(MemoryError, match=said):
        train(tmp_path, Line(ask_for_too_much_of_a_gpu), save_every=1)
    assert reached(tmp_path) == 3


def an_exabyte(number: int) -> None:
    torch.empty(1 << 60)


def numpys_exabyte(number: int) -> None:
    import numpy

    numpy.empty(1 << 60, dtype=numpy.uint8)


@pytest.mark.parametrize("greed", [an_exabyte, numpys_exabyte])
def test_so_does_the_machines_memory(tmp_path, greed):
    said = r"the machine ran out of memory at step 1, .*accumulate=2"
    with pytest.raises(MemoryError, match=said):
        train(tmp_path, Line(greed))


def small_files(number: int) -> None:
    """From the fourth step on no file can grow beyond 2 kB, as on a full disk."""
    if number == 4:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2048, resource.RLIM_INFINITY))


@pytest.mark.skipif(sys.platform == "win32", reason="limits of resources are Unix's")
def test_a_full_disk_says_what_is_intact_and_leaves_nothing_half_written(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.getsignal(signal.SIGXFSZ)
    said = r"(?s)checkpoint.pt could not be written.*Make room.*checkpoint.pt, is intact"
    try:
        with pytest.raises(OSError, match=said):
            train(tmp_path, Line(small_files), save_every=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert reached(tmp_path) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]
    whole, _ = train(tmp_path / "whole")
    resumed, _ = train(tmp_path)
    assert torch.equal(resumed.layer.weight, whole.layer.weight)


def kill_one(number: int) -> None:
    """As the kernel does when memory runs out: from outside, at once, a living process."""
    if number == 4:
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize(
    "line, pictures",
    [(Line(), Pictures(killer=5 * 6 + 1)), (Line(kill_one), Pictures())],
    ids=["while it reads a picture", "from outside"],
)
def test_after_a_killed_data_process_the_run_goes_on_from_its_checkpoint(tmp_path, line, pictures):
    said = r"(?s)DataLoader worker.*ran out of memory.*--workers, now 2.*is intact"
    # The pictures of the steps ahead have been read already, so there have to be many steps.
    with pytest.raises((RuntimeError, OSError, EOFError), match=said):
        train(tmp_path, line, pictures, save_every=1, workers=2, steps=30)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pt"]
    assert 1 <= reached(tmp_path) < 30
    # Once the error is forgotten its other processes end, and torch's signal handler, which
    # noticed the death, keeps quiet when other child processes end.
    gc.collect()
    assert not multiprocessing.active_children()
    for _ in range(3):
        subprocess.run(["true"], check=True)
    resumed, _ = train(tmp_path, steps=30)
    whole, _ = train(tmp_path / "whole", steps=30)
    assert torch.equal(resumed.layer.weight, whole.layer.weight)


# Torch waits five seconds for a process that has raised an error.
@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_an_error_of_the_data_set_keeps_its_words(tmp_path, workers):
    class Broken(Pictures):
        def __getitem__(self, item):
            raise RuntimeError("no such picture")

    with pytest.raises(RuntimeError, match="no such picture"):
        train(tmp_path, dataset=Broken(), workers=workers)


def test_classes_that_no_pixel_showed_are_named_after_an_epoch(tmp_path):
    names = ("Sky", "Road", "Pole", "Car", "Bicyclist")
    said = r"^no pixel of Car, Bicyclist in the 12 crops trained on so far"
    with pytest.warns(UserWarning, match=said) as caught:
        _, log = train(tmp_path, save_every=2, classes=names)
    assert len(caught) == 1 and len(log) == 8
    seen = load_checkpoint(tmp_path / "checkpoint.pt", RUN)["seen"]
    assert seen == [True, True, True, False, False]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(tmp_path / "other", classes=names[:3])


def test_what_an_interrupted_run_has_seen_is_not_forgotten():
    first = ClassWatch(("a", "b", "c"))
    first.look(torch.tensor([[0, 255], [0, 0]]))
    second = ClassWatch(("a", "b", "c"), first.seen.tolist())
    second.look(torch.tensor([2]))
    with pytest.warns(UserWarning, match="^no pixel of b in the 8 crops"):
        second.warn(8)
    with pytest.warns(UserWarning, match="^no pixel of a, b in"):
        late = ClassWatch(("a", "b", "c"))
        late.look(torch.tensor([2]))
        late.warn(4)


@pytest.mark.parametrize("kind", ["gss", "pixel"])
def test_a_crop_without_a_label_costs_nothing_and_teaches_nothing(kind):
    model = create_model("scenes-tiny", model=kind).train()
    loss, scalars = model.losses(torch.randn(2, 3, 32, 32), torch.full((2, 32, 32), 255))
    loss.backward()
    network = model.network if isinstance(model, PixelTwin) else model.prior
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert loss == 0 and scalars["pixel"] == 0 and gradients
    assert all(bool((gradient == 0).all()) for gradient in gradients)


def test_beside_a_labelled_crop_an_empty_one_changes_nothing_but_batch_norm():
    """In eval mode the batch's statistics play no part: the loss is the labelled crop's alone."""
    gss = create_model("scenes-tiny").eval()
    image = torch.randn(2, 3, 32, 32)
    mask = torch.randint(11, (2, 32, 32))
    mask[1] = 255
    both, _ = gss.losses(image, mask)
    alone, _ = gss.losses(image[:1], mask[:1])
    torch.testing.assert_close(both, alone)


def test_a_crop_is_drawn_again_where_nothing_is_labelled():
    mask = torch.full((40, 40), 255)
    mask[:, 20:] = torch.arange(20) % 4
    empty = 0
    for seed in range(40):
        torch.manual_seed(seed)
        _, part = ClassShareCrop(40, 8)(torch.zeros(3, 40, 40), mask)
        empty += bool((part == 255).all())
    assert empty == 0  # 13 of 33 places are empty: ten draws in a row fail once in 11,000
    _, part = ClassShareCrop(40, 8)(torch.zeros(3, 40, 40), torch.full((40, 40), 255))
    assert part.shape == (40, 8)  # where all of it is unlabelled, the last draw is taken


def test_a_data_set_without_any_label_is_refused_at_the_door():
    image = torch.zeros(5, 3, 4, 4)
    empty = torch.full((5, 4, 4), 255)
    said = r"no pixel of the 5 training masks is labelled, all are 255.*mapped to 0…K−1"
    with pytest.raises(ValueError, match=said):
        check_labelled(TensorDataset(image, empty))
    empty[4, 3, 3] = 7
    check_labelled(TensorDataset(image, empty))

    class First(TensorDataset):
        def __getitem__(self, index):
            assert index == 0  # one picture is read where the first is labelled
            return super().__getitem__(index)

    check_labelled(First(image, torch.zeros(5, 4, 4)))
