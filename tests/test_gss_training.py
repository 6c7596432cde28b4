"""GSS in training: the targets of stage II, resized masks, and the loss."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from live_models import random_mask

from gss_lite.contracts import IGNORE
from gss_lite.data import create_dataset
from gss_lite.factory import create_model
from gss_lite.gss import GSS
from gss_lite.palette import paint
from gss_lite.presets import Schedule, get_preset
from gss_lite.training.prior import SegmenterLoss
from gss_lite.views import resize_mask

TINY = get_preset("scenes-tiny")


class TestTargets:
    def test_they_are_the_tokens_of_the_painted_mask(self, tiny_gss):
        mask = random_mask(2, 32, 48)
        targets = tiny_gss.targets(mask, torch.randn(2, 11, 8, 12))
        assert torch.equal(targets.tokens, tiny_gss.tokenizer.encode(paint(mask, tiny_gss.colors)))
        assert len(targets.tokens.unique()) >= 8
        assert torch.equal(targets.mask, mask)
        assert not targets.ignored.any()

    def test_ignored_pixels_take_the_pixel_heads_guess(self, tiny_gss):
        """Eq. 7: c̃ = M_u·c̄ + (1 − M_u)·c."""
        mask = torch.full((1, 32, 32), 3)
        mask[0, :, 13:] = IGNORE
        encode = tiny_gss.tokenizer.encode
        seen = set()
        for guess in (0, 7, 10):
            logits = torch.zeros(1, 11, 8, 8)
            logits[:, guess] = 5.0
            targets = tiny_gss.targets(mask, logits)
            filled = mask.masked_fill(mask == IGNORE, guess)
            assert torch.equal(targets.tokens, encode(paint(filled, tiny_gss.colors)))
            # The labels that are given stay, and what is ignored stays so in the mask.
            assert torch.equal(targets.mask, mask)
            seen.add(tuple(targets.tokens.flatten().tolist()))
        grey = encode(tiny_gss.palette(mask))
        assert len(seen | {tuple(grey.flatten().tolist())}) == 4

    def test_the_guess_is_enlarged_bilinearly(self, tiny_gss):
        logits = torch.randn(1, 11, 8, 8)
        mask = torch.full((1, 32, 32), IGNORE)
        big = F.interpolate(logits, size=(32, 32), mode="bilinear", align_corners=False)
        expected = tiny_gss.tokenizer.encode(paint(big.argmax(1), tiny_gss.colors))
        assert torch.equal(tiny_gss.targets(mask, logits).tokens, expected)
        nearest = F.interpolate(logits, size=(32, 32)).argmax(1)
        assert not torch.equal(tiny_gss.tokenizer.encode(paint(nearest, tiny_gss.colors)), expected)

    def test_a_token_is_ignored_only_if_all_its_pixels_are(self, tiny_gss):
        mask = torch.full((1, 32, 32), IGNORE)
        mask[0, 5, 9] = 0
        ignored = tiny_gss.targets(mask, torch.zeros(1, 11, 8, 8)).ignored
        assert ignored.sum() == 63 and not ignored[0, 1, 2]

    def test_with_stride_eight_they_are_painted_at_twice_the_crop(self, stride_8):
        mask = random_mask(1, 32, 48, cell=3)
        mask[0, :7, :9] = IGNORE
        logits = torch.randn(1, 11, 8, 12)
        targets = stride_8.targets(mask, logits)
        big = mask.repeat_interleave(2, 1).repeat_interleave(2, 2)
        assert torch.equal(targets.mask, big)
        assert targets.tokens.shape == targets.ignored.shape == (1, 8, 12)
        guess = F.interpolate(logits, size=(64, 96), mode="bilinear", align_corners=False).argmax(1)
        filled = torch.where(big == IGNORE, guess, big)
        expected = stride_8.tokenizer.encode(paint(filled, stride_8.colors))
        assert torch.equal(targets.tokens, expected)

    def test_a_mask_of_another_size_is_resized_as_one_hot_maps(self, tiny_gss):
        """At twice the size the nearest pixel gives the same; at other sizes it does not."""
        mask = random_mask(1, 21, 33, cell=1)
        found = tiny_gss.targets(mask, torch.zeros(1, 11, 8, 12)).mask
        assert torch.equal(found, resize_mask(mask, (32, 48), 11))
        nearest = F.interpolate(mask[:, None].float(), size=(32, 48))[:, 0].long()
        assert not torch.equal(found, nearest)

    def test_an_id_outside_the_classes_is_refused(self, tiny_gss):
        with pytest.raises(ValueError, match="id 11; expected 0…10"):
            tiny_gss.targets(torch.full((1, 32, 32), 11), torch.zeros(1, 11, 8, 8))

    def test_in_bfloat16_they_are_nearly_the_same_and_decode_as_well(self, scenes_gss):
        streets = create_dataset("scenes-cpu", "test")
        mask = torch.stack([streets[i][1] for i in range(6)])
        guess = torch.zeros(6, 11, 24, 32)
        tokens = [scenes_gss.targets(mask, guess, p).tokens for p in ("no", "bf16")]
        changed = float((tokens[0] != tokens[1]).float().mean())
        assert 0 < changed < 0.05
        right = [
            (scenes_gss.inverse.classify(scenes_gss.tokenizer.decode(t)) == mask)[mask != IGNORE]
            for t in tokens
        ]
        assert abs(float(right[0].float().mean() - right[1].float().mean())) < 1e-3
        # Whatever the prior trains in, the targets' precision is their own.
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(scenes_gss.targets(mask, guess).tokens, tokens[0])


class TestResizeMask:
    """One-hot, bilinear, arg-max, as in the released code."""

    def test_twice_the_size(self):
        mask = torch.tensor([[[0, 0, 1], [0, 2, 1], [IGNORE, IGNORE, 1]]])
        big = resize_mask(mask, (6, 6), 3)
        assert torch.equal(big[:, ::5, ::5], mask[:, ::2, ::2])  # the corners keep their class
        assert set(big.unique().tolist()) == {0, 1, 2, IGNORE}
        assert resize_mask(mask, (3, 3), 3) is mask

    @pytest.mark.parametrize("size", [(48, 64), (36, 48), (30, 50), (6, 8), (5, 7)])
    def test_a_pixel_takes_the_class_with_the_largest_share_around_it(self, size):
        mask = torch.randint(4, (2, 12, 16))
        mask[:, 3:5] = IGNORE
        shares = []
        for k in (0, 1, 2, 3, IGNORE):
            one = (mask == k).double()[:, None]
            shares.append(F.interpolate(one, size=size, mode="bilinear", align_corners=False))
        share = torch.cat(shares, 1)
        found = resize_mask(mask, size, 4)
        index = found.masked_fill(found == IGNORE, 4)
        largest = share.max(1).values
        torch.testing.assert_close(share.gather(1, index[:, None])[:, 0], largest)
        assert found.shape == (2, *size)
        nearest = F.interpolate(mask[:, None].float(), size=size, mode="nearest-exact")[:, 0]
        assert not torch.equal(found, nearest.long())

    def test_by_hand(self):
        # Half a pixel: each result is the majority of four.
        mask = torch.tensor([[[0, 1, 2, 2], [1, 1, 2, 0]]])
        assert resize_mask(mask, (1, 2), 3).tolist() == [[[1, 2]]]


class TestLoss:
    def test_it_is_the_weighted_sum_over_the_labelled_positions(self, tiny_gss):
        image, mask = torch.randn(2, 3, 32, 32), random_mask(2, 32, 32)
        mask[:, :, 16:] = IGNORE
        loss, scalars = tiny_gss.losses(image, mask)
        tokens, pixels = tiny_gss.prior(image)
        targets = tiny_gss.targets(mask, pixels)
        labelled = ~targets.ignored
        logits = tokens.movedim(1, -1)[labelled]
        token = F.cross_entropy(logits, targets.tokens[labelled])
        big = F.interpolate(pixels, size=(32, 32), mode="bilinear", align_corners=False)
        pixel = F.cross_entropy(big, mask, ignore_index=IGNORE)
        torch.testing.assert_close(loss, 0.8 * token + 0.2 * pixel)
        torch.testing.assert_close(scalars["token"], token.detach())
        torch.testing.assert_close(scalars["pixel"], pixel.detach())
        right = (logits.argmax(1) == targets.tokens[labelled]).float().mean()
        torch.testing.assert_close(scalars["token_accuracy"], right)
        assert abs(token.item() - pixel.item()) > 0.1  # or exchanged weights could not be seen

    def test_with_stride_eight_pixels_count_at_the_maskiges_size(self, stride_8):
        image, mask = torch.randn(1, 3, 32, 32), random_mask(1, 32, 32)
        _, scalars = stride_8.losses(image, mask)
        pixels = stride_8.prior(image).pixel_logits
        big = F.interpolate(pixels, size=(64, 64), mode="bilinear", align_corners=False)
        twice = mask.repeat_interleave(2, 1).repeat_interleave(2, 2)
        torch.testing.assert_close(scalars["pixel"], F.cross_entropy(big, twice).detach())

    def test_a_wholly_ignored_picture_gives_zero_and_not_nan(self, tiny_gss):
        loss, _ = tiny_gss.losses(torch.randn(1, 3, 32, 32), torch.full((1, 32, 32), IGNORE))
        assert loss.item() == 0.0

    @pytest.mark.parametrize("size, shape", [((64, 64), (1, 64, 32)), ((32, 32), (2, 32, 32))])
    def test_picture_and_mask_of_different_size_are_refused(self, tiny_gss, size, shape):
        with pytest.raises(ValueError, match="must be of one size"):
            tiny_gss.losses(torch.randn(1, 3, *size), torch.zeros(shape).long())

    def test_training_leaves_the_tokenizer_as_it_was(self, tiny_gss):
        gss = tiny_gss.train()
        before = {k: v.clone() for k, v in gss.tokenizer.state_dict().items()}
        assert not gss.tokenizer.training and gss.prior.training
        optimizer = torch.optim.AdamW([p for p in gss.parameters() if p.requires_grad], 1e-3)
        for _ in range(2):
            gss.losses(torch.randn(2, 3, 32, 32), random_mask(2, 32, 32))[0].backward()
            optimizer.step()
        assert all(torch.equal(v, before[k]) for k, v in gss.tokenizer.state_dict().items())
        assert all(p.grad is not None for p in gss.prior.to_tokens.parameters())
        assert all(p.grad is not None for p in gss.prior.to_classes.parameters())

    def test_stage_two_hands_on_the_targets_precision(self, tiny_gss, monkeypatch):
        asked = []
        targets = GSS.targets

        def noted(gss, mask, logits, precision="no"):
            asked.append(precision)
            return targets(gss, mask, logits, precision)

        monkeypatch.setattr(GSS, "targets", noted)
        image, mask = torch.randn(1, 3, 32, 32), random_mask(1, 32, 32)
        SegmenterLoss(tiny_gss)(image, mask)
        SegmenterLoss(tiny_gss, target_precision="bf16")(image, mask)
        assert asked == ["no", "bf16"]
        with pytest.raises(ValueError, match="got 'fp16'"):
            Schedule(steps=1, batch=1, crop=(8, 8), lr=1.0, target_precision="fp16")

    @pytest.mark.slow
    def test_a_step_of_the_preset_for_one_gpu_on_the_cpu(self):
        preset = get_preset("camvid-gpu")
        gss = create_model(preset)
        precision = preset.schedule("prior").target_precision
        loss_fn = SegmenterLoss(gss, target_precision=precision).train()
        with torch.autocast("cpu", torch.bfloat16):
            mask = torch.randint(0, 11, (2, 64, 96))
            loss, scalars = loss_fn(torch.randn(2, 3, 64, 96), mask)
        loss.backward()
        assert precision == "bf16"
        assert torch.isfinite(loss) and 4 < float(scalars["token"]) < 9  # ln 512 = 6.2
        for parameter in gss.prior.parameters():
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all()
