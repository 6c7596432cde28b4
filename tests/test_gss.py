"""GSS assembled: prediction, pictures of any size, reconstruction, and X⁻¹ exchanged."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from live_models import Brightness, padded_by_hand, random_mask
from torch import nn

from gss_lite.contracts import IGNORE, Segmenter
from gss_lite.data import create_dataset
from gss_lite.data.transforms import normalize
from gss_lite.factory import create_model
from gss_lite.gss import GSS, rebuild
from gss_lite.inference import ExpectedGSS
from gss_lite.inverse import SAME_COLOR, NearestColor
from gss_lite.inverse_fitted import ConvInverse
from gss_lite.presets import ViewSpec, fixed, get_preset
from gss_lite.views import shrink

TINY = get_preset("scenes-tiny")


class TestPredict:
    @pytest.mark.parametrize("size", [(32, 32), (45, 61), (33, 100)])
    def test_it_is_the_chain_of_its_parts_without_the_padding(self, tiny_gss, size):
        height, width = size
        image = torch.randn(2, 3, *size)
        found = tiny_gss.predict(image)
        with torch.no_grad():
            logits = tiny_gss.prior(padded_by_hand(image))
        tokens = logits.token_logits.argmax(1)
        maskige = tiny_gss.tokenizer.decode(tokens)
        sides = maskige.shape[2:]
        pixels = F.interpolate(
            logits.pixel_logits, size=sides, mode="bilinear", align_corners=False
        )
        classes = tiny_gss.inverse.classify(maskige)
        assert torch.equal(found.tokens, tokens[:, : -(-height // 4), : -(-width // 4)])
        assert torch.equal(found.maskige, maskige[:, :, :height, :width])
        assert torch.equal(found.mask, classes[:, :height, :width])
        assert torch.equal(found.pixel_mask, pixels.argmax(1)[:, :height, :width])
        assert len(found.mask.unique()) >= 4 and len(found.pixel_mask.unique()) >= 4

    @pytest.mark.parametrize("size", [(32, 48), (45, 61)])
    def test_with_stride_eight_votes_and_maskige_come_down_to_the_picture(self, stride_8, size):
        height, width = size
        image = torch.randn(1, 3, *size)
        found = stride_8.predict(image)
        padded = padded_by_hand(image)
        with torch.no_grad():
            tokens = stride_8.prior(padded).token_logits.argmax(1)
        maskige = stride_8.tokenizer.decode(tokens)
        assert maskige.shape[2:] == tuple(2 * side for side in padded.shape[2:])
        ids = stride_8.inverse.classify(maskige)
        votes = F.one_hot(ids, 11).movedim(-1, 1).float()
        half = F.avg_pool2d(votes, 2)
        assert torch.equal(found.mask, half.argmax(1)[:, :height, :width])
        expected = F.avg_pool2d(maskige, 2)[:, :, :height, :width]
        torch.testing.assert_close(found.maskige, expected)
        assert found.tokens.shape == (1, -(-height // 4), -(-width // 4))
        assert torch.equal(stride_8.predict_maskige(image), maskige)

    def test_one_photograph_gives_a_prediction_without_batch_dimension(self, tiny_gss):
        image = torch.randn(3, 45, 61)
        one, batch = tiny_gss.predict(image), tiny_gss.predict(image[None])
        for ours, theirs in zip(one, batch, strict=True):
            assert torch.equal(ours, theirs[0])
        assert one.mask.shape == one.pixel_mask.shape == (45, 61)
        assert one.maskige.shape == (3, 45, 61) and one.tokens.shape == (12, 16)

    def test_a_picture_that_is_not_normalised_is_refused(self, tiny_gss):
        with pytest.raises(ValueError, match="torch.uint8. .* use segment"):
            tiny_gss.predict(torch.zeros(3, 32, 32, dtype=torch.uint8))

    def test_scores_are_votes_and_probabilities_are_those_of_the_inverse(self, tiny_gss):
        image = torch.randn(2, 3, 45, 61)
        found = tiny_gss.predict(image)
        votes, soft = tiny_gss.scores(image), tiny_gss.probabilities(image)
        assert votes.keys() == soft.keys() == {"prediction", "pixel_head"}
        onehot = F.one_hot(found.mask, 11).movedim(-1, 1).float()
        assert torch.equal(votes["prediction"], onehot)
        inside = tiny_gss.inverse.probabilities(tiny_gss.predict_maskige(image))
        assert torch.equal(soft["prediction"], inside[:, :, :45, :61])
        for answers in (votes, soft):
            assert torch.equal(answers["prediction"].argmax(1), found.mask)
            assert torch.equal(answers["pixel_head"].argmax(1), found.pixel_mask)
            torch.testing.assert_close(answers["pixel_head"].sum(1), torch.ones(2, 45, 61))
        torch.testing.assert_close(soft["prediction"].sum(1), torch.ones(2, 45, 61))
        assert isinstance(tiny_gss, Segmenter)

    def test_no_gradient_is_kept(self, tiny_gss):
        for answer in tiny_gss.scores(torch.randn(1, 3, 32, 32)).values():
            assert not answer.requires_grad

    def test_a_scores_call_reads_the_maskige_once(self, tiny_gss, monkeypatch):
        kind = type(tiny_gss.inverse)
        classify, calls = kind.classify, []
        monkeypatch.setattr(kind, "classify", lambda *args: calls.append(1) or classify(*args))
        tiny_gss.scores(torch.randn(1, 3, 32, 64))
        assert len(calls) == 1


class TestSegment:
    """A picture file's pixels: shrunk, looked at as the preset says, and enlarged again."""

    def test_a_small_picture_is_predicted_as_it_is(self, tiny_gss):
        picture = torch.randint(256, (3, 45, 61), dtype=torch.uint8)
        found = tiny_gss.segment(picture)
        for ours, theirs in zip(found, tiny_gss.predict(normalize(picture)), strict=True):
            assert torch.equal(ours, theirs)
        assert found.mask.shape == (45, 61)

    @pytest.mark.parametrize("trained_on", [(64, 64), (64, 96), (96, 64)])
    def test_a_large_one_is_shrunk_to_the_short_side_of_training(
        self, tiny_gss, monkeypatch, trained_on
    ):
        tiny_gss.picture_size = trained_on
        seen = []
        outputs = GSS.outputs

        def noted(gss, image):
            seen.append(image)
            return outputs(gss, image)

        monkeypatch.setattr(GSS, "outputs", noted)
        picture = torch.randint(256, (3, 160, 128), dtype=torch.uint8)
        found = tiny_gss.segment(picture)
        assert [tuple(image.shape) for image in seen] == [(1, 3, 80, 64)]
        small = tiny_gss.predict(seen[0][0])
        # Every pixel of the small result is a block of the large one: no class is blended.
        for large, whole in [
            (found.mask, small.mask),
            (found.pixel_mask, small.pixel_mask),
            (found.maskige, small.maskige),
        ]:
            big = whole.repeat_interleave(2, -1).repeat_interleave(2, -2)
            assert torch.equal(large, big)
        assert torch.equal(found.tokens, small.tokens)

    @pytest.mark.parametrize("stride", [4, 8])
    @pytest.mark.parametrize(
        "view, sizes",
        [
            (ViewSpec(window=(64, 40)), [(64, 64)] * 6),  # two rows of three windows
            (ViewSpec(size=(96, 400)), [(96, 149)]),
        ],
    )
    def test_it_looks_as_the_preset_evaluates(self, view, sizes, stride):
        model = Brightness(stride, view=view)
        bright = torch.zeros(90, 140)
        bright[:45, 56:] = 255
        found = model.segment(bright.to(torch.uint8).expand(3, -1, -1))
        assert model.sizes == sizes
        right = (bright > 0).long()
        for mask in (found.mask, found.pixel_mask):
            assert mask.shape == (90, 140) and (mask == right).float().mean() > 0.95
        assert found.maskige.shape == (3, 90, 140)
        assert float((found.maskige - model.palette(right)).abs().mean()) < 0.03
        assert found.tokens is None

    def test_each_pixel_takes_the_result_at_its_own_centre(self, tiny_gss):
        """At 150 / 64 the centres of pixels fall elsewhere than their upper left corners."""
        tiny_gss.picture_size = (64, 64)
        picture = torch.randint(256, (3, 150, 150), dtype=torch.uint8)
        small = tiny_gss.predict(normalize(shrink(picture, 64)))
        centres = ((torch.arange(150) + 0.5) * 64 / 150).long()
        assert torch.equal(tiny_gss.segment(picture).mask, small.mask[centres][:, centres])

    @pytest.mark.parametrize(
        "picture",
        [
            torch.zeros(3, 8, 8),
            torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
            torch.zeros(4, 8, 8, dtype=torch.uint8),
        ],
    )
    def test_what_is_no_picture_is_refused(self, tiny_gss, picture):
        with pytest.raises(ValueError, match=r"must be uint8 \(3, H, W\)"):
            tiny_gss.segment(picture)


class TestReconstruct:
    @pytest.mark.parametrize("size", [(32, 32), (30, 41), (33, 63)])
    def test_any_size_is_padded_below_and_at_the_right(self, tiny_gss, size):
        height, width = size
        mask = random_mask(2, height, width, cell=3)
        ids, tokens = tiny_gss.reconstruct(mask)
        padded = torch.full((2, -(-height // 4) * 4, -(-width // 4) * 4), IGNORE)
        padded[:, :height, :width] = mask
        expected = tiny_gss.tokenizer.encode(tiny_gss.palette(padded))
        assert torch.equal(tokens, expected)
        maskige = tiny_gss.tokenizer.decode(expected)
        assert torch.equal(ids, tiny_gss.inverse.classify(maskige)[:, :height, :width])
        rebuilt, again = rebuild(tiny_gss.palette, tiny_gss.tokenizer, mask)
        assert torch.equal(rebuilt, maskige[:, :, :height, :width]) and torch.equal(again, tokens)
        assert len(ids.unique()) >= 4

    def test_a_trained_model_keeps_the_mask(self, scenes_gss):
        _, mask = create_dataset("scenes-cpu", "test")[0]
        cut = mask[None, 3:, 5:]
        ids, _ = scenes_gss.reconstruct(cut)
        assert (ids == cut)[cut != IGNORE].float().mean() > 0.97


class TestWithInverse:
    """An X⁻¹ trained on one model serves another, and one of other colours is refused."""

    def test_the_other_models_maskige_is_read_with_that_inverse(self, tiny_gss):
        head = fixed(**{**TINY.prior.head, "fuse_dim": 32})  # another image encoder
        second = create_model(replace(TINY, prior=replace(TINY.prior, head=head))).eval()
        inverse = ConvInverse(tiny_gss.colors, 8).eval()
        before = {k: v.clone() for k, v in second.state_dict().items()}
        merged = second.with_inverse(inverse)
        image = torch.randn(1, 3, 40, 72)
        padded = second.predict_maskige(image)
        found = merged.predict(image)
        assert torch.equal(found.maskige, padded[:, :, :40, :72])
        assert torch.equal(found.mask, inverse.classify(padded)[:, :40, :72])
        assert merged.prior is second.prior and merged.inverse is inverse and not merged.training
        assert isinstance(second.inverse, NearestColor)
        assert all(torch.equal(v, before[k]) for k, v in second.state_dict().items())

    def test_view_and_picture_size_are_kept(self):
        view = ViewSpec(window=(16, 16))
        gss = create_model(replace(TINY, view=view)).eval()
        for merged in (gss.with_inverse(ConvInverse(gss.colors, 8)), ExpectedGSS.of(gss)):
            assert merged.view == view and merged.picture_size == (64, 64)

    def test_colours_rounded_to_sixteen_bits_are_the_same_palette(self, tiny_gss):
        inverse = ConvInverse(tiny_gss.colors, 8)
        inverse.colors.copy_(inverse.colors.half())
        assert tiny_gss.with_inverse(inverse).inverse is inverse
        inverse.colors[3] += 1.5 * SAME_COLOR
        with pytest.raises(ValueError, match="another palette: 1 of 11 colours differ .class 3:"):
            tiny_gss.with_inverse(inverse)

    def test_other_classes_are_refused(self, tiny_gss):
        with pytest.raises(
            ValueError, match="trained for 10 classes and 3 channels, but the model has 11 and 3"
        ):
            tiny_gss.with_inverse(ConvInverse(tiny_gss.colors[:10], 8))

    def test_loading_weights_into_an_inverse_leaves_the_palette_alone(self, tiny_gss):
        before = tiny_gss.palette.colors.clone()
        for inverse in (ConvInverse(tiny_gss.colors, 8), tiny_gss.inverse):
            inverse.load_state_dict({**inverse.state_dict(), "colors": torch.rand(11, 3)})
        assert torch.equal(tiny_gss.palette.colors, before)
        assert torch.equal(tiny_gss.colors, before)

    def test_two_classes_exchanged_are_refused(self, tiny_gss):
        with pytest.raises(ValueError, match="2 of 11 colours differ"):
            tiny_gss.with_inverse(NearestColor(tiny_gss.colors[[1, 0, *range(2, 11)]]))

    def test_an_inverse_without_a_palette_is_refused(self, tiny_gss):
        with pytest.raises(TypeError, match="Identity cannot serve as X⁻¹.*`colors`"):
            tiny_gss.with_inverse(nn.Identity())

    def test_a_model_of_another_kind_stays_one(self, tiny_gss):
        inverse = ConvInverse(tiny_gss.colors, 8)
        assert type(ExpectedGSS.of(tiny_gss).with_inverse(inverse)) is ExpectedGSS
        assert type(tiny_gss.with_inverse(inverse)) is GSS
