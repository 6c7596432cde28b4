"""The discriminative twin: what it shares with GSS, its loss, prediction, training and evaluation."""

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from gss_lite.baselines.pixel import PixelTwin, build_twin, load_twin
from gss_lite.contracts import IGNORE
from gss_lite.data import dataset_for
from gss_lite.data.transforms import eval_transform
from gss_lite.evaluation import evaluate_pixel
from gss_lite.factory import build_gss
from gss_lite.metrics import SegmentationMetrics
from gss_lite.presets import get_preset
from gss_lite.training.prior import train_pixel

TINY = get_preset("scenes-tiny")


@pytest.fixture(scope="module")
def twin():
    torch.manual_seed(0)
    return build_twin(TINY).eval()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pixel")
    return folder, train_pixel(TINY, folder, progress=False, command="test")


@pytest.mark.parametrize("name", ["scenes-tiny", "scenes-cpu"])
def test_only_the_last_layer_differs_from_the_prior(name):
    preset = replace(get_preset(name), palette="greedy")
    ours = {k: v.shape for k, v in build_twin(preset).network.state_dict().items()}
    theirs = {k: v.shape for k, v in build_gss(preset).prior.state_dict().items()}
    assert ours.keys() == theirs.keys()
    assert {k for k in ours if ours[k] != theirs[k]} == {"to_tokens.weight", "to_tokens.bias"}


def test_the_loss_is_per_pixel_at_the_masks_size(twin):
    image, mask = torch.randn(2, 3, 32, 48), torch.randint(11, (2, 32, 48))
    mask[:, :5] = IGNORE
    loss, scalars = twin.losses(image, mask)
    parts = []
    for logits in twin.network(image):
        big = F.interpolate(logits, scale_factor=4, mode="bilinear", align_corners=False).movedim(
            1, -1
        )
        parts.append(F.cross_entropy(big[mask != IGNORE], mask[mask != IGNORE]))
        if len(parts) == 1:
            accuracy = (big.argmax(-1) == mask)[mask != IGNORE].float().mean()
    torch.testing.assert_close(loss, 0.8 * parts[0] + 0.2 * parts[1])
    torch.testing.assert_close(scalars["classifier"], parts[0].detach())
    torch.testing.assert_close(scalars["pixel_accuracy"], accuracy)
    with pytest.raises(ValueError, match="id 11"):
        twin.losses(image, torch.full((2, 32, 48), 11))


@pytest.mark.parametrize("size", [(32, 32), (45, 61)])
def test_prediction_has_the_pictures_size(twin, size):
    image = torch.randn(2, 3, *size)
    result, scores = twin.predict(image), twin.scores(image)
    assert result.mask.shape == result.pixel_mask.shape == (2, *size)
    assert torch.equal(scores.argmax(1), result.mask)
    torch.testing.assert_close(scores.sum(1), torch.ones(2, *size))


def test_training_lowers_the_loss_and_leaves_weights_and_a_record(trained):
    folder, twin = trained
    record = json.loads((folder / "scenes-tiny.pixel.json").read_text())
    assert record["kind"] == "train pixel" and record["schedule"]["steps"] == 12
    assert (
        record["log"][-1]["loss"] < 2.5
        and {"classifier", "pixel", "pixel_accuracy"} <= record["log"][-1].keys()
    )
    again = load_twin(TINY, folder)
    assert all(
        torch.equal(v, again.network.state_dict()[k]) for k, v in twin.network.state_dict().items()
    )
    with pytest.raises(FileNotFoundError, match="no weights at"):
        load_twin(TINY, folder / "nowhere")


def test_evaluation_is_the_metrics_of_its_predictions(trained):
    dataset = dataset_for(TINY, "test", transform=eval_transform())
    result = evaluate_pixel(trained[1], dataset, batch=3, progress=False)
    metrics = SegmentationMetrics(11)
    for image, mask in dataset:
        metrics.update(trained[1].predict(image[None]).mask, mask[None])
    assert (
        len(result) == len(dataset) and result.scores()["prediction"].miou == metrics.compute().miou
    )
    assert set(result.scores()) == {"prediction", "pixel_head"}


def test_a_network_for_tokens_is_no_twin():
    with pytest.raises(ValueError, match="32 and 11 classes.*vocab_size = num_classes"):
        PixelTwin(build_gss(TINY).prior)


def test_a_tokenizer_alone_has_no_twin():
    with pytest.raises(ValueError, match="tokenizer alone"):
        build_twin(get_preset("generic-s4"))
