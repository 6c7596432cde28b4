"""An exact look-up table for "which palette colour is nearest?" over the RGB cube.

The cube [0, 1]³ is cut into side³ cells. For each cell the table lists the candidates: the classes
that are nearest at some point of the cell. Most cells have one candidate, so the class of a pixel
is looked up. In the other cells only the candidates are compared. The results equal those of a
float32 comparison with every colour, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

SIDE = 64  # a power of two: x·SIDE is exact in float32, so no pixel falls into a neighbouring cell
COARSE_SIDE = 8
# A limit while the table is built, at about 80 bytes each. Beyond it the cells stay larger, as for
# colours that all lie in one corner.
MOST_CANDIDATES = 1 << 20
# On a CPU so few that torch does not split a small step among threads, which would cost more time
# than it saves. On a GPU enough to keep it busy.
PIXELS_AT_ONCE = {"cpu": 1 << 15, "cuda": 1 << 22}
SHARED = -1  # in place of a class: the cell has several candidates
OUTSIDE = -2  # in place of a class: the pixel lies outside the cube


class ColorTable(NamedTuple):
    """The candidates of each cell.

    Attributes:
        colors: (K, 3) float32, the palette that the table was built for.
        side: cells along each side of the cube.
        start: (side³ + 1) int; the candidates of a cell are `ids[start[cell] : start[cell + 1]]`,
            ascending, with cell = (r·side + g)·side + b.
        ids: the candidates of all cells, short.
        only: (side³ + 1) short, a cell's class if it has one candidate, else SHARED. The last
            entry, for pixels outside the cube, is OUTSIDE.
    """

    colors: Tensor
    side: int
    start: Tensor
    ids: Tensor
    only: Tensor

    def fits(self, colors: Tensor) -> bool:
        """Whether this table was built for exactly these colours, on their device."""
        return self.colors.device == colors.device and torch.equal(self.colors, colors)


def build_table(colors: Tensor) -> ColorTable:
    """Palette (K, 3) float32 with K ≤ 4096 → ColorTable on the palette's device.

    It begins with COARSE_SIDE³ cells and halves their sides again and again. The candidates of a
    small cell are among the candidates of the large cell that contains it.
    """
    beta = colors.double()
    # Each of two float32 distances is rounded by at most 5·(eps/2) of the largest distance. Both
    # together are below 8·eps of it.
    farthest = torch.maximum(beta.abs(), (1 - beta).abs()).square().sum(1).max()
    slack = 8 * torch.finfo(torch.float32).eps * float(farthest)
    distinct = first_of_equals(colors).unique()  # ascending; a later equal would lose every tie
    side = COARSE_SIDE
    cell = torch.arange(side**3, device=colors.device).repeat_interleave(len(distinct))
    ids = distinct.repeat(side**3)
    cell, ids = _prune(cell, ids, side, beta, slack)
    while side < SIDE and 8 * len(ids) <= MOST_CANDIDATES:
        cell, ids = _split(cell, ids, side)
        side *= 2
        cell, ids = _prune(cell, ids, side, beta, slack)
    count = torch.bincount(cell, minlength=side**3)  # (side³,)
    start = torch.cat([count.new_zeros(1), count.cumsum(0)])  # (side³ + 1,)
    only = torch.where(count == 1, ids[start[:-1]], SHARED)
    only = torch.cat([only, only.new_tensor([OUTSIDE])])  # (side³ + 1,)
    return ColorTable(colors, side, start.int(), ids.short(), only.short())


def first_of_equals(colors: Tensor) -> Tensor:
    """Colours (K, D) → for each of them the number of the first colour that equals it, (K,)."""
    _, group = colors.unique(dim=0, return_inverse=True)  # equal colours have one group
    number = torch.arange(len(colors), device=colors.device)
    first = torch.full_like(number, len(colors)).scatter_reduce(0, group, number, "amin")
    return first[group]


def _split(cell: Tensor, ids: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Give each candidate of a cell to all eight cells that the cell is cut into.

    The result is sorted by cell, then by id.
    """
    red = cell // side**2
    green = cell // side % side
    blue = cell % side
    octant = torch.arange(8, device=cell.device)[:, None]  # (8, 1)
    red = 2 * red + octant // 4
    green = 2 * green + octant // 2 % 2
    blue = 2 * blue + octant % 2
    parts = (red * 2 * side + green) * 2 * side + blue  # (8, pairs)
    parts, order = parts.flatten().sort(stable=True)
    return parts, ids.repeat(8)[order]


def _prune(
    cell: Tensor, ids: Tensor, side: int, beta: Tensor, slack: float
) -> tuple[Tensor, Tensor]:
    """Keep the candidates that can be nearest somewhere in their cell.

    Let j be the class nearest to the cell's centre m. Then ‖x − β_k‖² − ‖x − β_j‖² is linear in x,
    with gradient 2(β_j − β_k): over a cube of side h around m it falls by h·‖β_j − β_k‖₁ at most.
    If it is above zero even then, k is never nearest.
    """
    corner = (cell // side**2, cell // side % side, cell % side)
    distance = sum(
        ((at + 0.5) / side - channel[ids]).square_() for at, channel in zip(corner, beta.T)
    )  # (pairs,)
    least = distance.new_full((side**3,), torch.inf)
    least = least.scatter_reduce(0, cell, distance, "amin")[cell]  # (pairs,)
    nearest = ids.new_full((side**3,), len(beta))
    winners = torch.where(distance == least, ids, len(beta))
    nearest = nearest.scatter_reduce(0, cell, winners, "amin")[cell]  # (pairs,)
    fall = sum((channel[nearest] - channel[ids]).abs_() for channel in beta.T) / side
    kept = distance - least <= fall + slack
    return cell[kept], ids[kept]


def slices(pixels: Tensor) -> Iterator[slice]:
    """Cut pixels (D, N) into runs of at most PIXELS_AT_ONCE."""
    at_once = PIXELS_AT_ONCE.get(pixels.device.type, PIXELS_AT_ONCE["cpu"])
    return (slice(start, start + at_once) for start in range(0, pixels.shape[1], at_once))


def table_nearest(table: ColorTable, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels (3, N) float32 → class ids (N,) long, and the indices of pixels outside the cube.

    Pixels outside the cube get the id OUTSIDE. The lowest id wins a tie. Beside the ids it needs
    about 60 bytes for each of PIXELS_AT_ONCE pixels.
    """
    ids = torch.empty(pixels.shape[1], dtype=torch.long, device=pixels.device)
    for run in slices(pixels):
        channels = pixels[:, run].unbind()
        cell = _cell_of(channels, table.side)
        found = table.only.index_select(0, cell).long()
        shared = (found == SHARED).nonzero().squeeze(1)
        found[shared] = _compare(table, [channel[shared] for channel in channels], cell[shared])
        ids[run] = found
    return ids, (ids == OUTSIDE).nonzero().squeeze(1)


def _cell_of(channels: Sequence[Tensor], side: int) -> Tensor:
    """Three channels (N,) → cell numbers (N,) int; side³ outside the cube, and for NaN."""
    cell = torch.zeros_like(channels[0], dtype=torch.int)
    inside = torch.ones_like(channels[0], dtype=torch.bool)
    for channel in channels:
        inside &= (channel >= 0) & (channel <= 1)
        # The clamp puts 1.0 into the last cell.
        cell.mul_(side).add_((channel * side).clamp_(0, side - 1).int())
    return cell.masked_fill_(~inside, side**3)


def _compare(table: ColorTable, channels: Sequence[Tensor], cell: Tensor) -> Tensor:
    """The nearest candidate for pixels (three channels (N,)) in cells (N,).

    Each round compares the next candidate of every pixel that has one more.
    """
    at = table.start[cell]
    end = table.start[cell + 1]
    ids = table.ids[at].long()
    least = _squared_distance(channels, table.colors, ids)
    pixel = torch.arange(len(cell), device=cell.device)
    while True:
        at = at + 1
        more = (at < end).nonzero().squeeze(1)
        if not len(more):
            return ids
        at, end, pixel = at[more], end[more], pixel[more]
        channels = [channel[more] for channel in channels]
        candidate = table.ids[at].long()
        distance = _squared_distance(channels, table.colors, candidate)
        nearer = distance < least[pixel]  # not ≤, so the lower id wins a tie
        ids[pixel[nearer]] = candidate[nearer]
        least[pixel[nearer]] = distance[nearer]


def _squared_distance(channels: Sequence[Tensor], colors: Tensor, ids: Tensor) -> Tensor:
    """‖x − β_id‖² (N,) in float32, summed channel by channel as in `nearest_by_comparison`."""
    total = torch.zeros_like(channels[0])
    for values, of_colors in zip(channels, colors.T):
        total += (values - of_colors[ids]).square_()
    return total
