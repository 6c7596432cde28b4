"""Checks of the assignments: they compare a result with a reference and say in words what is wrong.

Every check takes a torch tensor, a NumPy array, a number or a list.
"""

from __future__ import annotations

import os

import numpy as np

PLACES = 3  # how many wrong places a message names


def hidden_seeds(count=3):
    """Seeds of the hidden tests. A teacher chooses others with the variable GSS_COURSE_SEED."""
    base = int(os.environ.get("GSS_COURSE_SEED", "20230"))
    return [base + number for number in range(count)]


def numbers(value, what):
    """Return `value` as a NumPy array, or say why it is no array of numbers."""
    assert value is not None, f"{what} is None. Does your function return its result?"
    assert value is not ..., f"{what} is still `...`."
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise AssertionError(f"{what} cannot be read as one array: {error}") from None
    assert array.dtype.kind in "biuf", f"{what} holds no real numbers, but {array.dtype}."
    return array


def has_shape(got, shape, what):
    """Check the shape of a result."""
    found = numbers(got, what).shape
    assert found == tuple(shape), f"{what} has the shape {found}; the task asks for {tuple(shape)}."


def close(got, want, what, tolerance=1e-6, traps=None):
    """Check that `got` differs from `want` by at most `tolerance`, absolute or relative.

    Args:
        got: the student's result.
        want: the right result.
        what: the name of the result, the subject of the message.
        tolerance: largest difference at numbers up to 1, and its multiple at larger ones.
        traps: sentence → the result of a common mistake. If `got` equals one of them, the message
            is this sentence.
    """
    want = numbers(want, "the reference")
    has_shape(got, want.shape, what)
    got = numbers(got, what)
    assert not np.isnan(got).any() or np.isnan(want).any(), (
        f"{what} holds nan (not a number). Where do you compute 0 · inf, 0 / 0 or the log of a "
        "negative number?"
    )
    if np.allclose(got, want, rtol=tolerance, atol=tolerance):
        return
    for sentence, wrong in (traps or {}).items():
        wrong = numbers(wrong, "a common mistake")
        if wrong.shape == want.shape and np.allclose(got, wrong, rtol=tolerance, atol=tolerance):
            raise AssertionError(f"{what}: {sentence}")
    raise AssertionError(difference(got, want, what, ~np.isclose(got, want, tolerance, tolerance)))


def equal(got, want, what, traps=None):
    """Check that every class id, token or truth value is the right one; traps as in `close`."""
    want = numbers(want, "the reference")
    has_shape(got, want.shape, what)
    got = numbers(got, what)
    if np.array_equal(got, want):
        return
    for sentence, wrong in (traps or {}).items():
        if np.array_equal(got, numbers(wrong, "a common mistake")):
            raise AssertionError(f"{what}: {sentence}")
    raise AssertionError(difference(got, want, what, got != want))


def difference(got, want, what, wrong):
    """Say how many numbers are wrong, and name the first ones."""
    if not want.shape:
        return f"{what} is {got:.6g}, but should be {want:.6g}."
    places = [tuple(int(i) for i in place) for place in np.argwhere(wrong)[:PLACES]]
    named = ", ".join(
        f"at [{', '.join(map(str, place))}] it is {got[place]:.6g}, not {want[place]:.6g}"
        for place in places
    )
    return f"{what}: {int(wrong.sum())} of {wrong.size} numbers are wrong; {named}."


def unchanged(before, after, what):
    """Check that a function did not write into its argument."""
    same = np.array_equal(numbers(before, what), numbers(after, what))
    assert same, f"Your function changes {what}, which belongs to the caller. Work on a copy."


def gradient(value, argument, what):
    """Return d value / d argument as a tensor, or say that no gradient arrives."""
    import torch

    assert isinstance(value, torch.Tensor), f"{what} needs a gradient, so return a torch tensor."
    assert value.requires_grad, f"{what} has no gradient. Did you detach too much?"
    (found,) = torch.autograd.grad(value, argument, allow_unused=True, retain_graph=True)
    return torch.zeros_like(argument) if found is None else found
