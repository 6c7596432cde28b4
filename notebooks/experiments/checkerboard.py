"""The price of independence: what a head gains that sees half of the tokens.

The evidence bound of A.1 holds for any q(z|c) and p(z|x) over L tokens. Here, as in the released
code, the network gives one distribution a token, and q gives one code a token. So p(z|x) is a
product over tokens, and neighbouring tokens are independent given the photograph. Section H does
the same to UViM: its guiding code is generated "in a non-autoregressive manner". The paper does not
measure what this costs.

A conditional head sees the true tokens on the black cells of a checkerboard and predicts the white
ones, see `checkerboard_head`. Its control has the same architecture, steps and seed, and sees no
token. Both learn pictures of the validation split, which the prior was not trained on. "Saved" is
the control's cross-entropy minus the conditional head's, in nats for each white token. The black
tokens save nothing, so over all tokens it is half. It is a difference between two trained networks,
and one step of conditioning. An autoregressive model could save more.

Masks are decoded in two ways, from the likeliest tokens and from one sample at temperature 1. The
black tokens are always the prior's, and the white ones come from the prior, the control, or the
conditional head, which sees the black ones. In the training the black tokens were true. Three
measures are taken: mIoU, *regions* (4-connected sets of pixels of one class, a picture) and
*speckle* (the share in percent of the labelled pixels that lie in regions smaller than two tokens'
patches). True masks have small regions too, so both measures are also taken on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import gss_lite as gss
from gss_lite.contracts import IGNORE
from gss_lite.data.transforms import InMemory, collate
from gss_lite.evaluation import evaluate_masks
from gss_lite.inference import sample_tokens
from gss_lite.metrics import paired_bootstrap
from gss_lite.storage import weights_hash
from gss_lite.tables import spread, text_table
from gss_lite.training.run import Job
from gss_lite.views import pad_to_multiple, resize_mask
from notebooks.experiments.checkerboard_head import Heads, checkerboard, grid_of, train_heads
from notebooks.experiments.runner import Run, new_parser, option, subset

BATCH = 8
SOURCES = ("prior", "control", "conditional")  # of the white tokens


@torch.no_grad()
def measure_nats(model: gss.GSS, heads: Heads, dataset: Dataset) -> dict[str, dict]:
    """Cross-entropy and accuracy of the white tokens, given the true black ones, by SOURCES.

    Each cell is white once, since both parities are measured.
    """
    device = model.colors.device
    totals = {name: torch.zeros(2, dtype=torch.float64) for name in SOURCES}
    count = 0
    for image, mask in DataLoader(dataset, BATCH, collate_fn=collate):
        grid = grid_of(model, image.to(device), mask.to(device))
        prior = model.prior.to_tokens(grid.features).float()  # (B, V, h, w)
        for parity in (0, 1):
            black = checkerboard(*grid.tokens.shape[1:], parity).to(device)  # (1, h, w)
            white = ~black & ~grid.ignored  # (B, h, w)
            count += int(white.sum())
            answers = {"prior": prior, **heads.logits(grid.features, grid.tokens, black)}
            for name, logits in answers.items():
                nats = F.cross_entropy(logits, grid.tokens, reduction="none")[white]
                right = (logits.argmax(1) == grid.tokens)[white]
                totals[name] += torch.stack([nats.double().sum(), right.sum()]).cpu()
    found = {}
    for name, total in totals.items():
        nats, accuracy = (total / count).tolist()
        found[name] = {"nats": round(nats, 4), "token_accuracy": round(accuracy, 4)}
    return found


def regions(ids: Tensor) -> tuple[Tensor, Tensor]:
    """Find the 4-connected sets of pixels of one class in ids (B, H, W).

    Returns:
        The number of the region of each pixel (B, H, W), and the size in pixels of each number,
        (B·H·W,), which is 0 for numbers that no region has.
    """
    labels = torch.arange(ids.numel(), device=ids.device).view(ids.shape)
    across = ids[:, :, 1:] == ids[:, :, :-1]
    down = ids[:, 1:] == ids[:, :-1]
    while True:
        grown = labels.clone()
        for joined, one, other in (
            (across, grown[:, :, 1:], grown[:, :, :-1]),
            (down, grown[:, 1:], grown[:, :-1]),
        ):
            larger = torch.maximum(one, other)
            one.copy_(torch.where(joined, larger, one))
            other.copy_(torch.where(joined, torch.maximum(larger, other), other))
        # A label is a pixel of the same region, whose own label may be larger still.
        grown = grown.flatten()[grown]
        if torch.equal(grown, labels):
            return labels, labels.flatten().bincount(minlength=ids.numel())
        labels = grown


def texture(ids: Tensor, mask: Tensor, small: int) -> Tensor:
    """Class ids and true masks (B, H, W) → (B, 2): the number of regions, and the speckle in %.

    Pixels that the true mask leaves out belong to no region.

    Args:
        small: speckle is the share of the labelled pixels in regions of fewer pixels than this.
    """
    ids = ids.masked_fill(mask == IGNORE, IGNORE)
    labels, sizes = regions(ids)
    labelled = ids != IGNORE
    own = torch.arange(ids.numel(), device=ids.device).view(ids.shape)
    count = ((labels == own) & labelled).sum((1, 2))  # (B,)
    tiny = ((sizes[labels] < small) & labelled).sum((1, 2))  # (B,)
    return torch.stack([count, 100 * tiny / labelled.sum((1, 2)).clamp(min=1)], 1)


@torch.no_grad()
def decode(model: gss.GSS, tokens: Tensor, image: Tensor) -> Tensor:
    """Tokens (B, h, w) of padded photographs, and the photographs (B, 3, H, W) → ids (B, H, W)."""
    height, width = image.shape[2:]
    sides = pad_to_multiple(image).shape[2:]
    ids = model.inverse.classify(model.tokenizer.decode(tokens))  # (B, h·stride, w·stride)
    return resize_mask(ids, sides, model.num_classes)[:, :height, :width]


@torch.no_grad()
def measure_masks(
    model: gss.GSS, heads: Heads, dataset: Dataset, *, seed: int = 0, progress: bool = False
) -> dict[str, dict]:
    """MIoU (%), regions and speckle (%) of all decoded masks; and the gain over the control.

    Args:
        seed: of the samples. All SOURCES use the same random numbers.
    """
    device = model.colors.device
    generator = torch.Generator(device).manual_seed(seed)
    small = 2 * model.tokenizer.stride**2
    textures: dict[str, list[Tensor]] = {}

    def sample(logits: Tensor) -> Tensor:
        return sample_tokens(logits, generator=generator)

    def classify(image: Tensor, mask: Tensor) -> dict[str, Tensor]:
        grid = grid_of(model, image, mask)
        prior = model.prior.to_tokens(grid.features).float()  # (B, V, h, w)
        black = checkerboard(*grid.tokens.shape[1:], 0).to(device)  # (1, h, w)
        tokens = {"true tokens": grid.tokens}
        for how, choose in (("arg-max", lambda logits: logits.argmax(1)), ("sample", sample)):
            state = generator.get_state()
            first = choose(prior)  # (B, h, w)
            tokens[f"{how}, prior"] = first
            for name, logits in heads.logits(grid.features, first, black).items():
                generator.set_state(state)
                tokens[f"{how}, {name}"] = torch.where(black, first, choose(logits))
        answers = {name: decode(model, grid, image) for name, grid in tokens.items()}
        for name, ids in {**answers, "true masks": mask}.items():
            textures.setdefault(name, []).append(texture(ids, mask, small))
        return answers

    how = {"batch": BATCH, "device": device, "progress": progress}
    result = evaluate_masks(classify, dataset, model.num_classes, **how)
    rows = {}
    for name, parts in textures.items():
        count, speckle = torch.cat(parts).double().mean(0).tolist()
        rows[name] = {"regions": round(count, 2), "speckle": round(speckle, 3)}
        if name in result.matrices:
            rows[name]["miou"] = round(100 * result[name].miou, 3)
        if name.endswith("conditional"):
            control = result.matrices[name.replace("conditional", "control")]
            interval = paired_bootstrap(control, result.matrices[name])
            rows[name]["over_control"] = [round(100 * value, 3) for value in interval]
    return rows


def nats_table(seeds: Mapping[str, Mapping]) -> str:
    """Format the cross-entropies of the white tokens, mean ± standard deviation over seeds."""
    lines = {}
    for name in SOURCES:
        found = [result["tokens"][name] for result in seeds.values()]
        lines[name] = [
            spread([row["nats"] for row in found], 3),
            spread([100 * row["token_accuracy"] for row in found], 1),
        ]
    return text_table(("white tokens from", "nats", "right (%)"), lines)


def mask_table(seeds: Mapping[str, Mapping]) -> str:
    """Format the measures of the decoded masks, mean ± standard deviation over seeds."""
    lines = {}
    for name in next(iter(seeds.values()))["masks"]:
        rows = [result["masks"][name] for result in seeds.values()]
        lines[name] = [
            spread([row.get(key) for row in rows]) for key in ("miou", "regions", "speckle")
        ]
    return text_table(("tokens", "mIoU", "regions", "speckle (%)"), lines)


parser = partial(
    new_parser,
    __file__,
    __doc__,
    preset="scenes-cpu",
    weights={},
    data=None,
    seeds=3,
    steps=option(300, "of the heads' training"),
    pictures=option(2000, "validation pictures that the heads learn"),
    held_out=option(200, "test pictures"),
    work="runs/{preset}/checkerboard",
    record="runs/{preset}/checkerboard.json",
)


def main(argv: list[str] | None = None) -> None:
    """Train and measure every seed, print the tables. The record is written after each seed."""
    run = Run(parser(), argv)
    given = run.given
    preset = gss.get_preset(given.preset)
    model = gss.create_model(preset, pretrained=given.weights).to(given.device)
    held_out = preset_of(preset, given.held_out)
    held_out = subset(gss.create_dataset(held_out, "test", folder=given.data), given.held_out)
    warmup = max(1, given.steps // 10)
    preset = preset.with_schedule("prior", steps=given.steps, warmup=warmup, lr=1e-3, ema=0.98)
    schedule = preset.schedule("prior")
    options = gss.LoopOptions(save_every=100, progress=not given.quiet)
    job = Job(preset_of(preset, given.pictures), run.path(given.work), given.data, options=options)
    pictures = subset(job.pictures("val"), given.pictures)
    held_out = InMemory(held_out)
    settings = {
        "pictures": len(pictures),
        "held_out": len(held_out),
        "batch": schedule.batch,
        "lr": schedule.lr,
        "prior_sha256": weights_hash(model.prior),
    }
    seeds = {}
    for seed in range(given.seeds):
        heads, log = train_heads(model, job, pictures, seed)
        tokens = measure_nats(model, heads, held_out)
        saved = tokens["control"]["nats"] - tokens["conditional"]["nats"]
        seeds[str(seed)] = {
            "tokens": tokens,
            "saved": {"white": round(saved, 4), "all": round(saved / 2, 4)},
            "masks": measure_masks(model, heads, held_out, seed=seed, progress=not given.quiet),
            "seconds": log[-1]["seconds"],
            "log": [{k: e[k] for k in ("step", "control", "conditional")} for e in log],
        }
        run.write(preset.name, {**settings, "seeds": seeds})
        print(f"seed {seed}: {saved:.3f} nats saved a white token", flush=True)
    parameters = sum(p.numel() for p in heads.conditional.parameters())
    run.write(preset.name, {**settings, "parameters": parameters, "seeds": seeds})
    print(f"\n{nats_table(seeds)}\n\n{mask_table(seeds)}")


def preset_of(preset: gss.Preset, pictures: int) -> gss.Preset:
    """Return the preset with another number of pictures in its validation and test splits."""
    return replace(preset, data=replace(preset.data, eval_pictures=pictures))


if __name__ == "__main__":
    main()
