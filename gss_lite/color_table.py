"""An exact look-up table for "which palette colour is nearest?" over the RGB cube.

The cube [0, 1]³ is cut into side³ cells. For each cell the table lists the classes that are nearest
somewhere in it. Most cells have one candidate, and a pixel there is answered by look-up. In the
others only the few candidates are compared. The answers equal those of comparing with every colour
in float32, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

SIDE = 64  # a power of two: x·SIDE is exact in float32, so no pixel falls into a neighbouring cell
COARSE_SIDE = 8
# While the table is built, at about 80 bytes each. Colours crowded in one corner get larger cells.
MOST_CANDIDATES = 1 << 20
# On a CPU so few that torch does not split each small step among threads: their waiting for each
# other costs more than it saves. On a GPU enough to fill it.
PIXELS_AT_ONCE = {"cpu": 1 << 15, "cuda": 1 << 22}
SHARED = -1  # in place of a class: the cell has several candidates
OUTSIDE = -2  # in place of a class: the pixel lies outside the cube


class ColorTable(NamedTuple):
    """The candidates of each cell.

    Attributes:
        colors: (K, 3) float32, which the table was built for.
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

    Cells are refined from COARSE_SIDE³ on: the candidates of a cell are among those of the cell of
    twice its size around it.
    """
    beta = colors.double()
    # Two float32 distances are each rounded by at most 5·(eps/2) of the largest distance there is;
    # 8·eps covers both.
    farthest = torch.maximum(beta.abs(), (1 - beta).abs()).square().sum(1).max()
    slack = 8 * torch.finfo(torch.float32).eps * float(farthest)
    distinct = _lowest_ids(colors)
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


def _lowest_ids(colors: Tensor) -> Tensor:
    """The first class of every distinct colour, ascending; a later twin would lose every tie."""
    unique, owner = colors.unique(dim=0, return_inverse=True)
    ids = torch.arange(len(colors), device=colors.device)
    first = ids.new_full((len(unique),), len(colors)).scatter_reduce(0, owner, ids, "amin")
    return first.sort().values


def _split(cell: Tensor, ids: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Hand each candidate of a cell to its eight parts in a grid of twice the side.

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
    """Pixels (3, N) float32 → class ids (N,) long, and where pixels lie outside the cube.

    Those outside get the id OUTSIDE; their indices are the second result. Ties go to the lowest
    id. Beyond the ids this takes about 60 bytes for each of PIXELS_AT_ONCE pixels.
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
        # The clamp brings 1.0 into the last cell.
        cell.mul_(side).add_((channel * side).clamp_(0, side - 1).int())
    return cell.masked_fill_(~inside, side**3)


def _compare(table: ColorTable, channels: Sequence[Tensor], cell: Tensor) -> Tensor:
    """The nearest candidate for pixels (three channels (N,)) in cells (N,).

    There is one round for each candidate, with fewer pixels each time.
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
        nearer = distance < least[pixel]  # strict: of two equals the lower id stays
        ids[pixel[nearer]] = candidate[nearer]
        least[pixel[nearer]] = distance[nearer]


def _squared_distance(channels: Sequence[Tensor], colors: Tensor, ids: Tensor) -> Tensor:
    """‖x − β_id‖² (N,) in float32, added channel by channel as the exhaustive comparison does."""
    total = torch.zeros_like(channels[0])
    for values, of_colors in zip(channels, colors.T):
        total += (values - of_colors[ids]).square_()
    return total
