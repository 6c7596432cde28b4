"""Commands and functions in processes of their own, forked: torch is not imported anew."""

import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import debug_launcher
from accelerate.state import AcceleratorState

from gss_lite.__main__ import main
from gss_lite.presets import get_preset
from gss_lite.training import LoopOptions, train

FORK = multiprocessing.get_context("fork")


def start_afresh() -> None:
    """What a forked process does first: it has no threads, and forgets its parent's state."""
    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)


def in_two(function: Callable[..., None], *arguments: object) -> None:
    """Call a function in two processes that work together, on the CPU (gloo)."""
    debug_launcher(_in_one_of_two, (function, *arguments), num_processes=2)


def _in_one_of_two(function: Callable[..., None], *arguments: object) -> None:
    start_afresh()
    function(*arguments)


def run(command: list[str]) -> None:
    """A command to its end."""
    start_afresh()
    assert main(command) == 0


def train_tiny(folder: Path, steps: int) -> None:
    """Both stages of the preset scenes-tiny, with checkpoints soon and often.

    Two pictures for each of two processes: batch norm needs them.
    """
    start_afresh()
    preset = get_preset("scenes-tiny")
    for stage in preset.schedules:
        preset = preset.with_schedule(stage, steps=steps)
    preset = preset.with_schedule("prior", batch=4)
    train(preset, folder, options=LoopOptions(save_every=3, progress=False))


def kill_when(condition: Callable[[], bool], function: Callable[..., None], *arguments) -> None:
    """Call a function in a process, and kill -9 it as soon as the condition holds."""
    process = FORK.Process(target=function, args=arguments)
    process.start()
    while not condition():
        assert process.is_alive()
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -9
