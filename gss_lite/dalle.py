"""The tokenizer of the paper: DALL·E's dVAE (Ramesh et al., 2021), stride 8, 8192 tokens.

The networks compute the same as OpenAI's (github.com/openai/DALL-E), with less work and memory. The
published decoder multiplies an 8192-channel one-hot map with a matrix; here the row of the matrix
is looked up. The published decoder enlarges a map before a 1×1 convolution; here it is enlarged
after it. `python -m data_scripts.dalle_dvae` downloads the published weights, and `load_dalle`
reads them.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gss_lite.contracts import check_maskige, check_tokens
from gss_lite.storage import load_weights

LOGIT_LAPLACE_EPS = 0.1
GROUPS = 4
BLOCKS = 2  # in a group
GAIN = 1 / (GROUPS * BLOCKS) ** 2  # of every residual branch
ROWS = 1024  # tokens whose 8192 logits are held at once

WEIGHTS = "dalle_dvae.safetensors"
LICENCE = (
    "DALL·E's dVAE is OpenAI's, under a modified MIT licence (github.com/openai/DALL-E) that asks "
    'to "clearly indicate that it was used": say so wherever you show what you made with it.'
)


def map_pixels(picture: Tensor) -> Tensor:
    """[0, 1] → [0.1, 0.9], where a pixel's logit is finite, as the logit-Laplace density needs."""
    return (1 - 2 * LOGIT_LAPLACE_EPS) * picture + LOGIT_LAPLACE_EPS


def unmap_pixels(mapped: Tensor, clamp: bool = True) -> Tensor:
    """The inverse of `map_pixels`, clamped to [0, 1] unless `clamp` is false."""
    picture = (mapped - LOGIT_LAPLACE_EPS) / (1 - 2 * LOGIT_LAPLACE_EPS)
    return picture.clamp(0, 1) if clamp else picture


class Block(nn.Module):
    """id(x) + res(x)/64; res is four times (ReLU, convolution) through a quarter of the channels.

    Args:
        n_in, n_out: channels. id is a 1×1 convolution where they differ.
        kernels: sizes of the four convolutions, (3, 3, 3, 1) in the encoder and (1, 3, 3, 3) in the
            decoder.
        enlarge: whether x is enlarged ×2 (nearest) first. The first convolution must then be 1×1. A
            1×1 convolution treats each pixel alone, so the first convolution and id run on the
            small x, and their outputs are enlarged. The result is the same.

    Raises:
        ValueError: the block enlarges, but its first convolution is not 1×1.
    """

    def __init__(
        self, n_in: int, n_out: int, kernels: tuple[int, int, int, int], *, enlarge: bool = False
    ) -> None:
        super().__init__()
        if enlarge and kernels[0] != 1:
            raise ValueError(
                "only a block that begins with a 1×1 convolution can enlarge; this one begins "
                f"with {kernels[0]}×{kernels[0]}"
            )
        self.enlarge = enlarge
        widths = [n_in, *[n_out // 4] * 3, n_out]
        self.res = nn.ModuleList(
            nn.Conv2d(i, o, k, padding=k // 2) for i, o, k in zip(widths, widths[1:], kernels)
        )
        self.id = nn.Conv2d(n_in, n_out, 1) if n_in != n_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, n_in, h, w) → (B, n_out, h, w), or twice as high and wide; x is left as it was."""
        first, *others = self.res
        h = first(x.relu())  # (B, n_out/4, h, w)
        if self.enlarge:
            h = F.interpolate(h, scale_factor=2, mode="nearest")  # (B, n_out/4, 2h, 2w)
        for conv in others:
            h = conv(h.relu_())  # (B, n_out/4, …), after the last one (B, n_out, …)
        h.mul_(GAIN)
        if not self.enlarge:
            return h.add_(self.id(x))  # (B, n_out, h, w)
        # A view of h that groups the four pixels which come from one pixel of x.
        quads = h.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # (B, n_out, h, 2, w, 2)
        quads.add_(self.id(x)[:, :, :, None, :, None])
        return h  # (B, n_out, 2h, 2w)


def _no_autocast(x: Tensor) -> torch.autocast:
    """Keeps a layer in float32 where the caller computes in bfloat16, as `GSS.targets` can."""
    return torch.autocast(x.device.type, enabled=False)


class Encoder(nn.Module):
    """q_φ(z|x): mapped pixels (B, 3, H, W) → token logits. 53,786,240 parameters as published."""

    def __init__(self, vocab_size: int = 8192, width: int = 256) -> None:
        super().__init__()
        self.input = nn.Conv2d(3, width, 7, padding=3)
        outs = [width << g for g in range(GROUPS)]
        self.groups = nn.ModuleList(
            nn.ModuleList(
                Block(n_in if b == 0 else n_out, n_out, (3, 3, 3, 1)) for b in range(BLOCKS)
            )
            for n_in, n_out in zip([width, *outs], outs)
        )
        # The published 1×1 convolution, for pixels as rows.
        self.output = nn.Linear(outs[-1], vocab_size)

    def features(self, mapped: Tensor) -> Tensor:
        """Mapped pixels (B, 3, H, W) → the input of the last layer, (B, H/8, W/8, 8·width)."""
        with _no_autocast(mapped):
            x = self.input(mapped.float())  # (B, width, H, W)
        x = x.to(self.groups[0][0].res[0].weight.dtype)
        for number, group in enumerate(self.groups):
            if number > 0:
                x = F.max_pool2d(x, 2)  # (B, C, H/2, W/2), H/4 and H/8 in the next groups
            for block in group:
                x = block(x)  # C = width in the first group, and doubles in each further group
        return x.relu_().movedim(1, -1)  # (B, H/8, W/8, 8·width)

    def forward(self, mapped: Tensor) -> Tensor:
        """Mapped pixels (B, 3, H, W) → logits (B, V, H/8, W/8)."""
        features = self.features(mapped)  # (B, H/8, W/8, 8·width)
        with _no_autocast(mapped):
            logits = self.output(features.to(self.output.weight.dtype))  # (B, H/8, W/8, V)
        return logits.movedim(-1, 1)  # (B, V, H/8, W/8)

    def tokens(self, mapped: Tensor) -> Tensor:
        """Arg-max of `forward`, (B, H/8, W/8), with the logits of at most 1024 tokens in memory."""
        features = self.features(mapped)  # (B, H/8, W/8, 8·width)
        rows = features.reshape(-1, features.shape[-1])  # (B·H/8·W/8, 8·width)
        with _no_autocast(mapped):
            # z = argmax_v q_φ(v|x)
            best = [
                self.output(part.to(self.output.weight.dtype)).argmax(1)  # (≤ 1024,)
                for part in rows.split(ROWS)
            ]
        return torch.cat(best).view(features.shape[:3])  # (B, H/8, W/8)


class Decoder(nn.Module):
    """p_θ(x|z): tokens (B, h, w) → three means and three log-scales a pixel.

    The published first layer is a 1×1 convolution of a one-hot map. Here it is the table `codes`:
    the layer's weights, with its 128 biases added to every row. So this module has 43,829,638
    parameters, and the published one has 43,829,766.
    """

    def __init__(self, vocab_size: int = 8192, width: int = 256, code_dim: int = 128) -> None:
        super().__init__()
        self.codes = nn.Embedding(vocab_size, code_dim)
        outs = [width << g for g in reversed(range(GROUPS))]
        self.groups = nn.ModuleList(
            nn.ModuleList(
                Block(n_in if b == 0 else n_out, n_out, (1, 3, 3, 3), enlarge=b == 0 and g > 0)
                for b in range(BLOCKS)
            )
            for g, (n_in, n_out) in enumerate(zip([code_dim, *outs], outs))
        )
        self.output = nn.Conv2d(outs[-1], 6, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, h, w) → means (before the sigmoid) and log-scales of pixels (B, 6, 8h, 8w)."""
        return self.from_vectors(self.codes(tokens).movedim(-1, 1))

    def from_vectors(self, vectors: Tensor) -> Tensor:
        """The layers after the table: vectors (B, code_dim, h, w) → (B, 6, 8h, 8w)."""
        x = vectors.to(self.groups[0][0].res[0].weight.dtype)
        for group in self.groups:
            for block in group:
                x = block(x)  # (B, 8·width, h, w), then (B, 4·width, 2h, 2w), … (B, width, 8h, 8w)
        return self.output(x.relu_().to(self.output.weight.dtype))  # (B, 6, 8h, 8w)


class DalleDVAE(nn.Module):
    """DALL·E's dVAE with random weights; `load_dalle` gives the published one.

    It is a `DifferentiableTokenizer`.

    Args:
        vocab_size, width, code_dim: 8192, 256 and 128 as published.
        dtype: of the groups: float32, or on a GPU bfloat16 or float16. The first and last layers
            stay in float32, as in the published code, because small differences of logits decide
            which token is chosen.

    Raises:
        ValueError: another dtype.
    """

    stride = 8

    def __init__(
        self,
        vocab_size: int = 8192,
        width: int = 256,
        code_dim: int = 128,
        *,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise ValueError(
                f"dtype must be torch.float32, torch.bfloat16 or torch.float16; got {dtype}"
            )
        self.vocab_size = vocab_size
        self.encoder = Encoder(vocab_size, width)
        self.decoder = Decoder(vocab_size, width, code_dim)
        for part in (self.encoder, self.decoder):
            part.groups.to(dtype)
        # With a pixel's channels side by side, a 1×1 convolution is one matrix product.
        self.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def encode(self, maskige: Tensor) -> Tensor:
        """Maskige (B, 3, H, W) in [0, 1] → tokens (B, H/8, W/8), the arg-max of q_φ(z|x).

        Raises:
            ValueError: another shape, or H or W is no multiple of 8.
        """
        check_maskige(maskige, 3, self.stride)
        return self.encoder.tokens(map_pixels(maskige))  # (B, H/8, W/8)

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> Tensor:
        """Tokens (B, h, w) → maskige (B, 3, 8h, 8w) in [0, 1]: the means, without the log-scales.

        Raises:
            ValueError: see `check_tokens`.
        """
        tokens = check_tokens(tokens, self.vocab_size)
        return _means(self.decoder(tokens))  # (B, 3, 8h, 8w)

    def code_vectors(self) -> Tensor:
        """The decoder's table, (V, code_dim)."""
        return self.decoder.codes.weight

    def decode_vectors(self, vectors: Tensor, *, clamp: bool = True) -> Tensor:
        """D_θ of any vectors: (B, code_dim, h, w) → maskige (B, 3, 8h, 8w), float32 in [0, 1].

        Without `clamp` the values may leave [0, 1] by an eighth.
        """
        return _means(self.decoder.from_vectors(vectors), clamp)  # (B, 3, 8h, 8w)

    def code_logits(self, maskige: Tensor) -> Tensor:
        """The logits of q_φ(z|x), with a gradient: maskige (B, 3, H, W) → (B, V, H/8, W/8)."""
        check_maskige(maskige, 3, self.stride)
        return self.encoder(map_pixels(maskige))

    def logit_unit(self, logits: Tensor) -> float:
        """1: these are the logits that the dVAE was trained with."""
        return 1.0


def _means(output: Tensor, clamp: bool = True) -> Tensor:
    """The decoder's output (B, 6, H, W) → the means as a picture (B, 3, H, W) in [0, 1]."""
    return unmap_pixels(output[:, :3].float().sigmoid(), clamp)


def find_dalle() -> Path:
    """The file of published weights: below $GSS_DATA, data/, or the data/ beside this package.

    Raises:
        FileNotFoundError: none of the three folders has the file.
    """
    folders = [Path("data"), Path(__file__).resolve().parents[1] / "data"]
    if os.environ.get("GSS_DATA"):
        folders.insert(0, Path(os.environ["GSS_DATA"]))
    places = [folder / "dalle_dvae" / WEIGHTS for folder in folders]
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError(
        f"the weights of DALL·E's dVAE were not found; no {' and no '.join(map(str, places))}. "
        "`python -m data_scripts.dalle_dvae` downloads (390 MB) and converts them; or set GSS_DATA "
        f"to a folder that holds dalle_dvae/{WEIGHTS}"
    )


def load_dalle(path: str | Path | None = None, *, dtype: torch.dtype = torch.float32) -> DalleDVAE:
    """The published dVAE in eval mode, from the file that `data_scripts.dalle_dvae` wrote.

    Args:
        path: a safetensors file; by default the one that `find_dalle` finds.
        dtype: see `DalleDVAE`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or its tensors are not the dVAE's.
    """
    path = find_dalle() if path is None else Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no {path}; `python -m data_scripts.dalle_dvae` downloads DALL·E's dVAE (390 MB) and "
            "converts it"
        )
    model = empty_dalle(dtype=dtype)
    load_weights(path, model)
    return model.eval().requires_grad_(False)


def empty_dalle(*, dtype: torch.dtype = torch.float32) -> DalleDVAE:
    """The dVAE at its published size; its weights are not initialised, which saves seconds."""
    with torch.device("meta"):
        model = DalleDVAE(dtype=dtype)
    return model.to_empty(device="cpu")
