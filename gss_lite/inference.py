"""Beyond the arg-max tokens: samples of the prior, entropy, expected codes, noise and errors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gss_lite.contracts import CodeTokenizer
from gss_lite.gss import GSS
from gss_lite.views import pad_to_multiple, resize_mask


def sample_tokens(
    token_logits: Tensor, temperature: float = 1.0, generator: torch.Generator | None = None
) -> Tensor:
    """Token logits (B, V, h, w) → tokens (B, h, w) drawn from softmax(logits / T).

    p_ψ(z|x) is a product over positions (C), so every token is drawn on its own.

    Raises:
        ValueError: the temperature is not positive.
    """
    if not temperature > 0:
        raise ValueError(
            f"the temperature must be above 0; got {temperature}. For its limit 0, the most likely "
            "tokens, use GSS.predict"
        )
    scaled = token_logits.float() / temperature  # (B, V, h, w)
    # Gumbel-max: the arg-max of logits − ln E with E exponential is distributed as the soft-max.
    noise = torch.empty_like(scaled).exponential_(generator=generator).log_()
    return (scaled - noise).argmax(1)  # (B, h, w)


@torch.no_grad()
def sample_masks(
    gss: GSS,
    image: Tensor,
    count: int = 8,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Sample masks: normalised photographs (B, 3, H, W) → class ids (count, B, H, W).

    The prior runs once. The decoder runs once for each sample.
    """
    height, width = image.shape[2:]
    padded = pad_to_multiple(image, gss.view.multiple)  # (B, 3, H', W')
    logits = gss.prior(padded).token_logits  # (B, V, h, w)
    masks = []
    for _ in range(count):
        tokens = sample_tokens(logits, temperature, generator)  # (B, h, w)
        ids = gss.inverse.classify(gss.tokenizer.decode(tokens))  # (B, h·stride, w·stride)
        ids = resize_mask(ids, padded.shape[2:], gss.num_classes)  # (B, H', W')
        masks.append(ids[:, :height, :width])
    return torch.stack(masks)


def class_frequencies(masks: Tensor, num_classes: int) -> Tensor:
    """Sampled masks (N, B, H, W) → each class's share of the samples (B, K, H, W).

    The share estimates p(c | x), pixel by pixel.
    """
    return torch.stack([(masks == k).float().mean(0) for k in range(num_classes)], 1)


def entropy_map(probabilities: Tensor) -> Tensor:
    """Probabilities (B, K, H, W) → their entropy in nats (B, H, W).

    It is 0 where one class has probability 1, and ln K where all classes have the same.
    """
    return torch.special.entr(probabilities).sum(1)


def token_entropy(token_logits: Tensor) -> Tensor:
    """Token logits (B, V, h, w) → entropy of each token's distribution in nats (B, h, w).

    Many codes decode to the same class, so the entropy of the classes can be much smaller. For that
    entropy use `entropy_map` of the frequencies of sampled masks.
    """
    logs = token_logits.float().log_softmax(1)
    return -(logs.exp() * logs).sum(1)


class ExpectedGSS(GSS):
    """A GSS that decodes the expected code vectors in place of the likeliest codes.

    This goes beyond the paper and needs no training. The `tokens` of its prediction are still the
    likeliest ones. `reconstruct` does not use the prior, so it gives the same as for a GSS.
    """

    @classmethod
    def of(cls, gss: GSS) -> ExpectedGSS:
        """The same trained parts (shared, not copied) in a model that decodes expected codes."""
        return cls(**gss.parts()).train(gss.training)

    def decode_logits(self, token_logits: Tensor) -> Tensor:
        """Token logits (B, V, h, w) → D_θ of Σ_v p(v|x) e_v, (B, D, h·stride, w·stride)."""
        return expected_maskige(token_logits, self.tokenizer)


@torch.no_grad()
def expected_maskige(
    token_logits: Tensor,
    tokenizer: CodeTokenizer,
    temperature: float = 1.0,
    top_k: int | None = None,
    *,
    at_once: int = 4096,
) -> Tensor:
    """Decode the expected code vector Σ_v p(v|x) e_v in place of the likeliest code's vector.

    Where two codes are equally likely, their mean is decoded. As the temperature goes to 0, the
    result becomes that of `decode` for the likeliest codes.

    Args:
        token_logits: (B, V, h, w).
        tokenizer: a tokenizer that decodes vectors.
        temperature: above 0; p = softmax(logits / temperature).
        top_k: use only the k likeliest codes of each token, renormalised.
        at_once: number of tokens whose probabilities are in memory at the same time.

    Returns:
        Maskige (B, D, h·stride, w·stride) in [0, 1].

    Raises:
        ValueError: another number of codes than the tokenizer's, a temperature that is not
            positive, or top_k outside 1…V.
    """
    if token_logits.ndim != 4 or token_logits.shape[1] != tokenizer.vocab_size:
        raise ValueError(
            f"expected token logits (B, {tokenizer.vocab_size}, h, w); "
            f"got {tuple(token_logits.shape)}"
        )
    if not temperature > 0:
        raise ValueError(f"the temperature must be positive; got {temperature}")
    if top_k is not None and not 1 <= top_k <= tokenizer.vocab_size:
        raise ValueError(f"top_k must lie in 1…{tokenizer.vocab_size}; got {top_k}")
    codes = tokenizer.code_vectors()  # (V, C)
    batch, _, height, width = token_logits.shape
    vectors = []
    for rows in token_logits.movedim(1, -1).flatten(0, 2).split(at_once):  # (at_once, V)
        if top_k is None:
            vectors.append((rows.float() / temperature).softmax(1) @ codes)  # (at_once, C)
        else:
            best, which = rows.float().topk(top_k, 1)
            weight = (best / temperature).softmax(1)  # (at_once, k)
            vectors.append(F.embedding(which, codes).mul_(weight[:, :, None]).sum(1))
    grid = torch.cat(vectors).view(batch, height, width, -1).movedim(-1, 1)  # (B, C, h, w)
    return tokenizer.decode_vectors(grid)


def noisy_pixels(maskige: Tensor, sigma: float, seed: int = 0) -> Tensor:
    """Maskige (B, D, H, W) plus Gaussian noise of standard deviation `sigma` on every channel.

    The values are not clamped to [0, 1].
    """
    noise = torch.randn(maskige.shape, generator=torch.Generator().manual_seed(seed))
    return maskige + sigma * noise.to(maskige.device)


def wrong_tokens(tokens: Tensor, rate: float, seed: int = 0) -> Tensor:
    """Tokens (B, h, w), of which some are replaced by tokens from random places of the batch.

    With the same seed, a token that is replaced at a low rate is replaced by the same token at any
    higher rate.

    Args:
        tokens: (B, h, w).
        rate: probability that a token is replaced, in [0, 1].
        seed: of the choice of tokens and places.

    Raises:
        ValueError: the rate lies outside 0…1.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"the rate is a share of the tokens, in 0…1; got {rate}")
    generator = torch.Generator().manual_seed(seed)
    hit = torch.rand(tokens.shape, generator=generator) < rate
    other = torch.randint(tokens.numel(), tokens.shape, generator=generator)
    replaced = tokens.flatten()[other.to(tokens.device)]
    return torch.where(hit.to(tokens.device), replaced, tokens)
