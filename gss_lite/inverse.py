"""X⁻¹: colour → class (supplement, A.2): the base class, and the two inverses without training.

Every inverse maps a maskige (B, D, H, W) to class scores (B, K, H, W); the class is their arg-max.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gss_lite.color_table import ColorTable, build_table, slices, table_nearest
from gss_lite.contracts import Inverse

TEMPERATURE = 0.1  # squared colour distances (0 … 3) are divided by it to give logits
SAME_COLOR = 0.5 / 255  # colours that differ by rounding to 8 or 16 bits are the same palette

# Below 32 classes, comparing with every colour costs about as much as the table. Above 4,096, the
# table would become too large.
TABLE_CLASSES = range(32, 4097)


def checked_colors(colors: Tensor) -> Tensor:
    """A copy of β as float32, or ValueError if it is no finite (K, D) matrix of two or more rows.

    It is copied because loading weights overwrites buffers, and must not overwrite the palette.
    """
    colors = torch.as_tensor(colors).detach().float().clone()
    if colors.ndim != 2 or len(colors) < 2 or colors.shape[1] < 1:
        raise ValueError(
            f"colors must be a (K, D) matrix with K ≥ 2 rows; got shape {tuple(colors.shape)}"
        )
    if not bool(torch.isfinite(colors).all()):
        raise ValueError("colors holds NaN or infinity; a palette needs finite colours")
    return colors


def check_reads(inverse: Inverse, colors: Tensor) -> None:
    """Raise unless X⁻¹ `inverse` was made for the palette `colors` (K, D)."""
    theirs = getattr(inverse, "colors", None)
    if not isinstance(theirs, Tensor) or not hasattr(inverse, "classify"):
        raise TypeError(
            f"{type(inverse).__name__} cannot serve as X⁻¹: it needs a method `classify` and "
            "`colors`, the palette (K, D) of the maskige that it classifies"
        )
    ours = colors.cpu()
    theirs = theirs.detach().float().cpu()
    if ours.shape != theirs.shape:
        raise ValueError(
            f"X⁻¹ was trained for {len(theirs)} classes and {theirs.shape[1]} channels, but the "
            f"model has {len(ours)} and {ours.shape[1]}; use an X⁻¹ that was trained for the same "
            "classes"
        )
    apart = (ours - theirs).abs().amax(1)  # (K,)
    if bool((apart > SAME_COLOR).any()):
        worst = int(apart.argmax())
        there, here = ([round(255 * v) for v in beta[worst].tolist()] for beta in (theirs, ours))
        raise ValueError(
            f"X⁻¹ was trained on another palette: {int((apart > SAME_COLOR).sum())} of {len(ours)} "
            f"colours differ (class {worst}: {there} there, {here} in the model). Train the prior "
            "with its palette, or train X⁻¹ for this one."
        )


class BaseInverse(nn.Module):
    """The base class of every X⁻¹. A subclass gives the formula of its scores in `_scores`.

    Args:
        colors: β (K, D), the palette of the maskige, as a rule in [0, 1].

    Raises:
        ValueError: colors is not a finite (K, D) matrix with K ≥ 2, or (when called) the maskige
            does not have D channels.
    """

    temperature = 1.0

    def __init__(self, colors: Tensor) -> None:
        super().__init__()
        self.register_buffer("colors", checked_colors(colors))

    def scores(self, maskige: Tensor) -> Tensor:
        """Maskige (B, D, H, W) → a score for each class, (B, K, H, W); the largest one wins."""
        self._check(maskige)
        return self._scores(maskige)

    def forward(self, maskige: Tensor) -> Tensor:
        """The same as `scores`."""
        return self.scores(maskige)

    def probabilities(self, maskige: Tensor) -> Tensor:
        """Maskige (B, D, H, W) → the soft-max of the scores over the classes, (B, K, H, W)."""
        return (self.scores(maskige).float() / self.temperature).softmax(1)

    def votes(self, maskige: Tensor) -> Tensor:
        """Maskige (B, D, H, W) → the classes as one-hot votes, (B, K, H, W).

        The released GSS-FF resizes such votes to the picture, and averages them over windows.
        """
        ids = self.classify(maskige)  # (B, H, W)
        return F.one_hot(ids, len(self.colors)).movedim(-1, 1).float()  # (B, K, H, W)

    @torch.no_grad()
    def classify(self, maskige: Tensor) -> Tensor:
        """Maskige (B, D, H, W) → the arg-max of the scores, (B, H, W) long."""
        return self.scores(maskige).argmax(1)

    def _scores(self, maskige: Tensor) -> Tensor:
        raise NotImplementedError

    def _check(self, maskige: Tensor) -> None:
        channels = self.colors.shape[1]
        if maskige.ndim != 4 or maskige.shape[1] != channels:
            raise ValueError(
                f"expected a maskige (B, {channels}, H, W), since this X⁻¹ reads colours with "
                f"{channels} channels; got {tuple(maskige.shape)}"
            )


class NearestColor(BaseInverse):
    """X⁻¹ of GSS-FF, without training: the class whose colour is nearest in Euclidean distance.

    argmin ‖x̂ − β_k‖² = argmax 2x̂·β_k − ‖β_k‖²: linear in x̂, with a bias for each class.
    The lowest id wins a tie. Arguments and errors are those of `BaseInverse`.
    """

    temperature = TEMPERATURE

    def __init__(self, colors: Tensor) -> None:
        super().__init__(colors)
        self._table: ColorTable | None = None

    def _scores(self, maskige: Tensor) -> Tensor:
        # 2x̂·β_k − ‖β_k‖². Its arg-max can differ from `classify` by rounding, where two colours
        # are equally near.
        products = torch.einsum("bdhw,kd->bkhw", maskige, self.colors)  # (B, K, H, W)
        return 2 * products - self.colors.square().sum(1)[:, None, None]

    @torch.no_grad()
    def classify(self, maskige: Tensor) -> Tensor:
        """Maskige (B, D, H, W) → class ids (B, H, W), long.

        The result is exact: the arg-min over k of the squared differences, summed over the channels
        in float32. Beside the ids, the memory does not grow with K or H·W. For RGB and 32 classes
        or more, a table over the colour cube gives the ids. It is built at the first call (0.1 s).
        """
        self._check(maskige)
        colors = self.colors.float()
        pixels = _pixels(maskige)
        if colors.shape[1] == 3 and len(colors) in TABLE_CLASSES:
            if self._table is None or not self._table.fits(colors):
                self._table = build_table(colors.clone())
            ids, outside = table_nearest(self._table, pixels)
            ids[outside] = nearest_by_comparison(pixels.index_select(1, outside), colors)
        else:
            ids = nearest_by_comparison(pixels, colors)
        return ids.view(maskige.shape[0], *maskige.shape[2:])


class LeastSquares(BaseInverse):
    """X⁻¹ as printed in (S.8): scores x̂γ with γ = (βᵀβ)⁻¹βᵀ (D, K), which solves βγ ≈ 1.

    **This is not a useful classifier.** βγ is a projection of rank D, so ‖βγ − 1‖² = K − D for
    every palette that spans the channels. On the paper's palettes the arg-max of x̂γ is wrong for
    most classes even without noise. It is also the same for x̂ and x̂/2. The class exists to study
    (S.8); to classify a maskige use `NearestColor`.

    Args:
        colors: β (K, D).

    Raises:
        ValueError: as `BaseInverse`; or the colours do not span the D channels, so that βᵀβ has no
            inverse.
    """

    def __init__(self, colors: Tensor) -> None:
        super().__init__(colors)
        beta = self.colors.double()
        rank = int(torch.linalg.matrix_rank(beta))
        channels = beta.shape[1]
        if rank < channels:
            raise ValueError(
                f"the {len(beta)} colours span {rank} of {channels} channels, so βᵀβ has no "
                f"inverse and (S.8) no solution; use a palette with {channels} linearly "
                "independent colours"
            )
        # γ = (βᵀβ)⁻¹βᵀ, (D, K)
        self.register_buffer("gamma", torch.linalg.solve(beta.T @ beta, beta.T).float())

    def _scores(self, maskige: Tensor) -> Tensor:
        return torch.einsum("bdhw,dk->bkhw", maskige, self.gamma)

    @torch.no_grad()
    def classify(self, maskige: Tensor) -> Tensor:
        """Maskige (B, D, H, W) → the arg-max of the scores, (B, H, W) long."""
        self._check(maskige)
        pixels = _pixels(maskige)
        # One slice at a time, so that the scores of all pixels are never in memory at once.
        ids = torch.cat([(self.gamma.T @ pixels[:, run]).argmax(0) for run in slices(pixels)])
        return ids.view(maskige.shape[0], *maskige.shape[2:])


def nearest_by_comparison(pixels: Tensor, colors: Tensor) -> Tensor:
    """Pixels (D, N) and β (K, D), float32 → ids (N,), by comparing with every colour in turn.

    Beside the ids it needs a few floats for each of PIXELS_AT_ONCE pixels, whatever N and K.
    """
    ids = torch.zeros(pixels.shape[1], dtype=torch.long, device=pixels.device)
    for run in slices(pixels):
        part = pixels[:, run]
        nearest = ids[run]  # a view: writing into it changes ids
        least = torch.full_like(part[0], torch.inf)
        for k, color in enumerate(colors.tolist()):
            distance = torch.zeros_like(least)
            for values, channel in zip(part, color):
                distance += (values - channel).square_()
            nearest.masked_fill_(distance < least, k)  # not ≤, so the lower id wins a tie
            torch.minimum(least, distance, out=least)
    return ids


def _pixels(maskige: Tensor) -> Tensor:
    """Maskige (B, D, H, W) → float32 pixels (D, B·H·W)."""
    return maskige.movedim(1, 0).reshape(maskige.shape[1], -1).float()
