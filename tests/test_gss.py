"""GSS assembled: targets with ignored pixels, the loss, prediction, what stays frozen."""

import pytest
import torch
import torch.nn.functional as F

from gss_lite.contracts import IGNORE
from gss_lite.data.scenes import Scenes
from gss_lite.factory import build_gss, load_gss
from gss_lite.gss import resize_mask
from gss_lite.palette.palette import paint
from gss_lite.presets import get_preset
from gss_lite.training.prior import PriorStage


@pytest.fixture(scope="module")
def gss():
    torch.manual_seed(0)
    return build_gss(get_preset("scenes-tiny")).eval()


def test_targets_are_the_tokens_of_the_painted_mask(gss):
    mask = torch.randint(0, 11, (2, 32, 48))
    targets = gss.targets(mask, torch.randn(2, 11, 8, 12))
    assert torch.equal(targets.tokens, gss.tokenizer.encode(paint(mask, gss.colors)))
    assert not targets.ignored.any()


def test_ignored_pixels_take_the_pixel_branchs_guess(gss):
    """Eq. 7: c̃ = M_u·c̄ + (1 − M_u)·c."""
    mask = torch.full((1, 32, 32), 3)
    mask[0, :, 13:] = IGNORE
    logits = torch.zeros(1, 11, 8, 8)
    logits[:, 7] = 5.0
    filled = mask.masked_fill(mask == IGNORE, 7)
    assert torch.equal(
        gss.targets(mask, logits).tokens, gss.tokenizer.encode(paint(filled, gss.colors))
    )


def test_a_token_is_ignored_only_if_all_its_pixels_are(gss):
    mask = torch.full((1, 32, 32), IGNORE)
    mask[0, 5, 9] = 0
    ignored = gss.targets(mask, torch.zeros(1, 11, 8, 8)).ignored
    assert ignored.sum() == 63 and not ignored[0, 1, 2]


def test_stride_eight_targets_are_painted_at_twice_the_crop():
    from dataclasses import replace

    preset = replace(
        get_preset("scenes-tiny"),
        tokenizer={"vocab_size": 16, "stride": 8, "width": 16, "depth": 1},
    )
    model = build_gss(preset).eval()
    targets = model.targets(torch.randint(0, 11, (1, 32, 48)), torch.zeros(1, 11, 8, 12))
    assert targets.mask.shape == (1, 64, 96) and targets.tokens.shape == (1, 8, 12)
    assert model.predict(torch.randn(1, 3, 32, 48)).mask.shape == (1, 32, 48)


def test_loss_is_the_weighted_sum_over_the_labelled_positions(gss):
    image, mask = torch.randn(2, 3, 32, 32), torch.randint(0, 11, (2, 32, 32))
    mask[:, :, 16:] = IGNORE
    loss, scalars = gss.losses(image, mask)
    tokens, pixels = gss.prior(image)
    targets = gss.targets(mask, pixels)
    labelled = ~targets.ignored
    token = (
        F.cross_entropy(tokens.movedim(1, -1)[labelled], targets.tokens[labelled], reduction="sum")
        / labelled.sum()
    )
    big = F.interpolate(pixels, size=(32, 32), mode="bilinear", align_corners=False)
    pixel = F.cross_entropy(big, mask, ignore_index=IGNORE)
    torch.testing.assert_close(loss, 0.8 * token + 0.2 * pixel)
    torch.testing.assert_close(scalars["token"], token.detach())


def test_a_wholly_ignored_picture_gives_a_zero_loss_not_nan(gss):
    loss, _ = gss.losses(torch.randn(1, 3, 32, 32), torch.full((1, 32, 32), IGNORE))
    assert loss.item() == 0.0


def test_training_leaves_the_tokenizer_as_it_was():
    torch.manual_seed(0)
    gss = build_gss(get_preset("scenes-tiny")).train()
    before = {k: v.clone() for k, v in gss.tokenizer.state_dict().items()}
    assert not gss.tokenizer.training
    optimizer = torch.optim.AdamW([p for p in gss.parameters() if p.requires_grad], 1e-3)
    for _ in range(2):
        gss.losses(torch.randn(2, 3, 32, 32), torch.randint(0, 11, (2, 32, 32)))[0].backward()
        optimizer.step()
    assert all(torch.equal(v, before[k]) for k, v in gss.tokenizer.state_dict().items())
    assert all(p.grad is not None for p in gss.prior.to_tokens.parameters())


@pytest.mark.parametrize("size", [(32, 32), (45, 61), (33, 100)])
def test_prediction_has_the_size_of_the_picture_whatever_it_is(gss, size):
    result = gss.predict(torch.randn(2, 3, *size))
    assert result.mask.shape == result.pixel_mask.shape == (2, *size)
    assert result.mask.min() >= 0 and result.mask.max() < 11


def test_prediction_is_the_chain_of_its_parts(gss):
    image = torch.randn(1, 3, 64, 64)
    result = gss.predict(image)
    tokens = gss.prior(image).token_logits.argmax(1)
    assert torch.equal(result.tokens, tokens)
    assert torch.equal(result.mask, gss.inverse.classify(gss.tokenizer.decode(tokens)))


def test_reconstruct_takes_any_size(gss):
    mask = torch.randint(0, 11, (1, 30, 41))
    ids, tokens = gss.reconstruct(mask)
    assert ids.shape == mask.shape and tokens.shape == (1, 8, 11)


def test_resize_mask_doubles_like_the_released_code():
    mask = torch.tensor([[[0, 0, 1], [0, 2, 1], [IGNORE, IGNORE, 1]]])
    big = resize_mask(mask, (6, 6), 3)
    assert torch.equal(big[:, ::5, ::5], mask[:, ::2, ::2])  # the corners keep their class
    assert set(big.unique().tolist()) == {0, 1, 2, IGNORE}
    assert resize_mask(mask, (3, 3), 3) is mask


def test_an_id_outside_the_classes_is_refused(gss):
    with pytest.raises(ValueError, match="id 11; expected 0…10"):
        gss.targets(torch.full((1, 32, 32), 11), torch.zeros(1, 11, 8, 8))


@pytest.mark.parametrize("size, shape", [((64, 64), (1, 64, 32)), ((32, 32), (2, 32, 32))])
def test_picture_and_mask_of_different_size_are_refused(gss, size, shape):
    with pytest.raises(ValueError, match="must be of one size"):
        gss.losses(torch.randn(1, 3, *size), torch.zeros(shape).long())


def test_targets_in_bfloat16_are_nearly_the_same_tokens_and_decode_as_well():
    gss, streets = load_gss(get_preset("scenes-cpu")), Scenes(6, split="test")
    mask = torch.stack([streets[i][1] for i in range(6)]).long()
    guess, tokens = torch.zeros(6, 11, 24, 32), {}
    for precision in ("no", "bf16"):
        gss.target_precision = precision
        tokens[precision] = gss.targets(mask, guess).tokens
    changed = float((tokens["no"] != tokens["bf16"]).float().mean())
    assert 0 < changed < 0.05
    right = [
        (gss.inverse.classify(gss.tokenizer.decode(t)) == mask)[mask != 255].float().mean()
        for t in tokens.values()
    ]
    assert abs(float(right[0] - right[1])) < 1e-3
    # whatever the prior trains in, the targets' precision is their own
    with torch.autocast("cpu", torch.bfloat16):
        gss.target_precision = "no"
        assert torch.equal(gss.targets(mask, guess).tokens, tokens["no"])


def test_stage_two_takes_its_targets_precision_from_the_schedule():
    gss = build_gss(get_preset("scenes-tiny"))
    assert gss.target_precision == "no" and PriorStage(gss, "bf16").gss.target_precision == "bf16"
    with pytest.raises(ValueError, match="got 'fp16'"):
        PriorStage(gss, "fp16")


def test_a_step_of_the_preset_for_one_gpu_on_the_cpu():
    preset = get_preset("camvid-gpu")
    torch.manual_seed(0)
    gss = build_gss(preset)
    stage = PriorStage(gss, preset.prior.targets).train()
    with torch.autocast("cpu", torch.bfloat16):
        loss, scalars = stage(torch.randn(2, 3, 64, 96), torch.randint(0, 11, (2, 64, 96)))
    loss.backward()
    assert torch.isfinite(loss) and 4 < float(scalars["token"]) < 9  # ln 512 = 6.2
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in gss.prior.parameters())
