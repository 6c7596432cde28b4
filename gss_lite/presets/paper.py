"""The models of the paper with the authors' settings (supplement C and D.iv; released configs).

Stage I needs no training here: the tokenizer is OpenAI's dVAE, frozen. Stage II starts from a
    backbone trained on ImageNet.
What the released configs say and the paper does not: the dilations of R101, D = 6 for HRNet too,
    drop path 0.3, a batch of
32 for MSeg (16 in the paper), warm-up over 1,500 iterations, no gradient clipping.
"""

from __future__ import annotations

from gss_lite.presets.parts import Preset, Schedule, fixed

# always_partition: windows and shifts as in the released code, also where the map is no larger than
# a window. level_norms: its layer norms on the four maps, which timm's Swin lacks.
SWIN_L = (
    "swin_large_patch4_window12_384",
    fixed(drop_path_rate=0.3, strict_img_size=False, always_partition=True, level_norms=True),
)


R101 = ("resnet101c", fixed(output_stride=8, out_indices=(1, 2, 3, 4)))


HRNET = ("hrnet_w48", fixed(feature_location="", out_indices=(1, 2, 3, 4)))


def _stage_two(steps: int, batch: int, side: int, lr: float) -> Schedule:
    # The authors trained in float32 on eight GPUs; bfloat16 should halve the memory, and the frozen
    # dVAE's time.
    return Schedule(
        steps,
        batch,
        (side, side),
        lr,
        warmup=1500,
        weight_decay=0.01,
        scales=(0.5, 2.0),
        precision="bf16",
        targets="bf16",
    )


def _paper(
    name: str,
    data: str,
    classes: int,
    size: tuple[int, int],
    backbone: tuple,
    depth: int,
    prior: Schedule,
    **kwargs: object,
) -> Preset:
    return Preset(
        name=name,
        data=data,
        size=size,
        num_classes=classes,
        tokenizer=fixed(vocab_size=8192),
        tokenizer_kind="dalle",
        backbone=backbone[0],
        backbone_args=backbone[1],
        head=fixed(
            level_dim=384,
            fuse_dim=512,
            token_dim=2048,
            pixel_dim=384,
            depth=depth,
            heads=16,
            window=7,
            ffn_dim=1024,
            dropout=0.1,
        ),
        vqvae=Schedule(0, 1, prior.crop, 0.0),
        prior=prior,
        **kwargs,
    )


_CITYSCAPES = {
    "data": "cityscapes",
    "classes": 19,
    "palette": "released-cityscapes",
    "size": (1024, 2048),
    "window": (768, 512),
    "prior": _stage_two(80_000, 16, 768, 1.5e-3),
}


_ADE20K = {
    "data": "ade20k",
    "classes": 150,
    "palette": "released-ade20k",
    "size": (512, 2048),
    "test_size": (512, 2048),
    "prior": _stage_two(160_000, 32, 512, 1.2e-4),
}


_MSEG = {
    "data": "mseg",
    "classes": 194,
    "palette": "released-mseg",
    "size": (512, 2048),
    "window": (768, 512),
    "prior": _stage_two(160_000, 32, 512, 1.2e-4),
}


_SWIN = {"backbone": SWIN_L, "depth": 2, "pretrained": "swin_large_patch4_window12_384.ms_in22k"}


PAPER_PRESETS: tuple[Preset, ...] = (
    _paper(
        "cityscapes-r101",
        **_CITYSCAPES,
        backbone=R101,
        depth=6,
        pretrained="resnet101c.gluon_in1k",
        notes="77.76 mIoU as GSS-FF, 78.46 as GSS-FT-W (paper, Table 4).",
    ),
    _paper(
        "cityscapes-swin-l",
        **_CITYSCAPES,
        **_SWIN,
        notes="78.90 mIoU as GSS-FF, 80.05 as GSS-FT-W (paper, Table 4).",
    ),
    _paper(
        "ade20k-swin-l",
        **_ADE20K,
        **_SWIN,
        notes="46.29 mIoU as GSS-FF, 48.54 as GSS-FT-W (paper, Table 5). Whole pictures, short "
        "side 512.",
    ),
    _paper(
        "mseg-hrnet-w48",
        **_MSEG,
        backbone=HRNET,
        depth=6,
        pretrained="hrnet_w48.ms_in1k",
        notes="h. mean 52.6 as GSS-FF, 55.2 as GSS-FT-W (paper, Table 6).",
    ),
    _paper(
        "mseg-swin-l",
        **_MSEG,
        **_SWIN,
        notes="h. mean 59.5 as GSS-FF, 61.9 as GSS-FT-W (paper, Table 6).",
    ),
)
