"""The stage that trains X⁻¹ (supplement, D.iii): GSS-FT and GSS-FT-W, on clean or on noisy maskige.

Everything before X⁻¹ is frozen and in eval mode, so a picture has one maskige however often it is
drawn: it is decoded once and kept, and the stage trains on crops of what was kept. (The released
code runs the frozen part in every step, with its batch norms in train mode, and their statistics
drift.)

X⁻¹ as a Gaussian for each class, measured on training pictures: a stage that trains nothing, and takes seconds.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset
from tqdm import tqdm

from gss_lite.contracts import IGNORE
from gss_lite.data import dataset_for
from gss_lite.data.transforms import SeededAugmentation, eval_transform
from gss_lite.distributed import is_main, wait_for_all
from gss_lite.factory import SHIPPED, load_gss
from gss_lite.gss import GSS
from gss_lite.inverse_fitted import (
    KINDS,
    GaussianInverse,
    LearnedInverse,
    fit_gaussians,
    inverse_loss,
)
from gss_lite.palette.palette import Palette, paint
from gss_lite.presets.parts import InversePlan, Preset
from gss_lite.presets.plans import plan_for
from gss_lite.storage import load_weights, run_record, save_weights, tensors_hash, write_json
from gss_lite.training.loop import fit

# of a batch to decode on a CPU, whose caches hold no more of its maps: eight frames at once are
# slower than one by one
CPU_PIXELS = 100_000


# decoded from the prior's own tokens for the photograph, or from the true mask's
INPUTS = ("noisy", "clean")


def stage_name(kind: str, maskige: str) -> str:
    """The stage's name in folders and files: "inverse-ft", "inverse-ft-w"; with "-clean" at the end if trained on clean maskige."""
    if kind not in KINDS or maskige not in INPUTS:
        raise ValueError(
            f"X⁻¹ must be one of {', '.join(KINDS)}, trained on one of {', '.join(INPUTS)} "
            f"maskige; got {kind!r}, {maskige!r}"
        )
    return f"inverse-{kind}" + ("-clean" if maskige == "clean" else "")


class InverseStage(nn.Module):
    """forward(maskige, mask) gives X⁻¹'s loss."""

    def __init__(self, inverse: LearnedInverse) -> None:
        super().__init__()
        self.inverse = inverse

    def forward(self, maskige: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Maskige (B, 3, H, W), mask (B, h, w) → (loss, scalars)."""
        loss = inverse_loss(self.inverse(maskige.float()), mask)
        return loss, {"cross_entropy": loss.detach()}


@torch.no_grad()
def decode_pictures(
    gss: GSS,
    dataset: Dataset,
    *,
    maskige: str = "noisy",
    count: int | None = None,
    batch: int = 0,
    progress: bool = False,
) -> TensorDataset:
    """What X⁻¹ is given, for `count` pictures evenly spaced through a set of (normalised image, mask) pairs.

    The whole model is put into eval mode first, and stays in it: not even batch-norm statistics
        change.

    Args:
        maskige: "noisy" for D_θ of the prior's own arg-max tokens for the photograph, "clean" for
            D_θ of the true mask's.
        batch: pictures at a time; 0 for 8 on a GPU, and on a CPU as many as CPU_PIXELS holds, 8 at
            most.

    Returns:
        A data set of (maskige (3, s·H, s·W) in float16, mask (H, W) in uint8); s = stride/4 for
        noisy maskige, 1 for clean.

    Raises:
        ValueError: an empty set, or noisy maskige smaller than the picture (stride below 4).
    """
    stage_name("ft", maskige)
    picked = (
        torch.linspace(0, len(dataset) - 1, min(count or len(dataset), len(dataset)))
        .round()
        .long()
        .tolist()
    )
    if not picked:
        raise ValueError("there are no pictures to decode; the data set is empty")
    gss.eval()
    device, pictures, masks = gss.colors.device, [], []
    pixels = torch.as_tensor(dataset[picked[0]][1]).numel()
    batch = batch or (8 if device.type != "cpu" else min(8, max(1, CPU_PIXELS // pixels)))
    loader = DataLoader(Subset(dataset, picked), batch_size=batch)
    for image, mask in tqdm(
        loader, desc=f"decode {maskige} maskige", disable=not progress, mininterval=1.0
    ):
        if maskige == "noisy":
            picture = noisy_maskige(gss, image.to(device))
        else:
            picture = clean_maskige(gss, mask.to(device))
        pictures.append(picture.half().cpu())
        masks.append(mask.byte())
    return TensorDataset(torch.cat(pictures), torch.cat(masks))


@torch.no_grad()
def noisy_maskige(gss: GSS, image: Tensor) -> Tensor:
    """Normalised photograph (B, 3, H, W) → the maskige decoded from its predicted tokens, (B, 3, s·H, s·W), s = stride/4."""
    if gss.tokenizer.stride % 4:
        raise ValueError(
            f"a tokenizer of stride {gss.tokenizer.stride} gives maskige smaller than the picture; "
            "the stage needs 4, 8, 12 …"
        )
    # the prior predicts tokens on a quarter of the picture's grid
    scale = gss.tokenizer.stride // 4
    return gss.predict_maskige(image)[:, :, : scale * image.shape[2], : scale * image.shape[3]]


@torch.no_grad()
def clean_maskige(gss: GSS, mask: Tensor) -> Tensor:
    """Mask (B, H, W) → decode(encode(paint(mask))), (B, 3, H, W)."""
    height, width, stride = *mask.shape[1:], gss.tokenizer.stride
    padded = F.pad(mask, (0, -width % stride, 0, -height % stride), value=IGNORE)
    return gss.tokenizer.decode(
        gss.tokenizer.encode(paint(padded, gss.colors, gss.palette.ignore_color))
    )[:, :, :height, :width]


def crop_pair(maskige: Tensor, mask: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The same random window of maskige (3, s·H, s·W) and mask (H, W), at most height × width pixels of the mask."""
    scale = maskige.shape[1] // mask.shape[0]
    size = min(height, mask.shape[0]), min(width, mask.shape[1])
    top, left = (int(torch.randint(have - want + 1, ())) for have, want in zip(mask.shape, size))
    rows, columns = slice(top, top + size[0]), slice(left, left + size[1])
    big = [slice(scale * s.start, scale * s.stop) for s in (rows, columns)]
    return maskige[:, big[0], big[1]], mask[rows, columns]


def build_inverse(palette: Palette, kind: str, plan: InversePlan) -> LearnedInverse:
    """The plan's X⁻¹ for a palette, untrained."""
    return KINDS[kind](palette.colors, **plan.size)


def train_inverse(
    preset: Preset,
    folder: Path,
    kind: str,
    *,
    maskige: str = "noisy",
    gss: GSS | None = None,
    stages: Path | None = None,
    plan: InversePlan | None = None,
    data: str | Path | None = None,
    command: str = "",
    progress: bool = True,
    **options: object,
) -> LearnedInverse:
    """Train X⁻¹ `kind`, "ft" or "ft-w". Leaves NAME.inverse-KIND.safetensors and its record NAME.inverse-KIND.json in `folder`.

    Args:
        gss: the trained model whose maskige are read (default: the preset's, with the weights found
            in `stages`, by default the shipped ones). It is not changed. data: the data set's
            folder. options: for `fit`.

    Returns:
        The trained X⁻¹, in eval mode. `graft` puts it on a model.
    """
    name, plan = stage_name(kind, maskige), plan or plan_for(preset, kind)
    gss = gss or load_gss(preset, stages or SHIPPED)
    started = time.perf_counter()
    pictures = decode_pictures(
        gss,
        dataset_for(preset, "train", folder=data, transform=eval_transform()),
        maskige=maskige,
        count=plan.pictures,
        progress=progress,
    )
    decoded = time.perf_counter() - started
    torch.manual_seed(preset.seed)
    inverse, schedule = build_inverse(gss.palette, kind, plan), plan.schedule
    dataset = SeededAugmentation(
        pictures, lambda x, c: crop_pair(x, c, *schedule.crop), preset.seed
    )
    run = {
        "preset": preset.name,
        "stage": name,
        "seed": preset.seed,
        "steps": schedule.steps,
        "batch": schedule.batch,
        "pictures": len(pictures),
        "frozen": fingerprint(gss),
    }
    log = fit(
        InverseStage(inverse),
        inverse,
        dataset,
        schedule,
        run=run,
        folder=folder / name,
        progress=progress,
        **options,
    )
    if is_main():
        _write(
            preset,
            folder,
            name,
            plan,
            inverse,
            log,
            maskige=maskige,
            pictures=len(pictures),
            decoded=decoded,
            command=command,
        )
    wait_for_all()
    return inverse.to(gss.colors.device).eval()


def _write(
    preset: Preset,
    folder: Path,
    name: str,
    plan: InversePlan,
    inverse: LearnedInverse,
    log: list[dict],
    *,
    maskige: str,
    pictures: int,
    decoded: float,
    command: str,
) -> None:
    save_weights(folder / f"{preset.name}.{name}.safetensors", inverse)
    record = run_record(
        kind=f"train {name}",
        preset=preset.name,
        seed=preset.seed,
        steps=plan.schedule.steps,
        command=command,
        seconds=decoded + log[-1]["seconds"],
        metrics={k: v for k, v in log[-1].items() if k != "step"},
    )
    write_json(
        folder / f"{preset.name}.{name}.json",
        {
            **record,
            "parameters": count_parameters(inverse),
            "maskige": maskige,
            "pictures": pictures,
            "seconds_decoding": round(decoded, 1),
            "size": dict(plan.size),
            "schedule": asdict(plan.schedule),
            "log": log,
        },
    )


def load_inverse(
    preset: Preset,
    kind: str,
    palette: Palette,
    folder: str | Path,
    *,
    maskige: str = "noisy",
    plan: InversePlan | None = None,
) -> LearnedInverse:
    """The X⁻¹ that `train_inverse` left in `folder`, in eval mode; its `colors` are those it was trained with."""
    inverse = build_inverse(palette, kind, plan or plan_for(preset, kind))
    load_weights(Path(folder) / f"{preset.name}.{stage_name(kind, maskige)}.safetensors", inverse)
    return inverse.eval()


def fingerprint(gss: GSS) -> str:
    """Sixteen hexadecimal digits that change with any bit of what stands before X⁻¹: palette, tokenizer, prior."""
    parts = [gss.tokenizer, *([gss.prior] if gss.prior is not None else [])]
    return tensors_hash([gss.colors, *(t for part in parts for t in part.state_dict().values())])[
        :16
    ]


def count_parameters(module: nn.Module) -> int:
    """Numbers that training would change."""
    return sum(p.numel() for p in module.parameters())


PICTURES = 200


def measure_gaussians(
    gss: GSS,
    dataset: Dataset,
    *,
    maskige: str = "noisy",
    count: int = PICTURES,
    progress: bool = False,
) -> GaussianInverse:
    """Where the classes' colours land, and how widely they scatter, in `count` pictures of a set of (normalised image, mask) pairs.

    Args and errors as `decode_pictures` and `fit_gaussians`.
    """
    pairs = decode_pictures(gss, dataset, maskige=maskige, count=count, progress=progress)
    return fit_gaussians(
        gss.colors, ((x.float(), same_size(x, mask)) for x, mask in DataLoader(pairs, batch_size=8))
    )


def same_size(maskige: Tensor, mask: Tensor) -> Tensor:
    """The mask (B, H, W) at the size of its maskige (B, 3, s·H, s·W): noisy ones of a tokenizer with stride 8 are twice as large."""
    scale = maskige.shape[2] // mask.shape[1]
    return mask.repeat_interleave(scale, 1).repeat_interleave(scale, 2)


def gaussian_stage(
    preset: Preset,
    folder: Path,
    gss: GSS,
    *,
    maskige: str = "noisy",
    data: str | Path | None = None,
    command: str = "",
    progress: bool = True,
) -> GaussianInverse:
    """Measure X⁻¹ for the preset's trained model. Leaves NAME.inverse-gaussian.safetensors and its record in `folder`."""
    started = time.perf_counter()
    pictures = dataset_for(preset, "train", folder=data, transform=eval_transform())
    inverse = measure_gaussians(gss, pictures, maskige=maskige, progress=progress)
    name = "inverse-gaussian" + ("-clean" if maskige == "clean" else "")
    classes, channels = inverse.colors.shape
    if is_main():
        save_weights(folder / f"{preset.name}.{name}.safetensors", inverse)
        write_json(
            folder / f"{preset.name}.{name}.json",
            {
                **run_record(
                    kind=f"train {name}",
                    preset=preset.name,
                    seed=preset.seed,
                    steps=None,
                    seconds=time.perf_counter() - started,
                    metrics={"pictures": min(PICTURES, len(pictures))},
                    command=command,
                    device=gss.colors.device,
                ),
                "parameters": classes * (channels + channels * (channels + 1) // 2),
                "maskige": maskige,
                "log": [],
            },
        )
    wait_for_all()
    return inverse.to(gss.colors.device).eval()
