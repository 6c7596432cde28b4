"""X⁻¹ that are measured and not trained: Gaussians in colour space, and tables of codes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import MultivariateNormal

from gss_lite.contracts import IGNORE
from gss_lite.inverse import NearestColor
from gss_lite.inverse_fitted import (
    FLOOR,
    CodeTable,
    GaussianInverse,
    count_codes,
    fit_gaussians,
    load_gaussians,
)
from gss_lite.storage import save_weights


def numbers(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussians(seed: int, classes: int = 6, channels: int = 3):
    root = 0.2 * torch.randn(classes, channels, channels, generator=numbers(seed))
    covariance = root @ root.transpose(1, 2) + 1e-2 * torch.eye(channels)
    return (
        torch.rand(classes, channels, generator=numbers(seed + 1)),
        covariance,
        torch.randn(classes, generator=numbers(seed + 2)),
    )


class TestGaussianInverse:
    @settings(deadline=None, max_examples=20)
    @given(st.integers(0, 2**31), st.sampled_from([1, 3, 5]))
    def test_scores_are_log_densities(self, seed, channels):
        mean, covariance, prior = gaussians(seed, channels=channels)
        maskige = torch.rand(2, channels, 4, 5, generator=numbers(seed + 3))
        scores = GaussianInverse(mean, mean, covariance, prior)(maskige)
        # (2, 4, 5, K)
        expected = (
            MultivariateNormal(mean, covariance).log_prob(maskige.movedim(1, -1)[..., None, :])
            + prior
        )
        torch.testing.assert_close(scores.movedim(1, -1), expected, rtol=1e-4, atol=1e-3)

    def test_equal_spheres_are_the_nearest_colour(self):
        colors = torch.rand(9, 3, generator=numbers(0))
        inverse = GaussianInverse(colors, colors, 0.01 * torch.eye(3).expand(9, 3, 3))
        maskige = torch.rand(2, 3, 30, 31, generator=numbers(1))
        assert (
            float(
                (inverse.classify(maskige) == NearestColor(colors).classify(maskige))
                .double()
                .mean()
            )
            > 0.999
        )

    def test_a_wide_class_takes_what_lies_far_from_a_narrow_one(self):
        colors = torch.tensor([[0.2], [0.8]])
        inverse = GaussianInverse(colors, colors, torch.tensor([[[1e-4]], [[0.04]]]))
        assert inverse.classify(
            torch.tensor([0.2, 0.3, 0.0, 0.8]).view(1, 1, 1, 4)
        ).flatten().tolist() == [0, 1, 1, 1]

    def test_errors(self):
        mean, covariance, _ = gaussians(0)
        with pytest.raises(ValueError, match="6 colours with 3 channels need"):
            GaussianInverse(mean, mean[:5], covariance)
        covariance[4] = 0
        with pytest.raises(ValueError, match="covariance of class 4 is not positive definite"):
            GaussianInverse(mean, mean, covariance)
        with pytest.raises(ValueError, match=r"expected a maskige \(B, 3, H, W\)"):
            GaussianInverse(mean, mean, gaussians(0)[1])(torch.rand(1, 4, 2, 2))


def decoded(seed: int, classes: int = 4, absent: int | None = None):
    """Colours, and pictures of blocks with a blur of their own for every class."""
    colors = torch.rand(classes, 3, generator=numbers(seed))
    mask = torch.randint(classes, (4, 16, 16), generator=numbers(seed + 1))
    if absent is not None:
        mask[mask == absent] = (absent + 1) % classes
    spread = 0.02 * (1 + torch.arange(classes))[mask][:, None]
    maskige = colors[mask].movedim(-1, 1) + spread * torch.randn(
        4, 3, 16, 16, generator=numbers(seed + 2)
    )
    mask[:, 0] = IGNORE
    return colors, maskige, mask


class TestFitGaussians:
    def test_with_almost_no_shrinkage_it_is_the_sample_mean_and_covariance(self):
        colors, maskige, mask = decoded(0)
        inverse = fit_gaussians(colors, zip(maskige.split(1), mask.split(1)), shrinkage=1e-6)
        pixels, ids = maskige.movedim(1, -1)[mask != IGNORE], mask[mask != IGNORE]
        for k in range(4):
            own = pixels[ids == k].double()
            torch.testing.assert_close(inverse.mean[k].double(), own.mean(0), rtol=0, atol=1e-6)
            precision = (inverse.whitening[k].T @ inverse.whitening[k]).double()
            torch.testing.assert_close(
                precision.inverse(),
                torch.cov(own.T, correction=0) + FLOOR * torch.eye(3),
                rtol=1e-3,
                atol=1e-7,
            )

    @pytest.mark.parametrize("shrinkage", [1.0, 100.0, 5000.0])
    def test_shrinkage_draws_to_the_colour_and_to_the_shared_spread(self, shrinkage):
        """With n pixels, n/(n + shrinkage) of a class's own mean and covariance."""
        colors, maskige, mask = decoded(12)
        inverse = fit_gaussians(colors, [(maskige, mask)], shrinkage=shrinkage)
        pixels, ids = maskige.movedim(1, -1)[mask != IGNORE].double(), mask[mask != IGNORE]
        own = [pixels[ids == k] for k in range(4)]
        scatter = [torch.cov(x.T, correction=0) * len(x) for x in own]
        shared = sum(scatter) / len(ids)
        for k in range(4):
            n = len(own[k])
            share = n / (n + shrinkage)
            mean = share * own[k].mean(0) + (1 - share) * colors[k].double()
            covariance = share * scatter[k] / n + (1 - share) * shared
            covariance += (0.5 / 255) ** 2 * torch.eye(3)
            torch.testing.assert_close(inverse.mean[k].double(), mean, rtol=0, atol=1e-6)
            precision = (inverse.whitening[k].T @ inverse.whitening[k]).double()
            torch.testing.assert_close(precision.inverse(), covariance, rtol=1e-3, atol=1e-7)

    def test_without_shrinkage_named_a_hundred_pixels_are_assumed(self):
        colors, maskige, mask = decoded(15)
        for name, value in fit_gaussians(colors, [(maskige, mask)]).state_dict().items():
            again = fit_gaussians(colors, [(maskige, mask)], shrinkage=100.0)
            assert torch.equal(value, again.state_dict()[name])

    def test_a_file_gives_the_same_inverse_back(self, tmp_path):
        colors, maskige, mask = decoded(18)
        inverse = fit_gaussians(colors, [(maskige, mask)], log_prior=True)
        save_weights(tmp_path / "g.safetensors", inverse)
        again = load_gaussians(tmp_path / "g.safetensors")
        assert torch.equal(again.scores(maskige), inverse.scores(maskige))
        assert torch.equal(again.colors, inverse.colors) and not again.training

    def test_a_class_never_seen_is_read_by_its_colour_and_the_shared_spread(self):
        colors, maskige, mask = decoded(3, absent=2)
        inverse = fit_gaussians(colors, [(maskige, mask)], shrinkage=1e-6)
        torch.testing.assert_close(inverse.mean[2], colors[2])
        pixels, ids = maskige.movedim(1, -1)[mask != IGNORE].double(), mask[mask != IGNORE]
        centred = (
            pixels
            - torch.stack(
                [pixels[ids == k].mean(0) if k != 2 else colors[2].double() for k in range(4)]
            )[ids]
        )
        shared = centred.T @ centred / len(ids) + FLOOR * torch.eye(3)
        precision = (inverse.whitening[2].T @ inverse.whitening[2]).double()
        torch.testing.assert_close(precision.inverse(), shared, rtol=1e-3, atol=1e-7)

    def test_log_prior_is_the_frequency(self):
        colors, maskige, mask = decoded(6)
        without, with_prior = (
            fit_gaussians(colors, [(maskige, mask)], log_prior=flag) for flag in (False, True)
        )
        count = torch.bincount(mask[mask != IGNORE], minlength=4) + 1.0
        torch.testing.assert_close(
            with_prior.constant - without.constant,
            (count / count.sum()).log(),
            rtol=1e-5,
            atol=1e-5,
        )

    def test_errors(self):
        colors, maskige, mask = decoded(9)
        with pytest.raises(ValueError, match="shrinkage must be positive"):
            fit_gaussians(colors, [(maskige, mask)], shrinkage=0)
        with pytest.raises(ValueError, match="no labelled pixel"):
            fit_gaussians(colors, [(maskige, torch.full_like(mask, IGNORE))])
        for other in (mask[:, :8], mask[:, :, :8], mask[:2]):
            with pytest.raises(ValueError, match="at the same size"):
                fit_gaussians(colors, [(maskige, other)])
        with pytest.raises(ValueError, match="holds id 9"):
            fit_gaussians(colors, [(maskige, torch.full_like(mask, 9))])


class Grid:
    """As much of a tokenizer as counting needs."""

    vocab_size, stride = 7, 2


class TestCodeTable:
    def test_counts_by_a_loop(self):
        tokens = torch.randint(7, (2, 3, 4), generator=numbers(0))
        mask = torch.randint(4, (2, 6, 8), generator=numbers(1))
        mask[mask == 3] = IGNORE
        table = count_codes(Grid, 3, zip(tokens.split(1), mask.split(1)))
        counts = torch.zeros(7, 2, 2, 3)
        for b in range(2):
            for y in range(6):
                for x in range(8):
                    if mask[b, y, x] != IGNORE:
                        counts[tokens[b, y // 2, x // 2], y % 2, x % 2, mask[b, y, x]] += 1
        everywhere = counts.sum((0, 1, 2)) + 1
        smoothed = counts + everywhere / everywhere.sum()
        torch.testing.assert_close(table.probability, smoothed / smoothed.sum(-1, keepdim=True))

    def test_certain_tokens_give_the_tables_rows_and_mixtures_their_mean(self):
        table = CodeTable(torch.rand(7, 2, 2, 3, generator=numbers(2)) * 10)
        tokens = torch.randint(7, (2, 3, 4), generator=numbers(3))
        sure = torch.nn.functional.one_hot(tokens, 7).movedim(-1, 1) * 200.0
        expected = table.expected(sure)
        assert expected.shape == (2, 3, 6, 8) and torch.equal(
            expected.argmax(1), table.read(tokens)
        )
        torch.testing.assert_close(expected[1, :, 3, 4], table.probability[tokens[1, 1, 2], 1, 0])
        half = torch.full((1, 7, 1, 1), -200.0)
        half[0, [1, 5]] = 0.0
        torch.testing.assert_close(
            table.expected(half)[0, :, 1, 0], table.probability[[1, 5], 1, 0].mean(0)
        )

    def test_shape(self):
        with pytest.raises(ValueError, match=r"\(V, stride, stride, K\)"):
            CodeTable(torch.rand(7, 2, 3, 4))
