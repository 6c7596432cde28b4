"""Folders of pictures and masks: CamVid, and how files are found and paired."""

import pickle
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from camvid_files import SPLITS, quietly, save_ids, write_camvid
from PIL import Image

from gss_lite.contracts import IGNORE
from gss_lite.data.checks import frame_name, list_pairs, runs
from gss_lite.data.folders import CamVid, MaskFolder

# CamVid ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPG", ".jpeg"])
def test_camvid_from_a_folder(tmp_path, suffix):
    dataset = CamVid("val", write_camvid(tmp_path, suffix=suffix, ids=11))
    image, mask = dataset[1]
    assert image.shape == (3, 6, 8) and image.dtype == torch.uint8 and dataset.names == ["f0", "f1"]
    # JPEG rounds
    assert image[:, 2, 3].tolist() == pytest.approx(
        [100, 200, 30], abs=0 if suffix == ".png" else 4
    )
    assert mask.shape == (6, 8) and (mask == 255).all()  # void 11 → 255
    assert mask.dtype == torch.uint8
    assert len(dataset) == 2 and len(dataset.classes) == dataset.num_classes == 11


def test_every_id_becomes_its_class(folder):
    mask = quietly("train", folder)[0][1]
    assert mask.flatten().tolist() == [*range(11), 255] * 4


def test_a_transform_sees_picture_and_mask_together(folder):
    plain = CamVid("train", folder)
    swapped = CamVid("train", folder, transform=lambda image, mask: (mask, image))
    assert torch.equal(swapped[1][0], plain[1][1]) and torch.equal(swapped[1][1], plain[1][0])


def test_real_camvid_has_segnets_split_and_class_shares(camvid):
    sets = {split: quietly(split, camvid) for split in SPLITS}
    assert {s: len(dataset) for s, dataset in sets.items()} == dict(CamVid.splits)
    masks = torch.stack([sets["val"][i][1] for i in range(0, 101, 10)])
    share = torch.bincount(masks.flatten().int(), minlength=256)[:11] / masks.numel()
    classes = CamVid.classes
    assert share[classes.index("Road")] > 0.2 and share[classes.index("Pole")] < 0.03
    assert set(masks.unique().tolist()) <= {*range(11), 255}
    assert set(CamVid.leave_out) <= set(sets["test"].names)


def test_the_shares_that_camvid_is_known_by_are_the_real_ones(camvid):
    dataset = CamVid("train", camvid)
    counts = torch.zeros(256)
    for i in range(0, len(dataset), 8):
        counts += torch.bincount(dataset[i][1].flatten().int(), minlength=256)
    shares = counts[:11] / counts[:11].sum()
    torch.testing.assert_close(shares, torch.tensor(CamVid.shares), atol=0.02, rtol=0)


def test_camvid_can_go_to_another_process(folder):
    dataset = pickle.loads(pickle.dumps(CamVid("val", folder)))
    assert torch.equal(dataset[0][1], CamVid("val", folder)[0][1])


def test_unknown_split():
    with pytest.raises(ValueError, match="train, val, test; got 'dev'"):
        CamVid("dev")


def test_a_mask_with_an_unknown_id(tmp_path):
    with pytest.raises(ValueError, match="f0.png holds id 12; CamVid's masks hold 0…10 and 11"):
        CamVid("train", write_camvid(tmp_path, ids=12))[0]


def test_picture_and_mask_of_different_size(folder):
    Image.new("RGB", (9, 6)).save(folder / "train" / "f0.png")
    with pytest.raises(ValueError, match="picture is 9×6.*mask 8×6"):
        CamVid("train", folder)[0]


# Where the set lies ---------------------------------------------------------------------------


def test_a_missing_folder_says_how_to_get_the_set(tmp_path):
    with pytest.raises(FileNotFoundError, match="python -m data_scripts.camvid"):
        CamVid("train", tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="nothing"):
        CamVid.find(tmp_path / "nothing")


def test_a_folder_is_found_by_gss_data_and_beside_the_notebook(tmp_path, monkeypatch):
    write_camvid(tmp_path / "sets" / "camvid")
    write_camvid(tmp_path / "data" / "camvid")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GSS_DATA", raising=False)
    assert CamVid.find() == Path("data/camvid")
    monkeypatch.setenv("GSS_DATA", "sets")
    assert CamVid.find() == Path("sets/camvid")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GSS_DATA", "~/sets")
    assert CamVid.find() == tmp_path / "sets/camvid"
    monkeypatch.setenv("GSS_DATA", "elsewhere")  # where it is set, nothing else is looked at
    with pytest.raises(FileNotFoundError, match="there is no elsewhere/camvid"):
        CamVid.find()


def test_an_empty_gss_data_is_as_good_as_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GSS_DATA", "")
    write_camvid(tmp_path / "data" / "camvid")
    assert CamVid.find() == Path("data/camvid")
    monkeypatch.setattr(CamVid, "name", "another-set")
    with pytest.raises(FileNotFoundError, match="GSS_DATA is set, but it is empty"):
        CamVid.find()


@pytest.mark.parametrize("leftover", [None, ".DS_Store", "._train", "Thumbs.db"])
def test_an_empty_folder_is_called_empty(tmp_path, leftover):
    if leftover:
        (tmp_path / leftover).write_text("")
    with pytest.raises(FileNotFoundError, match=f"{tmp_path} is empty. Run `python -m data_scr"):
        CamVid("train", tmp_path)


def test_a_folder_above_or_beside_is_told_from_a_missing_one(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"holds the set in camvid, so name {folder}"):
        CamVid("train", tmp_path)
    with pytest.raises(FileNotFoundError, match="train holds no folder train"):
        CamVid("train", folder / "train")
    with pytest.raises(FileNotFoundError, match="f0.png is a file, not a folder"):
        CamVid("train", folder / "train" / "f0.png")
    shutil.rmtree(folder / "valannot")
    with pytest.raises(FileNotFoundError, match="camvid holds no folder valannot"):
        CamVid("val", folder)
    assert len(CamVid("test", folder)) == 2  # which needs its own folders only


def test_folders_without_a_picture(folder):
    for part in ("val", "valannot"):
        for file in (folder / part).iterdir():
            file.unlink()
    with pytest.raises(FileNotFoundError, match="val holds 0 pictures.*python -m data_scripts"):
        CamVid("val", folder)


# Pictures and masks, looked at from both sides ------------------------------------------------


def test_a_missing_mask_is_named(folder):
    (folder / "testannot" / "f1.png").unlink()
    with pytest.raises(FileNotFoundError, match="1 of their masks are missing.*f1.png"):
        CamVid("test", folder)


def test_a_missing_picture_is_named(folder):
    (folder / "test" / "f1.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"masks without a picture \(1\): f1.png"):
        CamVid("test", folder)


def test_a_link_that_leads_nowhere_is_a_missing_picture(folder):
    (folder / "test" / "f1.png").unlink()
    (folder / "test" / "f1.png").symlink_to(folder / "gone.png")
    with pytest.raises(FileNotFoundError, match="without a picture.*f1.png"):
        CamVid("test", folder)


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".PNG", ".bmp", ".tif", ".webp"])
def test_a_frame_that_is_there_twice_is_named(folder, suffix):
    """Counted twice, a frame would weigh twice in the score."""
    shutil.copy(folder / "val" / "f0.png", folder / "val" / f"f0{suffix}")
    with pytest.raises(ValueError, match=f"f0{suffix}"):
        CamVid("val", folder)


def test_two_masks_of_one_frame_are_named(folder):
    shutil.copy(folder / "valannot" / "f0.png", folder / "valannot" / "f0.PNG")
    with pytest.raises(ValueError, match="a frame is there twice: f0.PNG, f0.png"):
        CamVid("val", folder)


@pytest.mark.parametrize("suffix", [".bmp", ".tif", ".tiff", ".gif", ".webp", ".ppm", ".npy"])
@pytest.mark.parametrize("with_mask", [True, False])
def test_a_frame_of_a_suffix_that_is_not_read_is_named(folder, suffix, with_mask):
    """Dropped without a word, it would be missing from the score."""
    (folder / "val" / "f0.png").rename(folder / "val" / f"f0{suffix}")
    if not with_mask:
        (folder / "valannot" / "f0.png").unlink()
    with pytest.raises((FileNotFoundError, ValueError), match=rf"not read \(1\): f0{suffix}"):
        CamVid("val", folder)


@pytest.mark.parametrize("suffix", [".jpg", ".bmp"])
def test_a_mask_that_is_no_png_is_named(folder, suffix):
    (folder / "valannot" / "f0.png").rename(folder / "valannot" / f"f0{suffix}")
    with pytest.raises(
        FileNotFoundError, match=rf"masks are missing: f0.png.*not read.*f0{suffix}"
    ):
        CamVid("val", folder)


def test_one_error_names_everything(folder):
    (folder / "val" / "f0.png").unlink()
    (folder / "valannot" / "f1.png").unlink()
    for name in ("f2.bmp", "f3.png", "f3.jpg"):
        Image.new("RGB", (8, 6)).save(folder / "val" / name)
    save_ids(folder / "valannot" / "f3.png", np.zeros((6, 8)))
    with pytest.raises(FileNotFoundError) as caught:
        CamVid("val", folder)
    text = str(caught.value)
    for part in (
        "masks are missing: f1.png",
        "without a picture (1): f0.png",
        "twice: f3.jpg, f3.png",
        "f2.bmp",
    ):
        assert part in text


def test_many_names_are_cut_short(folder):
    for i in range(10, 30):
        Image.new("RGB", (8, 6)).save(folder / "val" / f"f{i}.png")
    with pytest.raises(FileNotFoundError, match=r"20 of .*: f10.png, .*, f14.png, …\. Each"):
        CamVid("val", folder)


LEFT_BEHIND = [".DS_Store", "._f0.png", "._f9.jpg", "Thumbs.db", "desktop.ini", ".f7.png"]


@pytest.mark.parametrize("name", [*LEFT_BEHIND, ".ipynb_checkpoints/f0-checkpoint.png"])
@pytest.mark.parametrize("part", ["val", "valannot"])
def test_what_operating_systems_leave_behind_is_no_data(folder, part, name):
    path = folder / part / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"\0\5\26\7")
    assert quietly("val", folder).names == ["f0", "f1"]


@pytest.mark.parametrize("part", ["val", "valannot"])
def test_other_files_are_left_out_and_named(folder, part):
    (folder / part / "README.txt").write_text("hello")
    with pytest.warns(UserWarning, match=r"are left out \(1\): README.txt"):
        dataset = CamVid("val", folder)
    assert dataset.names == ["f0", "f1"]


def test_frames_in_folders_below_and_in_both_ways_to_write_an_accent(tmp_path):
    composed, apart = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    for part, name, suffix in (("a", apart, ".jpg"), ("b", composed, ".png")):
        path = tmp_path / part / "city" / f"{name}{suffix}"
        path.parent.mkdir(parents=True)
        path.touch()
    found = list_pairs(tmp_path / "a", tmp_path / "b")
    assert len(found.pairs) == 1 and not found.missing and not found.wrong
    assert frame_name(found.pairs[0][0], tmp_path / "a") == f"city/{composed}"


def test_pairs_come_in_the_order_of_the_pictures_paths(tmp_path):
    names = ["b1", "a10", "a2", "c"]
    for part, suffix in (("x", ".png"), ("y", ".png")):
        (tmp_path / part).mkdir()
        for name in names:
            (tmp_path / part / f"{name}{suffix}").touch()
    pairs = list_pairs(tmp_path / "x", tmp_path / "y").pairs
    assert [picture.stem for picture, _ in pairs] == ["a10", "a2", "b1", "c"]
    assert all(picture.name == mask.name for picture, mask in pairs)


# Another set is a row -------------------------------------------------------------------------


class Towns(MaskFolder):
    """Laid out as Cityscapes is: folders of towns, endings, and an id map with gaps."""

    name = "towns"
    title = "Towns"
    classes = ("road", "car", "tree")
    ids = {7: 0, 26: 1, 21: 2, **dict.fromkeys((0, 1, 2, 3, 255), IGNORE)}
    splits = {"train": 1}
    pictures = "left/{split}"
    masks = "fine/{split}"
    picture_end = "_left"
    mask_end = "_ids"
    script = "python -m data_scripts.towns"


def test_a_set_with_towns_endings_and_an_id_map(tmp_path):
    for part, end in (("left", "_left"), ("fine", "_ids"), ("fine", "_color")):
        path = tmp_path / part / "train" / "ulm" / f"ulm_3{end}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if part == "left":
            Image.new("RGB", (5, 2)).save(path)
        else:
            save_ids(path, [[7, 26, 21, 0, 3], [255, 1, 7, 7, 26]])
    dataset = Towns("train", tmp_path)
    assert dataset.names == ["ulm/ulm_3"] and dataset.num_classes == Towns.num_classes == 3
    assert dataset[0][1].tolist() == [[0, 1, 2, 255, 255], [255, 255, 0, 0, 1]]
    save_ids(tmp_path / "fine/train/ulm/ulm_3_ids.png", [[7, 7, 7, 7, 8]] * 2)
    with pytest.raises(ValueError, match="holds id 8; Towns's masks hold 7, 21, 26 and 0…3, 255"):
        dataset[0]


@pytest.mark.parametrize(
    "ids, text",
    [((), ""), ((4,), "4"), ((2, 0, 1), "0…2"), ((5, 0, 1, 2, 9, 8), "0…2, 5, 8…9")],
)
def test_whole_numbers_as_text(ids, text):
    assert runs(ids) == text
