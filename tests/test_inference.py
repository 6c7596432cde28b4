"""Sliding windows, flipping, sampling and entropy against brute force."""

import math

import pytest
import torch
from torch import nn

from gss_lite.factory import build_gss, build_palette
from gss_lite.gss import ExpectedGSS, expected_maskige
from gss_lite.inference import (
    class_frequencies,
    entropy_map,
    flipped,
    mask_scorer,
    multi_scale,
    painting_scorer,
    pixel_scorer,
    resized,
    sample_masks,
    sample_tokens,
    sliding,
    token_entropy,
    window_spans,
)
from gss_lite.inverse import TEMPERATURE
from gss_lite.inverse_fitted import ConvInverse, GaussianInverse, SwinInverse
from gss_lite.palette.palette import paint
from gss_lite.presets import get_preset


@pytest.fixture(scope="module")
def gss():
    torch.manual_seed(0)
    return build_gss(get_preset("scenes-tiny")).eval()


@pytest.mark.parametrize(
    "length, crop, stride, expected",
    [
        (768, 768, 512, [(0, 768)]),
        (500, 768, 512, [(0, 500)]),
        (1024, 768, 512, [(0, 768), (256, 1024)]),
        (2048, 768, 512, [(0, 768), (512, 1280), (1024, 1792), (1280, 2048)]),
        (1280, 768, 512, [(0, 768), (512, 1280)]),
    ],
)
def test_windows_lie_where_the_released_configs_put_them(length, crop, stride, expected):
    """mmsegmentation: ⌈(length − crop)/stride⌉ + 1 windows, the last one moved back inside."""
    assert window_spans(length, crop, stride) == expected


def local(image):
    """A scorer that sees single pixels only: windows must not change what it says."""
    return torch.cat([image, image.square()], 1)


def edge(image):
    """A scorer that depends on where in its window a pixel lies."""
    return image[:, :1] + torch.arange(image.shape[3]).float()


@pytest.mark.parametrize("size", [(40, 50), (16, 16), (7, 33)])
def test_windows_of_a_pixelwise_scorer_change_nothing(size):
    image = torch.randn(2, 3, *size)
    torch.testing.assert_close(sliding(local, 16, (12, 9))(image), local(image))


def test_overlaps_are_averaged():
    image = torch.zeros(1, 3, 4, 10)
    scores = sliding(edge, (4, 6), (4, 4))(image)  # windows 0…5 and 4…9
    assert scores[0, 0, 0].tolist() == [0, 1, 2, 3, (4 + 0) / 2, (5 + 1) / 2, 2, 3, 4, 5]


def test_a_resized_scorer_sees_the_fitted_picture_and_answers_for_the_whole_one():
    sizes = []

    def scorer(image):
        sizes.append(tuple(image.shape[2:]))
        return torch.stack([image[:, 0], 1 - image[:, 0]], 1)

    ramp = torch.linspace(0, 1, 60).expand(1, 3, 40, 60)
    scores = resized(scorer, (20, 80))(ramp)
    assert sizes == [(20, 30)] and scores.shape == (1, 2, 40, 60)
    torch.testing.assert_close(scores[0, 0], ramp[0, 0], atol=0.02, rtol=0)


def test_flipping_averages_both_views():
    image = torch.randn(1, 3, 4, 5)
    torch.testing.assert_close(flipped(local)(image), local(image))
    expected = image[:, :1] + (torch.arange(5).float() + torch.arange(4, -1, -1).float()) / 2
    torch.testing.assert_close(flipped(edge)(image), expected)


def test_scales_are_averaged_each_brought_back_to_the_pictures_size():
    sizes = []

    def scorer(image):
        sizes.append(tuple(image.shape[2:]))
        return torch.full_like(image[:, :2], float(image.shape[2]))

    scores = multi_scale(scorer, (0.5, 1, 1.25))(torch.rand(2, 3, 40, 60))
    assert sizes == [(20, 30), (40, 60), (50, 75)]
    torch.testing.assert_close(scores, torch.full((2, 2, 40, 60), (20 + 40 + 50) / 3))


@pytest.mark.parametrize("factors", [(), (1.0, 0.0), (-1.0,)])
def test_factors_that_are_none_or_not_positive_are_refused(factors):
    with pytest.raises(ValueError, match="one or more positive numbers; got"):
        multi_scale(local, factors)


def inverses(gss):
    torch.manual_seed(0)
    unit = torch.eye(3).expand(len(gss.colors), 3, 3)
    return [
        gss.inverse,
        ConvInverse(gss.colors, 8),
        SwinInverse(gss.colors, dim=16, ffn_dim=32),
        GaussianInverse(gss.colors, gss.colors, 0.01 * unit),
    ]


def test_every_inverse_gives_probabilities_whose_arg_max_are_its_classes(gss):
    maskige = torch.rand(2, 3, 21, 30)
    for inverse in inverses(gss):
        p = inverse.eval().probabilities(maskige)
        assert p.shape == (2, 11, 21, 30) and p.min() >= 0
        torch.testing.assert_close(p.sum(1), torch.ones(2, 21, 30))
        # equal distances are rounded either way
        assert (p.argmax(1) == inverse.classify(maskige)).float().mean() > 0.999
    squared = (maskige[:, None] - gss.colors[:, :, None, None]).square().sum(2)
    torch.testing.assert_close(
        gss.inverse.probabilities(maskige), (-squared / TEMPERATURE).softmax(1)
    )


def test_two_views_that_differ_tie_as_votes_and_not_as_probabilities(gss, monkeypatch):
    """One-hot votes of a picture and its mirror: where they differ the lower id wins, whoever was surer."""
    ramp = torch.linspace(-1, 1, 64)
    # a model that knows left from right
    monkeypatch.setattr(gss, "predict_maskige", lambda image: (image + ramp).sigmoid())
    image = torch.randn(1, 3, 32, 64, generator=torch.Generator().manual_seed(1))
    plain, mirrored = (mask_scorer(gss, soft=True)(view) for view in (image, image.flip(-1)))
    mirrored = mirrored.flip(-1)
    differ = plain.argmax(1) != mirrored.argmax(1)
    lower = torch.minimum(plain.argmax(1), mirrored.argmax(1))[differ]
    assert differ.sum() > 100
    assert torch.equal(flipped(mask_scorer(gss))(image).argmax(1)[differ], lower)
    soft = flipped(mask_scorer(gss, soft=True))(image)
    torch.testing.assert_close(soft, (plain + mirrored) / 2)
    assert 0.2 < (soft.argmax(1)[differ] == lower).float().mean() < 0.8


@pytest.mark.parametrize("stride", [0, 17])
def test_a_stride_that_leaves_gaps_is_refused(stride):
    with pytest.raises(ValueError, match=f"at most the window.*window 16 and stride {stride}"):
        sliding(local, 16, stride)


@pytest.mark.parametrize("size", [(32, 64), (45, 50)])
def test_scorers_agree_with_predict(gss, size):
    image = torch.randn(1, 3, *size)
    result = gss.predict(image)
    assert torch.equal(mask_scorer(gss)(image).argmax(1), result.mask)
    scores = pixel_scorer(gss)(image)
    assert scores.shape == (1, 11, *size) and torch.equal(scores.argmax(1), result.pixel_mask)
    torch.testing.assert_close(scores.sum(1), torch.ones(1, *size))
    assert sliding(flipped(mask_scorer(gss)), 32, 16)(image).shape == (1, 11, *size)
    votes, painted = painting_scorer(gss)(image).split([11, 3], 1)
    assert torch.equal(votes, mask_scorer(gss)(image)) and torch.equal(
        painted, result.maskige[:, :, : size[0], : size[1]]
    )


def test_a_scorer_reads_a_maskige_once(gss, monkeypatch):
    classify, calls = type(gss.inverse).classify, []
    monkeypatch.setattr(
        type(gss.inverse),
        "classify",
        lambda self, maskige: calls.append(1) or classify(self, maskige),
    )
    for scorer in (mask_scorer(gss), painting_scorer(gss)):
        scorer(torch.randn(1, 3, 32, 64))
    assert len(calls) == 2


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_tokens_are_drawn_from_the_tempered_softmax(temperature):
    logits = torch.tensor([1.0, 0.0, -2.0, 0.5])[None, :, None, None].expand(1, 4, 200, 200)
    tokens = sample_tokens(logits, temperature, torch.Generator().manual_seed(0))
    counted = torch.bincount(tokens.flatten(), minlength=4) / tokens.numel()
    # 4 standard errors
    torch.testing.assert_close(
        counted, (logits[0, :, 0, 0] / temperature).softmax(0), atol=0.01, rtol=0
    )
    assert torch.equal(tokens, sample_tokens(logits, temperature, torch.Generator().manual_seed(0)))


def test_a_temperature_near_zero_is_the_arg_max(gss):
    image = torch.randn(1, 3, 45, 32)
    masks = sample_masks(gss, image, 3, 1e-6)
    assert masks.shape == (3, 1, 45, 32) and (masks == gss.predict(image).mask).all()
    with pytest.raises(ValueError, match="above 0; got 0"):
        sample_masks(gss, image, 1, 0)


class Direct(nn.Module):
    """A tokenizer whose token k is a 4 × 4 patch of class k's colour: tokens and classes are the same thing."""

    vocab_size, stride = 11, 4

    def __init__(self, colors):
        super().__init__()
        self.colors = colors

    def decode(self, tokens):
        return paint(tokens.repeat_interleave(4, 1).repeat_interleave(4, 2), self.colors)


def test_frequencies_of_samples_are_the_models_probabilities():
    torch.manual_seed(0)
    palette = build_palette(get_preset("scenes-tiny"))
    gss = build_gss(get_preset("scenes-tiny"), Direct(palette.colors)).eval()
    torch.nn.init.normal_(gss.prior.to_tokens.weight, std=2.0)
    image = torch.randn(1, 3, 32, 32)
    for temperature in (0.5, 2.0):
        masks = sample_masks(gss, image, 800, temperature, torch.Generator().manual_seed(0))
        shares = class_frequencies(masks, 11)
        exact = (gss.prior(image).token_logits / temperature).softmax(1).detach()
        exact = exact.repeat_interleave(4, 2).repeat_interleave(4, 3)
        # five standard errors of a share
        torch.testing.assert_close(shares, exact, atol=0.09, rtol=0)
        assert float((shares - exact).abs().mean()) < 0.01
        torch.testing.assert_close(entropy_map(shares), entropy_map(exact), atol=0.15, rtol=0)


def test_frequencies_and_entropy_by_hand():
    # 4 samples of one 1 × 2 picture
    masks = torch.tensor([[[[0, 1]]], [[[0, 2]]], [[[0, 1]]], [[[0, 1]]]])
    shares = class_frequencies(masks, 3)
    assert shares[0, :, 0].T.tolist() == [[1, 0, 0], [0, 0.75, 0.25]]
    expected = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    torch.testing.assert_close(entropy_map(shares)[0, 0], torch.tensor([0.0, expected]))


def test_token_entropy_is_that_of_the_softmax():
    logits = 5 * torch.randn(2, 9, 3, 4)
    p = logits.double().softmax(1)
    torch.testing.assert_close(
        token_entropy(logits).double(), -(p * p.log()).sum(1), atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(
        token_entropy(torch.zeros(1, 9, 1, 1)), torch.full((1, 1, 1), math.log(9))
    )
    sure = torch.zeros(1, 9, 1, 1).index_fill_(1, torch.tensor(2), 1e4)
    assert token_entropy(sure) == 0


def expected(gss):
    return ExpectedGSS(gss.palette, gss.tokenizer, gss.prior, gss.inverse).eval()


def test_expected_codes_change_the_maskige_and_nothing_else(gss):
    image = torch.randn(2, 3, 50, 70)
    plain, ours = gss.predict(image), expected(gss).predict(image)
    padded = torch.nn.functional.pad(image, (0, 26, 0, 14), mode="replicate")  # to multiples of 32
    with torch.no_grad():
        maskige = expected_maskige(gss.prior(padded).token_logits, gss.tokenizer)
    torch.testing.assert_close(ours.maskige, maskige)
    assert torch.equal(ours.mask, gss.inverse.classify(maskige)[:, :50, :70])
    assert torch.equal(ours.tokens, plain.tokens) and torch.equal(ours.pixel_mask, plain.pixel_mask)
    assert float((ours.maskige - plain.maskige).abs().max()) > 1e-3
    scores = mask_scorer(expected(gss))(image)
    assert torch.equal(scores.argmax(1), ours.mask)


def test_a_prior_that_is_sure_expects_what_it_predicts(gss):
    scale = gss.prior.to_tokens.weight.detach().clone()
    with torch.no_grad():
        gss.prior.to_tokens.weight.mul_(1e8)
    image = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(
        expected(gss).predict(image).maskige, gss.predict(image).maskige, atol=1e-3, rtol=0
    )
    with torch.no_grad():
        gss.prior.to_tokens.weight.copy_(scale)


def test_reconstruction_knows_its_tokens(gss):
    mask = torch.randint(11, (1, 32, 32))
    for ours, plain in zip(expected(gss).reconstruct(mask), gss.reconstruct(mask), strict=True):
        assert torch.equal(ours, plain)
