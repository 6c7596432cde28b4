"""The released GSS written a second time, and a record of the tokens that it predicts.

The layers follow the authors' code (fudan-zvg/GSS) and OpenAI's dVAE, with PyTorch alone. They are
named so that `state_dict` gives a checkpoint in the released format. Tests and the notebook
`released_models` compare the package with them. The weights are random numbers. Nothing here was
trained, and the authors' own code was not run.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gss_lite.data import create_dataset
from gss_lite.palette import released_cityscapes_palette
from notebooks.experiments.released_layers import Swin, SwinStage, Unit, bilinear
from notebooks.experiments.runner import Run, new_parser, option

VOCAB_SIZE = 8192
STREET = 3  # of the test streets of scenes-cpu


class Released(NamedTuple):
    """What the released code gives for photographs (B, 3, H, W), with h = ⌈H/4⌉ and w = ⌈W/4⌉.

    Attributes:
        features: four maps (B, C, …), finest first.
        token_logits: (B, 8192, h, w).
        maskige: (B, 3, 8h, 8w) in [0, 1].
        votes: (B, K, 8h, 8w): one-hot classes of a GSS-FF, logits of a GSS-FT-W.
        pixel_logits: (B, K, h, w); None for a GSS-FT-W.
    """

    features: list[Tensor]
    token_logits: Tensor
    maskige: Tensor
    votes: Tensor
    pixel_logits: Tensor | None


class Head(nn.Module):
    """The released heads: GSS-FF, GSS-FF with one aggregation (MSeg), and GSS-FT-W.

    Args:
        widths: channels of the backbone's maps, finest first.
        colors: the palette (K + 1, 3) from 0 to 255; its last row is for ignored pixels.
        level, fused, hidden: channels of each level, after the fusion, and before the tokens.
        depth, heads, window: of the blocks of the token head.
        pixel: "own" or "shared" aggregation of the pixel head, or "none".
        inverse: channels, depth, heads and window of a trained X⁻¹; None is the nearest colour.
    """

    def __init__(
        self,
        widths: Sequence[int],
        colors: Tensor,
        *,
        level: int = 16,
        fused: int = 32,
        hidden: int = 16,
        depth: int = 2,
        heads: int = 4,
        window: int = 7,
        pixel: str = "own",
        inverse: tuple[int, int, int, int] | None = None,
    ) -> None:
        super().__init__()
        self.colors = colors.float()
        classes = len(colors) - 1
        widths = [widths[i] for i in (1, 0, 2, 3)]  # in_index
        self.conv_seg = nn.Conv2d(hidden, VOCAB_SIZE, 1)
        self.conv_before_seg = Unit(fused, hidden)
        self.swin_ln = nn.LayerNorm(fused)
        self.convs = nn.ModuleList(Unit(width, level) for width in widths)
        self.fusion_conv = Unit(4 * level, fused)
        self.transformer_block = SwinStage(fused, heads, window, 2 * fused, depth)
        self.pixel = pixel
        if pixel == "own":
            self.convs_pixel = nn.ModuleList(Unit(width, level) for width in widths)
            self.fusion_conv_pixel = Unit(4 * level, level)
        if pixel != "none":
            self.conv_seg_pixel = nn.Conv2d(level if pixel == "own" else fused, classes, 1)
        self.inverse = inverse
        if inverse:
            channels, depth, heads, window = inverse
            self.projection = Unit(3, channels)
            self.post_transformer_block = SwinStage(channels, heads, window, 2 * channels, depth)
            self.cls_segmap = nn.ModuleDict({"conv": nn.Conv2d(channels, classes, 1)})
            self.post_swin_ln = nn.LayerNorm(channels)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Four maps, finest first → token logits (B, 8192, h, w) and pixel logits (B, K, h, w)."""
        grid = maps[0].shape[2:]
        maps = [maps[i] for i in (1, 0, 2, 3)]
        levels = [bilinear(conv(x), grid) for conv, x in zip(self.convs, maps)]
        x = self.fusion_conv(torch.cat(levels, 1))  # (B, fused, h, w)
        pixel_logits = None
        if self.pixel == "shared":
            pixel_logits = self.conv_seg_pixel(x)
        elif self.pixel == "own":
            levels = [bilinear(conv(y), grid) for conv, y in zip(self.convs_pixel, maps)]
            pixel_logits = self.conv_seg_pixel(self.fusion_conv_pixel(torch.cat(levels, 1)))
        x = self.transformer_block.blocks(x.permute(0, 2, 3, 1))  # (B, h, w, fused)
        x = self.swin_ln(x).permute(0, 3, 1, 2)  # (B, fused, h, w)
        return self.conv_seg(self.conv_before_seg(x)), pixel_logits

    def votes(self, maskige: Tensor) -> Tensor:
        """Maskige (B, 3, H, W) in [0, 1] → one-hot classes or logits (B, K, H, W)."""
        if not self.inverse:
            difference = 255 * maskige[:, None] - self.colors[:-1, :, None, None]  # (B, K, 3, H, W)
            nearest = difference.square().sum(2).argmin(1)  # (B, H, W)
            return F.one_hot(nearest, len(self.colors) - 1).movedim(-1, 1).float()
        x = self.projection(maskige).permute(0, 2, 3, 1)  # (B, H, W, C)
        x = self.post_swin_ln(self.post_transformer_block.blocks(x))
        return self.cls_segmap["conv"](x.permute(0, 3, 1, 2))


class ReleasedGSS(nn.Module):
    """A backbone and a head under the released names, with a dVAE under OpenAI's names.

    Args:
        backbone: of `released_layers`.
        head: made for its widths.
        dvae: "encoder." or "decoder." and OpenAI's name → tensor, see `random_dvae`.
    """

    def __init__(self, backbone: nn.Module, head: Head, dvae: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.backbone = backbone
        self.decode_head = head
        self.dvae = dvae

    @torch.no_grad()
    def forward(self, image: Tensor) -> Released:
        """Normalised photographs (B, 3, H, W) of any size → Released."""
        features = self.backbone(image)
        token_logits, pixel_logits = self.decode_head(features)
        maskige = decode(self.dvae, token_logits.argmax(1))
        votes = self.decode_head.votes(maskige)
        return Released(features, token_logits, maskige, votes, pixel_logits)

    @torch.no_grad()
    def losses(self, image: Tensor, mask: Tensor) -> dict[str, float]:
        """The weighted losses of one training step, in eval mode.

        Args:
            image: normalised photographs (B, 3, H, W).
            mask: class ids (B, H, W), 255 = ignore.
        """
        _, token_logits, _, votes, pixel_logits = self(image)
        if self.decode_head.inverse:
            logits = bilinear(votes, mask.shape[1:])
            return {"loss_ce": float(F.cross_entropy(logits, mask, ignore_index=255))}
        classes = pixel_logits.shape[1]
        size = [8 * side for side in token_logits.shape[2:]]
        pixel_logits = bilinear(pixel_logits, size)  # (B, K, 8h, 8w)
        mask = mask.masked_fill(mask == 255, classes)
        onehot = F.one_hot(mask, classes + 1).movedim(-1, 1).float()
        mask = bilinear(onehot, size).argmax(1)  # (B, 8h, 8w)
        ignored = mask == classes
        filled = torch.where(ignored, pixel_logits.argmax(1), mask)
        picture = self.decode_head.colors[filled].movedim(-1, 1) / 255  # (B, 3, 8h, 8w)
        tokens = encode(self.dvae, picture)  # (B, h, w)
        empty = F.avg_pool2d(ignored.float(), 8) == 1
        token_loss = F.cross_entropy(token_logits, tokens.masked_fill(empty, -100))
        pixel_loss = F.cross_entropy(pixel_logits, mask, ignore_index=classes)
        return {"loss_ce": 0.8 * float(token_loss), "loss_ce_pixel": 0.2 * float(pixel_loss)}


def encode(dvae: Mapping[str, Tensor], picture: Tensor) -> Tensor:
    """OpenAI's encoder: picture (B, 3, 8h, 8w) in [0, 1] → tokens (B, h, w)."""
    x = convolve(dvae, "encoder.blocks.input", 0.8 * picture + 0.1)
    for group in range(1, 5):
        for block in (1, 2):
            x = dvae_block(dvae, f"encoder.blocks.group_{group}.block_{block}", x)
        if group < 4:
            x = F.max_pool2d(x, 2)
    return convolve(dvae, "encoder.blocks.output.conv", x.relu()).argmax(1)


def decode(dvae: Mapping[str, Tensor], tokens: Tensor) -> Tensor:
    """OpenAI's decoder: tokens (B, h, w) → picture (B, 3, 8h, 8w) in [0, 1]."""
    onehot = F.one_hot(tokens, VOCAB_SIZE).movedim(-1, 1).float()
    x = convolve(dvae, "decoder.blocks.input", onehot)
    for group in range(1, 5):
        for block in (1, 2):
            x = dvae_block(dvae, f"decoder.blocks.group_{group}.block_{block}", x)
        if group < 4:
            x = F.interpolate(x, scale_factor=2, mode="nearest")
    x = convolve(dvae, "decoder.blocks.output.conv", x.relu())[:, :3]
    return ((x.sigmoid() - 0.1) / 0.8).clamp(0, 1)


def dvae_block(dvae: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    """id(x) + res(x) / 64."""
    path = x
    for i in range(1, 5):
        path = convolve(dvae, f"{name}.res_path.conv_{i}", path.relu())
    if f"{name}.id_path.w" in dvae:
        x = convolve(dvae, f"{name}.id_path", x)
    return x + path / 64


def convolve(dvae: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    """Convolve with the tensors NAME.w and NAME.b, keeping the size."""
    weight = dvae[f"{name}.w"]
    return F.conv2d(x, weight, dvae[f"{name}.b"], padding=weight.shape[-1] // 2)


def dvae_shapes(width: int = 8, code_dim: int = 8) -> dict[str, tuple[int, ...]]:
    """OpenAI's names and shapes of a narrow dVAE; the published one has width 256, code_dim 128."""
    sizes = {}
    widths = {"encoder": [1, 2, 4, 8], "decoder": [8, 4, 2, 1]}
    kernels = {"encoder": (3, 3, 3, 1), "decoder": (1, 3, 3, 3)}
    for part in widths:
        first = (width, 3, 7) if part == "encoder" else (code_dim, VOCAB_SIZE, 1)
        sizes[f"{part}.blocks.input"] = first
        inputs = first[0]
        for group, factor in enumerate(widths[part], 1):
            outputs = factor * width
            for block in (1, 2):
                name = f"{part}.blocks.group_{group}.block_{block}"
                if inputs != outputs:
                    sizes[f"{name}.id_path"] = (outputs, inputs, 1)
                channels = [inputs, *[outputs // 4] * 3, outputs]
                for i, kernel in enumerate(kernels[part]):
                    shape = (channels[i + 1], channels[i], kernel)
                    sizes[f"{name}.res_path.conv_{i + 1}"] = shape
                inputs = outputs
        last = VOCAB_SIZE if part == "encoder" else 6
        sizes[f"{part}.blocks.output.conv"] = (last, inputs, 1)
    shapes = {}
    for name, (outputs, inputs, kernel) in sizes.items():
        shapes[f"{name}.w"] = (outputs, inputs, kernel, kernel)
        shapes[f"{name}.b"] = (outputs,)
    return shapes


def random_tensor(name: str, shape: Sequence[int], numbers: np.random.Generator) -> Tensor:
    """Random numbers of a size that suits the tensor's place; the same on every machine."""
    values = torch.from_numpy(numbers.random(tuple(shape), dtype=np.float32))  # in [0, 1)
    end = name.rpartition(".")[2]
    if end == "running_var" or (end == "weight" and len(shape) == 1):
        return values + 0.5  # in [0.5, 1.5), of norms
    if end in ("bias", "b", "running_mean"):
        return values - 0.5
    if end == "relative_position_bias_table":
        return 2 * values - 1
    return (2 * values - 1) * (3 / values[0].numel()) ** 0.5  # variance 1 / inputs


def random_dvae(seed: int = 0, width: int = 8, code_dim: int = 8) -> dict[str, Tensor]:
    """A narrow dVAE of random numbers, under OpenAI's names."""
    numbers = np.random.default_rng(seed)
    shapes = dvae_shapes(width, code_dim)
    dvae = {name: random_tensor(name, shape, numbers) for name, shape in shapes.items()}
    dvae["decoder.blocks.input.w"] *= VOCAB_SIZE**0.5  # of a one-hot map only one number is read
    return dvae


def fill(model: nn.Module, seed: int = 0) -> nn.Module:
    """Put random numbers into a model, and set it to eval mode."""
    numbers = np.random.default_rng(seed)
    state = {
        name: random_tensor(name, tensor.shape, numbers) if tensor.is_floating_point() else tensor
        for name, tensor in model.state_dict().items()
    }
    model.load_state_dict(state)
    return model.eval()


def state_hash(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of all names, shapes and numbers."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(f"{name} {tuple(state[name].shape)}\n".encode())
        digest.update(state[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def small_model(seed: int = 0) -> ReleasedGSS:
    """The GSS-FF of the notebook: a narrow Swin in Cityscapes' colours."""
    backbone = Swin(12, (2, 2, 2, 2), (1, 2, 4, 8), window=7, ratio=4)
    palette = released_cityscapes_palette()
    colors = (255 * torch.cat([palette.colors, palette.ignore_color[None]])).round()
    return fill(ReleasedGSS(backbone, Head(backbone.widths, colors), random_dvae(seed)), seed)


def rows(values: Tensor) -> list[str]:
    """Whole numbers (h, w) as one line of text a row, which keeps the record short."""
    return [" ".join(map(str, row)) for row in values.tolist()]


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    return new_parser(
        __file__,
        __doc__,
        seed=option(0, "of the random numbers", type=int),
        record="notebooks/records/released-models.json",
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Predict one street with the reference, and write its tokens and classes to the record."""
    run = Run(parser(), argv)
    model = small_model(run.given.seed)
    image, _ = create_dataset("scenes-cpu", "test")[STREET]
    found = model(image[None])
    best = found.token_logits[0].topk(2, dim=0).values  # (2, h, w)
    metrics = {
        "street": STREET,
        "state_sha256": state_hash(model.state_dict()),
        "dvae_sha256": state_hash(model.dvae),
        "tokens": rows(found.token_logits.argmax(1)[0]),
        # Rounding may swap two scores that are nearer than this: [row, column] of such tokens.
        "near_ties": (best[0] - best[1] < 1e-3).nonzero().tolist(),
        "classes_of_every_8th_pixel": rows(found.votes.argmax(1)[0, ::8, ::8]),
    }
    run.write("cityscapes-swin-l", metrics, seed=run.given.seed)


if __name__ == "__main__":
    main()
