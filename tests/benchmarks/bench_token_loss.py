"""Token loss, forward and backward, against the logits of the whole grid at once.

On a 128 × 128 grid, 2048 → 8192, it takes at most 1/4 of the plain version's extra memory and 1.3
times its time.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from measure import peak_extra_bytes, report
from torch import Tensor

from gss_lite.token_loss import token_cross_entropy

GRID, DIM, VOCAB = 128, 2048, 8192
LAPTOP = (16, 192, 24, 32, 1024)  # batch, channels, grid, codes of the preset scenes-cpu


def problem(
    batch: int, dim: int, height: int, width: int, vocab: int
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Features in channels_last as the prior gives them, weight, bias; tokens; what is ignored.

    A tenth of the tokens is ignored.
    """
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(batch, height, width, dim, generator=generator).movedim(-1, 1)
    weight = torch.randn(vocab, dim, 1, 1, generator=generator) / dim**0.5
    leaves = [t.requires_grad_() for t in (features, weight, torch.zeros(vocab))]
    tokens = torch.randint(vocab, (batch, height, width), generator=generator)
    return leaves, tokens, torch.rand(tokens.shape, generator=generator) < 0.1


def plain(
    features: Tensor, weight: Tensor, bias: Tensor, tokens: Tensor, ignored: Tensor
) -> Tensor:
    """All logits at once.

    The soft-max is over the last axis, which is several times faster than over the channels.
    """
    rows = F.conv2d(features, weight, bias).movedim(1, -1).flatten(0, 2).float()
    loss = F.cross_entropy(rows, tokens.flatten(), reduction="none").view_as(tokens)
    return loss.masked_fill(ignored, 0).sum() / (~ignored).sum()


def chunked(
    features: Tensor, weight: Tensor, bias: Tensor, tokens: Tensor, ignored: Tensor
) -> Tensor:
    """What GSS.losses uses."""
    return token_cross_entropy(features, weight, bias, tokens, ignored).loss


def gradients(way, leaves: list[Tensor], tokens: Tensor, ignored: Tensor) -> list[Tensor]:
    """Loss and its gradients."""
    loss = way(*leaves, tokens, ignored)
    return [loss.detach(), *torch.autograd.grad(loss, leaves)]


def compare(title: str, shape: tuple[int, ...], repeats: int) -> tuple[float, float]:
    """Check that both agree, print the table → chunked ÷ plain of the seconds and of the memory.

    It is the processor time of one thread. So neither other programs count nor threads that wait
    for each other, which on a busy machine is most of the time of the many small steps. One call
    gives agreement, memory and a first time, since a call on the large grid takes 0.8 · 10¹²
    multiplications. `repeats` more follow, in turns, and the fastest of each way counts.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    leaves, tokens, ignored = problem(*shape)
    clocks = {
        name: Clock(lambda way=way: gradients(way, leaves, tokens, ignored))
        for name, way in [("plain", plain), ("chunked", chunked)]
    }
    memory = {name: peak_extra_bytes(clock) for name, clock in clocks.items()}
    for ours, theirs in zip(clocks["chunked"].result, clocks["plain"].result):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max()))
    for _ in range(repeats):
        for clock in clocks.values():
            clock.result = None
            clock()
    report(title, {name: (min(clock.processor), memory[name]) for name, clock in clocks.items()})
    print(
        "by the clock on the wall: "
        + "; ".join(
            f"{name} {', '.join(f'{s:.2f}' for s in clock.seconds)} s"
            for name, clock in clocks.items()
        )
    )
    torch.set_num_threads(threads)
    return min(clocks["chunked"].processor) / min(clocks["plain"].processor), memory[
        "chunked"
    ] / memory["plain"]


class Clock:
    """Calls `run`, notes the seconds of each call, and keeps the last result."""

    def __init__(self, run: Callable[[], list[Tensor]]) -> None:
        self.run, self.seconds, self.processor, self.result = run, [], [], None

    def __call__(self) -> list[Tensor]:
        start, start_processor = time.perf_counter(), time.process_time()
        self.result = self.run()
        self.seconds.append(time.perf_counter() - start)
        self.processor.append(time.process_time() - start_processor)
        return self.result


def test_token_loss_of_the_papers_grid() -> None:
    time_ratio, memory_ratio = compare(
        f"token loss, {GRID} x {GRID} grid, {DIM} -> {VOCAB}",
        (1, DIM, GRID, GRID, VOCAB),
        repeats=1,
    )
    assert memory_ratio <= 1 / 4 and time_ratio <= 1.3


def test_token_loss_of_a_laptops_batch() -> None:
    time_ratio, _ = compare("token loss, scenes-cpu's batch, 192 -> 1024", LAPTOP, repeats=6)
    assert time_ratio <= 1.05
