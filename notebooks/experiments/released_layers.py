"""The released backbones written a second time, with PyTorch alone and under the released names.

They follow the authors' code (fudan-zvg/GSS, which is built on mmsegmentation) layer by layer. They
import neither timm nor our model, so that `released_reference` can check both.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def bilinear(x: Tensor, size: Sequence[int]) -> Tensor:
    """Resize (B, C, h, w) to (B, C, *size)."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


class Unit(nn.Module):
    """A 1×1 convolution without bias, batch norm, ReLU: mmcv's ConvModule."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x)).relu()


# Swin ---------------------------------------------------------------------------------------------


class Attention(nn.Module):
    """Attention in windows of w × w cells, with a learned bias for every relative position."""

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.window = window
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        row = torch.arange(window).repeat_interleave(window)  # of each cell, (w²,)
        column = torch.arange(window).repeat(window)
        down = row[:, None] - row[None] + window - 1  # (w², w²)
        right = column[:, None] - column[None] + window - 1
        self.register_buffer("relative_position_index", down * (2 * window - 1) + right)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, shift: int) -> Tensor:
        """(B, H, W, C) of any size → the same shape; the windows are shifted by `shift` cells."""
        height, width, channels = x.shape[1:]
        w = self.window
        x = F.pad(x, (0, 0, 0, -width % w, 0, -height % w))  # (B, H', W', C), whole windows
        sides = x.shape[1:3]
        x = self.windows(x.roll((-shift, -shift), (1, 2)))  # (B, windows, w², C)
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(2, 3)
            for part in self.qkv(x).chunk(3, dim=-1)
        )  # (B, windows, heads, w², C / heads)
        logits = q @ k.transpose(-1, -2) / (channels // self.heads) ** 0.5
        bias = self.relative_position_bias_table[self.relative_position_index]  # (w², w², heads)
        logits = logits + bias.permute(2, 0, 1) + self.mask(sides, shift)
        x = (logits.softmax(-1) @ v).transpose(2, 3).flatten(-2)  # (B, windows, w², C)
        x = self.proj(x).unflatten(2, (w, w)).unflatten(1, (sides[0] // w, sides[1] // w))
        x = x.transpose(2, 3).flatten(3, 4).flatten(1, 2)  # (B, H', W', C)
        return x.roll((shift, shift), (1, 2))[:, :height, :width]

    def windows(self, x: Tensor) -> Tensor:
        """(B, H, W, C) → (B, windows, w², C)."""
        x = x.unflatten(2, (-1, self.window)).unflatten(1, (-1, self.window))
        return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)

    def mask(self, sides: Sequence[int], shift: int) -> Tensor:
        """−100 for two cells of which just one came round from the other side, (windows, 1, …)."""
        row = (torch.arange(sides[0]) >= sides[0] - shift).long()
        column = (torch.arange(sides[1]) >= sides[1] - shift).long()
        group = 2 * row[:, None] + column[None]  # (H', W')
        group = self.windows(group[None, :, :, None])[0, :, :, 0]  # (windows, w²)
        return -100.0 * (group[:, :, None] != group[:, None])[:, None]  # (windows, 1, w², w²)


class SwinBlock(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)), on (B, H, W, C)."""

    def __init__(self, dim: int, heads: int, window: int, hidden: int, shifted: bool) -> None:
        super().__init__()
        self.shift = window // 2 if shifted else 0
        self.norm1 = nn.LayerNorm(dim)
        self.attn = nn.ModuleDict({"w_msa": Attention(dim, heads, window)})
        self.norm2 = nn.LayerNorm(dim)
        first = nn.Sequential(nn.Linear(dim, hidden), nn.GELU())
        self.ffn = nn.ModuleDict({"layers": nn.Sequential(first, nn.Linear(hidden, dim))})

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn["w_msa"](self.norm1(x), self.shift)
        return x + self.ffn["layers"](self.norm2(x))


class SwinStage(nn.Module):
    """Blocks of which every second is shifted."""

    def __init__(self, dim: int, heads: int, window: int, hidden: int, depth: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(SwinBlock(dim, heads, window, hidden, shifted=i % 2 == 1) for i in range(depth))
        )


class PatchMerging(nn.Module):
    """Four neighbours become one cell; unfold counts them as channel, row, column."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) → (B, ⌈H/2⌉, ⌈W/2⌉, 2C)."""
        height, width = x.shape[1:3]
        x = F.pad(x.permute(0, 3, 1, 2), (0, width % 2, 0, height % 2))  # (B, C, H', W')
        sides = [side // 2 for side in x.shape[2:]]
        x = F.unfold(x, 2, stride=2).transpose(1, 2)  # (B, H'W'/4, 4C)
        return self.reduction(self.norm(x)).unflatten(1, sides)


class Swin(nn.Module):
    """The Swin Transformer of mmsegmentation: photograph (B, 3, H, W) → four maps."""

    def __init__(
        self, dim: int, depths: Sequence[int], heads: Sequence[int], window: int, ratio: int
    ) -> None:
        super().__init__()
        self.patch_embed = nn.ModuleDict(
            {"projection": nn.Conv2d(3, dim, 4, stride=4), "norm": nn.LayerNorm(dim)}
        )
        self.widths = [dim * 2**i for i in range(4)]
        self.stages = nn.ModuleList()
        for i, width in enumerate(self.widths):
            stage = SwinStage(width, heads[i], window, ratio * width, depths[i])
            if i < 3:
                stage.downsample = PatchMerging(width)
            self.stages.append(stage)
        for i, width in enumerate(self.widths):
            self.add_module(f"norm{i}", nn.LayerNorm(width))

    def forward(self, image: Tensor) -> list[Tensor]:
        height, width = image.shape[2:]
        image = F.pad(image, (0, -width % 4, 0, -height % 4))  # whole patches
        x = self.patch_embed["projection"](image).permute(0, 2, 3, 1)  # (B, H/4, W/4, C)
        x = self.patch_embed["norm"](x)
        maps = []
        for i, stage in enumerate(self.stages):
            x = stage.blocks(x)
            maps.append(getattr(self, f"norm{i}")(x).permute(0, 3, 1, 2))
            if i < 3:
                x = stage.downsample(x)
        return maps


# ResNet and HRNet ---------------------------------------------------------------------------------


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1, relu: bool = True):
    """Layers that are named 0 (convolution), 1 (batch norm) and 2 (ReLU)."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), *([nn.ReLU()] if relu else []))


class Residual(nn.Module):
    """A basic block (two 3×3 convolutions) or a bottleneck (1×1, 3×3, 1×1 to 4 times the width)."""

    def __init__(
        self, inputs: int, width: int, bottleneck: bool, stride: int = 1, dilation: int = 1
    ) -> None:
        super().__init__()
        outputs = 4 * width if bottleneck else width
        if bottleneck:
            plan = [(inputs, width, 1), (width, width, 3), (width, outputs, 1)]
        else:
            plan = [(inputs, width, 3), (width, width, 3)]
        self.count = len(plan)
        strided = 1 if bottleneck else 0
        for i, (before, after, kernel) in enumerate(plan):
            step = stride if i == strided else 1
            spread = dilation if kernel == 3 else 1
            padding = spread * (kernel // 2)
            conv = nn.Conv2d(before, after, kernel, step, padding, spread, bias=False)
            self.add_module(f"conv{i + 1}", conv)
            self.add_module(f"bn{i + 1}", nn.BatchNorm2d(after))
        if stride != 1 or inputs != outputs:
            self.downsample = conv_bn(inputs, outputs, 1, stride, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for i in range(1, self.count + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            if i < self.count:
                y = y.relu()
        return (y + (self.downsample(x) if hasattr(self, "downsample") else x)).relu()


class ResNetV1c(nn.Module):
    """A ResNet with a stem of three convolutions; stages 3 and 4 dilate and keep their size."""

    def __init__(self, width: int, stem: int, depths: Sequence[int]) -> None:
        super().__init__()
        layers = []
        for inputs, outputs, stride in ((3, stem // 2, 2), (stem // 2, stem // 2, 1)):
            layers += conv_bn(inputs, outputs, 3, stride)
        self.stem = nn.Sequential(*layers, *conv_bn(stem // 2, stem, 3))
        self.widths = [4 * width * 2**i for i in range(4)]
        inputs = stem
        for i, (stride, dilation) in enumerate(zip((1, 2, 1, 1), (1, 1, 2, 4))):
            # The first block of a dilated stage has half of the stage's dilation.
            first = Residual(inputs, width * 2**i, True, stride, max(1, dilation // 2))
            inputs = self.widths[i]
            rest = (Residual(inputs, width * 2**i, True, 1, dilation) for _ in range(depths[i] - 1))
            self.add_module(f"layer{i + 1}", nn.Sequential(first, *rest))

    def forward(self, image: Tensor) -> list[Tensor]:
        x = F.max_pool2d(self.stem(image), 3, stride=2, padding=1)  # (B, C, H/4, W/4)
        maps = []
        for i in range(1, 5):
            x = getattr(self, f"layer{i}")(x)
            maps.append(x)
        return maps


class HRModule(nn.Module):
    """Branches side by side, and the sums that exchange their maps."""

    def __init__(self, widths: Sequence[int], blocks: Sequence[int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*(Residual(width, width, False) for _ in range(count)))
            for width, count in zip(widths, blocks)
        )
        self.fuse_layers = nn.ModuleList()
        for i, to in enumerate(widths):
            row = nn.ModuleList()
            for j, width in enumerate(widths):
                if j > i:
                    row.append(conv_bn(width, to, 1, relu=False))
                elif j == i:
                    row.append(nn.Identity())
                else:
                    halvings = [conv_bn(width, width, 3, 2) for _ in range(i - j - 1)]
                    row.append(nn.Sequential(*halvings, conv_bn(width, to, 3, 2, relu=False)))
            self.fuse_layers.append(row)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        maps = [branch(x) for branch, x in zip(self.branches, maps)]
        fused = []
        for i, row in enumerate(self.fuse_layers):
            total = torch.zeros_like(maps[i])
            for j, layer in enumerate(row):
                y = layer(maps[j])
                if j > i:  # a whole factor first, then the neighbour's size
                    y = bilinear(y, [side * 2 ** (j - i) for side in y.shape[2:]])
                    y = bilinear(y, maps[i].shape[2:])
                total = total + y
            fused.append(total.relu())
        return fused


class HRNet(nn.Module):
    """HRNet: up to four maps at 1/4 to 1/32 that are kept to the end and exchanged on the way."""

    def __init__(
        self,
        first_width: int,
        first_blocks: int,
        widths: Sequence[int],
        modules: Sequence[int],
        blocks: int,
    ) -> None:
        super().__init__()
        self.widths = list(widths)
        stem = 64
        self.conv1 = nn.Conv2d(3, stem, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.conv2 = nn.Conv2d(stem, stem, 3, 2, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(stem)
        inputs = [stem] + [4 * first_width] * (first_blocks - 1)
        self.layer1 = nn.Sequential(*(Residual(c, first_width, True) for c in inputs))
        before = [4 * first_width]
        for stage in (2, 3, 4):
            after = self.widths[:stage]
            transition = nn.ModuleList()
            for i, width in enumerate(after):
                if i >= len(before):
                    transition.append(nn.Sequential(conv_bn(before[-1], width, 3, 2)))
                elif width != before[i]:
                    transition.append(conv_bn(before[i], width, 3))
                else:
                    transition.append(nn.Identity())
            self.add_module(f"transition{stage - 1}", transition)
            parts = (HRModule(after, [blocks] * stage) for _ in range(modules[stage - 2]))
            self.add_module(f"stage{stage}", nn.Sequential(*parts))
            before = after

    def forward(self, image: Tensor) -> list[Tensor]:
        x = self.bn1(self.conv1(image)).relu()
        x = self.bn2(self.conv2(x)).relu()  # (B, 64, H/4, W/4)
        maps = [self.layer1(x)]
        for stage in (2, 3, 4):
            layers = getattr(self, f"transition{stage - 1}")
            # A new branch starts from the coarsest map so far.
            maps = [layer(maps[min(i, len(maps) - 1)]) for i, layer in enumerate(layers)]
            maps = getattr(self, f"stage{stage}")(maps)
        return maps
