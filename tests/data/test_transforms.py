"""The joint transforms: picture and mask move alike, and colours stay in their ranges."""

import colorsys
import itertools

import numpy as np
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from gss_lite.data.transforms import (
    DISTORTIONS,
    IMAGENET_MEAN,
    IMAGENET_STD,
    ClassShareCrop,
    PhotometricDistortion,
    RandomScale,
    denormalize,
    eval_transform,
    normalize,
    resize_shape,
    train_transform,
)

STEP = 20  # grey levels between two ids in the pictures below


def coded_pair(height=60, width=80, seed=None):
    """A picture whose values are the mask's ids times 20: any misalignment shows."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 12, (height // 10, width // 10), generator=generator)
    mask = ids.repeat_interleave(10, 0).repeat_interleave(10, 1).to(torch.uint8)
    return tv_tensors.Image(torch.stack([mask * STEP] * 3)), tv_tensors.Mask(mask)


def located_pair(height=12, width=18):
    """Every pixel of the picture holds its row and column, and the mask the column."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    image = torch.stack([rows, columns, rows]).to(torch.uint8)
    return tv_tensors.Image(image), tv_tensors.Mask(columns.to(torch.uint8))


def agree(image, mask):
    """Whether a picture of `coded_pair` shows the ids of the mask; 255 shows as black."""
    return torch.equal(image[0].long(), torch.where(mask == 255, 0, mask.long() * STEP))


# Geometry -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "step", [ClassShareCrop(40, 32), ClassShareCrop(100, 120), RandomScale((60, 80), (1.0, 1.0))]
)
def test_geometry_moves_picture_and_mask_alike(step):
    image, mask = step(*coded_pair())
    labelled = mask != 255
    assert torch.equal(image[0][labelled], mask[labelled] * 20)


@pytest.mark.parametrize("size", [(40, 32), (60, 80), (60, 100), (100, 80), (75, 121)])
def test_a_crop_is_one_piece_of_picture_and_mask_and_255_beyond(size):
    for seed in range(10):
        torch.manual_seed(seed)
        image, mask = ClassShareCrop(*size)(*coded_pair(seed=seed))
        assert image.shape == (3, *size) and mask.shape == size
        assert agree(image, mask)
        inside = mask[: min(60, size[0]), : min(80, size[1])]
        assert not bool((inside == 255).any())  # the padding is right of and below the picture
        assert int((mask == 255).sum()) == mask.numel() - inside.numel()


def test_a_crop_may_lie_anywhere():
    image, mask = located_pair(5, 6)
    corners = set()
    for seed in range(200):
        torch.manual_seed(seed)
        part, _ = ClassShareCrop(3, 4, limit=1.0)(image, mask)
        corners.add((int(part[0, 0, 0]), int(part[1, 0, 0])))
    assert corners == set(itertools.product(range(3), range(3)))


def test_a_crop_filled_by_one_class_is_drawn_again():
    mask = torch.zeros(64, 64, dtype=torch.uint8)
    mask[:, 32:] = torch.arange(32, dtype=torch.uint8) % 11
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    shares = []
    for seed in range(40):
        torch.manual_seed(seed)
        _, part = ClassShareCrop(24, 24)(image, mask)
        shares.append(float((part == 0).float().mean()))
    assert max(shares) <= 0.75


@pytest.mark.parametrize("limit, tries", [(0.5, 1), (0.49, 10)])
def test_the_share_is_one_of_the_labelled_pixels(limit, tries):
    """A quarter is labelled, half of it each way: a limit of one half accepts the first crop."""
    mask = torch.full((20, 20), 255, dtype=torch.uint8)
    mask[:10, ::4] = 1
    mask[10:, ::4] = 2
    torch.manual_seed(0)
    ClassShareCrop(20, 20, limit=limit)(torch.zeros(3, 20, 20, dtype=torch.uint8), mask)
    after = torch.get_rng_state()
    torch.manual_seed(0)
    for _ in range(2 * tries):  # top and left of each crop that was drawn
        torch.randint(1, ())
    assert torch.equal(after, torch.get_rng_state())


def test_a_crop_without_a_label_is_drawn_again():
    mask = torch.full((40, 40), 255, dtype=torch.uint8)
    mask[:, 20:30] = 1
    mask[:, 30:] = 2
    labelled = 0
    for seed in range(40):
        torch.manual_seed(seed)
        _, part = ClassShareCrop(40, 18, limit=1.0)(torch.zeros(3, 40, 40), mask)
        labelled += bool((part != 255).any())
    assert labelled == 40


def test_scaled_pairs_stay_aligned():
    torch.manual_seed(1)
    image, mask = RandomScale((60, 80), (2.0, 2.0))(*coded_pair())
    assert mask.shape == (120, 160) and image.shape == (3, 120, 160)
    # only the blurred borders of the picture may differ
    inner = (image[0].float() / 20 - mask.float()).abs() < 0.5
    assert inner.float().mean() > 0.85


@pytest.mark.parametrize("scale", [0.3, 0.5, 0.77, 1.0, 1.31, 2.0, 3.7])
def test_a_scaled_mask_holds_no_new_ids_and_each_where_it_was(scale):
    """Between ids 1 and 9 there is no 5: a mask is resized by nearest neighbours."""
    ids = torch.tensor([1, 9, 255, 4], dtype=torch.uint8)
    mask = ids[torch.randint(0, 4, (6, 8))].repeat_interleave(10, 0).repeat_interleave(10, 1)
    image = torch.zeros(3, 60, 80, dtype=torch.uint8)
    _, scaled = RandomScale((60, 80), (scale, scale))(
        tv_tensors.Image(image), tv_tensors.Mask(mask)
    )
    assert set(scaled.unique().tolist()) <= set(ids.tolist())
    height, width = scaled.shape
    # The pixel whose middle lies at the same place:
    rows = ((torch.arange(height) + 0.5) * 60 / height).floor().long()
    columns = ((torch.arange(width) + 0.5) * 80 / width).floor().long()
    assert (scaled == mask[rows][:, columns]).float().mean() > 0.99


def test_the_scaled_picture_is_smoothed():
    """A checkerboard made half as large is grey all over: the picture is averaged, not picked."""
    board = (torch.arange(40)[:, None] + torch.arange(40)) % 2 * 255
    image = tv_tensors.Image(torch.stack([board.to(torch.uint8)] * 3))
    small, _ = RandomScale((40, 40), (0.5, 0.5))(image, tv_tensors.Mask(board.to(torch.uint8)))
    assert int((small[:, 2:-2, 2:-2].int() - 128).abs().max()) <= 1


def test_scales_are_drawn_evenly_from_their_range():
    image, mask = tv_tensors.Image(torch.zeros(3, 100, 100)), tv_tensors.Mask(torch.zeros(100, 100))
    step = RandomScale((100, 100), (0.5, 2.0))
    sides = [step(image, mask)[1].shape[0] for _ in range(400)]
    assert 50 <= min(sides) <= 55 and 195 <= max(sides) <= 200
    shares = np.histogram(sides, [50, 100, 150, 201])[0] / 400
    assert (abs(shares - 1 / 3) < 0.12).all()


@pytest.mark.parametrize(
    "sides, size, expected",
    [
        ((480, 640), (512, 2048), [512, 683]),  # ADE20K: the shorter side becomes 512 …
        ((640, 480), (512, 2048), [683, 512]),
        ((300, 1500), (512, 2048), [410, 2048]),  # … unless the longer one would pass 2048
        ((1024, 2048), (1024, 2048), [1024, 2048]),
        ((96, 128), (72, 96), [72, 96]),
        ((1, 4000), (512, 2048), [1, 2048]),
    ],
)
def test_pictures_are_fitted_as_mmsegmentation_does(sides, size, expected):
    assert resize_shape(sides, size) == expected
    assert resize_shape(sides, size[::-1]) == expected


def test_random_scale_keeps_the_ratio_of_a_picture_that_has_another_than_the_box():
    image, mask = RandomScale((512, 2048), (0.25, 0.25))(*coded_pair(60, 80))
    assert mask.shape == (128, 171) and image.shape == (3, 128, 171)


# The whole pipeline ---------------------------------------------------------------------------


def test_train_transform_gives_normalised_crops():
    image, mask = train_transform(32, 40, scales=(0.5, 1.5), image_size=(60, 80))(*coded_pair())
    assert (
        image.shape == (3, 32, 40)
        and image.dtype == torch.float32
        and mask.shape == (32, 40)
        and mask.dtype == torch.long
    )
    assert type(image) is type(mask) is torch.Tensor
    assert set(mask.unique().tolist()) <= {*range(12), 255}


@pytest.mark.parametrize("crop", [(40, 32), (60, 80), (80, 100)])
def test_the_whole_pipeline_keeps_picture_and_mask_together(monkeypatch, crop):
    """Scaled to itself, cropped, mirrored or not: each pixel still shows the id of its mask."""
    monkeypatch.setitem(DISTORTIONS, "released", v2.Identity)
    transform = train_transform(*crop, scales=(1.0, 1.0 + 1e-9), image_size=(60, 80))
    assert isinstance(transform.transforms[0], RandomScale)
    for seed in range(20):
        torch.manual_seed(seed)
        image, mask = transform(*coded_pair(seed=0))
        assert agree((denormalize(image) * 255).round(), mask)


def test_half_of_the_pairs_are_mirrored_and_both_parts_of_a_pair(monkeypatch):
    monkeypatch.setitem(DISTORTIONS, "released", v2.Identity)
    image, mask = located_pair()
    transform = train_transform(12, 18, scales=(1.0, 1.0))
    mirrored = []
    for seed in range(200):
        torch.manual_seed(seed)
        picture, ids = transform(image, mask)
        columns = (denormalize(picture)[1] * 255).round().long()
        assert torch.equal(columns, ids)
        mirrored.append(bool(ids[0, 0] == 17))
    assert 70 < sum(mirrored) < 130


def test_the_steps_and_their_order():
    steps = train_transform(32, 40, scales=(0.5, 1.5), image_size=(60, 80)).transforms
    kinds = [RandomScale, ClassShareCrop, v2.RandomHorizontalFlip, PhotometricDistortion]
    assert [type(step) for step in steps] == [*kinds, v2.Compose]
    assert steps[0].size == (60, 80) and steps[0].scales == (0.5, 1.5)
    assert (steps[1].height, steps[1].width, steps[1].limit) == (32, 40, 0.75)
    assert steps[2].p == 0.5
    assert train_transform(32, 40).transforms[0].size == (32, 40)
    assert train_transform(32, 40).transforms[0].scales == (0.5, 2.0)
    unscaled = train_transform(32, 40, scales=(1.0, 1.0)).transforms
    assert [type(step) for step in unscaled] == [*kinds[1:], v2.Compose]


# Colours --------------------------------------------------------------------------------------


def test_photometric_distortion_never_swaps_channels_and_stays_in_the_released_ranges():
    """mmsegmentation's has no permutation: red may turn orange or pink, never green or blue."""
    red = tv_tensors.Image(
        torch.tensor([200, 60, 60], dtype=torch.uint8)[:, None, None].expand(3, 4, 4).contiguous()
    )
    seen, torchvisions = [], []
    for seed in range(200):
        torch.manual_seed(seed)
        seen.append(PhotometricDistortion()(red)[:, 0, 0].tolist())
        torch.manual_seed(seed)
        torchvisions.append(DISTORTIONS["torchvision"]()(red)[:, 0, 0].tolist())
    assert all(colour[0] == max(colour) for colour in seen) and any(
        colour[0] < max(colour) for colour in torchvisions
    )
    assert len({tuple(colour) for colour in seen}) > 100
    hues = [(360 * colorsys.rgb_to_hsv(*colour)[0] + 180) % 360 - 180 for colour in seen]
    # a tenth of the circle, and what clipping and rounding to 8 bits add
    assert 25 < max(hues) <= 40 and -40 <= min(hues) < -25
    with pytest.raises(ValueError, match="must be one of released, torchvision; got 'none'"):
        train_transform(8, 8, distortion="none")


@pytest.mark.parametrize(
    "name, low, high",
    [
        ("brightness_factor", 0.875, 1.125),
        ("contrast_factor", 0.5, 1.5),
        ("saturation_factor", 0.5, 1.5),
        ("hue_factor", -0.1, 0.1),
    ],
)
def test_each_part_of_the_distortion_has_its_range_and_is_in_one_picture_of_two(name, low, high):
    image = tv_tensors.Image(torch.zeros(3, 2, 2, dtype=torch.uint8))
    drawn = [PhotometricDistortion().make_params([image]) for _ in range(800)]
    values = torch.tensor([float(p[name]) for p in drawn if p[name] is not None])
    assert 300 < len(values) < 500
    edge = 0.05 * (high - low)
    assert low <= values.min() < low + edge and high - edge < values.max() <= high
    assert abs(values.mean() - (low + high) / 2) < 2 * edge
    assert all(p["channel_permutation"] is None for p in drawn)
    before = sum(bool(p["contrast_before"]) for p in drawn)
    assert 300 < before < 500


def test_brightness_changes_an_even_grey_by_an_eighth_at_most():
    """It has no contrast, saturation or hue that could change; other steps round it down."""
    grey = tv_tensors.Image(torch.full((3, 2, 2), 128, dtype=torch.uint8))
    levels = []
    for seed in range(200):
        torch.manual_seed(seed)
        levels.append(int(PhotometricDistortion()(grey)[0, 0, 0]))
    assert 108 <= min(levels) < 118 and 138 < max(levels) <= 144


def test_the_mask_keeps_its_ids_when_colours_change():
    image, mask = coded_pair(seed=3)
    for seed in range(10):
        torch.manual_seed(seed)
        for distortion in DISTORTIONS.values():
            changed, same = distortion()(image, mask)
            assert torch.equal(same, mask)
            assert changed.shape == image.shape


@pytest.mark.parametrize("name", ["released", "torchvision"])
def test_the_preset_chooses_the_distortion(name):
    assert [type(step) for step in train_transform(8, 8, distortion=name).transforms].count(
        DISTORTIONS[name]
    ) == 1


# Normalisation --------------------------------------------------------------------------------


def test_normalisation_and_back():
    image, mask = coded_pair()
    normalised, ids = eval_transform()(image, mask)
    torch.testing.assert_close(denormalize(normalised), image / 255, atol=1e-6, rtol=0)
    assert torch.equal(ids, mask.long())
    assert torch.equal(normalize(image), normalised)
    assert type(normalised) is type(ids) is type(normalize(image)) is torch.Tensor
    assert normalised.dtype == torch.float32 and ids.dtype == torch.int64


def test_the_numbers_of_normalisation():
    """(v/255 − mean) / deviation, with ImageNet's red, green and blue in this order."""
    assert IMAGENET_MEAN == (0.485, 0.456, 0.406) and IMAGENET_STD == (0.229, 0.224, 0.225)
    image = tv_tensors.Image(torch.tensor([0, 128, 255], dtype=torch.uint8)[:, None, None])
    got, _ = eval_transform()(image, tv_tensors.Mask(torch.zeros(1, 1, dtype=torch.uint8)))
    expected = [-0.485 / 0.229, (128 / 255 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    torch.testing.assert_close(got.flatten(), torch.tensor(expected))


def test_evaluation_changes_no_size_and_no_id():
    image, mask = coded_pair(50, 70)
    mask[:3] = 255
    seen, ids = eval_transform()(image, mask)
    assert seen.shape == (3, 50, 70) and torch.equal(ids, mask.long())
    again, _ = eval_transform()(image, mask)
    assert torch.equal(seen, again)


def test_what_is_shown_lies_between_zero_and_one():
    shown = denormalize(torch.tensor([-9.0, 0.0, 9.0])[:, None, None])
    torch.testing.assert_close(shown.flatten(), torch.tensor([0.0, 0.456, 1.0]))
