"""Many masks at once: which ones, how they are cut into tiles, and where their borders lie."""

from __future__ import annotations

import pytest
import torch

from gss_lite.contracts import IGNORE
from gss_lite.data import load_masks, near_borders, tiles
from gss_lite.data.masks import MASK_SETS, class_names, evenly_spaced, stack_masks
from gss_lite.data.scenes import ManyScenes, Scenes
from gss_lite.palette import border_lengths


def test_tiles_are_cut_row_by_row():
    mask = torch.arange(2 * 5 * 7).view(2, 5, 7)
    cut = tiles(mask, 2, 3)
    assert cut.shape == (8, 2, 3)
    assert torch.equal(cut[3], mask[0, 2:4, 3:6]) and torch.equal(cut[4], mask[1, 0:2, 0:3])


def test_masks_come_evenly_from_the_split():
    masks = load_masks("many-scenes", "val", 3)
    assert masks.shape == (3, 192, 256) and masks.dtype == torch.uint8
    drawn = ManyScenes(3, split="val", height=192, width=256)
    assert torch.equal(masks[2], torch.as_tensor(drawn[2][1]))


def test_masks_of_camvid(camvid):
    masks = load_masks("camvid", "val", 3, folder=camvid)
    assert masks.shape == (3, 360, 480)
    assert set(masks.unique().tolist()) <= set(range(11)) | {IGNORE}


def test_scenes_at_camvids_size():
    assert load_masks("scenes-large", "test", 1).shape == (1, 360, 480)


def test_fewer_classes_are_the_same_scenes():
    fine = load_masks("many-scenes", "train", 2)
    some = load_masks("many-scenes", "train", 2, num_classes=64)
    assert int(some[some != IGNORE].max()) < 64
    assert torch.equal(fine == IGNORE, some == IGNORE)


def test_names_of_the_classes():
    assert class_names("scenes") == class_names("scenes-large") == Scenes.classes
    assert len(class_names("many-scenes")) == 150


@pytest.mark.parametrize("length, count, picked", [(5, 2, [0, 4]), (5, 3, [0, 2, 4])])
def test_evenly_spaced_numbers_hold_both_ends(length, count, picked):
    assert evenly_spaced(length, count) == picked
    assert evenly_spaced(length) == evenly_spaced(length, 99) == list(range(length))


def test_an_unknown_set_is_refused():
    with pytest.raises(ValueError, match=f"masks are loaded from {', '.join(MASK_SETS)}; got 'x'"):
        load_masks("x", "val", 1)


def test_near_borders_by_looking_around_every_pixel():
    mask = torch.randint(3, (2, 9, 11), generator=torch.Generator().manual_seed(0))
    mask = mask.repeat_interleave(2, 1).repeat_interleave(2, 2)
    mask[:, 4:6, 3:5] = IGNORE
    for reach in (1, 2):
        found = near_borders(mask, reach)
        for b in range(2):
            for y in range(mask.shape[1]):
                for x in range(mask.shape[2]):
                    top, left = max(0, y - reach), max(0, x - reach)
                    around = mask[b, top : y + reach + 1, left : x + reach + 1]
                    another = bool((around != mask[b, y, x]).any())
                    assert bool(found[b, y, x]) == (mask[b, y, x] != IGNORE and another)


def test_masks_of_different_sizes_are_padded_with_255_which_changes_no_border():
    streets = [Scenes(1, height=h, width=w)[0] for h, w in ((40, 64), (48, 56))]
    masks = stack_masks(streets, range(2))
    assert masks.shape == (2, 48, 64) and (masks[0, 40:] == 255).all()
    assert (masks[1, :, 56:] == 255).all() and torch.equal(masks[1, :, :56], streets[1][1])
    apart = sum(border_counts(mask[None]) for _, mask in streets)
    assert torch.equal(border_counts(masks), apart)


def border_counts(masks):
    """Pairs of adjacent pixels of two classes, (11, 11)."""
    area = torch.bincount(masks.flatten().int(), minlength=256)[:11].clamp(min=1)
    lengths = border_lengths(masks, 11) * torch.minimum(area[:, None], area[None, :])
    return lengths.round().long()
