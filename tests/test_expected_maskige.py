"""Decoding mixtures of codes: against decoding the codes, and against the full soft-max."""

from __future__ import annotations

import pytest
import torch

from gss_lite.dalle import DalleDVAE
from gss_lite.inference import expected_maskige
from gss_lite.vqvae import VQVAE


def numbers(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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
    """Groups of two blocks, nearest ×2 before the later ones, ReLU, 1×1; three channels of it."""
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
                codes = tokenizer.codebook.codes

                def decode(x):
                    return ((tokenizer.decoder(x) + 1) / 2).clamp(0, 1)

            else:
                codes = tokenizer.decoder.codes.weight

                def decode(x):
                    """The published decoder, written out, then the logit-Laplace means."""
                    return ((published_decoder(tokenizer, x).sigmoid() - 0.1) / 0.8).clamp(0, 1)

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
