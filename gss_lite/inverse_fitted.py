"""X⁻¹ with weights: trained (GSS-FT and GSS-FT-W; supplement, D.iii), measured, or counted.

`ConvInverse` and `SwinInverse` are trained. They classify a pixel by the colours around it, where
`NearestColor` uses the pixel's own colour alone.

Two inverses go beyond the paper. They are fitted to the tokenizer's errors, without training.
`GaussianInverse` holds the mean and covariance of each class's colour after encoding and decoding.
`CodeTable` does not use colours: it counts which classes every code stood for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from gss_lite.contracts import IGNORE, Tokenizer, check_mask
from gss_lite.inverse import BaseInverse, checked_colors
from gss_lite.prior import ConvBNReLU, WindowBlock, pixel_cross_entropy
from gss_lite.storage import load_weights

# The least variance of a class along any direction of colour space: half an 8-bit level, squared.
FLOOR = (0.5 / 255) ** 2


class LearnedInverse(BaseInverse):
    """An X⁻¹ that is trained, for the palette in its `colors` only."""

    def loss(self, maskige: Tensor, mask: Tensor) -> Tensor:
        """Maskige (B, D, H, W), mask (B, h, w) → the loss of D.i, see `pixel_cross_entropy`."""
        return pixel_cross_entropy(self(maskige), mask)

    def votes(self, maskige: Tensor) -> Tensor:
        """Maskige (B, D, H, W) → its scores, (B, K, H, W), as in the released GSS-FT-W."""
        return self.scores(maskige)


class ConvInverse(LearnedInverse):
    """X⁻¹ of GSS-FT: "two conv 1×1 layers enclosing a conv 3×3 layer" (D.iii).

    A class is found from 3 × 3 pixels. The paper does not give the width, nor what stands between
    the layers; here it is batch norm and ReLU.

    Args:
        colors: β (K, D), the palette of the maskige.
        width: channels of the two inner layers.
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

    def _scores(self, maskige: Tensor) -> Tensor:
        x = self.embed(maskige)  # (B, width, H, W)
        x = self.around(x)  # (B, width, H, W)
        return self.to_classes(x)  # (B, K, H, W)


class SwinInverse(LearnedInverse):
    """X⁻¹ of GSS-FT-W as released: 1×1 embedding, shifted-window blocks, LayerNorm, 1×1 → K.

    Every second block is shifted. With depth 1 none is, so pixels of different windows never
    exchange information. The default sizes are the paper's.

    Args:
        colors: β (K, D), the palette of the maskige.
        dim: channels of the blocks.
        heads: attention heads.
        window: side of a window in pixels.
        ffn_dim: hidden units of the blocks' MLP.
        depth: number of blocks, 1 for Cityscapes, 2 for ADE20K and MSeg.
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

    def _scores(self, maskige: Tensor) -> Tensor:
        x = self.embed(maskige)  # (B, dim, H, W)
        x = x.permute(0, 2, 3, 1)  # (B, H, W, dim)
        x = self.norm(self.blocks(x))  # (B, H, W, dim)
        x = x.permute(0, 3, 1, 2)  # (B, dim, H, W)
        return self.to_classes(x)  # (B, K, H, W)


KINDS: Mapping[str, type[LearnedInverse]] = MappingProxyType(
    {"ft": ConvInverse, "ft-w": SwinInverse}
)
"""The learned inverses, by the names used for training stages and files."""


class GaussianInverse(BaseInverse):
    """Each class is a Gaussian in colour space: scores log N(x̂; μ_k, Σ_k) + log π_k.

    `fit_gaussians` estimates one. If μ = β, all Σ are the same multiple of the identity, and π is
    uniform, it gives the class of the nearest colour.

    Args:
        colors: β (K, D), the palette.
        mean: μ (K, D).
        covariance: Σ (K, D, D).
        log_prior: log π (K,); zeros by default.

    Raises:
        ValueError: the shapes do not fit each other, or a covariance is not positive definite.
    """

    def __init__(
        self, colors: Tensor, mean: Tensor, covariance: Tensor, log_prior: Tensor | None = None
    ) -> None:
        super().__init__(colors)
        classes, channels = self.colors.shape
        log_prior = torch.zeros(classes) if log_prior is None else log_prior
        shapes = tuple(mean.shape), tuple(covariance.shape), tuple(log_prior.shape)
        if shapes != ((classes, channels), (classes, channels, channels), (classes,)):
            raise ValueError(
                f"{classes} colours with {channels} channels need a mean ({classes}, {channels}), "
                f"a covariance ({classes}, {channels}, {channels}) and a log-prior ({classes},); "
                f"got {shapes}"
            )
        factor, failed = torch.linalg.cholesky_ex(covariance.double())  # L of Σ = LLᵀ, (K, D, D)
        if bool(failed.any()):
            raise ValueError(
                f"the covariance of class {int(failed.nonzero()[0])} is not positive definite"
            )
        unit = torch.eye(channels, dtype=torch.double).expand_as(factor)
        whitening = torch.linalg.solve_triangular(factor, unit, upper=False)  # L⁻¹, (K, D, D)
        half_log_determinant = factor.diagonal(dim1=1, dim2=2).log().sum(1)  # (K,)
        constant = log_prior.double() - half_log_determinant - channels / 2 * math.log(2 * math.pi)
        self.register_buffer("mean", mean.float())
        self.register_buffer("whitening", whitening.float())
        self.register_buffer("constant", constant.float())

    def _scores(self, maskige: Tensor) -> Tensor:
        scores = []
        # One class at a time keeps the memory small.
        for mean, whitening, constant in zip(self.mean, self.whitening, self.constant):
            white = torch.einsum("cd,bdhw->bchw", whitening, maskige - mean[:, None, None])
            scores.append(constant - white.square().sum(1) / 2)  # (B, H, W)
        return torch.stack(scores, 1)  # (B, K, H, W)


def fit_gaussians(
    colors: Tensor,
    pairs: Iterable[tuple[Tensor, Tensor]],
    *,
    shrinkage: float = 100.0,
    log_prior: bool = False,
) -> GaussianInverse:
    """Estimate the mean and covariance of each class's decoded colour.

    A class's own mean and covariance have the weight n/(n + shrinkage), with n its pixels. The rest
    of the weight goes to β and to the covariance of all classes together. So a class without pixels
    gets the mean β_k.

    Args:
        colors: β (K, D).
        pairs: batches of (maskige (B, D, H, W), mask (B, H, W)). The maskige is decoded from the
            mask's tokens.
        shrinkage: a number of pixels above 0.
        log_prior: whether π is the classes' frequencies, from n + 1 pixels; uniform otherwise.

    Raises:
        ValueError: shrinkage is not positive, a pair is of different sizes, an id is no class, or
            there is no labelled pixel at all.
    """
    if not shrinkage > 0:
        raise ValueError(f"shrinkage must be positive, a number of pixels; got {shrinkage}")
    beta = checked_colors(colors).double().cpu()
    classes, channels = beta.shape
    count = torch.zeros(classes, dtype=torch.double)
    first = torch.zeros(classes, channels, dtype=torch.double)  # Σ (x − β_k)
    second = torch.zeros(classes, channels, channels, dtype=torch.double)  # Σ (x − β_k)(x − β_k)ᵀ
    for maskige, mask in pairs:
        ids, labelled = _labelled(maskige, mask, classes)
        # Offsets from β are small, so the sums of their squares lose no digits.
        offset = maskige.movedim(1, -1)[labelled].double().cpu() - beta[ids]  # (N, D)
        count += torch.bincount(ids, minlength=classes)
        first.index_add_(0, ids, offset)
        second.index_add_(0, ids, offset[:, :, None] * offset[:, None, :])
    if not count.sum():
        raise ValueError("there is no labelled pixel to measure colours on")
    seen = count.clamp(min=1)
    own = first / seen[:, None]  # x̄ − β_k, (K, D)
    # Σ (x − x̄)(x − x̄)ᵀ, (K, D, D)
    scatter = second - count[:, None, None] * own[:, :, None] * own[:, None, :]
    shared = scatter.sum(0) / count.sum()
    share = (count / (count + shrinkage))[:, None, None]
    covariance = (
        share * scatter / seen[:, None, None] + (1 - share) * shared + FLOOR * torch.eye(channels)
    )
    mean = beta + share[:, :, 0] * own
    frequency = (count + 1) / (count + 1).sum()
    return GaussianInverse(beta, mean, covariance, frequency.log() if log_prior else None)


def load_gaussians(path: Path) -> GaussianInverse:
    """A `GaussianInverse` from its file of weights, in eval mode."""
    colors = load_file(path)["colors"].float()
    classes, channels = colors.shape
    blank = GaussianInverse(colors, colors, torch.eye(channels).expand(classes, -1, -1))
    load_weights(path, blank)
    return blank.eval()


class CodeTable(nn.Module):
    """p(class | code, place in its patch), by counting. It classifies tokens without a decoder.

    The decoder's output for a code depends a little on the codes around it. The table ignores that.

    Args:
        counts: (V, stride, stride, K), how often class k stood at each place of the patches that
            were encoded as code v.

    Raises:
        ValueError: counts has another shape.
    """

    def __init__(self, counts: Tensor) -> None:
        super().__init__()
        if counts.ndim != 4 or counts.shape[1] != counts.shape[2]:
            raise ValueError(f"counts must be (V, stride, stride, K); got {tuple(counts.shape)}")
        everywhere = counts.sum((0, 1, 2)) + 1.0  # (K,)
        # One extra pixel a cell, divided by the overall class frequencies, avoids 0/0.
        smoothed = counts + everywhere / everywhere.sum()
        self.register_buffer("probability", (smoothed / smoothed.sum(-1, keepdim=True)).float())

    @torch.no_grad()
    def expected(self, token_logits: Tensor) -> Tensor:
        """Token logits (B, V, h, w) → Σ_v p(v|x) p(class|v, place), (B, K, h·stride, w·stride)."""
        vocab, stride, _, classes = self.probability.shape
        batch, _, height, width = token_logits.shape
        weight = token_logits.movedim(1, -1).float().softmax(-1)  # (B, h, w, V)
        x = weight @ self.probability.view(vocab, -1)  # (B, h, w, stride²·K)
        x = x.view(batch, height, width, stride, stride, classes)
        x = x.permute(0, 5, 1, 3, 2, 4)  # (B, K, h, stride, w, stride)
        return x.reshape(batch, classes, height * stride, width * stride)

    @torch.no_grad()
    def read(self, tokens: Tensor) -> Tensor:
        """Tokens (B, h, w) → the likeliest class of each pixel, (B, h·stride, w·stride) long."""
        stride = self.probability.shape[1]
        ids = self.probability.argmax(-1)[tokens]  # (B, h, w, stride, stride)
        ids = ids.permute(0, 1, 3, 2, 4)  # (B, h, stride, w, stride)
        return ids.reshape(len(tokens), tokens.shape[1] * stride, -1)


def count_codes(
    tokenizer: Tokenizer, num_classes: int, pairs: Iterable[tuple[Tensor, Tensor]]
) -> CodeTable:
    """Count the classes behind every code; ignored pixels do not count.

    The table holds V · stride² · K numbers: 180 thousand at 1,024 codes, stride 4 and 11 classes;
    79 million with OpenAI's dVAE and 150 classes.

    Args:
        tokenizer: only its `stride` and `vocab_size` are used.
        num_classes: K.
        pairs: batches of (tokens (B, h, w), mask (B, h·stride, w·stride)).

    Raises:
        ValueError: a pair is of different sizes, or an id is no class.
    """
    stride, vocab = tokenizer.stride, tokenizer.vocab_size
    counts = torch.zeros(vocab * stride * stride * num_classes)
    place = torch.arange(stride * stride).view(stride, stride)
    for tokens, mask in pairs:
        codes = tokens.repeat_interleave(stride, 1).repeat_interleave(stride, 2)  # mask's size
        ids, labelled = _labelled(codes[:, None], mask, num_classes)
        labelled = labelled.cpu()
        places = place.repeat(tokens.shape[1], tokens.shape[2]).expand_as(codes)
        cells = codes.cpu()[labelled] * stride**2 + places[labelled]
        counts += torch.bincount(cells * num_classes + ids, minlength=len(counts))
    return CodeTable(counts.view(vocab, stride, stride, num_classes))


def _labelled(picture: Tensor, mask: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Picture (B, C, H, W), mask (B, H, W) → ids of the N labelled pixels, and a map of them."""
    if picture.shape[0] != mask.shape[0] or picture.shape[2:] != mask.shape[1:]:
        raise ValueError(
            f"maskige {tuple(picture.shape)} and mask {tuple(mask.shape)} must be of the same "
            "pictures, at the same size"
        )
    mask = check_mask(mask, classes)
    labelled = mask != IGNORE
    return mask[labelled].cpu(), labelled
