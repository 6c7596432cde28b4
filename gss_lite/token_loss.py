"""Cross-entropy of the tokens, without the logits of the whole grid in memory.

A 128 × 128 grid with 8192 codes has 134 million logits, 0.5 GB in float32. Their soft-max and its
gradient need 0.5 GB each. So the last projection, the loss and its gradients are computed for a few
hundred positions at a time.

`torch.nn.functional.linear_cross_entropy` of torch 2.15 does the same for float32. In bfloat16 it
rounds the loss and the sums over positions to 8 bits, so it is not used here.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gss_lite.distributed import mean_over_processes

IGNORED = -100  # torch's default for ignored targets
# Logits of one chunk. Two arrays of this size are in memory at once.
LOGITS_AT_ONCE = {"cpu": 1 << 20, "cuda": 1 << 25}


class TokenLoss(NamedTuple):
    """Two scalars over the positions that are not ignored.

    Attributes:
        loss: the mean cross-entropy; 0 where every position is ignored.
        accuracy: the share of right arg-max tokens; NaN where every position is ignored.
    """

    loss: Tensor
    accuracy: Tensor


@torch.compiler.disable
def token_cross_entropy(
    features: Tensor,
    weight: Tensor,
    bias: Tensor,
    tokens: Tensor,
    ignored: Tensor | None = None,
    *,
    positions_at_once: int | None = None,
) -> TokenLoss:
    """Mean cross-entropy of softmax(W·features + b) against `tokens`.

    The value and its gradients equal those of `F.cross_entropy(conv1x1(features), tokens,
    ignore_index=…)` up to rounding. Under autocast the products are computed in autocast's type,
    and the soft-max and all sums in float32.

    Args:
        features: (B, C, h, w), the input of the projection; fastest in channels_last.
        weight: of the 1×1 projection to V codes, (V, C, 1, 1) or (V, C).
        bias: (V,).
        tokens: whole numbers (B, h, w).
        ignored: bool (B, h, w), true at the positions that are left out of the mean.
        positions_at_once: length of a chunk; the default depends on V.

    Raises:
        ValueError: the shapes do not fit each other.
    """
    vocab, dim = weight.shape[:2]
    grid = (features.shape[0], *features.shape[2:])
    fits = features.ndim == 4 and features.shape[1] == dim
    if not fits or bias.shape != (vocab,) or weight.numel() != vocab * dim:
        raise ValueError(
            "expected features (B, C, h, w), weight (V, C, 1, 1) and bias (V,); "
            f"got {tuple(features.shape)}, {tuple(weight.shape)} and {tuple(bias.shape)}"
        )
    for name, value in [("tokens", tokens), ("ignored", ignored)]:
        if value is not None and value.shape != grid:
            raise ValueError(f"{name} must have the grid's shape {grid}; got {tuple(value.shape)}")
    if ignored is None:
        ignored = torch.zeros_like(tokens, dtype=torch.bool)
    rows = features.movedim(1, -1).flatten(0, 2)  # (B·h·w, C), no copy for channels_last
    targets = tokens.masked_fill(ignored, IGNORED).flatten()  # (B·h·w,)
    most = LOGITS_AT_ONCE.get(rows.device.type, LOGITS_AT_ONCE["cpu"])
    chunk = positions_at_once or max(64, most // vocab)
    total, right = _InChunks.apply(
        rows, weight.flatten(1), bias, targets, chunk, torch.is_grad_enabled()
    )
    count = (~ignored).sum()
    # The sum is divided at the end, because in float16 the gradient of a mean would underflow.
    loss = total / mean_over_processes(count).clamp(min=1).to(total.dtype)
    return TokenLoss(loss, right / count)


def _of_chunk(
    rows: Tensor, weight: Tensor, bias: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows (n, C), targets (n,) → the sum of the losses, the right arg-max tokens, the gradient.

    The gradient is that of the sum by the logits, softmax − one-hot, (n, V). It is zero where the
    target is ignored.
    """
    logits = F.linear(rows, weight, bias).float()  # (n, V)
    right = (logits.argmax(1) == targets).sum()
    log_probability = F.log_softmax(logits, 1)
    del logits  # makes room
    loss = F.nll_loss(log_probability, targets, reduction="sum", ignore_index=IGNORED)
    kept = (targets != IGNORED).float()[:, None]  # (n, 1)
    slope = log_probability.exp_().mul_(kept)
    slope.scatter_add_(1, targets.clamp(min=0)[:, None], -kept)
    return loss, right, slope


class _InChunks(torch.autograd.Function):
    """`_of_chunk` of all rows (N, C), chunk by chunk.

    The gradients are ready when the forward pass ends. The backward pass only multiplies them by
    the gradient that arrives from above.
    """

    @staticmethod
    def forward(ctx, rows, weight, bias, targets, chunk, with_gradients):
        device = rows.device.type
        autocast = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocast else rows.dtype
        cast = weight.to(dtype), bias.to(dtype)
        total, right = torch.zeros(2, device=rows.device).unbind()
        of_rows = torch.empty_like(rows)  # (N, C)
        # These sums over the chunks are in float32, also where the products are not.
        of_weight, of_bias = (torch.zeros_like(t, dtype=torch.float32) for t in (weight, bias))
        with torch.autocast(device, enabled=False):
            for x, y, of_x in zip(*(t.split(chunk) for t in (rows, targets, of_rows))):
                x = x.to(dtype)
                loss, hits, slope = _of_chunk(x, *cast, y)
                total += loss
                right += hits
                if with_gradients:
                    of_bias += slope.sum(0)
                    slope = slope.to(dtype)
                    of_x.copy_(slope @ cast[0])
                    _add_product(of_weight, slope.T, x)
                del slope  # makes room for the next chunk
        ctx.mark_non_differentiable(right)
        ctx.gradients = of_rows, of_weight.to(weight.dtype), of_bias.to(bias.dtype)
        return total, right

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream, _):
        if ctx.gradients is None:
            raise RuntimeError(
                "the gradients of a token_cross_entropy can be taken once; "
                "call it again for a second backward pass"
            )
        # Multiplied in place, since a copy would double their memory.
        gradients = [gradient.mul_(upstream) for gradient in ctx.gradients]
        ctx.gradients = None
        return *gradients, None, None, None


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add left @ right to total in place, for total (V, C) in float32 and factors of any type."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)  # without an array for the product
    else:
        total += left @ right
