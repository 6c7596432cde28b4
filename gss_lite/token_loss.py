"""Cross-entropy of the tokens without ever holding the logits of the whole grid.

A 128 × 128 grid with 8192 codes has 134 million logits, 0.5 GB in float32; their soft-max and its
gradient take as much again, each. Here the last projection, the soft-max and both their gradients
are computed for a few thousand positions at a time, in the forward pass: the backward pass only has
to multiply by the gradient that arrives from above.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gss_lite.distributed import mean_over_processes

# Logits held at once: on the CPU 8 MB of them, about what its cache holds; on a GPU enough to keep
# it busy.
LOGITS_AT_ONCE = {"cpu": 1 << 21, "cuda": 1 << 26}


class TokenLoss(NamedTuple):
    """Mean cross-entropy and share of right arg-max tokens, both over the positions that are not ignored; scalars."""

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
    """Cross-entropy of softmax(W·features + b) against `tokens`, chunk by chunk over the positions.

    The same as `F.cross_entropy(conv1x1(features), tokens, ignore_index=…)` up to rounding,
    gradients included, and zero where every position is ignored. Under autocast the products are
    computed in autocast's type, soft-max and sums in float32. The gradients of one result can be
    taken once: `retain_graph=True` does not help.

    Args:
        features: (B, C, h, w), what the projection is applied to; fastest in channels_last.
        weight, bias: of the 1×1 projection to V codes, (V, C, 1, 1) or (V, C), and (V,).
        tokens: long (B, h, w). ignored: bool (B, h, w), positions that are left out of the mean.
        positions_at_once: length of a chunk; chosen from V by default.

    Raises:
        ValueError: shapes that do not belong together.
    """
    vocab, dim = weight.shape[:2]
    grid = (features.shape[0], *features.shape[2:])
    if (
        features.ndim != 4
        or features.shape[1] != dim
        or bias.shape != (vocab,)
        or weight.numel() != vocab * dim
    ):
        raise ValueError(
            "expected features (B, C, h, w), weight (V, C, 1, 1) and bias (V,); got "
            f"{tuple(features.shape)}, "
            f"{tuple(weight.shape)} and {tuple(bias.shape)}"
        )
    for name, value in [("tokens", tokens), ("ignored", ignored)]:
        if value is not None and value.shape != grid:
            raise ValueError(f"{name} must have the grid's shape {grid}; got {tuple(value.shape)}")
    kept = torch.ones_like(tokens, dtype=torch.bool) if ignored is None else ~ignored
    chunk = positions_at_once or max(64, LOGITS_AT_ONCE.get(features.device.type, 1 << 21) // vocab)
    # (B·h·w, C): a view where the features are in channels_last
    rows = features.movedim(1, -1).flatten(0, 2)
    total, right = _ChunkedCrossEntropy.apply(
        rows,
        weight.flatten(1),
        bias,
        tokens.flatten(),
        kept.flatten(),
        chunk,
        torch.is_grad_enabled(),
    )
    count = kept.sum()
    return TokenLoss(total / mean_over_processes(count).clamp(min=1).to(total.dtype), right / count)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Rows (N, C) → (sum of the kept rows' cross-entropies, number of kept rows whose arg-max is right)."""

    @staticmethod
    def forward(ctx, rows, weight, bias, tokens, kept, chunk, want_gradients):
        device = rows.device.type
        dtype = (
            torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else rows.dtype
        )
        matrix, offset = weight.to(dtype), bias.to(dtype)
        sums = torch.zeros(2, device=rows.device)
        # Gradients of the *sum*: divided by the count only in `backward`, so that nothing
        # underflows in float16.
        wanted = [want_gradients and needed for needed in ctx.needs_input_grad[:3]]
        grads = [
            torch.zeros_like(t, dtype=d) if need else None
            for t, d, need in zip(
                (rows, weight, bias), (rows.dtype, torch.float32, torch.float32), wanted
            )
        ]
        buffer = None
        with torch.autocast(device, enabled=False):
            for at in range(0, len(rows), chunk):
                part = slice(at, at + chunk)
                x, target, keep = rows[part].to(dtype), tokens[part, None], kept[part, None]
                if buffer is None or len(buffer) != len(x):
                    buffer = x.new_empty(len(x), len(weight))
                logits = torch.addmm(offset, x, matrix.T, out=buffer).float()  # (n, V)
                sums += _soft_max_less_target(logits, target, keep)
                delta = logits.to(dtype)
                if wanted[0]:
                    grads[0][part] = delta @ matrix
                if wanted[1]:
                    _add_product(grads[1], delta.T, x)
                if wanted[2]:
                    grads[2] += logits.sum(0)
        ctx.grads, ctx.dtypes = grads, (rows.dtype, weight.dtype, bias.dtype)
        total, right = sums.unbind()
        ctx.mark_non_differentiable(right)
        return total, right

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream, _):
        if ctx.grads is None:
            raise RuntimeError(
                "the gradients of a token_cross_entropy can be taken once; call it again for a "
                "second backward pass"
            )
        grads, ctx.grads = ctx.grads, None  # scaled in place: a copy would double what they take
        scaled = [None if g is None else g.mul_(upstream).to(d) for g, d in zip(grads, ctx.dtypes)]
        return *scaled, None, None, None, None


def _soft_max_less_target(logits: Tensor, target: Tensor, keep: Tensor) -> Tensor:
    """Logits (n, V) become softmax − one-hot(target) in place, zero where not kept → (Σ cross-entropy, number right), float32."""
    top, best = logits.max(1, keepdim=True)
    chosen = logits.gather(1, target) - top  # (n, 1)
    mass = logits.sub_(top).exp_().sum(1, keepdim=True)
    loss = (mass.log() - chosen).masked_fill(~keep, 0)
    logits.mul_(keep / mass).scatter_add_(1, target, -keep.to(logits.dtype))
    return torch.stack([loss.sum(), ((best == target) & keep).sum()])


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Total += left @ right, in float32 whatever the factors are in."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right
