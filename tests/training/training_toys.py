"""What the tests of the loop train: a line through random numbers, in milliseconds."""

import os
import signal
from dataclasses import fields, replace
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset, get_worker_info

from gss_lite.presets.parts import Schedule
from gss_lite.training.loop import LoopOptions, fit

RUN = {"preset": "x", "stage": "y", "seed": 0}
PLAN = Schedule(8, 6, (8, 8), 0.05, warmup=0)
OPTIONS = LoopOptions(log_every=1, progress=False)


class Pictures(Dataset):
    """Random pictures with a class id each, in place of a mask.

    Args:
        killer: the draw in which the process that reads it is killed.
    """

    def __init__(self, count: int = 12, killer: int | None = None) -> None:
        self.values = torch.randn(count, 6, generator=torch.Generator().manual_seed(0))
        self.killer = killer

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, item):
        draw, index = item
        if draw == self.killer and get_worker_info():
            os.kill(os.getpid(), signal.SIGKILL)
        return self.values[index], index % 3


class Line(nn.Module):
    """A linear classifier and its loss.

    Args:
        before: called with the number of the forward pass, from 1.
        dropout: the probability of it.
    """

    def __init__(self, before=lambda number: None, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(6, 3)
        self.dropout = nn.Dropout(dropout)
        self.before = before
        self.calls = 0

    def forward(self, values, classes):
        self.calls += 1
        self.before(self.calls)
        loss = nn.functional.cross_entropy(self.layer(self.dropout(values)), classes)
        return loss, {"twice": 2 * loss.detach()}


class Stop(Exception):
    """Ends a run in the middle, as a kill does."""


def stop_at(number: int):
    """For `Line`: stops in this forward pass."""

    def before(calls: int) -> None:
        if calls == number:
            raise Stop

    return before


def train(folder: Path, loss_fn: nn.Module | None = None, dataset=None, **changes):
    """Run the loop → (what was trained, its log); `changes` to PLAN and OPTIONS by name."""
    loss_fn = loss_fn or Line()
    names = {entry.name for entry in fields(LoopOptions)}
    options = replace(OPTIONS, **{k: v for k, v in changes.items() if k in names})
    schedule = replace(PLAN, **{k: v for k, v in changes.items() if k not in names})
    data = dataset or Pictures()
    log = fit(loss_fn, loss_fn, data, schedule, run=RUN, folder=folder, options=options)
    return loss_fn, log
