"""A trained X⁻¹ on another GSS model: what the released merge script does to checkpoints."""

from __future__ import annotations

from torch import Tensor, nn

from gss_lite.gss import GSS

SAME = 0.5 / 255  # colours stored in 16 bits, or rounded to 8, are still the same palette


def graft(gss: GSS, inverse: nn.Module) -> GSS:
    """A model with the palette, tokenizer and prior of `gss` (shared, not copied) and X⁻¹ `inverse`; both are left as they were.

    The prior and its token targets do not depend on X⁻¹, so one X⁻¹ serves every image encoder
    trained on the same palette and tokenizer. That the tokenizer is the same cannot be seen from
    the X⁻¹; with another one it still runs, and reads worse.

    Args:
        inverse: with `colors` (K, D), the palette whose maskige it reads: every inverse of this
            package but `LeastSquares`.

    Raises:
        TypeError: an inverse that does not say which colours it reads.
        ValueError: another number of classes or channels than the model's palette, or other
            colours.
    """
    colors = getattr(inverse, "colors", None)
    if not isinstance(colors, Tensor) or not hasattr(inverse, "classify"):
        raise TypeError(
            f"cannot graft {type(inverse).__name__}: an X⁻¹ needs `classify` and `colors`, the "
            "palette whose maskige it reads"
        )
    ours, theirs = gss.colors.cpu(), colors.detach().float().cpu()
    if ours.shape != theirs.shape:
        raise ValueError(
            f"X⁻¹ reads {len(theirs)} classes in {theirs.shape[1]} channels, but the model paints "
            f"{len(ours)} in {ours.shape[1]}; "
            "graft an X⁻¹ trained for the same classes"
        )
    apart = (ours - theirs).abs().amax(1)
    if bool((apart > SAME).any()):
        worst = int(apart.argmax())
        shown = [[round(255 * v) for v in palette[worst].tolist()] for palette in (theirs, ours)]
        raise ValueError(
            f"X⁻¹ was trained on another palette: {int((apart > SAME).sum())} of {len(ours)} "
            f"colours differ (class {worst}: {shown[0]} "
            f"there, {shown[1]} in the model). Paint with its palette and train the prior on that, "
            "or train X⁻¹ for this one."
        )
    merged = type(gss)(gss.palette, gss.tokenizer, gss.prior, inverse.to(gss.colors.device))
    return merged.to(gss.colors.device).train(gss.training)
