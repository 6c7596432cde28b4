"""Stage I: the VQ-VAE on maskige, for one palette or for any.

A tokenizer for one palette learns the maskige of this palette. A tokenizer for any palette
(supplement, section E: domain-generic maskige) learns masks in random colours and natural
photographs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.transforms import v2

from gss_lite.contracts import IGNORE, Tokenizer
from gss_lite.data import DATASETS
from gss_lite.data.masks import stack_masks
from gss_lite.data.scenes import ManyScenes, Scenes
from gss_lite.data.transforms import SeededAugmentation, train_transform
from gss_lite.distributed import is_main, sum_over_processes, wait_for_all, world_size
from gss_lite.factory import create_palette, create_tokenizer, owns_palette, palette_hash
from gss_lite.inverse import TEMPERATURE, NearestColor
from gss_lite.palette import Palette, by_neighbours, max_min_palette
from gss_lite.presets import Preset, Schedule
from gss_lite.training.checks import check_labelled
from gss_lite.training.run import Job, data_hash, run_stage
from gss_lite.vqvae import VQVAE

PALETTE_MASKS = 600  # training masks that `by_neighbours` looks at
PHOTOGRAPH_EVERY = 8  # one of eight pictures in a batch is a photograph


def readback_loss(scores: Tensor, mask: Tensor) -> Tensor:
    """Classification loss through the nearest colour of a rebuilt maskige (S.2, D.i).

    The weight of a class is 1/√(its pixels in the whole batch), because small classes count as much
    as large ones in mIoU.

    Args:
        scores: (B, K, H, W), minus squared distances of colours.
        mask: class ids (B, H, W), 255 = ignore.

    Returns:
        A scalar; 0 where no pixel is labelled.
    """
    counts = torch.bincount(mask.flatten(), minlength=IGNORE + 1)[: scores.shape[1]]  # (K,)
    share = sum_over_processes(counts)
    weight = share.clamp(min=1).float().rsqrt()  # (K,)
    total = F.cross_entropy(
        scores.float() / TEMPERATURE, mask, weight, ignore_index=IGNORE, reduction="sum"
    )
    # Gradients are averaged over the processes; the factor world_size() makes them sums again.
    return total * world_size() / (share * weight).sum().clamp(min=1).to(total.dtype)


class VQVAELoss(nn.Module):
    """The loss of stage I for one palette.

    Args:
        readback: weight of the classification loss through the nearest colour (S.2). The distance
            in colour alone allows blends at borders; this loss makes the decoder choose a class.
    """

    def __init__(self, tokenizer: VQVAE, palette: Palette, readback: float) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.palette = palette
        self.readback = readback
        self.inverse = NearestColor(palette.colors)

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Mask (B, H, W) → (loss, scalars); the photograph is not used."""
        maskige = self.palette(mask)  # (B, D, H, W)
        rebuilt, quantized = self.tokenizer(maskige)  # (B, D, H, W)
        loss, scalars = self.tokenizer.losses(maskige, rebuilt, quantized)
        if self.readback:
            scalars["readback"] = readback_loss(self.inverse.scores(rebuilt), mask)
            loss = loss + self.readback * scalars["readback"]
        return loss, {name: value.detach() for name, value in scalars.items()}


class GenericLoss(nn.Module):
    """The loss of stage I for any palette: every picture has its own random colours.

    The last pictures of a batch are natural photographs. Half of the masks are merged into CamVid's
    11 classes first, so that the tokenizer learns large areas too. The classification loss through
    the nearest colour applies to these masks, with each picture's own colours.
    """

    def __init__(self, tokenizer: VQVAE, readback: float, photographs: Photographs) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.readback = readback
        self.photographs = photographs
        to_coarse = torch.from_numpy(ManyScenes(1).to_coarse).long()  # (256,)
        self.register_buffer("to_coarse", to_coarse, persistent=False)

    def paint(self, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Paint fine masks (B, H, W) → pictures, coarse masks of the first half, and colours.

        Their shapes are (B, 3, H, W), (B/2, H, W) and (B, 256, 3).
        """
        batch = len(mask)
        coarse = self.to_coarse[mask[: batch // 2]]  # (B/2, H, W)
        colors = random_colors(batch, IGNORE + 1, mask.device)  # (B, 256, 3)
        colors[:, IGNORE] = 0.5
        ids = torch.cat([coarse, mask[batch // 2 :]])  # (B, H, W)
        rows = torch.arange(batch, device=mask.device)[:, None, None]
        pictures = colors[rows, ids].movedim(-1, 1)  # (B, 3, H, W)
        natural = self.how_many(batch)
        if natural:
            crops = self.photographs.crops(natural, *mask.shape[1:])
            pictures[-natural:] = crops.to(mask.device)
        return pictures, coarse, colors

    @staticmethod
    def how_many(batch: int) -> int:
        """Draw the number of photographs in a batch: batch / PHOTOGRAPH_EVERY on average."""
        whole, rest = divmod(batch, PHOTOGRAPH_EVERY)
        one_more = bool(rest) and float(torch.rand(())) < rest / PHOTOGRAPH_EVERY
        return whole + one_more

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Fine mask (B, H, W) → (loss, scalars); the drawn street (B, 3, H, W) is not used."""
        pictures, coarse, colors = self.paint(mask)
        rebuilt, quantized = self.tokenizer(pictures)  # (B, 3, H, W)
        loss, scalars = self.tokenizer.losses(pictures, rebuilt, quantized)
        half = len(coarse)
        if self.readback and half:
            beta = colors[:half, : len(Scenes.classes)]  # (B/2, 11, 3)
            # −‖x̂ − β_k‖² without the term ‖x̂‖², which is equal for all classes.
            products = torch.einsum("bdhw,bkd->bkhw", rebuilt[:half], beta)
            scores = 2 * products - beta.square().sum(2)[..., None, None]  # (B/2, 11, H, W)
            scalars["readback"] = readback_loss(scores, coarse)
            loss = loss + self.readback * scalars["readback"]
        return loss, {name: value.detach() for name, value in scalars.items()}


def random_colors(
    count: int, classes: int, device: torch.device | str = "cpu", *, channels: int = 3
) -> Tensor:
    """Draw `count` palettes of `classes` colours → (count, classes, channels) in [0, 1].

    Uniform colours are stretched from the middle of the cube by a factor of 1 to 2 and clamped.
    Uniform colours alone never lie on the faces of the cube, where palettes with large distances
    have many colours.
    """
    stretch = 1 + torch.rand(count, 1, 1, device=device)
    uniform = torch.rand(count, classes, channels, device=device)
    return ((uniform - 0.5) * stretch + 0.5).clamp(0, 1)


class Photographs:
    """Natural pictures in memory, uint8 (3, H, W) each, for random crops."""

    def __init__(self, pictures: list[Tensor]) -> None:
        if not pictures:
            raise ValueError(
                "a tokenizer for any palette also learns natural pictures, and there are none; "
                "pass at least one photograph"
            )
        self.pictures = [picture.as_subclass(Tensor) for picture in pictures]

    @classmethod
    def of(cls, data: str, folder: object = None) -> Photographs:
        """Read the training photographs of a data set on disk; its masks are not used.

        Raises:
            ValueError: there is no such set.
            FileNotFoundError: the set is not on disk.
        """
        known = [name for name, kind in DATASETS.items() if not kind.drawn]
        if data not in known:
            raise ValueError(
                f"photographs come from a set of real pictures ({', '.join(known)}); got {data!r}"
            )
        dataset = DATASETS[data]("train", folder)
        return cls([image for image, _ in dataset])

    def crops(self, count: int, height: int, width: int) -> Tensor:
        """Cut `count` random crops → (count, 3, height, width) in [0, 1].

        A crop covers a tenth to the whole of a photograph, and every second one is mirrored.
        """
        crop = v2.Compose(
            [
                v2.RandomResizedCrop(
                    (height, width), scale=(0.1, 1.0), ratio=(width / height,) * 2
                ),
                v2.RandomHorizontalFlip(),
            ]
        )
        chosen = torch.randint(len(self.pictures), (count,)).tolist()
        return torch.stack([crop(self.pictures[i]) for i in chosen]).float() / 255


def make_palette(job: Job) -> Palette:
    """Return the preset's palette. One that depends on masks is made and saved in the run's folder.

    Raises:
        ValueError: the folder holds the palette of another run, or a tokenizer without its palette.
    """
    preset = job.preset
    if not preset.needs_masks or not owns_palette(preset):
        return create_palette(preset, job.folder)
    path = job.path("palette.json")
    trained = job.path("vqvae.safetensors")
    pictures = job.pictures()
    check_labelled(pictures)
    origin = {"preset": preset.name, "seed": preset.seed, "data": data_hash(pictures)}
    # Every process checks before the first one writes. Otherwise an error in the first process
    # would leave the others waiting.
    if path.exists():
        check_origin(path, origin)
    elif trained.exists():
        raise ValueError(
            f"{trained} is there, but the palette {path.name} that it was trained with is not; put "
            "the palette back, or train in a new folder (--out)"
        )
    wait_for_all()
    if is_main() and not path.exists():
        masks = stack_masks(pictures, range(min(PALETTE_MASKS, len(pictures))))
        colors = max_min_palette(preset.data.num_classes)
        palette = by_neighbours(colors, masks, seed=preset.seed)
        palette.origin = origin
        palette.save(path)
    wait_for_all()
    return create_palette(preset, job.folder)


def check_origin(path: object, origin: dict) -> None:
    """Raise ValueError unless the palette in a file was made by the run that `origin` names."""
    made_by = Palette.load(path).origin
    if made_by != origin:
        fields = ", ".join(k for k in origin if made_by.get(k) != origin[k])
        known = f"of another run ({fields} differ)" if made_by else "of no known run"
        raise ValueError(
            f"{path} is the palette {known}, so this run would differ from one in a new folder. "
            "Train in another folder (--out), or remove the palette and the weights trained with it"
        )


def trains_tokenizer(preset: Preset) -> bool:
    """Whether stage I trains a tokenizer, instead of taking another preset's or OpenAI's."""
    return not isinstance(preset.tokenizer, str) and preset.tokenizer.kind == "vqvae"


def train_tokenizer(job: Job) -> Tokenizer:
    """Train stage I. The palette, NAME.vqvae.safetensors and its record go to the run's folder.

    If the preset takes another preset's tokenizer or OpenAI's, only the palette is made.
    """
    preset = job.preset
    palette = make_palette(job) if preset.palette else None
    if not trains_tokenizer(preset):
        return create_tokenizer(preset, pretrained=True)
    torch.manual_seed(preset.seed)
    tokenizer = create_tokenizer(preset)
    spec = preset.tokenizer
    if palette:
        loss_fn = VQVAELoss(tokenizer, palette, spec.readback)
    else:
        photographs = Photographs.of(spec.photographs, job.data)
        loss_fn = GenericLoss(tokenizer, spec.readback, photographs)
    schedule = preset.schedule("vqvae")
    pictures = job.pictures()
    run_stage(
        job,
        "vqvae",
        loss_fn,
        tokenizer,
        schedule,
        augmented(job, schedule, pictures),
        pictures=pictures,
        # A tokenizer for any palette does not depend on particular classes.
        classes=pictures.dataset.classes if palette else (),
        rests_on=palette_hash(palette) if palette else None,
    )
    return tokenizer.eval()


def augmented(job: Job, schedule: Schedule, pictures: Dataset) -> SeededAugmentation:
    """Scale, crop, mirror and distort training pairs as the schedule says."""
    transform = train_transform(
        *schedule.crop,
        scales=schedule.scales,
        image_size=job.preset.data.size,
        distortion=schedule.distortion,
    )
    return SeededAugmentation(pictures, transform, job.preset.seed)
