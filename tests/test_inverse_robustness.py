"""Damage to tokens and maskige, what is measured on it, and the command at toy size."""

from __future__ import annotations

import json

import pytest
import torch

from gss_lite.contracts import IGNORE
from gss_lite.data import dataset_for
from gss_lite.data.transforms import eval_transform
from gss_lite.evaluation import evaluate
from gss_lite.factory import load_gss
from gss_lite.gss import graft
from gss_lite.inverse import NearestColor
from gss_lite.inverse_fitted import KINDS
from gss_lite.metrics import boundary_iou
from gss_lite.presets import get_preset
from gss_lite.presets.plans import plan_for
from gss_lite.storage import save_weights
from gss_lite.training.inverse import INPUTS, build_inverse, stage_name
from notebooks.experiments import inverse_robustness
from notebooks.experiments.inverse_robustness import (
    RATES,
    SIGMAS,
    examine,
    near_borders,
    noisy_pixels,
    readers,
    rim_iou,
    table,
    wrong_tokens,
)

TINY = get_preset("scenes-tiny")


@pytest.fixture(scope="module")
def gss(tiny_run):
    return load_gss(TINY, tiny_run)


@pytest.fixture(scope="module")
def work(gss, tmp_path_factory):
    """What table_one leaves for two seeds, untrained."""
    folder = tmp_path_factory.mktemp("work")
    for seed in range(2):
        torch.manual_seed(seed)
        for kind in KINDS:
            for maskige in INPUTS:
                path = (
                    folder / f"seed-{seed}" / f"{TINY.name}.{stage_name(kind, maskige)}.safetensors"
                )
                save_weights(path, build_inverse(gss.palette, kind, plan_for(TINY, kind)))
    return folder


def test_noise_has_the_size_asked_for():
    grey = torch.full((2, 3, 64, 64), 0.5)
    assert torch.equal(noisy_pixels(grey, 0.0), grey)
    difference = noisy_pixels(grey, 0.2, seed=1) - grey
    assert (
        float(difference.std()) == pytest.approx(0.2, rel=0.02)
        and abs(float(difference.mean())) < 0.01
    )
    assert torch.equal(noisy_pixels(grey, 0.2, seed=1), grey + difference) and not torch.equal(
        noisy_pixels(grey, 0.2, seed=2), grey + difference
    )


def test_wrong_tokens_are_as_many_as_asked_for_and_come_from_the_batch():
    tokens = 3 * torch.arange(4 * 20 * 20).view(4, 20, 20)  # all different
    assert torch.equal(wrong_tokens(tokens, 0.0), tokens)
    few, many = wrong_tokens(tokens, 0.1), wrong_tokens(tokens, 0.4)
    assert float((few != tokens).float().mean()) == pytest.approx(0.1, abs=0.025)
    assert float((many != tokens).float().mean()) == pytest.approx(0.4, abs=0.04)
    assert torch.isin(many, tokens).all()
    hit = few != tokens
    assert torch.equal(few[hit], many[hit])  # damage at a higher rate goes on from the lower


@pytest.mark.parametrize("rate", [-0.1, 1.5])
def test_a_rate_is_a_share(rate):
    with pytest.raises(ValueError, match="0…1"):
        wrong_tokens(torch.zeros(1, 2, 2, dtype=torch.long), rate)


def test_near_borders_by_looking_around_every_pixel():
    mask = (
        torch.randint(3, (2, 9, 11), generator=torch.Generator().manual_seed(0))
        .repeat_interleave(2, 1)
        .repeat_interleave(2, 2)
    )
    mask[:, 4:6, 3:5] = IGNORE
    for reach in (1, 2):
        found = near_borders(mask, reach)
        for b in range(2):
            for y in range(mask.shape[1]):
                for x in range(mask.shape[2]):
                    around = mask[
                        b, max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1
                    ]
                    assert bool(found[b, y, x]) == (
                        mask[b, y, x] != IGNORE and bool((around != mask[b, y, x]).any())
                    )


def test_undamaged_figures_are_those_of_evaluate(gss, work):
    dataset = dataset_for(TINY, "val", transform=eval_transform())
    inverses = readers(gss, TINY, work / "seed-0", fit_pictures=2)
    assert list(inverses) == [
        "FF",
        "FT",
        "FT, noisy",
        "FT-W, clean",
        "FT-W",
        "Gaussian",
        "Gaussian, noisy",
    ]
    assert isinstance(inverses["FF"], NearestColor)
    some = {name: inverses[name] for name in ("FF", "FT, noisy", "Gaussian")}
    for name, figures in examine(some, gss, dataset).items():
        expected = evaluate(graft(gss, some[name]), dataset, progress=False).scores()
        assert (
            figures["pixels"][0]
            == figures["tokens"][0]
            == pytest.approx(100 * expected["reconstruction"].miou)
        )
        assert figures["final"] == pytest.approx(100 * expected["prediction"].miou)
        assert len(figures["pixels"]) == len(SIGMAS) and len(figures["tokens"]) == len(RATES)


def test_rim_iou_is_the_mean_over_classes_that_occur():
    ids, mask = torch.zeros(1, 6, 6, dtype=torch.long), torch.zeros(1, 6, 6, dtype=torch.long)
    ids[:, :, 3:], mask[:, :, 2:] = 1, 1
    values = boundary_iou(ids, mask, 3, 1)
    assert torch.isnan(values[2]) and rim_iou(ids, mask, 3) == pytest.approx(
        100 * float(values[:2].mean())
    )


def test_the_record(gss, work, tiny_run, tmp_path, capsys):
    arguments = [
        "--preset",
        "scenes-tiny",
        "--weights",
        str(tiny_run),
        "--work",
        str(work),
        "--seeds",
        "2",
        "--pictures",
        "2",
        "--fit-pictures",
        "2",
    ]
    inverse_robustness.main([*arguments, "--record", str(tmp_path / "record.json")])
    record = json.loads((tmp_path / "record.json").read_text())
    rows = record["metrics"]["rows"]
    assert (
        record["kind"] == "inverse robustness"
        and record["metrics"]["pictures"] == 2
        and record["metrics"]["sigmas"] == list(SIGMAS)
    )
    assert all(
        len(row[key]) == 2
        for row in rows.values()
        for key in ("pixels", "tokens", "rim", "final", "final rim")
    )
    assert (
        rows["FF"]["rim"][0] == rows["FF"]["rim"][1]
        and rows["FT"]["pixels"][0] != rows["FT"]["pixels"][1]
    )
    assert table(rows, "tokens", RATES) in capsys.readouterr().out


def test_the_table_shows_means_and_the_last_spread():
    lines = table(
        {"FF": {"pixels": [[90.0, 50.0], [92.0, 54.0]]}}, "pixels", (0.0, 0.1)
    ).splitlines()
    assert lines[0].split() == ["pixels", "0.00", "0.10"] and lines[1].split() == [
        "FF",
        "91.0",
        "52.0",
        "±",
        "2.8",
    ]
