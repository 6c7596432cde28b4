"""Joint transforms of picture and mask, from torchvision v2: every geometric step moves both alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2

IMAGENET_MEAN = (0.485, 0.456, 0.406)


IMAGENET_STD = (0.229, 0.224, 0.225)


class ClassShareCrop(v2.Transform):
    """A random crop, drawn again (at most ten times) while one class covers more than `limit` of its labelled pixels, or none is.

    mmsegmentation's `cat_max_ratio`: without it, crops of nothing but road take up much of a street
    data set. Pictures smaller than the crop are padded first: black, and 255 in the mask.
    """

    def __init__(self, height: int, width: int, limit: float = 0.75) -> None:
        super().__init__()
        self.size, self.limit = (height, width), limit

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Picture (3, H, W) and mask (H, W) → both cropped to (height, width)."""
        pad = [max(0, want - have) for want, have in zip(self.size, mask.shape)]
        if any(pad):
            image = v2.functional.pad(image, [0, 0, pad[1], pad[0]])
            mask = v2.functional.pad(mask, [0, 0, pad[1], pad[0]], fill=255)
        for _ in range(10):
            top, left = (
                int(torch.randint(have - want + 1, ())) for want, have in zip(self.size, mask.shape)
            )
            part = mask[top : top + self.size[0], left : left + self.size[1]]
            counts = torch.bincount(part.flatten().int(), minlength=256)[:255]
            if 0 < counts.max() <= self.limit * counts.sum():
                break
        return v2.functional.crop(image, top, left, *self.size), v2.functional.crop(
            mask, top, left, *self.size
        )


class PhotometricDistortion(v2.RandomPhotometricDistort):
    """Brightness, contrast, saturation and hue, each changed in one picture of two, in the released configs' ranges.

    ± 32 of 255 of brightness (here a factor within 1 ± 1/8), contrast and saturation times 0.5 …
    1.5, hue turned by up to a tenth of the circle. torchvision's transform also permutes the colour
    channels, which theirs (mmsegmentation's) does not.
    """

    def __init__(self) -> None:
        super().__init__(
            brightness=(0.875, 1.125), contrast=(0.5, 1.5), saturation=(0.5, 1.5), hue=(-0.1, 0.1)
        )

    def make_params(self, flat_inputs: list) -> dict:
        """Torchvision's random numbers for one picture, less the permutation."""
        return {**super().make_params(flat_inputs), "channel_permutation": None}


DISTORTIONS = {"released": PhotometricDistortion, "torchvision": v2.RandomPhotometricDistort}


def train_transform(
    height: int,
    width: int,
    scales: tuple[float, float] = (0.5, 2.0),
    image_size: tuple[int, int] | None = None,
    distortion: str = "released",
) -> v2.Compose:
    """The released configs' training pipeline: random scale, crop with a class-share limit, flip, photometric distortion.

    Args:
        height, width: of the crop. image_size: (height, width) of the pictures, which `scales`
            multiplies.
        distortion: "released", or "torchvision" for its stronger one, see `PhotometricDistortion`.

    Raises:
        ValueError: another distortion.
    """
    if distortion not in DISTORTIONS:
        raise ValueError(
            f"the photometric distortion must be one of {', '.join(DISTORTIONS)}; got "
            f"{distortion!r}"
        )
    steps: list[Callable] = []
    if scales != (1.0, 1.0):
        base = image_size or (height, width)
        steps.append(RandomScale(base, scales))
    return v2.Compose(
        [
            *steps,
            ClassShareCrop(height, width),
            v2.RandomHorizontalFlip(),
            DISTORTIONS[distortion](),
            eval_transform(),
        ]
    )


class RandomScale(v2.Transform):
    """Fit into `size` times a factor drawn uniformly from `scales`: bilinear for the picture, nearest for the mask.

    The sides' ratio is kept, by mmsegmentation's rule: the longer side reaches the longer of
    `size`, or the shorter side the shorter, whichever comes first. So (512, 2048) means a shorter
    side of 512 for all but very long pictures.
    """

    def __init__(self, size: tuple[int, int], scales: tuple[float, float]) -> None:
        super().__init__()
        self.size, self.scales = size, scales

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Picture (3, H, W) and mask (H, W) → both resized alike."""
        factor = float(torch.empty(()).uniform_(*self.scales))
        size = fit_into(mask.shape, [side * factor for side in self.size])
        return (
            v2.functional.resize(image, size, antialias=True),
            v2.functional.resize(mask, size, interpolation=InterpolationMode.NEAREST_EXACT),
        )


def fit_into(sides: Sequence[int], size: Sequence[float]) -> list[int]:
    """(height, width) of a picture → those it has as large as `size` (in either orientation) allows, its ratio kept."""
    ratio = min(max(size) / max(sides), min(size) / min(sides))
    return [max(1, round(side * ratio)) for side in sides]


def eval_transform() -> v2.Compose:
    """uint8 picture → float, normalised by ImageNet's mean and standard deviation; mask → long."""
    return v2.Compose(
        [
            v2.ToDtype(
                {tv_tensors.Image: torch.float32, tv_tensors.Mask: torch.long, "others": None},
                scale=True,
            ),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            v2.ToPureTensor(),
        ]
    )


def denormalize(image: Tensor) -> Tensor:
    """Inverse of the normalisation: (…, 3, H, W) → values in [0, 1], for showing."""
    mean, std = (
        image.new_tensor(IMAGENET_MEAN)[:, None, None],
        image.new_tensor(IMAGENET_STD)[:, None, None],
    )
    return (image * std + mean).clamp(0, 1)


class InMemory(Dataset):
    """Keeps every sample once read: a street of Scenes takes 10 ms to draw and 50 kB to keep, CamVid's training set 250 MB."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset, self.samples = dataset, {}

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index not in self.samples:
            self.samples[index] = self.dataset[index]
        return self.samples[index]


def mixed_seed(seed: int, count: int) -> int:
    """A 32-bit seed for draw `count` of run `seed`. torch's CPU generator looks at the low 32 bits of a seed only."""
    return (count + 0x9E3779B1 * seed) % 2**32


class SeededAugmentation(Dataset):
    """A data set whose augmentation depends on (seed, draw) alone, however many workers or restarts there are.

    Index it with (draw, index): `draw` counts the samples of a training run from its very first
    one.
    """

    def __init__(self, dataset: Dataset, transform: Callable, seed: int) -> None:
        self.dataset, self.transform, self.seed = dataset, transform, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, Tensor]:
        draw, index = item
        sample = self.dataset[index]
        with torch.random.fork_rng(devices=[]):
            # the CPU's alone: no GPU state is touched
            torch.default_generator.manual_seed(mixed_seed(self.seed, draw))
            return self.transform(*sample)


class ResumableBatches(Sampler):
    """Batches of (draw, index) for steps first … last − 1; every epoch is a fresh permutation fixed by (seed, epoch).

    Step s holds the same samples whether training began at 0 or was resumed at s.
    """

    def __init__(self, length: int, batch: int, first: int, last: int, seed: int) -> None:
        if length < 1:
            raise ValueError("the training set is empty")
        self.length, self.first, self.last, self.seed = length, first, last, seed
        self.batch_size = batch  # the name Accelerate looks for

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self):
        epoch, order = -1, []
        for step in range(self.first, self.last):
            items = []
            for draw in range(step * self.batch_size, (step + 1) * self.batch_size):
                if draw // self.length != epoch:
                    epoch = draw // self.length
                    generator = torch.Generator().manual_seed(mixed_seed(self.seed, epoch))
                    order = torch.randperm(self.length, generator=generator).tolist()
                items.append((draw, order[draw % self.length]))
            yield items
