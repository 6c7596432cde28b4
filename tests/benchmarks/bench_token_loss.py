"""Token loss of a 128 × 128 grid, 2048 → 8192, forward and backward: ≤ 1/4 of the plain version's extra memory, ≤ 1.3× its time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from measure import peak_extra_bytes, report
from torch import Tensor

from gss_lite.token_loss import token_cross_entropy

GRID, DIM, VOCAB = 128, 2048, 8192
LAPTOP = (16, 192, 24, 32, 1024)  # batch, channels, grid, codes of the preset scenes-cpu


def problem(batch: int, dim: int, height: int, width: int, vocab: int) -> tuple[list[Tensor], Tensor, Tensor]:
    """Features in channels_last as the prior gives them, weight and bias; tokens; a tenth of them ignored."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(batch, height, width, dim, generator=generator).movedim(-1, 1)
    weight = torch.randn(vocab, dim, 1, 1, generator=generator) / dim**0.5
    leaves = [t.requires_grad_() for t in (features, weight, torch.zeros(vocab))]
    tokens = torch.randint(vocab, (batch, height, width), generator=generator)
    return leaves, tokens, torch.rand(tokens.shape, generator=generator) < 0.1


def plain(features: Tensor, weight: Tensor, bias: Tensor, tokens: Tensor, ignored: Tensor) -> Tensor:
    """All logits at once, soft-max over the last axis (several times faster than over the channels)."""
    rows = F.conv2d(features, weight, bias).movedim(1, -1).flatten(0, 2).float()
    loss = F.cross_entropy(rows, tokens.flatten(), reduction="none").view_as(tokens)
    return loss.masked_fill(ignored, 0).sum() / (~ignored).sum()


def chunked(features: Tensor, weight: Tensor, bias: Tensor, tokens: Tensor, ignored: Tensor) -> Tensor:
    """What GSS.losses uses."""
    return token_cross_entropy(features, weight, bias, tokens, ignored).loss


def gradients(way, leaves: list[Tensor], tokens: Tensor, ignored: Tensor) -> list[Tensor]:
    """Loss and its gradients."""
    loss = way(*leaves, tokens, ignored)
    return [loss.detach(), *torch.autograd.grad(loss, leaves)]


def compare(title: str, shape: tuple[int, ...], repeats: int) -> tuple[float, float]:
    """Check that both agree, print the table, and return chunked ÷ plain of the seconds and of the memory."""
    leaves, tokens, ignored = problem(*shape)
    ways = {name: lambda way=way: gradients(way, leaves, tokens, ignored) for name, way in [("plain", plain), ("chunked", chunked)]}
    for ours, theirs in zip(ways["chunked"](), ways["plain"]()):  # the first calls, which are not timed
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max()))
    rows = {name: (statistics.median(seconds(run) for _ in range(repeats)), peak_extra_bytes(run)) for name, run in ways.items()}
    report(title, rows)
    return rows["chunked"][0] / rows["plain"][0], rows["chunked"][1] / rows["plain"][1]


def seconds(run: Callable[[], object]) -> float:
    """Of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def test_token_loss_of_the_papers_grid() -> None:
    time_ratio, memory_ratio = compare(f"token loss, {GRID} x {GRID} grid, {DIM} -> {VOCAB}", (1, DIM, GRID, GRID, VOCAB), repeats=1)
    assert memory_ratio <= 1 / 4 and time_ratio <= 1.3


def test_token_loss_of_a_laptops_batch() -> None:
    time_ratio, _ = compare("token loss, scenes-cpu's batch, 192 -> 1024", LAPTOP, repeats=5)
    assert time_ratio <= 1.05
