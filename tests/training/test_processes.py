"""Two processes (gloo, on the CPU) give what one gives with the same whole batch."""

import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from forks import FORK, in_two, run, train_tiny
from safetensors.torch import load_file
from timm.layers import convert_sync_batchnorm
from torch import nn

from gss_lite.__main__ import main
from gss_lite.data import create_dataset
from gss_lite.data.transforms import InMemory, SeededAugmentation, train_transform
from gss_lite.distributed import process_index, world_size
from gss_lite.evaluation import evaluate
from gss_lite.factory import create_model, create_tokenizer
from gss_lite.presets import get_preset
from gss_lite.training.loop import LoopOptions, fit
from gss_lite.training.prior import SegmenterLoss
from gss_lite.training.tokenizer import VQVAELoss

BATCH_NORM = nn.modules.batchnorm._BatchNorm
OPTIONS = LoopOptions(log_every=1, progress=False)
STAGES = ("vqvae", "prior")


def keep_in_eval_mode(module: nn.Module) -> None:
    """Whatever the loop asks: on a CPU the statistics of a batch are those of a process's share."""
    module.eval()
    module.train = lambda mode=True: module


def train_both(folder: Path) -> None:
    """Train scenes-tiny's prior, evaluate it, and train its VQ-VAE; save what came out.

    Dropout is off, since it draws other numbers in every process.
    """
    preset = get_preset("scenes-tiny")
    torch.manual_seed(0)
    gss = create_model(preset)
    gss.prior.dropout.p = 0.0
    for module in gss.prior.modules():
        if isinstance(module, BATCH_NORM):
            keep_in_eval_mode(module)
    pictures = InMemory(create_dataset(preset, "train", transform=None))
    data = SeededAugmentation(pictures, train_transform(32, 32), 0)
    fit_tiny = partial(fit, dataset=data, options=OPTIONS)
    run_of = {"preset": "scenes-tiny", "seed": 0}
    log = fit_tiny(
        SegmenterLoss(gss),
        gss.prior,
        schedule=replace(preset.schedule("prior"), steps=20, batch=8),
        run={**run_of, "stage": "prior"},
        folder=folder,
    )
    held_out = create_dataset(preset, "test")
    matrices = evaluate(gss, held_out, batch=1, progress=False).matrices
    # Not the prior's tokenizer: tokens of two that differ by rounding would differ by more.
    torch.manual_seed(0)
    tokenizer = create_tokenizer(preset)
    first = fit_tiny(
        VQVAELoss(tokenizer, gss.palette, 1.0),
        tokenizer,
        schedule=replace(preset.schedule("vqvae"), steps=20, batch=8),
        run={**run_of, "stage": "vqvae"},
        folder=folder / "vqvae",
    )
    result = {
        "prior": gss.prior.state_dict(),
        "prior_losses": [e["loss"] for e in log],
        "matrices": matrices,
        "vqvae": tokenizer.state_dict(),
        "vqvae_losses": [e["loss"] for e in first],
        "processes": world_size(),
    }
    torch.save(result, folder / f"result{process_index()}.pt")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The result of one process, and those of two."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "one").mkdir()
    (folder / "two").mkdir()
    train_both(folder / "one")
    in_two(train_both, folder / "two")
    paths = [folder / "one" / "result0.pt", *sorted((folder / "two").glob("result*.pt"))]
    one, *two = (torch.load(path, weights_only=True) for path in paths)
    return one, two


@pytest.mark.slow
def test_two_processes_equal_one_after_twenty_steps(runs):
    one, two = runs
    assert [r["processes"] for r in two] == [2, 2]
    losses, expected = (torch.tensor(r["prior_losses"]) for r in (two[0], one))
    torch.testing.assert_close(losses, expected, atol=1e-4, rtol=0)
    assert len(losses) == 20 and losses[-1] < losses[0]
    torch.testing.assert_close(two[0]["prior"], one["prior"], atol=1e-4, rtol=1e-4)
    assert all(torch.equal(v, two[1]["prior"][k]) for k, v in two[0]["prior"].items())


@pytest.mark.slow
def test_stage_one_too_is_that_of_one_process_on_the_whole_batch(runs):
    """Codes follow all vectors, restarts are drawn from all, classes weigh by the whole batch."""
    one, two = runs
    losses, expected = (torch.tensor(r["vqvae_losses"]) for r in (two[0], one))
    torch.testing.assert_close(losses, expected, atol=1e-4, rtol=1e-4)
    assert len(losses) == 20 and losses[-1] < losses[0]
    torch.testing.assert_close(two[0]["vqvae"], one["vqvae"], atol=1e-3, rtol=1e-3)
    assert all(torch.equal(v, two[1]["vqvae"][k]) for k, v in two[0]["vqvae"].items())


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True])
def test_their_models_give_the_same_logits(runs, training):
    """In eval mode too.

    There a LayerNorm's bias in front of batch norm would make 1e-3 of rounding, if the prior did
    not hold it.
    """
    one, two = runs
    prior = create_model("scenes-tiny").prior.train(training)
    image = torch.randn(2, 3, 64, 64)
    logits = []
    for result in (one, two[0]):
        prior.load_state_dict(result["prior"])
        torch.manual_seed(0)
        logits.append(prior(image).token_logits)
    torch.testing.assert_close(*logits, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_that_bias_has_no_effect_in_training(runs):
    """The batch's mean is taken away behind it, so any value of it gives the same logits."""
    one, _ = runs
    assert not one["prior"]["norm.bias"].any()
    prior = create_model("scenes-tiny").prior.train()
    image = torch.randn(2, 3, 64, 64)
    logits = []
    for value in (0.0, 3.0):
        torch.nn.init.constant_(prior.norm.bias, value)
        torch.manual_seed(0)
        logits.append(prior(image).token_logits)
    torch.testing.assert_close(*logits, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_both_processes_get_the_evaluation_of_the_whole_set(runs):
    one, two = runs
    for name, matrices in two[0]["matrices"].items():
        expected = one["matrices"][name]
        assert torch.equal(matrices, two[1]["matrices"][name])
        assert matrices.shape == expected.shape
        # Every picture's pixels are in its place.
        assert torch.equal(matrices.sum((1, 2)), expected.sum((1, 2)))
    assert torch.equal(one["matrices"]["reconstruction"], two[0]["matrices"]["reconstruction"])


@pytest.mark.parametrize("name", ["scenes-tiny", "scenes-cpu-mobilenet"])
def test_every_batch_norm_of_a_prior_can_be_synchronised_in_its_place(name):
    """As on GPUs, where the loop does it. MobileNet's are timm's, with an activation behind."""
    prior = create_model(name).prior
    norms = sum(isinstance(m, BATCH_NORM) for m in prior.modules())
    parameters = dict(prior.named_parameters())
    names = list(prior.state_dict())
    convert_sync_batchnorm(prior)
    assert norms > 10 and sum(isinstance(m, nn.SyncBatchNorm) for m in prior.modules()) == norms
    assert list(prior.state_dict()) == names
    assert all(p is parameters[n] for n, p in prior.named_parameters())


def test_two_processes_evaluate_as_one_and_write_one_record(tiny_run, tmp_path, capfd):
    path = tmp_path / "record.json"
    options = ["--weights", str(tiny_run), "--device", "cpu", "--record"]
    command = ["evaluate", "--preset", "scenes-tiny", *options]
    in_two(run, [*command, str(path)])
    output = capfd.readouterr().out
    assert output.count("run record: ") == 1 and output.count("4 pictures") == 1
    ours = json.loads(path.read_text())["metrics"]
    assert main([*command, str(tmp_path / "one.json")]) == 0
    alone = json.loads((tmp_path / "one.json").read_text())["metrics"]
    assert ours["pictures"] == alone["pictures"] == 4
    assert ours["reconstruction"] == alone["reconstruction"]
    # Batches of other sizes round another way.
    assert ours["prediction"]["aacc"] == pytest.approx(alone["prediction"]["aacc"], abs=1e-3)


def two_machines(function: Callable[..., None], *arguments: object) -> list:
    """Call a function on two machines of one process each, which are told apart by their rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = [(rank, port, function, *arguments) for rank in (0, 1)]
    machines = [FORK.Process(target=on_a_machine, args=args) for args in told]
    for machine in machines:
        machine.start()
    return machines


def on_a_machine(rank: int, port: int, function: Callable[..., None], *arguments: object) -> None:
    """What `accelerate launch --num_machines 2 --machine_rank RANK` does, less the launcher."""
    place = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
    meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
    os.environ.update({name: str(value) for name, value in {**place, **meet}.items()})
    os.environ["OMP_NUM_THREADS"] = "1"
    function(*arguments)


def assert_same_run(one: Path, two: Path) -> None:
    for stage in STAGES:
        name = f"scenes-tiny.{stage}"
        ours, theirs = (load_file(folder / f"{name}.safetensors") for folder in (one, two))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[k], theirs[k]) for k in ours), stage
        logs = [json.loads((folder / f"{name}.json").read_text())["log"] for folder in (one, two)]
        assert [e["loss"] for e in logs[0]] == [e["loss"] for e in logs[1]]


def files_in(folder: Path) -> list[Path]:
    return sorted(path.relative_to(folder) for path in folder.rglob("*"))


def test_the_first_process_alone_says_where_the_files_are(tmp_path, capfd):
    options = ["--stage", "vqvae", "--steps", "2", "--out", str(tmp_path)]
    in_two(run, ["train", "--preset", "scenes-tiny", *options])
    assert capfd.readouterr().out.count("weights and records are in") == 1


@pytest.mark.slow
def test_two_processes_train_both_stages_as_one_does_and_two_machines_as_two_processes(tmp_path):
    """One palette, one set of files, and the losses of a single process."""
    one = tmp_path / "one"
    two = tmp_path / "two"
    train_tiny(one, 4)
    in_two(train_tiny, two, 4)
    assert files_in(one) == files_in(two)
    for stage in STAGES:
        records = [json.loads((f / f"scenes-tiny.{stage}.json").read_text()) for f in (one, two)]
        losses = [record["log"][0]["loss"] for record in records]
        # Dropout draws other numbers, and batch norm sees the shares one by one.
        assert losses[0] == pytest.approx(losses[1], rel=0.05 if stage == "prior" else 1e-4)
    machines = two_machines(train_tiny, tmp_path / "machines", 4)
    for machine in machines:
        machine.join()
    assert [machine.exitcode for machine in machines] == [0, 0]
    assert_same_run(two, tmp_path / "machines")


@pytest.mark.slow
def test_two_processes_that_were_killed_end_as_if_they_had_not_been(tmp_path):
    """kill −9 to both of them in the middle of either stage; then the same command once more."""
    steps = 40
    whole = tmp_path / "whole"
    killed = tmp_path / "killed"
    in_two(train_tiny, whole, steps)
    for stage in STAGES:
        checkpoint = killed / stage / "checkpoint.pt"
        machines = two_machines(train_tiny, killed, steps)
        while not checkpoint.exists():
            assert all(machine.is_alive() for machine in machines)
            time.sleep(0.01)
        for machine in machines:
            machine.kill()
        for machine in machines:
            machine.join()
        assert 0 < torch.load(checkpoint, weights_only=True)["step"] < steps
    in_two(train_tiny, killed, steps)
    assert_same_run(whole, killed)
