"""The paper's presets: the authors' settings, feature shapes, parameter counts, one step each."""

from __future__ import annotations

from dataclasses import replace

import psutil
import pytest
import timm
import torch
from torch import nn

from gss_lite.data import DATASETS, create_dataset
from gss_lite.factory import create_palette, create_prior, create_tokenizer
from gss_lite.gss import GSS
from gss_lite.inverse import NearestColor
from gss_lite.presets import PRESETS, ViewSpec, fixed, get_preset
from gss_lite.presets.paper import PAPER_PRESETS
from gss_lite.training import LoopOptions, train
from gss_lite.training.optimizer import adamw
from gss_lite.training.run import Job
from gss_lite.training.tokenizer import train_tokenizer
from gss_lite.vqvae import VQVAE

NAMES = [preset.name for preset in PAPER_PRESETS]
# Channels and strides of the four levels (supplement C; released configs), D, and the backbone's
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
CLASSES = {"cityscapes": 19, "ade20k": 150, "mseg": 194}


def levels(name):
    return next(value for end, value in LEVELS.items() if name.endswith(end))


def on_meta(name):
    with torch.device("meta"):
        return create_prior(name).eval()


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def unit(inputs: int, outputs: int) -> int:
    """A 1×1 convolution without bias, and a batch norm."""
    return inputs * outputs + 2 * outputs


def head_parameters(channels, classes, depth, shared):
    """Counted from the description: units, Swin blocks, layer norm, two classifiers."""
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
    if shared:  # the released models for MSeg: the pixel head has no aggregation of its own
        return tokens + 512 * classes + classes
    pixels = sum(unit(c, 384) for c in channels) + unit(1536, 384) + 384 * classes + classes
    return tokens + pixels


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_shapes_and_parameter_counts_on_the_meta_device(name):
    preset, prior = get_preset(name), on_meta(name)
    classes = preset.data.num_classes
    channels, strides, depth, backbone = levels(name)
    side = preset.schedule("prior").crop[0]
    with torch.no_grad():
        image = torch.empty(1, 3, side, side, device="meta")
        features = prior.features(image)
        out = prior(image)
    assert [tuple(f.shape[1:]) for f in features] == [
        (c, side // s, side // s) for c, s in zip(channels, strides, strict=True)
    ]
    assert out.token_logits.shape == (1, 8192, side // 4, side // 4)
    assert out.pixel_logits.shape == (1, classes, side // 4, side // 4)
    head = parameters(prior) - parameters(prior.backbone)
    assert head == head_parameters(channels, classes, depth, name.startswith("mseg"))
    if backbone:
        assert parameters(prior.backbone) == backbone
    else:
        assert 65e6 < parameters(prior.backbone) < 66e6  # HRNetV2-W48 without its classifier


@pytest.mark.parametrize("name", NAMES)
def test_the_authors_settings(name):
    preset = get_preset(name)
    city, plan = name.startswith("cityscapes"), preset.schedule("prior")
    settings = (plan.lr, plan.steps, plan.batch, plan.crop)
    expected = (1.5e-3, 80_000, 16, (768, 768)) if city else (1.2e-4, 160_000, 32, (512, 512))
    assert settings == expected
    assert (plan.warmup, plan.weight_decay, plan.scales) == (1500, 0.01, (0.5, 2.0))
    assert (plan.clip, plan.ema, plan.distortion) == (None, None, "released")
    window = None if name.startswith("ade20k") else (768, 512)
    size = None if city else (512, 2048)
    assert preset.view == ViewSpec(window=window, size=size, multiple=1)
    classes = CLASSES[preset.data.name]
    assert preset.data.num_classes == len(create_palette(preset)) == classes
    assert PRESETS[name] is preset


def test_swins_drop_path_grows_from_block_to_block():
    swin = on_meta("ade20k-swin-l").backbone
    rates = [m.drop_prob for m in swin.modules() if type(m).__name__ == "DropPath"]
    # 24 blocks, linearly from 0, whose DropPath is left out
    assert max(rates) == pytest.approx(0.3) and len(set(rates)) == 23


def test_swins_windows_are_shifted_everywhere_as_in_the_released_code():
    modules = on_meta("cityscapes-swin-l").backbone.modules()
    shifts = [m.shift_size for m in modules if hasattr(m, "shift_size")]
    assert shifts == [(0, 0), (6, 6)] * 12


def test_the_tokenizer_is_the_dvae_with_the_published_number_of_parameters():
    with torch.device("meta"):
        tokenizer = create_tokenizer("ade20k-swin-l")
    assert (tokenizer.vocab_size, tokenizer.stride) == (8192, 8)
    # the decoder's first bias is part of its table
    assert parameters(tokenizer) == 97_616_006 - 128


def smaller(name):
    """A preset with narrow heads, and for Swin 2 of the 18 blocks of its third stage."""
    preset = get_preset(name)
    prior = replace(preset.prior, head=fixed(**{**preset.prior.head, "token_dim": 64}))
    if name.endswith("swin-l"):
        less = {"depths": (2, 2, 2, 2), "embed_dim": 96, "num_heads": (3, 6, 12, 24)}
        arguments = fixed(**{**prior.backbone_arguments, **less})
        prior = replace(prior, backbone_arguments=arguments)
    return replace(preset, prior=prior)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_one_step_on_random_data(name):
    """On 64 × 64 pixels, with a small tokenizer of the same interface.

    ade20k-swin-l is as large as it is; the others have narrow heads.
    """
    preset = smaller(name)
    if name == "ade20k-swin-l":
        # weights, gradients and AdamW's averages take 3.5 GB
        if psutil.virtual_memory().available < 8e9:
            pytest.skip("wants 8 GB of free memory")
        preset = get_preset(name)
    palette = create_palette(preset)
    tokenizer = VQVAE(vocab_size=8192, stride=8, width=8, depth=1)
    gss = GSS(palette, tokenizer, create_prior(preset), NearestColor(palette.colors)).train()
    optimizer = adamw(gss.prior, preset.schedule("prior"))
    before = gss.prior.to_tokens.weight.detach().clone()
    mask = torch.randint(preset.data.num_classes, (2, 64, 64))
    mask[:, :5] = 255
    loss, scalars = gss.losses(torch.randn(2, 3, 64, 64), mask)
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss) and 8 < scalars["token"] < 10  # ln 8192 = 9.01
    for parameter in gss.prior.parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all()
    assert not torch.equal(before, gss.prior.to_tokens.weight)


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("mseg")])
def test_where_the_papers_data_are_missing_the_expected_layout_is_printed(name, tmp_path):
    kind = DATASETS[get_preset(name).data.name]
    with pytest.raises(FileNotFoundError) as caught:
        create_dataset(name, "train", folder=tmp_path)
    for part in (kind.script, *kind.parts("train"), f"{kind.splits['train']:,} pictures"):
        assert part in str(caught.value)


def test_a_preset_without_pretrained_weights_says_so_and_every_paper_preset_names_some():
    with pytest.raises(ValueError, match="camvid names no pretrained weights"):
        create_prior("camvid", pretrained_backbone=True)
    for name in NAMES:
        pretrained = get_preset(name).prior.pretrained
        assert timm.is_model(pretrained.split(".")[0])
        assert pretrained in timm.list_pretrained()


def test_stage_one_of_a_paper_preset_trains_nothing_and_asks_for_the_dvae(tmp_path, monkeypatch):
    preset = get_preset("ade20k-swin-l")
    monkeypatch.setattr(
        "gss_lite.training.tokenizer.create_tokenizer",
        lambda preset, *, pretrained: ("the tokenizer of", preset.name, pretrained),
    )
    found = train_tokenizer(Job(preset, tmp_path))
    assert found == ("the tokenizer of", "ade20k-swin-l", True)
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="data_scripts.dalle_dvae"):
        train(preset, tmp_path, stage="vqvae", options=LoopOptions(progress=False))
