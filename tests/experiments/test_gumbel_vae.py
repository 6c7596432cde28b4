"""The Gumbel-softmax dVAE: contract, likelihood, KL, annealing, start on data, learning."""

import copy
import json
import math
from pathlib import Path

import pytest
import torch

from gss_lite.inference import expected_maskige
from gss_lite.palette import farthest_point_palette, paint
from notebooks.experiments.gumbel_tokenizer import (
    NETWORKS,
    VARIANTS,
    RandomStart,
    build,
    run_variant,
)
from notebooks.experiments.gumbel_vae import GumbelVAE, Relaxed, kl_to_uniform, logit_laplace_nll


def small(**options) -> GumbelVAE:
    return GumbelVAE(**{"vocab_size": 32, "width": 16, "code_dim": 8, "depth": 1, **options})


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_tokenizer_contract(stride):
    model = small(stride=stride).eval()
    maskige = torch.rand(2, 3, 32, 48)
    tokens = model.encode(maskige)
    assert tokens.shape == (2, 32 // stride, 48 // stride) and tokens.dtype == torch.long
    picture = model.decode(tokens)
    assert picture.shape == maskige.shape and picture.min() >= 0 and picture.max() <= 1
    assert (model.vocab_size, model.stride) == (32, stride)
    torch.testing.assert_close(model(maskige)[0], picture)


def test_sure_token_logits_decode_to_the_tokens_maskige():
    model = small().eval()
    tokens = torch.randint(32, (2, 3, 5))
    logits = 100.0 * torch.nn.functional.one_hot(tokens, 32).movedim(-1, 1)
    torch.testing.assert_close(
        expected_maskige(logits, model), model.decode(tokens), atol=1e-5, rtol=0
    )
    assert model.code_vectors().shape == (32, 8)


@pytest.mark.parametrize(("mean", "scale"), [(0.0, 1.0), (1.5, 0.3), (-2.0, 0.1)])
def test_the_likelihood_is_a_density(mean, scale):
    """It integrates to one over (0, 1), and half of its mass lies below sigmoid(μ)."""
    x = torch.linspace(0, 1, 2_000_001, dtype=torch.float64)[1:-1]
    density = torch.exp(
        -logit_laplace_nll(x, torch.tensor(mean).double(), torch.tensor(scale).double().log())
    )
    below = x < 1 / (1 + math.exp(-mean))
    assert float(density.sum()) / 2e6 == pytest.approx(1, abs=2e-3)
    assert float(density[below].sum()) / 2e6 == pytest.approx(0.5, abs=2e-3)


def test_kl_against_its_definition():
    logits = 3 * torch.randn(2, 7, 3, 4)
    q = torch.distributions.Categorical(logits=logits.movedim(1, -1))
    p = torch.distributions.Categorical(probs=torch.ones(2, 3, 4, 7))
    torch.testing.assert_close(kl_to_uniform(logits), torch.distributions.kl_divergence(q, p))
    assert float(kl_to_uniform(torch.zeros(1, 7, 1, 1))) == pytest.approx(0, abs=1e-6)


def random_relaxed() -> tuple[torch.Tensor, Relaxed, torch.Tensor]:
    """A maskige, what a model might give for it, and −log p of each value by the textbook."""
    maskige = torch.rand(1, 3, 16, 24)
    relaxed = Relaxed(
        torch.randn(1, 32, 2, 3), torch.randn(1, 3, 16, 24), torch.randn(1, 3, 16, 24).clamp(min=-1)
    )
    x, b = 0.1 + 0.8 * maskige, relaxed.log_scales.exp()
    density = torch.exp(-(torch.log(x / (1 - x)) - relaxed.means).abs() / b) / (2 * b * x * (1 - x))
    return maskige, relaxed, -density.log()


def test_with_beta_zero_the_loss_is_dalles():
    """Stride 8, annealing over: mean of −log p a value plus 6.6/192 of the mean KL a token."""
    model = small(stride=8, anneal=1, kl_weight=6.6, beta=0.0)
    model.steps.fill_(1)
    maskige, relaxed, likelihood = random_relaxed()
    loss, scalars = model.losses(maskige, maskige, relaxed)
    torch.testing.assert_close(
        loss, likelihood.mean() + 6.6 / 192 * kl_to_uniform(relaxed.logits).mean()
    )
    torch.testing.assert_close(scalars["kl"], kl_to_uniform(relaxed.logits).mean())


@pytest.mark.parametrize("beta", [0.5, 1.0])
def test_hard_pixels_keep_their_weight(beta):
    """The mean's gradient is b^(β−1) a pixel up to a common factor: with β = 1 all pull alike."""
    model = small(stride=8, kl_weight=0.0, beta=beta)
    maskige, relaxed, likelihood = random_relaxed()
    means = relaxed.means.clone().requires_grad_()
    loss, scalars = model.losses(maskige, maskige, relaxed._replace(means=means))
    pull = torch.autograd.grad(loss, means)[0].abs() / relaxed.log_scales.exp() ** (beta - 1)
    torch.testing.assert_close(pull, torch.full_like(pull, float(pull.mean())))
    torch.testing.assert_close(scalars["reconstruction"], likelihood.mean())


def test_temperature_and_kl_weight_follow_the_training_steps():
    model = small(anneal=60, kl_weight=1.0).train()
    maskige = torch.rand(1, 3, 8, 8)
    relaxed = copy.deepcopy(model).eval()(maskige)[1]

    def kl_share() -> float:
        with torch.no_grad():
            without = small(anneal=60, kl_weight=0.0)
            without.steps.copy_(model.steps)
            return float(
                model.losses(maskige, maskige, relaxed)[0]
                - without.losses(maskige, maskige, relaxed)[0]
            )

    assert model.temperature == 1 and kl_share() == 0
    model(maskige)
    half = kl_share()
    model(maskige)
    assert int(model.steps) == 2 and kl_share() == pytest.approx(2 * half, rel=1e-2) and half > 0
    model.steps.fill_(30)
    assert model.temperature == pytest.approx((1 + 1 / 16) / 2)
    again = small(anneal=60)
    again.load_state_dict(model.state_dict())
    assert again.temperature == model.temperature
    model.steps.fill_(1000)
    assert model.temperature == pytest.approx(1 / 16)


def test_the_start_shares_the_features_out_among_the_codes():
    """The arg-max of the logits is the nearest of the drawn features, and many codes are in use."""
    torch.manual_seed(0)
    model, maskige = small(vocab_size=16).train(), torch.rand(4, 3, 32, 32)
    before = model.encode(maskige).unique().numel()
    features = model._to_vectors(maskige)
    model.start_on(features.detach())
    flat = features.movedim(1, -1).flatten(0, 2)
    picked = model.to_logits.weight[:, :, 0, 0]
    # Up to the common factor 2s the rows are the drawn features; s follows from any row's bias,
    # −s‖v‖².
    sharpness = float((picked[0].square().sum() / (4 * -model.to_logits.bias[0])).detach())
    nearest = torch.cdist(flat, picked / (2 * sharpness)).argmin(1)
    assert (nearest == model.encode(maskige).flatten()).float().mean() > 0.999
    assert model.encode(maskige).unique().numel() > max(8, before)


def test_only_the_first_training_step_starts_the_codes():
    model, maskige = small().train(), torch.rand(1, 3, 16, 16)
    weight = model.to_logits.weight.clone()
    model(maskige)
    started = model.to_logits.weight.clone()
    model(maskige)
    assert not torch.equal(weight, started) and torch.equal(started, model.to_logits.weight)
    fresh = small().eval()
    weight = fresh.to_logits.weight.clone()
    fresh(maskige)
    assert torch.equal(weight, fresh.to_logits.weight)


def test_cold_mixtures_are_the_tokens_where_the_encoder_is_sure():
    model = small(anneal=1).train()
    model.steps.fill_(1)
    with torch.no_grad():
        # So large that two tokens are nowhere near each other: with 1e4 one seed in six fails.
        model.to_logits.weight.mul_(1e6)
    maskige = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(
        model(maskige)[0], model.decode(model.encode(maskige)), atol=1e-3, rtol=0
    )


@pytest.mark.slow
def test_learns_flat_colours_with_several_codes():
    torch.manual_seed(0)
    model = small(anneal=180).train()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    colors = farthest_point_palette(5).colors
    masks = torch.randint(5, (16, 4, 4)).repeat_interleave(8, 1).repeat_interleave(8, 2)
    maskige = paint(masks, colors)
    for _ in range(240):
        picture, relaxed = model(maskige)
        loss, scalars = model.losses(maskige, picture, relaxed)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    decoded = model.decode(model.encode(maskige))
    ids = (decoded[:, None] - colors[None, :, :, None, None]).square().sum(2).argmin(1)
    assert (ids == masks).float().mean() > 0.95
    assert scalars["perplexity"] > 4


def test_bad_input_is_refused():
    model = small()
    with pytest.raises(ValueError, match="multiples of the stride 4"):
        model.encode(torch.rand(1, 3, 10, 8))
    with pytest.raises(ValueError, match="0…31"):
        model.decode(torch.full((1, 2, 2), 32))
    with pytest.raises(ValueError, match="power of two"):
        small(stride=3)
    with pytest.raises(ValueError, match="beta within 0…1"):
        small(beta=2.0)


def test_the_experiment_trains_and_judges_each_variant():
    palette = farthest_point_palette(11)
    masks = torch.randint(11, (4, 4, 4)).repeat_interleave(8, 1).repeat_interleave(8, 2)
    for name in VARIANTS:
        result = run_variant(name, palette, masks, masks, steps=2)
        assert 0 <= result["miou"] <= 1 and 0 < result["usage"] <= 1 and len(result["iou"]) == 11
    assert isinstance(build("dVAE, codes started at random", 2), RandomStart)
    assert build("dVAE, hard pixels given up", 2).beta == 0 and build("dVAE", 400).anneal == 300


def test_what_the_record_says_of_the_departures_from_dalle():
    """With both the dVAE comes near the VQ-VAE, and without either it stays far from it."""
    path = Path(__file__).parents[2] / "notebooks/records/gumbel-tokenizer.json"
    record = json.loads(path.read_text())
    variants = record["metrics"]["variants"]
    assert list(variants) == list(VARIANTS) and record["metrics"]["networks"] == NETWORKS
    miou = {name: result["miou"] for name, result in variants.items()}
    assert miou["VQ-VAE"] > miou["dVAE"] > miou["VQ-VAE"] - 0.05
    assert miou["dVAE"] > miou["dVAE, codes started at random"] + 0.1
    assert miou["dVAE"] > miou["dVAE, hard pixels given up"] + 0.3
