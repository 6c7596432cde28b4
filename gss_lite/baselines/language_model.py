"""UViM's language model p(code | photograph), with two ways to decode.

`OnePass` predicts all positions of the code at once, each independent of the others given the
photograph (supplement, section H). `Autoregressive` predicts one position after the other, each
given those before it (the UViM paper). Both look at the photograph with the same network.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from gss_lite.prior import Aggregation, WithBackbone


def resize_map(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a map (B, C, h, w) to (B, C, *size), bilinearly and with antialiasing."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return F.interpolate(
        x.float(), size=tuple(size), mode="bilinear", align_corners=False, antialias=True
    )


class LanguageModel(WithBackbone):
    """What both ways of decoding share: the network that looks at the photograph.

    A backbone and the multi-level aggregation of GSS's prior give a map at 1/4. It is resized to
    the grid of the code, and Transformer blocks let all positions attend to each other.

    Args:
        backbone: see `WithBackbone`.
        vocab_size: V, the number of codes in the dictionary.
        code_grid: rows and columns of the code.
        level_dim: channels of each level in the aggregation.
        dim: channels of the Transformer.
        depth: number of its blocks.
        heads: its attention heads.
    """

    def __init__(
        self,
        backbone: nn.Module,
        vocab_size: int,
        code_grid: tuple[int, int],
        *,
        level_dim: int = 384,
        dim: int = 512,
        depth: int = 2,
        heads: int = 16,
    ) -> None:
        super().__init__(backbone)
        self.code_grid = tuple(code_grid)
        self.positions = code_grid[0] * code_grid[1]
        self.aggregation = Aggregation(self.channels, level_dim, dim)
        self.position = nn.Parameter(0.02 * torch.randn(1, self.positions, dim))
        self.blocks = nn.Sequential(*[Block(dim, heads, qkv_bias=True) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim)
        self.to_codes = nn.Linear(dim, vocab_size)

    def image_tokens(self, image: Tensor) -> Tensor:
        """Normalised photographs (B, 3, H, W) → a vector for each position, (B, h·w, dim)."""
        x = self.aggregation(self.features(image))  # (B, dim, H/4, W/4)
        x = resize_map(x, self.code_grid)  # (B, dim, h, w)
        x = x.flatten(2).transpose(1, 2) + self.position  # (B, h·w, dim)
        return self.norm(self.blocks(x))

    def on_grid(self, values: Tensor) -> Tensor:
        """Values of the positions (B, h·w, V) → (B, V, h, w)."""
        return values.transpose(1, 2).unflatten(2, self.code_grid)

    def forward(self, image: Tensor, code: Tensor) -> Tensor:
        """Photographs (B, 3, H, W) and their true code (B, h, w) → logits (B, V, h, w)."""
        raise NotImplementedError

    def predict(self, image: Tensor) -> Tensor:
        """Photographs (B, 3, H, W) → the predicted code (B, h, w)."""
        raise NotImplementedError


class OnePass(LanguageModel):
    """All positions at once (section H, ii). The arguments are those of `LanguageModel`."""

    def forward(self, image: Tensor, code: Tensor | None = None) -> Tensor:
        """Photographs (B, 3, H, W) → logits (B, V, h, w); the true code is not looked at."""
        return self.on_grid(self.to_codes(self.image_tokens(image)))

    @torch.no_grad()
    def predict(self, image: Tensor) -> Tensor:
        """Photographs (B, 3, H, W) → the likeliest code of each position, (B, h, w)."""
        return self(image).argmax(1)


class Autoregressive(LanguageModel):
    """One position after the other, row by row, as in the UViM paper.

    Args:
        decoder_depth: Transformer layers that look at the code so far and at the photograph.
        arguments: those of `LanguageModel`.
    """

    def __init__(
        self,
        backbone: nn.Module,
        vocab_size: int,
        code_grid: tuple[int, int],
        *,
        decoder_depth: int = 24,
        **arguments: int,
    ) -> None:
        super().__init__(backbone, vocab_size, code_grid, **arguments)
        dim = self.norm.normalized_shape[0]
        heads = arguments.get("heads", 16)
        self.start = vocab_size  # stands before the first position
        self.embed = nn.Embedding(vocab_size + 1, dim)
        self.code_position = nn.Parameter(0.02 * torch.randn(1, self.positions, dim))
        self.decoder = nn.ModuleList(
            nn.TransformerDecoderLayer(
                dim,
                heads,
                4 * dim,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(dim)

    def forward(self, image: Tensor, code: Tensor) -> Tensor:
        """Photographs (B, 3, H, W) and their true code (B, h, w) → logits (B, V, h, w).

        The logits of a position depend on the photograph and on the code before that position.
        """
        return self.on_grid(self.next_logits(self.image_tokens(image), code.flatten(1)[:, :-1]))

    def next_logits(self, memory: Tensor, before: Tensor) -> Tensor:
        """Image tokens (B, N, dim) and the first t codes (B, t) → logits (B, t + 1, V)."""
        tokens = F.pad(before, (1, 0), value=self.start)  # (B, t + 1)
        length = tokens.shape[1]
        x = self.embed(tokens) + self.code_position[:, :length]  # (B, t + 1, dim)
        hidden = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        for layer in self.decoder:
            x = layer(x, memory, tgt_mask=hidden, tgt_is_causal=True)
        return self.to_codes(self.decoder_norm(x))

    @torch.no_grad()
    def predict(
        self,
        image: Tensor,
        temperature: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Photographs (B, 3, H, W) → a code (B, h, w), one position after the other.

        Args:
            temperature: 0 takes the likeliest code of each position; 1 draws from p(code | image).
            generator: for the draws.
        """
        memory = self.image_tokens(image)  # (B, N, dim)
        code = torch.empty(len(image), 0, dtype=torch.long, device=image.device)
        for _ in range(self.positions):
            logits = self.next_logits(memory, code)[:, -1].float()  # (B, V)
            if temperature > 0:
                probabilities = (logits / temperature).softmax(1)
                chosen = torch.multinomial(probabilities, 1, generator=generator)  # (B, 1)
            else:
                chosen = logits.argmax(1, keepdim=True)  # (B, 1)
            code = torch.cat([code, chosen], dim=1)
        return code.view(-1, *self.code_grid)
