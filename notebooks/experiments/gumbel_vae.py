"""DALL·E's way to train a tokenizer (Ramesh et al., 2021, §2.1, A.2 and A.3), on small networks.

A VQ-VAE takes the nearest code, with a straight-through gradient. Here every token is a soft
mixture of all codes, drawn with Gumbel noise, and the mixture becomes sharper during training. The
loss is an evidence bound: the likelihood of pixels that lie in an interval, and the KL divergence
of the tokens' distribution from the uniform one.

Two things differ from DALL·E: the codes are initialised on data, and hard pixels keep their weight
(see `losses`). Maskige need both with hundreds of steps instead of 3,000,000. The experiment
`gumbel_tokenizer` measures the training without them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gss_lite.contracts import check_tokens
from gss_lite.dalle import map_pixels, unmap_pixels
from gss_lite.vqvae import VQVAE, Codebook

LAST_TEMPERATURE = 1 / 16
KL_RAMP = 1 / 30  # fraction of the annealing: 5,000 of DALL·E's 150,000 steps
# The decoder can match the flat colours of a maskige exactly. Without a least scale, the likelihood
# would grow without bound. One step of an 8-bit pixel at mid grey is about 1/80 in the logit.
LEAST_LOG_SCALE = -math.log(80)
# Scale of the first logits: the mean squared distance of two codes' vectors becomes about
# 2 · SHARPNESS nats.
SHARPNESS = 30.0


class Relaxed(NamedTuple):
    """The outputs of encoder and decoder.

    Attributes:
        logits: of the tokens, (B, V, h, w).
        means: of the pixels' logits, (B, 3, H, W).
        log_scales: of the pixels' logits, (B, 3, H, W).
    """

    logits: Tensor
    means: Tensor
    log_scales: Tensor


class GumbelVAE(VQVAE):
    """A discrete VAE with the networks of `VQVAE`, except the last layers, and its interface.

    In train mode each call of `forward` is one step of the annealing. The temperature falls along a
    cosine from 1 to 1/16 in `anneal` steps, and the KL's weight rises to its full value in the
    first thirtieth of them.

    Args:
        vocab_size, stride, width, code_dim, depth: as for `VQVAE`.
        anneal: steps until the last temperature; three quarters of a short training.
        kl_weight: weight of the KL in DALL·E's units at stride 8 (DALL·E took 6.6; see `losses`).
        beta: weighting of hard pixels: 0 is the plain likelihood (DALL·E), 1 weighs all pixels
            alike.

    Raises:
        ValueError: anneal, kl_weight or beta is out of range.
    """

    def __init__(
        self,
        vocab_size: int = 256,
        stride: int = 4,
        width: int = 64,
        code_dim: int = 16,
        depth: int = 2,
        anneal: int = 1000,
        kl_weight: float = 2.0,
        beta: float = 1.0,
    ) -> None:
        super().__init__(vocab_size, stride, width, code_dim, depth)
        if anneal < 1 or not 0 <= beta <= 1 or kl_weight < 0:
            raise ValueError(
                f"anneal must be 1 or more, beta within 0…1, kl_weight 0 or more; got {anneal}, "
                f"{beta}, {kl_weight}"
            )
        self.anneal = anneal
        self.kl_weight = kl_weight
        self.beta = beta
        del self.codebook  # tokens are the arg-max of logits here, not the nearest code
        self.encoder = self.encoder[:-1]
        self.to_logits = nn.Conv2d(width, vocab_size, 1)
        self.decoder[-1] = nn.ConvTranspose2d(self.decoder[-1].in_channels, 6, 4, 2, 1)
        self.codes = nn.Embedding(vocab_size, code_dim)
        self.register_buffer("steps", torch.tensor(0))

    @property
    def progress(self) -> float:
        """The finished share of the annealing, 0 … 1."""
        return min(1.0, int(self.steps) / self.anneal)

    @property
    def temperature(self) -> float:
        """The temperature of the Gumbel soft-max, 1 … 1/16."""
        cosine = (1 + math.cos(math.pi * self.progress)) / 2
        return LAST_TEMPERATURE + (1 - LAST_TEMPERATURE) * cosine

    def forward(self, maskige: Tensor) -> tuple[Tensor, Relaxed]:
        """Maskige (B, 3, H, W) → reconstruction (B, 3, H, W), and the outputs behind it.

        The tokens are sampled mixtures in train mode, and the arg-max otherwise.
        """
        features = self._to_vectors(maskige)  # (B, width, h, w)
        if self.training and not int(self.steps):
            self.start_on(features.detach())
        logits = self.to_logits(features)  # (B, V, h, w)
        if self.training:
            mixture = F.gumbel_softmax(logits, tau=self.temperature, dim=1)  # sums to 1 over V
            vectors = torch.einsum("bvhw,vc->bchw", mixture, self.codes.weight)  # (B, C, h, w)
            self.steps += 1
        else:
            vectors = self.codes(logits.argmax(1)).movedim(-1, 1)  # (B, C, h, w)
        means, log_scales = self.decoder(vectors).chunk(2, dim=1)  # (B, 3, H, W) each
        relaxed = Relaxed(logits, means, log_scales.clamp(min=LEAST_LOG_SCALE))
        return unmap_pixels(means.sigmoid()), relaxed

    @torch.no_grad()
    def start_on(self, features: Tensor) -> None:
        """Initialise the logits on features (B, width, h, w).

        The logits become −s·‖feature − v_k‖² up to a constant. The v_k are drawn from the features
        in proportion to their squared distance from the mean, because most features of a mask are
        nearly equal. After the same number of steps, random logits give more even tokens, but much
        worse pictures.
        """
        flat = features.movedim(1, -1).flatten(0, 2)  # (B·h·w, width)
        distance = (flat - flat.mean(0)).square().sum(1)  # (B·h·w,)
        again = len(flat) < self.vocab_size
        chosen = torch.multinomial(distance + 1e-12, self.vocab_size, replacement=again)
        picked = flat[chosen]  # (V, width)
        # Equal patches would give equal codes.
        picked = picked + 0.05 * flat.std() * torch.randn_like(picked)
        sharpness = SHARPNESS / (picked - picked.mean(0)).square().sum(1).mean()
        self.to_logits.weight.copy_((2 * sharpness * picked)[:, :, None, None])
        self.to_logits.bias.copy_(-sharpness * picked.square().sum(1))

    @torch.no_grad()
    def encode(self, maskige: Tensor) -> Tensor:
        """Maskige (B, 3, H, W) in [0, 1] → tokens (B, h, w), the arg-max of q_φ(z|x)."""
        features = self._to_vectors(maskige)  # (B, width, h, w)
        # In float32, also where the encoder runs in bf16.
        with torch.autocast(features.device.type, enabled=False):
            return self.to_logits(features.float()).argmax(1)

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> Tensor:
        """Tokens (B, h, w) → maskige (B, 3, h·stride, w·stride) in [0, 1]: the means."""
        vectors = self.codes(check_tokens(tokens, self.vocab_size)).movedim(-1, 1)  # (B, C, h, w)
        return self.decode_vectors(vectors)

    def code_vectors(self) -> Tensor:
        """Return the vectors of the codes, (V, C)."""
        return self.codes.weight

    def decode_vectors(self, vectors: Tensor) -> Tensor:
        """D_θ for any vectors (B, C, h, w) → maskige (B, 3, h·stride, w·stride) in [0, 1]."""
        return unmap_pixels(self.decoder(vectors)[:, :3].sigmoid())

    def losses(
        self, maskige: Tensor, picture: Tensor, relaxed: Relaxed
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute −log p(x|z) + kl_weight · KL in nats per colour value, and scalars.

        The sum over a picture is divided by its 3·H·W colour values. The mean KL of a token then
        has the weight kl_weight/(3·stride²), which is 6.6/192 for DALL·E.

        A likelihood that learns its own scale b divides the gradient of each pixel by b. Where the
        decoder errs, it learns a large b, so thin and rare things are not learned. Each pixel is
        therefore weighted with b^beta, normalised to mean one and not differentiated (Seitzer et
        al., 2022, "On the pitfalls of heteroscedastic uncertainty estimation"). The scalar
        `reconstruction` is without those weights.

        Args:
            maskige: the input of `forward`.
            picture, relaxed: the outputs of `forward`.
        """
        likelihood = logit_laplace_nll(map_pixels(maskige), relaxed.means, relaxed.log_scales)
        weight = (self.beta * relaxed.log_scales.detach()).exp()
        kl = kl_to_uniform(relaxed.logits).mean()
        ramp = min(1.0, self.progress / KL_RAMP)
        share = ramp * self.kl_weight / (3 * self.stride**2)
        loss = (likelihood * weight / weight.mean()).mean() + share * kl
        used, perplexity = Codebook.usage(relaxed.logits.detach().argmax(1), self.vocab_size)
        return loss, {
            "reconstruction": likelihood.mean().detach(),
            "kl": kl.detach(),
            "usage": torch.tensor(used),
            "perplexity": torch.tensor(perplexity),
            "temperature": torch.tensor(self.temperature),
        }


def logit_laplace_nll(mapped: Tensor, means: Tensor, log_scales: Tensor) -> Tensor:
    """Compute −log f(x | μ, b), where f = exp(−|logit x − μ|/b) / (2b·x·(1 − x)) (A.3).

    f is the density of the sigmoid of a Laplace variable. The Gaussian of a squared error has mass
    outside (0, 1), but f has none. All arguments have the same shape; x = `mapped` lies in (0, 1).
    """
    distance = (torch.logit(mapped) - means).abs()
    jacobian = torch.log(mapped * (1 - mapped))
    return distance * torch.exp(-log_scales) + log_scales + math.log(2) + jacobian


def kl_to_uniform(logits: Tensor) -> Tensor:
    """Logits (B, V, h, w) → KL(softmax ‖ uniform over V) of every token (B, h, w), 0 … log V."""
    log_q = logits.log_softmax(1)
    return (log_q.exp() * log_q).sum(1) + math.log(logits.shape[1])
