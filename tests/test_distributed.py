"""`accelerate launch`: two processes of one machine, on this CPU (gloo); and what they exchange.

ACCELERATE_USE_CPU keeps them off a card. The launcher's own --cpu would start one process, whatever
--num_processes says.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from accelerate import PartialState, debug_launcher
from accelerate.state import AcceleratorState

from gss_lite import distributed

ROOT = Path(distributed.__file__).parents[1]
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch"]
PLAIN = ["--mixed_precision", "no", "--dynamo_backend", "no"]
TWO = [*PLAIN, "--num_processes", "2", "--num_machines", "1"]


def work_alone() -> None:
    """What a process that was not launched asks of the room."""
    AcceleratorState._reset_state(reset_partial_state=True)
    count = torch.arange(3)
    device = torch.device("cpu")
    assert distributed.init_distributed(device) == device
    assert distributed.is_main() and not distributed.is_distributed()
    assert distributed.world_size() == 1 and distributed.process_index() == 0
    distributed.wait_for_all()
    for function in (
        distributed.sum_over_processes,
        distributed.mean_over_processes,
        distributed.all_gather,
    ):
        assert function(count) is count
    distributed.broadcast_(count)
    assert not PartialState._shared_state and not torch.distributed.is_initialized()


def test_a_process_alone_initialises_nothing_and_gets_back_what_it_gave():
    """In a process of its own, since others may have initialised something here."""
    process = multiprocessing.get_context("fork").Process(target=work_alone)
    process.start()
    process.join()
    assert process.exitcode == 0


def exchange(folder: Path) -> None:
    """In each of two processes; it leaves a file in the folder once everything held."""
    rank = distributed.process_index()
    assert distributed.is_distributed() and distributed.world_size() == 2
    assert distributed.is_main() == (rank == 0)
    count = torch.tensor([1, 10]) * (rank + 1)
    assert distributed.sum_over_processes(count).tolist() == [3, 30]
    assert distributed.mean_over_processes(count.sum()).item() == 16.5
    rows = torch.full((2, 3), rank).T.contiguous().T
    assert distributed.all_gather(rows)[:, 0].tolist() == [0, 0, 1, 1]
    one = torch.full((2,), float(rank))
    other = torch.full((3,), rank)
    distributed.broadcast_(one, other)
    assert one.tolist() == [0, 0] and other.tolist() == [0, 0, 0]
    distributed.wait_for_all()
    (folder / f"{rank}").touch()


def test_two_processes_exchange_counts_rows_and_random_numbers(tmp_path):
    debug_launcher(exchange, (tmp_path,), num_processes=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"]


def start(command: list[str]) -> subprocess.Popen:
    """A launched command. Whatever is left of it when the tests end is killed."""
    told = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"}
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **told},
    )
    atexit.register(kill, process)
    return process


def kill(process: subprocess.Popen) -> None:
    """Kill a launcher and its processes.

    These have process groups of their own, so one signal would not reach them all.
    """
    if process.poll() is not None:
        return  # its number may be another's by now
    with contextlib.suppress(psutil.NoSuchProcess):
        launcher = psutil.Process(process.pid)
        for victim in [*launcher.children(recursive=True), launcher]:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()


@pytest.mark.slow
def test_the_launcher_starts_two_processes_and_with_its_cpu_flag_one_that_says_so(tmp_path):
    script = tmp_path / "who.py"
    script.write_text(
        "import pathlib, torch\n"
        "from gss_lite.distributed import init_distributed, process_index, world_size\n"
        "init_distributed(torch.device('cpu'))\n"
        "name = f'process {process_index()} of {world_size()}'\n"
        "pathlib.Path(__file__).with_name(name).touch()\n"
    )
    both = start([*LAUNCH, "--multi_gpu", *TWO, str(script)])
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    one = [*LAUNCH, "--cpu", *TWO, str(script)]
    done = subprocess.run(
        one, cwd=ROOT, capture_output=True, text=True, timeout=1200, env=environment
    )
    _, errors = both.communicate(timeout=1200)
    assert both.returncode == 0, errors[-2000:]
    met = sorted(path.name for path in tmp_path.glob("process*"))
    assert met == ["process 0 of 1", "process 0 of 2", "process 1 of 2"]
    said = "accelerate launch --cpu starts one process, whatever --num_processes says"
    assert said in done.stderr


@pytest.mark.slow
def test_a_lost_training_process_ends_the_other_and_leaves_the_checkpoint(tmp_path):
    # The launcher looks after them every five seconds only, so that the other is not ended before
    # it can speak.
    options = ["--steps", "400", "--save-every", "3", "--out", str(tmp_path)]
    train = ["-m", "gss_lite", "train", "--preset", "scenes-tiny", *options]
    process = start([*LAUNCH, "--multi_gpu", *TWO, "--monitor_interval", "5", *train])
    checkpoint = tmp_path / "vqvae" / "checkpoint.pt"
    while not checkpoint.exists():
        assert process.poll() is None, process.communicate()[1][-2000:]
        time.sleep(0.02)
    children = psutil.Process(process.pid).children(recursive=True)
    ranks = [child for child in children if "gss_lite" in child.cmdline()]
    assert len(ranks) == 2
    max(ranks, key=lambda rank: int(rank.environ()["RANK"])).kill()
    _, errors = process.communicate(timeout=1200)
    assert process.returncode != 0 and psutil.wait_procs(ranks, timeout=300)[1] == []
    said = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(said) == 1 and f"The last checkpoint, {checkpoint}, is intact" in said[0], errors
    assert 0 < torch.load(checkpoint, weights_only=True)["step"] < 400
