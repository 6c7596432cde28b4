"""The discriminative twin: what it shares with GSS, its loss, prediction, training, evaluation."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from live_models import padded_by_hand

from gss_lite.baselines.pixel import PixelTwin
from gss_lite.contracts import IGNORE, Segmenter
from gss_lite.data import create_dataset
from gss_lite.evaluation import evaluate
from gss_lite.factory import create_model, create_prior
from gss_lite.metrics import SegmentationMetrics
from gss_lite.presets import ViewSpec, get_preset
from gss_lite.training import LoopOptions, train

TINY = get_preset("scenes-tiny")


@pytest.fixture(scope="module")
def twin():
    return create_model(TINY, model="pixel").eval()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pixel")
    options = LoopOptions(progress=False)
    return train(TINY, folder, stage="pixel", options=options, command="test").folder


@pytest.mark.parametrize("name", ["scenes-tiny", "scenes-cpu"])
def test_only_the_last_layer_differs_from_the_prior(name):
    twin = create_model(name, model="pixel")
    ours = {k: v.shape for k, v in twin.network.state_dict().items()}
    theirs = {k: v.shape for k, v in create_prior(name).state_dict().items()}
    assert ours.keys() == theirs.keys()
    assert {k for k in ours if ours[k] != theirs[k]} == {"to_tokens.weight", "to_tokens.bias"}


def test_the_loss_is_per_pixel_at_the_masks_size(twin):
    image, mask = torch.randn(2, 3, 32, 48), torch.randint(11, (2, 32, 48))
    mask[:, :5] = IGNORE
    loss, scalars = twin.losses(image, mask)
    labelled = mask != IGNORE
    parts = []
    for logits in twin.network(image):
        big = F.interpolate(logits, scale_factor=4, mode="bilinear", align_corners=False)
        big = big.movedim(1, -1)
        parts.append(F.cross_entropy(big[labelled], mask[labelled]))
        if len(parts) == 1:
            accuracy = (big.argmax(-1) == mask)[labelled].float().mean()
    torch.testing.assert_close(loss, 0.8 * parts[0] + 0.2 * parts[1])
    torch.testing.assert_close(scalars["classifier"], parts[0].detach())
    torch.testing.assert_close(scalars["pixel"], parts[1].detach())
    torch.testing.assert_close(scalars["pixel_accuracy"], accuracy)
    assert abs(parts[0].item() - parts[1].item()) > 1e-3
    with pytest.raises(ValueError, match="id 11"):
        twin.losses(image, torch.full((2, 32, 48), 11))


def test_a_wholly_ignored_picture_gives_zero_and_not_nan(twin):
    loss, _ = twin.losses(torch.randn(1, 3, 32, 32), torch.full((1, 32, 32), IGNORE))
    assert loss.item() == 0.0


@pytest.mark.parametrize("size", [(32, 32), (45, 61)])
def test_scores_are_the_soft_max_of_both_heads_without_the_padding(twin, size):
    image = torch.randn(2, 3, *size)
    scores = twin.scores(image)
    padded = padded_by_hand(image)
    with torch.no_grad():
        heads = twin.network(padded)
    for name, logits in zip(("prediction", "pixel_head"), heads, strict=True):
        big = F.interpolate(logits, size=padded.shape[2:], mode="bilinear", align_corners=False)
        expected = big.softmax(1)[:, :, : size[0], : size[1]]
        torch.testing.assert_close(scores[name], expected)
    assert isinstance(twin, Segmenter) and not scores["prediction"].requires_grad


def test_training_lowers_the_loss_and_leaves_weights_and_a_record(run):
    record = json.loads((run / "scenes-tiny.pixel.json").read_text())
    assert record["kind"] == "train pixel" and record["schedule"]["steps"] == 12
    last = record["log"][-1]
    assert last["loss"] < 2.5
    assert {"classifier", "pixel", "pixel_accuracy"} <= last.keys()
    twin = create_model(TINY, pretrained=run, model="pixel")
    assert isinstance(twin, PixelTwin) and not twin.training
    assert twin.view == TINY.view
    with pytest.raises(FileNotFoundError, match="no weights at"):
        create_model(TINY, pretrained=run / "nowhere", model="pixel")


def test_evaluation_is_the_metrics_of_its_scores(run):
    twin = create_model(TINY, pretrained=run, model="pixel")
    dataset = create_dataset(TINY, "test")
    result = evaluate(twin, dataset, batch=1, progress=False)
    metrics = SegmentationMetrics(11)
    for image, mask in dataset:
        metrics.update(twin.scores(image[None])["prediction"].argmax(1), mask[None])
    assert len(result) == len(dataset) and result.miou == metrics.compute().miou
    assert set(result.scores()) == {"prediction", "pixel_head"}


def test_it_is_looked_at_as_its_preset_says():
    view = ViewSpec(window=(32, 16))
    assert create_model(replace(TINY, view=view), model="pixel").view == view


def test_a_network_for_tokens_is_no_twin():
    with pytest.raises(ValueError, match="32 and 11 classes.*vocab_size = num_classes"):
        PixelTwin(create_prior(TINY))


def test_a_tokenizer_alone_has_no_twin():
    with pytest.raises(ValueError, match="tokenizer alone"):
        create_model("generic-s4", model="pixel")


def test_it_has_no_inverse():
    with pytest.raises(ValueError, match="paints no maskige and has no X⁻¹"):
        create_model(TINY, model="pixel", inverse="ft")
