"""Views against brute force: windows, mirror images, scales, sizes, one run of the network each."""

from __future__ import annotations

import pytest
import torch

from gss_lite.baselines.pixel import PixelTwin
from gss_lite.factory import create_model
from gss_lite.inverse import TEMPERATURE
from gss_lite.inverse_fitted import ConvInverse, GaussianInverse, SwinInverse
from gss_lite.presets import ViewSpec, get_preset
from gss_lite.prior import Prior
from gss_lite.views import (
    flipped,
    multi_scale,
    pad_to_multiple,
    resize_to_image,
    resized,
    shrink,
    sliding,
    view_of,
    window_spans,
)


def local(image):
    """A look that sees single pixels only: windows must not change what it says."""
    return {"a": torch.cat([image, image.square()], 1), "b": image[:, :1].exp()}


def edge(image):
    """A look whose answer depends on where in its window a pixel lies."""
    return {"a": image[:, :1] + torch.arange(image.shape[3]).float()}


class Noted:
    """A look that notes the sizes of the pictures it is given."""

    def __init__(self, look=local):
        self.look = look
        self.sizes = []

    def __call__(self, image):
        self.sizes.append(tuple(image.shape[2:]))
        return self.look(image)


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, values in found.items():
        torch.testing.assert_close(values, expected[name])


class TestSliding:
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
    def test_windows_lie_where_the_released_configs_put_them(self, length, crop, stride, expected):
        """mmsegmentation: ⌈(length − crop)/stride⌉ + 1 windows, the last one moved back inside."""
        assert window_spans(length, crop, stride) == expected

    @pytest.mark.parametrize("size", [(40, 50), (16, 16), (7, 33)])
    def test_windows_of_a_pixelwise_look_change_nothing(self, size):
        image = torch.randn(2, 3, *size)
        assert_same(sliding(local, 16, (12, 9))(image), local(image))

    def test_overlaps_are_averaged(self):
        image = torch.zeros(1, 3, 4, 10)
        answers = sliding(edge, (4, 6), (4, 4))(image)["a"]  # windows 0…5 and 4…9
        expected = [0, 1, 2, 3, (4 + 0) / 2, (5 + 1) / 2, 2, 3, 4, 5]
        assert answers[0, 0].tolist() == [expected] * 4

    @pytest.mark.parametrize("crop, stride, windows", [(16, 16, 4), (32, 8, 1), ((16, 32), 16, 2)])
    def test_each_window_is_looked_at_once(self, crop, stride, windows):
        look = Noted()
        sliding(look, crop, stride)(torch.randn(1, 3, 32, 32))
        height, width = (crop, crop) if isinstance(crop, int) else crop
        assert look.sizes == [(height, width)] * windows

    @pytest.mark.parametrize("stride", [0, 17])
    def test_a_stride_that_leaves_gaps_is_refused(self, stride):
        with pytest.raises(ValueError, match=f"at most the window.*window 16 and stride {stride}"):
            sliding(local, 16, stride)


class TestFlipped:
    def test_both_views_are_averaged_the_mirrored_one_mirrored_back(self):
        image = torch.randn(1, 3, 4, 5)
        assert_same(flipped(local)(image), local(image))
        ramp = torch.arange(5).float()
        expected = image[:, :1] + (ramp + ramp.flip(0)) / 2
        assert_same(flipped(edge)(image), {"a": expected})

    def test_the_picture_is_mirrored_left_to_right(self):
        seen = []

        def look(image):
            seen.append(image)
            return {"a": image}

        image = torch.randn(1, 3, 4, 5)
        flipped(look)(image)
        assert torch.equal(seen[0], image) and torch.equal(seen[1], image.flip(3))
        assert len(seen) == 2


class TestScales:
    def test_they_are_averaged_each_brought_back_to_the_pictures_size(self):
        look = Noted(lambda image: {"a": torch.full_like(image[:, :2], float(image.shape[2]))})
        answers = multi_scale(look, (0.5, 1, 1.25))(torch.rand(2, 3, 40, 60))
        assert look.sizes == [(20, 30), (40, 60), (50, 75)]
        assert_same(answers, {"a": torch.full((2, 2, 40, 60), (20 + 40 + 50) / 3)})

    @pytest.mark.parametrize("factors", [(), (1.0, 0.0), (-1.0,)])
    def test_factors_that_are_none_or_not_positive_are_refused(self, factors):
        with pytest.raises(ValueError, match="one or more positive numbers; got"):
            multi_scale(local, factors)


class TestSize:
    def test_the_look_sees_the_fitted_picture_and_answers_for_the_whole_one(self):
        look = Noted(lambda image: {"a": torch.stack([image[:, 0], 1 - image[:, 0]], 1)})
        ramp = torch.linspace(0, 1, 60).expand(1, 3, 40, 60)
        answers = resized(look, (20, 80))(ramp)["a"]
        assert look.sizes == [(20, 30)] and answers.shape == (1, 2, 40, 60)
        torch.testing.assert_close(answers[0, 0], ramp[0, 0], atol=0.02, rtol=0)

    @pytest.mark.parametrize(
        "sides, seen", [((100, 200), (80, 160)), ((200, 100), (160, 80)), ((80, 90), (80, 90))]
    )
    def test_shrink_brings_the_short_side_down_and_never_up(self, sides, seen):
        picture = torch.randint(256, (3, *sides), dtype=torch.uint8)
        assert shrink(picture, 80).shape == (3, *seen)
        assert shrink(picture, 500) is picture

    @pytest.mark.parametrize("sides", [(32, 64), (33, 40)])
    def test_padding_is_put_on_and_cut_off_below_and_at_the_right(self, sides):
        image = torch.randn(1, 3, *sides)
        padded = pad_to_multiple(image)
        assert padded.shape[2] % 32 == padded.shape[3] % 32 == 0
        assert torch.equal(padded[:, :, : sides[0], : sides[1]], image)
        assert torch.equal(resize_to_image(padded, sides), image)
        twice = padded.repeat_interleave(2, 2).repeat_interleave(2, 3)
        torch.testing.assert_close(resize_to_image(twice, sides), image)


class TestViewOf:
    def test_the_size_is_outermost_then_scales_then_windows_then_the_mirror_image(self):
        look = Noted()
        spec = ViewSpec(window=(16, 16), size=(32, 128))
        view_of(spec, flip=True)(look)(torch.rand(1, 3, 64, 128))
        # Brought to 32 × 64, in windows of 16, each with its mirror image.
        assert look.sizes == [(16, 16)] * 2 * 2 * 4
        look.sizes.clear()
        view_of(spec, flip=True, scales=(0.5, 1.0))(look)(torch.rand(1, 3, 64, 128))
        assert look.sizes == [(16, 16)] * 2 * (2 + 2 * 4)  # and the same at half that size first

    def test_nothing_asked_is_the_look_itself(self):
        assert view_of(ViewSpec())(local) is local
        assert view_of(ViewSpec(), scales=[1.0])(local) is local

    def test_a_single_scale_is_a_scale_too(self):
        look = Noted()
        view_of(ViewSpec(), scales=(0.5,))(look)(torch.rand(1, 3, 40, 60))
        assert look.sizes == [(20, 30)]

    def test_the_presets_say_how_they_are_looked_at(self):
        assert get_preset("ade20k-swin-l").view == ViewSpec(size=(512, 2048), multiple=1)
        assert get_preset("cityscapes-swin-l").view == ViewSpec(window=(768, 512), multiple=1)
        assert get_preset("camvid").view == ViewSpec()


@pytest.fixture
def encodings(monkeypatch):
    """The sizes of the pictures that a prior was run on: its backbone runs once for each."""
    seen = []
    encode = Prior.encode

    def noted(prior, image):
        seen.append(tuple(image.shape[2:]))
        return encode(prior, image)

    monkeypatch.setattr(Prior, "encode", noted)
    return seen


LOOKS = [
    ({}, 1),
    ({"flip": True}, 2),
    ({"scales": (1.0, 1.5)}, 2),
    ({"spec": ViewSpec(window=(32, 32))}, 4),
    ({"spec": ViewSpec(size=(32, 32))}, 1),
    ({"spec": ViewSpec(window=(32, 32)), "flip": True}, 8),
]


class TestOneRunALook:
    @pytest.mark.parametrize("how, times", LOOKS)
    @pytest.mark.parametrize("model", ["gss", "pixel"])
    def test_two_answers_cost_one_run(self, encodings, tiny_gss, model, how, times):
        segmenter = (
            tiny_gss if model == "gss" else create_model("scenes-tiny", model="pixel").eval()
        )
        image = torch.randn(1, 3, 64, 64)
        view = view_of(how.get("spec", ViewSpec()), how.get("flip", False), how.get("scales", (1,)))
        for look in (segmenter.scores, segmenter.probabilities):
            encodings.clear()
            answers = view(look)(image)
            assert len(encodings) == times
            assert {"prediction", "pixel_head"} == answers.keys()
            assert answers["prediction"].shape == (1, 11, 64, 64)

    def test_predict_segment_and_losses_run_it_once(self, encodings, tiny_gss):
        image = torch.randn(1, 3, 64, 64)
        tiny_gss.predict(image)
        tiny_gss.segment(torch.zeros(3, 64, 64, dtype=torch.uint8))
        tiny_gss.losses(image, torch.zeros(1, 64, 64).long())
        assert len(encodings) == 3
        tiny_gss.reconstruct(torch.zeros(1, 64, 64).long())
        assert len(encodings) == 3

    def test_segment_looks_through_windows_with_one_run_each(self, encodings, tiny_gss):
        tiny_gss.view = ViewSpec(window=(32, 32))
        tiny_gss.segment(torch.zeros(3, 64, 64, dtype=torch.uint8))
        assert encodings == [(32, 32)] * 4


class TestModels:
    @pytest.mark.parametrize("size", [(32, 64), (45, 50)])
    def test_views_of_a_model_keep_the_pictures_size(self, tiny_gss, size):
        image = torch.randn(1, 3, *size)
        answers = sliding(flipped(tiny_gss.probabilities), 32, 16)(image)
        for values in answers.values():
            assert values.shape == (1, 11, *size)
            torch.testing.assert_close(values.sum(1), torch.ones(1, *size))

    def test_every_inverse_gives_probabilities_whose_arg_max_are_its_classes(self, tiny_gss):
        maskige = torch.rand(2, 3, 21, 30)
        colors = tiny_gss.colors
        unit = torch.eye(3).expand(len(colors), 3, 3)
        for inverse in [
            tiny_gss.inverse,
            ConvInverse(colors, 8),
            SwinInverse(colors, dim=16, ffn_dim=32),
            GaussianInverse(colors, colors, 0.01 * unit),
        ]:
            p = inverse.eval().probabilities(maskige)
            assert p.shape == (2, 11, 21, 30) and p.min() >= 0
            torch.testing.assert_close(p.sum(1), torch.ones(2, 21, 30))
            # equal distances are rounded either way
            assert (p.argmax(1) == inverse.classify(maskige)).float().mean() > 0.999
        squared = (maskige[:, None] - colors[:, :, None, None]).square().sum(2)
        expected = (-squared / TEMPERATURE).softmax(1)
        torch.testing.assert_close(tiny_gss.inverse.probabilities(maskige), expected)

    def test_two_views_that_differ_tie_as_votes_and_not_as_probabilities(self, tiny_gss):
        """One-hot votes of a picture and its mirror image: where they differ the lower id wins."""
        image = torch.randn(1, 3, 32, 64)
        plain = tiny_gss.probabilities(image)["prediction"]
        mirrored = tiny_gss.probabilities(image.flip(-1))["prediction"].flip(-1)
        differ = plain.argmax(1) != mirrored.argmax(1)
        lower = torch.minimum(plain.argmax(1), mirrored.argmax(1))[differ]
        assert differ.sum() > 100
        votes = flipped(tiny_gss.scores)(image)["prediction"]
        assert torch.equal(votes.argmax(1)[differ], lower)
        soft = flipped(tiny_gss.probabilities)(image)["prediction"]
        torch.testing.assert_close(soft, (plain + mirrored) / 2)
        assert (soft.argmax(1)[differ] == lower).float().mean() < 0.9

    def test_the_twin_gives_the_same_for_scores_and_probabilities(self):
        twin = create_model("scenes-tiny", model="pixel").eval()
        assert isinstance(twin, PixelTwin)
        image = torch.randn(1, 3, 32, 64)
        assert_same(twin.scores(image), twin.probabilities(image))
