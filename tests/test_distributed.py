"""`accelerate launch -m gss_lite …`: two processes of one machine, or two machines of one process each, all on this CPU (gloo).

ACCELERATE_USE_CPU keeps them off a card. The launcher's own --cpu would start one process, whatever
--num_processes says.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from gss_lite import __main__ as cli

ROOT = Path(cli.__file__).parents[1]
TRAIN = ["-m", "gss_lite", "train", "--preset", "scenes-tiny"]
TWO = ("--num_processes", "2", "--num_machines", "1")
PLAIN = ("--multi_gpu", "--mixed_precision", "no", "--dynamo_backend", "no")


def start(arguments: list[str], machines: tuple[str, ...] = TWO) -> subprocess.Popen:
    """A launched command; without `machines`, a plain one. Whatever is left of it when the tests end is killed."""
    launcher = ["-m", "accelerate.commands.launch", *PLAIN, *machines] if machines else []
    process = subprocess.Popen(
        [sys.executable, *launcher, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
            "ACCELERATE_USE_CPU": "true",
        },
    )
    atexit.register(kill, process)
    return process


def kill(process: subprocess.Popen) -> int:
    """Kill a launcher and its processes, which have process groups of their own: one signal would not reach all. How many there were."""
    if process.poll() is not None:
        return 0  # its number may be another's by now
    with contextlib.suppress(psutil.NoSuchProcess):
        launcher = psutil.Process(process.pid)
        victims = [*launcher.children(recursive=True), launcher]
        for victim in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()
        return len(victims)
    return 0


def finish(process: subprocess.Popen) -> str:
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-2000:]
    return output


def assert_same_run(one: Path, two: Path, stages: tuple[str, ...]) -> None:
    for stage in stages:
        ours, theirs = (
            load_file(folder / f"scenes-tiny.{stage}.safetensors") for folder in (one, two)
        )
        assert ours.keys() == theirs.keys() and all(
            torch.equal(ours[k], theirs[k]) for k in ours
        ), stage
        logs = [
            [
                e["loss"]
                for e in json.loads((folder / f"scenes-tiny.{stage}.json").read_text())["log"]
            ]
            for folder in (one, two)
        ]
        assert logs[0] == logs[1]


def test_the_launcher_starts_two_processes_and_with_its_cpu_flag_one_that_says_so(tmp_path):
    script, met = tmp_path / "who.py", lambda: sorted(p.name for p in tmp_path.glob("process*"))
    script.write_text(
        "import pathlib, torch, torch.distributed as dist\n"
        "from gss_lite.distributed import init_distributed, is_distributed\n"
        "init_distributed(torch.device('cpu'))\n"
        "name = f'process {dist.get_rank()} of {dist.get_world_size()}' if is_distributed() else 'process "
        "alone'\n"
        "pathlib.Path(__file__).with_name(name).touch()\n"
    )
    finish(start([str(script)]))
    assert met() == ["process 0 of 2", "process 1 of 2"]
    launcher = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        *PLAIN[1:],
        *TWO,
        str(script),
    ]
    done = subprocess.run(
        launcher,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert met() == ["process 0 of 2", "process 1 of 2", "process alone"]
    assert (
        "accelerate launch --cpu starts one process, whatever --num_processes says" in done.stderr
    )


def test_two_processes_evaluate_as_one_and_write_one_record(tiny_run, tmp_path):
    path = tmp_path / "record.json"
    arguments = [
        "-m",
        "gss_lite",
        "evaluate",
        "--preset",
        "scenes-tiny",
        "--weights",
        str(tiny_run),
        "--device",
        "cpu",
        "--record",
        str(path),
    ]
    output = finish(start(arguments))
    assert output.count("run record: ") == 1 and output.count("4 pictures") == 1
    ours = json.loads(path.read_text())["metrics"]
    assert cli.main([*arguments[2:-1], str(tmp_path / "one.json")]) == 0
    alone = json.loads((tmp_path / "one.json").read_text())["metrics"]
    assert (
        ours["pictures"] == alone["pictures"] == 4
        and ours["reconstruction"] == alone["reconstruction"]
    )
    # batches of other sizes round another way
    assert ours["prediction"]["aacc"] == pytest.approx(alone["prediction"]["aacc"], abs=1e-3)


def test_two_processes_train_both_stages_as_one_does_and_two_machines_as_two_processes(tmp_path):
    """One palette, one set of files, and the losses of a single process. Two machines: told apart by their rank alone."""
    command = [*TRAIN, "--steps", "4", "--out"]
    for name, machines in (("one", ()), ("two", TWO)):
        assert (
            finish(start([*command, str(tmp_path / name)], machines)).count(
                "weights and records are in"
            )
            == 1
        )
    one, two = (
        sorted(p.relative_to(tmp_path / name) for p in (tmp_path / name).rglob("*"))
        for name in ("one", "two")
    )
    assert one == two
    for stage in ("vqvae", "prior"):
        records = [
            json.loads((tmp_path / name / f"scenes-tiny.{stage}.json").read_text())
            for name in ("one", "two")
        ]
        assert records[0]["log"][0]["loss"] == pytest.approx(
            records[1]["log"][0]["loss"], rel=0.05 if stage == "prior" else 1e-4
        )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meet = ("--main_process_ip", "127.0.0.1", "--main_process_port", str(free.getsockname()[1]))
    ranks = [
        start(
            [*command, str(tmp_path / "machines")],
            ("--num_processes", "2", "--num_machines", "2", "--machine_rank", str(rank), *meet),
        )
        for rank in (0, 1)
    ]
    said = [finish(process).count("weights and records are in") for process in ranks]
    assert said == [1, 0]  # the first machine's first process writes
    assert_same_run(tmp_path / "two", tmp_path / "machines", ("vqvae", "prior"))


def test_a_lost_training_process_ends_the_other_and_leaves_the_checkpoint(tmp_path):
    # The launcher looks after them every five seconds only, so that the other is not ended before
    # it can speak.
    process = start(
        [*TRAIN, "--steps", "400", "--save-every", "3", "--out", str(tmp_path)],
        (*TWO, "--monitor_interval", "5"),
    )
    checkpoint = tmp_path / "vqvae" / "checkpoint.pt"
    while not checkpoint.exists():
        assert process.poll() is None, process.communicate()[1][-2000:]
        time.sleep(0.02)
    ranks = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "gss_lite" in child.cmdline()
    ]
    assert len(ranks) == 2
    max(ranks, key=lambda rank: int(rank.environ()["RANK"])).kill()
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0 and psutil.wait_procs(ranks, timeout=30)[1] == []
    assert (
        "error: another process of this run is gone" in errors
        and f"{checkpoint}, is intact" in errors
    )
    assert 0 < torch.load(checkpoint, weights_only=True)["step"] < 400


def test_two_processes_that_were_killed_end_as_if_they_had_not_been(tmp_path):
    """kill −9 to both of them and their launcher, in the middle of either stage; then the same command once more."""
    steps = 60
    command = [*TRAIN, "--steps", str(steps), "--save-every", "3", "--out"]
    finish(start([*command, str(tmp_path / "whole")]))
    for stage in ("vqvae", "prior"):
        process, checkpoint = (
            start([*command, str(tmp_path / "killed")]),
            tmp_path / "killed" / stage / "checkpoint.pt",
        )
        while not checkpoint.exists():
            assert process.poll() is None, process.communicate()[1][-2000:]
            time.sleep(0.02)
        assert kill(process) >= 3
        process.communicate()
        assert 0 < torch.load(checkpoint, weights_only=True)["step"] < steps
    finish(start([*command, str(tmp_path / "killed")]))
    assert_same_run(tmp_path / "whole", tmp_path / "killed", ("vqvae", "prior"))
