"""I_ψ, the latent prior p_ψ(z|x): photograph → token logits (supplement, section C; stage II).

A timm backbone gives four feature maps (1/4 … 1/32). Multi-level aggregation brings them to the 1/4
grid, where shifted-window Transformer blocks follow. The token head then classifies each grid cell
over the codebook. A light pixel head classifies the pixels directly, and its classes fill the
unlabelled pixels (§3.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn

from gss_lite.contracts import IGNORE
from gss_lite.distributed import mean_over_processes


class PriorOutput(NamedTuple):
    """Token logits (B, V, H/4, W/4) and the pixel head's class logits (B, K, H/4, W/4), if any."""

    token_logits: Tensor
    pixel_logits: Tensor | None


class PriorFeatures(NamedTuple):
    """The input of `to_tokens` (B, token_dim, H/4, W/4), and class logits as in `PriorOutput`."""

    token_features: Tensor
    pixel_logits: Tensor | None


class ConvBNReLU(nn.Sequential):
    """1×1 convolution without bias, batch norm, ReLU; both heads are built from this unit."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__(
            nn.Conv2d(in_dim, out_dim, 1, bias=False),
            nn.BatchNorm2d(out_dim),
            nn.ReLU(inplace=True),
        )


class PaddedBlock(SwinTransformerBlock):
    """timm's Swin block, padded as the released GSS code pads.

    timm shifts the windows first and pads afterwards. The released code (mmsegmentation's Swin)
    pads first. The two differ where a side is no multiple of the window, so this block pads before
    it calls timm's attention.
    """

    def _attn(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]  # x is (B, H, W, C)
        pad_bottom = -height % self.window_size[0]
        pad_right = -width % self.window_size[1]
        x = F.pad(x, (0, 0, 0, pad_right, 0, pad_bottom))  # whole windows in both directions
        x = super()._attn(x)
        return x[:, :height, :width].contiguous()  # (B, H, W, C)


class WindowBlock(PaddedBlock):
    """A `PaddedBlock` for feature maps of any size.

    Args:
        dim: channels of the map.
        heads: attention heads.
        window: cells along one side of a window.
        ffn_dim: hidden units of the MLP.
        shifted: whether the windows are shifted by half their side.
    """

    def __init__(self, dim: int, heads: int, window: int, ffn_dim: int, shifted: bool) -> None:
        super().__init__(
            dim,
            # Unused, since the last two arguments let timm partition a map of any size.
            input_resolution=(window, window),
            num_heads=heads,
            window_size=window,
            shift_size=window // 2 if shifted else 0,
            mlp_ratio=ffn_dim / dim,
            always_partition=True,
            dynamic_mask=True,
        )


class Aggregation(nn.Module):
    """Multi-level aggregation: one 1×1 convolution a level, resize to the 1/4 grid, concat, fuse.

    Args:
        in_dims: channels of the four levels, finest first.
        level_dim: channels of each level before the fusion.
        out_dim: channels after the fusion.
    """

    order = (1, 0, 2, 3)  # of the concatenation: the released configs (`in_index`) put 1/8 first

    def __init__(self, in_dims: Sequence[int], level_dim: int, out_dim: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(ConvBNReLU(in_dims[i], level_dim) for i in self.order)
        self.fuse = ConvBNReLU(level_dim * len(self.order), out_dim)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Feature maps (B, C_i, H/s_i, W/s_i), finest first → (B, out_dim, H/4, W/4)."""
        grid = features[0].shape[2:]
        maps = []
        for i, level in zip(self.order, self.levels):
            x = level(features[i])  # (B, level_dim, H/s_i, W/s_i)
            x = F.interpolate(x, size=grid, mode="bilinear", align_corners=False)
            maps.append(x)  # (B, level_dim, H/4, W/4)
        x = torch.cat(maps, dim=1)  # (B, levels · level_dim, H/4, W/4)
        return self.fuse(x)  # (B, out_dim, H/4, W/4)


class WithBackbone(nn.Module):
    """A network on a timm backbone.

    Args:
        backbone: a timm `features_only` model that gives four levels, the finest at 1/4. Its maps
            are (B, C, H, W), or (B, H, W, C) where it has an `output_fmt` of "NHWC".

    Raises:
        ValueError: the backbone does not give four levels beginning at 1/4.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.channels = _level_channels(backbone)
        self.backbone = backbone
        self.depthwise = any(
            isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels > 1
            for layer in backbone.modules()
        )

    def features(self, image: Tensor) -> list[Tensor]:
        """Normalised photograph (B, 3, H, W) → the maps (B, C, H/s, W/s), finest first."""
        with self._backbone_precision(image.device.type):
            maps = self.backbone(image)
        # timm names the layout of its maps where it is (B, H, W, C), as for Swin.
        if getattr(self.backbone, "output_fmt", "NCHW") == "NHWC":
            return [m.permute(0, 3, 1, 2) for m in maps]
        return list(maps)

    def _backbone_precision(self, device: str) -> AbstractContextManager:
        """Keep depthwise convolutions out of mixed precision on CPUs, where bf16 slows them."""
        if device == "cpu" and self.depthwise:
            return torch.autocast("cpu", enabled=False)
        return nullcontext()


class Prior(WithBackbone):
    """The image encoder I_ψ with its token head and its auxiliary pixel head.

    Args:
        backbone: see `WithBackbone`.
        vocab_size: V, the tokenizer's number of codes.
        num_classes: K.
        level_dim: channels of each level in the aggregation.
        fuse_dim: channels of the window blocks.
        token_dim: channels before the token classification.
        pixel_dim: channels of the pixel head. With None there is no pixel head, as in a released
            GSS-FT-W, and the pixel logits are None.
        shared_aggregation: the pixel head classifies the aggregation of the token head, as in the
            released models for MSeg, and not one of its own with `pixel_dim` channels.
        depth: number of window blocks, D: 2 for Swin-L, 6 for R101.
        heads: attention heads.
        window: cells along one side of a window.
        ffn_dim: hidden units of the blocks' MLP.
        dropout: share of the channels that are dropped before the token classification.

    The default sizes are the paper's.

    Raises:
        ValueError: the backbone does not give four levels beginning at 1/4.
    """

    def __init__(
        self,
        backbone: nn.Module,
        vocab_size: int,
        num_classes: int,
        *,
        level_dim: int = 384,
        fuse_dim: int = 512,
        token_dim: int = 2048,
        pixel_dim: int | None = 384,
        shared_aggregation: bool = False,
        depth: int = 2,
        heads: int = 16,
        window: int = 7,
        ffn_dim: int = 1024,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(backbone)
        channels = self.channels
        self.aggregation = Aggregation(channels, level_dim, fuse_dim)
        blocks = [
            WindowBlock(fuse_dim, heads, window, ffn_dim, shifted=i % 2 == 1) for i in range(depth)
        ]
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(fuse_dim)
        # The batch norm of `before_tokens` subtracts this bias again, so its true gradient is 0.
        # The computed gradient is rounding error, which Adam would scale up to full steps, other
        # ones with one process than with two. The bias is therefore held at 0.
        self.norm.bias.register_hook(torch.zeros_like)
        self.before_tokens = ConvBNReLU(fuse_dim, token_dim)
        self.dropout = nn.Dropout2d(dropout)
        self.to_tokens = nn.Conv2d(token_dim, vocab_size, 1)
        self.pixel_aggregation = None
        self.to_classes = None
        if shared_aggregation:
            self.to_classes = nn.Conv2d(fuse_dim, num_classes, 1)
        elif pixel_dim:
            self.pixel_aggregation = Aggregation(channels, pixel_dim, pixel_dim)
            self.to_classes = nn.Conv2d(pixel_dim, num_classes, 1)

    def forward(self, image: Tensor) -> PriorOutput:
        """Normalised photograph (B, 3, H, W), H and W multiples of 4 → both heads' logits."""
        token_features, pixel_logits = self.encode(image)
        token_logits = self.to_tokens(token_features)  # (B, V, H/4, W/4)
        return PriorOutput(token_logits, pixel_logits)

    def encode(self, image: Tensor) -> PriorFeatures:
        """Normalised photograph (B, 3, H, W) → all but the last token projection, `to_tokens`.

        Its logits need much memory, so the training loss computes them in chunks.
        """
        features = self.features(image)
        fused = self.aggregation(features)  # (B, fuse_dim, H/4, W/4)
        pixel_logits = None
        if self.to_classes is not None:
            # A released model for MSeg has one aggregation for both heads.
            shared = self.pixel_aggregation is None
            x = fused if shared else self.pixel_aggregation(features)  # (B, C', H/4, W/4)
            pixel_logits = self.to_classes(x)  # (B, K, H/4, W/4)
        return PriorFeatures(self._token_features(fused), pixel_logits)

    def token_features(self, features: Sequence[Tensor]) -> Tensor:
        """Feature maps (B, C_i, H/s_i, W/s_i), finest first → (B, token_dim, H/4, W/4)."""
        return self._token_features(self.aggregation(features))

    def _token_features(self, fused: Tensor) -> Tensor:
        """The aggregation's map (B, C, H/4, W/4), C = fuse_dim → (B, token_dim, H/4, W/4)."""
        x = fused.permute(0, 2, 3, 1)  # (B, H/4, W/4, C), as Swin blocks want it
        x = self.blocks(x)
        x = self.norm(x)
        x = x.permute(0, 3, 1, 2)  # (B, C, H/4, W/4)
        x = self.before_tokens(x)  # (B, token_dim, H/4, W/4)
        return self.dropout(x)  # drops whole channels

    def token_logits(self, features: Sequence[Tensor]) -> Tensor:
        """Logits of p_ψ(z|x): feature maps, finest first → (B, V, H/4, W/4)."""
        return self.to_tokens(self.token_features(features))


def _level_channels(backbone: nn.Module) -> list[int]:
    """The channels of a backbone's four levels; ValueError if they do not begin at 1/4."""
    info = backbone.feature_info
    if len(info.channels()) != 4 or info.reduction()[0] != 4:
        raise ValueError(
            "the prior needs four feature levels beginning at 1/4; "
            f"{type(backbone).__name__} gives {list(info.reduction())}. "
            "Choose out_indices accordingly (ResNet: 1, 2, 3, 4)."
        )
    return info.channels()


def pixel_cross_entropy(logits: Tensor, mask: Tensor) -> Tensor:
    """Mean cross-entropy of class logits (B, K, h, w) with a mask (B, H, W), a scalar in float32.

    The logits are resized to the mask, bilinearly. The mean is over the labelled pixels of all
    training processes. It is 0 where no pixel is labelled.
    """
    logits = logits.float()
    if logits.shape[2:] != mask.shape[1:]:
        logits = F.interpolate(logits, size=mask.shape[1:], mode="bilinear", align_corners=False)
    total = F.cross_entropy(logits, mask.long(), ignore_index=IGNORE, reduction="sum")
    labelled = mean_over_processes((mask != IGNORE).sum()).clamp(min=1)
    return total / labelled.to(total.dtype)
