"""Nearest colour at K = 150 on 1024 × 1024 pixels, against the broadcast formula.

The answers are the same; it is at least 8 times faster and takes at most 1/20 of the memory.
"""

from __future__ import annotations

import pytest
import torch
from measure import measure, peak_extra_bytes, report
from torch import Tensor

from gss_lite.inverse import NearestColor, nearest_by_comparison
from gss_lite.palette.maxmin import farthest_point_palette

CLASSES, SIDE = 150, 1024


def broadcast(maskige: Tensor, colors: Tensor) -> Tensor:
    """The plain formula: (B, K, 3, H, W) squared differences, then their sum and its arg-min."""
    return (maskige[:, None] - colors[None, :, :, None, None]).square().sum(2).argmin(1)


def matrix_product(maskige: Tensor, colors: Tensor) -> Tensor:
    """Arg-max of 2x̂·β_k − ‖β_k‖² in chunks of pixels, for comparison.

    It differs from the others where rounding decides.
    """
    bias = colors.square().sum(1)
    parts = maskige.flatten(2)[0].T.split(1 << 14)
    return torch.cat(
        [torch.addmm(bias, part, colors.T, beta=-1, alpha=2).argmax(1) for part in parts]
    ).view(1, SIDE, SIDE)


def pictures(colors: Tensor) -> dict[str, Tensor]:
    """Two maskiges (1, 3, SIDE, SIDE).

    One is noise, where most pixels are contested. The other has painted patches of 8 × 8 pixels,
    with noise on top.
    """
    generator = torch.Generator().manual_seed(0)
    patches = torch.randint(len(colors), (SIDE // 8, SIDE // 8), generator=generator)
    painted = colors[patches.repeat_interleave(8, 0).repeat_interleave(8, 1)].movedim(-1, 0)[None]
    noise = 0.03 * torch.randn(painted.shape, generator=generator)
    return {
        "every colour alike": torch.rand(1, 3, SIDE, SIDE, generator=generator),
        "noisy maskige": (painted + noise).clamp(0, 1),
    }


@pytest.mark.parametrize("name", ["every colour alike", "noisy maskige"])
def test_nearest_color(name: str) -> None:
    colors = farthest_point_palette(CLASSES).colors
    maskige = pictures(colors)[name]
    ways = {
        "broadcast (plain)": lambda: broadcast(maskige, colors),
        "chunked matrix product": lambda: matrix_product(maskige, colors),
        "colour by colour": lambda: nearest_by_comparison(maskige.flatten(2)[0], colors).view(
            1, SIDE, SIDE
        ),
        "NearestColor, table to build": lambda: NearestColor(colors).classify(maskige),
    }
    inverse = NearestColor(colors)
    ways["NearestColor"] = lambda: inverse.classify(maskige)

    expected = broadcast(maskige, colors)
    for way in ("colour by colour", "NearestColor, table to build", "NearestColor"):
        assert torch.equal(ways[way](), expected), f"{way} differs from the plain formula"
    agreement = float((ways["chunked matrix product"]() == expected).double().mean())

    rows = {
        way: (measure(run, 3 if way.startswith("broadcast") else 5), peak_extra_bytes(run))
        for way, run in ways.items()
    }
    report(f"nearest colour, K = {CLASSES}, {SIDE} x {SIDE}, {name}", rows)
    print(f"chunked matrix product agrees on {agreement:.6%} of the pixels, the others on all")
    seconds, size = rows["NearestColor"]
    plain_seconds, plain_size = rows["broadcast (plain)"]
    assert plain_seconds / seconds >= 8
    assert plain_size / max(size, rows["NearestColor, table to build"][1]) >= 20
