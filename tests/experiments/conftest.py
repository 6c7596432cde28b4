"""What the experiments take up at toy size: the weights that other commands leave."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import gss_lite as gss
from gss_lite.inverse_fitted import KINDS
from gss_lite.storage import save_weights
from gss_lite.training.inverse import INPUTS, build_inverse, stage_name
from notebooks.experiments import twin_comparison

QUIET = gss.LoopOptions(progress=False)


@pytest.fixture(scope="session")
def tiny_model(tiny_run) -> gss.GSS:
    """The model of `tiny_run`; tests leave it as it is."""
    return gss.create_model("scenes-tiny", pretrained=tiny_run)


@pytest.fixture(scope="session")
def table_one_work(tiny_model, tmp_path_factory) -> Path:
    """What `table_one` leaves in its work folder for two seeds, untrained."""
    folder = tmp_path_factory.mktemp("work")
    preset = gss.get_preset("scenes-tiny")
    for seed in range(2):
        torch.manual_seed(seed)
        for kind in KINDS:
            schedule = preset.schedule(f"inverse-{kind}")
            for maskige in INPUTS:
                name = stage_name(kind, maskige)
                path = folder / f"seed-{seed}" / f"{preset.name}.{name}.safetensors"
                save_weights(path, build_inverse(tiny_model.palette, kind, schedule))
                card = {"kind": f"train {name}", "size": dict(schedule.network)}
                path.with_suffix(".json").write_text(json.dumps(card))
    return folder


@pytest.fixture(scope="session")
def twin_run(tiny_run, tmp_path_factory) -> Path:
    """The tiny model, its FT-W and its twin."""
    folder = tmp_path_factory.mktemp("twin")
    shutil.copytree(tiny_run, folder, dirs_exist_ok=True)
    for stage in ("inverse-ft-w", "pixel"):
        gss.train("scenes-tiny", folder, stage=stage, options=QUIET, command="test")
    return folder


@pytest.fixture(scope="session")
def twin_matrices(twin_run, tmp_path_factory) -> Path:
    """What `twin_comparison --matrices` leaves for the tiny model; its record lies beside it."""
    path = tmp_path_factory.mktemp("matrices") / "seed-0.npz"
    twin_comparison.main(
        f"--preset scenes-tiny --weights {twin_run} --twin {twin_run} --quiet --pictures 3 "
        f"--matrices {path} --record {path.with_suffix('.json')}".split()
    )
    return path


@pytest.fixture(scope="session")
def middle_run(tiny_run, tmp_path_factory) -> Path:
    """A tiny model whose prior kept its weights after a fifth of its steps."""
    folder = tmp_path_factory.mktemp("middle")
    preset = gss.get_preset("scenes-tiny").with_schedule("prior", middle=0.2)
    gss.train(preset, folder, stage="prior", stage_one=tiny_run, options=QUIET, command="test")
    return folder
