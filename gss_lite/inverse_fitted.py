"""X⁻¹ with weights (supplement, D.iii): convolutions (GSS-FT) and shifted-window blocks (GSS-FT-W).

Both read a class from the colours around a pixel, where `NearestColor` looks at the pixel alone.
They meet the same contract: maskige (B, 3, H, W) → class scores (B, K, H, W), or ids by `classify`.

X⁻¹ without training, beyond the paper: what the tokenizer does to colours is measured, and used.

`GaussianInverse` knows where each class's colour lands after encoding and decoding, and how widely
it scatters. `CodeTable` skips the colours: it counts which classes stand behind every code.
`expected_maskige` decodes the mean code vector under the prior's token probabilities in place of
the likeliest code.

The stage that trains X⁻¹ (supplement, D.iii): GSS-FT and GSS-FT-W, on clean or on noisy maskige.

Everything before X⁻¹ is frozen and in eval mode, so a picture has one maskige however often it is
drawn: it is decoded once and kept, and the stage trains on crops of what was kept. (The released
code runs the frozen part in every step, with its batch norms in train mode, and their statistics
drift.)

X⁻¹ as a Gaussian for each class, measured on training pictures: a stage that trains nothing, and takes seconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from gss_lite.contracts import IGNORE, check_mask
from gss_lite.distributed import mean_over_processes
from gss_lite.inverse import checked_colors
from gss_lite.prior import ConvBNReLU, WindowBlock
from gss_lite.storage import load_weights


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


# least variance of a class along any direction of colour space: half an 8-bit level
FLOOR = (0.5 / 255) ** 2


class GaussianInverse(nn.Module):
    """Scores log N(x̂; μ_k, Σ_k) + log π_k: each class a Gaussian in colour space. `fit_gaussians` makes one.

    With μ = β, all Σ alike and a multiple of the identity, and no π, it is the nearest colour.

    Args:
        colors: β (K, D), the palette. mean: (K, D). covariance: (K, D, D). log_prior: (K,), default
            zeros.

    Raises:
        ValueError: shapes that do not fit each other, or a covariance that is not positive
            definite.
    """

    def __init__(
        self, colors: Tensor, mean: Tensor, covariance: Tensor, log_prior: Tensor | None = None
    ) -> None:
        super().__init__()
        colors = checked_colors(colors)
        classes, channels = colors.shape
        log_prior = torch.zeros(classes) if log_prior is None else log_prior
        shapes = tuple(mean.shape), tuple(covariance.shape), tuple(log_prior.shape)
        if shapes != ((classes, channels), (classes, channels, channels), (classes,)):
            raise ValueError(
                f"{classes} colours with {channels} channels need a mean ({classes}, {channels}), "
                f"a covariance ({classes}, {channels}, "
                f"{channels}) and a log-prior ({classes},); got {shapes}"
            )
        factor, failed = torch.linalg.cholesky_ex(covariance.double())
        if bool(failed.any()):
            raise ValueError(
                f"the covariance of class {int(failed.nonzero()[0])} is not positive definite"
            )
        whitening = torch.linalg.solve_triangular(
            factor, torch.eye(channels, dtype=torch.double).expand_as(factor), upper=False
        )
        self.register_buffer("colors", colors)
        self.register_buffer("mean", mean.float())
        self.register_buffer("whitening", whitening.float())  # L⁻¹ where Σ = LLᵀ, (K, D, D)
        constant = (
            log_prior.double()
            - factor.diagonal(dim1=1, dim2=2).log().sum(1)
            - channels / 2 * math.log(2 * math.pi)
        )
        self.register_buffer("constant", constant.float())

    def forward(self, maskige: Tensor) -> Tensor:
        """Maskige (B, D, H, W) → log N(x̂; μ_k, Σ_k) + log π_k, (B, K, H, W)."""
        if maskige.ndim != 4 or maskige.shape[1] != self.colors.shape[1]:
            raise ValueError(
                f"expected a maskige (B, {self.colors.shape[1]}, H, W); got {tuple(maskige.shape)}"
            )
        scores = []
        # a class at a time: the memory stays small
        for mean, whitening, constant in zip(self.mean, self.whitening, self.constant):
            white = torch.einsum("cd,bdhw->bchw", whitening, maskige - mean[:, None, None])
            scores.append(constant - white.square().sum(1) / 2)
        return torch.stack(scores, 1)

    def probabilities(self, maskige: Tensor) -> Tensor:
        """Maskige (B, D, H, W) → the classes' probabilities given the colour, (B, K, H, W)."""
        return self(maskige).softmax(1)

    @torch.no_grad()
    def classify(self, maskige: Tensor) -> Tensor:
        """Maskige (B, D, H, W) → the likeliest class of each pixel, (B, H, W) long."""
        return self(maskige).argmax(1)


def fit_gaussians(
    colors: Tensor,
    pairs: Iterable[tuple[Tensor, Tensor]],
    *,
    shrinkage: float = 100.0,
    log_prior: bool = False,
) -> GaussianInverse:
    """Mean and covariance of the decoded colour of each class, measured.

    With n pixels, a class's own mean and covariance count n/(n + shrinkage), and β and the
    covariance shared by all classes the rest, so that a class never seen is read by its colour.

    Args:
        colors: β (K, D). pairs: (maskige (B, D, H, W), mask (B, H, W)) batches, the maskige decoded
            from those masks' tokens.
        shrinkage: in pixels, > 0. log_prior: also use the classes' frequencies (of n + 1 pixels) as
            π.

    Raises:
        ValueError: shrinkage not positive, pairs of different sizes, ids that are no class, or no
            labelled pixel at all.
    """
    if not shrinkage > 0:
        raise ValueError(f"shrinkage must be positive, a number of pixels; got {shrinkage}")
    beta = checked_colors(colors).double().cpu()
    classes, channels = beta.shape
    count = torch.zeros(classes, dtype=torch.double)
    first, second = (
        torch.zeros(classes, channels).double(),
        torch.zeros(classes, channels, channels).double(),
    )
    for maskige, mask in pairs:
        ids, labelled = _labelled(maskige, mask, classes)
        # (N, D): small numbers, so that their squares are exact
        offset = maskige.movedim(1, -1)[labelled].double().cpu() - beta[ids]
        count += torch.bincount(ids, minlength=classes)
        first.index_add_(0, ids, offset)
        second.index_add_(0, ids, offset[:, :, None] * offset[:, None, :])
    if not count.sum():
        raise ValueError("there is no labelled pixel to measure colours on")
    own = first / count.clamp(min=1)[:, None]
    # (K, D, D): Σ (x − x̄)(x − x̄)ᵀ
    scatter = second - count[:, None, None] * own[:, :, None] * own[:, None, :]
    shared = scatter.sum(0) / count.sum()
    share = (count / (count + shrinkage))[:, None, None]
    covariance = (
        share * scatter / count.clamp(min=1)[:, None, None]
        + (1 - share) * shared
        + FLOOR * torch.eye(channels)
    )
    frequency = (count + 1) / (count + 1).sum()
    return GaussianInverse(
        beta, beta + share[:, :, 0] * own, covariance, frequency.log() if log_prior else None
    )


class CodeTable(nn.Module):
    """p(class | code, place in its patch), by counting: reads token probabilities or tokens, and needs no decoder.

    A code decoded among other codes than those it was counted with looks a little different; the
    table does not see that.

    Args:
        counts: (V, stride, stride, K), how often each class stood at each place of a patch that was
            encoded as code v.
    """

    def __init__(self, counts: Tensor) -> None:
        super().__init__()
        if counts.ndim != 4 or counts.shape[1] != counts.shape[2]:
            raise ValueError(f"counts must be (V, stride, stride, K); got {tuple(counts.shape)}")
        everywhere = counts.sum((0, 1, 2)) + 1.0
        # one imagined pixel, of the overall frequencies
        smoothed = counts + everywhere / everywhere.sum()
        self.register_buffer("probability", (smoothed / smoothed.sum(-1, keepdim=True)).float())

    @torch.no_grad()
    def expected(self, token_logits: Tensor) -> Tensor:
        """Token logits (B, V, h, w) → Σ_v p(v|x) p(class | v, place), (B, K, h·stride, w·stride)."""
        vocab, stride, _, classes = self.probability.shape
        batch, _, height, width = token_logits.shape
        # (B, h, w, stride²·K)
        rows = token_logits.movedim(1, -1).float().softmax(-1) @ self.probability.view(vocab, -1)
        rows = rows.view(batch, height, width, stride, stride, classes).permute(0, 5, 1, 3, 2, 4)
        return rows.reshape(batch, classes, height * stride, width * stride)

    @torch.no_grad()
    def read(self, tokens: Tensor) -> Tensor:
        """Tokens (B, h, w) → the likeliest class of each pixel, (B, h·stride, w·stride) long."""
        stride = self.probability.shape[1]
        # (B, h, stride, w, stride)
        ids = self.probability.argmax(-1)[tokens].permute(0, 1, 3, 2, 4)
        return ids.reshape(len(tokens), tokens.shape[1] * stride, -1)


def count_codes(
    tokenizer: nn.Module, num_classes: int, pairs: Iterable[tuple[Tensor, Tensor]]
) -> CodeTable:
    """Count classes behind codes over (tokens (B, h, w), mask (B, h·stride, w·stride)) batches; ignored pixels do not count.

    The table holds V · stride² · K numbers: 180 thousand at 1,024 codes, stride 4 and 11 classes;
    79 million with OpenAI's dVAE and 150 classes.
    """
    stride, vocab = tokenizer.stride, tokenizer.vocab_size
    counts = torch.zeros(vocab * stride * stride * num_classes)
    place = torch.arange(stride * stride).view(stride, stride)
    for tokens, mask in pairs:
        codes = tokens.repeat_interleave(stride, 1).repeat_interleave(stride, 2)
        ids, labelled = _labelled(codes[:, None], mask, num_classes)
        where = place.repeat(tokens.shape[1], tokens.shape[2]).expand_as(codes)
        cells = (
            codes.cpu()[labelled.cpu()] * stride**2 + where[labelled.cpu()]
        ) * num_classes + ids
        counts += torch.bincount(cells, minlength=len(counts))
    return CodeTable(counts.view(vocab, stride, stride, num_classes))


def _labelled(maskige: Tensor, mask: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    if maskige.shape[0] != mask.shape[0] or maskige.shape[2:] != mask.shape[1:]:
        raise ValueError(
            f"maskige {tuple(maskige.shape)} and mask {tuple(mask.shape)} must be of the same "
            "pictures, at the same size"
        )
    mask = check_mask(mask, classes)
    labelled = mask != IGNORE
    return mask[labelled].cpu(), labelled


KINDS: Mapping[str, type[LearnedInverse]] = MappingProxyType(
    {"ft": ConvInverse, "ft-w": SwinInverse}
)


def inverse_loss(scores: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy (D.i) of X⁻¹'s scores (B, K, H, W), brought to the size of the mask (B, h, w); mean over labelled pixels (of
    all processes' shares, where several train).

    Where no pixel is labelled the loss is 0.
    """
    if scores.shape[2:] != mask.shape[1:]:
        scores = F.interpolate(scores, size=mask.shape[1:], mode="bilinear", align_corners=False)
    total = F.cross_entropy(scores.float(), mask.long(), ignore_index=IGNORE, reduction="sum")
    return total / mean_over_processes((mask != IGNORE).sum()).clamp(min=1).to(total.dtype)


def load_gaussians(path: Path) -> GaussianInverse:
    """The X⁻¹ in a file that `gaussian_stage` wrote."""
    colors = load_file(path)["colors"].float()
    channels = colors.shape[1]
    inverse = GaussianInverse(
        colors, colors, torch.eye(channels).expand(len(colors), channels, channels)
    )
    load_weights(path, inverse)
    return inverse.eval()
