"""GSS-TT: palette and X⁻¹ trained together through a frozen tokenizer (§3.3; supplement A.2, D.ii), and filmed.

It is the variant that fails in the paper (36 mIoU where others reach 84), and no code for it was
ever released. X⁻¹ follows whatever colours it is given: only the tokenizer, which confuses colours
that are alike, pushes two of them apart; the film shows where they go.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from gss_lite.inverse_learned import LearnedInverse
from gss_lite.palette import Palette, paint
from gss_lite.palette_learned import quantization_error, rebuild_error, straight_through_reconstruct
from gss_lite.training.inverse_stage import inverse_loss
from gss_lite.vqvae import VQVAE


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
