"""A.1: the evidence lower bound (ELBO) on a world small enough to enumerate exactly.

There are three discrete variables: an image x (X values), a token sequence z (Z values, one index
for each whole sequence) and a mask c (C values). The model of the paper has two tables,

    p_ψ(z | x)   the latent prior, predicted from the image    (stage II)
    p_θ(c | z)   the decoder, mask from tokens                 (stage I)

and p(c, z | x) = p(c | z) p(z | x): the mask depends on the image only through the tokens. Every
sum over z runs over the whole table in float64, so each line of A.1 can be compared with its exact
value, in nats. The third distribution, q, is a tensor whose last axis is z. Its other axes are the
variables that q depends on: (C, Z) is the paper's q(z | c); (X, C, Z) is q(z | c, x); (X, 1, Z) is
q(z | x); (Z,) depends on neither.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# log p(c|x) multiplies the error of a row sum. With this tolerance "gap = KL" holds to 1e-10.
_ROW_SUM_TOLERANCE = 1e-12


def _distribution(name: str, table: Tensor) -> Tensor:
    """Return `table` in float64 if its last axis holds probabilities that sum to one."""
    if not isinstance(table, Tensor) or table.ndim == 0 or table.numel() == 0:
        came = tuple(table.shape) if isinstance(table, Tensor) else type(table).__name__
        raise ValueError(
            f"{name} must be a tensor with probabilities along its last axis, got {came}"
        )
    table = table.to(torch.float64)
    values = table.detach()
    if not bool(torch.isfinite(values).all()) or bool((values < 0).any()):
        raise ValueError(
            f"{name} holds a negative or non-finite entry; probabilities lie in [0, 1]"
        )
    worst = float((values.sum(-1) - 1).abs().max())
    if worst > _ROW_SUM_TOLERANCE:
        raise ValueError(
            f"rows of {name} must sum to one, the worst is off by {worst:.3g}; "
            "convert to float64 first, then divide by table.sum(-1, keepdim=True)"
        )
    return table


@dataclass(frozen=True)
class World:
    """A generative segmentation model as two tables (Eq. 1, A.1).

    Row x of `prior` (X, Z) is p_ψ(z | x), and row z of `likelihood` (Z, C) is p_θ(c | z). Both are
    converted to float64, and gradients flow to the original tables.

    Raises:
        ValueError: a table is not 2-D, a row is no distribution, or the tables differ in Z.
    """

    prior: Tensor
    likelihood: Tensor

    def __post_init__(self) -> None:
        for name in ("prior", "likelihood"):
            table = _distribution(name, getattr(self, name))
            if table.ndim != 2:
                raise ValueError(f"{name} must be a 2-D table, got shape {tuple(table.shape)}")
            object.__setattr__(self, name, table)
        if self.prior.shape[1] != self.likelihood.shape[0]:
            raise ValueError(
                f"prior is (X, Z) = {tuple(self.prior.shape)} and likelihood is (Z, C) = "
                f"{tuple(self.likelihood.shape)}: the two must have the same Z"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(X, C, Z): how many images, masks and token sequences there are."""
        return self.prior.shape[0], self.likelihood.shape[1], self.prior.shape[1]

    def log_joint(self) -> Tensor:
        """Log p(c, z | x) = log p(c | z) + log p(z | x), (X, C, Z); −inf where a factor is 0."""
        return self.prior.log()[:, None, :] + self.likelihood.log().T[None]

    def checked_q(self, q: Tensor) -> Tensor:
        """Expand `q` to (X, C, Z) in float64; ValueError if it is no distribution or cannot."""
        q = _distribution("q", q)
        fits = q.ndim <= 3 and q.shape[-1] == self.shape[-1]
        if not fits or any(n not in (1, full) for n, full in zip(q.shape[::-1], self.shape[::-1])):
            raise ValueError(
                f"q has shape {tuple(q.shape)}; this world needs (C, Z) = {self.shape[1:]}, "
                f"(X, C, Z) = {self.shape}, or 1 on the axes that q does not depend on"
            )
        return q.expand(self.shape)


def _expectation(q: Tensor, values: Tensor) -> Tensor:
    """Σ_z q(z) values(z), where 0 · (−inf) counts as 0."""
    return (q * values.masked_fill(q == 0, 0.0)).sum(-1)


def log_likelihood(world: World) -> Tensor:
    """Exact log p(c | x) = log Σ_z p(c | z) p(z | x), the first line of A.1, (X, C)."""
    return torch.logsumexp(world.log_joint(), dim=-1)


def posterior(world: World) -> Tensor:
    """Exact p(z | c, x) = p(c, z | x) / p(c | x), (X, C, Z). With this q the bound is tight.

    Raises:
        ValueError: some p(c | x) is 0, so its posterior is undefined.
    """
    evidence = log_likelihood(world)
    impossible = torch.isneginf(evidence).nonzero()
    if len(impossible):
        x, c = impossible[0].tolist()
        raise ValueError(
            f"p(c={c} | x={x}) is 0, so p(z | c={c}, x={x}) is undefined; make every mask possible"
        )
    return (world.log_joint() - evidence[..., None]).exp()


def entropy(q: Tensor) -> Tensor:
    """−E_q[log q] in nats over the last axis, (…, Z) → (…); 0 for a point mass."""
    return torch.special.entr(_distribution("q", q)).sum(-1)


def cross_entropy(q: Tensor, p: Tensor) -> Tensor:
    """−E_q[log p] over the last axis: the loss of stage II, with q's tokens as the targets.

    q and p broadcast. The result is +inf where q(z) > 0 and p(z) = 0.
    """
    q = _distribution("q", q)
    p = _distribution("p", p)
    if q.shape[-1] != p.shape[-1]:
        raise ValueError(
            f"q has {q.shape[-1]} outcomes and p has {p.shape[-1]}; they must be the same"
        )
    return -_expectation(q, p.log())


def kl(q: Tensor, p: Tensor) -> Tensor:
    """KL(q ‖ p) = cross_entropy(q, p) − entropy(q) ≥ 0 over the last axis; q and p broadcast."""
    return cross_entropy(q, p) - entropy(q)


def reconstruction(world: World, q: Tensor) -> Tensor:
    """E_q[log p(c | z)], the first term of Eq. 2 (stage I), (X, C)."""
    return _expectation(world.checked_q(q), world.likelihood.log().T)


def prior_kl(world: World, q: Tensor) -> Tensor:
    """KL(q ‖ p(z | x)), the second term of Eq. 2 (stage II), (X, C)."""
    return kl(world.checked_q(q), world.prior[:, None, :])


def bound(world: World, q: Tensor) -> Tensor:
    """The ELBO E_q[log p(c, z | x) − log q(z)], the fourth line of A.1, (X, C).

    It is computed from the joint, so that Eq. 2 (reconstruction − prior_kl) can be checked.
    """
    q = world.checked_q(q)
    return _expectation(q, world.log_joint()) + entropy(q)


def gap(world: World, q: Tensor) -> Tensor:
    """Log p(c | x) − ELBO, (X, C); by A.1 it is ≥ 0."""
    return log_likelihood(world) - bound(world, q)


def point_mass(q: Tensor) -> Tensor:
    """The distribution with all mass on q's most probable z; the lowest index wins a tie."""
    best = _distribution("q", q).argmax(-1)
    return torch.nn.functional.one_hot(best, q.shape[-1]).to(torch.float64)


def temper(q: Tensor, temperature: float) -> Tensor:
    """q^(1/T), normalised. T = 1 gives q, T → 0 its point mass, T → ∞ uniform where q > 0."""
    if not temperature > 0:
        raise ValueError(
            f"temperature must be positive, got {temperature}; for the limit 0 use point_mass"
        )
    return torch.softmax(_distribution("q", q).log() / temperature, dim=-1)


def _shared_optimum(world: World, weights: Tensor, dim: int) -> Tensor:
    """The q that maximises the weighted mean bound, the same q along `dim` (0: images, 1: masks).

    The weights (X, C) sum to one along `dim`. Setting the derivative of Σ w (E_q[log joint] + H(q))
    to zero gives q ∝ exp(Σ w log joint).
    """
    log_joint = world.log_joint().masked_fill((weights == 0)[..., None], 0.0)
    score = (weights[..., None] * log_joint).sum(dim)
    stuck = torch.isneginf(score).all(-1).nonzero()
    if len(stuck):
        owner = f"{('mask', 'image')[dim]} {int(stuck[0])}"
        raise ValueError(
            f"no q has a finite mean bound for {owner}: every z is forbidden somewhere; give some "
            "z a positive probability everywhere"
        )
    return torch.softmax(score, dim=-1)


def best_q_given_mask(world: World, image_probs: Tensor) -> Tensor:
    """The q(z | c) of greatest mean bound over the images x ~ p(x | c), (C, Z).

    It is proportional to exp E_{p(x|c)}[log p(c, z | x)].

    Args:
        world: the model.
        image_probs: p(x), (X,).

    Raises:
        ValueError: `image_probs` has another shape, a mask is impossible, or for some mask no z is
            possible for all images.
    """
    image_probs = _distribution("image_probs", image_probs)
    if image_probs.shape != world.prior.shape[:1]:
        raise ValueError(
            f"image_probs has shape {tuple(image_probs.shape)}, expected (X,) = {world.shape[:1]}"
        )
    log_xc = image_probs.log()[:, None] + log_likelihood(world)
    if bool(torch.isneginf(log_xc).all(0).any()):
        raise ValueError("a mask has probability 0 under every image; make every mask possible")
    return _shared_optimum(world, torch.softmax(log_xc, dim=0), dim=0)


def best_q_given_image(world: World) -> Tensor:
    """The q(z | x) of greatest mean bound over the masks c ~ p(c | x), (X, 1, Z)."""
    return _shared_optimum(world, log_likelihood(world).exp(), dim=1)[:, None, :]


def log_weights(
    world: World, q: Tensor, x: int, c: int, samples: int, generator: torch.Generator
) -> Tensor:
    """Log [p(c, z | x) / q(z)] at z ~ q, (samples,); their mean estimates the bound.

    Raises:
        ValueError: `samples` is below 1, or x or c is no index of the world.
    """
    n_images, n_masks, _ = world.shape
    if samples < 1 or not 0 <= x < n_images or not 0 <= c < n_masks:
        raise ValueError(
            f"need samples >= 1, 0 <= x < {n_images}, 0 <= c < {n_masks}; got {samples}, {x}, {c}"
        )
    q = world.checked_q(q)[x, c]
    # Only z with q(z) > 0, because rounding in the cumulative sum could pick another one.
    support = q.nonzero()[:, 0]
    u = torch.rand(samples, generator=generator, dtype=torch.float64)
    picked = torch.searchsorted(q[support].cumsum(0), u, right=True).clamp(max=len(support) - 1)
    return (world.log_joint()[x, c] - q.log())[support[picked]]


def sequences(vocab_size: int, length: int) -> Tensor:
    """All token sequences, (V^L, L); row z is the sequence with index z."""
    if vocab_size < 1 or length < 1:
        raise ValueError(f"vocab_size and length must be at least 1, got {vocab_size} and {length}")
    return torch.cartesian_prod(*[torch.arange(vocab_size)] * length).reshape(-1, length)


def factorised(per_position: Tensor) -> Tensor:
    """The product distribution over sequences, (…, L, V) → (…, V^L), in the order of `sequences`.

    I_ψ predicts such a product: its tokens are independent given x.
    """
    per_position = _distribution("per_position", per_position)
    if per_position.ndim < 2:
        raise ValueError(f"per_position must be (..., L, V), got shape {tuple(per_position.shape)}")
    whole = per_position[..., 0, :]
    for position in per_position.unbind(-2)[1:]:
        whole = (whole[..., :, None] * position[..., None, :]).flatten(-2)
    return whole


def random_world(
    images: int, latents: int, masks: int, generator: torch.Generator, sharpness: float = 1.0
) -> World:
    """A World with softmax(sharpness · normal) rows; 0 is uniform, 5 is nearly deterministic."""
    if min(images, latents, masks) < 1:
        raise ValueError(
            f"images, latents and masks must be at least 1, got {images}, {latents}, {masks}"
        )
    prior = torch.randn(images, latents, generator=generator, dtype=torch.float64)
    likelihood = torch.randn(latents, masks, generator=generator, dtype=torch.float64)
    return World((sharpness * prior).softmax(-1), (sharpness * likelihood).softmax(-1))


@dataclass(frozen=True)
class ToyStreet:
    """The street of notebook 01, of 2 × 2 pixels: a World, and the meaning of its indices."""

    world: World
    image_probs: Tensor  # (4,), p(x)
    masks: Tensor  # (81, 2, 2), class ids
    tokens: Tensor  # (16, 2), the tokens of the left and of the right column
    photographs: tuple[str, ...] = ("open road", "avenue", "forest", "fog")
    classes: tuple[str, ...] = ("sky", "road", "tree")
    columns: tuple[str, ...] = ("sky / road", "tree / road", "tree / tree", "sky / tree")

    def mask_index(self, top: str, bottom: str) -> int:
        """The index c of a mask written row by row: `mask_index("tree sky", "road road")`."""
        names = f"{top} {bottom}".split()
        if len(names) != 4 or not set(names) <= set(self.classes):
            raise ValueError(
                f"a mask has two rows of two classes of {self.classes}, got {top!r} over {bottom!r}"
            )
        wanted = torch.tensor([self.classes.index(name) for name in names]).view(2, 2)
        return int((self.masks == wanted).flatten(1).all(1).nonzero())


def street() -> ToyStreet:
    """Four kinds of photograph, two tokens out of a vocabulary of four, masks of 2 × 2 pixels.

    A token stands for a column of two pixels (top / bottom) of the classes sky, road and tree. As
    in a convolutional decoder, a pixel's logits depend on its own token (weight 3) and on the
    neighbouring token (weight 1). So the two tokens are dependent in the posterior.
    """
    column_classes = torch.tensor([[0, 1], [2, 1], [2, 2], [0, 2]])  # (V, top / bottom)
    tokens = sequences(4, 2)  # (16, 2)
    own = torch.nn.functional.one_hot(column_classes[tokens], 3).transpose(1, 2).to(torch.float64)
    pixel_logits = 3.0 * own + 1.0 * own.flip(2)  # (16, row, column, class)
    pixels = sequences(3, 4)  # (81, 4)
    log_pixel = torch.log_softmax(pixel_logits, -1).flatten(1, 2)  # (16, 4, 3)
    likelihood = log_pixel[:, torch.arange(4), pixels].sum(-1).exp()  # (16, 81)
    open_road = [0.80, 0.12, 0.03, 0.05]
    avenue = [0.10, 0.70, 0.15, 0.05]
    forest = [0.03, 0.22, 0.70, 0.05]
    left = [open_road, avenue, forest, [0.30, 0.40, 0.20, 0.10]]
    right = [open_road, avenue, forest, [0.45, 0.25, 0.15, 0.15]]  # fog hides the sides unequally
    prior = factorised(torch.tensor([left, right], dtype=torch.float64).transpose(0, 1))
    world = World(prior, likelihood / likelihood.sum(-1, keepdim=True))
    image_probs = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    return ToyStreet(world, image_probs, pixels.view(-1, 2, 2), tokens)
