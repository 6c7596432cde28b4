"""Evaluation by scorer, the validator of the loop, and what an evaluation holds."""

from dataclasses import replace

import pytest
import torch

from gss_lite.data import dataset_for
from gss_lite.data.transforms import InMemory, SeededAugmentation, eval_transform, train_transform
from gss_lite.evaluation import evaluate, evaluate_scores, validator
from gss_lite.factory import build_gss
from gss_lite.inference import flipped, mask_scorer, sliding
from gss_lite.metrics import SegmentationMetrics
from gss_lite.presets import get_preset
from gss_lite.storage import load_checkpoint
from gss_lite.training.loop import fit
from gss_lite.training.prior import PriorStage

TINY = get_preset("scenes-tiny")
RUN = {"preset": "x", "stage": "prior", "seed": 0}


@pytest.fixture(scope="module")
def gss():
    torch.manual_seed(0)
    return build_gss(TINY).eval()


@pytest.fixture(scope="module")
def pictures():
    return InMemory(dataset_for(TINY, "test", transform=eval_transform()))


def test_a_scorer_is_evaluated_by_its_arg_max(gss, pictures):
    plain, whole = (
        evaluate(gss, pictures, progress=False),
        evaluate_scores(mask_scorer(gss), pictures, 11, progress=False),
    )
    assert (
        torch.equal(whole.matrices["prediction"], plain.matrices["prediction"]) and len(whole) == 4
    )
    scorer = sliding(flipped(mask_scorer(gss)), 32, 16)
    metrics = SegmentationMetrics(11)
    for image, mask in (pictures[i] for i in range(4)):
        metrics.update(scorer(image[None]).argmax(1), mask[None])
    ours, theirs = (
        evaluate_scores(scorer, pictures, 11, progress=False).scores()["prediction"],
        metrics.compute(),
    )
    assert (ours.miou, ours.macc, ours.aacc) == (theirs.miou, theirs.macc, theirs.aacc)


def test_the_loops_best_checkpoint_is_the_prior_with_the_highest_miou(pictures, tmp_path):
    torch.manual_seed(0)
    model = build_gss(TINY)
    data = SeededAugmentation(InMemory(dataset_for(TINY, "train")), train_transform(32, 32), 0)
    plan = replace(TINY.prior, steps=6)
    log = fit(
        PriorStage(model),
        model.prior,
        data,
        plan,
        run=RUN,
        folder=tmp_path,
        progress=False,
        validate=validator(model, pictures),
        validate_every=2,
    )
    scores = {e["step"]: e["score"] for e in log if "score" in e}
    best = load_checkpoint(tmp_path / "best.pt", RUN)
    assert list(scores) == [2, 4, 6] and best["score"] == pytest.approx(
        max(scores.values()), rel=1e-4
    )
    again = build_gss(TINY, model.tokenizer)
    again.prior.load_state_dict(best["learner"])
    assert evaluate(again, pictures, progress=False).scores()["prediction"].miou == best["score"]
    assert scores[6] == pytest.approx(
        evaluate(model, pictures, progress=False).scores()["prediction"].miou, rel=1e-4
    )


def test_an_empty_data_set_is_refused(gss):
    with pytest.raises(ValueError, match="data set to evaluate on is empty"):
        evaluate_scores(mask_scorer(gss), [], 11)
