"""The latent prior: shapes, padding, aggregation, errors. Parity is in test_official."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from timm.models.swin_transformer import SwinTransformerBlock
from torch import nn

from gss_lite.backbones import build_backbone
from gss_lite.prior import Aggregation, Prior, WindowBlock
from gss_lite.released_backbones import LevelNorms

TINY = {"channels": (8, 8, 16, 16), "stem_width": 8, "out_indices": (1, 2, 3, 4)}
HEAD = {
    "level_dim": 8,
    "fuse_dim": 16,
    "token_dim": 16,
    "pixel_dim": 8,
    "depth": 2,
    "heads": 2,
    "ffn_dim": 32,
}


class Square(nn.Module):
    """As Swin-L at 768 pixels: the finest map has as many channels, which are last, as columns."""

    def __init__(self):
        super().__init__()
        self.feature_info = SimpleNamespace(
            channels=lambda: [8, 16, 32, 64], reduction=lambda: [4, 8, 16, 32]
        )
        self.maps = [
            torch.randn(1, s, s, c, generator=torch.Generator().manual_seed(c))
            for s, c in ((8, 8), (4, 16), (2, 32), (1, 64))
        ]

    def forward(self, image):
        return self.maps


def test_a_map_that_is_as_wide_as_it_has_channels_is_not_turned_on_its_side():
    prior = Prior(LevelNorms(Square()), 40, 5, **HEAD).eval()
    image = torch.randn(1, 3, 32, 32)
    expected = [F.layer_norm(f, f.shape[-1:]).permute(0, 3, 1, 2) for f in prior.backbone.body.maps]
    for ours, theirs in zip(prior.backbone(image), expected):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        prior(image).token_logits, prior.token_logits(expected), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("size", [(32, 32), (36, 52), (64, 96)])
def test_token_grid_is_a_quarter_of_the_input(size):
    prior = Prior(build_backbone("resnet18d", **TINY), 40, 5, **HEAD).eval()
    out = prior(torch.randn(2, 3, *size))
    assert out.token_logits.shape == (2, 40, size[0] // 4, size[1] // 4)
    assert out.pixel_logits.shape == (2, 5, size[0] // 4, size[1] // 4)


def test_channels_last_backbones_of_timm_are_taken_too():
    backbone = build_backbone(
        "swin_tiny_patch4_window7_224",
        img_size=64,
        embed_dim=8,
        num_heads=(1, 1, 2, 2),
        depths=(1, 1, 1, 1),
    )
    prior = Prior(backbone, 40, 5, **HEAD).eval()
    image = torch.randn(1, 3, 64, 64)
    assert prior(image).token_logits.shape == (1, 40, 16, 16)
    for ours, theirs, channels in zip(prior.features(image), backbone(image), (8, 16, 32, 64)):
        assert theirs.shape[3] == ours.shape[1] == channels and torch.equal(
            ours, theirs.permute(0, 3, 1, 2)
        )


def test_a_bare_swins_map_with_as_many_channels_as_columns_is_not_taken_for_channels_first():
    backbone = build_backbone(
        "swin_tiny_patch4_window7_224",
        img_size=32,
        embed_dim=8,
        num_heads=(1, 1, 2, 2),
        depths=(1, 1, 1, 1),
    ).eval()
    image = torch.randn(1, 3, 32, 32)
    finest = backbone(image)[0]
    assert finest.shape == (1, 8, 8, 8)
    assert torch.equal(
        Prior(backbone, 40, 5, **HEAD).eval().features(image)[0], finest.permute(0, 3, 1, 2)
    )


def test_window_block_pads_before_it_shifts():
    """On a map to pad, the block equals itself on the padded map; timm's own block does not."""
    torch.manual_seed(0)
    block = WindowBlock(8, 2, 7, 16, shifted=True).eval()
    torch.nn.init.normal_(block.attn.relative_position_bias_table)
    torch.nn.init.normal_(block.attn.qkv.bias)
    x = torch.randn(1, 10, 12, 8)
    normed = F.pad(block.norm1(x), (0, 0, 0, 2, 0, 4))
    by_hand = SwinTransformerBlock._attn(block, normed)[:, :10, :12]
    torch.testing.assert_close(block._attn(block.norm1(x)), by_hand)
    timms = SwinTransformerBlock._attn(block, block.norm1(x))
    assert (timms - by_hand).abs().max() > 1e-2


def attention_by_hand(block, x, window, shift):
    """Shifted-window attention of Swin pair by pair, on the map x (B, H, W, C) padded with zeros.

    Two cells of the padded map meet if, after it is rolled up and left by `shift`, they lie in one
    window, and if both or neither came round from the other side, in each direction.
    """
    height, width = x.shape[1:3]
    x = F.pad(x, (0, 0, 0, -width % window, 0, -height % window))
    sides = x.shape[1:3]
    axes = [(torch.arange(n) - shift) % n for n in sides]  # where a row, a column is rolled to
    place = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, 1)  # (N, 2)
    came_round = place >= torch.tensor(sides) - shift
    group = torch.cat([place // window, came_round], 1)
    meet = (group[:, None] == group[None]).all(-1)  # (N, N)
    offset = (place[:, None] - place[None]).clamp(1 - window, window - 1) + window - 1
    bias = block.attn.relative_position_bias_table[
        offset[..., 0] * (2 * window - 1) + offset[..., 1]
    ]  # (N, N, heads)
    heads = bias.shape[-1]
    x = x.flatten(1, 2)  # (B, N, C)
    q, k, v = block.attn.qkv(x).unflatten(-1, (3, heads, -1)).unbind(2)  # (B, N, heads, C/heads)
    logits = torch.einsum("bqhc,bkhc->bqkh", q, k) / q.shape[-1] ** 0.5 + bias
    weights = logits.masked_fill(~meet[..., None], -torch.inf).softmax(2)
    out = torch.einsum("bqkh,bkhc->bqhc", weights, v).flatten(-2)
    return block.attn.proj(out).unflatten(1, sides)[:, :height, :width]


@pytest.mark.parametrize("size", [(8, 8), (10, 6), (3, 9)])
@pytest.mark.parametrize("shifted", [False, True])
def test_window_attention_against_one_pair_by_pair(size, shifted):
    block = WindowBlock(8, 2, 4, 16, shifted=shifted).eval()
    for value in block.parameters():
        torch.nn.init.normal_(value, std=0.5)
    x = torch.randn(2, *size, 8)
    expected = attention_by_hand(block, x, window=4, shift=2 if shifted else 0)
    torch.testing.assert_close(block._attn(x), expected, atol=1e-4, rtol=1e-4)
    other = attention_by_hand(block, x, window=4, shift=0 if shifted else 2)
    assert (other - expected).abs().max() > 0.1
    # the rest of the block
    y = x + block._attn(block.norm1(x))
    torch.testing.assert_close(block(x), y + block.mlp(block.norm2(y)))
    assert block.mlp.fc1.out_features == 16


def test_aggregation_puts_the_eighth_first():
    """The released configs' in_index = [1, 0, 2, 3], by the formula with different weights.

    All levels have as many channels, so that only the order of the weights tells one from another.
    """
    torch.manual_seed(0)
    module = Aggregation([5, 5, 5, 5], 4, 6).eval()
    for name, value in module.state_dict().items():
        if name.endswith("var"):
            value.uniform_(0.5, 1.5)
        elif value.is_floating_point():
            value.normal_()
    features = [torch.randn(2, 5, side, side) for side in (16, 8, 4, 2)]
    state = module.state_dict()

    def unit(x, name):
        scale, shift, mean, var = (
            state[f"{name}.1.{k}"][:, None, None]
            for k in ("weight", "bias", "running_mean", "running_var")
        )
        x = torch.einsum("oc,bchw->bohw", state[f"{name}.0.weight"][:, :, 0, 0], x)
        return ((x - mean) / (var + 1e-5).sqrt() * scale + shift).clamp(min=0)

    def by_hand(order):
        maps = [
            F.interpolate(unit(features[level], f"levels.{i}"), size=(16, 16), mode="bilinear")
            for i, level in enumerate(order)
        ]
        return unit(torch.cat(maps, 1), "fuse")

    torch.testing.assert_close(module(features), by_hand((1, 0, 2, 3)), atol=1e-4, rtol=1e-4)
    assert (module(features) - by_hand((0, 1, 2, 3))).abs().max() > 0.1


def tiny_prior(**options):
    return Prior(build_backbone("resnet18d", **TINY), 40, 5, **HEAD | options)


def test_the_two_heads_are_the_chain_that_section_c_describes():
    prior = tiny_prior(depth=3).eval()
    for value in prior.parameters():
        if value.ndim == 1:  # norms that do something
            torch.nn.init.normal_(value, std=0.5)
    image = torch.randn(2, 3, 36, 52)
    features = prior.features(image)
    assert [tuple(f.shape[1:]) for f in features[:2]] == [(8, 9, 13), (8, 5, 7)]
    x = prior.aggregation(features).permute(0, 2, 3, 1)
    for block in prior.blocks:
        x = block(x)
    x = F.layer_norm(x, (16,), prior.norm.weight, prior.norm.bias).permute(0, 3, 1, 2)
    x = prior.before_tokens(x)
    out = prior(image)
    torch.testing.assert_close(out.token_logits, prior.to_tokens(x), atol=1e-5, rtol=1e-4)
    pixel_features = prior.pixel_aggregation(features)
    torch.testing.assert_close(out.pixel_logits, prior.to_classes(pixel_features))
    encoded = prior.encode(image)
    torch.testing.assert_close(encoded.token_features, x, atol=1e-5, rtol=1e-4)
    assert torch.equal(encoded.pixel_logits, out.pixel_logits)
    assert torch.equal(prior.token_logits(features), out.token_logits)
    # every other block shifts its windows, by half of their side
    assert [block.shift_size for block in prior.blocks] == [(0, 0), (3, 3), (0, 0)]


def test_a_shared_aggregation_serves_both_heads():
    prior = tiny_prior(shared_aggregation=True).eval()
    image = torch.randn(1, 3, 36, 52)
    fused = prior.aggregation(prior.features(image))
    out = prior(image)
    assert prior.pixel_aggregation is None
    assert torch.equal(out.pixel_logits, prior.to_classes(fused))
    assert torch.equal(out.token_logits, prior.token_logits(prior.features(image)))


def test_dropout_takes_whole_channels():
    prior = tiny_prior(dropout=0.4)
    shape = (4, 16, 8, 8)
    prior.before_tokens = Constant(torch.ones(shape))
    image = torch.randn(4, 3, 32, 32)
    kept = prior.token_features(prior.features(image))
    assert kept.shape == shape
    channels = kept.flatten(2)  # (4, 16, 64)
    assert torch.equal(channels.amin(2), channels.amax(2))
    values = channels[:, :, 0]
    torch.testing.assert_close(values[values > 0].unique(), torch.tensor([1 / 0.6]))
    assert bool((values == 0).any())
    assert len(values.unique(dim=0)) == 4  # drawn anew for every picture
    prior.eval()
    assert torch.equal(prior.token_features(prior.features(image)), torch.ones(shape))
    assert tiny_prior().dropout.p == 0.1


class Constant(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        return self.value


def test_the_bias_that_batch_norm_takes_away_is_held():
    prior = tiny_prior().train()
    out = prior(torch.randn(2, 3, 32, 32))
    (out.token_logits.square().mean() + out.pixel_logits.square().mean()).backward()
    assert not bool(prior.norm.bias.grad.any())
    assert bool(prior.norm.weight.grad.any())


@pytest.mark.parametrize(
    "levels, reductions",
    [((0, 1, 2, 3, 4), "2, 4, 8, 16, 32"), ((0, 1, 2, 3), "2, 4, 8, 16"), ((1, 2, 3), "4, 8, 16")],
)
def test_backbone_that_does_not_start_at_a_quarter_is_refused(levels, reductions):
    backbone = build_backbone("resnet18d", **TINY | {"out_indices": levels})
    message = rf"four feature levels beginning at 1/4; .* gives \[{reductions}\]"
    with pytest.raises(ValueError, match=message):
        Prior(backbone, 8, 3)
