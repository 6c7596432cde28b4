"""The three contracts that carry the package, and the ids that every part agrees on.

A *tokenizer* turns a maskige into integers and back. An *inverse* (X⁻¹) classifies the pixels of a
maskige. A *segmenter* turns a photograph into class scores. Code that uses such a part depends on
the contract only, and works with every class that implements it.

Class ids are 0 … K−1 everywhere, and 255 marks ignored pixels.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

IGNORE = 255


@runtime_checkable
class Tokenizer(Protocol):
    """E_φ and D_θ: pictures ⇄ grids of integers. `VQVAE` and `DalleDVAE` implement it.

    Attributes:
        vocab_size: V, the number of tokens.
        stride: a token stands for a patch of stride × stride pixels.
    """

    vocab_size: int
    stride: int

    def encode(self, maskige: Tensor) -> Tensor:
        """Maskige (B, D, H, W) in [0, 1] → tokens (B, H/stride, W/stride), whole numbers."""
        ...

    def decode(self, tokens: Tensor) -> Tensor:
        """Tokens (B, h, w) → maskige (B, D, h·stride, w·stride) in [0, 1]."""
        ...


@runtime_checkable
class CodeTokenizer(Tokenizer, Protocol):
    """A tokenizer whose tokens are indices of vectors, and which can decode any vectors."""

    def code_vectors(self) -> Tensor:
        """The vectors of all tokens, (V, C)."""
        ...

    def decode_vectors(self, vectors: Tensor, *, clamp: bool = True) -> Tensor:
        """Vectors (B, C, h, w) → maskige (B, D, h·stride, w·stride), in [0, 1] if it is clamped."""
        ...


@runtime_checkable
class DifferentiableTokenizer(CodeTokenizer, Protocol):
    """A code tokenizer that a gradient can pass, as learned palettes need it (GSS-TF, GSS-TT)."""

    def code_logits(self, maskige: Tensor) -> Tensor:
        """Scores (B, V, h, w) of the codes, with a gradient. Their arg-max is what `encode` gives.

        The maskige is (B, D, H, W) in [0, 1].
        """
        ...

    def logit_unit(self, logits: Tensor) -> float:
        """The temperature that counts as 1 for logits of this scale."""
        ...


@runtime_checkable
class Inverse(Protocol):
    """X⁻¹: finds the class of every pixel of a maskige.

    Attributes:
        colors: β (K, D) in [0, 1], the palette of the maskige that it classifies.
    """

    colors: Tensor

    def scores(self, maskige: Tensor) -> Tensor:
        """Maskige (B, D, H, W) → a score for each class, (B, K, H, W); the largest one wins."""
        ...

    def probabilities(self, maskige: Tensor) -> Tensor:
        """Maskige (B, D, H, W) → a probability for each class, (B, K, H, W)."""
        ...

    def votes(self, maskige: Tensor) -> Tensor:
        """Maskige (B, D, H, W) → what is resized and averaged over windows, (B, K, H, W)."""
        ...

    def classify(self, maskige: Tensor) -> Tensor:
        """Maskige (B, D, H, W) → class ids (B, H, W)."""
        ...


@runtime_checkable
class Segmenter(Protocol):
    """A segmentation model: `GSS`, the discriminative `PixelTwin` and `UViM` implement it.

    Attributes:
        num_classes: K.
    """

    num_classes: int

    def losses(self, image: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Normalised photographs (B, 3, H, W), masks (B, H, W) → (loss, {name: scalar})."""
        ...

    def scores(self, image: Tensor) -> dict[str, Tensor]:
        """Normalised photographs (B, 3, H, W) → {name: class scores (B, K, H, W)}.

        "prediction" is always among the names. One call runs the network once.
        """
        ...

    def probabilities(self, image: Tensor) -> dict[str, Tensor]:
        """As `scores`, but the values sum to 1 over the classes and can be averaged over views."""
        ...


def check_mask(mask: Tensor, num_classes: int) -> Tensor:
    """Return the mask as int64 if every id in it is a class or 255.

    Args:
        mask: class ids, any shape.
        num_classes: K.

    Raises:
        ValueError: K is above 255, or an id is neither 0 … K−1 nor 255. The message names the id.
    """
    if num_classes > IGNORE:
        raise ValueError(
            "masks hold at most 255 classes, because id 255 means 'ignore'; "
            f"this palette has {num_classes}"
        )
    mask = mask.long()
    wrong = (mask < 0) | ((mask >= num_classes) & (mask != IGNORE))
    if bool(wrong.any()):
        raise ValueError(
            f"the mask holds id {int(mask[wrong][0])}; expected 0…{num_classes - 1} for "
            f"{num_classes} classes, or 255 for ignored pixels. Map the data set's own ids first."
        )
    return mask


def check_maskige(maskige: Tensor, channels: int, stride: int) -> None:
    """Raise ValueError unless `encode` can take the maskige: (B, D, H, W), multiples of stride."""
    fits = maskige.ndim == 4 and maskige.shape[1] == channels
    if not fits or maskige.shape[2] % stride or maskige.shape[3] % stride:
        raise ValueError(
            f"a maskige must be (B, {channels}, H, W) with H and W multiples of the stride "
            f"{stride}; got {tuple(maskige.shape)}"
        )


def check_tokens(tokens: Tensor, vocab_size: int) -> Tensor:
    """Return the tokens as int64 if `decode` can take them.

    Raises:
        ValueError: they are not whole numbers (B, h, w), or one is outside 0 … vocab_size − 1.
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
