"""A head that sees the tokens of half of the cells, and its control that sees none.

p_ψ(z|x) is a product over the cells of the token grid. Cut into the black and the white cells of a
checkerboard, any distribution is p(z_black | x) · p(z_white | x, z_black). The head here models the
second factor. The first factor stays the prior's.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

import gss_lite as gss
from gss_lite.contracts import IGNORE
from gss_lite.token_loss import token_cross_entropy
from gss_lite.training import fingerprint, fit
from gss_lite.training.run import Job, schedule_hash
from gss_lite.training.tokenizer import augmented
from gss_lite.views import pad_to_multiple


def checkerboard(height: int, width: int, parity: Tensor | int) -> Tensor:
    """Find the black cells, where (row + column + parity) is even.

    Args:
        height, width: of the token grid.
        parity: 0 or 1, or one of them for each picture, (B,).

    Returns:
        bool (B, height, width), or (1, height, width) for a single parity.
    """
    rows = torch.arange(height)[:, None]
    columns = torch.arange(width)
    parity = torch.as_tensor(parity).view(-1, 1, 1).cpu()
    return (rows + columns + parity) % 2 == 0


class ConditionalHead(nn.Module):
    """Token logits from the prior's features and from the tokens of some cells.

    The result is added to the prior's features by a layer that is zero at first, and the last
    projection is a copy of the prior's. An untrained head therefore gives the prior's logits.

    Args:
        to_tokens: the prior's last projection, C channels to V codes.
        dim: channels between the two.
        depth: number of 3×3 convolutions. A cell sees `depth` cells in every direction.
    """

    def __init__(self, to_tokens: nn.Conv2d, dim: int = 96, depth: int = 3) -> None:
        super().__init__()
        vocab, channels = to_tokens.weight.shape[:2]
        self.hidden = vocab  # the id of a token that is not seen
        self.reduce = nn.Conv2d(channels, dim, 1)
        self.embed = nn.Embedding(vocab + 1, dim)
        self.layers = nn.ModuleList(nn.Conv2d(dim, dim, 3, padding=1) for _ in range(depth))
        self.expand = nn.Conv2d(dim, channels, 1)
        nn.init.zeros_(self.expand.weight)
        nn.init.zeros_(self.expand.bias)
        self.to_tokens = copy.deepcopy(to_tokens)

    def features(self, features: Tensor, visible: Tensor) -> Tensor:
        """The prior's features (B, C, h, w), visible tokens (B, h, w) → features (B, C, h, w).

        Where a token is not seen, `visible` is `self.hidden`.
        """
        seen = self.embed(visible).movedim(-1, 1)  # (B, dim, h, w)
        x = self.reduce(features) + seen  # (B, dim, h, w)
        for layer in self.layers:
            x = x + F.gelu(layer(x))  # (B, dim, h, w)
        return features + self.expand(x)  # (B, C, h, w)

    def forward(self, features: Tensor, visible: Tensor) -> Tensor:
        """As `features`, and the last projection: token logits (B, V, h, w)."""
        return self.to_tokens(self.features(features, visible))


class Heads(nn.Module):
    """The conditional head and its control. Both are of the same architecture and begin alike.

    The control never sees a token. What it gains over the prior comes from more layers and more
    steps, and only the conditional head's gain over the control comes from the tokens.
    """

    def __init__(self, to_tokens: nn.Conv2d) -> None:
        super().__init__()
        self.conditional = ConditionalHead(to_tokens)
        self.control = copy.deepcopy(self.conditional)

    def inputs(self, tokens: Tensor, black: Tensor) -> dict[str, tuple[ConditionalHead, Tensor]]:
        """Tokens (B, h, w), black cells → name → (head, the tokens that it sees (B, h, w))."""
        hidden = torch.full_like(tokens, self.control.hidden)
        return {
            "conditional": (self.conditional, torch.where(black, tokens, hidden)),
            "control": (self.control, hidden),
        }

    def logits(self, features: Tensor, tokens: Tensor, black: Tensor) -> dict[str, Tensor]:
        """The prior's features (B, C, h, w), tokens, black cells → name → logits (B, V, h, w)."""
        pairs = self.inputs(tokens, black).items()
        return {name: head(features, visible).float() for name, (head, visible) in pairs}


class Grid(NamedTuple):
    """What a frozen prior and tokenizer give for photographs and their masks.

    Attributes:
        features: the input of the prior's `to_tokens` (B, C, h, w).
        tokens: of the true masks (B, h, w).
        ignored: (B, h, w), true where no pixel of the patch is labelled.
    """

    features: Tensor
    tokens: Tensor
    ignored: Tensor


@torch.no_grad()
def grid_of(model: gss.GSS, image: Tensor, mask: Tensor) -> Grid:
    """Photographs (B, 3, H, W) and masks (B, H, W) of any size → `Grid` of the padded pictures."""
    padded = pad_to_multiple(image)  # (B, 3, H', W')
    below, right = (big - small for big, small in zip(padded.shape[2:], image.shape[2:]))
    mask = F.pad(mask, (0, right, 0, below), value=IGNORE)  # (B, H', W')
    features, pixel_logits = model.prior.encode(padded)
    targets = model.targets(mask, pixel_logits)
    return Grid(features, targets.tokens, targets.ignored)


class CheckerboardLoss(nn.Module):
    """The sum of both heads' cross-entropies on white cells. Each picture draws its parity."""

    def __init__(self, model: gss.GSS, heads: Heads) -> None:
        super().__init__()
        self.model = model
        self.heads = heads

    def train(self, mode: bool = True) -> CheckerboardLoss:
        """Set the heads to train mode; the model stays in eval mode."""
        super().train(mode)
        self.model.eval()
        return self

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Photographs (B, 3, H, W), masks (B, H, W) → (loss, scalars)."""
        grid = grid_of(self.model, image, mask)
        parity = torch.randint(2, (len(image),))
        black = checkerboard(*grid.tokens.shape[1:], parity).to(image.device)  # (B, h, w)
        white = ~black & ~grid.ignored  # (B, h, w), N of them
        tokens = grid.tokens[white][None, :, None]  # (1, N, 1)
        losses = {}
        for name, (head, visible) in self.heads.inputs(grid.tokens, black).items():
            x = head.features(grid.features, visible)  # (B, C, h, w)
            x = x.movedim(1, -1)[white].T[None, :, :, None]  # (1, C, N, 1)
            last = head.to_tokens
            losses[name] = token_cross_entropy(x, last.weight, last.bias, tokens).loss
        return sum(losses.values()), {name: loss.detach() for name, loss in losses.items()}


def train_heads(model: gss.GSS, job: Job, pictures: Dataset, seed: int) -> tuple[Heads, list[dict]]:
    """Train both heads of a frozen model by the schedule of the job's prior → heads, log.

    An interrupted run continues, and a finished one is loaded.

    Args:
        pictures: (picture, mask) pairs without augmentation.
        seed: of the heads' weights and of the order of the pictures.
    """
    torch.manual_seed(seed)
    heads = Heads(model.prior.to_tokens)
    job = replace(job, preset=replace(job.preset, seed=seed))
    schedule = job.preset.schedule("prior")
    run = {
        "preset": job.preset.name,
        "stage": "checkerboard",
        "seed": seed,
        "steps": schedule.steps,
        "plan": schedule_hash(job.preset, "prior", schedule),
        "pictures": len(pictures),
        "frozen": fingerprint(model),
    }
    device = model.colors.device
    how = {"folder": job.folder / f"seed-{seed}", "options": job.options}
    data = augmented(job, schedule, pictures)
    log = fit(CheckerboardLoss(model, heads), heads, data, schedule, run=run, **how)
    model.to(device)  # Accelerate moves what it trains
    return heads.to(device).eval(), log
