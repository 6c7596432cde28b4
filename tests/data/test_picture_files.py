"""Reading single picture and mask files, the odd ones too."""

import struct
import warnings
import zlib

import numpy as np
import PIL
import pytest
import torch
from packaging.version import Version
from PIL import Image

from gss_lite.data import pictures
from gss_lite.data.pictures import check_pair, read_image, read_mask

UPRIGHT = [
    (1, lambda a: a),
    (2, np.fliplr),
    (3, lambda a: np.rot90(a, 2)),
    (4, np.flipud),
    (5, lambda a: np.rot90(np.fliplr(a))),
    (6, lambda a: np.rot90(a, -1)),
    (7, lambda a: np.rot90(np.fliplr(a), -1)),
    (8, np.rot90),
]


@pytest.fixture(autouse=True)
def no_surprising_warnings():
    """A warning that a test does not expect is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + crc(kind + content)


def crc(content):
    return struct.pack(">I", zlib.crc32(content))


def write_png(path, values, *, extra=b""):
    """A PNG of (H, W) or (H, W, 3) values; `extra` chunks stand before the pixels."""
    height, width = values.shape[:2]
    bits = 8 * values.itemsize
    color_type = 2 if values.ndim == 3 else 0
    header = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(f">u{values.itemsize}").tobytes() for row in values)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    return path


def some_ids(height=4, width=7):
    return np.random.default_rng(1).integers(0, 11, (height, width), dtype=np.uint8)


def some_picture(height=4, width=7):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


# What is no picture ---------------------------------------------------------------------------


def test_a_picture_that_is_not_one(tmp_path):
    (tmp_path / "a.png").write_text("not a picture")
    with pytest.raises(ValueError, match="is not a picture that can be read"):
        read_image(tmp_path / "a.png")
    with pytest.raises(FileNotFoundError, match="no picture file"):
        read_image(tmp_path / "b.png")
    with pytest.raises(FileNotFoundError, match="no picture file"):
        read_image(tmp_path)
    Image.new("RGB", (4, 4)).save(tmp_path / "rgb.png")
    with pytest.raises(ValueError, match="expected one channel of 8-bit class ids"):
        read_mask(tmp_path / "rgb.png")


@pytest.mark.parametrize("mode", ["1", "LA", "RGB", "RGBA", "I;16"])
def test_a_mask_of_another_kind_is_refused_by_name(tmp_path, mode):
    Image.new(mode, (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="a.png holds .* expected one channel of 8-bit class ids"):
        read_mask(tmp_path / "a.png")


def test_a_palette_mask_gives_its_indices(tmp_path):
    ids = some_ids()
    picture = Image.fromarray(ids)
    picture.putpalette(range(255, -1, -1))
    picture.save(tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").mode == "P"
    assert np.array_equal(read_mask(tmp_path / "a.png").numpy(), ids)


def test_a_truncated_jpeg_is_refused(tmp_path):
    Image.effect_noise((64, 64), 80).convert("RGB").save(tmp_path / "a.jpg")
    whole = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="a.jpg is not a picture that can be read"):
        read_image(tmp_path / "a.jpg")


def test_a_picture_of_too_many_pixels_is_one_clear_error(tmp_path, monkeypatch):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    for read in (read_image, read_mask):
        with pytest.raises(ValueError, match="a.png has too many pixels"):
            read(tmp_path / "a.png")


@pytest.mark.parametrize("read", [read_image, read_mask])
def test_too_little_memory_names_the_file(tmp_path, monkeypatch, read):
    def fail(*arguments):
        raise MemoryError

    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    for owner, name in ((Image, "open"), (pictures.np, "array")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fail)
            with pytest.raises(MemoryError, match="a.png is too large for the memory that is left"):
                read(tmp_path / "a.png")


# Depth ----------------------------------------------------------------------------------------


def test_sixteen_bits_of_grey_become_eight(tmp_path):
    values = np.array([[0, 128, 129, 257], [300, 32768, 65406, 65535]], np.uint16)
    for name in ("a.png", "a.tif"):
        Image.fromarray(values).save(tmp_path / name)
        assert Image.open(tmp_path / name).mode == "I;16"
        expected = np.round(values / 257).astype(np.uint8)
        assert np.array_equal(read_image(tmp_path / name).numpy(), np.stack([expected] * 3))


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_fewer_bits_in_a_picture_of_sixteen_are_read_by_their_own_range(tmp_path, bits, suffix):
    top = 2**bits - 1
    values = np.linspace(0, top, 24).round().astype(np.uint16).reshape(4, 6)
    Image.fromarray(values).save(tmp_path / f"a{suffix}")
    with pytest.warns(UserWarning, match=f"a{suffix} holds 16-bit values up to {top}.*{bits}-bit"):
        image = read_image(tmp_path / f"a{suffix}")
    expected = np.round(values * 255.0 / top).astype(np.uint8)
    assert np.array_equal(image.numpy(), np.stack([expected] * 3))
    assert int(image.max()) == 255


def test_a_black_picture_of_sixteen_bits_is_black(tmp_path):
    Image.fromarray(np.zeros((3, 4), np.uint16)).save(tmp_path / "a.png")
    assert not read_image(tmp_path / "a.png").any()


def test_twelve_bits_a_colour_are_said(tmp_path):
    values = np.linspace(0, 4095, 24).astype(np.uint16).reshape(2, 4, 3)
    path = write_png(tmp_path / "a.png", values)
    with pytest.warns(UserWarning, match="a.png has colours of 16 bits.*nearly black"):
        image = read_image(path)
    assert np.array_equal(image.permute(1, 2, 0).numpy(), values >> 8)
    full = write_png(tmp_path / "b.png", values * 16)
    assert int(read_image(full).max()) > 250  # and no warning


def test_a_dark_picture_of_eight_bits_is_read_as_it_is(tmp_path):
    values = some_picture() // 8
    Image.fromarray(values).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png").permute(1, 2, 0).numpy(), values)


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_values_of_no_known_range_are_refused(tmp_path, kind):
    Image.fromarray(np.full((4, 4), 0.5 if kind is np.float32 else 70000, kind)).save(
        tmp_path / "a.tif"
    )
    with pytest.raises(ValueError, match="a.tif holds 32-bit values .*save it with 8 or 16 bits"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_every_mode_gives_three_channels_of_bytes(tmp_path, mode):
    picture = Image.fromarray(some_picture()).convert(mode)
    path = tmp_path / ("a.tif" if mode in {"CMYK", "YCbCr"} else "a.png")
    if mode == "HSV":
        picture = picture.convert("RGB")
    picture.save(path, compression="tiff_lzw" if mode == "YCbCr" else None)
    image = read_image(path)
    assert image.shape == (3, 4, 7) and image.dtype == torch.uint8
    expected = np.array(Image.open(path).convert("RGB"))
    assert np.array_equal(image.permute(1, 2, 0).numpy(), expected)


def test_an_uncompressed_ycbcr_file_is_read_where_pillow_can_read_it(tmp_path):
    """Pillow can from 13.0 on. Before, it writes such files but calls them truncated."""
    path = tmp_path / "a.tif"
    picture = Image.fromarray(some_picture()).convert("YCbCr")
    picture.save(path)
    if Version(PIL.__version__) < Version("13"):
        with pytest.raises(ValueError, match="a.tif is not a picture that can be read"):
            read_image(path)
    else:
        values = read_image(path).permute(1, 2, 0).numpy()
        assert np.array_equal(values, np.array(picture.convert("RGB")))


# Metadata -------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation, upright", UPRIGHT)
def test_a_picture_and_its_mask_are_turned_as_their_exif_says(tmp_path, orientation, upright):
    exif = Image.Exif()
    exif[0x0112] = orientation
    colours, ids = some_picture(), some_ids()
    Image.fromarray(colours).save(tmp_path / "a.png", exif=exif)
    Image.fromarray(ids).save(tmp_path / "mask.png", exif=exif)
    image = read_image(tmp_path / "a.png")
    mask = read_mask(tmp_path / "mask.png")
    assert np.array_equal(image.permute(1, 2, 0).numpy(), upright(colours))
    assert np.array_equal(mask.numpy(), upright(ids))
    check_pair(image, mask, "a.png")


def test_a_deep_picture_is_turned_too(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    values = np.arange(0, 65535, 4000, dtype=np.uint16)[:12].reshape(3, 4)
    values[0, 0] = 65535
    Image.fromarray(values).save(tmp_path / "a.png", exif=exif)
    expected = np.rot90(np.round(values / 257).astype(np.uint8), -1)
    assert np.array_equal(read_image(tmp_path / "a.png")[0].numpy(), expected)


GARBAGE = [b"", b"garbage", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff", bytes(64)]


@pytest.mark.parametrize("content", GARBAGE)
def test_a_garbage_exif_chunk_is_no_reason_to_refuse_the_pixels(tmp_path, content):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow may say that the metadata are corrupt
        extra = chunk(b"eXIf", content)
        image = read_image(write_png(tmp_path / "a.png", some_picture(), extra=extra))
        mask = read_mask(write_png(tmp_path / "m.png", some_ids(), extra=extra))
    assert np.array_equal(image.permute(1, 2, 0).numpy(), some_picture())
    assert np.array_equal(mask.numpy(), some_ids())


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"zTXt", b"Comment\0\0not compressed at all"),
        chunk(b"iTXt", b"Comment\0\1\0\0\0not compressed at all"),
        chunk(b"iCCP", b"profile\0\0not compressed at all"),
        chunk(b"tEXt", b"no end"),
        chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(5_000_000))),
        chunk(b"tEXt", b"Comment\0words")[:-4] + b"\0\0\0\0",  # a wrong checksum
        chunk(b"pHYs", b"\0"),
        chunk(b"gAMA", b"\0"),
    ],
)
def test_a_broken_side_chunk_is_read_over_or_refused_by_name(tmp_path, extra):
    path = write_png(tmp_path / "a.png", some_picture(), extra=extra)
    try:
        image = read_image(path)
    except ValueError as error:
        assert "a.png is not a picture that can be read" in str(error)
    else:
        assert np.array_equal(image.permute(1, 2, 0).numpy(), some_picture())


def test_pair_of_different_size():
    with pytest.raises(ValueError, match="f0: the picture is 9×6.*mask 8×6; they must be of one"):
        check_pair(torch.zeros(3, 6, 9), torch.zeros(6, 8), "f0")
    check_pair(torch.zeros(3, 6, 9), torch.zeros(6, 9), "f0")
