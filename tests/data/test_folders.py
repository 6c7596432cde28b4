"""CamVid and the joint transforms."""

import colorsys

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from gss_lite.data.folders import CamVid
from gss_lite.data.pictures import read_image, read_mask
from gss_lite.data.transforms import (
    DISTORTIONS,
    ClassShareCrop,
    PhotometricDistortion,
    RandomScale,
    ResumableBatches,
    SeededAugmentation,
    denormalize,
    eval_transform,
    resize_shape,
    train_transform,
)


def write_camvid(folder, size=(8, 6), ids=11, suffix=".png"):
    for split in SIZES:
        (folder / split).mkdir(parents=True)
        (folder / f"{split}annot").mkdir()
        for i in range(2):
            Image.new("RGB", size, (100 * i, 200, 30)).save(folder / split / f"f{i}{suffix}")
            Image.fromarray(np.full(size[::-1], ids, np.uint8)).save(
                folder / f"{split}annot" / f"f{i}.png"
            )
    return folder


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPG", ".jpeg"])
def test_camvid_from_a_folder(tmp_path, suffix):
    dataset = CamVid("val", write_camvid(tmp_path, suffix=suffix))
    image, mask = dataset[1]
    assert image.shape == (3, 6, 8) and image.dtype == torch.uint8 and dataset.names == ["f0", "f1"]
    # JPEG rounds
    assert image[:, 2, 3].tolist() == pytest.approx(
        [100, 200, 30], abs=0 if suffix == ".png" else 4
    )
    assert mask.shape == (6, 8) and (mask == 255).all()  # void 11 → 255
    assert len(dataset) == 2 and len(dataset.classes) == dataset.num_classes == 11


def test_real_camvid_has_segnets_split_and_class_shares(camvid):
    assert {s: len(CamVid(s, camvid)) for s in SIZES} == SIZES
    masks = torch.stack([CamVid("val", camvid)[i][1] for i in range(0, 101, 10)])
    share = torch.bincount(masks.flatten().int(), minlength=256)[:11] / masks.numel()
    assert share[CLASSES.index("Road")] > 0.2 and share[CLASSES.index("Pole")] < 0.03
    assert set(masks.unique().tolist()) <= {*range(11), 255}


def test_a_missing_folder_says_how_to_get_the_set(tmp_path):
    with pytest.raises(FileNotFoundError, match="python -m data_scripts.camvid"):
        CamVid("train", tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="nothing"):
        find_camvid(tmp_path / "nothing")


def test_a_missing_mask_is_named(tmp_path):
    folder = write_camvid(tmp_path)
    (folder / "testannot" / "f1.png").unlink()
    with pytest.raises(FileNotFoundError, match="1 of their masks are missing.*f1.png"):
        CamVid("test", folder)


def test_unknown_split():
    with pytest.raises(ValueError, match="train, val, test; got 'dev'"):
        CamVid("dev")


def test_a_mask_with_a_foreign_id(tmp_path):
    with pytest.raises(ValueError, match="holds id 12; CamVid's masks hold 0…10 and 11"):
        CamVid("train", write_camvid(tmp_path, ids=12))[0]


def test_picture_and_mask_of_different_size(tmp_path):
    folder = write_camvid(tmp_path)
    Image.new("RGB", (9, 6)).save(folder / "train" / "f0.png")
    with pytest.raises(ValueError, match="picture is 9×6.*mask 8×6"):
        CamVid("train", folder)[0]


def test_a_picture_that_is_not_one(tmp_path):
    (tmp_path / "a.png").write_text("not a picture")
    with pytest.raises(ValueError, match="is not a picture that can be read"):
        read_image(tmp_path / "a.png")
    with pytest.raises(FileNotFoundError, match="no picture file"):
        read_image(tmp_path / "b.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "rgb.png")
    with pytest.raises(ValueError, match="expected one channel of 8-bit class ids"):
        read_mask(tmp_path / "rgb.png")


def test_a_truncated_jpeg_is_refused(tmp_path):
    Image.effect_noise((64, 64), 80).convert("RGB").save(tmp_path / "a.jpg")
    whole = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="not a picture that can be read"):
        read_image(tmp_path / "a.jpg")


def test_sixteen_bits_of_grey_become_eight(tmp_path):
    values = np.array([[0, 128, 129, 257], [300, 32768, 65406, 65535]], np.uint16)
    for name in ("a.png", "a.tif"):
        Image.fromarray(values).save(tmp_path / name)
        assert Image.open(tmp_path / name).mode == "I;16"
        expected = np.round(values / 257).astype(np.uint8)
        assert np.array_equal(read_image(tmp_path / name).numpy(), np.stack([expected] * 3))


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_values_of_no_known_range_are_refused(tmp_path, kind):
    Image.fromarray(np.full((4, 4), 0.5 if kind is np.float32 else 70000, kind)).save(
        tmp_path / "a.tif"
    )
    with pytest.raises(ValueError, match="a.tif holds 32-bit values .*save it with 8 or 16 bits"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize(
    "orientation, upright",
    [
        (1, lambda a: a),
        (2, np.fliplr),
        (3, lambda a: np.rot90(a, 2)),
        (6, lambda a: np.rot90(a, -1)),
        (8, np.rot90),
    ],
)
def test_a_picture_is_turned_as_its_exif_says(tmp_path, orientation, upright):
    array = np.random.default_rng(0).integers(0, 256, (4, 7, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(array).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "a.png").permute(1, 2, 0).numpy(), upright(array))


def test_a_picture_of_too_many_pixels_is_one_clear_error(tmp_path, monkeypatch):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    for read in (read_image, read_mask):
        with pytest.raises(ValueError, match="a.png has too many pixels"):
            read(tmp_path / "a.png")


def coded_pair(height=60, width=80):
    """A picture whose red channel is the mask's id times 20: any misalignment shows."""
    mask = (
        torch.randint(0, 11, (height // 10, width // 10))
        .repeat_interleave(10, 0)
        .repeat_interleave(10, 1)
        .to(torch.uint8)
    )
    return tv_tensors.Image(torch.stack([mask * 20] * 3)), tv_tensors.Mask(mask)


@pytest.mark.parametrize(
    "step", [ClassShareCrop(40, 32), ClassShareCrop(100, 120), RandomScale((60, 80), (1.0, 1.0))]
)
def test_geometry_moves_picture_and_mask_alike(step):
    image, mask = step(*coded_pair())
    labelled = mask != 255
    assert torch.equal(image[0][labelled], mask[labelled] * 20)


def test_scaled_pairs_stay_aligned():
    torch.manual_seed(1)
    image, mask = RandomScale((60, 80), (2.0, 2.0))(*coded_pair())
    assert mask.shape == (120, 160) and image.shape == (3, 120, 160)
    # only the blurred borders of the picture may differ
    inner = (image[0].float() / 20 - mask.float()).abs() < 0.5
    assert inner.float().mean() > 0.85


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


def test_random_scale_keeps_the_ratio_of_a_picture_that_has_another_than_the_box():
    image, mask = RandomScale((512, 2048), (0.25, 0.25))(*coded_pair(60, 80))
    assert mask.shape == (128, 171) and image.shape == (3, 128, 171)


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


def test_train_transform_gives_normalised_crops():
    image, mask = train_transform(32, 40, scales=(0.5, 1.5), image_size=(60, 80))(*coded_pair())
    assert (
        image.shape == (3, 32, 40)
        and image.dtype == torch.float32
        and mask.shape == (32, 40)
        and mask.dtype == torch.long
    )
    assert set(mask.unique().tolist()) <= {*range(11), 255}


def test_photometric_distortion_never_swaps_channels_and_stays_in_the_released_ranges():
    """mmsegmentation's has no permutation of channels; a red thing may turn orange or pink, never green or blue."""
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


@pytest.mark.parametrize("name", ["released", "torchvision"])
def test_the_preset_chooses_the_distortion(name):
    assert [type(step) for step in train_transform(8, 8, distortion=name).transforms].count(
        DISTORTIONS[name]
    ) == 1


def test_normalisation_and_back():
    image, mask = coded_pair()
    normalised, ids = eval_transform()(image, mask)
    torch.testing.assert_close(denormalize(normalised), image / 255, atol=1e-6, rtol=0)
    assert torch.equal(ids, mask.long())


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


def test_batches_resume_where_they_stopped():
    whole = list(ResumableBatches(10, 3, 0, 9, seed=1))
    assert whole[4:] == list(ResumableBatches(10, 3, 4, 9, seed=1))
    indices = [index for batch in whole for _, index in batch]
    assert sorted(indices[:10]) == list(range(10)) and sorted(indices[10:20]) == list(range(10))
    assert indices[:10] != indices[10:20]
    assert [draw for batch in whole for draw, _ in batch] == list(range(27))
