"""X, the palette: class → colour (supplement, section B)."""

from gss_lite.palette.constructions import (
    CONSTRUCTIONS,
    arithmetic_colors,
    arithmetic_palette,
    misaligned_palette,
    random_additive_palette,
    random_palette,
    released_ade20k_palette,
    released_cityscapes_palette,
    released_mseg_palette,
    shuffled,
)
from gss_lite.palette.maxmin import (
    DEFICIENCIES,
    SPACES,
    chroma,
    distances,
    farthest_point_palette,
    get_space,
    lightness,
    max_min_palette,
    simulate_deficiency,
    srgb_to_oklab,
)
from gss_lite.palette.palette import Palette, paint

__all__ = [
    "CONSTRUCTIONS",
    "DEFICIENCIES",
    "SPACES",
    "Palette",
    "arithmetic_colors",
    "arithmetic_palette",
    "chroma",
    "distances",
    "farthest_point_palette",
    "get_space",
    "lightness",
    "max_min_palette",
    "misaligned_palette",
    "paint",
    "random_additive_palette",
    "random_palette",
    "released_ade20k_palette",
    "released_cityscapes_palette",
    "released_mseg_palette",
    "shuffled",
    "simulate_deficiency",
    "srgb_to_oklab",
]
