"""The released heads fit ours tensor by tensor, with the same token logits and training losses."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from data_scripts.dalle_dvae import import_published
from gss_lite.dalle import DalleDVAE
from gss_lite.gss import GSS
from gss_lite.inverse import NearestColor
from gss_lite.official import head_depth, head_names, head_tensors
from gss_lite.palette.palette import Palette
from gss_lite.prior import Prior

FIXTURES = ("swin-ff", "r50-ff", "hrnet-ff")


class FromFixture(nn.Module):
    """Stands where the backbone is: gives the features that the released backbone computed."""

    def __init__(self, features):
        super().__init__()
        self.features = features
        self.feature_info = SimpleNamespace(
            channels=lambda: [f.shape[1] for f in features], reduction=lambda: [4, 8, 16, 32]
        )

    def forward(self, image):
        return self.features


@pytest.fixture(scope="module")
def dvae(parity):
    model = DalleDVAE(width=8, code_dim=8)
    import_published(parity / "dvae" / "encoder.pkl", parity / "dvae" / "decoder.pkl", model)
    return model


@pytest.fixture(scope="module", params=FIXTURES)
def released(request, parity):
    """A fixture, and a prior of the sizes in its config with random weights."""
    fixture = torch.load(parity / request.param / "fixture.pth", weights_only=True)
    head = fixture["config"]["head"]
    prior = Prior(
        FromFixture([f.float() for f in fixture["features"]]),
        8192,
        head["num_classes"],
        level_dim=head["channels"],
        fuse_dim=head["indice_seg_channel"],
        token_dim=head["indice_cls_channel"],
        pixel_dim=head["channels"],
        depth=head["swin_depth"],
        heads=head["swin_num_head"],
        ffn_dim=2 * head["indice_seg_channel"],
    )
    return fixture, prior.eval()


def test_names_and_shapes_fit_one_to_one(released):
    fixture, prior = released
    state, ours = fixture["state_dict"], prior.state_dict()
    assert head_depth(state) == fixture["config"]["head"]["swin_depth"]
    names = head_names(head_depth(state))
    assert set(names) == {
        k for k in state if k.startswith("decode_head.") and "relative_position_index" not in k
    }
    assert sorted(names.values()) == sorted(ours)
    assert all(state[theirs].shape == ours[mine].shape for theirs, mine in names.items())
    index = state["decode_head.transformer_block.blocks.0.attn.w_msa.relative_position_index"]
    # so that the rows of the bias tables mean the same
    assert torch.equal(index, prior.blocks[0].attn.relative_position_index)


def test_token_logits_and_both_losses_equal_the_released_ones(released, dvae):
    fixture, prior = released
    prior.load_state_dict(head_tensors(fixture["state_dict"]))
    palette = Palette(fixture["palette"][:-1].float() / 255)
    gss = GSS(palette, dvae, prior, NearestColor(palette.colors)).eval()
    mask = fixture["gt"][:, 0].long()
    with torch.no_grad():
        token_logits = prior(fixture["image"]).token_logits
        _, scalars = gss.losses(fixture["image"], mask)
    expected, losses = fixture["token_logits"], fixture["losses"]
    ours = token_logits.flatten(2)[:, :, fixture["token_positions"]]
    # The features are stored in 16 bits. What their rounding alone does to the logits is measured,
    # by rounding them once more at random; the difference must be no more than that.
    assert {f.dtype for f in fixture["features"]} == {torch.float16}
    stored = prior.backbone.features
    generator = torch.Generator().manual_seed(0)
    prior.backbone.features = [
        f * (1 + (2 * torch.rand(f.shape, generator=generator) - 1) * 2**-11) for f in stored
    ]
    with torch.no_grad():
        shaken = prior(fixture["image"]).token_logits.flatten(2)[:, :, fixture["token_positions"]]
    prior.backbone.features = stored
    rounding = float((shaken - ours).norm() / expected.norm())
    apart = float((ours - expected).norm() / expected.norm())
    assert apart < max(1e-4, 1.2 * rounding) and apart < 1e-3
    assert float((ours - expected).abs().max() / expected.abs().max()) < 2e-3
    sure = fixture["token_margin"] > 1e-2
    assert sure.float().mean() > 0.5
    assert torch.equal(token_logits.argmax(1)[sure], fixture["tokens"].view_as(sure)[sure])
    assert (mask == 255).float().mean() > 0.03  # so that it matters what the losses are divided by
    assert float(0.8 * scalars["token"]) == pytest.approx(losses["loss_ce"], rel=1e-4)
    assert float(0.2 * scalars["pixel"]) == pytest.approx(losses["loss_ce_pixel"], rel=1e-4)


@pytest.mark.parametrize("depth", [0, 2, 6])
def test_every_tensor_of_the_prior_has_one_released_name(depth):
    features = [torch.zeros(1, 8, 16 // 2**i, 16 // 2**i) for i in range(4)]
    sizes = {"level_dim": 8, "fuse_dim": 16, "token_dim": 8, "pixel_dim": 8, "heads": 2}
    prior = Prior(FromFixture(features), 8, 3, **sizes, depth=depth, ffn_dim=16)
    names = head_names(depth)
    assert sorted(names.values()) == sorted(prior.state_dict())
    assert head_depth(dict.fromkeys(names, torch.zeros(1))) == depth


def test_released_names_mean_what_they_say():
    names = head_names(2)
    pairs = {
        "convs.0.conv.weight": "aggregation.levels.0.0.weight",
        "convs.3.bn.running_var": "aggregation.levels.3.1.running_var",
        "convs_pixel.1.bn.bias": "pixel_aggregation.levels.1.1.bias",
        "fusion_conv.conv.weight": "aggregation.fuse.0.weight",
        "fusion_conv_pixel.bn.running_mean": "pixel_aggregation.fuse.1.running_mean",
        "conv_before_seg.conv.weight": "before_tokens.0.weight",
        "swin_ln.weight": "norm.weight",
        "conv_seg.bias": "to_tokens.bias",
        "conv_seg_pixel.weight": "to_classes.weight",
    }
    block = {
        "norm1.weight": "norm1.weight",
        "norm2.bias": "norm2.bias",
        "attn.w_msa.qkv.weight": "attn.qkv.weight",
        "attn.w_msa.proj.bias": "attn.proj.bias",
        "attn.w_msa.relative_position_bias_table": "attn.relative_position_bias_table",
        "ffn.layers.0.0.weight": "mlp.fc1.weight",
        "ffn.layers.1.bias": "mlp.fc2.bias",
    }
    for theirs, ours in block.items():
        pairs[f"transformer_block.blocks.1.{theirs}"] = f"blocks.1.{ours}"
    assert {theirs: names[f"decode_head.{theirs}"] for theirs in pairs} == pairs


@pytest.mark.parametrize(
    "change, match",
    [
        (
            lambda s: s.pop("decode_head.swin_ln.bias"),
            r"1 tensors are missing \(first: decode_head.swin_ln.bias\), 0 are unknown",
        ),
        (
            lambda s: s.update({"decode_head.extra": torch.zeros(1)}),
            r"0 tensors are missing .*1 are unknown \(first: decode_head.extra\)",
        ),
    ],
)
def test_another_checkpoint_is_refused(change, match):
    state = {name: torch.zeros(1) for name in head_names(2)}
    assert set(head_tensors(state)) == set(head_names(2).values())
    change(state)
    with pytest.raises(ValueError, match=match):
        head_tensors(state)
