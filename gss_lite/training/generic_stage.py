"""Stage I for every palette at once: a tokenizer that serves any colours and any K (supplement, section E: domain-generic maskige)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from gss_lite.data.camvid import CamVid
from gss_lite.data.many_scenes import ManyScenes
from gss_lite.data.scenes import Scenes
from gss_lite.palette import IGNORE
from gss_lite.training.readback import readback_loss
from gss_lite.vqvae import VQVAE

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
