"""X, the palette: class → colour (supplement, section B). The public names of this folder."""

# ruff: noqa: F401 (what is imported here is for others to import)

from gss_lite.palette.constructions import (
    CONSTRUCTIONS,
    STARTS,
    T,
    arithmetic_colors,
    arithmetic_palette,
    misaligned_palette,
    random_additive_palette,
    random_palette,
    released_ade20k_palette,
    released_cityscapes_palette,
    released_mseg_palette,
    shuffled,
    unequal_intervals,
)
from gss_lite.palette.learned import (
    JointResult,
    LearnedPalette,
    cascade_loss,
    learn_palette,
    nearest_color_loss,
    rebuild_error,
    straight_through_reconstruct,
    train_jointly,
)
from gss_lite.palette.maxmin import (
    SPACES,
    ColorSpace,
    chroma,
    distances,
    farthest_point_palette,
    farthest_points,
    greedy_start,
    lightness,
    max_min_palette,
    spread,
)
from gss_lite.palette.palette import Palette, paint
from gss_lite.palette.refinement import (
    blend_collisions,
    border_lengths,
    by_neighbours,
    refine_palette,
)
from gss_lite.palette.statistics import permutation_test, rank_correlation, saturation
