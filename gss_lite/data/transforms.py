"""Transforms of a picture and its mask together, and the order of the training samples.

Every geometric step comes from torchvision v2 and changes both in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2

from gss_lite.contracts import IGNORE

Pair = tuple[Tensor, Tensor]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class ClassShareCrop(v2.Transform):
    """A random crop in which no class covers more than `limit` of the labelled pixels.

    If one class covers more, or no pixel is labelled, another crop is drawn, at most ten in all.
    This is mmsegmentation's `cat_max_ratio`. Without it, many crops of a street data set would show
    only road. Smaller pictures are first padded at the right and at the bottom: with black, and
    with 255 in the mask.
    """

    def __init__(self, height: int, width: int, limit: float = 0.75) -> None:
        super().__init__()
        self.height, self.width, self.limit = height, width, limit

    def forward(self, image: Tensor, mask: Tensor) -> Pair:
        """Picture (3, H, W) and mask (H, W) → both cropped to (height, width)."""
        below = max(0, self.height - mask.shape[0])
        right = max(0, self.width - mask.shape[1])
        if below or right:
            image = v2.functional.pad(image, [0, 0, right, below])
            mask = v2.functional.pad(mask, [0, 0, right, below], fill=IGNORE)
        for _ in range(10):
            top = int(torch.randint(mask.shape[0] - self.height + 1, ()))
            left = int(torch.randint(mask.shape[1] - self.width + 1, ()))
            part = mask[top : top + self.height, left : left + self.width]
            counts = torch.bincount(part.flatten().int(), minlength=256)[:IGNORE]
            if 0 < counts.max() <= self.limit * counts.sum():
                break
        box = (top, left, self.height, self.width)
        return v2.functional.crop(image, *box), v2.functional.crop(mask, *box)


class PhotometricDistortion(v2.RandomPhotometricDistort):
    """Change brightness, contrast, saturation and hue, each in one picture of two.

    The ranges come from the released configs: brightness ± 32 of 255 (here a factor within
    1 ± 1/8), contrast and saturation times 0.5 … 1.5, and hue turned by up to a tenth of the
    circle. torchvision's own transform also permutes the colour channels; mmsegmentation's does
    not.
    """

    def __init__(self) -> None:
        super().__init__(
            brightness=(0.875, 1.125), contrast=(0.5, 1.5), saturation=(0.5, 1.5), hue=(-0.1, 0.1)
        )

    def make_params(self, flat_inputs: list) -> dict:
        """Draw torchvision's random numbers for one picture, without the permutation."""
        return {**super().make_params(flat_inputs), "channel_permutation": None}


DISTORTIONS = {"released": PhotometricDistortion, "torchvision": v2.RandomPhotometricDistort}


class RandomScale(v2.Transform):
    """Resize a pair into `size` times a random factor, uniform in `scales`.

    The picture is interpolated bilinearly, and the mask by the nearest id. The ratio of the sides
    is kept, see `resize_shape`.
    """

    def __init__(self, size: tuple[int, int], scales: tuple[float, float]) -> None:
        super().__init__()
        self.size, self.scales = size, scales

    def forward(self, image: Tensor, mask: Tensor) -> Pair:
        """Picture (3, H, W) and mask (H, W) → both resized alike."""
        factor = float(torch.empty(()).uniform_(*self.scales))
        size = resize_shape(mask.shape, [side * factor for side in self.size])
        # For a mask, torchvision before 0.28 ignores the interpolation and takes NEAREST, which
        # shifts the mask against the picture. A plain tensor gets the interpolation asked for.
        ids = v2.functional.resize(
            mask.as_subclass(Tensor)[None], size, interpolation=InterpolationMode.NEAREST_EXACT
        )[0]
        return (
            v2.functional.resize(image, size, antialias=True),
            tv_tensors.wrap(ids, like=mask),
        )


def resize_shape(sides: Sequence[int], size: Sequence[float]) -> list[int]:
    """Return the (height, width) of a picture that is resized into `size` with its ratio kept.

    This is mmsegmentation's rule: the picture is as large as possible, but its longer side is at
    most the longer of `size`, and its shorter side at most the shorter. So (512, 2048) means a
    shorter side of 512 for all but very long pictures.
    """
    ratio = min(max(size) / max(sides), min(size) / min(sides))
    # mmcv rounds a half up, where Python's `round` takes the even neighbour.
    return [max(1, int(side * ratio + 0.5)) for side in sides]


def train_transform(
    height: int,
    width: int,
    scales: tuple[float, float] = (0.5, 2.0),
    image_size: tuple[int, int] | None = None,
    distortion: str = "released",
) -> v2.Compose:
    """Build the released configs' training pipeline.

    Its steps are a random scale, a crop with a limit on class shares, a flip of one picture in two,
    photometric distortion, and normalisation.

    Args:
        height, width: of the crop.
        scales: range of the random factor; (1.0, 1.0) leaves the pictures' size as it is.
        image_size: (height, width) that `scales` multiplies; by default that of the crop.
        distortion: "released", or "torchvision" for its stronger one, see `PhotometricDistortion`.

    Raises:
        ValueError: there is no such distortion.
    """
    if distortion not in DISTORTIONS:
        raise ValueError(
            f"the photometric distortion must be one of {', '.join(DISTORTIONS)}; got "
            f"{distortion!r}"
        )
    steps: list[Callable] = [
        ClassShareCrop(height, width),
        v2.RandomHorizontalFlip(),
        DISTORTIONS[distortion](),
        eval_transform(),
    ]
    if scales != (1.0, 1.0):
        steps.insert(0, RandomScale(image_size or (height, width), scales))
    return v2.Compose(steps)


def eval_transform() -> v2.Compose:
    """Build the transform of evaluation.

    The uint8 picture becomes float32, normalised by ImageNet's mean and standard deviation; the
    mask becomes int64.
    """
    kinds = {tv_tensors.Image: torch.float32, tv_tensors.Mask: torch.long, "others": None}
    return v2.Compose(
        [
            v2.ToDtype(kinds, scale=True),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            v2.ToPureTensor(),
        ]
    )


def normalize(image: Tensor) -> Tensor:
    """Picture uint8 (…, 3, H, W) → float32, normalised as `eval_transform` does it."""
    values = v2.functional.to_dtype(image.as_subclass(Tensor), torch.float32, scale=True)
    return v2.functional.normalize(values, IMAGENET_MEAN, IMAGENET_STD)


def denormalize(image: Tensor) -> Tensor:
    """Undo the normalisation, for showing: (…, 3, H, W) → values in [0, 1]."""
    mean = image.new_tensor(IMAGENET_MEAN)[:, None, None]
    std = image.new_tensor(IMAGENET_STD)[:, None, None]
    return (image * std + mean).clamp(0, 1)


def collate(pairs: Sequence[Pair]) -> Pair:
    """Stack pairs into a batch: pictures (B, 3, H, W) and masks (B, H, W).

    Raises:
        ValueError: the pictures are not all of one size.
    """
    images, masks = zip(*pairs)
    sizes = sorted({tuple(image.shape[-2:]) for image in images})
    if len(sizes) > 1:
        listed = " and ".join(f"{width}×{height}" for height, width in sizes[:2])
        raise ValueError(
            "the pictures of one batch must be of one size, and these are of "
            f"{len(sizes)} sizes, {listed} (width × height) among them; take them one at a time "
            "(batch=1), or bring them to one size first"
        )
    return torch.stack(images), torch.stack(masks)


class InMemory(Dataset):
    """A data set that keeps samples in memory after they were read once, up to a limit.

    A street of Scenes takes 10 ms to draw and 50 kB of memory. CamVid's training set takes 250 MB.
    Sets that are larger than `limit` bytes are read again where the memory is full.
    """

    def __init__(self, dataset: Dataset, limit: int = 2 * 2**30) -> None:
        self.dataset, self.limit = dataset, limit
        self.samples: dict[int, Pair] = {}
        self.size = 0

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Pair:
        if index in self.samples:
            return self.samples[index]
        sample = self.dataset[index]
        size = sum(part.nbytes for part in sample)
        if self.size + size <= self.limit:
            self.samples[index] = sample
            self.size += size
        return sample


def mixed_seed(seed: int, count: int) -> int:
    """Return a seed for draw `count` of run `seed`.

    The result has 32 bits, because torch's CPU generator uses only the low 32 bits of a seed.
    """
    return (count + 0x9E3779B1 * seed) % 2**32


class SeededAugmentation(Dataset):
    """A data set whose augmentation depends on (seed, draw) alone.

    The number of workers and restarts therefore makes no difference. The index is (draw, index),
    where `draw` numbers the samples of a training run from 0.
    """

    def __init__(self, dataset: Dataset, transform: Callable, seed: int) -> None:
        self.dataset, self.transform, self.seed = dataset, transform, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, item: tuple[int, int]) -> Pair:
        draw, index = item
        sample = self.dataset[index]
        # Only the CPU's generator is used, and its state is restored afterwards.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(mixed_seed(self.seed, draw))
            return self.transform(*sample)


class ResumableBatches(Sampler):
    """Batches of (draw, index) for the steps first … last − 1.

    Every epoch is a permutation that depends on (seed, epoch) alone. Step s therefore has the same
    samples whether training began at step 0 or was resumed at s.
    """

    def __init__(self, length: int, batch: int, first: int, last: int, seed: int) -> None:
        if length < 1:
            raise ValueError("the training set is empty; training needs at least one picture")
        self.length, self.first, self.last, self.seed = length, first, last, seed
        self.batch_size = batch  # the name that Accelerate looks for

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = -1
        order: list[int] = []
        for step in range(self.first, self.last):
            items = []
            for draw in range(step * self.batch_size, (step + 1) * self.batch_size):
                if draw // self.length != epoch:
                    epoch = draw // self.length
                    order = self._order(epoch)
                items.append((draw, order[draw % self.length]))
            yield items

    def _order(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, epoch))
        return torch.randperm(self.length, generator=generator).tolist()
