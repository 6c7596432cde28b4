"""X⁻¹ by measuring: Gaussians against torch's own, counting against loops, expected codes against the full soft-max."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import MultivariateNormal

from gss_lite.contracts import IGNORE
from gss_lite.dalle import DalleDVAE
from gss_lite.gss import expected_maskige
from gss_lite.inverse import NearestColor
from gss_lite.inverse_fitted import FLOOR, CodeTable, GaussianInverse, count_codes, fit_gaussians
from gss_lite.vqvae import VQVAE


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
        with pytest.raises(ValueError, match="at the same size"):
            fit_gaussians(colors, [(maskige, mask[:, :8])])
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


@pytest.fixture(scope="module", params=["vqvae", "dalle"])
def tokenizer(request):
    torch.manual_seed(0)
    if request.param == "vqvae":
        return VQVAE(vocab_size=40, stride=4, width=16, code_dim=8, depth=1).eval()
    model = DalleDVAE(vocab_size=40, width=8, code_dim=8).eval()
    # torch's own initialisation leaves hardly a signal at the end of so many layers
    for layer in model.decoder.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.normal_(layer.weight, 0, (2 / layer.weight[0].numel()) ** 0.5)
    return model


class TestCodeVectors:
    def test_decoding_a_codes_vector_is_decoding_the_code(self, tokenizer):
        tokens = torch.randint(40, (2, 3, 5), generator=numbers(3))
        codes = tokenizer.code_vectors()
        with torch.no_grad():
            picture = tokenizer.decode_vectors(codes[tokens].movedim(-1, 1))
        assert codes.shape == (40, 8) and picture.shape == (
            2,
            3,
            3 * tokenizer.stride,
            5 * tokenizer.stride,
        )
        torch.testing.assert_close(picture, tokenizer.decode(tokens))
        assert (
            float(picture.std()) > 0.01 and float(picture.min()) >= 0 and float(picture.max()) <= 1
        )

    def test_vectors_between_codes_are_decoded_too(self, tokenizer):
        first, second = tokenizer.code_vectors()[:2]
        with torch.no_grad():
            pictures = tokenizer.decode_vectors(
                torch.stack([first, (first + second) / 2, second])[:, :, None, None].repeat(
                    1, 1, 4, 4
                )
            )
        assert all(
            float((a - b).abs().max()) > 1e-4
            for a, b in ((pictures[0], pictures[1]), (pictures[1], pictures[2]))
        )


def published_decoder(tokenizer, x):
    """Groups of two blocks, nearest ×2 before the later groups, ReLU, 1×1 convolution; the first three channels."""
    for g, group in enumerate(tokenizer.decoder.groups):
        x = x.repeat_interleave(2, 2).repeat_interleave(2, 3) if g else x
        for block in group:
            h = x
            for conv in block.res:
                h = conv(h.clamp(min=0))
            x = block.id(x) + h / 64
    return tokenizer.decoder.output(x.clamp(min=0))[:, :3]


class TestExpectedMaskige:
    def test_is_the_decoded_mean_vector(self, tokenizer):
        logits = torch.randn(2, 40, 5, 6, generator=numbers(0))
        weight = (logits / 0.7).exp()
        with torch.no_grad():
            if isinstance(tokenizer, VQVAE):
                codes, decode = (
                    tokenizer.codebook.codes,
                    lambda x: ((tokenizer.decoder(x) + 1) / 2).clamp(0, 1),
                )
            # the published decoder, written out: what stands behind the table, then the
            # logit-Laplace means
            else:
                codes = tokenizer.decoder.codes.weight
                decode = lambda x: ((published_decoder(tokenizer, x).sigmoid() - 0.1) / 0.8).clamp(
                    0, 1
                )  # noqa: E731
            mean = sum(
                weight[:, v, None] * codes[v][None, :, None, None] for v in range(40)
            ) / weight.sum(1, keepdim=True)
            expected = decode(mean)
        for at_once in (7, 4096):
            torch.testing.assert_close(
                expected_maskige(logits, tokenizer, 0.7, at_once=at_once),
                expected,
                rtol=1e-4,
                atol=1e-5,
            )
        torch.testing.assert_close(
            expected_maskige(logits, tokenizer, 0.7, top_k=40), expected, rtol=1e-4, atol=1e-5
        )

    def test_cold_or_alone_it_is_decode(self, tokenizer):
        logits = torch.randn(2, 40, 5, 6, generator=numbers(1))
        plain = tokenizer.decode(logits.argmax(1))
        torch.testing.assert_close(
            expected_maskige(logits, tokenizer, 1e-5), plain, rtol=1e-4, atol=1e-5
        )
        torch.testing.assert_close(
            expected_maskige(logits, tokenizer, top_k=1), plain, rtol=1e-4, atol=1e-5
        )

    def test_top_k_leaves_the_others_out(self, tokenizer):
        logits = torch.randn(1, 40, 3, 3, generator=numbers(2))
        third = logits.topk(3, 1).values[:, -1:]
        masked = logits.masked_fill(logits < third, -torch.inf)
        torch.testing.assert_close(
            expected_maskige(logits, tokenizer, top_k=3),
            expected_maskige(masked, tokenizer),
            rtol=1e-4,
            atol=1e-5,
        )

    @pytest.mark.parametrize(
        ("shape", "arguments", "message"),
        [
            ((1, 39, 2, 2), {}, r"expected token logits \(B, 40, h, w\)"),
            ((1, 40, 2, 2), {"temperature": 0.0}, "temperature must be positive"),
            ((1, 40, 2, 2), {"top_k": 41}, "top_k must lie in 1…40"),
            ((1, 40, 2, 2), {"top_k": 0}, "top_k must lie in 1…40"),
        ],
    )
    def test_errors(self, tokenizer, shape, arguments, message):
        with pytest.raises(ValueError, match=message):
            expected_maskige(torch.randn(shape), tokenizer, **arguments)
