"""UViM (Kolesnikov et al., 2022), which the paper compares GSS with (supplement, section H).

Stage I trains three parts together. The *oracle* Ω sees the true mask, but may only say a short
code about it: a few indices of a dictionary. The *base model* f sees the photograph and the code
and classifies the pixels. Stage II trains a *language model* that predicts the code from the
photograph, see `language_model`. GSS needs no such stage I, because its tokenizer is trained on
maskige alone and is never shown a photograph.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from gss_lite.baselines.language_model import LanguageModel, resize_map
from gss_lite.contracts import IGNORE, check_mask, check_tokens
from gss_lite.data.transforms import normalize
from gss_lite.distributed import broadcast_
from gss_lite.presets.parts import ViewSpec
from gss_lite.prior import pixel_cross_entropy
from gss_lite.views import Answers, view_of
from gss_lite.vqvae import Codebook, Quantized

SPLIT_BELOW = 0.1  # a code is unused when its discounted count falls below this
SPLIT_NOISE = 0.001  # the two halves of a split code differ by this share


class SplitCodebook(Codebook):
    """UViM's dictionary: the vector quantiser of `Codebook` with four differences.

    Every vector is standardised, and every code has length 1. The codes start at random, not on
    vectors of the first batch. An unused code is not moved onto a vector: it becomes one half of
    the most used code, which is split. The counts of `Codebook` are means over steps; UViM's are
    discounted sums, larger by 1 / (1 − decay).

    Args:
        vocab_size: V, the number of codes.
        dim: C, the length of a code.
        decay: λ of the moving averages. UViM has 0.995, so that a code is unused after 460 steps
            without a vector: λ⁴⁶⁰ = 0.1.
    """

    def __init__(self, vocab_size: int, dim: int, decay: float = 0.995) -> None:
        super().__init__(vocab_size, dim, decay, restart_below=SPLIT_BELOW * (1 - decay))
        self.codes.copy_(F.normalize(self.codes, dim=1))
        self.counts.fill_(1 - decay)  # a discounted sum of 1
        self.sums.copy_(self.codes * self.counts[:, None])
        self.started.fill_(True)

    def forward(self, vectors: Tensor) -> Quantized:
        """Vectors (B, C, h, w) → the nearest codes of the standardised vectors."""
        return super().forward(standardize(vectors))

    def _averages(self) -> Tensor:
        return F.normalize(super()._averages(), dim=1)

    def _restart(self, flat: Tensor, ids: Tensor) -> None:
        """Split the most used code in two until no code is unused; `flat` is not needed."""
        while bool((self.counts < self.restart_below).any()):
            least = self.counts.argmin()
            most = self.counts.argmax()
            noise = torch.empty_like(self.sums[most]).uniform_(1 - SPLIT_NOISE, 1 + SPLIT_NOISE)
            self.counts[most] /= 2
            self.sums[most] /= 2
            self.counts[least] = self.counts[most]
            self.sums[least] = self.sums[most] * noise
        broadcast_(self.sums)  # each process drew its own noise


def standardize(vectors: Tensor) -> Tensor:
    """Shift and scale each vector of (B, C, h, w) to mean 0 and variance 1 over its entries."""
    return F.layer_norm(vectors.movedim(1, -1), vectors.shape[1:2]).movedim(-1, 1)


class PatchTransformer(nn.Module):
    """A vision Transformer (timm's blocks) that keeps the grid of patches.

    Args:
        channels: of the pictures.
        size: height and width of the pictures in pixels.
        patch: side of a patch in pixels.
        width: channels of the tokens.
        depth: number of blocks.
        heads: attention heads.
    """

    def __init__(
        self, channels: int, size: tuple[int, int], patch: int, width: int, depth: int, heads: int
    ) -> None:
        super().__init__()
        self.grid = (size[0] // patch, size[1] // patch)
        self.embed = nn.Conv2d(channels, width, patch, stride=patch)
        self.position = nn.Parameter(0.02 * torch.randn(1, width, *self.grid))
        self.blocks = nn.Sequential(*[Block(width, heads, qkv_bias=True) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)

    def forward(self, picture: Tensor, guide: Tensor | None = None) -> Tensor:
        """Picture (B, C, H, W) → (B, width, H/patch, W/patch); a guide of that shape is added."""
        x = self.embed(picture) + self.position  # (B, width, h, w)
        if guide is not None:
            x = x + guide
        x = x.flatten(2).transpose(1, 2)  # (B, h·w, width)
        x = self.norm(self.blocks(x))
        return x.transpose(1, 2).unflatten(2, self.grid)  # (B, width, h, w)


class StageOne(nn.Module):
    """UViM's stage I: the oracle Ω, the dictionary and the base model f.

    Args:
        num_classes: K.
        size: height and width of the pictures, which UViM resizes to this one size.
        patch: side of a patch in pixels.
        code_grid: rows and columns of the code.
        vocab_size: V, the number of codes in the dictionary.
        code_dim: C, the length of a code.
        width: channels of both Transformers.
        heads: attention heads of both.
        oracle_depth: blocks of the oracle.
        base_depth: blocks of the base model.
        decay: λ of the dictionary's moving averages.
        code_dropout: the smallest and the largest share of the code that is zeroed in training.
            UViM has (0, 1); (0, 0) drops nothing, and with (1, 1) the base model learns without
            an oracle.
        commitment: weight of the dictionary's commitment loss.

    The defaults are those of the UViM paper.

    Raises:
        ValueError: the size is no multiple of the patch, or the shares are no range in [0, 1].
    """

    def __init__(
        self,
        num_classes: int,
        size: tuple[int, int] = (512, 512),
        *,
        patch: int = 16,
        code_grid: tuple[int, int] = (16, 16),
        vocab_size: int = 4096,
        code_dim: int = 768,
        width: int = 768,
        heads: int = 12,
        oracle_depth: int = 6,
        base_depth: int = 12,
        decay: float = 0.995,
        code_dropout: tuple[float, float] = (0.0, 1.0),
        commitment: float = 0.0,
    ) -> None:
        super().__init__()
        if size[0] % patch or size[1] % patch:
            raise ValueError(f"the size must be a multiple of the patch {patch}; got {tuple(size)}")
        if not 0 <= code_dropout[0] <= code_dropout[1] <= 1:
            raise ValueError(
                "code_dropout is the smallest and the largest share of the code that is zeroed, "
                f"as (0, 1); got {tuple(code_dropout)}"
            )
        self.num_classes = num_classes
        self.size = tuple(size)
        self.code_grid = tuple(code_grid)
        self.vocab_size = vocab_size
        self.code_dropout = code_dropout
        self.commitment = commitment
        shape = (self.size, patch, width)
        # One convolution of the photograph and the one-hot mask, stacked, is the sum of two.
        self.oracle = PatchTransformer(3 + num_classes, *shape, oracle_depth, heads)
        self.to_code = nn.Conv2d(width, code_dim, 1)
        self.codebook = SplitCodebook(vocab_size, code_dim, decay)
        self.from_code = nn.Conv2d(code_dim, width, 1)
        self.base = PatchTransformer(3, *shape, base_depth, heads)
        self.to_pixels = nn.Conv2d(width, num_classes * patch**2, 1)
        self.unfold = nn.PixelShuffle(patch)
        nn.init.zeros_(self.to_pixels.weight)  # all classes are equally likely at first
        nn.init.zeros_(self.to_pixels.bias)

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Quantized]:
        """Photographs (B, 3, H, W), masks (B, H, W) → class logits (B, K, H, W), and the code."""
        # z = Ω(c, x)
        vectors = self._oracle_vectors(image, mask)  # (B, C, h, w)
        # Where the networks run in bf16, the dictionary is still updated in float32.
        with torch.autocast(vectors.device.type, enabled=False):
            quantized = self.codebook(vectors.float())
        # ĉ = f(x, z)
        logits = self.base_logits(image, self.drop(quantized.vectors))  # (B, K, H, W)
        return logits, quantized

    def losses(self, image: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The pixels' cross-entropy + commitment · the dictionary's commitment loss, and scalars.

        The scalars "usage" and "perplexity" are those of the codes in the batch.
        """
        mask = check_mask(mask, self.num_classes)
        logits, quantized = self(image, mask)
        cross_entropy = pixel_cross_entropy(logits, mask)
        labelled = mask != IGNORE
        right = (logits.argmax(1) == mask) & labelled
        used, perplexity = self.codebook.usage(quantized.tokens, self.vocab_size)
        return cross_entropy + self.commitment * quantized.commitment, {
            "pixel": cross_entropy.detach(),
            "pixel_accuracy": right.sum() / labelled.sum(),
            "usage": torch.tensor(used),
            "perplexity": torch.tensor(perplexity),
        }

    @torch.no_grad()
    def encode(self, image: Tensor, mask: Tensor) -> Tensor:
        """What the oracle says: photographs (B, 3, H, W), masks (B, H, W) → code (B, h, w)."""
        mask = check_mask(mask, self.num_classes)
        with torch.autocast(image.device.type, enabled=False):
            vectors = standardize(self._oracle_vectors(image.float(), mask))  # (B, C, h, w)
            ids = self.codebook.nearest(vectors.movedim(1, -1).flatten(0, 2))  # (B·h·w,)
        return ids.view(len(image), *self.code_grid)  # (B, h, w)

    @torch.no_grad()
    def decode(self, image: Tensor, code: Tensor) -> Tensor:
        """Photographs (B, 3, H, W) and a code (B, h, w) → class logits (B, K, H, W)."""
        code = check_tokens(code, self.vocab_size)
        return self.base_logits(image, self.codebook.lookup(code))

    def base_logits(self, image: Tensor, vectors: Tensor) -> Tensor:
        """f: photographs (B, 3, H, W), vectors (B, C, h, w) → class logits (B, K, H, W)."""
        guide = self.from_code(vectors)  # (B, width, h, w)
        guide = F.interpolate(guide, size=self.base.grid, mode="bilinear", align_corners=False)
        x = self.base(image, guide)  # (B, width, H/patch, W/patch)
        return self.unfold(self.to_pixels(x))  # (B, K, H, W)

    def drop(self, vectors: Tensor) -> Tensor:
        """Code dropout: in training, zero a random part of each code (B, C, h, w).

        The number of zeroed positions is uniform, and the others are not rescaled.
        """
        if not self.training or self.code_dropout == (0, 0):
            return vectors
        batch, _, height, width = vectors.shape
        positions = height * width
        share = torch.empty(batch, 1, device=vectors.device).uniform_(*self.code_dropout)
        dropped = (share * (positions + 1)).floor()  # (B, 1), 0 … h·w
        rank = torch.rand(batch, positions, device=vectors.device).argsort(1).argsort(1)
        kept = (rank >= dropped).view(batch, 1, height, width)
        return vectors * kept

    def _oracle_vectors(self, image: Tensor, mask: Tensor) -> Tensor:
        """The oracle's vectors (B, C, h, w), not yet standardised."""
        if tuple(mask.shape[1:]) != self.size or image.shape[2:] != mask.shape[1:]:
            raise ValueError(
                f"UViM's stage I sees photographs and masks of {self.size} pixels; got "
                f"{tuple(image.shape[2:])} and {tuple(mask.shape[1:])}. Set the schedule's crop to "
                "the size in the preset's part `uvim`"
            )
        classes = torch.arange(self.num_classes, device=mask.device)
        onehot = mask[:, None] == classes[:, None, None]  # (B, K, H, W); ignored pixels are all 0
        x = self.oracle(torch.cat([image, onehot.to(image)], dim=1))
        return self.to_code(resize_map(x, self.code_grid))  # (B, C, h, w)


class Segmented(NamedTuple):
    """A segmented picture: class ids `mask` (H, W)."""

    mask: Tensor


class UViM(nn.Module):
    """Stage I and a language model; implements the contract `Segmenter`.

    Args:
        stage_one: oracle, dictionary and base model. Its weights are frozen.
        language: the language model; None for a model that only reconstructs masks.
        colors: (K, 3) in [0, 1], in which predictions are shown.
        view: the windows for evaluation. Every view is resized to the one size of stage I.
    """

    def __init__(
        self,
        stage_one: StageOne,
        language: LanguageModel | None,
        colors: Tensor,
        *,
        view: ViewSpec | None = None,
    ) -> None:
        super().__init__()
        self.stage_one = stage_one.eval().requires_grad_(False)
        self.language = language
        self.view = view or ViewSpec()
        self.num_classes = stage_one.num_classes
        self.register_buffer("colors", colors, persistent=False)

    def train(self, mode: bool = True) -> UViM:
        """Set the language model to train mode; stage I always stays in eval mode."""
        super().train(mode)
        self.stage_one.eval()
        return self

    def losses(self, image: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The cross-entropy of the oracle's code under the language model, and scalars."""
        code = self.stage_one.encode(image, mask)  # (B, h, w)
        logits = self.language(image, code)  # (B, V, h, w)
        # Every code counts, code 255 too: the ids of a code are no class ids.
        loss = F.cross_entropy(logits.float(), code)
        accuracy = (logits.argmax(1) == code).float().mean()
        return loss, {"code": loss.detach(), "code_accuracy": accuracy}

    @torch.no_grad()
    def scores(self, image: Tensor) -> Answers:
        """Normalised photographs (B, 3, H, W) of any size → class probabilities (B, K, H, W).

        "without_code" is what the base model gives for a code of zeros.
        """
        fitted = self._fit(image)
        code = self.language.predict(fitted)  # (B, h, w)
        vectors = self.stage_one.codebook.lookup(code)  # (B, C, h, w)
        guided = self.stage_one.base_logits(fitted, vectors)
        alone = self.stage_one.base_logits(fitted, torch.zeros_like(vectors))
        return {
            "prediction": self._resize_back(guided, image),
            "without_code": self._resize_back(alone, image),
        }

    probabilities = scores

    @torch.no_grad()
    def reconstruct(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Stage I alone: photographs (B, 3, H, W) and true masks (B, H, W) → masks, and the code.

        The base model gets what the oracle says of the true masks.
        """
        fitted = self._fit(image)
        small = mask
        if tuple(mask.shape[1:]) != self.stage_one.size:
            small = F.interpolate(mask[:, None].float(), self.stage_one.size, mode="nearest-exact")
            small = small[:, 0].long()
        code = self.stage_one.encode(fitted, small)  # (B, h, w)
        logits = self.stage_one.decode(fitted, code)
        return self._resize_back(logits, image).argmax(1), code

    def segment(self, picture: Tensor) -> Segmented:
        """A picture uint8 (3, H, W), as `gss_lite.read_image` gives it → its mask (H, W)."""
        image = normalize(picture)[None].to(self.colors.device)  # (1, 3, H, W)
        answers = view_of(self.view)(self.scores)(image)
        return Segmented(answers["prediction"].argmax(1)[0])

    def _fit(self, image: Tensor) -> Tensor:
        return resize_map(image, self.stage_one.size)

    def _resize_back(self, logits: Tensor, image: Tensor) -> Tensor:
        logits = logits.float()
        if logits.shape[2:] != image.shape[2:]:
            logits = F.interpolate(
                logits, size=image.shape[2:], mode="bilinear", align_corners=False
            )
        return logits.softmax(1)
