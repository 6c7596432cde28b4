"""What an evaluation holds; any segmenter; views; validation looks exactly as evaluation does."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.utils.data import Subset, TensorDataset

from gss_lite.contracts import IGNORE
from gss_lite.data import create_dataset
from gss_lite.data.transforms import InMemory, SeededAugmentation, train_transform
from gss_lite.evaluation import (
    Evaluation,
    blend_collision_rate,
    evaluate,
    evaluate_masks,
    evaluate_palette,
    third_class_pixels,
    validator,
)
from gss_lite.factory import create_model
from gss_lite.gss import GSS
from gss_lite.inverse import NearestColor
from gss_lite.metrics import SegmentationMetrics, confusion_matrix
from gss_lite.palette import Palette, blend_collisions, border_lengths
from gss_lite.presets import ViewSpec, get_preset
from gss_lite.prior import Prior
from gss_lite.storage import load_checkpoint
from gss_lite.training.loop import LoopOptions, fit
from gss_lite.training.prior import SegmenterLoss
from gss_lite.views import flipped, multi_scale, sliding, view_of

TINY = get_preset("scenes-tiny")
RUN = {"preset": "x", "stage": "prior", "seed": 0}
QUIET = {"progress": False}


@pytest.fixture(scope="module")
def pictures():
    """Four pictures and masks of 64 × 64."""
    return InMemory(create_dataset(TINY, "test"))


def by_hand(look, dataset, name="prediction"):
    """The metrics of a look's arg-max, picture by picture."""
    metrics = SegmentationMetrics(11)
    for image, mask in (dataset[i] for i in range(len(dataset))):
        metrics.update(look(image[None])[name].argmax(1), mask[None])
    return metrics.compute()


def assert_scores(found, expected):
    # Batches of four round another way than single pictures.
    assert found.miou == pytest.approx(expected.miou, abs=2e-3)
    assert found.aacc == pytest.approx(expected.aacc, abs=2e-3)


class TestEvaluate:
    def test_it_holds_a_matrix_for_each_picture_and_answer(self, tiny_gss, pictures):
        result = evaluate(tiny_gss, pictures, **QUIET)
        assert len(result) == 4
        assert result.matrices.keys() == {"prediction", "pixel_head", "reconstruction"}
        for number, (image, mask) in enumerate(pictures[i] for i in range(4)):
            found = tiny_gss.predict(image)
            again = tiny_gss.reconstruct(mask[None])[0][0]
            for name, ids in [("pixel_head", found.pixel_mask), ("reconstruction", again)]:
                expected = confusion_matrix(ids, mask, 11)
                apart = (result.matrices[name][number] - expected).abs().sum()
                assert apart <= 4, name  # of 4,096 pixels; batches round another way
        named = evaluate(tiny_gss, pictures.dataset, **QUIET)
        assert named.classes == pictures.dataset.classes and "Bicyclist" in named.table()

    def test_a_batch_more_or_less_changes_hardly_anything(self, tiny_gss, pictures):
        one, four = (evaluate(tiny_gss, pictures, batch=n, **QUIET) for n in (1, 4))
        assert_scores(one["prediction"], four["prediction"])
        assert_scores(one["prediction"], by_hand(tiny_gss.scores, pictures))

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "how, view",
        [
            ({"flip": True}, flipped),
            ({"scales": (1.0, 1.5)}, lambda look: multi_scale(look, (1.0, 1.5))),
            (
                {"flip": True, "view": ViewSpec(window=(32, 16))},
                lambda look: sliding(flipped(look), 32, 16),
            ),
        ],
    )
    @pytest.mark.parametrize("model", ["gss", "pixel"])
    def test_averages_are_those_of_probabilities(self, tiny_gss, pictures, model, how, view):
        segmenter = tiny_gss if model == "gss" else create_model(TINY, model="pixel").eval()
        result = evaluate(segmenter, pictures, **how, **QUIET)
        for name in ("prediction", "pixel_head"):
            expected = by_hand(view(segmenter.probabilities), pictures, name)
            assert_scores(result[name], expected)

    def test_one_mirror_image_differs_by_votes_and_by_probabilities(self, tiny_gss, pictures):
        """Or the test above could not tell them apart."""
        votes = by_hand(flipped(tiny_gss.scores), pictures)
        soft = by_hand(flipped(tiny_gss.probabilities), pictures)
        assert abs(votes.aacc - soft.aacc) > 5e-3 or abs(votes.miou - soft.miou) > 5e-3

    def test_windows_alone_average_votes_as_the_released_code_does(self, tiny_gss, pictures):
        view = ViewSpec(window=(32, 24))
        result = evaluate(tiny_gss, pictures, view=view, **QUIET)
        assert_scores(result["prediction"], by_hand(view_of(view)(tiny_gss.scores), pictures))

    def test_the_models_own_view_is_the_default(self, tiny_gss, pictures):
        tiny_gss.view = ViewSpec(size=(32, 32))
        own = evaluate(tiny_gss, pictures, **QUIET)
        whole = evaluate(tiny_gss, pictures, view=ViewSpec(), **QUIET)
        expected = by_hand(view_of(tiny_gss.view)(tiny_gss.scores), pictures)
        assert_scores(own["prediction"], expected)
        assert not torch.equal(own.matrices["prediction"], whole.matrices["prediction"])

    @pytest.mark.parametrize(
        "how, runs",
        [
            ({}, 1),
            ({"flip": True}, 2),
            ({"scales": (1.0, 0.5)}, 2),
            ({"view": ViewSpec(window=(32, 32))}, 4),
            ({"view": ViewSpec(window=(32, 32)), "flip": True}, 8),
        ],
    )
    def test_the_network_runs_once_a_look_for_all_three_answers(
        self, tiny_gss, pictures, monkeypatch, how, runs
    ):
        calls = []
        encode = Prior.encode
        monkeypatch.setattr(Prior, "encode", lambda *args: calls.append(1) or encode(*args))
        result = evaluate(tiny_gss, Subset(pictures, [0]), **how, **QUIET)
        assert len(calls) == runs and len(result.matrices) == 3

    def test_the_model_is_put_into_eval_mode(self, tiny_gss, pictures):
        evaluate(tiny_gss.train(), pictures, **QUIET)
        assert not any(module.training for module in tiny_gss.modules())

    def test_pictures_of_different_sizes_are_taken_one_by_one(self, tiny_gss):
        pairs = [
            (torch.randn(3, 40, 50), torch.randint(11, (40, 50))),
            (torch.randn(3, 64, 33), torch.randint(11, (64, 33))),
        ]
        result = evaluate(tiny_gss, pairs, batch=2, **QUIET)
        assert [int(m.sum()) for m in result.matrices["prediction"]] == [40 * 50, 64 * 33]
        assert_scores(result["prediction"], by_hand(tiny_gss.scores, pairs))

    def test_ignored_pixels_do_not_count(self, tiny_gss):
        mask = torch.randint(11, (1, 32, 32))
        mask[:, :10] = IGNORE
        result = evaluate(tiny_gss, TensorDataset(torch.randn(1, 3, 32, 32), mask), **QUIET)
        assert {int(m.sum()) for m in result.matrices.values()} == {22 * 32}

    def test_an_empty_data_set_is_refused(self, tiny_gss):
        with pytest.raises(ValueError, match="data set to evaluate on is empty"):
            evaluate(tiny_gss, [], **QUIET)

    @pytest.mark.slow
    def test_a_shipped_model_reaches_what_it_reached(self, scenes_gss):
        """Ten held-out streets; the record of all 200 says 86.7 and 95.5."""
        streets = Subset(create_dataset("scenes-cpu", "test"), range(10))
        result = evaluate(scenes_gss, streets, **QUIET)
        assert 0.80 < result.miou < 0.92
        assert result["reconstruction"].miou > 0.92


class TestEvaluation:
    def test_leaving_pictures_out_equals_never_having_seen_them(self, tiny_gss, pictures):
        whole = evaluate(tiny_gss, pictures, batch=1, **QUIET)
        part = evaluate(tiny_gss, Subset(pictures, [0, 1, 3]), batch=1, **QUIET)
        left = whole.scores(leave_out=[2])
        for name, scores in part.scores().items():
            assert (left[name].miou, left[name].aacc) == (scores.miou, scores.aacc)
        assert whole["prediction"].aacc != part["prediction"].aacc

    def test_the_table_says_what_the_numbers_say(self):
        matrices = torch.tensor([[[3, 1], [0, 4]], [[2, 0], [1, 1]]])
        result = Evaluation({"prediction": matrices, "pixel_head": matrices[:, [1, 0]]}, 0.0)
        assert result.miou == result["prediction"].miou == result.scores()["prediction"].miou
        assert result.miou == pytest.approx((5 / 7 + 5 / 7) / 2)
        lines = result.table("GSS-FF prediction").splitlines()
        row = next(line for line in lines if line.startswith("GSS-FF prediction"))
        assert float(row.split()[-3]) == pytest.approx(100 * result.miou, abs=0.006)
        other = next(line for line in lines if line.startswith("auxiliary pixel head"))
        scores = result["pixel_head"]
        expected = [100 * value for value in (scores.miou, scores.macc, scores.aacc)]
        assert [float(v) for v in other.split()[-3:]] == pytest.approx(expected, abs=0.006)
        assert "class 1" in result.table()
        assert "road" in Evaluation({"prediction": matrices}, 0.0, ("road", "sky")).table()

    def test_picture_accuracy(self):
        matrices = torch.tensor([[[3, 1], [0, 4]], [[0, 0], [0, 0]], [[0, 2], [0, 0]]])
        accuracies = Evaluation({"prediction": matrices}, 0.0).picture_accuracy()
        assert accuracies[0] == 7 / 8 and math.isnan(accuracies[1]) and accuracies[2] == 0

    def test_an_answer_that_is_not_there_is_named(self):
        result = Evaluation({"prediction": torch.zeros(1, 2, 2)}, 0.0)
        with pytest.raises(KeyError, match="no answer 'pixels'; there are: prediction"):
            result["pixels"]


class TestValidator:
    @pytest.mark.parametrize(
        "view", [ViewSpec(), ViewSpec(window=(32, 16)), ViewSpec(size=(48, 96))]
    )
    @pytest.mark.parametrize("model", ["gss", "pixel"])
    def test_it_looks_exactly_as_evaluate_does(self, tiny_gss, pictures, model, view):
        """A window, a size: the best weights are chosen by the figure that is reported."""
        if model == "gss":
            tiny_gss.view = view
            segmenter, network = tiny_gss, tiny_gss.prior

            def assembled(prior):
                parts = (tiny_gss.palette, tiny_gss.tokenizer, prior, tiny_gss.inverse)
                return GSS(*parts, view=view)

        else:
            segmenter = create_model(replace(TINY, view=view), model="pixel").eval()
            network = segmenter.network

            def assembled(network):
                return type(segmenter)(network, view=view)

        found = validator(assembled, pictures)(network)
        assert found == evaluate(segmenter, pictures, **QUIET).miou
        plain = evaluate(segmenter, pictures, view=ViewSpec(), **QUIET).miou
        assert (found == plain) == (view == ViewSpec())

    @pytest.mark.slow
    def test_the_loops_best_checkpoint_is_the_prior_with_the_highest_miou(
        self, pictures, tiny_gss, tmp_path
    ):
        model = tiny_gss
        training = InMemory(create_dataset(TINY, "train", transform=None))
        data = SeededAugmentation(training, train_transform(32, 32), 0)
        schedule = replace(TINY.schedule("prior"), steps=6)

        def assembled(prior):
            return GSS(model.palette, model.tokenizer, prior, model.inverse)

        options = LoopOptions(
            progress=False, validate=validator(assembled, pictures), validate_every=2
        )
        log = fit(
            SegmenterLoss(model),
            model.prior,
            data,
            schedule,
            run=RUN,
            folder=tmp_path,
            options=options,
        )
        scores = {e["step"]: e["score"] for e in log if "score" in e}
        best = load_checkpoint(tmp_path / "best.pt", RUN)
        assert list(scores) == [2, 4, 6]
        assert best["score"] == pytest.approx(max(scores.values()), rel=1e-4)
        last = evaluate(model, pictures, **QUIET).miou
        assert scores[6] == pytest.approx(last, rel=1e-4)
        model.prior.load_state_dict(best["model"])
        assert evaluate(model, pictures, **QUIET).miou == best["score"]


class TestStageOne:
    def test_evaluate_masks_takes_any_function(self):
        masks = torch.randint(3, (5, 8, 8))
        pairs = TensorDataset(torch.zeros(5, 3, 8, 8), masks)
        wrong = masks.roll(1, 2)
        result = evaluate_masks(lambda image, mask: {"prediction": mask}, pairs, 3, **QUIET)
        assert result.miou == 1
        shifted = evaluate_masks(
            lambda image, mask: {"prediction": mask.roll(1, 2)}, pairs, 3, batch=2, **QUIET
        )
        assert torch.equal(
            shifted.matrices["prediction"][4], confusion_matrix(wrong[4], masks[4], 3)
        )

    def test_a_palette_is_judged_by_nearest_colour_of_what_comes_back(self, tiny_gss):
        masks = torch.randint(11, (5, 30, 33))
        masks[0, :4] = IGNORE
        found = evaluate_palette(tiny_gss.palette, tiny_gss.tokenizer, masks, batch=2)
        metrics = SegmentationMetrics(11)
        gss = tiny_gss.with_inverse(NearestColor(tiny_gss.colors))
        third = labelled = 0
        for mask in masks:
            ids, _ = gss.reconstruct(mask[None])
            metrics.update(ids, mask[None])
            third += int(third_class_pixels(ids, mask[None], 4).sum())
            labelled += int((mask != IGNORE).sum())
        assert_scores(found.scores, metrics.compute())
        assert found.third_class == pytest.approx(third / labelled, abs=1e-3)

    def test_a_third_class_is_one_that_is_nowhere_near(self):
        mask = torch.zeros(1, 8, 8).long()
        mask[:, :, 4:] = 1
        mask[0, 0, 7] = IGNORE
        ids = mask.clone()
        ids[0, 3, 3] = 1  # next door
        ids[0, 5, 0] = 1  # too far from the border
        ids[0, 6, 6] = 2  # nowhere
        ids[0, 0, 7] = 2  # ignored
        found = third_class_pixels(ids, mask, 2)
        assert found.nonzero().tolist() == [[0, 5, 0], [0, 6, 6]]

    def test_blends_that_hit_a_third_colour_count_by_their_border(self):
        colors = torch.tensor([[0.0, 0, 0], [1, 1, 1], [0.5, 0.5, 0.5]])
        mask = torch.zeros(1, 8, 8).long()
        mask[:, :, 4:] = 1  # black meets white: the blend is class 2's grey
        border = border_lengths(mask, 3)
        rate = blend_collision_rate(colors, border)
        assert rate == float((border * blend_collisions(colors)).sum() / border.sum()) > 0
        assert blend_collision_rate(torch.tensor([[0.0, 0, 0], [1, 1, 1], [1, 0, 0]]), border) == 0

    def test_palette_is_a_module_of_any_channels(self, tiny_gss):
        palette = Palette(tiny_gss.colors.flip(0))
        masks = torch.randint(11, (2, 16, 16))
        assert evaluate_palette(palette, tiny_gss.tokenizer, masks).scores.miou >= 0
