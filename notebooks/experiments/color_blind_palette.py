"""Colours that stay apart for colour-blind readers: a search over four kinds of colour vision.

The least OKLab distance is measured as people with full vision, protanopia, deuteranopia and
tritanopia see the colours (Machado et al., 2009, for a complete deficiency). The search makes the
smallest of the four as large as it can. It climbs by gradient from many random starts at once, and
then tries 8-bit colours near the best ones. The palette is kept beside the record; its colours are
sorted from dark to light.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from gss_lite import Palette
from gss_lite.palette.maxmin import distances, lightness, srgb_to_oklab
from gss_lite.plotting_palettes import DEFICIENCIES, simulate_deficiency
from notebooks.experiments.runner import Run, new_parser, option

FULL = "full vision"
SHARPNESS = (1.0, 8.0)  # of the soft minimum, in units of 1 / OKLab distance, first and last
RATE = 0.03  # of Adam at the first step; it falls to zero


def views(colors: Tensor) -> dict[str, Tensor]:
    """Colours (…, K, 3) in [0, 1] → how four kinds of people see them, each (…, K, 3)."""
    seen = {kind: simulate_deficiency(colors, kind) for kind in DEFICIENCIES}
    return {FULL: colors, **seen}


def least_distances(palette: Palette) -> dict[str, float]:
    """The least OKLab distance for each kind of colour vision; black and white are 100 apart."""
    return {
        kind: float(distances(colors, "OKLab").min())
        for kind, colors in views(palette.colors.double()).items()
    }


def pair_distances(colors: Tensor) -> Tensor:
    """Colours (S, K, 3) in [0, 1] → OKLab distances (S, 4 · K(K−1)/2), pairs of all four views."""
    first, second = torch.triu_indices(colors.shape[1], colors.shape[1], offset=1)
    points = [100 * srgb_to_oklab(seen) for seen in views(colors).values()]  # each (S, K, 3)
    gaps = [point[:, first] - point[:, second] for point in points]
    # A little is added, because the root has no slope at zero.
    return torch.cat([(gap.square().sum(-1) + 1e-6).sqrt() for gap in gaps], dim=1)


def climb(classes: int, starts: int, steps: int, seed: int) -> tuple[Tensor, Tensor]:
    """Gradient ascent from random starts → the best colours of each (S, K, 3), their least (S,).

    The minimum over pairs has a slope for one pair only. A soft minimum that grows sharper stands
    in for it.
    """
    generator = torch.Generator().manual_seed(seed)
    colors = torch.rand(starts, classes, 3, generator=generator, dtype=torch.float64)
    best = colors.clone()
    reached = pair_distances(colors).amin(1)
    colors.requires_grad_()
    optimizer = torch.optim.Adam([colors], lr=RATE)
    for step in range(steps):
        done = step / steps
        sharpness = SHARPNESS[0] * (SHARPNESS[1] / SHARPNESS[0]) ** done
        optimizer.param_groups[0]["lr"] = RATE * (1 - done)
        soft = -torch.logsumexp(-sharpness * pair_distances(colors), dim=1) / sharpness  # (S,)
        (colors.grad,) = torch.autograd.grad(-soft.sum(), colors)
        # Roots have an infinite slope at black.
        colors.grad.nan_to_num_(0.0, 0.0, 0.0)
        optimizer.step()
        with torch.no_grad():
            colors.clamp_(0, 1)
            least = pair_distances(colors).amin(1)
            better = least > reached
            best[better] = colors[better]
            reached = torch.maximum(reached, least)
    return best, reached


@torch.no_grad()
def polish(colors: Tensor, trials: int, seed: int) -> Tensor:
    """Colours (K, 3) in [0, 1] → 8-bit colours (K, 3) near them, by random changes that are kept.

    A trial moves one of the two colours that are closest, by up to three levels a channel. A change
    that is neither better nor worse is kept too.
    """
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.triu_indices(len(colors), len(colors), offset=1)
    best = (255 * colors).round()
    gaps = pair_distances(best[None] / 255)[0]  # pairs of four views
    for _ in range(trials):
        pair = int(gaps.argmin()) % len(first)
        moved = (first, second)[int(torch.randint(2, (), generator=generator))][pair]
        change = torch.randint(-3, 4, (3,), generator=generator)
        trial = best.clone()
        trial[moved] = (trial[moved] + change).clamp(0, 255)
        new = pair_distances(trial[None] / 255)[0]
        if new.min() >= gaps.min():
            best, gaps = trial, new
    return best / 255


def search(classes: int, *, starts: int, steps: int, trials: int, seed: int = 0) -> Palette:
    """A palette for readers with any kind of colour vision, sorted from dark to light."""
    found, least = climb(classes, starts, steps, seed)
    best = found[least.argmax()]
    print(f"gradient: {least.max():.2f}, the median start {least.median():.2f}", flush=True)
    colors = polish(best, trials, seed)
    return Palette(colors[lightness(colors).argsort()], "colour-blind safe")


parser = partial(
    new_parser,
    __file__,
    __doc__,
    classes=option(11, "colours"),
    starts=option(200, "random starts"),
    steps=option(1500, "of the gradient search"),
    trials=option(4000, "changes of 8-bit colours"),
    record="notebooks/records/color-blind-palette.json",
)


def main(argv: list[str] | None = None) -> None:
    """Search, print the least distances, write the record and the palette."""
    run = Run(parser(), argv)
    given = run.given
    how = run.values("starts", "steps", "trials")
    palette = search(given.classes, **how)
    least = least_distances(palette)
    for kind, value in least.items():
        print(f"{kind:12s} {value:5.2f}")
    palette.save(run.record.parent / "palettes" / f"color-blind-{given.classes}.json")
    rounded = {kind: round(value, 3) for kind, value in least.items()}
    run.write("none", {"classes": given.classes, **how, "least_oklab_distance": rounded})


if __name__ == "__main__":
    main()
