"""The stages that learn a palette: GSS-TF, and GSS-TT, which learns X⁻¹ with it (D.ii).

A mask is painted in the current colours, and the frozen tokenizer encodes and decodes it. The loss
compares the result with the mask. The gradient of the soft-max stands in for the choice of tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gss_lite.contracts import DifferentiableTokenizer
from gss_lite.distributed import is_main, wait_for_all
from gss_lite.factory import create_tokenizer, stage_one_hashes
from gss_lite.inverse_fitted import ConvInverse
from gss_lite.palette import (
    Palette,
    nearest_color_loss,
    paint,
    random_palette,
    rebuild_error,
    straight_through_reconstruct,
)
from gss_lite.presets import PaletteSchedule
from gss_lite.storage import read_json, weights_hash
from gss_lite.training.run import Job, run_stage, write_result
from gss_lite.training.tokenizer import augmented, check_origin


class TrainedColors(nn.Module):
    """What the stages train: β, and in GSS-TT an X⁻¹.

    Args:
        start: the first palette.
        inverse: the X⁻¹ of GSS-TT; None is GSS-TF, whose X⁻¹ is the nearest colour.
    """

    def __init__(self, start: Palette, inverse: ConvInverse | None = None) -> None:
        super().__init__()
        self.free = nn.Parameter(start.colors.clone())  # (K, D)
        self.inverse = inverse

    def colors(self) -> Tensor:
        """β (K, D) in [0, 1]. Values that have left the interval are reflected at its ends.

        Clamped colours could become equal in a corner and stay equal.
        """
        return 1 - (1 - self.free % 2).abs()


class PaletteLoss(nn.Module):
    """The loss of GSS-TF or GSS-TT as a module.

    Args:
        trained: β, and X⁻¹ for GSS-TT.
        tokenizer: it is frozen here and stays in eval mode.
        ignore_color: the colour of unlabelled pixels, (D,).
    """

    def __init__(
        self,
        trained: TrainedColors,
        tokenizer: DifferentiableTokenizer,
        ignore_color: Tensor,
        schedule: PaletteSchedule,
    ) -> None:
        super().__init__()
        self.trained = trained
        self.tokenizer = tokenizer.requires_grad_(False)
        self.schedule = schedule
        self.register_buffer("ignore_color", ignore_color.clone())
        self.unit = 0.0

    def train(self, mode: bool = True) -> PaletteLoss:
        """Set β and X⁻¹ to train mode; the tokenizer always stays in eval mode."""
        super().train(mode)
        self.tokenizer.eval()
        return self

    @torch.no_grad()
    def measure_unit(self, mask: Tensor) -> None:
        """Measure the tokenizer's unit of temperature on masks (B, H, W) in the current colours."""
        maskige = paint(mask, self.trained.colors(), self.ignore_color)  # (B, D, H, W)
        self.unit = self.tokenizer.logit_unit(self.tokenizer.code_logits(maskige))

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Mask (B, H, W) → (loss, scalars); the photograph is not used."""
        colors = self.trained.colors()  # (K, D)
        maskige = paint(mask, colors, self.ignore_color)  # (B, D, H, W)
        temperature = self.schedule.temperature * self.unit
        noise = torch.default_generator  # the loop seeds it in every step
        rebuilt = straight_through_reconstruct(self.tokenizer, maskige, temperature, noise)
        if self.trained.inverse is None:
            loss = nearest_color_loss(rebuilt, mask, colors)
        else:
            loss = self.trained.inverse.loss(rebuilt, mask)
        scalars = {"cross_entropy": loss.detach()}
        if self.schedule.rebuild:
            error = rebuild_error(rebuilt, mask, colors)
            scalars["rebuild"] = error.detach()
            loss = loss + self.schedule.rebuild * error
        return loss, scalars


def train_palette(job: Job) -> Palette:
    """Learn the palette of a preset with `Preset.learned` through the preset's frozen tokenizer.

    It begins with random colours. NAME.palette.json is the palette. NAME.palette-tf.safetensors or
    NAME.palette-tt.safetensors holds the weights, with a run record beside it. GSS-TT also writes
    its X⁻¹ to NAME.inverse-tt.safetensors.

    Raises:
        ValueError: the folder holds the palette of another run, or two colours became equal.
        Exception: the errors of `run_stage`.
    """
    preset = job.preset
    stage = f"palette-{preset.learned}"
    schedule = preset.schedule(stage)
    tokenizer = create_tokenizer(preset, pretrained=True)
    start = random_palette(preset.data.num_classes, preset.seed)
    torch.manual_seed(preset.seed)
    joint = preset.learned == "tt"
    inverse = ConvInverse(start.colors, **schedule.network) if joint else None
    trained = TrainedColors(start, inverse)
    loss_fn = PaletteLoss(trained, tokenizer, start.ignore_color, schedule)
    pictures = job.pictures()
    dataset = augmented(job, schedule, pictures)
    first = [dataset[0, index][1] for index in range(min(schedule.batch, len(pictures)))]
    loss_fn.measure_unit(torch.stack(first))
    origin = {"preset": preset.name, "seed": preset.seed, "tokenizer": weights_hash(tokenizer)}
    path = job.path("palette.json")
    if path.exists():
        check_origin(path, origin)
    log = run_stage(
        job,
        stage,
        loss_fn,
        trained,
        schedule,
        dataset,
        pictures=pictures,
        classes=pictures.dataset.classes,
        rests_on={"tokenizer_sha256": origin["tokenizer"]},
        extra={"temperature_unit": loss_fn.unit},
    )
    palette = _palette_of(trained, start, schedule)
    palette.origin = origin
    if is_main():
        palette.save(path)
    wait_for_all()
    if joint:
        _write_inverse(job, stage, trained, palette, tokenizer, schedule, log)
    return palette


def _palette_of(trained: TrainedColors, start: Palette, schedule: PaletteSchedule) -> Palette:
    colors = trained.colors().detach().cpu()
    try:
        return Palette(colors, "learned from random colours", start.ignore_color)
    except ValueError as error:
        raise ValueError(
            f"learning moved two colours together ({error}); lower the learning rate "
            f"(now {schedule.lr:g})"
        ) from error


def _write_inverse(
    job: Job,
    stage: str,
    trained: TrainedColors,
    palette: Palette,
    tokenizer: DifferentiableTokenizer,
    schedule: PaletteSchedule,
    log: list[dict],
) -> None:
    """Write the X⁻¹ of GSS-TT like those of the stages inverse-…, for `evaluate --inverse tt`."""
    inverse = trained.inverse.cpu()
    inverse.colors.copy_(palette.colors)
    write_result(
        job,
        "inverse-tt",
        inverse,
        stage_one_hashes(palette, tokenizer.cpu()),
        {"size": dict(schedule.network), "log": log},
        steps=schedule.steps,
        seconds=read_json(job.path(f"{stage}.json"))["seconds"],
        metrics={name: value for name, value in log[-1].items() if name != "step"},
        device=torch.device("cpu"),
    )
