"""What goes wrong for real: a data process killed, a class never shown, nothing labelled. Simulated errors: test_training_loop.py."""

import multiprocessing
import os
import signal
import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset, get_worker_info

from gss_lite.baselines.pixel import PixelTwin, build_twin
from gss_lite.data.transforms import ClassShareCrop
from gss_lite.factory import build_gss
from gss_lite.presets import get_preset
from gss_lite.presets.parts import Schedule
from gss_lite.storage import load_checkpoint
from gss_lite.training.checks import ClassWatch, check_labelled, workers_explained
from gss_lite.training.loop import fit

RUN = {"preset": "x", "stage": "y", "seed": 0}
PLAN = Schedule(60, 4, (8, 8), 0.05, warmup=0)


class Pictures(torch.utils.data.Dataset):
    """Sixteen random pictures with a class id each; `killer`: the draw in which the process that reads it is killed."""

    def __init__(self, killer=None):
        self.values, self.killer = (
            torch.randn(16, 6, generator=torch.Generator().manual_seed(0)),
            killer,
        )

    def __len__(self):
        return 16

    def __getitem__(self, item):
        if item[0] == self.killer and get_worker_info():
            os.kill(os.getpid(), signal.SIGKILL)
        return self.values[item[1]], item[1] % 3


class Line(nn.Module):
    """A linear classifier; `before` is called with the number of the step."""

    def __init__(self, before=lambda step: None):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.before, self.calls = nn.Linear(6, 3), before, 0

    def forward(self, values, classes):
        self.calls += 1
        self.before(self.calls)
        return nn.functional.cross_entropy(self.layer(values), classes), {}


def train(folder, stage=None, dataset=None, **options):
    stage = stage or Line()
    log = fit(
        stage,
        stage,
        dataset or Pictures(),
        PLAN,
        run=RUN,
        folder=folder,
        progress=False,
        **{"save_every": 1, "workers": 2, **options},
    )
    return stage.layer.weight.detach(), log


def kill_one(step):
    """As the kernel does when memory runs out: at once, from outside, a process that is alive."""
    if step == 8:
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return train(tmp_path_factory.mktemp("whole"), workers=0, save_every=60)[0]


@pytest.mark.parametrize("way", ["while it reads a picture", "from outside"])
def test_a_killed_data_process_is_explained_and_the_run_goes_on_from_its_checkpoint(
    tmp_path, uninterrupted, way
):
    stage, pictures = (
        (Line(), Pictures(killer=30 * 4 + 1))
        if way == "while it reads a picture"
        else (Line(kill_one), Pictures())
    )
    with pytest.raises(
        ChildProcessError,
        match=r"process that loads data died \(DataLoader worker.*--workers, now 2.*is intact",
    ) as caught:
        train(tmp_path, stage, pictures)
    assert str(tmp_path / "checkpoint.pt") in str(caught.value)
    reached = load_checkpoint(tmp_path / "checkpoint.pt", RUN)["step"]
    # and no process of the loader is left behind
    assert 7 <= reached < 31 and not multiprocessing.active_children()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint.pt"]
    torch.testing.assert_close(train(tmp_path, workers=0)[0], uninterrupted, rtol=0, atol=0)


def test_its_death_is_found_behind_the_error_it_led_to(tmp_path):
    def save():
        try:
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
        finally:
            raise OSError("the file was closed in the middle")  # noqa: B012

    with (
        pytest.raises(
            ChildProcessError,
            match=r"died \(DataLoader worker \(pid 7\) is killed by signal: Killed\.\)",
        ),
        workers_explained((i for i in range(2)), 2, tmp_path),
    ):
        save()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_the_data_set_is_left_as_it_is(tmp_path, workers):
    class Broken(Pictures):
        def __getitem__(self, item):
            raise RuntimeError("no such picture")

    with pytest.raises(RuntimeError, match="no such picture"):
        train(tmp_path, dataset=Broken(), workers=workers)


def test_classes_that_no_pixel_showed_are_named_after_an_epoch(tmp_path):
    names = ("Sky", "Road", "Pole", "Car", "Bicyclist")
    with pytest.warns(
        UserWarning, match=r"^no pixel of Car, Bicyclist in the 16 crops trained on so far"
    ) as caught:
        _, log = train(tmp_path, workers=0, save_every=2, classes=names)
    assert len(caught) == 1 and len(log) == 6
    assert load_checkpoint(tmp_path / "checkpoint.pt", RUN)["seen"] == [
        True,
        True,
        True,
        False,
        False,
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(tmp_path / "other", workers=0, classes=names[:3])


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


def losses_of(model: nn.Module, image, mask):
    loss, scalars = model.losses(image, mask)
    loss.backward()
    network = model.network if isinstance(model, PixelTwin) else model.prior
    return loss, scalars, [p.grad for p in network.parameters() if p.grad is not None]


@pytest.mark.parametrize("build", [build_gss, build_twin])
def test_a_crop_without_a_label_costs_nothing_and_teaches_nothing(build):
    torch.manual_seed(0)
    model = build(get_preset("scenes-tiny")).train()
    loss, scalars, gradients = losses_of(
        model, torch.randn(2, 3, 32, 32), torch.full((2, 32, 32), 255)
    )
    assert (
        loss == 0
        and scalars["pixel"] == 0
        and gradients
        and all(bool((g == 0).all()) for g in gradients)
    )


def test_beside_a_labelled_crop_an_empty_one_changes_nothing_but_batch_norm():
    """In eval mode the batch's statistics play no part, so the loss is that of the labelled crop alone."""
    torch.manual_seed(0)
    gss = build_gss(get_preset("scenes-tiny")).eval()
    image, mask = torch.randn(2, 3, 32, 32), torch.randint(11, (2, 32, 32))
    mask[1] = 255
    both, _ = gss.losses(image, mask)
    alone, _ = gss.losses(image[:1], mask[:1])
    torch.testing.assert_close(both, alone)


def test_an_accuracy_over_nothing_is_left_out_of_the_log(tmp_path):
    class Blind(Line):
        def forward(self, values, classes):
            loss, _ = super().forward(values, classes)
            return loss, {
                "accuracy": torch.tensor(float("nan")) if self.calls == 10 else torch.tensor(0.5)
            }

    _, log = train(tmp_path, Blind(), workers=0, save_every=60)
    assert [e.get("accuracy") for e in log] == [None, 0.5, 0.5, 0.5, 0.5, 0.5]


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
    assert part.shape == (40, 8)  # and where all of it is unlabelled, the last draw is taken


def test_a_data_set_without_any_label_is_refused_at_the_door():
    image, empty = torch.zeros(5, 3, 4, 4), torch.full((5, 4, 4), 255)
    with pytest.raises(
        ValueError,
        match=r"no pixel of the 5 training masks is labelled, all are 255.*mapped to 0…K−1",
    ):
        check_labelled(TensorDataset(image, empty))
    empty[4, 3, 3] = 7
    check_labelled(TensorDataset(image, empty))

    class First(TensorDataset):
        def __getitem__(self, index):
            assert index == 0  # one picture is read where the first is labelled
            return super().__getitem__(index)

    check_labelled(First(image, torch.zeros(5, 4, 4)))
