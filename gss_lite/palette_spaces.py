"""Colour spaces in which the distance between two palette colours can be measured, and colour vision deficiency.

RGB is what the paper measures in. OKLab (Ottosson, 2020) is built so that equal distances look
about equally different to a person; a tokenizer is no person, which is why notebook 03 compares the
two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_LMS = torch.tensor(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ],
    dtype=torch.float64,
)
_LAB = torch.tensor(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ],
    dtype=torch.float64,
)

# Machado, Oliveira and Fernandes (2009), severity 1.0, on linear RGB.
_DEFICIENCY = {
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
DEFICIENCIES = tuple(_DEFICIENCY)


def srgb_to_linear(colors: Tensor) -> Tensor:
    """SRGB in [0, 1] → linear light in [0, 1], elementwise (IEC 61966-2-1)."""
    return torch.where(
        colors <= 0.04045, colors / 12.92, ((colors.clamp_min(0) + 0.055) / 1.055) ** 2.4
    )


def linear_to_srgb(colors: Tensor) -> Tensor:
    """Linear light → sRGB, elementwise; values below 0 stay below 0."""
    return torch.where(
        colors <= 0.0031308, 12.92 * colors, 1.055 * colors.clamp_min(0) ** (1 / 2.4) - 0.055
    )


def srgb_to_oklab(colors: Tensor) -> Tensor:
    """SRGB (…, 3) in [0, 1] → OKLab (…, 3): L in [0, 1], a and b about −0.4 … 0.4."""
    lms = srgb_to_linear(colors) @ _LMS.to(colors).T
    return torch.copysign(lms.abs() ** (1 / 3), lms) @ _LAB.to(colors).T


def oklab_to_srgb(colors: Tensor) -> Tensor:
    """OKLab (…, 3) → sRGB (…, 3); outside [0, 1] where the colour is outside the RGB gamut."""
    lms = (colors @ torch.linalg.inv(_LAB).to(colors).T) ** 3
    return linear_to_srgb(lms @ torch.linalg.inv(_LMS).to(colors).T)


@dataclass(frozen=True)
class ColorSpace:
    """Coordinates in which distances are Euclidean. `unit` turns a distance into the figure that people quote."""

    name: str
    from_rgb: Callable[[Tensor], Tensor]
    to_rgb: Callable[[Tensor], Tensor]
    unit: float


SPACES = {
    space.name: space
    for space in (
        ColorSpace("RGB", torch.clone, torch.clone, 255.0),  # the paper's 0–255 scale
        ColorSpace("OKLab", srgb_to_oklab, oklab_to_srgb, 100.0),  # lightness from 0 to 100
    )
}


def get_space(name: str) -> ColorSpace:
    """A colour space by name, or ValueError listing the names there are."""
    if name not in SPACES:
        raise ValueError(f"no colour space named {name!r}; there are: {', '.join(SPACES)}")
    return SPACES[name]


def distances(colors: Tensor, space: str = "RGB") -> Tensor:
    """All K(K−1)/2 distances between colours (K, 3) in [0, 1]: on the 0–255 scale for RGB, with L from 0 to 100 for OKLab."""
    chosen = get_space(space)
    return chosen.unit * torch.pdist(chosen.from_rgb(colors.double()))


def simulate_deficiency(colors: Tensor, kind: str) -> Tensor:
    """How sRGB colours (…, 3) look to a person with "protanopia", "deuteranopia" or "tritanopia" (Machado et al., 2009).

    Raises:
        ValueError: another kind.
    """
    if kind not in _DEFICIENCY:
        raise ValueError(
            f"no colour vision deficiency named {kind!r}; there are: {', '.join(DEFICIENCIES)}"
        )
    matrix = torch.tensor(_DEFICIENCY[kind], dtype=colors.dtype, device=colors.device)
    return linear_to_srgb((srgb_to_linear(colors) @ matrix.T).clamp(0, 1))
