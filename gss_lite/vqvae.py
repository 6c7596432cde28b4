"""The maskige tokenizer of stage I: E_φ, codebook and D_θ as a VQ-VAE (van den Oord et al., 2017).

The encoder turns a picture (B, 3, H, W) into a grid of H/stride × W/stride integers. Each integer
is the index of a vector in the codebook. The decoder turns the grid back into a picture. A one-hot
mask of K channels works too and needs no palette (Table 2, "no maskige"). The codes are exponential
moving averages of the encoder's vectors, and the encoder gets the decoder's gradient unchanged.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gss_lite.contracts import check_maskige, check_tokens
from gss_lite.distributed import all_gather, broadcast_


class Quantized(NamedTuple):
    """What the codebook returns.

    Attributes:
        vectors: the chosen codes (B, C, h, w), with the gradient of the encoder's vectors.
        tokens: the ids of the chosen codes (B, h, w).
        commitment: the mean of (v − sg(e_z))² over all entries, a scalar.
    """

    vectors: Tensor
    tokens: Tensor
    commitment: Tensor


class Codebook(nn.Module):
    """A vector quantiser: it replaces each vector by the nearest of V codes.

    In training, a code is the moving average of the vectors that chose it. A code that hardly any
    vector chooses is moved onto a vector of the current batch.

    Args:
        vocab_size: V, the number of codes.
        dim: C, the length of a code.
        decay: λ of the moving averages of `counts` and `sums`. A code is sums / counts.
        restart_below: a code is moved when its average count per step falls below this. Its new
            vector is drawn in proportion to the vectors' squared errors. Most patches of a mask are
            alike, so a uniform draw would pick a patch that other codes already fit.
    """

    def __init__(
        self, vocab_size: int, dim: int, decay: float = 0.99, restart_below: float = 1.0
    ) -> None:
        super().__init__()
        self.decay = decay
        self.restart_below = restart_below
        self.register_buffer("codes", torch.randn(vocab_size, dim))  # e (V, C)
        self.register_buffer("counts", torch.zeros(vocab_size))  # N (V,)
        self.register_buffer("sums", torch.zeros(vocab_size, dim))  # m (V, C)
        self.register_buffer("started", torch.tensor(False))

    def forward(self, vectors: Tensor) -> Quantized:
        """Vectors v (B, C, h, w) → their nearest codes; in training the codes are then updated."""
        flat = vectors.movedim(1, -1).flatten(0, 2)  # (B·h·w, C)
        if self.training and not self.started:
            self._start(flat.detach())
        # z = argmin_k ‖v − e_k‖²
        ids = self.nearest(flat.detach())  # (B·h·w,)
        codes = self.codes[ids]  # (B·h·w, C), a copy from before this step's update
        # ‖v − sg(e_z)‖²: the codes are buffers, so its gradient pulls the encoder alone.
        commitment = F.mse_loss(flat, codes)
        if self.training:
            self._follow(flat.detach(), ids)
        tokens = ids.view(vectors.shape[0], *vectors.shape[2:])  # (B, h, w)
        codes = codes.view(*tokens.shape, -1).movedim(-1, 1)  # (B, C, h, w)
        # v + sg(e_z − v): the value of e_z, the gradient of v (straight-through)
        quantized = vectors + (codes - vectors).detach()
        return Quantized(quantized, tokens, commitment)

    def nearest(self, flat: Tensor) -> Tensor:
        """Vectors (N, C) → ids (N,) of the nearest codes."""
        # ‖v − e_k‖² = ‖v‖² + ‖e_k‖² − 2 v·e_k, and ‖v‖² is the same for every k.
        distances = torch.addmm(self.codes.square().sum(1), flat, self.codes.T, alpha=-2)  # (N, V)
        return distances.argmin(1)

    def lookup(self, tokens: Tensor) -> Tensor:
        """Token ids (B, h, w) → code vectors (B, C, h, w)."""
        return F.embedding(tokens, self.codes).movedim(-1, 1)

    @torch.no_grad()
    def _start(self, flat: Tensor) -> None:
        """Put every code on a vector of the first batch, (N, C)."""
        # Random codes lie far from the encoder's vectors, so hardly any would be chosen.
        flat = all_gather(flat)
        weight = torch.ones(len(flat), device=flat.device)
        self.codes.copy_(self._draw(flat, weight, len(self.codes)))
        self.sums.copy_(self.codes)
        self.counts.fill_(1.0)
        self.started.fill_(True)
        broadcast_(self.codes, self.sums)

    @torch.no_grad()
    def _follow(self, flat: Tensor, ids: Tensor) -> None:
        """Move every code to the moving average of the vectors (N, C) that chose it by `ids`."""
        # Several processes train one codebook, on the vectors of all of them.
        flat = all_gather(flat)
        ids = all_gather(ids)
        counts = torch.bincount(ids, minlength=len(self.codes)).to(flat)  # n (V,)
        sums = torch.zeros_like(self.sums).index_add_(0, ids, flat)  # s (V, C)
        # N ← λN + (1 − λ)n,  m ← λm + (1 − λ)s,  e = m / N
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        self._restart(flat, ids)
        self.codes.copy_(self._averages())

    def _averages(self) -> Tensor:
        """The codes (V, C) that the counts and sums stand for."""
        return self.sums / self.counts[:, None]

    def _restart(self, flat: Tensor, ids: Tensor) -> None:
        """Move unused codes onto vectors (N, C) that lie far from the code of their `ids`."""
        dead = self.counts < self.restart_below  # (V,)
        if not bool(dead.any()):
            return
        error = (flat - self.codes[ids]).square().sum(1)  # (N,)
        self.sums[dead] = self._draw(flat, error, int(dead.sum()))
        self.counts[dead] = 1.0
        broadcast_(self.sums)

    @staticmethod
    def _draw(flat: Tensor, weight: Tensor, n: int) -> Tensor:
        """Draw n of the vectors (N, C) in proportion to their weights (N,), and add some noise."""
        picked = flat[torch.multinomial(weight + 1e-12, n, replacement=True)]  # (n, C)
        # Without noise, two codes drawn from equal vectors would stay equal for ever.
        return picked + 0.01 * flat.std() * torch.randn_like(picked)

    @staticmethod
    def usage(tokens: Tensor, vocab_size: int) -> tuple[float, float]:
        """Share of the codes that occur in `tokens` (any shape), and their perplexity, 1 to V."""
        share = torch.bincount(tokens.flatten(), minlength=vocab_size).double()  # (V,)
        share = share / share.sum()
        used = (share > 0).double().mean()
        entropy = torch.special.entr(share).sum()
        return float(used), math.exp(float(entropy))


class ResidualBlock(nn.Module):
    """x + conv1×1(ReLU(conv3×3(ReLU(x))))."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(dim, dim, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(dim, dim, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) → (B, C, h, w)."""
        return x + self.body(x)


class VQVAE(nn.Module):
    """E_φ, codebook and D_θ in one network; implements `contracts.DifferentiableTokenizer`.

    Args:
        vocab_size: V, the number of codes.
        stride: side of a token's patch in pixels, a power of two.
        width: channels of the layers on the token grid; layers on finer grids have half as many.
        code_dim: C, the length of a code. Short codes (8–32) keep the codebook in use.
        depth: residual blocks in the encoder, and as many in the decoder.
        decay: λ of the codebook's moving averages.
        channels: D of the pictures: 3 for a maskige, K for a one-hot mask.

    Raises:
        ValueError: the stride is no power of two from 2 on, or there is no channel.
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
        if stride < 2 or 2 ** int(math.log2(stride)) != stride:
            raise ValueError(f"stride must be a power of two ≥ 2 (2, 4, 8, …); got {stride}")
        if channels < 1:
            raise ValueError(
                "channels must be at least 1 (3 for a maskige, K for a one-hot mask); got "
                f"{channels}"
            )
        self.vocab_size = vocab_size
        self.stride = stride
        self.channels = channels
        halvings = int(math.log2(stride))
        dims = [channels] + [width // 2] * (halvings - 1) + [width]  # from the finest grid on
        down = []
        for finer, coarser in pairwise(dims):
            down += [nn.Conv2d(finer, coarser, 4, stride=2, padding=1), nn.ReLU()]
        up = []
        for coarser, finer in pairwise(reversed(dims)):
            up += [nn.ReLU(), nn.ConvTranspose2d(coarser, finer, 4, stride=2, padding=1)]
        self.encoder = nn.Sequential(
            *down[:-1],  # the last ReLU is left out, because a residual block begins with one
            *[ResidualBlock(width) for _ in range(depth)],
            nn.ReLU(),
            nn.Conv2d(width, code_dim, 1),
        )
        self.codebook = Codebook(vocab_size, code_dim, decay)
        self.decoder = nn.Sequential(
            nn.Conv2d(code_dim, width, 3, padding=1),
            *[ResidualBlock(width) for _ in range(depth)],
            *up,
        )

    def forward(self, maskige: Tensor) -> tuple[Tensor, Quantized]:
        """Maskige (B, D, H, W) → its reconstruction (B, D, H, W), not clamped, and `Quantized`."""
        vectors = self._to_vectors(maskige)  # (B, C, h, w)
        quantized = self.codebook(vectors)
        reconstruction = self._to_picture(quantized.vectors)  # (B, D, H, W)
        return reconstruction, quantized

    @torch.no_grad()
    def encode(self, maskige: Tensor) -> Tensor:
        """q_φ(z|x), a point mass: maskige (B, D, H, W) in [0, 1] → tokens (B, h, w)."""
        vectors = self._to_vectors(maskige)  # (B, C, h, w)
        flat = vectors.movedim(1, -1).flatten(0, 2)  # (B·h·w, C)
        # Where the encoder runs in bf16, the distances are still compared in float32.
        with torch.autocast(flat.device.type, enabled=False):
            ids = self.codebook.nearest(flat.float())  # (B·h·w,)
        return ids.view(vectors.shape[0], *vectors.shape[2:])  # (B, h, w)

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> Tensor:
        """D_θ: tokens (B, h, w) → maskige (B, D, h·stride, w·stride) in [0, 1]."""
        tokens = check_tokens(tokens, self.vocab_size)
        return self.decode_vectors(self.codebook.lookup(tokens))

    def code_vectors(self) -> Tensor:
        """The codebook e, (V, C)."""
        return self.codebook.codes

    def decode_vectors(self, vectors: Tensor, *, clamp: bool = True) -> Tensor:
        """D_θ for any vectors (B, C, h, w) → maskige (B, D, h·stride, w·stride) in [0, 1].

        Without `clamp` the values may leave [0, 1].
        """
        picture = self._to_picture(vectors)
        return picture.clamp(0, 1) if clamp else picture

    def code_logits(self, maskige: Tensor) -> Tensor:
        """Minus the squared distance to every code: maskige (B, D, H, W) → (B, V, h, w)."""
        vectors = self._to_vectors(maskige)  # (B, C, h, w)
        codes = self.codebook.codes  # (V, C)
        products = torch.einsum("bchw,vc->bvhw", vectors, codes)
        lengths = vectors.square().sum(1, keepdim=True)  # (B, 1, h, w)
        return 2 * products - lengths - codes.square().sum(1)[:, None, None]

    def logit_unit(self, logits: Tensor) -> float:
        """The mean squared distance to the nearest code, so that codebooks of any scale compare."""
        return max(float(-logits.amax(1).mean()), 1e-6)

    def losses(
        self, maskige: Tensor, picture: Tensor, quantized: Quantized, commitment: float = 0.25
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Maskige (B, D, H, W) and what `forward` made of it → loss and scalars to log.

        The loss is mean squared error + mean absolute error + commitment · ‖E(x) − sg(code)‖². The
        absolute error sharpens class borders: the squared error alone is smallest at a blend of two
        colours.
        """
        reconstruction = F.mse_loss(picture, maskige) + F.l1_loss(picture, maskige)
        loss = reconstruction + commitment * quantized.commitment
        used, perplexity = self.codebook.usage(quantized.tokens, self.vocab_size)
        return loss, {
            "reconstruction": reconstruction.detach(),
            "usage": torch.tensor(used),
            "perplexity": torch.tensor(perplexity),
        }

    def _to_vectors(self, maskige: Tensor) -> Tensor:
        """Maskige (B, D, H, W) in [0, 1] → the encoder's vectors (B, C, H/stride, W/stride)."""
        check_maskige(maskige, self.channels, self.stride)
        return self.encoder(2 * maskige - 1)  # the network works in [−1, 1]

    def _to_picture(self, vectors: Tensor) -> Tensor:
        """Vectors (B, C, h, w) → picture (B, D, h·stride, w·stride), about [0, 1]."""
        return (self.decoder(vectors) + 1) / 2
