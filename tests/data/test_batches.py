"""Batches: how they are stacked, and that (seed, draw) decides each of them."""

import pytest
import torch
from test_transforms import coded_pair
from torchvision import tv_tensors
from torchvision.transforms import v2

from gss_lite.data.scenes import Scenes
from gss_lite.data.transforms import (
    InMemory,
    PhotometricDistortion,
    ResumableBatches,
    SeededAugmentation,
    collate,
    eval_transform,
    mixed_seed,
    train_transform,
)


def test_a_batch_is_stacked():
    pairs = [eval_transform()(*coded_pair(seed=seed)) for seed in range(3)]
    images, masks = collate(pairs)
    assert images.shape == (3, 3, 60, 80) and masks.shape == (3, 60, 80)
    for k, (image, mask) in enumerate(pairs):
        assert torch.equal(images[k], image) and torch.equal(masks[k], mask)


def test_pictures_of_different_size_in_one_batch_are_one_sentence():
    pairs = [(torch.zeros(3, h, w), torch.zeros(h, w)) for h, w in ((48, 64), (48, 64), (50, 64))]
    with pytest.raises(ValueError, match=r"one size.* of 2 sizes, 64×48 and 64×50 .*batch=1"):
        collate(pairs)


def test_samples_in_memory_are_read_once():
    class Counting:
        read = []

        def __len__(self):
            return 4

        def __getitem__(self, index):
            self.read.append(index)
            return torch.tensor(index), torch.tensor(-index)

    data = InMemory(Counting())
    values = [[int(data[i][0]), int(data[i][1])] for i in (2, 0, 2, 1, 2, 0)]
    assert values == [[2, -2], [0, 0], [2, -2], [1, -1], [2, -2], [0, 0]]
    assert Counting.read == [2, 0, 1] and len(data) == 4


def test_samples_beyond_the_limit_are_read_again():
    pairs = [(torch.full((3, 4, 4), i), torch.full((4, 4), i)) for i in range(3)]
    size = sum(part.nbytes for part in pairs[0])
    data = InMemory(pairs, limit=2 * size)
    for _ in range(2):
        assert [int(data[i][1][0, 0]) for i in (2, 1, 0)] == [2, 1, 0]
    assert sorted(data.samples) == [1, 2] and data.size == 2 * size


# Seeds and order ------------------------------------------------------------------------------


def test_augmentation_depends_on_seed_and_draw_alone():
    pairs = [coded_pair() for _ in range(3)]
    data = SeededAugmentation(pairs, train_transform(32, 32), seed=4)
    torch.manual_seed(0)
    first = data[(17, 1)][0]
    torch.manual_seed(99)
    state = torch.get_rng_state()
    assert torch.equal(data[(17, 1)][0], first)
    # and it leaves the training's own randomness alone
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(data[(18, 1)][0], first)
    assert not torch.equal(
        SeededAugmentation(pairs, train_transform(32, 32), seed=5)[(17, 1)][0], first
    )
    assert len(data) == 3


def test_augmentation_takes_the_sample_it_is_asked_for():
    pairs = [coded_pair(seed=seed) for seed in range(3)]
    data = SeededAugmentation(pairs, lambda image, mask: (image, mask), seed=0)
    for draw, index in ((0, 2), (2, 0), (5, 1)):
        assert torch.equal(data[(draw, index)][1], pairs[index][1])


def test_augmentation_is_the_same_as_ever():
    """Resumed runs and records rest on these numbers: the first draws of a seeded generator."""

    def draw(image, mask):
        return torch.randint(1000, (3,)), mask

    drawn = [SeededAugmentation([(0, 0)], draw, seed)[(k, 0)][0] for seed, k in ((0, 5), (1, 0))]
    for got, seed in zip(drawn, (5, 0x9E3779B1)):
        generator = torch.Generator().manual_seed(seed)
        assert torch.equal(got, torch.randint(1000, (3,), generator=generator))


def test_no_two_seeds_and_draws_share_a_generator():
    """torch looks at 32 bits of a seed: all of them must differ for the runs one may make."""
    seeds = {mixed_seed(seed, draw) for seed in range(60) for draw in range(3000)}
    assert len(seeds) == 60 * 3000
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert mixed_seed(0, 7) == 7 and mixed_seed(2, 1) == (1 + 2 * 0x9E3779B1) % 2**32


def test_batches_resume_where_they_stopped():
    whole = list(ResumableBatches(10, 3, 0, 9, seed=1))
    assert whole[4:] == list(ResumableBatches(10, 3, 4, 9, seed=1))
    indices = [index for batch in whole for _, index in batch]
    assert sorted(indices[:10]) == list(range(10)) and sorted(indices[10:20]) == list(range(10))
    assert indices[:10] != indices[10:20]
    assert [draw for batch in whole for draw, _ in batch] == list(range(27))


def test_every_epoch_and_every_seed_has_an_order_of_its_own():
    def epochs(seed):
        batches = ResumableBatches(8, 4, 0, 12, seed)
        indices = [index for batch in batches for _, index in batch]
        return [tuple(indices[k : k + 8]) for k in range(0, 48, 8)]

    orders = [order for seed in range(5) for order in epochs(seed)]
    assert all(sorted(order) == list(range(8)) for order in orders)
    assert len(set(orders)) == len(orders) == 30
    generator = torch.Generator().manual_seed(mixed_seed(3, 2))
    assert epochs(3)[2] == tuple(torch.randperm(8, generator=generator).tolist())


def test_steps_and_batches_are_counted():
    batches = ResumableBatches(5, 2, 3, 9, seed=0)
    assert len(batches) == 6 == len(list(batches)) and batches.batch_size == 2
    assert all(len(batch) == 2 for batch in batches)
    assert list(batches) == list(batches)  # it can be gone through again
    with pytest.raises(ValueError, match="the training set is empty"):
        ResumableBatches(0, 2, 0, 1, seed=0)


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_make_no_difference(workers):
    data = SeededAugmentation(Scenes(5, height=32, width=32), train_transform(32, 32), seed=1)
    loader = torch.utils.data.DataLoader(
        data, batch_sampler=ResumableBatches(5, 2, 1, 4, seed=1), num_workers=workers
    )
    got = [(images, masks) for images, masks in loader]
    for (images, masks), batch in zip(got, ResumableBatches(5, 2, 1, 4, seed=1), strict=True):
        expected = collate([data[item] for item in batch])
        assert torch.equal(images, expected[0]) and torch.equal(masks, expected[1])


def test_the_pipeline_draws_the_same_numbers_as_ever():
    """What a seed gives is part of the records: scale, crop, flip and colours, in this order."""
    image, mask = coded_pair(seed=0)
    torch.manual_seed(6)
    got, ids = train_transform(32, 40, scales=(0.5, 1.5), image_size=(60, 80))(image, mask)
    torch.manual_seed(6)
    factor = float(torch.empty(()).uniform_(0.5, 1.5))
    size = [round(60 * factor), round(80 * factor)]
    image = v2.functional.resize(image, size, antialias=True)
    # Not as a Mask: torchvision before 0.28 ignores the interpolation then.
    plain = mask.as_subclass(torch.Tensor)[None]
    plain = v2.functional.resize(plain, size, v2.InterpolationMode.NEAREST_EXACT)
    mask = tv_tensors.Mask(plain[0])
    below, right = (max(0, want - have) for want, have in zip((32, 40), size))
    image = v2.functional.pad(image, [0, 0, right, below])
    mask = v2.functional.pad(mask, [0, 0, right, below], fill=255)
    top = int(torch.randint(mask.shape[0] - 31, ()))
    left = int(torch.randint(mask.shape[1] - 39, ()))
    image, mask = (t[..., top : top + 32, left : left + 40] for t in (image, mask))
    image, mask = tv_tensors.Image(image), tv_tensors.Mask(mask)
    image, mask = PhotometricDistortion()(*v2.RandomHorizontalFlip()(image, mask))
    expected, expected_ids = eval_transform()(image, mask)
    assert torch.equal(ids, expected_ids)
    torch.testing.assert_close(got, expected, atol=0, rtol=0)
