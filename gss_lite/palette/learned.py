"""Palettes learned by gradient through a frozen tokenizer: GSS-TF and GSS-TT (§3.3, A.2, D.ii).

mask → β → encoder → tokens → decoder → x̂ → loss, and the gradient flows back to β. Only the choice
of the tokens has no derivative; a hard Gumbel-softmax replaces it.

`learn_palette` is GSS-TF: β alone is trained. `train_jointly` is GSS-TT: β and X⁻¹ are trained
together. GSS-TT fails in the paper (36 mIoU where others reach 84). X⁻¹ adapts to any colours that
differ, so only the tokenizer's confusion of similar colours pushes two of them apart. The authors
released no code for either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gss_lite.contracts import IGNORE, DifferentiableTokenizer
from gss_lite.palette.palette import Palette, paint

NOISE = 0.1  # standard deviation, in [0, 1], of the reconstruction error in nearest_color_loss

Objective = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Reconstruction (B, D, H, W), mask (B, H, W), β (K, D) → loss (scalar)."""


class LearnedPalette(NamedTuple):
    """The palette that GSS-TF ends with, and the loss of every step."""

    palette: Palette
    losses: list[float]


class JointResult(NamedTuple):
    """What GSS-TT ends with.

    Attributes:
        colors: β (K, D). It is not always a valid Palette, since two colours may be equal.
        inverse: X⁻¹ in eval mode, whose `colors` are β.
        losses: the loss of every step.
        history: β at some moments: at the start, regularly, and at the end, (moments, K, D).
        moments: the number of steps taken before each of these moments.
    """

    colors: Tensor
    inverse: nn.Module
    losses: list[float]
    history: Tensor
    moments: list[int]


def nearest_color_loss(picture: Tensor, mask: Tensor, colors: Tensor) -> Tensor:
    """Cross-entropy of the scores −‖x̂ − β_k‖² / (2 · 0.1²), the mean over labelled pixels.

    If the error of the reconstruction were Gaussian with standard deviation 0.1, the soft-max of
    these scores would be the true posterior.
    """
    products = torch.einsum("bdhw,kd->bkhw", picture, colors)
    # −‖x̂ − β_k‖² + ‖x̂‖²; the soft-max over k cancels ‖x̂‖².
    scores = 2 * products - colors.square().sum(1)[:, None, None]  # (B, K, H, W)
    return F.cross_entropy(scores / (2 * NOISE**2), mask, ignore_index=IGNORE)


def rebuild_error(picture: Tensor, mask: Tensor, colors: Tensor) -> Tensor:
    """The term ‖D(ẑ) − x⁽ᶜ⁾‖ of (S.3): the reconstruction error of the maskige.

    It is the root mean square over the labelled pixels.
    """
    return (picture - paint(mask, colors)).square().sum(1)[mask != IGNORE].mean().sqrt()


def cascade_loss(picture: Tensor, mask: Tensor, colors: Tensor) -> Tensor:
    """The supplement's objective for β_{t+1}: (‖X̂ − Cβ‖ ‖γ_t‖ + ‖Cβγ_t − C‖)².

    γ_t = (βᵀβ)⁻¹βᵀ (S.8) gets no gradient. Matrices such as X̂ have a row for each of N labelled
    pixels. Their norms are divided by √N, so that the loss does not depend on the batch size.
    """
    gamma = torch.linalg.pinv(colors.detach())  # (D, K)
    error = rebuild_error(picture, mask, colors)
    # ‖βγ_t − 1‖² of one pixel of each class, (K,)
    residual = (colors @ gamma - torch.eye(len(colors), device=colors.device)).square().sum(1)
    labelled = mask != IGNORE
    share = torch.bincount(mask[labelled], minlength=len(colors)) / labelled.sum()
    return (error * gamma.norm() + (share * residual).sum().sqrt()).square()


def straight_through_reconstruct(
    tokenizer: DifferentiableTokenizer,
    maskige: Tensor,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Encode and decode with a hard Gumbel-softmax: arg-max forward, the soft-max's gradient back.

    Args:
        tokenizer: a VQ-VAE, or OpenAI's dVAE.
        maskige: (B, D, H, W) in [0, 1].
        temperature: τ > 0 of q(z|x) = softmax(logits / τ), from which tokens are drawn.
        generator: of the Gumbel noise. With None there is no noise, and the result is
            decode(encode(maskige)), not clamped.

    Returns:
        Reconstruction (B, D, H, W).
    """
    codes = tokenizer.code_vectors()  # (V, C)
    logits = tokenizer.code_logits(maskige) / temperature  # (B, V, h, w)
    if generator is not None:
        uniform = torch.rand(logits.shape, generator=generator, dtype=logits.dtype)
        uniform = uniform.clamp_min(1e-20).to(logits.device)
        logits = logits - torch.log(-torch.log(uniform))
    soft = torch.einsum("bvhw,vc->bchw", logits.softmax(1), codes)
    hard = _look_up(codes, logits.argmax(1))  # (B, C, h, w)
    vectors = hard + (soft - soft.detach())  # the value of hard, the gradient of soft
    return tokenizer.decode_vectors(vectors, clamp=False)  # (B, D, H, W)


def _look_up(codes: Tensor, tokens: Tensor) -> Tensor:
    """Codes (V, C), tokens (B, h, w) → vectors (B, C, h, w)."""
    return F.embedding(tokens, codes.detach()).movedim(-1, 1)


def learn_palette(
    start: Palette,
    tokenizer: DifferentiableTokenizer,
    masks: Tensor,
    *,
    steps: int = 200,
    batch: int = 16,
    lr: float = 0.02,
    momentum: float = 0.9,
    temperature: float = 1.0,
    objective: Objective = nearest_color_loss,
    seed: int = 0,
) -> LearnedPalette:
    """GSS-TF: SGD on β from `start`; values that leave [0, 1] are reflected at its ends.

    The paper takes 4,000 steps of batch 16 (D.ii). Its learning rate, temperature, start and loss
    are not published.

    Args:
        start: the first palette. It is not changed.
        tokenizer: frozen; a VQ-VAE, or OpenAI's dVAE.
        masks: class ids (N, H, W), sides multiples of the stride; batches are drawn from them.
        steps: of SGD.
        batch: masks in a step.
        lr: learning rate of β.
        momentum: of SGD.
        temperature: τ in the tokenizer's own unit, measured on the first batch. For a VQ-VAE it is
            the mean squared distance to the nearest code, so that one τ fits codes of any scale.
        objective: the loss.
        seed: of batches and noise.

    Raises:
        ValueError: there are no masks, steps or batch is below 1, or two colours became equal.
        FloatingPointError: the loss is not finite.
    """
    _check(masks, steps, batch)
    colors = start.colors.clone().requires_grad_()
    optimizer = torch.optim.SGD([colors], lr=lr, momentum=momentum)
    losses: list[float] = []
    for picture, mask in _rebuilt(
        tokenizer, masks, colors, start.ignore_color, steps, batch, temperature, seed
    ):
        loss = objective(picture, mask, colors)
        losses.append(_descend(loss, len(losses) + 1, colors, [optimizer]))
    try:
        palette = Palette(colors, f"{start.name}, learned", start.ignore_color)
    except ValueError as error:
        raise ValueError(
            f"learning moved two colours together ({error}); lower the learning rate (now {lr:g})"
        ) from error
    return LearnedPalette(palette, losses)


def train_jointly(
    start: Palette,
    tokenizer: DifferentiableTokenizer,
    masks: Tensor,
    build: Callable[[Tensor], nn.Module],
    *,
    steps: int = 400,
    batch: int = 16,
    lr: float = 0.02,
    momentum: float = 0.9,
    inverse_lr: float = 5e-3,
    temperature: float = 1.0,
    every: int = 10,
    seed: int = 0,
    rebuild: float = 0.0,
) -> JointResult:
    """GSS-TT: SGD on β (D.ii) and AdamW on X⁻¹ (D.iii), one cross-entropy for both.

    Args:
        start, tokenizer, masks, steps, batch, lr, momentum, temperature: as in `learn_palette`.
        build: β (K, D) → the X⁻¹ to train, with a method `loss`; for example ConvInverse.
        inverse_lr: learning rate of X⁻¹.
        every: number of steps between two entries of the history.
        seed: of batches, noise and X⁻¹'s initial weights.
        rebuild: weight in β's loss of the other term of (S.3), see `rebuild_error`.

    Raises:
        ValueError: there are no masks, or steps, batch or every is below 1.
        FloatingPointError: the loss is not finite.
    """
    _check(masks, steps, batch, every)
    colors = start.colors.clone().requires_grad_()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inverse = build(start.colors).to(colors.device).train()
    optimizers = [
        torch.optim.SGD([colors], lr=lr, momentum=momentum),
        torch.optim.AdamW(inverse.parameters(), lr=inverse_lr),
    ]
    losses: list[float] = []
    history = [colors.detach().clone()]
    for picture, mask in _rebuilt(
        tokenizer, masks, colors, start.ignore_color, steps, batch, temperature, seed
    ):
        loss = inverse.loss(picture, mask)
        if rebuild:
            loss = loss + rebuild * rebuild_error(picture, mask, colors)
        losses.append(_descend(loss, len(losses) + 1, colors, optimizers))
        if len(losses) % every == 0 or len(losses) == steps:
            history.append(colors.detach().clone())
    final = colors.detach()
    inverse.colors.copy_(final)
    moments = [*range(0, steps, every), steps]
    return JointResult(final, inverse.eval(), losses, torch.stack(history), moments)


def _check(masks: Tensor, *counts: int) -> None:
    if masks.ndim != 3 or not len(masks) or min(counts) < 1:
        raise ValueError(
            "learning needs masks (N, H, W), and at least 1 for steps, batch and every; got "
            f"{tuple(masks.shape)} and {', '.join(map(str, counts))}"
        )


def _rebuilt(
    tokenizer: DifferentiableTokenizer,
    masks: Tensor,
    colors: Tensor,
    ignore_color: Tensor,
    steps: int,
    batch: int,
    temperature: float,
    seed: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """For each step, a reconstruction (B, D, H, W) in the current colours, and its masks."""
    generator = torch.Generator().manual_seed(seed)
    unit = 0.0
    for _ in range(steps):
        mask = masks[torch.randint(len(masks), (batch,), generator=generator)].long()
        mask = mask.to(colors.device)
        maskige = paint(mask, colors, ignore_color)
        if not unit:
            with torch.no_grad():
                unit = tokenizer.logit_unit(tokenizer.code_logits(maskige))
        yield straight_through_reconstruct(tokenizer, maskige, temperature * unit, generator), mask


def _descend(
    loss: Tensor, step: int, colors: Tensor, optimizers: list[torch.optim.Optimizer]
) -> float:
    """One step of every optimizer; returns the loss as a number."""
    if not bool(loss.isfinite()):
        rates = " and ".join(f"{o.param_groups[0]['lr']:g}" for o in optimizers)
        raise FloatingPointError(
            f"the loss became {loss.item()} at step {step}; lower the learning rate (now {rates})"
        )
    trained = [p for o in optimizers for group in o.param_groups for p in group["params"]]
    # `backward` would also fill the gradients of the tokenizer.
    for tensor, gradient in zip(trained, torch.autograd.grad(loss, trained)):
        tensor.grad = gradient
    for optimizer in optimizers:
        optimizer.step()
    with torch.no_grad():
        # Reflected, not clamped: clamped colours can become equal in a corner and stay equal.
        colors.copy_((1 - (1 - colors.abs()).abs()).clamp(0, 1))
    return loss.item()
