"""I_ψ, the latent prior p_ψ(z|x): photograph → token logits (supplement, section C; stage II of GSS).

timm backbone → four feature maps (1/4 … 1/32) → multi-level aggregation (an MLP and shifted-window
Transformer blocks on the 1/4 grid) → one classification over the codebook per grid cell. A light
pixel branch beside it classifies the pixels directly; it fills the unlabelled ones (§3.3).
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import NamedTuple

import timm
import torch
import torch.nn.functional as F
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn


class PriorOutput(NamedTuple):
    """Token logits (B, V, H/4, W/4) and the auxiliary branch's class logits (B, K, H/4, W/4)."""

    token_logits: Tensor
    pixel_logits: Tensor


class PriorFeatures(NamedTuple):
    """What `to_tokens` is applied to, (B, token_dim, H/4, W/4), and the auxiliary branch's class logits (B, K, H/4, W/4)."""

    token_features: Tensor
    pixel_logits: Tensor


class LevelNorms(nn.Module):
    """A Swin backbone with a layer norm on each of the maps it gives out, as the released code has (timm's has none).

    Args:
        body: a timm `features_only` model whose maps are channels-last, (B, H, W, C).
    """

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body, self.feature_info = body, body.feature_info
        for i, channels in enumerate(self.feature_info.channels()):
            self.add_module(f"norm{i}", nn.LayerNorm(channels))

    def forward(self, image: Tensor) -> list[Tensor]:
        """Normalised photograph (B, 3, H, W) → normalised maps (B, C, H/s, W/s), finest first.

        Channels first, so that nobody has to guess: at 768 pixels Swin-L's finest map is 192 × 192
            with 192 channels.
        """
        return [
            getattr(self, f"norm{i}")(feature).permute(0, 3, 1, 2)
            for i, feature in enumerate(self.body(image))
        ]

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """As the body's."""
        self.body.set_grad_checkpointing(enable)


class ConvBNReLU(nn.Sequential):
    """1×1 convolution without bias, batch norm, ReLU: the unit both branches are built from."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__(
            nn.Conv2d(in_dim, out_dim, 1, bias=False),
            nn.BatchNorm2d(out_dim),
            nn.ReLU(inplace=True),
        )


class WindowBlock(SwinTransformerBlock):
    """timm's Swin block for feature maps of any size, padded as the released GSS code pads.

    timm shifts first and pads afterwards; the released code (mmsegmentation's Swin) pads first. The
    two differ wherever a side is no multiple of the window, so the pad is put in front here.
    """

    def __init__(self, dim: int, heads: int, window: int, ffn_dim: int, shifted: bool) -> None:
        # input_resolution is only used where the window is not always partitioned, or the mask not
        # dynamic.
        super().__init__(
            dim,
            input_resolution=(window, window),
            num_heads=heads,
            window_size=window,
            shift_size=window // 2 if shifted else 0,
            mlp_ratio=ffn_dim / dim,
            always_partition=True,
            dynamic_mask=True,
        )

    def _attn(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        pad_h, pad_w = -height % self.window_size[0], -width % self.window_size[1]
        padded = F.pad(x, (0, 0, 0, pad_w, 0, pad_h))
        return super()._attn(padded)[:, :height, :width].contiguous()


class Aggregation(nn.Module):
    """Multi-level aggregation: each level → 1×1 conv, all resized to the 1/4 grid, concatenated and fused.

    Args:
        in_dims: channels of the four levels, finest first.
        level_dim, out_dim: channels per level and after fusion.
        order: the order in which levels are concatenated; the released configs put the 1/8 map
            first (in_index).
    """

    def __init__(
        self,
        in_dims: Sequence[int],
        level_dim: int,
        out_dim: int,
        order: Sequence[int] = (1, 0, 2, 3),
    ) -> None:
        super().__init__()
        self.order = tuple(order)
        self.levels = nn.ModuleList(ConvBNReLU(in_dims[i], level_dim) for i in self.order)
        self.fuse = ConvBNReLU(level_dim * len(self.order), out_dim)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Feature maps, finest first → (B, out_dim, H/4, W/4)."""
        grid = features[0].shape[2:]
        maps = [
            F.interpolate(level(features[i]), size=grid, mode="bilinear", align_corners=False)
            for i, level in zip(self.order, self.levels)
        ]
        return self.fuse(torch.cat(maps, 1))


class Prior(nn.Module):
    """The image encoder I_ψ with its token head and auxiliary pixel head.

    Args:
        backbone: a timm `features_only` model giving four levels, the finest at 1/4; maps (B, C, H,
            W), or (B, H, W, C) where it has an `output_fmt` of "NHWC".
        vocab_size: V, the tokenizer's codes. num_classes: K.
        level_dim, fuse_dim, token_dim: 384, 512 and 2048 in the paper's models; pixel_dim: 384.
        depth, heads, window, ffn_dim: of the shifted-window blocks (D = 2 for Swin-L, 6 for R101;
            16; 7; 1024).
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
        pixel_dim: int = 384,
        depth: int = 2,
        heads: int = 16,
        window: int = 7,
        ffn_dim: int = 1024,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        info = backbone.feature_info
        if len(info.channels()) != 4 or info.reduction()[0] != 4:
            raise ValueError(
                f"the prior needs four feature levels beginning at 1/4; {type(backbone).__name__} "
                "gives "
                f"{list(info.reduction())}. Choose out_indices accordingly (ResNet: 1, 2, 3, 4)."
            )
        self.backbone = backbone
        self.aggregation = Aggregation(info.channels(), level_dim, fuse_dim)
        self.blocks = nn.Sequential(
            *(
                WindowBlock(fuse_dim, heads, window, ffn_dim, shifted=i % 2 == 1)
                for i in range(depth)
            )
        )
        self.norm = nn.LayerNorm(fuse_dim)
        # Held: the batch norm behind takes this bias away again. Its gradient is rounding alone,
        # which Adam would turn into steps of any sign, so that one process and two would part.
        self.norm.bias.register_hook(torch.zeros_like)
        self.before_tokens = ConvBNReLU(fuse_dim, token_dim)
        self.dropout = nn.Dropout2d(dropout)
        self.to_tokens = nn.Conv2d(token_dim, vocab_size, 1)
        self.pixel_aggregation = Aggregation(info.channels(), pixel_dim, pixel_dim)
        self.to_classes = nn.Conv2d(pixel_dim, num_classes, 1)

    def forward(self, image: Tensor) -> PriorOutput:
        """Normalised photograph (B, 3, H, W), H and W multiples of 4 → PriorOutput on the H/4 × W/4 grid."""
        token_features, pixel_logits = self.encode(image)
        return PriorOutput(self.to_tokens(token_features), pixel_logits)

    def encode(self, image: Tensor) -> PriorFeatures:
        """The same without the last projection, whose V logits per position the training loss computes in chunks."""
        features = self.features(image)
        pixel_logits = self.to_classes(self.pixel_aggregation(features))
        return PriorFeatures(self.token_features(features), pixel_logits)

    def features(self, image: Tensor) -> list[Tensor]:
        """Normalised photograph (B, 3, H, W) → the backbone's four maps, channels first, finest first."""
        maps = self.backbone(image)
        # timm says how its maps lie: (B, H, W, C) for Swin; networks that say nothing are
        # convolutional, (B, C, H, W).
        return (
            [m.permute(0, 3, 1, 2) for m in maps]
            if getattr(self.backbone, "output_fmt", "NCHW") == "NHWC"
            else list(maps)
        )

    def token_features(self, features: Sequence[Tensor]) -> Tensor:
        """Feature maps, finest first → (B, token_dim, H/4, W/4)."""
        x = self.aggregation(features).permute(0, 2, 3, 1)  # (B, h, w, C): what Swin blocks work on
        x = self.norm(self.blocks(x)).permute(0, 3, 1, 2)  # (B, C, h, w)
        return self.dropout(self.before_tokens(x))

    def token_logits(self, features: Sequence[Tensor]) -> Tensor:
        """Feature maps, finest first → token logits (B, V, H/4, W/4)."""
        return self.to_tokens(self.token_features(features))


def build_backbone(
    name: str, *, pretrained: bool = False, level_norms: bool = False, **kwargs: object
) -> nn.Module:
    """A timm `features_only` backbone by name; keyword arguments go to timm.create_model.

    Args:
        level_norms: put a layer norm on each map, see `LevelNorms`. They are new: no pretrained
            weights have them.

    Raises:
        ValueError: timm knows no such model.
        RuntimeError: pretrained weights were asked for and cannot be had. Random weights are never
            put in their place.
    """
    if not timm.is_model(name):
        near = ", ".join(difflib.get_close_matches(name, timm.list_models(), n=3)) or "none"
        raise ValueError(
            f"timm has no model named {name!r}; similar names: {near}. See timm.list_models()."
        )
    try:
        body = timm.create_model(name, features_only=True, pretrained=pretrained, **kwargs)
        return LevelNorms(body) if level_norms else body
    except Exception as error:
        if not pretrained:
            raise
        raise RuntimeError(
            f"the pretrained weights of {name!r} could not be loaded ({type(error).__name__}: "
            f"{error}). They are fetched "
            "from the Hugging Face hub on first use: connect once, or pass "
            "pretrained_cfg_overlay=dict(file=PATH) for a "
            "local file, or train from scratch with pretrained=False."
        ) from error
