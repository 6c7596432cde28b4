"""Every identity of A.1 against plain Python sums, and as a property of random worlds."""

import ast
import inspect
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Categorical, kl_divergence

from gss_lite import elbo

F64 = torch.float64


def assert_close(a, b, atol=1e-10):
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


def make(shape, generator, sharpness):
    return torch.softmax(sharpness * torch.randn(shape, generator=generator, dtype=F64), -1)


@st.composite
def worlds_and_q(draw):
    """A random world and a random q that looks at nothing, at c, at x, or at both."""
    n_x, n_c, n_z = draw(st.integers(1, 4)), draw(st.integers(1, 6)), draw(st.integers(1, 9))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    world = elbo.random_world(n_x, n_z, n_c, generator, draw(st.floats(0, 5)))
    shape = draw(st.sampled_from([(n_z,), (n_c, n_z), (n_x, 1, n_z), (n_x, n_c, n_z)]))
    return world, make(shape, generator, draw(st.floats(0, 5)))


many = settings(max_examples=60, deadline=None)


# ---------------------------------------------------------------- A.1 and Eq. 2


@many
@given(worlds_and_q())
def test_the_bound_never_exceeds_the_log_likelihood(case):
    world, q = case
    assert bool((elbo.bound(world, q) <= elbo.log_likelihood(world) + 1e-12).all())


@many
@given(worlds_and_q())
def test_the_gap_is_the_kl_to_the_posterior(case):
    world, q = case
    assert_close(elbo.gap(world, q), elbo.kl(q.expand(world.shape), elbo.posterior(world)))


@many
@given(worlds_and_q())
def test_reconstruction_minus_kl_is_the_bound(case):
    world, q = case
    parts = elbo.reconstruction(world, q) - elbo.prior_kl(world, q)
    assert parts.shape == world.shape[:2]
    assert_close(parts, elbo.bound(world, q))


@many
@given(worlds_and_q())
def test_the_bound_touches_at_the_posterior_and_nowhere_else(case):
    world, q = case
    post = elbo.posterior(world)
    assert_close(elbo.gap(world, post), torch.zeros(world.shape[:2], dtype=F64))
    distance = (q.expand(world.shape) - post).abs().sum(-1)
    assert bool((elbo.gap(world, q) >= 0.5 * distance**2 - 1e-12).all())  # Pinsker's inequality


@many
@given(worlds_and_q())
def test_every_table_against_plain_sums(case):
    world, q = case
    full = q.expand(world.shape)
    n_x, n_c, n_z = world.shape
    for x in range(n_x):
        for c in range(n_c):
            joint = [float(world.prior[x, z]) * float(world.likelihood[z, c]) for z in range(n_z)]
            qs = full[x, c].tolist()
            evidence = math.fsum(joint)
            bound = math.fsum(a * math.log(j / a) for a, j in zip(qs, joint))
            rec = math.fsum(a * math.log(world.likelihood[z, c]) for z, a in enumerate(qs))
            kl = math.fsum(a * math.log(a / world.prior[x, z]) for z, a in enumerate(qs))
            got = (
                elbo.log_likelihood(world),
                elbo.bound(world, q),
                elbo.reconstruction(world, q),
                elbo.prior_kl(world, q),
            )
            assert [float(t[x, c]) for t in got] == pytest.approx(
                [math.log(evidence), bound, rec, kl], abs=1e-10
            )
            assert elbo.posterior(world)[x, c].tolist() == pytest.approx(
                [j / evidence for j in joint], abs=1e-12
            )


def test_entropy_cross_entropy_and_kl_against_torch_distributions():
    generator = torch.Generator().manual_seed(0)
    q, p = make((3, 4, 5), generator, 2.0), make((3, 1, 5), generator, 2.0)
    assert_close(elbo.kl(q, p), kl_divergence(Categorical(q), Categorical(p.expand_as(q))))
    assert_close(elbo.entropy(q), Categorical(q).entropy())
    assert_close(elbo.cross_entropy(q, p), elbo.kl(q, p) + elbo.entropy(q))
    assert float(elbo.kl(torch.tensor([1.0, 0.0]), torch.tensor([0.25, 0.75]))) == pytest.approx(
        math.log(4)
    )
    assert float(elbo.kl(torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0]))) == math.inf


def test_gradient_ascent_reaches_the_posterior():
    world = elbo.random_world(2, 4, 3, torch.Generator().manual_seed(1), 1.5)
    logits = torch.zeros(world.shape, dtype=F64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [logits], max_iter=200, line_search_fn="strong_wolfe", tolerance_grad=1e-12
    )

    def loss():
        optimiser.zero_grad()
        value = -elbo.bound(world, logits.softmax(-1)).sum()
        value.backward()
        return value

    optimiser.step(loss)
    assert_close(logits.detach().softmax(-1), elbo.posterior(world), atol=1e-4)
    assert float(elbo.gap(world, logits.detach().softmax(-1)).abs().max()) < 1e-7


# ---------------------------------------------------------------- point masses and zeros


@many
@given(worlds_and_q())
def test_a_point_mass_bounds_by_one_term_of_the_sum(case):
    world, q = case
    full = q.expand(world.shape)
    star = elbo.point_mass(full)
    z = full.argmax(-1, keepdim=True)

    def pick(table):
        return table.gather(-1, z)[..., 0]

    assert_close(elbo.entropy(star), torch.zeros(world.shape[:2], dtype=F64))
    assert_close(elbo.bound(world, star), pick(world.log_joint()))
    assert_close(elbo.prior_kl(world, star), -pick(world.prior.log()[:, None].expand(world.shape)))
    assert_close(elbo.gap(world, star), -pick(elbo.posterior(world)).log())


def test_point_mass_takes_the_lowest_index_of_a_tie():
    assert elbo.point_mass(torch.tensor([0.25, 0.375, 0.375])).tolist() == [0, 1, 0]


def test_a_forbidden_token_makes_the_bound_minus_infinity_but_not_the_likelihood():
    world = elbo.World(torch.tensor([[0.0, 0.5, 0.5]]), torch.tensor([[0.5, 0.5]] * 3))
    q = torch.tensor([1e-9, 1 - 1e-9, 0.0], dtype=F64)
    assert bool(torch.isneginf(elbo.bound(world, q)).all()) and bool(
        torch.isposinf(elbo.gap(world, q)).all()
    )
    assert_close(elbo.log_likelihood(world), torch.full((1, 2), math.log(0.5), dtype=F64))
    avoids = torch.tensor([0.0, 0.5, 0.5])
    assert_close(elbo.gap(world, avoids), torch.zeros(1, 2, dtype=F64))


def test_tiny_probabilities_do_not_underflow():
    tiny = 1e-200
    world = elbo.World(
        torch.tensor([[tiny, 1 - tiny]], dtype=F64),
        torch.tensor([[tiny, 1.0], [tiny, 1.0]], dtype=F64),
    )
    q = torch.tensor([1.0, 0.0])
    assert float(elbo.bound(world, q)[0, 0]) == pytest.approx(2 * math.log(tiny), rel=1e-12)


# ---------------------------------------------------------------- what q may look at, stages,
# sampling


@many
@given(worlds_and_q(), st.integers(0, 2**31))
def test_shared_optima_beat_every_other_q_of_their_kind(case, seed):
    world, _ = case
    n_x, n_c, n_z = world.shape
    generator = torch.Generator().manual_seed(seed)
    image_probs = make((n_x,), generator, 1.0)
    data = image_probs[:, None] * elbo.log_likelihood(world).exp()
    kinds = (
        (elbo.best_q_given_mask(world, image_probs), (n_c, n_z)),
        (elbo.best_q_given_image(world), (n_x, 1, n_z)),
    )
    for best, shape in kinds:
        assert best.shape == shape
        logits = best.log().requires_grad_()
        slope = torch.autograd.grad((data * elbo.bound(world, logits.softmax(-1))).sum(), logits)[0]
        # concave in q: a flat point is the maximum
        assert_close(slope, torch.zeros_like(slope), atol=1e-12)
        other = make(shape, generator, 2.0)
        assert float((data * (elbo.bound(world, best) - elbo.bound(world, other))).sum()) >= -1e-12


def test_with_one_image_q_given_the_mask_is_the_posterior():
    world = elbo.random_world(1, 5, 4, torch.Generator().manual_seed(2), 2.0)
    assert_close(elbo.best_q_given_mask(world, torch.ones(1)), elbo.posterior(world)[0])


def test_shared_optimum_avoids_a_token_forbidden_by_one_image_and_reports_a_dead_end():
    likelihood = torch.tensor([[0.5, 0.5]] * 2)
    world = elbo.World(torch.tensor([[0.0, 1.0], [0.5, 0.5]]), likelihood)
    assert_close(
        elbo.best_q_given_mask(world, torch.tensor([0.5, 0.5])),
        torch.tensor([[0.0, 1.0]] * 2, dtype=F64),
    )
    assert_close(
        elbo.best_q_given_mask(world, torch.tensor([0.0, 1.0])), torch.full((2, 2), 0.5, dtype=F64)
    )
    with pytest.raises(ValueError, match="mask 0: every z is forbidden"):
        elbo.best_q_given_mask(elbo.World(torch.eye(2), likelihood), torch.tensor([0.5, 0.5]))
    with pytest.raises(ValueError, match="image 0: every z is forbidden"):
        elbo.best_q_given_image(elbo.World(torch.tensor([[0.5, 0.5]]), torch.eye(2)))


@many
@given(worlds_and_q())
def test_stage_two_cross_entropy_has_the_gradient_of_the_kl(case):
    world, q = case
    q = q.expand(world.shape)
    psi = world.prior.log().requires_grad_()
    prior = psi.softmax(-1)
    kl = elbo.kl(q, prior[:, None]).sum()
    cross = elbo.cross_entropy(q, prior[:, None]).sum()
    minus_bound = -elbo.bound(elbo.World(prior, world.likelihood), q).sum()
    reference = torch.autograd.grad(kl, psi, retain_graph=True)[0]
    assert_close(torch.autograd.grad(cross, psi, retain_graph=True)[0], reference, atol=1e-12)
    assert_close(torch.autograd.grad(minus_bound, psi)[0], reference, atol=1e-12)
    assert_close((cross - kl).detach(), elbo.entropy(q).sum())


def test_stage_one_gradient_misses_only_the_kl_of_the_tokens():
    world = elbo.random_world(2, 4, 3, torch.Generator().manual_seed(3), 1.0)
    phi = torch.randn(3, 4, generator=torch.Generator().manual_seed(4), dtype=F64).requires_grad_()

    def grad(term):
        return torch.autograd.grad(term(world, phi.softmax(-1)).sum(), phi)[0]

    assert_close(grad(elbo.bound), grad(elbo.reconstruction) - grad(elbo.prior_kl))
    assert float(grad(elbo.prior_kl).norm()) > 0.1


def test_sampled_weights_average_to_the_bound_and_are_constant_under_the_posterior():
    world = elbo.random_world(3, 8, 4, torch.Generator().manual_seed(5), 1.0)
    q = make((4, 8), torch.Generator().manual_seed(6), 1.0)
    weights = elbo.log_weights(world, q, 2, 1, 40_000, torch.Generator().manual_seed(7))
    error = float(weights.std()) / 200
    assert error < 0.01 and abs(float(weights.mean() - elbo.bound(world, q)[2, 1])) < 4 * error
    assert float(weights.exp().mean()) == pytest.approx(
        float(elbo.log_likelihood(world)[2, 1].exp()), rel=0.03
    )
    same = elbo.log_weights(
        world, elbo.posterior(world), 2, 1, 50, torch.Generator().manual_seed(8)
    )
    assert_close(same, elbo.log_likelihood(world)[2, 1].expand(50))


def test_sampling_never_draws_a_token_without_mass():
    world = elbo.random_world(1, 4, 2, torch.Generator().manual_seed(9))
    q = torch.tensor([0.0, 0.5, 0.5, 0.0])
    drawn = elbo.log_weights(world, q, 0, 0, 2000, torch.Generator().manual_seed(10))
    allowed = world.log_joint()[0, 0, 1:3] - math.log(0.5)
    assert set(drawn.tolist()) == set(allowed.tolist())


# ---------------------------------------------------------------- sequences, tempering, the street


def test_factorised_is_the_product_over_positions_in_the_order_of_sequences():
    per_position = make((2, 3, 4), torch.Generator().manual_seed(11), 1.0)
    whole, rows = elbo.factorised(per_position), elbo.sequences(4, 3)
    assert rows.shape == (64, 3) and rows.dtype == torch.int64 and rows[1].tolist() == [0, 0, 1]
    for z, row in enumerate(rows.tolist()):
        for b in range(2):
            assert float(whole[b, z]) == pytest.approx(
                math.prod(float(per_position[b, i, t]) for i, t in enumerate(row))
            )
    assert elbo.sequences(3, 1).tolist() == [[0], [1], [2]]


def test_cross_entropy_of_point_mass_tokens_is_the_token_classification_loss():
    logits = torch.randn(2, 5, generator=torch.Generator().manual_seed(12), dtype=F64)
    target = torch.tensor([3, 1])
    whole = elbo.cross_entropy(
        torch.eye(25, dtype=F64)[3 * 5 + 1], elbo.factorised(logits.softmax(-1))
    )
    assert_close(whole, torch.nn.functional.cross_entropy(logits, target, reduction="sum"))


def test_temper_has_the_right_limits():
    q = make((6,), torch.Generator().manual_seed(13), 1.0)
    assert_close(elbo.temper(q, 1.0), q)
    assert_close(elbo.temper(q, 0.5), q**2 / (q**2).sum())
    assert_close(elbo.temper(q, 1e-3), elbo.point_mass(q))
    assert_close(elbo.temper(q, 1e9), torch.full((6,), 1 / 6, dtype=F64), atol=1e-8)
    assert elbo.temper(torch.tensor([0.0, 1.0, 0.0]), 5.0).tolist() == [0, 1, 0]


def test_street_tables_against_a_pixel_by_pixel_decoder():
    street = elbo.street()
    world = street.world
    assert (
        world.shape == (4, 81, 16)
        and street.masks.shape == (81, 2, 2)
        and street.tokens.shape == (16, 2)
    )
    assert_close(elbo.log_likelihood(world).exp().sum(1), torch.ones(4, dtype=F64))
    # left "tree / road", right "tree / tree"
    z, mask = 6, street.mask_index("sky tree", "road tree")
    own = [
        [name.split(" / ")[row] for name in (street.columns[t] for t in street.tokens[z])]
        for row in range(2)
    ]
    expected = 1.0
    for row in range(2):
        for column in range(2):
            score = {
                k: 3.0 * (own[row][column] == k) + 1.0 * (own[row][1 - column] == k)
                for k in street.classes
            }
            pixel = street.classes[street.masks[mask, row, column]]
            expected *= math.exp(score[pixel]) / sum(map(math.exp, score.values()))
    assert float(world.likelihood[z, mask]) == pytest.approx(expected, rel=1e-12)
    assert float(world.prior[0, 0]) == pytest.approx(0.64) and float(
        world.prior[3, 4]
    ) == pytest.approx(0.40 * 0.45)


def test_the_streets_photographs_predict_their_columns_independently():
    street = elbo.street()
    joint = street.world.prior.view(4, 4, 4)  # (photograph, left token, right token)
    left, right = joint.sum(2), joint.sum(1)
    assert_close(joint, left[:, :, None] * right[:, None])
    shared = [[0.80, 0.12, 0.03, 0.05], [0.10, 0.70, 0.15, 0.05], [0.03, 0.22, 0.70, 0.05]]
    assert_close(left, torch.tensor([*shared, [0.30, 0.40, 0.20, 0.10]], dtype=F64))
    assert_close(right, torch.tensor([*shared, [0.45, 0.25, 0.15, 0.15]], dtype=F64))
    assert street.image_probs.tolist() == [0.4, 0.3, 0.2, 0.1]


# ---------------------------------------------------------------- errors

UNIFORM, HALVES = torch.full((2, 3), 1 / 3, dtype=F64), torch.full((3, 2), 0.5, dtype=F64)


@pytest.mark.parametrize(
    ("prior", "likelihood", "message"),
    [
        (UNIFORM * 0.9, HALVES, "rows of prior must sum to one"),
        (UNIFORM, HALVES + 1e-9, "rows of likelihood must sum to one"),
        (torch.full((2, 3), 1 / 3, dtype=torch.float32), HALVES, "convert to float64 first"),
        (torch.tensor([[1.5, -0.5, 0.0]]), HALVES, "prior holds a negative"),
        (UNIFORM, HALVES * math.nan, "likelihood holds a negative or non-finite"),
        (UNIFORM[0], HALVES, "prior must be a 2-D table"),
        (UNIFORM, torch.full((4, 2), 0.5), "the two must have the same Z"),
        ([[1.0]], HALVES, "prior must be a tensor"),
        (torch.zeros(0, 3), HALVES, "prior must be a tensor"),
    ],
)
def test_world_rejects_bad_tables(prior, likelihood, message):
    with pytest.raises(ValueError, match=message):
        elbo.World(prior, likelihood)


@pytest.mark.parametrize("shape", [(2,), (5, 3), (2, 3), (1, 5, 3), (3, 4, 3), (1, 2, 4, 3)])
def test_q_of_the_wrong_shape_is_refused(shape):
    q = torch.full(shape, 1 / shape[-1], dtype=F64)
    for function in (elbo.bound, elbo.gap, elbo.reconstruction, elbo.prior_kl):
        with pytest.raises(ValueError, match="q has shape"):
            function(elbo.World(UNIFORM, torch.full((3, 4), 0.25)), q)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda w: elbo.bound(w, torch.tensor([0.5, 0.5, 0.5])), "rows of q must sum to one"),
        (lambda w: elbo.entropy(torch.tensor([2.0, -1.0])), "q holds a negative"),
        (lambda w: elbo.kl(UNIFORM, HALVES), "q has 3 outcomes and p has 2"),
        (
            lambda w: elbo.posterior(elbo.World(UNIFORM, torch.tensor([[1.0, 0.0]] * 3))),
            r"p\(c=1 \| x=0\) is 0",
        ),
        (
            lambda w: elbo.best_q_given_mask(
                elbo.World(UNIFORM, torch.tensor([[1.0, 0.0]] * 3)), HALVES[0]
            ),
            "probability 0",
        ),
        (lambda w: elbo.best_q_given_mask(w, torch.ones(1)), "image_probs has shape"),
        (lambda w: elbo.temper(UNIFORM, 0.0), "temperature must be positive"),
        (lambda w: elbo.sequences(0, 2), "must be at least 1"),
        (lambda w: elbo.factorised(UNIFORM[0]), "per_position must be"),
        (lambda w: elbo.random_world(1, 0, 1, torch.Generator()), "must be at least 1"),
        (lambda w: elbo.log_weights(w, UNIFORM[0], 0, 0, 0, torch.Generator()), "samples >= 1"),
        (lambda w: elbo.log_weights(w, UNIFORM[0], 2, 0, 1, torch.Generator()), "0 <= x < 2"),
        (lambda w: elbo.street().mask_index("sky sky", "road car"), "two rows of two classes"),
        (lambda w: elbo.street().mask_index("sky sky", "road"), "two rows of two classes"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(elbo.World(UNIFORM, HALVES))


def test_the_module_imports_nothing_else_from_the_package():
    imported = [
        n
        for n in ast.walk(ast.parse(inspect.getsource(elbo)))
        if isinstance(n, (ast.Import, ast.ImportFrom))
    ]
    names = {getattr(n, "module", None) or n.names[0].name for n in imported}
    assert names == {"__future__", "dataclasses", "torch"}
