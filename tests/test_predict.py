"""Picture files: what is written, at which size, and what is never overwritten."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from live_models import Brightness
from PIL import Image, PngImagePlugin

from gss_lite.contracts import IGNORE
from gss_lite.predict import check_outputs, is_ours, output_paths, overlay, predict_file
from gss_lite.presets import ViewSpec

BLUE, YELLOW = [0, 0, 255], [255, 255, 0]


def halves(shape, path):
    """A picture that is bright at the upper right, and where it is."""
    bright = np.zeros(shape, bool)
    bright[: shape[0] // 2, shape[1] // 5 * 2 :] = True
    Image.fromarray(np.uint8(255 * bright)).convert("RGB").save(path)
    return bright


def contents(paths):
    return (np.array(Image.open(path)) for path in paths)


@pytest.mark.parametrize("stride", [4, 8])
@pytest.mark.parametrize(
    "shape, seen", [((200, 300), (100, 150)), ((300, 200), (150, 100)), ((90, 110), (90, 110))]
)
def test_large_pictures_are_shrunk_for_the_model_and_results_have_their_size(
    tmp_path, stride, shape, seen
):
    bright = halves(shape, tmp_path / "a.png")
    model = Brightness(stride, picture_size=(100, 140))
    paths = predict_file(model, tmp_path / "a.png", tmp_path / "out")
    assert model.sizes == [seen]
    assert [path.name for path in paths] == ["a_mask.png", "a_maskige.png", "a_overlay.png"]
    mask, maskige, laid_over = contents(paths)
    # Every border lies between the same two pixels as in the picture.
    assert np.array_equal(mask, bright)
    painted = np.where(bright[..., None], YELLOW, BLUE)
    assert np.array_equal(maskige, painted)
    assert np.abs(laid_over - (0.45 * 255 * bright[..., None] + 0.55 * painted)).max() <= 1


@pytest.mark.parametrize("stride", [4, 8])
def test_a_model_with_a_sliding_window_predicts_with_it(tmp_path, stride):
    bright = halves((90, 140), tmp_path / "a.png")
    model = Brightness(stride, view=ViewSpec(window=(64, 40)), picture_size=(100, 140))
    mask, maskige, _ = contents(predict_file(model, tmp_path / "a.png", tmp_path / "out"))
    assert model.sizes == [(64, 64)] * 6  # 2 rows of 3 windows
    painted = np.where(bright[..., None], YELLOW, BLUE)
    if stride == 4:
        assert np.array_equal(mask, bright) and np.array_equal(maskige, painted)
    else:
        assert (mask == bright).mean() > 0.98
        assert np.abs(maskige - painted.astype(int)).mean() < 4


def test_the_mask_is_an_indexed_picture_of_class_ids_in_the_palettes_colours(tiny_gss, tmp_path):
    Image.effect_noise((70, 50), 60).convert("RGB").save(tmp_path / "street.jpg")
    paths = predict_file(tiny_gss, tmp_path / "street.jpg", tmp_path / "out")
    mask = Image.open(paths[0])
    ids = torch.from_numpy(np.array(mask)).long()
    assert mask.mode == "P" and len(ids.unique()) >= 4 and ids.max() < 11
    shown = torch.from_numpy(np.array(mask.convert("RGB"))) / 255
    assert float((shown - tiny_gss.colors[ids]).abs().max()) < 1 / 255
    for path in paths:
        assert Image.open(path).size == (70, 50) and is_ours(path)
    assert not list(tmp_path.rglob("*.part"))


def test_the_overlay_keeps_the_picture_where_nothing_is_labelled():
    image = torch.rand(3, 2, 2)
    mask = torch.tensor([[0, 1], [IGNORE, 0]])
    colors = torch.tensor([[1.0, 0, 0], [0, 1, 0]])
    found = overlay(image, mask, colors, strength=0.25)
    assert torch.equal(found[:, 1, 0], image[:, 1, 0])
    torch.testing.assert_close(found[:, 0, 1], 0.75 * image[:, 0, 1] + 0.25 * colors[1])


class TestWhatIsThere:
    """F11: a file that predict did not make is never overwritten unasked."""

    def test_its_own_results_may_be_written_again(self, tiny_gss, tmp_path):
        picture = tmp_path / "a.png"
        Image.new("RGB", (40, 40)).save(picture)
        check_outputs([picture], tmp_path)
        first = [path.read_bytes() for path in predict_file(tiny_gss, picture, tmp_path)]
        check_outputs([picture], tmp_path)
        assert [p.read_bytes() for p in predict_file(tiny_gss, picture, tmp_path)] == first

    @pytest.mark.parametrize("which", [0, 1, 2])
    @pytest.mark.parametrize("kind", ["png", "another program's png", "text", "empty", "folder"])
    def test_anything_else_is_refused_by_name(self, tmp_path, which, kind):
        picture = tmp_path / "street.png"
        Image.new("RGB", (40, 40)).save(picture)
        taken = output_paths(picture, tmp_path)[which]
        if kind == "folder":
            taken.mkdir()
        elif kind == "png":
            Image.new("L", (40, 40), 3).save(taken)
        elif kind == "another program's png":
            note = PngImagePlugin.PngInfo()
            note.add_text("Software", "a paint program")
            Image.new("L", (40, 40), 3).save(taken, pnginfo=note)
        else:
            taken.write_text("a note" if kind == "text" else "")
        with pytest.raises(FileExistsError, match=f"{taken.name} is there and was not made by"):
            check_outputs([picture], tmp_path)
        if kind == "folder":
            with pytest.raises(OSError, match="is a folder"):
                check_outputs([picture], tmp_path, overwrite=True)
        else:
            check_outputs([picture], tmp_path, overwrite=True)

    def test_a_mask_made_by_hand_from_ours_is_not_ours_any_more(self, tiny_gss, tmp_path):
        picture = tmp_path / "a.png"
        Image.new("RGB", (40, 40)).save(picture)
        mask = predict_file(tiny_gss, picture, tmp_path)[0]
        saved = Image.open(mask)
        saved.load()
        note = PngImagePlugin.PngInfo()
        note.add_text("Software", saved.info["Software"])  # some editors keep it
        saved.putpixel((3, 4), 1 - saved.getpixel((3, 4)) % 2)
        saved.save(mask, pnginfo=note)
        with pytest.raises(FileExistsError, match="--overwrite"):
            check_outputs([picture], tmp_path)

    def test_a_link_to_a_picture_is_not_written_through(self, tmp_path):
        picture, precious = tmp_path / "a.png", tmp_path / "precious.png"
        for path in (picture, precious):
            Image.new("RGB", (40, 40)).save(path)
        out = tmp_path / "out"
        out.mkdir()
        (out / "a_mask.png").symlink_to(precious)
        with pytest.raises(FileExistsError, match="a_mask.png is there"):
            check_outputs([picture], out)

    def test_two_pictures_that_would_be_written_to_one_place(self, tmp_path):
        twins = [tmp_path / "one" / "x.jpg", tmp_path / "two" / "x.png"]
        for path in twins:
            path.parent.mkdir()
            path.touch()
        with pytest.raises(ValueError, match="one/x.jpg and .*two/x.png would both be written to"):
            check_outputs(twins, tmp_path / "out")

    def test_a_picture_that_is_given(self, tmp_path):
        pictures = [tmp_path / "x.png", tmp_path / "x_mask.png"]
        for path in pictures:
            path.touch()
        with pytest.raises(ValueError, match="would overwrite .*x_mask.png, a picture to segment"):
            check_outputs(pictures, tmp_path, overwrite=True)

    def test_a_file_in_place_of_the_folder(self, tmp_path):
        (tmp_path / "taken").write_text("a file")
        with pytest.raises(FileExistsError, match="taken is a file; results need a folder"):
            check_outputs([tmp_path / "taken"], tmp_path / "taken")

    def test_a_picture_that_is_not_there_is_noticed_before_the_first_is_segmented(self, tmp_path):
        (tmp_path / "a.png").touch()
        with pytest.raises(FileNotFoundError, match="no picture file at .*b.png"):
            check_outputs([tmp_path / "a.png", tmp_path / "b.png"], tmp_path / "out")
