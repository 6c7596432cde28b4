"""An exact look-up table for "which palette colour is nearest?" over the RGB cube.

The cube [0, 1]³ is cut into side³ cells. For each cell the table lists the classes that are nearest
*somewhere* in it. Most cells have one candidate, and a pixel there is answered by look-up; in the
others only the few candidates are compared. The answers equal those of comparing with every colour
in float32, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# a power of two, so that x·SIDE is exact in float32 and no pixel is put into a neighbouring cell
SIDE = 64


COARSE_SIDE = 8


# while building, at about 80 bytes each; a palette squeezed into one corner gets a coarser table
MOST_CANDIDATES = 1 << 20


# on the CPU so few that torch does not split each small step among threads,
PIXELS_AT_ONCE = {"cpu": 1 << 15, "cuda": 1 << 22}


# whose waiting for each other costs more than it saves, and ruins the speed on a busy machine; on a
# GPU enough to fill it
SHARED, OUTSIDE = -1, -2


class ColorTable(NamedTuple):
    """Candidates of each cell: `ids[start[cell] : start[cell + 1]]`, ascending, with cell = (r·side + g)·side + b.

    `only` (side³ + 1) short holds a cell's class if there is just one candidate, else SHARED; its
    last entry, for pixels outside the cube, is OUTSIDE.
    """

    colors: Tensor  # (K, 3) float32
    side: int
    start: Tensor  # (side³ + 1) int
    ids: Tensor  # short
    only: Tensor

    def fits(self, colors: Tensor) -> bool:
        """Was this table built for exactly these colours, on their device?"""
        return self.colors.device == colors.device and torch.equal(self.colors, colors)


def build_table(colors: Tensor) -> ColorTable:
    """Palette (K, 3) float32, K ≤ 4096 → ColorTable, on the palette's device.

    Refined from COARSE_SIDE³ cells: a cell's candidates are among those of the cell of twice its
        size around it.
    """
    beta = colors.double()
    # 8·eps covers the rounding of two float32 distances, each within 5·(eps/2) of the largest
    # distance there is.
    slack = (
        8
        * torch.finfo(torch.float32).eps
        * float(torch.maximum(beta.abs(), (1 - beta).abs()).square().sum(1).max())
    )
    first_of_its_color = _lowest_ids(colors)
    side = COARSE_SIDE
    cell = torch.arange(side**3, device=colors.device).repeat_interleave(len(first_of_its_color))
    ids = first_of_its_color.repeat(side**3)
    cell, ids = _prune(cell, ids, side, beta, slack)
    while side < SIDE and 8 * len(ids) <= MOST_CANDIDATES:
        cell, ids = _split(cell, ids, side)
        side *= 2
        cell, ids = _prune(cell, ids, side, beta, slack)
    count = torch.bincount(cell, minlength=side**3)
    start = torch.cat([count.new_zeros(1), count.cumsum(0)])
    only = torch.where(count == 1, ids[start[:-1]], SHARED)
    only = torch.cat([only, only.new_tensor([OUTSIDE])])
    return ColorTable(colors, side, start.int(), ids.short(), only.short())


def _lowest_ids(colors: Tensor) -> Tensor:
    """Ids of the classes that are the first to have their colour, ascending: a later twin loses every tie."""
    unique, owner = colors.unique(dim=0, return_inverse=True)
    ids = torch.arange(len(colors), device=colors.device)
    return (
        ids.new_full((len(unique),), len(colors))
        .scatter_reduce(0, owner, ids, "amin")
        .sort()
        .values
    )


def _split(cell: Tensor, ids: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Hand every candidate of a cell to its eight parts, in a grid of twice the side; sorted by cell, then id."""
    r, g, b = cell // side**2, cell // side % side, cell % side
    octant = torch.arange(8, device=cell.device)[:, None]
    # (8, pairs)
    parts = (
        ((2 * r + octant // 4) * 2 * side + 2 * g + octant // 2 % 2) * 2 * side + 2 * b + octant % 2
    )
    parts, order = parts.flatten().sort(stable=True)
    return parts, ids.repeat(8)[order]


def _prune(
    cell: Tensor, ids: Tensor, side: int, beta: Tensor, slack: float
) -> tuple[Tensor, Tensor]:
    """Keep the candidates that can be nearest somewhere in their cell.

    With j the class nearest to the cell's centre m, ‖x − β_k‖² − ‖x − β_j‖² is linear in x, with
    gradient 2(β_j − β_k): over a cube of side h around m it falls by h·‖β_j − β_k‖₁ at most. If it
    is above zero even then, k is never nearest.
    """
    corner = (cell // side**2, cell // side % side, cell % side)
    # (pairs,)
    distance = sum(
        ((at + 0.5) / side - channel[ids]).square_() for at, channel in zip(corner, beta.T)
    )
    least = distance.new_full((side**3,), torch.inf).scatter_reduce(0, cell, distance, "amin")[cell]
    nearest = ids.new_full((side**3,), len(beta))
    nearest = nearest.scatter_reduce(
        0, cell, torch.where(distance == least, ids, len(beta)), "amin"
    )[cell]
    fall = sum((channel[nearest] - channel[ids]).abs_() for channel in beta.T) / side
    kept = distance - least <= fall + slack
    return cell[kept], ids[kept]


def slices(pixels: Tensor) -> Iterator[slice]:
    """Cut pixels (D, N) into runs of at most PIXELS_AT_ONCE."""
    at_once = PIXELS_AT_ONCE.get(pixels.device.type, PIXELS_AT_ONCE["cpu"])
    return (slice(start, start + at_once) for start in range(0, pixels.shape[1], at_once))


def table_nearest(grid: ColorTable, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels (3, N) float32 → class ids (N,) long and the indices of those outside [0, 1]³, whose id is OUTSIDE.

    Ties go to the lowest id. Extra memory beyond the ids: about 60 bytes for each of PIXELS_AT_ONCE
        pixels.
    """
    ids = torch.empty(pixels.shape[1], dtype=torch.long, device=pixels.device)
    for run in slices(pixels):
        channels = pixels[:, run].unbind()
        cell = _cell_of(channels, grid.side)
        found = grid.only.index_select(0, cell).long()
        shared = (found == SHARED).nonzero().squeeze(1)
        found[shared] = _compare(grid, [channel[shared] for channel in channels], cell[shared])
        ids[run] = found
    return ids, (ids == OUTSIDE).nonzero().squeeze(1)


def _cell_of(channels: Sequence[Tensor], side: int) -> Tensor:
    """Three channels (N,) → cell numbers (N,) int; side³ for pixels outside the cube (NaN included)."""
    cell = torch.zeros_like(channels[0], dtype=torch.int)
    inside = torch.ones_like(channels[0], dtype=torch.bool)
    for channel in channels:
        inside &= (channel >= 0) & (channel <= 1)
        # the clamp brings 1.0 into the last cell
        cell.mul_(side).add_((channel * side).clamp_(0, side - 1).int())
    return cell.masked_fill_(~inside, side**3)


def _compare(grid: ColorTable, channels: Sequence[Tensor], cell: Tensor) -> Tensor:
    """Nearest candidate for pixels (three channels (N,)) in cells (N,): one round per candidate, with ever fewer pixels."""
    at, end = grid.start[cell], grid.start[cell + 1]
    ids = grid.ids[at].long()
    least = _squared_distance(channels, grid.colors, ids)
    pixel = torch.arange(len(cell), device=cell.device)
    while True:
        at = at + 1
        more = (at < end).nonzero().squeeze(1)
        if not len(more):
            return ids
        at, end, pixel, channels = (
            at[more],
            end[more],
            pixel[more],
            [channel[more] for channel in channels],
        )
        candidate = grid.ids[at].long()
        distance = _squared_distance(channels, grid.colors, candidate)
        nearer = distance < least[pixel]  # strict: of two equals the lower id stays
        ids[pixel[nearer]] = candidate[nearer]
        least[pixel[nearer]] = distance[nearer]


def _squared_distance(channels: Sequence[Tensor], colors: Tensor, ids: Tensor) -> Tensor:
    """‖x − β_id‖² (N,) in float32, added up channel by channel as the exhaustive comparison does."""
    total = torch.zeros_like(channels[0])
    for values, of_colors in zip(channels, colors.T):
        total += (values - of_colors[ids]).square_()
    return total
