"""The rows of Table 1, each a palette and a way to read tokens, built for one seed."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from gss_lite.presets.plans import plan_for, shortened
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from gss_lite.contracts import IGNORE
from gss_lite.data import dataset_for
from gss_lite.data.transforms import InMemory, SeededAugmentation, eval_transform, train_transform
from gss_lite.gss import GSS, expected_maskige
from gss_lite.inverse import NearestColor
from gss_lite.inverse_fitted import CodeTable, ConvInverse, count_codes
from gss_lite.palette import JointResult, Palette, learn_palette, random_palette, train_jointly
from gss_lite.presets.parts import Preset
from gss_lite.training.inverse import (
    count_parameters,
    fingerprint,
    measure_gaussians,
    stage_name,
    train_inverse,
)
from gss_lite.training.loop import fit
from gss_lite.training.prior import PriorStage
from notebooks.experiments.palette_ablation import TILE, tiles


class ByMaskige:
    """The paper's reading: arg-max tokens → maskige → X⁻¹."""

    def __init__(self, tokenizer: nn.Module, inverse: nn.Module) -> None:
        self.tokenizer, self.inverse = tokenizer, inverse

    def tokens(self, tokens: Tensor) -> Tensor:
        """Tokens (B, h, w) → ids (B, h·stride, w·stride)."""
        return self.inverse.classify(self.tokenizer.decode(tokens))

    def logits(self, token_logits: Tensor) -> Tensor:
        """Token logits (B, V, h, w) → ids (B, h·stride, w·stride)."""
        return self.tokens(token_logits.argmax(1))


class ByExpectedCode(ByMaskige):
    """The expected code vector is decoded in place of the likeliest; where tokens are certain, nothing changes."""

    def logits(self, token_logits: Tensor) -> Tensor:
        """Token logits (B, V, h, w) → ids (B, h·stride, w·stride)."""
        return self.inverse.classify(expected_maskige(token_logits, self.tokenizer))


class ByCodeTable:
    """Classes counted behind codes, averaged over the token probabilities; nothing is decoded."""

    def __init__(self, table: CodeTable) -> None:
        self.table = table

    def tokens(self, tokens: Tensor) -> Tensor:
        """Tokens (B, h, w) → ids (B, h·stride, w·stride)."""
        return self.table.read(tokens)

    def logits(self, token_logits: Tensor) -> Tensor:
        """Token logits (B, V, h, w) → ids (B, h·stride, w·stride)."""
        return self.table.expected(token_logits).argmax(1)


@dataclass
class Row:
    """One variant. `x` and `inverse` say in words what X and X⁻¹ are; numbers in X and X⁻¹ beyond β, trained or measured;
    seconds of training both (data decoded for it included); the prior that predicts its tokens,
    None where there is none.
    """

    name: str
    palette: Palette
    reading: ByMaskige | ByCodeTable
    x: str
    inverse: str
    x_trained: bool = False
    inverse_trained: bool = False
    x_parameters: int = 0
    inverse_parameters: int = 0
    seconds: float = 0.0
    prior: nn.Module | None = None
    prior_seconds: float = 0.0
    film: JointResult | None = field(default=None, repr=False)


def build_rows(
    gss: GSS,
    preset: Preset,
    folder: Path,
    *,
    steps: int | None = None,
    palette_steps: int = 300,
    joint_steps: int = 400,
    prior_steps: int = 0,
    fit_pictures: int = 200,
    data: str | Path | None = None,
    progress: bool = False,
    only: tuple[str, ...] = (),
) -> Iterator[Row]:
    """Every row for one seed (the preset's), one after the other; `only` names those wanted (default: all).

    Args:
        gss: the trained GSS-FF; with None for a prior, the rows that need one are left out, and no
            row has one.
        folder: for checkpoints and weights; what is there already is not trained again. steps: of
            FT and FT-W instead of their plans'. fit_pictures: training pictures for everything
            else.
    """
    context = _Context(
        gss,
        preset,
        folder,
        steps,
        palette_steps,
        joint_steps,
        prior_steps,
        fit_pictures,
        data,
        progress,
    )
    for name, build in ROWS.items():
        if (not only or name in only) and not (gss.prior is None and name in NOISY):
            yield build(context, name)


@dataclass
class _Context:
    gss: GSS
    preset: Preset
    folder: Path
    steps: int | None
    palette_steps: int
    joint_steps: int
    prior_steps: int
    fit_pictures: int
    data: str | Path | None
    progress: bool

    def pictures(self, transform: Callable | None = None) -> Dataset:
        return dataset_for(self.preset, "train", folder=self.data, transform=transform)

    def masks(self) -> Tensor:
        """Training masks for TF and TT, cut into tiles (N, 48, 64)."""
        dataset = self.pictures()
        return tiles(
            torch.stack(
                [
                    torch.as_tensor(dataset[i][1])
                    for i in range(min(self.fit_pictures, len(dataset)))
                ]
            ),
            *TILE,
        )

    def with_prior(self, row: Row) -> Row:
        """The row with a copy of the prior trained on for `prior_steps` on the row's own tokens, if any are asked for."""
        if not self.prior_steps or self.gss.prior is None:
            return row
        preset = self.preset
        gss = GSS(
            row.palette,
            self.gss.tokenizer,
            copy.deepcopy(self.gss.prior),
            NearestColor(row.palette.colors),
        )
        schedule = replace(
            preset.prior,
            steps=self.prior_steps,
            warmup=min(preset.prior.warmup, self.prior_steps // 10),
            ema=0.0,
        )
        transform = train_transform(
            *schedule.crop,
            scales=schedule.scales,
            image_size=preset.size,
            distortion=schedule.distortion,
        )
        dataset = SeededAugmentation(InMemory(self.pictures()), transform, preset.seed)
        name = f"prior-{row.name}"
        run = {
            "preset": preset.name,
            "stage": name,
            "seed": preset.seed,
            "steps": schedule.steps,
            "frozen": fingerprint(gss),
        }
        log = fit(
            PriorStage(gss),
            gss.prior,
            dataset,
            schedule,
            run=run,
            folder=self.folder / name,
            progress=self.progress,
        )
        # Accelerate moves what it trains, and the tokenizer is shared
        gss.to(self.gss.colors.device)
        row.prior, row.prior_seconds = gss.prior.eval(), log[-1]["seconds"]
        return row


def _random(context: _Context, name: str) -> Row:
    palette = random_palette(len(context.gss.colors), context.preset.seed)
    return context.with_prior(
        Row(name, palette, _nearest(context, palette), "random colours", "nearest colour")
    )


def _fixed(context: _Context, name: str) -> Row:
    gss = context.gss
    return Row(
        name,
        gss.palette,
        _nearest(context, gss.palette),
        "maximal distance",
        "nearest colour",
        prior=gss.prior,
    )


def _trained(kind: str, maskige: str) -> Callable[[_Context, str], Row]:
    def build(context: _Context, name: str) -> Row:
        gss, preset, plan = context.gss, context.preset, plan_for(context.preset, kind)
        inverse = train_inverse(
            preset,
            context.folder,
            kind,
            maskige=maskige,
            gss=gss,
            plan=shortened(plan, context.steps or plan.schedule.steps),
            data=context.data,
            progress=context.progress,
        )
        record = json.loads(
            (context.folder / f"{preset.name}.{stage_name(kind, maskige)}.json").read_text()
        )
        return Row(
            name,
            gss.palette,
            ByMaskige(gss.tokenizer, inverse),
            "maximal distance",
            f"{DESCRIPTION[kind]}, {maskige} maskige",
            inverse_trained=True,
            inverse_parameters=count_parameters(inverse),
            seconds=record["seconds"],
            prior=gss.prior,
        )

    return build


def _learned(context: _Context, name: str) -> Row:
    masks, started = context.masks(), time.perf_counter()
    start = random_palette(len(context.gss.colors), context.preset.seed)
    palette = learn_palette(
        start, context.gss.tokenizer, masks, steps=context.palette_steps, seed=context.preset.seed
    ).palette
    seconds = time.perf_counter() - started
    return context.with_prior(
        Row(
            name,
            palette,
            _nearest(context, palette),
            "learned",
            "nearest colour",
            x_trained=True,
            x_parameters=palette.colors.numel(),
            seconds=seconds,
        )
    )


def _joint(context: _Context, name: str) -> Row:
    masks, started, width = (
        context.masks(),
        time.perf_counter(),
        plan_for(context.preset, "ft").size["width"],
    )
    start = random_palette(len(context.gss.colors), context.preset.seed)
    joint = train_jointly(
        start,
        context.gss.tokenizer,
        masks,
        lambda colors: ConvInverse(colors, width),
        steps=context.joint_steps,
        seed=context.preset.seed,
    )
    seconds = time.perf_counter() - started
    return context.with_prior(
        Row(
            name,
            Palette(joint.colors, "learned jointly"),
            ByMaskige(context.gss.tokenizer, joint.inverse),
            "learned",
            "convolutions, jointly",
            x_trained=True,
            inverse_trained=True,
            x_parameters=joint.colors.numel(),
            inverse_parameters=count_parameters(joint.inverse),
            seconds=seconds,
            film=joint,
        )
    )


def _gaussian(maskige: str) -> Callable[[_Context, str], Row]:
    def build(context: _Context, name: str) -> Row:
        gss, started = context.gss, time.perf_counter()
        inverse = measure_gaussians(
            gss, context.pictures(eval_transform()), maskige=maskige, count=context.fit_pictures
        )
        classes, channels = gss.colors.shape
        return Row(
            name,
            gss.palette,
            ByMaskige(gss.tokenizer, inverse),
            "maximal distance",
            f"a Gaussian a class, measured on {maskige} maskige",
            inverse_parameters=classes * (channels + channels * (channels + 1) // 2),
            seconds=time.perf_counter() - started,
            prior=gss.prior,
        )

    return build


def _expected(context: _Context, name: str) -> Row:
    gss = context.gss
    reading = ByExpectedCode(gss.tokenizer, NearestColor(gss.colors))
    return Row(
        name,
        gss.palette,
        reading,
        "maximal distance",
        "nearest colour, of the expected code's maskige",
        prior=gss.prior,
    )


def _table(context: _Context, name: str) -> Row:
    gss, started, stride = context.gss, time.perf_counter(), context.gss.tokenizer.stride
    loader = DataLoader(context.pictures(eval_transform()), batch_size=8)
    batches = (mask for _, (_, mask) in zip(range(-(-context.fit_pictures // 8)), loader))
    padded = (
        nn.functional.pad(
            mask, (0, -mask.shape[2] % stride, 0, -mask.shape[1] % stride), value=IGNORE
        )
        for mask in batches
    )
    table = count_codes(
        gss.tokenizer,
        len(gss.colors),
        ((gss.tokenizer.encode(gss.palette(mask)), mask) for mask in padded),
    )
    return Row(
        name,
        gss.palette,
        ByCodeTable(table),
        "maximal distance",
        "classes counted behind each code",
        inverse_parameters=table.probability.numel(),
        seconds=time.perf_counter() - started,
        prior=gss.prior,
    )


def _nearest(context: _Context, palette: Palette) -> ByMaskige:
    return ByMaskige(context.gss.tokenizer, NearestColor(palette.colors))


DESCRIPTION = {"ft": "three convolutions", "ft-w": "Swin blocks"}


ROWS: dict[str, Callable[[_Context, str], Row]] = {
    "FF-R": _random,
    "FF": _fixed,
    "FT": _trained("ft", "clean"),
    "FT, noisy": _trained("ft", "noisy"),
    "TF": _learned,
    "TT": _joint,
    "FT-W, clean": _trained("ft-w", "clean"),
    "FT-W": _trained("ft-w", "noisy"),
    "Gaussian": _gaussian("clean"),
    "Gaussian, noisy": _gaussian("noisy"),
    "expected code": _expected,
    "code table": _table,
}


# rows that read what a prior predicts
NOISY = ("FT, noisy", "FT-W", "Gaussian, noisy", "expected code")
