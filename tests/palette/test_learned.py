"""GSS-TF and GSS-TT: the straight-through pass, its gradient, the losses, learning.

The tokenizer stays as it was.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from palette_toys import blocks, small_inverse

from gss_lite.contracts import IGNORE, DifferentiableTokenizer
from gss_lite.dalle import DalleDVAE
from gss_lite.inverse import NearestColor
from gss_lite.inverse_fitted import ConvInverse
from gss_lite.palette import (
    Palette,
    cascade_loss,
    learn_palette,
    nearest_color_loss,
    random_palette,
    straight_through_reconstruct,
    train_jointly,
)
from gss_lite.palette import learned as learned_palettes
from gss_lite.palette.learned import NOISE
from gss_lite.storage import weights_hash
from gss_lite.vqvae import VQVAE


@pytest.fixture(scope="module")
def tokenizer() -> VQVAE:
    """A VQ-VAE as initialised, with its codes on encoder outputs."""
    torch.manual_seed(0)
    model = VQVAE(vocab_size=64, stride=4, width=16, code_dim=8, depth=1)
    model(torch.rand(4, 3, 32, 32))  # a forward pass in train mode starts the codebook
    return model.eval()


def test_without_noise_the_forward_pass_is_encode_and_decode(tokenizer):
    maskige = torch.rand(2, 3, 32, 48)
    rebuilt = straight_through_reconstruct(tokenizer, maskige)
    assert torch.equal(rebuilt.clamp(0, 1), tokenizer.decode(tokenizer.encode(maskige)))


def test_logits_are_minus_the_squared_distances(tokenizer):
    maskige = torch.rand(1, 3, 16, 16)
    vectors = tokenizer.encoder(2 * maskige - 1)
    expected = (
        -(vectors[:, None] - tokenizer.codebook.codes[None, :, :, None, None]).square().sum(2)
    )
    assert torch.allclose(tokenizer.code_logits(maskige), expected, atol=1e-4)


@pytest.mark.parametrize("widen", [False, True])
def test_noise_draws_tokens_with_the_softmaxs_probabilities(tokenizer, widen, monkeypatch):
    """Gumbel-max: arg-max of logits + noise is a sample of softmax(logits / τ)."""
    maskige = torch.full((1, 3, 16, 16), 0.4)
    maskige[..., 8:] = 0.45
    logits = tokenizer.code_logits(maskige).detach()[0, :, 1, 1].double()
    temperature = 2 * float(logits.std()) if widen else 1.0
    probability = (logits / temperature).softmax(0)
    generator = torch.Generator().manual_seed(0)
    seen = []
    real = learned_palettes._look_up

    def look_up(codes, tokens):
        seen.append(tokens)
        return real(codes, tokens)

    monkeypatch.setattr(learned_palettes, "_look_up", look_up)
    for _ in range(20):
        straight_through_reconstruct(
            tokenizer, maskige.expand(50, -1, -1, -1), temperature, generator
        )
    counts = torch.bincount(torch.cat(seen)[:, 1, 1], minlength=tokenizer.vocab_size)
    # 3.8 standard deviations for every token, and one count in a thousand
    allowed = 3.8 * (probability * (1 - probability) / 1000).sqrt() + 0.001
    assert bool(((counts / 1000 - probability).abs() < allowed.clamp(max=0.06)).all())
    assert float(probability.max()) < (0.2 if widen else 0.99)  # else noise would not be tested


def test_the_gradient_is_that_of_the_softmax(tokenizer):
    """d/dx of the hard pass = d/dx of decoding with the hard codes, moved along the soft ones."""
    maskige = torch.rand(1, 3, 16, 16, requires_grad=True)
    weight = torch.rand(1, 3, 16, 16)
    (got,) = torch.autograd.grad(
        (weight * straight_through_reconstruct(tokenizer, maskige, 2.0)).sum(), maskige
    )
    codes = tokenizer.codebook.codes
    soft = torch.einsum("bvhw,vc->bchw", (tokenizer.code_logits(maskige) / 2.0).softmax(1), codes)
    hard = codes[tokenizer.encode(maskige)].movedim(-1, 1).requires_grad_()
    (upstream,) = torch.autograd.grad((weight * (tokenizer.decoder(hard) + 1) / 2).sum(), hard)
    (expected,) = torch.autograd.grad(soft, maskige, upstream)
    assert torch.allclose(got, expected, atol=1e-6) and float(got.abs().sum()) > 0


@pytest.fixture(scope="module")
def dvae() -> DalleDVAE:
    """OpenAI's network at toy size, untrained; its logits are spread, so that tokens differ."""
    torch.manual_seed(0)
    model = DalleDVAE(vocab_size=16, width=8, code_dim=4)
    with torch.no_grad():
        model.encoder.output.weight.mul_(40)
        model.decoder.codes.weight.mul_(20)
    return model.eval()


class TestDalle:
    """The same through OpenAI's dVAE: nothing reaches into a VQ-VAE's insides."""

    def test_it_meets_the_contract(self, dvae, tokenizer):
        assert isinstance(dvae, DifferentiableTokenizer)
        assert isinstance(tokenizer, DifferentiableTokenizer)

    def test_the_arg_max_of_the_logits_is_its_tokens(self, dvae):
        maskige = torch.rand(2, 3, 32, 48)
        assert torch.equal(dvae.code_logits(maskige).argmax(1), dvae.encode(maskige))

    def test_without_noise_the_forward_pass_is_encode_and_decode(self, dvae):
        maskige = torch.rand(2, 3, 32, 48)
        rebuilt = straight_through_reconstruct(dvae, maskige).clamp(0, 1)
        torch.testing.assert_close(rebuilt, dvae.decode(dvae.encode(maskige)))

    def test_a_palette_is_learned_and_the_network_stays(self, dvae):
        before = weights_hash(dvae)
        start = random_palette(5)
        masks = blocks(8, 5, 0)
        found = learn_palette(start, dvae, masks, steps=3, batch=4)
        assert not torch.equal(found.palette.colors, start.colors)
        joint = train_jointly(start, dvae, masks, lambda c: ConvInverse(c, 8), steps=3, batch=4)
        assert not torch.equal(joint.colors, start.colors)
        assert weights_hash(dvae) == before
        assert all(p.grad is None for p in dvae.parameters())


def test_nearest_colour_loss_is_the_cross_entropy_of_gaussian_posteriors():
    picture, colors = torch.rand(2, 3, 4, 5), torch.rand(6, 3)
    mask = torch.randint(6, (2, 4, 5))
    mask[0, 0, :3] = IGNORE
    distance = (picture[:, None] - colors[None, :, :, None, None]).square().sum(2)
    assert NOISE == 0.1
    expected = F.cross_entropy(-distance / (2 * 0.1**2), mask, ignore_index=IGNORE)
    assert torch.allclose(nearest_color_loss(picture, mask, colors), expected, atol=1e-4)


def test_cascade_loss_is_the_supplements_formula_row_by_row():
    picture, colors = torch.rand(1, 3, 3, 4), torch.rand(5, 3)
    mask = torch.randint(5, (1, 3, 4))
    mask[0, 0, 0] = IGNORE
    keep = mask.flatten() != IGNORE
    x_hat = picture.movedim(1, -1).reshape(-1, 3)[keep]
    c = F.one_hot(mask.flatten()[keep], 5).float()
    gamma = torch.linalg.inv(colors.T @ colors) @ colors.T
    n = len(c)
    expected = (
        (x_hat - c @ colors).norm() / n**0.5 * gamma.norm()
        + (c @ colors @ gamma - c).norm() / n**0.5
    ) ** 2
    assert torch.allclose(cascade_loss(picture, mask, colors), expected, rtol=1e-3)


def test_gamma_is_held_fixed_in_the_gradient_of_the_cascade_loss():
    picture, mask = torch.rand(1, 3, 3, 4), torch.randint(5, (1, 3, 4))
    colors = torch.rand(5, 3, requires_grad=True)
    (found,) = torch.autograd.grad(cascade_loss(picture, mask, colors), colors)
    gamma = torch.linalg.pinv(colors.detach())
    c = F.one_hot(mask.flatten(), 5).float()
    x_hat = picture.movedim(1, -1).reshape(-1, 3)
    scale = len(c) ** 0.5
    error = (x_hat - c @ colors).norm() / scale * gamma.norm()
    loss = (error + (c @ colors @ gamma - c).norm() / scale) ** 2
    (expected,) = torch.autograd.grad(loss, colors)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_the_steps_are_sgd_with_momentum(color_codes):
    """A loss with a constant gradient: the n-th step is lr · (1 + m + … + mⁿ⁻¹) long."""
    slope = torch.rand(5, 3) - 0.5
    start = Palette(0.4 + 0.2 * torch.rand(5, 3))
    learned = learn_palette(
        start,
        color_codes,
        blocks(4, 5, 0),
        steps=4,
        batch=1,
        lr=0.01,
        momentum=0.5,
        objective=lambda picture, mask, colors: (slope * colors).sum(),
    )
    moved = 0.01 * (1 + 1.5 + 1.75 + 1.875) * slope
    torch.testing.assert_close(learned.palette.colors, start.colors - moved)


def test_ignored_pixels_are_painted_in_the_ignore_colour(color_codes, monkeypatch):
    seen = []
    original = straight_through_reconstruct

    def spy(tokenizer, maskige, temperature, generator):
        seen.append(maskige.detach())
        return original(tokenizer, maskige, temperature, generator)

    monkeypatch.setattr("gss_lite.palette.learned.straight_through_reconstruct", spy)
    masks = blocks(4, 5, 0)
    masks[:, :8] = IGNORE
    start = Palette(random_palette(5).colors, "five", (0.1, 0.2, 0.3))
    learn_palette(start, color_codes, masks, steps=1, batch=2)
    train_jointly(start, color_codes, masks, small_inverse, steps=1, batch=2)
    for maskige in seen:
        assert torch.allclose(maskige[:, :, :8].amax((0, 2, 3)), torch.tensor([0.1, 0.2, 0.3]))
    assert len(seen) == 2


@pytest.mark.slow
def test_learning_lowers_the_loss_and_rebuilds_masks_better(color_codes):
    """One run may end in a poor optimum, so accuracy is a claim about the mean over six seeds."""
    held_out = blocks(40, 8, 5000)

    def accuracy(palette) -> float:
        rebuilt = color_codes.decode(color_codes.encode(palette(held_out)))
        return float((NearestColor(palette.colors).classify(rebuilt) == held_out).float().mean())

    ratios, before, after = [], [], []
    for seed in range(6):
        start = random_palette(8, seed)
        learned = learn_palette(
            start, color_codes, blocks(60, 8, 1000), steps=100, batch=8, seed=seed
        )
        ratios.append(sum(learned.losses[-10:]) / sum(learned.losses[:10]))
        before.append(accuracy(start))
        after.append(accuracy(learned.palette))
    assert max(ratios) < 0.75 and sum(ratios) / 6 < 0.5
    # Seen over twelve times six seeds: 0.83 to 0.94, a rise of 0.15 to 0.26.
    assert sum(after) / 6 > 0.75
    assert (sum(after) - sum(before)) / 6 > 0.1


def test_learning_leaves_the_tokenizer_alone(color_codes):
    before = {k: v.clone() for k, v in color_codes.state_dict().items()}
    learn_palette(random_palette(8, 0), color_codes, blocks(60, 8, 1000), steps=20, batch=8)
    after = color_codes.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert not color_codes.training
    assert all(p.grad is None and p.requires_grad for p in color_codes.parameters())


def test_it_is_fixed_by_its_seed_and_the_start_is_not_changed(color_codes):
    masks, start = blocks(10, 6, 3), random_palette(6, 1)
    colors = start.colors.clone()
    runs = [learn_palette(start, color_codes, masks, steps=4, batch=4, seed=s) for s in (0, 0, 1)]
    assert runs[0].losses == runs[1].losses != runs[2].losses
    assert torch.equal(runs[0].palette.colors, runs[1].palette.colors)
    assert torch.equal(start.colors, colors) and not runs[0].palette.colors.requires_grad


def test_colours_are_reflected_into_range_and_a_wild_learning_rate_is_refused(color_codes):
    start, masks = random_palette(6, 1), blocks(10, 6, 3)
    outward = lambda picture, mask, colors: -(colors - 0.5).abs().sum()  # noqa: E731
    learned = learn_palette(
        start, color_codes, masks, steps=40, batch=1, lr=0.02, momentum=0.0, objective=outward
    )
    assert float(learned.palette.colors.min()) >= 0 and float(learned.palette.colors.max()) <= 1
    assert float((learned.palette.colors - 0.5).abs().min()) > 0.47
    with pytest.raises(ValueError, match="two colours together.*lower the learning rate"):
        learn_palette(
            start, color_codes, masks, steps=2, batch=1, lr=5.0, momentum=0.0, objective=outward
        )


def test_masks_of_the_wrong_shape_no_steps_and_a_loss_that_is_not_finite_are_refused(tokenizer):
    start = random_palette(4)
    for masks, steps in (
        (torch.zeros(0, 8, 8), 3),
        (torch.zeros(8, 8), 3),
        (torch.zeros(2, 8, 8), 0),
    ):
        with pytest.raises(ValueError, match="learning needs masks"):
            learn_palette(start, tokenizer, masks, steps=steps)
    with pytest.raises(FloatingPointError, match="at step 1; lower the learning rate"):
        learn_palette(
            start,
            tokenizer,
            torch.zeros(2, 8, 8),
            steps=2,
            batch=1,
            objective=lambda x, m, c: c.sum() / 0,
        )


def test_the_ignore_colour_and_the_name_go_with_a_learned_palette(color_codes):
    start = Palette(random_palette(5).colors, "five", (0.1, 0.2, 0.3))
    learned = learn_palette(start, color_codes, blocks(4, 5, 0), steps=1, batch=2).palette
    assert torch.equal(learned.ignore_color, start.ignore_color)
    assert learned.name == "five, learned"


def test_the_temperature_is_in_units_of_the_first_batchs_quantization_error(
    color_codes, monkeypatch
):
    """Measured once: colours that move later do not change it."""
    seen = []
    original = straight_through_reconstruct

    def spy(tokenizer, maskige, temperature, generator):
        seen.append((maskige.detach(), temperature))
        return original(tokenizer, maskige, temperature, generator)

    monkeypatch.setattr("gss_lite.palette.learned.straight_through_reconstruct", spy)
    learn_palette(
        random_palette(5), color_codes, blocks(6, 5, 0), steps=3, batch=2, temperature=0.7, lr=0.2
    )
    distance = -color_codes.code_logits(seen[0][0]).amax(1).mean().detach()
    assert [t for _, t in seen] == [pytest.approx(0.7 * float(distance))] * 3
    assert not torch.equal(seen[0][0], seen[1][0])
