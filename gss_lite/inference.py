"""Beyond the likeliest tokens: samples of the prior, how sure it is, expected codes, damage."""

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
        ValueError: the temperature is not positive. Its limit 0, the arg-max, is GSS.predict.
    """
    if not temperature > 0:
        raise ValueError(
            f"the temperature must be above 0; got {temperature}. For its limit, the most likely "
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
    """Masks drawn from the model: photographs (B, 3, H, W) → class ids (count, B, H, W).

    The photograph goes through the prior once. Each sample costs one decoding.
    """
    height, width = image.shape[2:]
    padded = pad_to_multiple(image)  # (B, 3, H', W')
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

    It is 0 where the model is sure, and ln K where it knows nothing.
    """
    return torch.special.entr(probabilities).sum(1)


def token_entropy(token_logits: Tensor) -> Tensor:
    """Token logits (B, V, h, w) → entropy of each token's distribution in nats (B, h, w).

    This is the entropy of codes, not of classes. Many codes decode to the same class, so it bounds
    nothing about classes; `entropy_map` of sampled masks answers for those.
    """
    logs = token_logits.float().log_softmax(1)
    return -(logs.exp() * logs).sum(1)


class ExpectedGSS(GSS):
    """A GSS that decodes the expected code vectors in place of the likeliest codes.

    This goes beyond the paper, and nothing is trained. The `tokens` of its prediction are still
    the likeliest ones. Reconstruction, where tokens are certain, is that of a GSS.
    """

    @classmethod
    def of(cls, gss: GSS) -> ExpectedGSS:
        """The parts of a trained model, shared, in a model that decodes expected codes."""
        made = cls(
            gss.palette,
            gss.tokenizer,
            gss.prior,
            gss.inverse,
            view=gss.view,
            picture_size=gss.picture_size,
        )
        return made.train(gss.training)

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
    """Decode the expected code vector Σ_v p(v|x) e_v, where `decode` takes the likeliest code.

    Where the prior hesitates between two codes, their mean is decoded. As the temperature goes to
    0 this becomes `decode`.

    Args:
        token_logits: (B, V, h, w).
        tokenizer: decodes vectors too.
        temperature: p = softmax(logits / temperature), above 0.
        top_k: keep the k likeliest codes of each token, renormalised.
        at_once: tokens whose probabilities are in memory at the same time.

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
            weight = (best / temperature).softmax(1)
            vectors.append(F.embedding(which, codes).mul_(weight[:, :, None]).sum(1))
    grid = torch.cat(vectors).view(batch, height, width, -1).movedim(-1, 1)  # (B, C, h, w)
    return tokenizer.decode_vectors(grid)


def noisy_pixels(maskige: Tensor, sigma: float, seed: int = 0) -> Tensor:
    """Maskige (B, D, H, W) plus Gaussian noise of standard deviation `sigma` on every channel.

    The values are not cut to [0, 1].
    """
    noise = torch.randn(maskige.shape, generator=torch.Generator().manual_seed(seed))
    return maskige + sigma * noise.to(maskige.device)


def wrong_tokens(tokens: Tensor, rate: float, seed: int = 0) -> Tensor:
    """Tokens (B, h, w), of which a share is replaced by tokens of random places of the batch.

    For one seed, what is wrong at a low rate is wrong in the same way at a higher one.

    Args:
        tokens: (B, h, w).
        rate: probability that a token is replaced.
        seed: of the places.

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
