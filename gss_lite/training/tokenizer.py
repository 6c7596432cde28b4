"""The stages: I, the VQ-VAE on maskige; II, the prior on photographs. Each is one call, seeded and resumable.

Stage I for every palette at once: a tokenizer that serves any colours and any K (supplement, section E: domain-generic maskige).

Reading classes back from a rebuilt maskige, as a loss of stage I: (S.2)'s measure with D.i's cross-entropy.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import v2

from gss_lite.contracts import IGNORE
from gss_lite.data import dataset_for, num_classes
from gss_lite.data.folders import CamVid
from gss_lite.data.scenes import ManyScenes, Scenes
from gss_lite.distributed import is_main, processes, total_over_processes, wait_for_all
from gss_lite.factory import build_palette, build_tokenizer, comes_with_tokenizer, load_tokenizer
from gss_lite.inverse import TEMPERATURE, NearestColor
from gss_lite.palette.maxmin import max_min_palette
from gss_lite.palette.palette import Palette, paint
from gss_lite.palette.refinement import assign_colors
from gss_lite.presets.parts import Preset
from gss_lite.training.run import run_stage
from gss_lite.vqvae import VQVAE


class VQVAEStage(nn.Module):
    """Stage I: forward(image, mask) paints the mask and gives the VQ-VAE's loss; the photograph is not used.

    `readback` weighs a second term, the cross-entropy of X⁻¹(x̂) against the mask (S.2 with D.i's
    cross-entropy). It trains the decoder to put a border pixel on one side or the other, where a
    distance in colour alone is content with a blend.
    """

    def __init__(self, tokenizer: VQVAE, palette: Palette, readback: float) -> None:
        super().__init__()
        self.tokenizer, self.palette, self.readback = tokenizer, palette, readback
        self.inverse = NearestColor(palette.colors)

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Mask (B, H, W) → (loss, scalars)."""
        maskige = paint(mask, self.inverse.colors, self.palette.ignore_color)
        picture, quantized = self.tokenizer(maskige)
        loss, scalars = self.tokenizer.losses(maskige, picture, quantized)
        if self.readback:
            scalars["readback"] = readback_loss(self.inverse(picture), mask)
            loss = loss + self.readback * scalars["readback"]
        return loss, {name: value.detach() for name, value in scalars.items()}


def make_palette(preset: Preset, folder: Path, *, data: str | Path | None = None) -> Palette:
    """The preset's palette; an assigned one is made from 600 training masks and left in `folder` as NAME.palette.json, unless it
    comes with another preset's tokenizer.

    Raises:
        ValueError: `folder` holds a tokenizer that was trained without this palette.
    """
    path = folder / f"{preset.name}.palette.json"
    trained = folder / f"{preset.name}.vqvae.safetensors"
    missing = (
        preset.palette == "assigned" and not comes_with_tokenizer(preset) and not path.exists()
    )
    if missing and trained.exists():  # in every process, or the others would wait for the first
        raise ValueError(
            f"{trained} is there, and {path.name}, in whose colours it was trained, is not; put "
            "that back, or train in a new folder (--out)"
        )
    if missing and is_main():
        masks = dataset_for(preset, "train", folder=data)
        masks = torch.stack([masks[i][1] for i in range(min(600, len(masks)))])
        assign_colors(max_min_palette(num_classes(preset)), masks, seed=preset.seed).save(path)
    wait_for_all()  # the others read what the first has written
    return build_palette(preset, folder)


def trains_tokenizer(preset: Preset) -> bool:
    """Whether the preset has a tokenizer of its own to train: not another's, and not OpenAI's."""
    return not preset.tokenizer_from and preset.tokenizer_kind == "vqvae"


def train_vqvae(
    preset: Preset, folder: Path, *, data: str | Path | None = None, **options: object
) -> VQVAE:
    """Stage I. Leaves NAME.vqvae.safetensors and its record NAME.vqvae.json in `folder`; resumes what it finds there.

    Where the preset shares another's tokenizer, or takes OpenAI's, only the palette is made (or
    taken, if the tokenizer was made for one), and that tokenizer returned as it is.
    """
    palette = None if preset.palette == "random" else make_palette(preset, folder, data=data)
    if not trains_tokenizer(preset):
        return load_tokenizer(preset)
    torch.manual_seed(preset.seed)
    tokenizer = build_tokenizer(preset)
    if palette:
        stage = VQVAEStage(tokenizer, palette, preset.readback)
    else:
        stage = GenericStage(tokenizer, preset.readback, Photographs.of(preset.photographs, data))
    run_stage(preset, "vqvae", stage, tokenizer, preset.vqvae, folder, data, **options)
    return tokenizer.eval()


EVERY = 8  # one picture of so many in a batch is a photograph


def random_colors(count: int, classes: int, device: torch.device | str = "cpu") -> Tensor:
    """`count` palettes of `classes` colours, uniform in the cube and then stretched by 1 to 2 from its middle → (count, classes, 3).

    Palettes made for large distances have many colours on the faces of the cube, where uniform
    draws have none.
    """
    stretch = 1 + torch.rand(count, 1, 1, device=device)
    return ((torch.rand(count, classes, 3, device=device) - 0.5) * stretch + 0.5).clamp(0, 1)


class Photographs:
    """Natural pictures in memory, uint8 (3, H, W) each, of which `crops` cuts random pieces."""

    def __init__(self, pictures: list[Tensor]) -> None:
        if not pictures:
            raise ValueError(
                "a tokenizer for any picture also learns natural ones, and there are none; pass at "
                "least one photograph"
            )
        self.pictures = [picture.as_subclass(Tensor) for picture in pictures]

    @classmethod
    def of(cls, data: str, folder: str | Path | None = None) -> Photographs:
        """The training photographs of data set `data`; its masks are not used.

        Raises:
            ValueError: no such set. FileNotFoundError: it is not on disk; says how to fetch it.
        """
        if data != "camvid":
            raise ValueError(
                "photographs come from camvid, the one set here that holds natural ones; got "
                f"{data!r}"
            )
        return cls([image for image, _ in CamVid("train", folder)])

    def crops(self, count: int, height: int, width: int) -> Tensor:
        """`count` random pieces in [0, 1], (count, 3, height, width), a tenth to the whole of a photograph each, mirrored half the time."""
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


class GenericStage(nn.Module):
    """Like VQVAEStage, but every picture gets a palette of its own; the last few are natural photographs instead.

    forward(image, mask) takes ManyScenes' 150 fine classes; its drawn picture is not used. Half of
    the masks are merged into CamVid's 11 first, so that the tokenizer sees both large areas and
    many small ones; on these the read-back term applies, with each picture's own colours.
    """

    def __init__(self, tokenizer: VQVAE, readback: float, photographs: Photographs) -> None:
        super().__init__()
        self.tokenizer, self.readback, self.photographs = tokenizer, readback, photographs
        self.register_buffer(
            "to_coarse", torch.from_numpy(ManyScenes(1).to_coarse).long(), persistent=False
        )

    def paint(self, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Fine mask (B, H, W) → pictures (B, 3, H, W), coarse masks of the first half (B/2, H, W), colours (B, 256, 3)."""
        batch = len(mask)
        coarse = self.to_coarse[mask[: batch // 2]]
        colors = random_colors(batch, IGNORE + 1, mask.device)
        colors[:, IGNORE] = 0.5
        ids = torch.cat([coarse, mask[batch // 2 :]])
        rows = torch.arange(batch, device=mask.device)[:, None, None]
        pictures = colors[rows, ids].movedim(-1, 1)
        if natural := self.how_many(batch):
            pictures[-natural:] = self.photographs.crops(natural, *mask.shape[1:]).to(mask.device)
        return pictures, coarse, colors

    @staticmethod
    def how_many(batch: int) -> int:
        """Photographs in a batch: one in EVERY, on average where the batch is no multiple of it (as a process's share may be)."""
        whole, rest = divmod(batch, EVERY)
        return whole + (bool(rest) and float(torch.rand(())) < rest / EVERY)

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Fine mask (B, H, W) → (loss, scalars); the drawn street (B, 3, H, W) is not used."""
        pictures, coarse, colors = self.paint(mask)
        rebuilt, quantized = self.tokenizer(pictures)
        loss, scalars = self.tokenizer.losses(pictures, rebuilt, quantized)
        if self.readback and len(coarse):
            beta = colors[: len(coarse), : len(Scenes.classes)]
            scores = (
                2 * torch.einsum("bdhw,bkd->bkhw", rebuilt[: len(coarse)], beta)
                - beta.square().sum(2)[..., None, None]
            )
            scalars["readback"] = readback_loss(scores, coarse)
            loss = loss + self.readback * scalars["readback"]
        return loss, {name: value.detach() for name, value in scalars.items()}


def readback_loss(scores: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy of class scores (B, K, H, W), in squared distances of colour, against the mask (B, H, W); 0 where no pixel is labelled.

    Classes weigh 1/√share of the whole batch: a pedestrian's few pixels count in mIoU as much as
    the road's many.
    """
    share = total_over_processes(
        torch.bincount(mask.flatten(), minlength=IGNORE + 1)[: scores.shape[1]]
    )
    weight = share.clamp(min=1).float().rsqrt()
    total = F.cross_entropy(
        scores.float() / TEMPERATURE, mask, weight, ignore_index=IGNORE, reduction="sum"
    )
    # gradients are averaged over processes
    return total * processes() / (share * weight).sum().clamp(min=1).to(total.dtype)
