"""The maskige tokenizer: E_φ and D_θ as a VQ-VAE (van den Oord et al., 2017), stage I of GSS.

A picture (B, 3, H, W) becomes a grid of H/stride × W/stride integers, each the number of a codebook
vector, and back. So does a one-hot mask of K channels, which needs no palette (Table 2, "no
maskige"). The codebook follows the encoder by an exponential moving average; gradients pass it
straight through.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gss_lite.contracts import check_tokens
from gss_lite.distributed import gathered, take_from_first


class Quantized(NamedTuple):
    """What the codebook returns: vectors (B, C, h, w), token ids (B, h, w) and the commitment loss (scalar)."""

    vectors: Tensor
    tokens: Tensor
    commitment: Tensor


class Codebook(nn.Module):
    """Nearest-neighbour vector quantiser with an EMA codebook and dead-code restarts.

    Args:
        vocab_size: number of codes V.
        dim: length of a code vector.
        decay: of the moving averages; each code is (sum of the vectors assigned to it) / (their
            count).
        restart_below: a code whose average count per step falls under this is moved onto a vector
            of the current batch, drawn in proportion to its squared error: where most of a mask is
            flat, a uniform draw would put the new code on yet another piece of road, and it would
            die again.
    """

    def __init__(
        self, vocab_size: int, dim: int, decay: float = 0.99, restart_below: float = 1.0
    ) -> None:
        super().__init__()
        self.decay, self.restart_below = decay, restart_below
        self.register_buffer("codes", torch.randn(vocab_size, dim))
        self.register_buffer("counts", torch.zeros(vocab_size))
        self.register_buffer("sums", torch.zeros(vocab_size, dim))
        self.register_buffer("started", torch.tensor(False))

    def forward(self, vectors: Tensor) -> Quantized:
        """Vectors (B, C, h, w) → their nearest codes, with the gradient of the identity (straight-through)."""
        flat = vectors.movedim(1, -1).reshape(-1, vectors.shape[1])  # (B·h·w, C)
        if self.training and not self.started:
            self._start(flat.detach())
        ids = self.nearest(flat.detach())
        chosen = self.codes[ids]
        if self.training:
            self._follow(flat.detach(), ids)
        commitment = F.mse_loss(flat, chosen)
        tokens = ids.view(vectors.shape[0], *vectors.shape[2:])
        quantized = (
            self.lookup(tokens)
            if not self.training
            else chosen.view(*tokens.shape, -1).movedim(-1, 1)
        )
        return Quantized(vectors + (quantized - vectors).detach(), tokens, commitment)

    def nearest(self, flat: Tensor) -> Tensor:
        """Vectors (N, C) → ids (N,) of the nearest codes."""
        return torch.addmm(self.codes.square().sum(1), flat, self.codes.T, alpha=-2).argmin(1)

    def lookup(self, tokens: Tensor) -> Tensor:
        """Token ids (B, h, w) → code vectors (B, C, h, w)."""
        return F.embedding(tokens, self.codes).movedim(-1, 1)

    @torch.no_grad()
    def _start(self, flat: Tensor) -> None:
        # Random codes far from the encoder's outputs would nearly all die at once: begin on data.
        flat = gathered(flat)
        self.codes.copy_(
            self._draw(flat, torch.ones(len(flat), device=flat.device), len(self.codes))
        )
        self.sums.copy_(self.codes)
        self.counts.fill_(1.0)
        self.started.fill_(True)
        take_from_first(self.codes, self.sums)

    @staticmethod
    def _draw(flat: Tensor, weight: Tensor, n: int) -> Tensor:
        # A little noise keeps two codes drawn from equal vectors apart.
        picked = flat[torch.multinomial(weight + 1e-12, n, replacement=True)]
        return picked + 0.01 * flat.std() * torch.randn_like(picked)

    @torch.no_grad()
    def _follow(self, flat: Tensor, ids: Tensor) -> None:
        # the whole batch's, where several processes share it
        flat, ids = gathered(flat), gathered(ids)
        counts = torch.bincount(ids, minlength=len(self.codes)).to(flat)
        sums = torch.zeros_like(self.sums).index_add_(0, ids, flat)
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        dead = self.counts < self.restart_below
        if bool(dead.any()):
            n = int(dead.sum())
            error = (flat - self.codes[ids]).square().sum(1)
            self.sums[dead] = self._draw(flat, error, n)
            self.counts[dead] = 1.0
            take_from_first(self.sums)
        self.codes.copy_(self.sums / self.counts[:, None])

    @staticmethod
    def usage(tokens: Tensor, vocab_size: int) -> tuple[float, float]:
        """Share of the codes that occur in `tokens`, and their perplexity exp(H) (1 … V)."""
        share = torch.bincount(tokens.flatten(), minlength=vocab_size).double()
        share = share / share.sum()
        return float((share > 0).double().mean()), math.exp(float(torch.special.entr(share).sum()))


class ResidualBlock(nn.Module):
    """x + conv1×1(ReLU(conv3×3(ReLU(x))))."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.ReLU(), nn.Conv2d(dim, dim, 3, padding=1), nn.ReLU(), nn.Conv2d(dim, dim, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) → (B, C, h, w)."""
        return x + self.body(x)


class VQVAE(nn.Module):
    """E_φ, codebook and D_θ; meets the Tokenizer contract (encode, decode, vocab_size, stride).

    Args:
        vocab_size: codes in the codebook.
        stride: pixels per token along each side, a power of two.
        width: channels at full depth; the outermost layers hold half of them.
        code_dim: length of a code vector. Short codes (8–32) keep the codebook in use.
        depth: residual blocks in the encoder and in the decoder.
        channels: D of what is read and painted: 3 for a maskige, K for a one-hot mask.
    """

    def __init__(
        self,
        vocab_size: int = 256,
        stride: int = 4,
        width: int = 64,
        code_dim: int = 16,
        depth: int = 2,
        decay: float = 0.99,
        channels: int = 3,
    ) -> None:
        super().__init__()
        steps = int(math.log2(stride))
        if stride < 2 or 2**steps != stride:
            raise ValueError(f"stride must be a power of two ≥ 2 (2, 4, 8, …); got {stride}")
        if channels < 1:
            raise ValueError(
                "channels must be at least 1 (3 for a maskige, K for a one-hot mask); got "
                f"{channels}"
            )
        self.vocab_size, self.stride, self.channels = vocab_size, stride, channels
        widths = [width // 2] * (steps - 1) + [width]
        down = [
            m
            for i, o in zip([channels, *widths], widths)
            for m in (nn.Conv2d(i, o, 4, 2, 1), nn.ReLU())
        ]
        up = [
            m
            for i, o in zip(widths[::-1], [*widths[-2::-1], channels])
            for m in (nn.ReLU(), nn.ConvTranspose2d(i, o, 4, 2, 1))
        ]
        self.encoder = nn.Sequential(
            *down[:-1],
            *(ResidualBlock(width) for _ in range(depth)),
            nn.ReLU(),
            nn.Conv2d(width, code_dim, 1),
        )
        self.codebook = Codebook(vocab_size, code_dim, decay)
        self.decoder = nn.Sequential(
            nn.Conv2d(code_dim, width, 3, padding=1),
            *(ResidualBlock(width) for _ in range(depth)),
            *up,
        )

    def forward(self, maskige: Tensor) -> tuple[Tensor, Quantized]:
        """Maskige (B, D, H, W) → reconstruction (B, D, H, W), unclamped, and what the codebook did."""
        quantized = self.codebook(self.encoder(2 * self._checked(maskige) - 1))
        return self._picture(quantized.vectors), quantized

    @torch.no_grad()
    def encode(self, maskige: Tensor) -> Tensor:
        """q_φ(z|x), a point mass: maskige (B, D, H, W) in [0, 1] → tokens (B, H/stride, W/stride)."""
        vectors = self.encoder(2 * self._checked(maskige) - 1)
        flat = vectors.movedim(1, -1).reshape(-1, vectors.shape[1])  # (B·h·w, C)
        # also where the encoder runs in bf16, distances are compared in float32
        with torch.autocast(flat.device.type, enabled=False):
            return self.codebook.nearest(flat.float()).view(vectors.shape[0], *vectors.shape[2:])

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> Tensor:
        """D_θ: tokens (B, h, w) → maskige (B, D, h·stride, w·stride) in [0, 1]."""
        return self.decode_vectors(self.codebook.lookup(check_tokens(tokens, self.vocab_size)))

    def code_vectors(self) -> Tensor:
        """The vectors that tokens stand for, (V, C)."""
        return self.codebook.codes

    def decode_vectors(self, vectors: Tensor) -> Tensor:
        """D_θ of any vectors where `decode` takes codes: (B, C, h, w) → maskige (B, D, h·stride, w·stride) in [0, 1]."""
        return self._picture(vectors).clamp(0, 1)

    def losses(
        self, maskige: Tensor, picture: Tensor, quantized: Quantized, commitment: float = 0.25
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What forward(maskige) gave → loss and scalars: mean squared + mean absolute error + commitment · ‖E(x) − sg(code)‖².

        The absolute error sharpens class borders, where the squared error alone settles for a blend
        of two colours.
        """
        reconstruction = F.mse_loss(picture, maskige) + F.l1_loss(picture, maskige)
        used, perplexity = self.codebook.usage(quantized.tokens, self.vocab_size)
        return reconstruction + commitment * quantized.commitment, {
            "reconstruction": reconstruction.detach(),
            "usage": torch.tensor(used),
            "perplexity": torch.tensor(perplexity),
        }

    def _picture(self, vectors: Tensor) -> Tensor:
        return (self.decoder(vectors) + 1) / 2

    def _checked(self, maskige: Tensor) -> Tensor:
        if (
            maskige.ndim != 4
            or maskige.shape[1] != self.channels
            or maskige.shape[2] % self.stride
            or maskige.shape[3] % self.stride
        ):
            raise ValueError(
                f"a maskige must be (B, {self.channels}, H, W) with H and W multiples of the "
                f"stride {self.stride}; got {tuple(maskige.shape)}"
            )
        return maskige
