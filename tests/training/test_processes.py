"""Two processes on the CPU (gloo) give what one gives with the same global batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from gss_lite.factory import build_gss
from gss_lite.presets import get_preset
from gss_lite.training.batch_norm import GlobalBatchNorm2d, synchronize_batch_norm

SCRIPT = Path(__file__).with_name("two_process_run.py")


def run(folder: Path, processes: int) -> list[dict]:
    launcher = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        if processes > 1
        else []
    )
    folder.mkdir()
    root = SCRIPT.parents[1]
    subprocess.run(
        [sys.executable, *launcher, str(SCRIPT), str(folder)],
        check=True,
        cwd=root,
        capture_output=True,
        timeout=300,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "ACCELERATE_USE_CPU": "true",
            "PYTHONPATH": str(root),
        },
    )
    return [torch.load(folder / f"result{i}.pt", weights_only=True) for i in range(processes)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    return run(folder / "one", 1), run(folder / "two", 2)


def test_two_processes_equal_one_after_twenty_steps(runs):
    (one,), two = runs
    assert [r["processes"] for r in two] == [2, 2]
    torch.testing.assert_close(
        torch.tensor(two[0]["losses"]), torch.tensor(one["losses"]), atol=1e-4, rtol=0
    )
    assert len(one["losses"]) == 20 and one["losses"][-1] < one["losses"][0]
    for name, value in one["learner"].items():
        torch.testing.assert_close(
            two[0]["learner"][name], value, atol=1e-4, rtol=1e-4, msg=lambda m: f"{name}: {m}"
        )  # noqa: B023
    assert all(torch.equal(v, two[1]["learner"][k]) for k, v in two[0]["learner"].items())


def test_stage_one_too_is_that_of_one_process_on_the_whole_batch(runs):
    """Codes that follow all vectors, restarts drawn from all of them, classes weighed by their share of the whole batch."""
    (one,), two = runs
    torch.testing.assert_close(
        torch.tensor(two[0]["vqvae_losses"]),
        torch.tensor(one["vqvae_losses"]),
        atol=1e-4,
        rtol=1e-4,
    )
    assert len(one["vqvae_losses"]) == 20 and one["vqvae_losses"][-1] < one["vqvae_losses"][0]
    for name, value in one["vqvae"].items():
        torch.testing.assert_close(
            two[0]["vqvae"][name], value, atol=1e-3, rtol=1e-3, msg=lambda m: f"{name}: {m}"
        )  # noqa: B023
        assert torch.equal(two[0]["vqvae"][name], two[1]["vqvae"][name]), name


@pytest.mark.parametrize("training", [False, True])
def test_their_models_give_the_same_logits(runs, training):
    """In eval mode too, where a LayerNorm's bias in front of batch norm would make 1e-3 of rounding if the prior did not hold it."""
    (one,), two = runs
    prior, image, logits = (
        build_gss(get_preset("scenes-tiny")).prior.train(training),
        torch.randn(2, 3, 64, 64),
        [],
    )
    for result in (one, two[0]):
        prior.load_state_dict(result["learner"])
        torch.manual_seed(0)
        logits.append(prior(image).token_logits)
    torch.testing.assert_close(*logits, atol=1e-4, rtol=0)


def test_that_bias_has_no_effect_in_training(runs):
    """Any value of it gives the same logits, as the batch's mean is taken away behind it: its gradient is rounding."""
    prior, image, logits = (
        build_gss(get_preset("scenes-tiny")).prior.train(),
        torch.randn(2, 3, 64, 64),
        [],
    )
    assert not runs[0][0]["learner"]["norm.bias"].any()
    for value in (0.0, 3.0):
        torch.nn.init.constant_(prior.norm.bias, value)
        torch.manual_seed(0)
        logits.append(prior(image).token_logits)
    torch.testing.assert_close(*logits, atol=1e-4, rtol=0)


def test_both_processes_get_the_evaluation_of_the_whole_set(runs):
    (one,), two = runs
    for name, matrices in two[0]["matrices"].items():
        assert (
            torch.equal(matrices, two[1]["matrices"][name])
            and matrices.shape == one["matrices"][name].shape
        )
        # every picture's pixels, in its place
        assert torch.equal(matrices.sum((1, 2)), one["matrices"][name].sum((1, 2)))
    assert torch.equal(one["matrices"]["reconstruction"], two[0]["matrices"]["reconstruction"])


@pytest.mark.parametrize("name", ["scenes-tiny", "scenes-cpu-mobilenet"])
def test_every_batch_norm_is_replaced_and_nothing_else_changes(name):
    """MobileNet's are timm's, with an activation behind."""
    priors = []
    for _ in range(2):
        torch.manual_seed(0)
        priors.append(build_gss(get_preset(name)).prior.train())
    plain, other = priors
    synchronize_batch_norm(other, torch.device("cpu"))
    norms = sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in plain.modules())
    assert norms > 10 and sum(isinstance(m, GlobalBatchNorm2d) for m in other.modules()) == norms
    image, logits = torch.randn(2, 3, 32, 32), []
    for prior in priors:
        torch.manual_seed(1)
        logits.append(prior(image).token_logits)
    assert torch.equal(*logits)  # in one process it is BatchNorm2d
    synchronize_batch_norm(other, torch.device("cpu"))  # a second time changes nothing
    assert plain.state_dict().keys() == other.state_dict().keys()
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in plain.state_dict().items())


def test_a_batch_norm_of_another_kind_is_refused():
    with pytest.raises(
        ValueError,
        match="0 is a BatchNorm1d; several processes share the statistics of BatchNorm2d only",
    ):
        synchronize_batch_norm(nn.Sequential(nn.BatchNorm1d(3)), torch.device("cpu"))
