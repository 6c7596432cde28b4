"""Stage I: the VQ-VAE on maskige, for one palette or for any.

A tokenizer for one palette learns the maskige that this palette paints. A tokenizer for any palette
(supplement, section E: domain-generic maskige) sees every picture in random colours, and natural
photographs between.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import v2

from gss_lite.contracts import IGNORE, Tokenizer
from gss_lite.data import DATASETS
from gss_lite.data.scenes import ManyScenes, Scenes
from gss_lite.data.transforms import SeededAugmentation, train_transform
from gss_lite.distributed import is_main, sum_over_processes, wait_for_all, world_size
from gss_lite.factory import create_palette, create_tokenizer, owns_palette, palette_hash
from gss_lite.inverse import TEMPERATURE, NearestColor
from gss_lite.palette import Palette, by_neighbours, max_min_palette
from gss_lite.presets import Preset
from gss_lite.training.checks import check_labelled
from gss_lite.training.run import Job, data_hash, run_stage
from gss_lite.vqvae import VQVAE

PALETTE_MASKS = 600  # training masks that `by_neighbours` looks at
PHOTOGRAPH_EVERY = 8  # one picture of so many in a batch is a photograph


def readback_loss(scores: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy of the classes read back from a rebuilt maskige (S.2, with D.i's measure).

    A class weighs 1/√share of the whole batch: a pedestrian's few pixels count in mIoU as much as
    the many of the road.

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
    # Gradients are averaged over processes, so the sum of one share counts as often as there are.
    return total * world_size() / (share * weight).sum().clamp(min=1).to(total.dtype)


class VQVAELoss(nn.Module):
    """The loss of stage I for one palette: forward(image, mask) paints the mask.

    Args:
        readback: weight of the cross-entropy of X⁻¹ (S.2). It teaches the decoder to put a border
            pixel on one side or the other, where a distance in colour alone accepts a blend.
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
    """The loss of stage I for any palette: every picture has colours of its own.

    The last few pictures of a batch are natural photographs. Half of the masks are merged into
    CamVid's 11 classes first, so that the tokenizer sees large areas as well as small ones. The
    read-back term applies to these, with each picture's own colours.
    """

    def __init__(self, tokenizer: VQVAE, readback: float, photographs: Photographs) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.readback = readback
        self.photographs = photographs
        to_coarse = torch.from_numpy(ManyScenes(1).to_coarse).long()  # (256,)
        self.register_buffer("to_coarse", to_coarse, persistent=False)

    def paint(self, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Fine mask (B, H, W) → pictures, coarse masks of the first half, and colours.

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
        """Photographs in a batch: one in PHOTOGRAPH_EVERY, on average where that leaves a rest."""
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
            # −‖x̂ − β_k‖², less ‖x̂‖², which all classes share.
            products = torch.einsum("bdhw,bkd->bkhw", rebuilt[:half], beta)
            scores = 2 * products - beta.square().sum(2)[..., None, None]  # (B/2, 11, H, W)
            scalars["readback"] = readback_loss(scores, coarse)
            loss = loss + self.readback * scalars["readback"]
        return loss, {name: value.detach() for name, value in scalars.items()}


def random_colors(
    count: int, classes: int, device: torch.device | str = "cpu", *, channels: int = 3
) -> Tensor:
    """`count` palettes of `classes` colours, (count, classes, channels).

    They are uniform in the cube and then stretched from its middle by 1 to 2. Palettes made for
    large distances have many colours on the faces of the cube, where uniform draws have none.
    """
    stretch = 1 + torch.rand(count, 1, 1, device=device)
    uniform = torch.rand(count, classes, channels, device=device)
    return ((uniform - 0.5) * stretch + 0.5).clamp(0, 1)


class Photographs:
    """Natural pictures in memory, uint8 (3, H, W) each, of which `crops` cuts random pieces."""

    def __init__(self, pictures: list[Tensor]) -> None:
        if not pictures:
            raise ValueError(
                "a tokenizer for any picture also learns natural ones, and there are none; "
                "pass at least one photograph"
            )
        self.pictures = [picture.as_subclass(Tensor) for picture in pictures]

    @classmethod
    def of(cls, data: str, folder: object = None) -> Photographs:
        """The training photographs of a data set that is on disk; its masks are not used.

        Raises:
            ValueError: there is no such set. FileNotFoundError: it is not on disk.
        """
        known = [name for name, kind in DATASETS.items() if not kind.drawn]
        if data not in known:
            raise ValueError(
                f"photographs come from a set of real pictures ({', '.join(known)}); got {data!r}"
            )
        dataset = DATASETS[data]("train", folder)
        return cls([image for image, _ in dataset])

    def crops(self, count: int, height: int, width: int) -> Tensor:
        """`count` random pieces in [0, 1], (count, 3, height, width).

        A piece is a tenth to the whole of a photograph, mirrored half the time.
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
    """The preset's palette; one that looks at masks is made, and left in the run's folder.

    Raises:
        ValueError: the folder holds the palette of another run, or a tokenizer that was trained in
            a palette which is not there.
    """
    preset = job.preset
    if not preset.needs_masks or not owns_palette(preset):
        return create_palette(preset, job.folder)
    path = job.path("palette.json")
    trained = job.path("vqvae.safetensors")
    pictures = job.pictures()
    check_labelled(pictures)
    origin = {"preset": preset.name, "seed": preset.seed, "data": data_hash(pictures)}
    # Every process looks before the first one writes, or the others would wait for it in vain.
    if path.exists():
        check_origin(path, origin)
    elif trained.exists():
        raise ValueError(
            f"{trained} is there, and {path.name}, in whose colours it was trained, is not; put "
            "that back, or train in a new folder (--out)"
        )
    wait_for_all()
    if is_main() and not path.exists():
        count = min(PALETTE_MASKS, len(pictures))
        masks = torch.stack([torch.as_tensor(pictures[i][1]) for i in range(count)])
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
            f"{path} is the palette {known}, so this run would not be that of a fresh folder. "
            "Train in another folder (--out), or remove the palette and what was trained in it"
        )


def trains_tokenizer(preset: Preset) -> bool:
    """Whether the preset has a tokenizer of its own to train: not another's, and not OpenAI's."""
    return not isinstance(preset.tokenizer, str) and preset.tokenizer.kind == "vqvae"


def train_tokenizer(job: Job) -> Tokenizer:
    """Stage I. Leaves palette, NAME.vqvae.safetensors and its record in the run's folder.

    Where the preset shares another's tokenizer, or takes OpenAI's, only the palette is made, and
    that tokenizer is given back as it is.
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
        # A tokenizer for any palette needs no class in particular.
        classes=pictures.dataset.classes if palette else (),
        rests_on=palette_hash(palette) if palette else None,
    )
    return tokenizer.eval()


def augmented(job: Job, schedule: object, pictures: object) -> SeededAugmentation:
    """Training pairs: scaled, cropped, mirrored and distorted as the schedule says."""
    transform = train_transform(
        *schedule.crop,
        scales=schedule.scales,
        image_size=job.preset.data.size,
        distortion=schedule.distortion,
    )
    return SeededAugmentation(pictures, transform, job.preset.seed)
