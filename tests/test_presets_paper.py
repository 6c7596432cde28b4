"""The paper's presets: the authors' settings, feature shapes, parameter counts, and one training step each."""

from dataclasses import replace

import psutil
import pytest
import timm
import torch

from gss_lite.data import dataset_for, num_classes
from gss_lite.factory import build_gss, build_palette, build_prior, build_tokenizer
from gss_lite.presets import PRESETS, get_preset
from gss_lite.presets.paper import PAPER_PRESETS
from gss_lite.training.loop import adamw
from gss_lite.training.tokenizer import train_vqvae
from gss_lite.vqvae import VQVAE

NAMES = [preset.name for preset in PAPER_PRESETS]
# Channels and strides of the four levels (supplement C; released configs), D, K, and the backbone's
# parameters: ResNet-101 has 44.5 M with its classifier (2,049,000), the deep stem adds 19 k; Swin-L
# (window 12) 196.7 M with norm and classifier, and a layer norm on each of the four maps comes with
# the released code.
LEVELS = {
    "r101": ([256, 512, 1024, 2048], [4, 8, 8, 8], 6, 44_549_160 - 2_049_000 + 19_232),
    "swin-l": (
        [192, 384, 768, 1536],
        [4, 8, 16, 32],
        2,
        196_735_516 - 1_537_000 - 3_072 + 2 * (192 + 384 + 768 + 1536),
    ),
    "hrnet-w48": ([48, 96, 192, 384], [4, 8, 16, 32], 6, None),
}


def levels(name):
    return next(value for end, value in LEVELS.items() if name.endswith(end))


def on_meta(name):
    with torch.device("meta"):
        return build_prior(get_preset(name)).eval()


def head_parameters(channels, classes, depth):
    """Counted from the description: 1×1 convolutions without bias and batch norms, Swin blocks, layer norm, two classifiers."""
    unit = lambda i, o: i * o + 2 * o  # noqa: E731
    block = (
        2 * 2 * 512
        + (512 * 1536 + 1536)
        + (512 * 512 + 512)
        + 13**2 * 16
        + (512 * 1024 + 1024)
        + (1024 * 512 + 512)
    )
    tokens = (
        sum(unit(c, 384) for c in channels)
        + unit(1536, 512)
        + depth * block
        + 2 * 512
        + unit(512, 2048)
        + 2048 * 8192
        + 8192
    )
    pixels = sum(unit(c, 384) for c in channels) + unit(1536, 384) + 384 * classes + classes
    return tokens + pixels


@pytest.mark.parametrize("name", NAMES)
def test_shapes_and_parameter_counts_on_the_meta_device(name):
    preset, prior = get_preset(name), on_meta(name)
    channels, strides, depth, backbone = levels(name)
    side = preset.prior.crop[0]
    with torch.no_grad():
        image = torch.empty(1, 3, side, side, device="meta")
        features = prior.features(image)
        out = prior(image)
    assert [tuple(f.shape[1:]) for f in features] == [
        (c, side // s, side // s) for c, s in zip(channels, strides)
    ]
    assert out.token_logits.shape == (1, 8192, side // 4, side // 4)
    assert out.pixel_logits.shape == (1, num_classes(preset), side // 4, side // 4)
    count = lambda module: sum(p.numel() for p in module.parameters())  # noqa: E731
    assert count(prior) - count(prior.backbone) == head_parameters(
        channels, num_classes(preset), depth
    )
    if backbone:
        assert count(prior.backbone) == backbone
    else:
        assert 65e6 < count(prior.backbone) < 66e6  # HRNetV2-W48 without its classification head


def test_the_authors_settings():
    for name in NAMES:
        preset = get_preset(name)
        city, plan = name.startswith("cityscapes"), preset.prior
        assert (plan.lr, plan.steps, plan.batch, plan.crop) == (
            (1.5e-3, 80_000, 16, (768, 768)) if city else (1.2e-4, 160_000, 32, (512, 512))
        )
        assert (
            plan.warmup,
            plan.weight_decay,
            plan.scales,
            plan.clip,
            plan.ema,
            plan.distortion,
        ) == (1500, 0.01, (0.5, 2.0), 0.0, 0.0, "released")
        assert preset.window == ((0, 0) if name.startswith("ade20k") else (768, 512))
        assert (
            num_classes(preset)
            == len(build_palette(preset))
            == {"c": 19, "a": 150, "m": 194}[name[0]]
        )
        assert PRESETS[name] is preset
    swin = on_meta("ade20k-swin-l").backbone
    rates = [m.drop_prob for m in swin.modules() if type(m).__name__ == "DropPath"]
    # 24 blocks, linearly from 0, whose DropPath is left out
    assert max(rates) == pytest.approx(0.3) and len(set(rates)) == 23


def test_swins_windows_are_shifted_everywhere_as_in_the_released_code():
    shifts = [
        m.shift_size
        for m in on_meta("cityscapes-swin-l").backbone.modules()
        if hasattr(m, "shift_size")
    ]
    assert shifts == [(0, 0), (6, 6)] * 12


def test_the_tokenizer_is_the_dvae_with_the_published_number_of_parameters():
    with torch.device("meta"):
        tokenizer = build_tokenizer(get_preset("ade20k-swin-l"))
    assert (tokenizer.vocab_size, tokenizer.stride) == (8192, 8)
    # the decoder's first bias is part of its table
    assert sum(p.numel() for p in tokenizer.parameters()) == 97_616_006 - 128


@pytest.mark.parametrize("name", NAMES)
def test_one_step_on_random_data(name):
    """On 64 × 64 pixels, with a small tokenizer of the same interface and, but for ade20k-swin-l, narrow heads; the rest as it is."""
    torch.manual_seed(0)
    preset = get_preset(name)
    # as large as it is: weights, gradients and AdamW's averages take 3.5 GB
    if name == "ade20k-swin-l":
        if psutil.virtual_memory().available < 8e9:
            pytest.skip("wants 8 GB of free memory")
    else:
        preset = replace(preset, head={**preset.head, "token_dim": 64})
        if name.endswith("swin-l"):  # 2 of 18 blocks in the third stage
            preset = replace(
                preset,
                backbone_args={
                    **preset.backbone_args,
                    "depths": (2, 2, 2, 2),
                    "embed_dim": 96,
                    "num_heads": (3, 6, 12, 24),
                },
            )
    gss = build_gss(preset, VQVAE(vocab_size=8192, stride=8, width=8, depth=1)).train()
    optimizer = adamw(gss.prior, preset.prior)
    before = gss.prior.to_tokens.weight.detach().clone()
    mask = torch.randint(num_classes(preset), (2, 64, 64)).index_fill_(1, torch.arange(5), 255)
    loss, scalars = gss.losses(torch.randn(2, 3, 64, 64), mask)
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss) and 8 < scalars["token"] < 10  # ln 8192 = 9.01
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in gss.prior.parameters())
    assert not torch.equal(before, gss.prior.to_tokens.weight)


def test_a_data_set_without_a_loader_is_named():
    with pytest.raises(ValueError, match="no loader yet for cityscapes"):
        dataset_for(get_preset("cityscapes-r101"), "train")


def test_a_preset_without_pretrained_weights_says_so_and_every_paper_preset_names_some_that_timm_has():
    with pytest.raises(ValueError, match="camvid names no pretrained weights"):
        build_prior(get_preset("camvid"), pretrained=True)
    for name in NAMES:
        assert (
            timm.is_model(get_preset(name).pretrained.split(".")[0])
            and get_preset(name).pretrained in timm.list_pretrained()
        )


def test_stage_one_of_a_paper_preset_trains_nothing_and_asks_for_the_dvae(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "gss_lite.training.tokenizer.load_tokenizer",
        lambda preset: ("the tokenizer of", preset.name),
    )
    assert train_vqvae(get_preset("ade20k-swin-l"), tmp_path, progress=False) == (
        "the tokenizer of",
        "ade20k-swin-l",
    )
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="data_scripts.dalle_dvae"):
        train_vqvae(get_preset("ade20k-swin-l"), tmp_path, progress=False)
