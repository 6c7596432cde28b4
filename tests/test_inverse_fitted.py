"""X⁻¹ with weights: the released FT-W head, what a pixel sees, Gaussians and counts by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from data_scripts.dalle_dvae import import_published
from gss_lite.contracts import IGNORE
from gss_lite.dalle import DalleDVAE
from gss_lite.inverse_fitted import (
    KINDS,
    ConvInverse,
    SwinInverse,
)
from gss_lite.prior import pixel_cross_entropy

COLORS = torch.rand(5, 3, generator=torch.Generator().manual_seed(0))


def released_inverse(state: dict, depth: int) -> dict:
    """The released post-processing head's tensor names → ours."""
    names = {"projection.conv.weight": "embed.0.weight"}
    names |= {
        f"projection.bn.{n}": f"embed.1.{n}"
        for n in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    }
    plain = {"post_swin_ln": "norm", "cls_segmap.conv": "to_classes"}
    for i in range(depth):
        block = f"post_transformer_block.blocks.{i}"
        names[f"{block}.attn.w_msa.relative_position_bias_table"] = (
            f"blocks.{i}.attn.relative_position_bias_table"
        )
        for theirs, mine in [
            ("norm1", "norm1"),
            ("norm2", "norm2"),
            ("attn.w_msa.qkv", "attn.qkv"),
            ("attn.w_msa.proj", "attn.proj"),
            ("ffn.layers.0.0", "mlp.fc1"),
            ("ffn.layers.1", "mlp.fc2"),
        ]:
            plain[f"{block}.{theirs}"] = f"blocks.{i}.{mine}"
    names |= {
        f"{theirs}.{end}": f"{mine}.{end}"
        for theirs, mine in plain.items()
        for end in ("weight", "bias")
    }
    return {mine: state[f"decode_head.{theirs}"] for theirs, mine in names.items()}


@pytest.fixture(scope="module")
def released(parity):
    """The reference outputs, our X⁻¹ with its weights, and scores on maskige decoded in float32."""
    fixture = torch.load(parity / "swin-ftw" / "fixture.pth", weights_only=True)
    inverse = SwinInverse(
        fixture["palette"][:-1] / 255, dim=32, heads=4, ffn_dim=64, depth=2
    ).eval()
    inverse.load_state_dict(
        {"colors": inverse.colors, **released_inverse(fixture["state_dict"], 2)}
    )
    dvae = DalleDVAE(8192, width=8, code_dim=8).eval()
    import_published(parity / "dvae" / "encoder.pkl", parity / "dvae" / "decoder.pkl", dvae)
    # the fixture's own maskige is in float16, which costs a factor of 40 in the scores
    maskige = dvae.decode(fixture["tokens"])
    assert (maskige - fixture["maskige"].float()).abs().max() < 3e-4
    with torch.no_grad():
        return fixture, inverse, inverse(maskige), maskige


def test_scores_equal_the_released_heads(released):
    fixture, _, scores, _ = released
    sample = fixture["seg_logits_sample"]
    assert float((scores[:, :, ::16, ::16] - sample).abs().max()) < 1e-4 * float(sample.abs().max())


@pytest.mark.slow
def test_classes_equal_the_released_heads(released):
    fixture, inverse, _, maskige = released
    assert torch.equal(inverse.classify(maskige), fixture["seg"].long())


def test_loss_equals_the_released_heads(released):
    """Scores of twice the picture's size come down to the mask's; ignored pixels do not count."""
    fixture, _, scores, _ = released
    mask = fixture["gt"][:, 0]
    assert bool((mask == 255).any()) and mask.shape[1:] != scores.shape[2:]
    assert float(pixel_cross_entropy(scores, mask)) == pytest.approx(
        fixture["losses"]["loss_ce"], rel=1e-5
    )


def reach(inverse, size: int = 15) -> torch.Tensor:
    """Which pixels' scores change when the middle pixel of a picture does, (size, size) bool."""
    maskige = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    other = maskige.clone()
    other[:, :, size // 2, size // 2] = 1 - other[:, :, size // 2, size // 2]
    with torch.no_grad():
        return (inverse(maskige) - inverse(other)).abs().amax((0, 1)) > 1e-6


def test_convolutions_see_three_by_three():
    expected = torch.zeros(15, 15, dtype=torch.bool)
    expected[6:9, 6:9] = True
    assert torch.equal(reach(ConvInverse(COLORS, width=32).eval()), expected)


def test_one_block_sees_its_window_alone_and_two_see_past_it():
    torch.manual_seed(0)
    one = reach(SwinInverse(COLORS, dim=16, ffn_dim=32, depth=1).eval())
    expected = torch.zeros(15, 15, dtype=torch.bool)
    expected[7:14, 7:14] = True  # the middle, (7, 7), opens the second window of 7
    assert torch.equal(one, expected)
    two = reach(SwinInverse(COLORS, dim=16, ffn_dim=32, depth=2).eval())
    assert bool(two[expected].all()) and bool(two[:7].any())


def test_size_of_the_papers_model():
    inverse = SwinInverse(torch.rand(150, 3))
    block = (
        2 * 2 * 128
        + (128 * 384 + 384)
        + (128 * 128 + 128)
        + (128 * 256 + 256)
        + (256 * 128 + 128)
        + 13 * 13 * 4
    )
    assert sum(
        p.numel() for p in inverse.parameters()
    ) == 3 * 128 + 2 * 128 + 2 * block + 2 * 128 + (128 * 150 + 150)
    assert [type(layer) for layer in inverse.embed] == [
        torch.nn.Conv2d,
        torch.nn.BatchNorm2d,
        torch.nn.ReLU,
    ]
    assert inverse.blocks[0].shift_size == (0, 0) and inverse.blocks[1].shift_size == (3, 3)


def test_ft_is_three_convolutions():
    kernels = [
        m.kernel_size for m in ConvInverse(COLORS).modules() if isinstance(m, torch.nn.Conv2d)
    ]
    assert kernels == [(1, 1), (3, 3), (1, 1)]


@pytest.mark.parametrize(
    "inverse", [ConvInverse(COLORS, 8), SwinInverse(COLORS, dim=16, ffn_dim=32)]
)
class TestContract:
    def test_scores_and_ids_at_any_size(self, inverse):
        inverse.eval()
        maskige = torch.rand(2, 3, 10, 17)
        scores = inverse(maskige)
        assert scores.shape == (2, 5, 10, 17)
        assert torch.equal(inverse.classify(maskige), scores.argmax(1))

    def test_other_channels_are_refused(self, inverse):
        with pytest.raises(ValueError, match=r"expected a maskige \(B, 3, H, W\).*\(1, 4, 8, 8\)"):
            inverse(torch.rand(1, 4, 8, 8))

    def test_gradients_reach_every_weight(self, inverse):
        inverse.train()
        F.cross_entropy(inverse(torch.rand(2, 3, 14, 14)), torch.randint(5, (2, 14, 14))).backward()
        assert all(p.grad is not None and bool(p.grad.any()) for p in inverse.parameters())


@pytest.mark.parametrize(
    "inverse", [ConvInverse(COLORS, 8), SwinInverse(COLORS, dim=16, ffn_dim=32)]
)
def test_the_loss_is_the_cross_entropy_of_its_scores(inverse):
    """Scores twice as fine as the mask come down to it bilinearly; ignored pixels do not count."""
    inverse.eval()
    maskige, mask = torch.rand(2, 3, 12, 16), torch.randint(5, (2, 12, 16))
    mask[:, :3] = IGNORE
    picked = inverse.scores(maskige).log_softmax(1).gather(1, mask.clamp(max=4)[:, None])[:, 0]
    expected = -picked[mask != IGNORE].mean()
    torch.testing.assert_close(inverse.loss(maskige, mask), expected)
    torch.testing.assert_close(pixel_cross_entropy(inverse(maskige), mask.byte()), expected)
    small = mask[:, :6, :8].contiguous()
    # at half the size the bilinear mean is that of 2 × 2 pixels
    means = F.avg_pool2d(inverse.scores(maskige), 2)
    expected = F.cross_entropy(means, small, ignore_index=IGNORE)
    torch.testing.assert_close(inverse.loss(maskige, small), expected)
    assert float(inverse.loss(maskige, torch.full_like(mask, IGNORE)).detach()) == 0


def test_the_kinds_by_their_names():
    assert dict(KINDS) == {"ft": ConvInverse, "ft-w": SwinInverse}


def test_colours_of_any_number_of_channels_are_read():
    colors = torch.rand(5, 7, generator=torch.Generator().manual_seed(1))
    for inverse in (ConvInverse(colors, 8), SwinInverse(colors, dim=16, ffn_dim=32)):
        assert inverse.eval().classify(torch.rand(1, 7, 8, 9)).shape == (1, 8, 9)
        with pytest.raises(ValueError, match=r"expected a maskige \(B, 7, H, W\)"):
            inverse.classify(torch.rand(1, 3, 8, 9))


def test_no_block_is_no_swin_inverse():
    with pytest.raises(ValueError, match="depth ≥ 1"):
        SwinInverse(COLORS, depth=0)
