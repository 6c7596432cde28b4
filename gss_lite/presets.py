"""Every experiment by name: data, palette, tokenizer, prior, and how long each stage trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType


@dataclass(frozen=True)
class Schedule:
    """How one stage is optimised: AdamW, linear warm-up, polynomial decay (power 1) to zero."""

    steps: int
    batch: int
    crop: tuple[int, int]  # height, width in pixels
    lr: float
    warmup: int = 100
    weight_decay: float = 0.01
    scales: tuple[float, float] = (1.0, 1.0)  # random resizing of the picture before the crop
    precision: str = "no"  # Accelerate's mixed_precision: "no" (float32), "bf16", "fp16"
    ema: float = 0.0  # decay of the averaged copy of the weights that is kept; 0 keeps the last weights


@dataclass(frozen=True)
class Preset:
    """One experiment. `tokenizer` and `head` are keyword arguments of VQVAE and Prior, `backbone_args` of timm."""

    name: str
    data: str  # "scenes" or "camvid"
    size: tuple[int, int]  # height, width of the pictures
    tokenizer: Mapping
    backbone: str
    backbone_args: Mapping
    head: Mapping
    vqvae: Schedule
    prior: Schedule
    palette: str = "greedy"  # farthest points; "assigned": max-min colours given out by looking at neighbours, a file beside the weights
    readback: float = 0.0  # weight of X⁻¹'s cross-entropy in stage I
    train_pictures: int = 0  # Scenes only: how many different pictures one epoch holds
    eval_pictures: int = 0  # Scenes only: how many held-out pictures evaluation uses
    seed: int = 0
    notes: str = field(default="", compare=False)


def _fixed(**kwargs: object) -> Mapping:
    return MappingProxyType(kwargs)


_SCENES = Preset(
    name="scenes-cpu", data="scenes", size=(96, 128), train_pictures=12_000, eval_pictures=200, palette="assigned", readback=1.0,
    tokenizer=_fixed(vocab_size=1024, stride=4, width=64, code_dim=16),
    backbone="resnet18d",
    backbone_args=_fixed(channels=(64, 128, 160, 192), stem_width=32, out_indices=(1, 2, 3, 4)),
    head=_fixed(level_dim=48, fuse_dim=96, token_dim=192, pixel_dim=48, depth=2, heads=4, ffn_dim=192),
    vqvae=Schedule(steps=3000, batch=16, crop=(96, 128), lr=3e-3, weight_decay=0.0),
    prior=Schedule(steps=6000, batch=16, crop=(96, 128), lr=2e-3, warmup=200, weight_decay=0.05, ema=0.998, precision="bf16"),
    notes="The default of the notebooks: street scenes drawn on the fly, small enough for a laptop.",
)

PRESETS: Mapping[str, Preset] = MappingProxyType({p.name: p for p in (
    _SCENES,
    replace(
        _SCENES, name="scenes-tiny", size=(64, 64), train_pictures=32, eval_pictures=4, palette="greedy",
        tokenizer=_fixed(vocab_size=32, stride=4, width=16, code_dim=8, depth=1),
        backbone_args=_fixed(channels=(8, 8, 16, 16), stem_width=8, out_indices=(1, 2, 3, 4)),
        head=_fixed(level_dim=8, fuse_dim=16, token_dim=16, pixel_dim=8, depth=2, heads=2, ffn_dim=32),
        vqvae=Schedule(steps=12, batch=2, crop=(32, 32), lr=3e-3, warmup=2),
        prior=Schedule(steps=12, batch=2, crop=(32, 32), lr=2e-3, warmup=2, ema=0.9),
        notes="A model that learns nothing useful, in a second: for tests of the machinery.",
    ),
    Preset(
        name="camvid", data="camvid", size=(360, 480),
        tokenizer=_fixed(vocab_size=512, stride=4, width=64, code_dim=16),
        backbone="resnet18d",
        backbone_args=_fixed(channels=(32, 64, 128, 256), stem_width=16, out_indices=(1, 2, 3, 4)),
        head=_fixed(level_dim=48, fuse_dim=96, token_dim=192, pixel_dim=48, depth=2, heads=4, ffn_dim=192),
        vqvae=Schedule(steps=4000, batch=8, crop=(128, 160), lr=3e-3, weight_decay=0.0),
        prior=Schedule(steps=2500, batch=8, crop=(192, 256), lr=2e-3, warmup=200, weight_decay=0.05, scales=(0.5, 1.25), ema=0.998),
        notes="Real street frames, trained from scratch on two CPU cores.",
    ),
)})


def get_preset(name: str) -> Preset:
    """A preset by name, or ValueError listing the names there are."""
    if name not in PRESETS:
        raise ValueError(f"no preset named {name!r}; there are: {', '.join(PRESETS)}")
    return PRESETS[name]
