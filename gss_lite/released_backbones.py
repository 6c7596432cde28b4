"""timm's backbones with the few details in which the released code (mmsegmentation) differs.

The weights and their shapes are the same. Swin pads before it shifts its windows, and has a layer
norm on each map. HRNet enlarges maps bilinearly. All of them take pictures of any size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from timm.models.hrnet import HighResolutionModule
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn

from gss_lite.prior import PaddedBlock

PATCH = 4  # pixels along a side of a Swin's patch


class LevelNorms(nn.Module):
    """A Swin backbone with a layer norm on each of its maps, as in the released code.

    timm's own backbone has no such norms.

    Args:
        body: a timm `features_only` model whose maps are channels-last, (B, H, W, C).
    """

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.feature_info = body.feature_info
        for i, channels in enumerate(self.feature_info.channels()):
            self.add_module(f"norm{i}", nn.LayerNorm(channels))

    def forward(self, image: Tensor) -> list[Tensor]:
        """Normalised photograph (B, 3, H, W) → normalised maps (B, C, H/s, W/s), finest first.

        The maps are channels-first, although timm's Swin maps are channels-last. A picture whose
        sides are no multiples of 4 is padded with zeros at its bottom and right.
        """
        height, width = image.shape[2:]
        image = F.pad(image, (0, -width % PATCH, 0, -height % PATCH))  # whole patches
        maps = []
        for i, feature in enumerate(self.body(image)):  # (B, H/s, W/s, C)
            norm = getattr(self, f"norm{i}")
            maps.append(norm(feature).permute(0, 3, 1, 2))  # (B, C, H/s, W/s)
        return maps

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Whether to recompute the body's activations in the backward pass, which saves memory."""
        self.body.set_grad_checkpointing(enable)


class BilinearModule(HighResolutionModule):
    """timm's HRNet module, with maps enlarged bilinearly and to the size of their neighbour.

    timm enlarges them by nearest neighbours and by whole factors, so it takes only pictures whose
    sides are multiples of 32.
    """

    def forward(self, x: Sequence[Tensor]) -> list[Tensor]:
        """One map (B, C_i, H_i, W_i) for each branch → the same shapes, fused across branches."""
        x = [branch(values) for branch, values in zip(self.branches, x)]
        fused = []
        for i, row in enumerate(self.fuse_layers):
            total = 0
            for layer, values in zip(row, x):
                values = layer(values)  # (B, C_i, …)
                if values.shape[2:] != x[i].shape[2:]:
                    values = F.interpolate(values, size=x[i].shape[2:], mode="bilinear")
                total = total + values
            fused.append(self.fuse_act(total))  # (B, C_i, H_i, W_i)
        return fused


def as_released(body: nn.Module) -> nn.Module:
    """Let a timm `features_only` model compute as in the released code, with the same weights.

    Args:
        body: a Swin, an HRNet or a ResNet. A ResNet needs nothing beyond timm's `output_stride`.

    Returns:
        The same model, or a `LevelNorms` around it if it is a Swin.
    """
    swin = False
    for module in body.modules():
        # timm has no argument for the class of its blocks. The classes below only replace
        # methods, so the blocks that are there can take them.
        if type(module) is SwinTransformerBlock:
            module.__class__ = PaddedBlock
            swin = True
        elif type(module) is HighResolutionModule:
            module.__class__ = BilinearModule
        elif isinstance(module, nn.Upsample):
            module.mode = "bilinear"
        elif isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1  # timm's HRNet has 0.01
    return LevelNorms(body) if swin else body
