"""Stage I for every palette at once: a tokenizer that serves any colours and any K (supplement, section E: domain-generic maskige)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gss_lite.data.many_scenes import ManyScenes
from gss_lite.data.scenes import Scenes
from gss_lite.data.transforms import denormalize
from gss_lite.palette import IGNORE
from gss_lite.vqvae import VQVAE

TEMPERATURE = 0.1  # as in VQVAEStage
PHOTOGRAPHS = 8  # one picture of so many is the street itself, drawn by ManyScenes: no natural photograph is used


def random_colors(count: int, classes: int, device: torch.device | str = "cpu") -> Tensor:
    """`count` palettes of `classes` colours, uniform in the cube and then stretched by 1 to 2 from its middle → (count, classes, 3).

    Palettes made for large distances have many colours on the faces of the cube, where uniform draws have none.
    """
    stretch = 1 + torch.rand(count, 1, 1, device=device)
    return ((torch.rand(count, classes, 3, device=device) - 0.5) * stretch + 0.5).clamp(0, 1)


class GenericStage(nn.Module):
    """Like VQVAEStage, but every picture gets a palette of its own; the last few are the pictures themselves, as drawn, instead.

    forward(image, mask) takes ManyScenes' 150 fine classes. Half of the masks are merged into CamVid's 11 first, so that the
    tokenizer sees both large areas and many small ones; on these the read-back term applies, with each picture's own colours.
    """

    def __init__(self, tokenizer: VQVAE, readback: float) -> None:
        super().__init__()
        self.tokenizer, self.readback = tokenizer, readback
        self.register_buffer("to_coarse", torch.from_numpy(ManyScenes(1).to_coarse).long(), persistent=False)

    def paint(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Photograph and fine mask → pictures (B, 3, H, W), coarse masks of the first half (B/2, H, W), colours (B, 256, 3)."""
        batch = len(mask)
        coarse = self.to_coarse[mask[: batch // 2]]
        colors = random_colors(batch, IGNORE + 1, mask.device)
        colors[:, IGNORE] = 0.5
        ids = torch.cat([coarse, mask[batch // 2 :]])
        rows = torch.arange(batch, device=mask.device)[:, None, None]
        pictures = colors[rows, ids].movedim(-1, 1)
        photographs = batch // PHOTOGRAPHS
        if photographs:
            pictures = torch.cat([pictures[:-photographs], denormalize(image[-photographs:])])
        return pictures, coarse, colors

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Photograph (B, 3, H, W), normalised, fine mask (B, H, W) → (loss, scalars)."""
        pictures, coarse, colors = self.paint(image, mask)
        rebuilt, quantized = self.tokenizer(pictures)
        loss, scalars = self.tokenizer.losses(pictures, rebuilt, quantized)
        if self.readback and len(coarse):
            classes = len(Scenes.classes)
            beta = colors[: len(coarse), :classes]
            scores = 2 * torch.einsum("bdhw,bkd->bkhw", rebuilt[: len(coarse)], beta) - beta.square().sum(2)[..., None, None]
            share = torch.bincount(coarse.flatten(), minlength=IGNORE + 1)[:classes].clamp(min=1)
            scalars["readback"] = F.cross_entropy(scores / TEMPERATURE, coarse, share.float().rsqrt(), ignore_index=IGNORE)
            loss = loss + self.readback * scalars["readback"]
        return loss, {name: value.detach() for name, value in scalars.items()}
