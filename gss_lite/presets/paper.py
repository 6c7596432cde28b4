"""The models of the paper with the authors' settings (supplement C and D.iv; released configs).

Stage I trains nothing here, because the tokenizer is OpenAI's frozen dVAE. Stage II starts from a
backbone trained on ImageNet. Some settings come from the released configs alone: the dilations of
R101, D = 6 for HRNet, drop path 0.3, warm-up over 1,500 iterations, and no gradient clipping; and
for MSeg one aggregation for both heads, pictures fitted into 512 × 2048 before the windows are cut,
and a batch of 32 (16 in the paper).
"""

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
    ViewSpec,
    fixed,
)


def _prior(backbone: str, pretrained: str, depth: int, **arguments: object) -> PriorSpec:
    """Put the authors' head on a backbone; `depth` is D, the number of shifted-window blocks."""
    head = fixed(
        level_dim=384,
        fuse_dim=512,
        token_dim=2048,
        pixel_dim=384,
        depth=depth,
        heads=16,
        window=7,
        ffn_dim=1024,
        dropout=0.1,
    )
    return PriorSpec(backbone, fixed(**arguments), head, pretrained)


SWIN_L = _prior(
    "swin_large_patch4_window12_384",
    "swin_large_patch4_window12_384.ms_in22k",
    depth=2,
    drop_path_rate=0.3,
    strict_img_size=False,
    # The released code also cuts and shifts windows where the map is no larger than one window.
    always_partition=True,
    released=True,
)
R101 = _prior(
    "resnet101c",
    "resnet101c.gluon_in1k",
    depth=6,
    output_stride=8,
    out_indices=LEVELS,
    released=True,
)
HRNET = _prior(
    "hrnet_w48",
    "hrnet_w48.ms_in1k",
    depth=6,
    feature_location="",
    out_indices=LEVELS,
    released=True,
)


def _for_mseg(prior: PriorSpec) -> PriorSpec:
    """Let both heads share one aggregation, as in the released models for MSeg."""
    shared = {"pixel_dim": None, "shared_aggregation": True}
    return replace(prior, head=fixed(**{**prior.head, **shared}))


def _schedules(steps: int, batch: int, side: int, lr: float, inverse_lr: float, inverse_depth: int):
    """Make the schedules of stage II and X⁻¹.

    The authors trained stage II in float32 on eight GPUs; bfloat16 should halve the memory and the
    time of the frozen dVAE. GSS-FT was not released, so its width and learning rate are our choice.
    The paper decodes pictures in every step of X⁻¹; we decode 2,000 pictures once.
    """
    crop = (side, side)
    return {
        "prior": Schedule(
            steps=steps,
            batch=batch,
            crop=crop,
            lr=lr,
            warmup=1500,
            weight_decay=0.01,
            scales=(0.5, 2.0),
            precision="bf16",
            target_precision="bf16",
            middle=0.2,
        ),
        "inverse-ft": InverseSchedule(
            steps=3_000,
            batch=16,
            crop=crop,
            lr=inverse_lr,
            pictures=2000,
            network=fixed(width=64),
        ),
        "inverse-ft-w": InverseSchedule(
            steps=40_000,
            batch=16,
            crop=crop,
            lr=inverse_lr,
            pictures=2000,
            network=fixed(dim=128, ffn_dim=256, depth=inverse_depth),
        ),
    }


def _uvim(side: int, patch: int, view: ViewSpec) -> UViMSpec:
    """UViM as section H describes it: the UViM paper's stage I, and Swin-L as language model.

    The decoder has the 24 layers and 1,024 channels of the UViM paper's language model. What stands
    between Swin-L and the code is not described, so it is our choice: aggregation and two blocks.
    Both stages see 32 × 32 patches, as in the UViM paper, whatever the size of the pictures.
    """
    return UViMSpec(
        stage_one=fixed(
            size=(side, side),
            patch=patch,
            code_grid=(16, 16),
            vocab_size=4096,
            code_dim=768,
            width=768,
            heads=12,
            oracle_depth=6,
            base_depth=12,
        ),
        language=fixed(level_dim=384, dim=1024, depth=2, heads=16),
        decoder_depth=24,
        view=view,
    )


def _uvim_schedules(batch: int, side: int) -> dict[str, Schedule]:
    """80,000 iterations for stage I and 160,000 for stage II (section H, iii).

    Section H gives neither optimiser nor batch. Optimiser, batch, crop and scales are those of GSS
    here, and stage I's learning rate is our choice. The UViM paper trains with Adafactor.
    """
    base = Schedule(
        steps=80_000,
        batch=batch,
        crop=(side, side),
        lr=4e-4,
        warmup=1500,
        scales=(0.5, 2.0),
        precision="bf16",
    )
    return {"uvim-base": base, "uvim-code": replace(base, steps=160_000, lr=1.2e-4)}


_DALLE = TokenizerSpec(fixed(vocab_size=8192), kind="dalle")
_CITYSCAPES = {
    "data": DataSpec("cityscapes", (1024, 2048), 19),
    "palette": "released-cityscapes",
    "tokenizer": _DALLE,
    "view": ViewSpec(window=(768, 512), multiple=1),
    "schedules": _schedules(80_000, 16, 768, 1.5e-3, inverse_lr=7.5e-4, inverse_depth=1),
}
_ADE20K = {
    "data": DataSpec("ade20k", (512, 2048), 150),
    "palette": "released-ade20k",
    "tokenizer": _DALLE,
    "view": ViewSpec(size=(512, 2048), multiple=1),
    "schedules": _schedules(160_000, 32, 512, 1.2e-4, inverse_lr=1.5e-3, inverse_depth=2),
}
_MSEG = {
    "data": DataSpec("mseg", (512, 2048), 194),
    "palette": "released-mseg",
    "tokenizer": _DALLE,
    "view": ViewSpec(window=(768, 512), size=(512, 2048), multiple=1),
    "schedules": _schedules(160_000, 32, 512, 1.2e-4, inverse_lr=1.5e-3, inverse_depth=2),
}


def _with_uvim(parts: dict, batch: int, side: int) -> dict:
    """Add the schedules of UViM to the parts of a preset."""
    return {**parts, "schedules": parts["schedules"] | _uvim_schedules(batch, side)}


PAPER_PRESETS: tuple[Preset, ...] = (
    Preset(
        "cityscapes-r101",
        prior=R101,
        notes="77.76 mIoU as GSS-FF, 78.46 as GSS-FT-W (paper, Table 4).",
        **_CITYSCAPES,
    ),
    Preset(
        "cityscapes-swin-l",
        prior=SWIN_L,
        notes="78.90 mIoU as GSS-FF, 80.05 as GSS-FT-W, 70.77 as UViM (paper, Table 4).",
        uvim=_uvim(768, patch=24, view=ViewSpec(window=(768, 512))),
        **_with_uvim(_CITYSCAPES, batch=16, side=768),
    ),
    Preset(
        "ade20k-swin-l",
        prior=SWIN_L,
        notes="46.29 mIoU as GSS-FF, 48.54 as GSS-FT-W, 43.71 as UViM (paper, Table 5). "
        "Whole pictures.",
        uvim=_uvim(512, patch=16, view=ViewSpec()),
        **_with_uvim(_ADE20K, batch=32, side=512),
    ),
    Preset(
        "mseg-hrnet-w48",
        prior=_for_mseg(HRNET),
        notes="h. mean 52.6 as GSS-FF, 55.2 as GSS-FT-W (paper, Table 6).",
        **_MSEG,
    ),
    Preset(
        "mseg-swin-l",
        prior=_for_mseg(SWIN_L),
        notes="h. mean 59.5 as GSS-FF, 61.9 as GSS-FT-W (paper, Table 6).",
        **_MSEG,
    ),
)
