"""X⁻¹ with weights (supplement, D.iii): convolutions (GSS-FT) and shifted-window blocks (GSS-FT-W).

Both read a class from the colours around a pixel, where `NearestColor` looks at the pixel alone.
They meet the same contract: maskige (B, 3, H, W) → class scores (B, K, H, W), or ids by `classify`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gss_lite.inverse import checked_colors
from gss_lite.prior import ConvBNReLU, WindowBlock


class LearnedInverse(nn.Module):
    """What the learned inverses share. `colors`, β (K, 3), goes with the weights: they read no other palette's maskige."""

    def __init__(self, colors: Tensor) -> None:
        super().__init__()
        self.register_buffer("colors", checked_colors(colors))

    @torch.no_grad()
    def classify(self, maskige: Tensor) -> Tensor:
        """Maskige (B, D, H, W) → the arg-max of the scores, (B, H, W) long."""
        return self(maskige).argmax(1)

    def probabilities(self, maskige: Tensor) -> Tensor:
        """Maskige (B, D, H, W) → soft-max of the scores (B, K, H, W)."""
        return self(maskige).float().softmax(1)

    def _checked(self, maskige: Tensor) -> Tensor:
        channels = self.colors.shape[1]
        if maskige.ndim != 4 or maskige.shape[1] != channels:
            raise ValueError(
                f"expected a maskige (B, {channels}, H, W), as it was trained on; got "
                f"{tuple(maskige.shape)}"
            )
        return maskige


class ConvInverse(LearnedInverse):
    """X⁻¹ of GSS-FT: "two conv 1×1 layers enclosing a conv 3×3 layer" (D.iii), batch norm and ReLU between them.

    It sees 3 × 3 pixels. The width and what stands between the layers are not published.

    Args:
        colors: β (K, D), the palette whose maskige it is to read. width: channels of the two inner
            layers.
    """

    def __init__(self, colors: Tensor, width: int = 64) -> None:
        super().__init__(colors)
        classes, channels = self.colors.shape
        self.embed = ConvBNReLU(channels, width)
        self.around = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )
        self.to_classes = nn.Conv2d(width, classes, 1)

    def forward(self, maskige: Tensor) -> Tensor:
        """Maskige (B, D, H, W) → class scores (B, K, H, W)."""
        return self.to_classes(self.around(self.embed(self._checked(maskige))))


class SwinInverse(LearnedInverse):
    """X⁻¹ of GSS-FT-W as released: 1×1 embedding with batch norm and ReLU, Swin blocks, LayerNorm, 1×1 → K.

    Every second block is shifted: with depth 1 none is, and no pixel sees past the borders of its
        own window.

    Args:
        colors: β (K, D), the palette whose maskige it is to read.
        dim, heads, window, ffn_dim: 128, 4, 7 and 256 in the paper's models. depth: 1 for
            Cityscapes, 2 for ADE20K and MSeg.
    """

    def __init__(
        self,
        colors: Tensor,
        *,
        dim: int = 128,
        heads: int = 4,
        window: int = 7,
        ffn_dim: int = 256,
        depth: int = 2,
    ) -> None:
        super().__init__(colors)
        if depth < 1:
            raise ValueError(f"the Swin inverse needs depth ≥ 1 (1 or 2 in the paper); got {depth}")
        classes, channels = self.colors.shape
        self.embed = ConvBNReLU(channels, dim)
        self.blocks = nn.Sequential(
            *(WindowBlock(dim, heads, window, ffn_dim, shifted=i % 2 == 1) for i in range(depth))
        )
        self.norm = nn.LayerNorm(dim)
        self.to_classes = nn.Conv2d(dim, classes, 1)

    def forward(self, maskige: Tensor) -> Tensor:
        """Maskige (B, D, H, W) → class scores (B, K, H, W)."""
        # (B, H, W, C): what Swin blocks work on
        x = self.embed(self._checked(maskige)).permute(0, 2, 3, 1)
        return self.to_classes(self.norm(self.blocks(x)).permute(0, 3, 1, 2))
