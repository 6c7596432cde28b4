"""The chunked token cross-entropy gives the values and the gradients of the plain one."""

import pytest
import torch
import torch.nn.functional as F

from gss_lite.token_loss import LOGITS_AT_ONCE, token_cross_entropy


def problem(batch=2, dim=24, vocab=70, grid=(9, 11), seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    rand = lambda *shape: torch.randn(*shape, generator=generator).to(dtype)  # noqa: E731
    features, weight, bias = 2 * rand(batch, dim, *grid), rand(vocab, dim, 1, 1), rand(vocab)
    tokens = torch.randint(vocab, (batch, *grid), generator=generator)
    ignored = torch.rand(batch, *grid, generator=generator) < 0.3
    return [t.requires_grad_() for t in (features, weight, bias)], tokens, ignored


def plain(features, weight, bias, tokens, ignored):
    logits = F.conv2d(features, weight, bias).float()
    loss = F.cross_entropy(logits, tokens, reduction="none")[~ignored].mean()
    return loss, (logits.argmax(1) == tokens)[~ignored].float().mean()


def gradients(loss, tensors):
    return torch.autograd.grad(loss, tensors)


@pytest.mark.parametrize("chunk", [1, 7, 64, 198, 1000, None])
def test_value_and_gradients_are_the_plain_ones_for_any_chunk(chunk):
    leaves, tokens, ignored = problem()
    loss, accuracy = token_cross_entropy(*leaves, tokens, ignored, positions_at_once=chunk)
    expected, right = plain(*leaves, tokens, ignored)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    assert accuracy == right
    for ours, theirs in zip(gradients(0.8 * loss, leaves), gradients(0.8 * expected, leaves)):
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max()))


def test_channels_last_features_give_the_same():
    leaves, tokens, ignored = problem()
    other = leaves[0].detach().to(memory_format=torch.channels_last).requires_grad_()
    losses = [token_cross_entropy(f, *leaves[1:], tokens, ignored).loss for f in (leaves[0], other)]
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(gradients(losses[0], leaves[0])[0], gradients(losses[1], other)[0])


def test_ignored_positions_have_no_loss_and_no_gradient_and_do_not_count():
    leaves, tokens, ignored = problem()
    loss = token_cross_entropy(*leaves, tokens, ignored).loss
    wrong = torch.where(ignored, (tokens + 1) % 70, tokens)
    assert torch.equal(loss, token_cross_entropy(*leaves, wrong, ignored).loss)
    gradient = gradients(loss, leaves[0])[0].movedim(1, -1)
    assert (gradient[ignored] == 0).all() and (gradient[~ignored] != 0).any(1).all()
    every = token_cross_entropy(*leaves, tokens).loss
    assert (
        every.item() == pytest.approx(plain(*leaves, tokens, torch.zeros_like(ignored))[0].item())
        and every != loss
    )


def test_all_ignored_gives_zero_not_nan():
    leaves, tokens, _ = problem()
    loss, accuracy = token_cross_entropy(*leaves, tokens, torch.ones_like(tokens, dtype=torch.bool))
    assert loss == 0 and accuracy.isnan()
    assert all((g == 0).all() for g in gradients(loss, leaves))


def test_logits_too_large_for_exp_are_no_trouble():
    (features, weight, bias), tokens, ignored = problem()
    leaves = [(200 * features).detach().requires_grad_(), weight, bias]
    loss, expected = (
        token_cross_entropy(*leaves, tokens, ignored).loss,
        plain(*leaves, tokens, ignored)[0],
    )
    torch.testing.assert_close(loss, expected)
    # A logit is rounded by eps times its size, and its exponential moves by that much, relatively.
    rounding = torch.finfo(torch.float32).eps * float(
        F.conv2d(leaves[0], weight, bias).detach().abs().max()
    )
    assert rounding < 2e-3
    for ours, theirs in zip(gradients(loss, leaves), gradients(expected, leaves)):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=rounding * float(theirs.abs().max()))


def test_under_autocast_it_is_as_near_to_float32_as_the_plain_version():
    leaves, tokens, ignored = problem(dim=64, vocab=300)
    exact = plain(*leaves, tokens, ignored)[0]
    exact = [exact.detach(), *gradients(exact, leaves)]
    errors = []
    for way in (plain, token_cross_entropy):
        with torch.autocast("cpu", torch.bfloat16):
            loss = way(*leaves, tokens, ignored)[0]
        assert loss.dtype == torch.float32
        got = [loss.detach(), *gradients(loss, leaves)]
        assert all(g.dtype == torch.float32 for g in got)
        errors.append([float((g - e).norm() / e.norm()) for g, e in zip(got, exact)])
    for theirs, ours in zip(*errors):
        assert ours < max(1.2 * theirs, 1e-3)
    assert max(errors[1]) > 1e-4  # bfloat16 was in fact used


def test_gradients_do_not_underflow_in_float16():
    """GradScaler's factor must reach the gradient before it is rounded.

    A soft-max divided by the number of positions is about the least number that float16 has.
    """
    leaves, tokens, ignored = problem(grid=(40, 40))
    exact = gradients(plain(*leaves, tokens, ignored)[0], leaves)
    halves = [t.detach().half().requires_grad_() for t in leaves]
    for ours, theirs in zip(
        gradients(1024 * token_cross_entropy(*halves, tokens, ignored).loss, halves), exact
    ):
        assert ours.dtype == torch.float16
        assert float((ours.float() / 1024 - theirs).norm() / theirs.norm()) < 0.01


def test_no_gradient_is_computed_where_none_is_wanted():
    (features, weight, bias), tokens, ignored = problem()
    with torch.no_grad():
        assert not token_cross_entropy(features, weight, bias, tokens, ignored).loss.requires_grad
    frozen = features.detach()
    loss = token_cross_entropy(frozen, weight, bias, tokens, ignored).loss
    torch.testing.assert_close(
        gradients(loss, weight)[0],
        gradients(plain(frozen, weight, bias, tokens, ignored)[0], weight)[0],
    )


def test_a_second_backward_pass_is_an_error_not_a_wrong_gradient():
    leaves, tokens, ignored = problem()
    loss = token_cross_entropy(*leaves, tokens, ignored).loss
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="can be taken once"):
        loss.backward()


def test_a_nan_logit_gives_a_nan_loss():
    (features, weight, bias), tokens, ignored = problem()
    bias = bias.detach().clone().index_fill_(0, torch.tensor(3), float("nan"))
    assert token_cross_entropy(features, weight, bias, tokens, ignored).loss.isnan()


@pytest.mark.slow
def test_the_logits_of_the_whole_grid_are_never_held():
    from benchmarks.measure import peak_extra_bytes

    leaves, tokens, ignored = problem(batch=1, dim=8, vocab=8192, grid=(32, 32))
    whole = 4 * 8192 * 32 * 32

    def peak(way):
        return peak_extra_bytes(lambda: gradients(way(*leaves, tokens, ignored)[0], leaves))

    peaks = [peak(plain), peak(token_cross_entropy)]
    assert peaks[0] > 2.5 * whole
    # logits and log-soft-max of one chunk, 4 bytes each
    assert peaks[1] < 2 * 4 * LOGITS_AT_ONCE["cpu"] + 3e6 < whole / 2


@pytest.mark.parametrize(
    "change, match",
    [
        (
            {"tokens": torch.zeros(2, 11, 9).long()},
            r"tokens must have the grid's shape \(2, 9, 11\); got \(2, 11, 9\)",
        ),
        ({"ignored": torch.zeros(9, 11).bool()}, r"ignored must have the grid's shape"),
        (
            {"features": torch.zeros(2, 23, 9, 11)},
            r"expected features \(B, C, h, w\), weight \(V, C, 1, 1\)",
        ),
        ({"bias": torch.zeros(71)}, r"and bias \(V,\); got .*\(71,\)"),
    ],
)
def test_shapes_that_do_not_belong_together(change, match):
    (features, weight, bias), tokens, ignored = problem()
    with pytest.raises(ValueError, match=match):
        token_cross_entropy(
            **{
                "features": features,
                "weight": weight,
                "bias": bias,
                "tokens": tokens,
                "ignored": ignored,
            }
            | change
        )
