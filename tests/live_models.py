"""Models that are not trained, and yet use many codes and predict many classes.

A model as it is created encodes nearly every mask to one token and predicts one class everywhere,
so a test on it can hardly fail.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gss_lite.factory import create_model
from gss_lite.gss import GSS, Outputs
from gss_lite.inverse import NearestColor
from gss_lite.palette import Palette
from gss_lite.presets import Preset


@torch.no_grad()
def live(preset: str | Preset) -> GSS:
    """A preset's model, its codebook started on data, and what its last layers give centred."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = create_model(preset)
        tokenizer = model.tokenizer
        side = 2 * tokenizer.stride
        blocks = torch.randint(model.num_classes, (8, 8, 8))
        maskige = model.palette(blocks.repeat_interleave(side, 1).repeat_interleave(side, 2))
        nn.Module.train(tokenizer)
        for _ in range(5):
            rebuilt, _ = tokenizer(maskige)
        standardize(tokenizer.decoder[-1], 2 * rebuilt - 1, spread=0.8)
        model.eval()
        logits = model.prior(torch.randn(4, 3, 64, 64))
        standardize(model.prior.to_tokens, logits.token_logits)
        standardize(model.prior.to_classes, logits.pixel_logits)
        check_live(model)
    return model


def standardize(layer: nn.Module, outputs: Tensor, spread: float = 1.0) -> None:
    """Give the outputs (B, C, h, w) of a last layer the mean 0 and one spread in each channel."""
    mean = outputs.mean((0, 2, 3))  # (C,)
    scale = spread / outputs.std((0, 2, 3))
    transposed = isinstance(layer, nn.ConvTranspose2d)  # its weight is (inputs, C, …)
    layer.weight.mul_(scale[None, :, None, None] if transposed else scale[:, None, None, None])
    layer.bias.sub_(mean).mul_(scale)


def check_live(model: GSS) -> None:
    """Fail unless at least 8 codes and 4 classes occur in what the model encodes and predicts."""
    mask = torch.randint(model.num_classes, (2, 64, 64))
    again, tokens = model.reconstruct(mask)
    found = model.predict(torch.randn(2, 3, 64, 64))
    assert len(tokens.unique()) >= 8
    assert len(found.tokens.unique()) >= 8
    for ids in (again, found.mask, found.pixel_mask):
        assert len(ids.unique()) >= 4


def padded_by_hand(image: Tensor) -> Tensor:
    """The last column and the last row are repeated up to multiples of 32."""
    while image.shape[3] % 32:
        image = torch.cat([image, image[:, :, :, -1:]], 3)
    while image.shape[2] % 32:
        image = torch.cat([image, image[:, :, -1:]], 2)
    return image


class Brightness(GSS):
    """A model that needs no training: class 1 where the picture is bright.

    It notes the sizes that it is shown, and on which device.
    """

    def __init__(self, stride: int = 4, **more: object) -> None:
        colors = torch.tensor([[0.0, 0, 1], [1, 1, 0]])
        tokenizer = nn.Identity()
        tokenizer.stride = stride
        super().__init__(Palette(colors), tokenizer, None, NearestColor(colors), **more)
        self.sizes: list[tuple[int, ...]] = []

    def outputs(self, image: Tensor) -> Outputs:
        """The padded picture's maskige is stride/4 times as large, as that of any model."""
        self.sizes.append(tuple(image.shape[2:]))
        bright = (padded_by_hand(image).mean(1) > 0).long()
        times = self.tokenizer.stride // 4
        maskige = self.palette(bright.repeat_interleave(times, 1).repeat_interleave(times, 2))
        logits = F.one_hot(bright, 2).movedim(-1, 1).float()
        return Outputs(logits[:, :, ::4, ::4], maskige, logits)


def random_mask(*shape: int, cell: int = 4) -> torch.Tensor:
    """A mask of `cell` × `cell` patches, so that tokens differ, of any size."""
    batch, height, width = shape
    small = torch.randint(11, (batch, -(-height // cell), -(-width // cell)))
    big = small.repeat_interleave(cell, 1).repeat_interleave(cell, 2)
    return big[:, :height, :width].contiguous()
