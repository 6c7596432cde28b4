"""The stage that makes X⁻¹ (supplement, D.iii): FT and FT-W are trained, Gaussians are measured.

Everything before X⁻¹ is frozen and in eval mode, so a picture always has the same maskige. Each
maskige is decoded once and kept in memory, and the stage trains on crops of it. (The released code
runs the frozen part in every step, with its batch norms in train mode, so their statistics change.)
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset
from tqdm import tqdm

from gss_lite.data.masks import evenly_spaced
from gss_lite.data.transforms import SeededAugmentation, collate, eval_transform
from gss_lite.factory import stage_one_hashes
from gss_lite.gss import GSS, rebuild
from gss_lite.inverse_fitted import KINDS, GaussianInverse, LearnedInverse, fit_gaussians
from gss_lite.palette import Palette
from gss_lite.presets import InverseSchedule
from gss_lite.storage import tensors_hash
from gss_lite.training.run import Job, run_stage, write_result

# The largest batch to decode on a CPU, in pixels. The feature maps of a larger batch do not fit
# into the CPU's caches: eight CamVid frames at once are slower than one by one.
CPU_PIXELS = 100_000
# What X⁻¹ is trained on: maskige of the tokens that the prior predicts, the final one or that of
# its middle checkpoint, or maskige of the true mask.
INPUTS = ("noisy", "middle", "clean")
GAUSSIAN_PICTURES = 200


def stage_name(kind: str, maskige: str) -> str:
    """Return the stage's name in folders and files, as "inverse-ft" or "inverse-ft-w-clean".

    An X⁻¹ of noisy maskige has no ending.

    Raises:
        ValueError: no such X⁻¹ or no such maskige.
    """
    kinds = (*KINDS, "gaussian")
    if kind not in kinds or maskige not in INPUTS:
        raise ValueError(
            f"X⁻¹ must be one of {', '.join(kinds)}, trained on one of {', '.join(INPUTS)} "
            f"maskige; got {kind!r}, {maskige!r}"
        )
    return f"inverse-{kind}" + ("" if maskige == "noisy" else f"-{maskige}")


class InverseLoss(nn.Module):
    """The loss of an X⁻¹ as a module."""

    def __init__(self, inverse: LearnedInverse) -> None:
        super().__init__()
        self.inverse = inverse

    def forward(self, maskige: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Maskige (B, D, H, W), mask (B, h, w) → (loss, scalars)."""
        loss = self.inverse.loss(maskige.float(), mask)
        return loss, {"cross_entropy": loss.detach()}


@torch.no_grad()
def decode_pictures(
    gss: GSS,
    dataset: Dataset,
    *,
    maskige: str = "noisy",
    count: int | None = None,
    batch: int | None = None,
    progress: bool = False,
) -> TensorDataset:
    """Decode the maskige of `count` evenly spaced pictures: the training data of X⁻¹.

    The whole model is put into eval mode and stays in it, so batch-norm statistics do not change.

    Args:
        dataset: (normalised image, mask) pairs.
        maskige: "noisy" decodes the arg-max tokens that the prior predicts for the photograph, and
            so does "middle", for a model that has the prior of the middle checkpoint. "clean"
            decodes the tokens of the true mask.
        batch: pictures at a time; by default 8 on a GPU, and at most CPU_PIXELS pixels on a CPU.

    Returns:
        A data set of (maskige (D, s·H, s·W) in float16, mask (H, W) in uint8). s is stride/4 for
        noisy maskige and 1 for clean.

    Raises:
        ValueError: the data set is empty, or noisy maskige would be smaller than the picture.
    """
    stage_name("ft", maskige)
    if not len(dataset):
        raise ValueError("there are no pictures to decode; the data set is empty")
    picked = evenly_spaced(len(dataset), count)
    gss.eval()
    device = gss.colors.device
    pixels = torch.as_tensor(dataset[picked[0]][1]).numel()
    at_once = 8 if device.type != "cpu" else min(8, max(1, CPU_PIXELS // pixels))
    pictures = Subset(dataset, picked)
    loader = DataLoader(pictures, batch_size=batch or at_once, collate_fn=collate)
    decoded = []
    masks = []
    title = f"decode {maskige} maskige"
    for image, mask in tqdm(loader, desc=title, disable=not progress, mininterval=1.0):
        if maskige != "clean":
            picture = noisy_maskige(gss, image.to(device))  # (B, D, s·H, s·W)
        else:
            picture, _ = rebuild(gss.palette, gss.tokenizer, mask.to(device))  # (B, D, H, W)
        decoded.append(picture.half().cpu())
        masks.append(mask.byte())
    return TensorDataset(torch.cat(decoded), torch.cat(masks))


@torch.no_grad()
def noisy_maskige(gss: GSS, image: Tensor) -> Tensor:
    """Photographs (B, 3, H, W) → maskige of the predicted tokens (B, D, s·H, s·W), s = stride/4.

    Raises:
        ValueError: the tokenizer's stride is no multiple of 4.
    """
    if gss.tokenizer.stride % 4:
        raise ValueError(
            f"a tokenizer of stride {gss.tokenizer.stride} gives maskige smaller than the picture; "
            "the stage needs 4, 8, 12 …"
        )
    scale = gss.tokenizer.stride // 4  # the prior predicts a token for 4 × 4 pixels
    height, width = image.shape[2:]
    return gss.predict_maskige(image)[:, :, : scale * height, : scale * width]


@dataclass(frozen=True)
class CropPair:
    """The same random window of a maskige and its mask.

    Attributes:
        height: of the window, in pixels of the mask; smaller masks are taken whole.
        width: likewise.
    """

    height: int
    width: int

    def __call__(self, maskige: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Maskige (D, s·H, s·W), mask (H, W) → both cropped."""
        scale = maskige.shape[1] // mask.shape[0]
        spans = []
        for have, want in zip(mask.shape, (self.height, self.width)):
            length = min(want, have)
            start = int(torch.randint(have - length + 1, ()))
            spans.append((start, start + length))
        (top, bottom), (left, right) = spans
        part = maskige[:, scale * top : scale * bottom, scale * left : scale * right]
        return part, mask[top:bottom, left:right]


def build_inverse(palette: Palette, kind: str, schedule: InverseSchedule) -> LearnedInverse:
    """Make the X⁻¹ of a schedule, untrained."""
    return KINDS[kind](palette.colors, **schedule.network)


def train_inverse(
    job: Job,
    kind: str,
    gss: GSS,
    *,
    maskige: str = "noisy",
    schedule: InverseSchedule | None = None,
) -> LearnedInverse:
    """Train X⁻¹ `kind`, "ft" or "ft-w", for a trained model, which is not changed.

    NAME.inverse-KIND.safetensors and its record are written to the run's folder.

    Args:
        maskige: see `decode_pictures`; for "middle" the model needs the middle prior already.
        schedule: by default the preset's.

    Returns:
        The trained X⁻¹, in eval mode. `GSS.with_inverse` puts it on a model.
    """
    name = stage_name(kind, maskige)
    schedule = schedule or job.preset.schedule(f"inverse-{kind}")
    started = time.perf_counter()
    pictures = decode_pictures(
        gss,
        job.pictures(transform=eval_transform()),
        maskige=maskige,
        count=schedule.pictures,
        progress=job.options.progress,
    )
    seconds_decoding = round(time.perf_counter() - started, 1)
    torch.manual_seed(job.preset.seed)
    inverse = build_inverse(gss.palette, kind, schedule)
    run_stage(
        job,
        name,
        InverseLoss(inverse),
        inverse,
        schedule,
        SeededAugmentation(pictures, CropPair(*schedule.crop), job.preset.seed),
        pictures=pictures,
        rests_on={**stage_one_hashes(gss.palette, gss.tokenizer), "frozen": fingerprint(gss)},
        extra={
            "maskige": maskige,
            "pictures": len(pictures),
            "seconds_decoding": seconds_decoding,
            "size": dict(schedule.network),
        },
    )
    return inverse.to(gss.colors.device).eval()


def measure_gaussians(
    gss: GSS,
    dataset: Dataset,
    *,
    maskige: str = "noisy",
    count: int = GAUSSIAN_PICTURES,
    progress: bool = False,
) -> GaussianInverse:
    """Measure the mean and covariance of each class's colours in `count` decoded pictures.

    Arguments and errors are those of `decode_pictures` and `fit_gaussians`.
    """
    pairs = decode_pictures(gss, dataset, maskige=maskige, count=count, progress=progress)
    loader = DataLoader(pairs, batch_size=8)
    batches = ((x.float(), same_size(x, mask)) for x, mask in loader)
    return fit_gaussians(gss.colors, batches)


def same_size(maskige: Tensor, mask: Tensor) -> Tensor:
    """Repeat every pixel of a mask (B, H, W) s × s times, to the size of (B, D, s·H, s·W)."""
    scale = maskige.shape[2] // mask.shape[1]
    return mask.repeat_interleave(scale, 1).repeat_interleave(scale, 2)


def train_gaussians(job: Job, gss: GSS, *, maskige: str = "noisy") -> GaussianInverse:
    """Measure X⁻¹ for a trained model. Nothing is trained, so it takes seconds.

    NAME.inverse-gaussian.safetensors and its record are written to the run's folder.
    """
    started = time.perf_counter()
    pictures = job.pictures(transform=eval_transform())
    inverse = measure_gaussians(gss, pictures, maskige=maskige, progress=job.options.progress)
    write_result(
        job,
        stage_name("gaussian", maskige),
        inverse,
        stage_one_hashes(gss.palette, gss.tokenizer),
        {"parameters": gaussian_parameters(inverse), "maskige": maskige, "log": []},
        steps=None,
        seconds=time.perf_counter() - started,
        metrics={"pictures": min(GAUSSIAN_PICTURES, len(pictures))},
        device=gss.colors.device,
    )
    return inverse.to(gss.colors.device).eval()


def gaussian_parameters(inverse: GaussianInverse) -> int:
    """Count the numbers that were measured: a mean and a covariance for each class."""
    classes, channels = inverse.colors.shape
    return classes * (channels + channels * (channels + 1) // 2)


def fingerprint(gss: GSS) -> str:
    """Hash the weights of everything before X⁻¹ → 16 hexadecimal digits."""
    parts = [gss.tokenizer] if gss.prior is None else [gss.tokenizer, gss.prior]
    tensors = [tensor for part in parts for tensor in part.state_dict().values()]
    return tensors_hash([gss.colors, *tensors])[:16]
