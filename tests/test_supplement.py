"""Supplement A.2 as numbers: the bounds S.4 and S.5, and the classes that S.8 keeps."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from gss_lite.inverse import LeastSquares, NearestColor
from gss_lite.palette import (
    released_ade20k_palette,
    released_cityscapes_palette,
    released_mseg_palette,
)


def kept(inverse, colors):
    """How many classes the inverse returns at their own colour."""
    maskige = colors.T[None, :, None]  # (1, 3, 1, K)
    return int((inverse.classify(maskige).flatten() == torch.arange(len(colors))).sum())


@pytest.mark.parametrize(
    ("palette", "classes", "by_formula"),
    [
        (released_cityscapes_palette, 19, 5),
        (released_ade20k_palette, 150, 10),
        (released_mseg_palette, 194, 9),
    ],
)
def test_the_formula_loses_classes_that_the_nearest_colour_keeps(palette, classes, by_formula):
    colors = palette().colors
    assert kept(NearestColor(colors), colors) == len(colors) == classes
    assert kept(LeastSquares(colors), colors) == by_formula


@pytest.mark.parametrize("seed", range(5))
def test_each_bound_is_at_least_as_large_as_the_one_before(seed):
    generator = torch.Generator().manual_seed(seed)
    colors = torch.rand(20, 3, generator=generator)
    beta, gamma = colors.double(), LeastSquares(colors).gamma.double()
    one_hot = F.one_hot(torch.randint(20, (500,), generator=generator), 20).double()
    clean = one_hot @ beta
    decoded = clean + 0.1 * torch.randn(500, 3, generator=generator).double()
    tau, rest = (decoded - clean).norm(), (clean @ gamma - one_hot).norm()
    bounds = [
        (decoded @ gamma - one_hot).norm(),
        ((decoded - clean) @ gamma).norm() + rest,
        tau * gamma.norm() + rest,  # S.4
        tau * gamma.norm() + one_hot.norm() * (beta @ gamma - torch.eye(20)).norm(),  # S.5
    ]
    assert all(small <= large for small, large in zip(bounds, bounds[1:]))
    assert bounds[3] > 3 * bounds[2], "S.5 is loose by about the root of the number of classes"
