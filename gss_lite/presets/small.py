"""Every experiment by name: data, palette, tokenizer, prior, and how long each stage trains."""

from __future__ import annotations

from dataclasses import replace

from gss_lite.presets.parts import Preset, Schedule, fixed

_SCENES = Preset(
    name="scenes-cpu",
    data="scenes",
    size=(96, 128),
    train_pictures=12_000,
    eval_pictures=200,
    palette="assigned",
    readback=1.0,
    tokenizer=fixed(vocab_size=1024, stride=4, width=64, code_dim=16),
    backbone="resnet18d",
    backbone_args=fixed(channels=(64, 128, 160, 192), stem_width=32, out_indices=(1, 2, 3, 4)),
    head=fixed(
        level_dim=48, fuse_dim=96, token_dim=192, pixel_dim=48, depth=2, heads=4, ffn_dim=192
    ),
    vqvae=Schedule(steps=3000, batch=16, crop=(96, 128), lr=3e-3, weight_decay=0.0),
    prior=Schedule(
        steps=6000,
        batch=16,
        crop=(96, 128),
        lr=2e-3,
        warmup=200,
        weight_decay=0.05,
        ema=0.998,
        precision="bf16",
        distortion="torchvision",
    ),
    notes="The default of the notebooks: street scenes drawn on the fly, small enough for a "
    "laptop.",
)


_GENERIC = Preset(
    name="generic-s4",
    data="many-scenes",
    size=(192, 256),
    train_pictures=2000,
    eval_pictures=200,
    palette="random",
    photographs="camvid",
    readback=0.5,
    tokenizer=fixed(vocab_size=2048, stride=4, width=64, code_dim=16),
    backbone="",
    backbone_args=fixed(),
    head=fixed(),
    prior=None,
    vqvae=Schedule(
        steps=6000,
        batch=8,
        crop=(96, 128),
        lr=3e-3,
        warmup=200,
        weight_decay=0.0,
        scales=(0.5, 1.25),
    ),
    notes="A tokenizer for any palette and any K: random colours for every picture, and CamVid's "
    "training photographs.",
)


_GENERIC_S8 = replace(
    _GENERIC,
    name="generic-s8",
    tokenizer=fixed(vocab_size=4096, stride=8, width=96, code_dim=32),
    vqvae=replace(_GENERIC.vqvae, crop=(128, 160)),
    notes="As generic-s4, with a quarter of the tokens: the stride of the paper's tokenizer.",
)


_CAMVID = Preset(
    name="camvid",
    data="camvid",
    size=(360, 480),
    palette="assigned",
    readback=1.0,
    tokenizer=fixed(vocab_size=512, stride=4, width=64, code_dim=16),
    backbone="resnet18d",
    backbone_args=fixed(channels=(48, 96, 160, 224), stem_width=24, out_indices=(1, 2, 3, 4)),
    head=fixed(
        level_dim=48, fuse_dim=96, token_dim=192, pixel_dim=48, depth=2, heads=4, ffn_dim=192
    ),
    vqvae=Schedule(steps=4000, batch=8, crop=(128, 160), lr=3e-3, weight_decay=0.0),
    prior=Schedule(
        steps=5500,
        batch=8,
        crop=(192, 256),
        lr=2e-3,
        warmup=200,
        weight_decay=0.05,
        scales=(0.6, 1.6),
        ema=0.998,
        precision="bf16",
        distortion="torchvision",
    ),
    notes="Real street frames, trained from scratch on two CPU cores.",
)


_MANY = replace(
    _SCENES,
    name="many-scenes-cpu",
    data="many-scenes",
    num_classes=64,
    train_pictures=6000,
    tokenizer=_GENERIC.tokenizer,
    tokenizer_from=_GENERIC.name,
    vqvae=_GENERIC.vqvae,
    readback=0.0,
    backbone_args=fixed(channels=(48, 96, 128, 160), stem_width=32, out_indices=(1, 2, 3, 4)),
    prior=replace(_SCENES.prior, steps=1500),
    notes="Many classes, where palettes get crowded. Nothing is trained in stage I: the tokenizer "
    "serves any palette (section E).",
)
