"""GSS-TF: the palette learned by gradient through a frozen tokenizer (§3.3, supplement A.2, B and D.ii).

mask → β → encoder → tokens → decoder → x̂ → loss, with the derivative of everything with respect to
β alone. The tokens are the only step without one; a hard Gumbel-softmax stands in for it. No code
for this variant was ever released.

GSS-TT: palette and X⁻¹ trained together through a frozen tokenizer (§3.3; supplement A.2, D.ii), and filmed.

It is the variant that fails in the paper (36 mIoU where others reach 84), and no code for it was
ever released. X⁻¹ follows whatever colours it is given: only the tokenizer, which confuses colours
that are alike, pushes two of them apart; the film shows where they go.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gss_lite.contracts import IGNORE
from gss_lite.inverse_fitted import LearnedInverse, inverse_loss
from gss_lite.palette.palette import Palette, paint
from gss_lite.vqvae import VQVAE

# standard deviation, in [0, 1], of the reconstruction error that nearest_color_loss assumes
NOISE = 0.1


Objective = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Reconstruction (B, 3, H, W), mask (B, H, W), β (K, 3) → loss (scalar)."""


class Learned(NamedTuple):
    """The learned palette, and the loss of every step."""

    palette: Palette
    losses: list[float]


def token_logits(tokenizer: VQVAE, maskige: Tensor) -> Tensor:
    """Minus the squared distance to every code: maskige (B, 3, H, W) → (B, V, h, w). Arg-max is what `encode` returns."""
    vectors = tokenizer.encoder(2 * maskige - 1)  # (B, C, h, w)
    codes = tokenizer.codebook.codes
    products = torch.einsum("bchw,vc->bvhw", vectors, codes)
    return (
        2 * products - vectors.square().sum(1, keepdim=True) - codes.square().sum(1)[:, None, None]
    )


def straight_through_reconstruct(
    tokenizer: VQVAE,
    maskige: Tensor,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Encode and decode with a hard Gumbel-softmax in between: arg-max forward, gradient of the softmax backward.

    Args:
        maskige: (B, 3, H, W) in [0, 1]. temperature: τ > 0 of q(z|x) = softmax(logits / τ), from
            which tokens are drawn.
        generator: source of the Gumbel noise; without one the forward pass is exactly
            decode(encode(maskige)), unclamped.

    Returns:
        Reconstruction (B, 3, H, W).
    """
    logits = token_logits(tokenizer, maskige) / temperature
    if generator is not None:
        uniform = (
            torch.rand(logits.shape, generator=generator, dtype=logits.dtype)
            .clamp_min(1e-20)
            .to(logits.device)
        )
        logits = logits - torch.log(-torch.log(uniform))
    soft = torch.einsum("bvhw,vc->bchw", logits.softmax(1), tokenizer.codebook.codes)
    hard = tokenizer.codebook.lookup(logits.argmax(1))  # (B, C, h, w)
    # the value of hard, the gradient of soft
    return (tokenizer.decoder(hard + (soft - soft.detach())) + 1) / 2


def nearest_color_loss(picture: Tensor, mask: Tensor, colors: Tensor) -> Tensor:
    """Cross-entropy of the nearest-colour scores −‖x̂ − β_k‖² / (2 · 0.1²), the mean over labelled pixels.

    A reconstruction whose error were Gaussian with standard deviation 0.1 would have exactly these
    posteriors.
    """
    products = torch.einsum("bdhw,kd->bkhw", picture, colors)
    # −‖x̂ − β_k‖² up to what all classes share
    scores = 2 * products - colors.square().sum(1)[:, None, None]
    return F.cross_entropy(scores / (2 * NOISE**2), mask, ignore_index=IGNORE)


def rebuild_error(picture: Tensor, mask: Tensor, colors: Tensor) -> Tensor:
    """The term ‖D(ẑ) − x⁽ᶜ⁾‖ of (S.3), as a root mean square over the labelled pixels: how badly the maskige itself is rebuilt."""
    return (picture - paint(mask, colors)).square().sum(1)[mask != IGNORE].mean().sqrt()


def cascade_loss(picture: Tensor, mask: Tensor, colors: Tensor) -> Tensor:
    """The supplement's objective for β_{t+1}: (‖X̂ − Cβ‖ ‖γ_t‖ + ‖Cβγ_t − C‖)², with γ_t = (βᵀβ)⁻¹βᵀ (S.8) held fixed.

    Norms of matrices with a row for every labelled pixel are divided by the root of their number,
    so that the loss does not depend on the size of the batch.
    """
    gamma = torch.linalg.pinv(colors.detach())  # (3, K)
    labelled = mask != IGNORE
    error = rebuild_error(picture, mask, colors)
    # of one pixel of each class
    residual = (colors @ gamma - torch.eye(len(colors), device=colors.device)).square().sum(1)
    share = torch.bincount(mask[labelled], minlength=len(colors)) / labelled.sum()
    return (error * gamma.norm() + (share * residual).sum().sqrt()).square()


def learn_palette(
    start: Palette,
    tokenizer: VQVAE,
    masks: Tensor,
    *,
    steps: int = 200,
    batch: int = 16,
    lr: float = 0.02,
    momentum: float = 0.9,
    temperature: float = 1.0,
    objective: Objective = nearest_color_loss,
    seed: int = 0,
) -> Learned:
    """SGD on β from `start`, the tokenizer frozen; a colour that a step takes out of [0, 1] is reflected back into it.

    The paper takes 4,000 steps of batch 16 (D.ii). Its learning rate, temperature, start and loss
    are not published.

    Args:
        masks: class ids (N, H, W), sides multiples of the stride; batches are drawn from them.
            seed: of batches and noise.
        temperature: τ in units of the mean squared distance to the nearest code, which is measured
            on the first batch: the encoder's scale is arbitrary, and a τ that suits one tokenizer
            would drown another in noise.

    Raises:
        ValueError: no masks, steps or batch below 1, or two colours that met. FloatingPointError:
            the loss is not finite.
    """
    if masks.ndim != 3 or not len(masks) or steps < 1 or batch < 1:
        raise ValueError(
            "learning needs masks (N, H, W) and at least one step and one mask a step; got "
            f"{tuple(masks.shape)}, {steps} steps of {batch}"
        )
    generator = torch.Generator().manual_seed(seed)
    colors = start.colors.clone().requires_grad_()
    optimizer = torch.optim.SGD([colors], lr=lr, momentum=momentum)
    losses, unit = [], 0.0
    for step in range(steps):
        mask = masks[torch.randint(len(masks), (batch,), generator=generator)].long()
        maskige = paint(mask, colors, start.ignore_color)
        unit = unit or quantization_error(tokenizer, maskige)
        loss = objective(
            straight_through_reconstruct(tokenizer, maskige, temperature * unit, generator),
            mask,
            colors,
        )
        if not bool(loss.isfinite()):
            raise FloatingPointError(
                f"the loss became {loss.item()} at step {step + 1}; lower the learning rate (now "
                f"{lr:g})"
            )
        # no gradient is left behind in the tokenizer
        (colors.grad,) = torch.autograd.grad(loss, [colors])
        optimizer.step()
        with torch.no_grad():
            # Not clamped: in the corners of the cube clamped colours meet, and stay together.
            colors.copy_((1 - (1 - colors.abs()).abs()).clamp(0, 1))
        losses.append(loss.item())
    try:
        return Learned(
            Palette(colors.detach(), f"{start.name}, learned", start.ignore_color), losses
        )
    except ValueError as error:
        raise ValueError(
            f"learning drove two colours together ({error}); lower the learning rate (now {lr:g})"
        ) from error


@torch.no_grad()
def quantization_error(tokenizer: VQVAE, maskige: Tensor) -> float:
    """Mean squared distance of the encoder's vectors to their nearest code: the unit of temperature."""
    return max(float(-token_logits(tokenizer, maskige).amax(1).mean()), 1e-6)


class Joint(NamedTuple):
    """What TT ends with: β (K, 3), not always a valid Palette, as colours may have met; X⁻¹ in eval mode, whose `colors` are β;
    the loss of every step; and the film, β before step 0, every, 2·every … and after the last,
    (frames, K, 3).
    """

    colors: Tensor
    inverse: LearnedInverse
    losses: list[float]
    film: Tensor
    frames: list[int]


def train_jointly(
    start: Palette,
    tokenizer: VQVAE,
    masks: Tensor,
    build: Callable[[Tensor], LearnedInverse],
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
) -> Joint:
    """SGD on β (D.ii: 4,000 steps of batch 16) and AdamW on X⁻¹ (D.iii), one cross-entropy for both.

    Args:
        masks: class ids (N, H, W), sides multiples of the stride. build: β (K, 3) → the X⁻¹ to
            train, e.g. ConvInverse.
        rebuild: weight of (S.3)'s other term in β's loss, see `rebuild_error`.
        temperature: of the Gumbel-softmax, in units of the mean squared distance to the nearest
            code (see `learn_palette`).
        every: steps between two frames of the film. seed: of batches, noise and X⁻¹'s first
            weights.

    Raises:
        ValueError: no masks, or steps, batch or every below 1. FloatingPointError: the loss is not
            finite.
    """
    if masks.ndim != 3 or not len(masks) or min(steps, batch, every) < 1:
        raise ValueError(
            "training needs masks (N, H, W), and steps, batch and every of 1 or more; got "
            f"{tuple(masks.shape)}, {steps}, {batch}, {every}"
        )
    generator = torch.Generator().manual_seed(seed)
    colors = start.colors.clone().requires_grad_()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inverse = build(start.colors).train()
    optimizers = (
        torch.optim.SGD([colors], lr=lr, momentum=momentum),
        torch.optim.AdamW(inverse.parameters(), lr=inverse_lr),
    )
    losses, film, frames, unit = [], [], [], 0.0
    for step in range(steps):
        if step % every == 0:
            film.append(colors.detach().clone())
            frames.append(step)
        mask = masks[torch.randint(len(masks), (batch,), generator=generator)].long()
        maskige = paint(mask, colors, start.ignore_color)
        unit = unit or quantization_error(tokenizer, maskige)
        picture = straight_through_reconstruct(tokenizer, maskige, temperature * unit, generator)
        loss = inverse_loss(inverse(picture), mask)
        if rebuild:
            loss = loss + rebuild * rebuild_error(picture, mask, colors)
        if not bool(loss.isfinite()):
            raise FloatingPointError(
                f"the loss became {loss.item()} at step {step + 1}; lower the learning rates (now "
                f"{lr:g} and {inverse_lr:g})"
            )
        trained = [colors, *inverse.parameters()]
        # none is left behind in the tokenizer
        for tensor, gradient in zip(trained, torch.autograd.grad(loss, trained)):
            tensor.grad = gradient
        for optimizer in optimizers:
            optimizer.step()
        # out of the cube on one side, back in by the same, as in learn_palette
        with torch.no_grad():
            colors.copy_((1 - (1 - colors.abs()).abs()).clamp(0, 1))
        losses.append(loss.item())
    final = colors.detach()
    inverse.colors.copy_(final)
    return Joint(final, inverse.eval(), losses, torch.stack([*film, final]), [*frames, steps])
