"""Every experiment by name: data, palette, tokenizer, prior, and how long each stage trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from gss_lite.presets.paper import PAPER_PRESETS
from gss_lite.presets.parts import Preset, Schedule, fixed
from gss_lite.presets.small import _CAMVID, _GENERIC, _GENERIC_S8, _MANY, _SCENES

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        p.name: p
        for p in (
            _SCENES,
            replace(
                _SCENES,
                name="scenes-tiny",
                size=(64, 64),
                train_pictures=32,
                eval_pictures=4,
                palette="greedy",
                tokenizer=fixed(vocab_size=32, stride=4, width=16, code_dim=8, depth=1),
                backbone_args=fixed(
                    channels=(8, 8, 16, 16), stem_width=8, out_indices=(1, 2, 3, 4)
                ),
                head=fixed(
                    level_dim=8,
                    fuse_dim=16,
                    token_dim=16,
                    pixel_dim=8,
                    depth=2,
                    heads=2,
                    ffn_dim=32,
                ),
                vqvae=Schedule(steps=12, batch=2, crop=(32, 32), lr=3e-3, warmup=2),
                prior=Schedule(steps=12, batch=2, crop=(32, 32), lr=2e-3, warmup=2, ema=0.9),
                notes="A model that learns nothing useful, in a second: for tests of the "
                "machinery.",
            ),
            replace(
                _SCENES,
                name="scenes-cpu-mobilenet",
                tokenizer_from="scenes-cpu",
                backbone="mobilenetv3_small_050",
                backbone_args=fixed(out_indices=(1, 2, 3, 4)),
                readback=0.0,
                prior=replace(_SCENES.prior, steps=1000),
                notes="Another image encoder for the tokens of scenes-cpu, with a tenth of its "
                "backbone: X⁻¹ trained once serves both.",
            ),
            _CAMVID,
            replace(
                _CAMVID,
                name="camvid-gpu",
                tokenizer_from="camvid",
                backbone="resnet34d",
                backbone_args=fixed(out_indices=(1, 2, 3, 4)),
                head=fixed(
                    level_dim=128,
                    fuse_dim=256,
                    token_dim=512,
                    pixel_dim=128,
                    depth=2,
                    heads=8,
                    ffn_dim=512,
                ),
                prior=Schedule(
                    steps=8000,
                    batch=16,
                    crop=(320, 448),
                    lr=1e-3,
                    warmup=500,
                    weight_decay=0.05,
                    scales=(0.5, 1.5),
                    precision="bf16",
                    targets="bf16",
                    ema=0.999,
                ),
                notes="Real street frames from scratch, in camvid's palette and tokens, at a size "
                "that wants one GPU. No run of it is recorded here.",
            ),
            _GENERIC,
            _MANY,
            _GENERIC_S8,
            replace(
                _GENERIC_S8,
                name="camvid-s8",
                data="camvid",
                size=(360, 480),
                palette="greedy",
                photographs="",
                train_pictures=0,
                eval_pictures=0,
                vqvae=replace(_GENERIC_S8.vqvae, steps=3000),
                notes="The network and loss of generic-s8 on CamVid's masks in greedy colours: a "
                "palette-specific tokenizer to compare with.",
            ),
            *PAPER_PRESETS,
        )
    }
)


def get_preset(name: str) -> Preset:
    """A preset by name, or ValueError listing the names there are."""
    if name not in PRESETS:
        raise ValueError(f"no preset named {name!r}; there are: {', '.join(PRESETS)}")
    return PRESETS[name]
