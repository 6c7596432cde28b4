"""Masks whose labels cannot be right are warned of when a folder is opened."""

import numpy as np
import pytest
from camvid_files import quietly
from PIL import Image

from gss_lite.data.checks import odd_histogram
from gss_lite.data.folders import CamVid
from gss_lite.data.scenes import Scenes


def street_masks(count=6, seed=0):
    return [Scenes(count, seed=seed)[i][1].numpy() for i in range(count)]


def write_masks(folder, masks, palettes=None):
    for part in ("train", "trainannot"):
        (folder / part).mkdir(parents=True)
    for i, ids in enumerate(masks):
        Image.new("RGB", ids.shape[::-1]).save(folder / "train" / f"f{i}.png")
        picture = Image.fromarray(ids.astype(np.uint8))
        if palettes:
            picture.putpalette(palettes[i])
        picture.save(folder / "trainannot" / f"f{i}.png")
    return folder


def as_in_files(mask):
    return np.where(mask == 255, 11, mask)


@pytest.mark.parametrize("seed", range(4))
def test_masks_with_the_sets_own_ids_are_not_warned_of(tmp_path, seed):
    masks = [as_in_files(mask) for mask in street_masks(seed=seed)]
    dataset = quietly("train", write_masks(tmp_path, masks))
    assert len(dataset) == len(masks)


@pytest.mark.parametrize("seed", range(4))
def test_masks_that_count_from_one_are_warned_of(tmp_path, seed):
    masks = [np.where(mask == 255, 0, mask + 1) for mask in street_masks(seed=seed)]
    with pytest.warns(UserWarning, match="CamVid in .*, train: .*far from.*Is 0 void"):
        CamVid("train", write_masks(tmp_path / "void", masks))
    labelled = [np.where(mask == 0, 1, mask) for mask in masks]
    with pytest.warns(UserWarning, match="seem to count from 1, with 0 for void"):
        CamVid("train", write_masks(tmp_path / "none", labelled))


def test_classes_in_another_order_are_warned_of(tmp_path):
    order = np.array([*np.argsort(CamVid.shares), 11])  # the rarest class becomes class 0
    masks = [np.argsort(order)[as_in_files(mask)] for mask in street_masks()]
    with pytest.warns(UserWarning, match="are the classes in another order"):
        CamVid("train", write_masks(tmp_path, masks))


def test_grey_levels_in_place_of_ids_are_warned_of(tmp_path):
    masks = [as_in_files(mask) * 20 for mask in street_masks()]
    with pytest.warns(UserWarning, match="all ids are multiples of 20"):
        dataset = CamVid("train", write_masks(tmp_path, masks))
    with pytest.raises(ValueError, match="CamVid's masks hold 0…10"):
        dataset[0]


def test_masks_of_one_class_are_warned_of(tmp_path):
    with pytest.warns(UserWarning, match="hold nothing but id 0"):
        CamVid("train", write_masks(tmp_path, [np.zeros((6, 8))] * 3))


def test_coloured_masks_reduced_to_palettes_one_by_one_are_warned_of(tmp_path):
    """Each mask's palette holds its own colours in its own order, so an id means nothing."""
    beta = np.random.default_rng(0).integers(0, 256, (256, 3))
    masks, palettes = [], []
    for mask in street_masks():
        used, ids = np.unique(mask, return_inverse=True)
        masks.append(ids.reshape(mask.shape))
        palettes.append(beta[used].astype(np.uint8).flatten().tolist())
    with pytest.warns(UserWarning, match="different colours in the palettes"):
        CamVid("train", write_masks(tmp_path / "a", masks, palettes))
    one = beta.astype(np.uint8).flatten().tolist()
    right = [as_in_files(mask) for mask in street_masks()]
    quietly("train", write_masks(tmp_path / "b", right, [one] * len(right)))


def test_a_mask_that_cannot_be_read_is_an_error_only_where_it_is_read(folder):
    (folder / "valannot" / "f0.png").write_text("no PNG")
    Image.new("RGB", (8, 6)).save(folder / "valannot" / "f1.png")
    dataset = quietly("val", folder)
    with pytest.raises(ValueError, match="f0.png is not a mask that can be read"):
        dataset[0]
    with pytest.raises(ValueError, match="expected one channel of 8-bit class ids"):
        dataset[1]


def test_histograms():
    ids = dict(CamVid.ids)

    def odd(labels, shares=None):
        counts = np.bincount(labels, minlength=256)
        return odd_histogram(counts, ids, shares)

    assert odd([*range(12)]) == [] and odd([11, 11]) == [] and odd([0, 11]) == []
    assert odd([0, 5, 10]) == []  # few classes of a set may have a common factor by chance
    assert len(odd([0, 2, 4, 6, 8])) == 1
    assert len(odd([3, 3])) == 1
    assert len(odd([*range(1, 12)])) == 1
    assert odd([*range(1, 11)]) == []
