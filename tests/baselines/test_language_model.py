"""UViM's language model: shapes, what each position may see, sampling, and learning."""

from __future__ import annotations

import pytest
import torch

from gss_lite.baselines.build import create_language_model
from gss_lite.baselines.language_model import resize_map
from gss_lite.presets import get_preset

TINY = get_preset("scenes-tiny")
V = 16


@pytest.fixture(scope="module")
def one_pass():
    return create_language_model(TINY).eval()


@pytest.fixture(scope="module")
def autoregressive():
    return create_language_model(TINY, autoregressive=True).eval()


@pytest.fixture(scope="module")
def image():
    return torch.randn(2, 3, 32, 32)


def code(batch=2):
    return torch.randint(V, (batch, 2, 3))


def test_both_look_at_the_photograph_with_the_same_network(one_pass, autoregressive):
    shared = {k: v.shape for k, v in one_pass.state_dict().items()}
    theirs = {k: v.shape for k, v in autoregressive.state_dict().items()}
    assert shared.items() <= theirs.items()
    more = {k.split(".")[0] for k in theirs.keys() - shared.keys()}
    assert more == {"decoder", "decoder_norm", "embed", "code_position"}


def test_shapes(one_pass, autoregressive, image):
    for model in (one_pass, autoregressive):
        assert model(image, code()).shape == (2, V, 2, 3)
        predicted = model.predict(image)
        assert predicted.shape == (2, 2, 3) and predicted.dtype == torch.long
        assert predicted.min() >= 0 and predicted.max() < V


@torch.no_grad()
def test_no_position_sees_itself_or_a_later_one(autoregressive, image):
    """Each position of the code is changed in turn; only logits of later positions may change."""
    true = code()
    logits = autoregressive(image, true).flatten(2)  # (2, V, 6)
    for place in range(6):
        other = true.flatten(1).clone()
        other[:, place] = (other[:, place] + 1 + torch.randint(V - 1, (2,))) % V
        changed = autoregressive(image, other.view(2, 2, 3)).flatten(2)
        difference = (changed - logits).abs().amax((0, 1))  # (6,)
        assert float(difference[: place + 1].max()) < 1e-5
        if place < 5:
            # The next position sees the change at once.
            assert float(difference[place + 1]) > 1e-3


@torch.no_grad()
def test_one_pass_does_not_look_at_the_code_and_the_other_looks_at_the_photograph(
    one_pass, autoregressive, image
):
    assert torch.equal(one_pass(image, code()), one_pass(image, code()))
    true = code()
    changed = autoregressive(image.flip(0), true) - autoregressive(image, true)
    assert float(changed.abs().max()) > 1e-3


@torch.no_grad()
def test_greedy_decoding_takes_the_likeliest_code_given_those_before(autoregressive, image):
    greedy = autoregressive.predict(image)
    assert torch.equal(autoregressive(image, greedy).argmax(1), greedy)
    assert torch.equal(autoregressive.predict(image), greedy)


@pytest.mark.slow
@torch.no_grad()
def test_samples_follow_the_distribution_of_the_logits(autoregressive, image):
    draws = 600
    generator = torch.Generator().manual_seed(0)
    many = image[:1].expand(draws, -1, -1, -1)
    samples = autoregressive.predict(many, temperature=1.0, generator=generator)
    expected = autoregressive(image[:1], samples[:1]).softmax(1)[
        0, :, 0, 0
    ]  # of the first position
    found = torch.bincount(samples[:, 0, 0], minlength=V) / draws
    # The standard deviation of a share is at most √(0.25 / 600) = 0.02.
    assert float((found - expected).abs().max()) < 0.09
    again = autoregressive.predict(
        many, temperature=1.0, generator=torch.Generator().manual_seed(0)
    )
    assert torch.equal(samples, again)
    cold = autoregressive.predict(image, temperature=1e-4, generator=generator)
    assert torch.equal(cold, autoregressive.predict(image))


def test_a_map_is_resized_with_antialiasing():
    checkers = (torch.arange(8) % 2).float().expand(1, 1, 8, 8)
    small = resize_map(checkers, (2, 2))
    assert float((small - 0.5).abs().max()) < 0.1
    assert resize_map(checkers, (8, 8)) is checkers


@pytest.mark.slow
def test_only_the_autoregressive_model_keeps_dependent_positions_consistent():
    """Two codes are equally likely for every photograph: all 3s, or all 7s.

    The best one-pass model gives each position 3 or 7 with probability one half, so its
    cross-entropy cannot fall below ln 2. The other must be unsure about the first position only.
    """
    losses = {}
    for kind in (False, True):
        torch.manual_seed(0)
        model = create_language_model(TINY, kind).train()
        optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
        for _ in range(50):
            target = torch.tensor([3, 7]).repeat(4)[:, None, None].expand(8, 2, 3).clone()
            logits = model(torch.randn(8, 3, 32, 32), target)
            loss = torch.nn.functional.cross_entropy(logits, target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses[kind] = float(loss)
        if kind:
            model.eval()
            generator = torch.Generator().manual_seed(0)
            drawn = model.predict(torch.randn(16, 3, 32, 32), 1.0, generator).flatten(1)
            consistent = (drawn == drawn[:, :1]).all(1) & ((drawn[:, 0] == 3) | (drawn[:, 0] == 7))
            assert consistent.float().mean() > 0.7
    ln_2 = 0.693
    assert losses[False] > 0.9 * ln_2
    assert losses[True] < 0.5 * ln_2
