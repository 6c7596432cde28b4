"""X, the palette: one colour per class (supplement, section B).

A palette is the matrix β of the paper, K rows of D = 3 colour channels. Painting a mask of class
ids with it, x = cβ for one-hot c, gives the *maskige*: a picture that an image tokenizer can
encode.

The plain arithmetic construction and a greedy max-min one live here; `palette_constructions`,
`palette_search` and `palette_learned` hold the others.

The maskige tokenizer: E_φ and D_θ as a VQ-VAE (van den Oord et al., 2017), stage I of GSS.

A picture (B, 3, H, W) becomes a grid of H/stride × W/stride integers, each the number of a codebook
vector, and back. So does a one-hot mask of K channels, which needs no palette (Table 2, "no
maskige"). The codebook follows the encoder by an exponential moving average; gradients pass it
straight through.

GSS assembled: palette X, tokenizer E_φ/D_θ (frozen), prior I_ψ and inverse X⁻¹.

mask → palette → tokens            (targets of stage II)
image → prior → tokens → maskige → class ids   (prediction)
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

IGNORE = 255


def check_mask(mask: Tensor, num_classes: int) -> Tensor:
    """Return the mask as long, or raise ValueError naming the first id that is neither 0…K−1 nor 255."""
    if num_classes > IGNORE:
        raise ValueError(
            "masks hold at most 255 classes, because id 255 means 'ignore'; this palette has "
            f"{num_classes}"
        )
    mask = mask.long()
    wrong = (mask < 0) | ((mask >= num_classes) & (mask != IGNORE))
    if bool(wrong.any()):
        raise ValueError(
            f"mask holds id {int(mask[wrong][0])}; expected 0…{num_classes - 1} for {num_classes} "
            "classes, or 255 for "
            "ignored pixels. Map the data set's own ids first."
        )
    return mask


def check_num_classes(num_classes: int) -> None:
    """Raise ValueError unless K is a whole number from 2 to 256³, the number of 8-bit colours."""
    if (
        isinstance(num_classes, bool)
        or not isinstance(num_classes, int)
        or not 2 <= num_classes <= 256**3
    ):
        raise ValueError(
            f"a palette needs a whole number of classes, from 2 to {256**3}; got {num_classes!r}"
        )


def check_tokens(tokens: Tensor, vocab_size: int) -> Tensor:
    """The tokens, if `decode` can take them.

    Raises:
        ValueError: not (B, h, w), not whole numbers, or one outside 0 … vocab_size − 1.
    """
    if tokens.ndim != 3 or tokens.is_floating_point() or not tokens.numel():
        raise ValueError(
            f"tokens must be whole numbers (B, h, w); got {tokens.dtype} {tuple(tokens.shape)}"
        )
    if bool((tokens < 0).any()) or bool((tokens >= vocab_size).any()):
        raise ValueError(
            f"tokens must lie in 0…{vocab_size - 1}; got {int(tokens.min())} … {int(tokens.max())}"
        )
    return tokens.long()


class Tokenizer(Protocol):
    """Maskige (B, 3, H, W) in [0, 1] ⇄ tokens (B, H/stride, W/stride)."""

    vocab_size: int
    stride: int

    def encode(self, maskige: Tensor) -> Tensor: ...
    def decode(self, tokens: Tensor) -> Tensor: ...
