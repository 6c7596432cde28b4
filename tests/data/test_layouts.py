"""Every published set from a small tree in its official layout."""

import numpy as np
import pytest
import torch
from PIL import Image
from trees import histogram, paths, plant

from gss_lite.data import DATASETS, create_dataset
from gss_lite.data.mseg import PARTS, MSeg
from gss_lite.data.own import OwnFolder

CAMVID_NAMES = {"train": "0016E5_00390", "val": "0016E5_07959", "test": "Seq05VD_f00000"}
ON_DISK = [
    name
    for name, kind in DATASETS.items()
    if not kind.drawn and name != "camvid" and not name.startswith("mseg")
]


def frame(name: str, split: str, number: int) -> str:
    """A frame's name as the set has it."""
    if name.startswith("camvid"):
        return CAMVID_NAMES[split]
    if name == "scannet":
        return f"scene{number:04}_00/000100"
    return {"cityscapes": f"ulm/ulm_{number:06}", "wilddash": f"au{number:04}"}.get(
        name, f"f{number}"
    )


def mask_of(kind, rows: int = 3) -> np.ndarray:
    """A mask that holds every id that a set's files may hold; as colours where it has any."""
    values = list(kind.colors or kind.ids)
    mask = np.asarray(values * rows, np.uint8)
    return mask.reshape(rows, len(values), *mask.shape[1:])


@pytest.mark.parametrize("name", ON_DISK)
def test_every_id_or_colour_of_a_set_is_read(name, tmp_path):
    kind = DATASETS[name]
    for number, split in enumerate(kind.splits):
        plant(kind, tmp_path, split, {frame(name, split, number): mask_of(kind)})
    for number, split in enumerate(kind.splits):
        dataset = kind(split, tmp_path)
        assert dataset.names == [frame(name, split, number)]
        values = list(kind.colors or kind.ids)
        expected = [kind.ids[kind.colors[v] if kind.colors else v] for v in values]
        assert dataset[0][1].tolist() == [expected] * 3
        labels = set(expected) - {255}
        # MSeg's eleven classes and all others are reached.
        assert labels == set(range(kind.num_classes)) and 255 in kind.ids.values()


@pytest.mark.parametrize("name", ON_DISK)
def test_a_missing_set_says_what_it_should_hold_and_how_to_get_it(name, tmp_path):
    kind = DATASETS[name]
    for split in kind.splits:
        with pytest.raises(FileNotFoundError) as caught:
            kind(split, tmp_path)
        for text in (kind.script, *kind.parts(split), kind.title, "Expected below data/"):
            assert text in str(caught.value)


@pytest.mark.parametrize("name", [name for name in ON_DISK if DATASETS[name].below != ("",)])
def test_the_folder_that_an_archive_unpacks_to_is_found(name, tmp_path):
    kind = DATASETS[name]
    split = next(iter(kind.splits))
    plant(kind, tmp_path / kind.below[1], split, {frame(name, split, 0): mask_of(kind)})
    assert len(kind(split, tmp_path)) == 1


@pytest.mark.parametrize("name", [name for name in ON_DISK if DATASETS[name].list_file])
def test_only_listed_frames_are_read_and_a_listed_frame_must_be_there(name, tmp_path):
    kind = DATASETS[name]
    split = next(iter(kind.splits))
    one, two = (frame(name, split, number) for number in (1, 2))
    plant(kind, tmp_path, split, {one: mask_of(kind), two: mask_of(kind)})
    path = tmp_path / kind.list_file.format(split=split)
    path.write_text(f"{one.split('/')[0]}\n")
    assert kind(split, tmp_path).names == [one]
    path.write_text(f"{one.split('/')[0]}\nf9\n")
    with pytest.raises(FileNotFoundError, match=r"1 frames of .* no picture and mask: f9"):
        kind(split, tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="lacks the list of its"):
        kind(split, tmp_path)


def test_cityscapes_ids_and_train_ids_are_the_same_classes(tmp_path):
    kind = DATASETS["cityscapes"]
    ids = np.array([[7, 8, 11, 33, 0], [21, 24, 26, 255, 9]])
    plant(kind, tmp_path / "a", "val", {"ulm/ulm_1": ids})
    plant(kind, tmp_path / "b", "val", {"ulm/ulm_1": ids})
    for _, mask in paths(kind, "val", ["ulm/ulm_1"], tmp_path / "b"):
        trained = np.array([[0, 1, 2, 18, 255], [8, 11, 13, 255, 255]], np.uint8)
        name = mask.name.replace("labelIds", "labelTrainIds")
        Image.fromarray(trained).save(mask.with_name(name))
        mask.unlink()
    first, second = (kind("val", tmp_path / part)[0][1] for part in "ab")
    assert torch.equal(first, second) and first.tolist() == trained.tolist()
    assert kind.classes[13] == "car"


def test_camvid_in_msegs_order_and_with_its_own_colours(tmp_path):
    all_colors, eleven = DATASETS["camvid-32"], DATASETS["camvid-mseg"]
    names = ("Building", "Sky", "Truck_Bus", "Car", "Bicyclist")
    colors = {all_colors.classes[k]: color for color, k in all_colors.colors.items() if k != 255}
    mask = np.array([[colors[name] for name in names] + [(0, 0, 0)]])
    plant(all_colors, tmp_path, "val", {CAMVID_NAMES["val"]: mask})
    found = eleven("val", tmp_path)[0][1][0].tolist()
    assert found == [0, 2, 255, 3, 10, 255]  # SegNet's order would begin with 1, 0
    found = all_colors("val", tmp_path)[0][1][0].tolist()
    assert [all_colors.classes[k] for k in found[:-1]] == list(names) and found[-1] == 255
    segnet = DATASETS["camvid"].classes
    assert eleven.classes.index("Sky") == 2 and segnet.index("Sky") == 0


def test_camvid_in_msegs_classes_is_found_in_the_folder_of_the_32(tmp_path, monkeypatch):
    monkeypatch.setenv("GSS_DATA", str(tmp_path))
    kind = DATASETS["camvid-32"]
    plant(kind, tmp_path / "camvid-32", "val", {CAMVID_NAMES["val"]: mask_of(kind)})
    assert len(DATASETS["camvid-mseg"]("val")) == 1


def test_a_colour_that_is_no_classs_is_named(tmp_path):
    kind = DATASETS["camvid-32"]
    mask = mask_of(kind)
    mask[1, 1] = (1, 2, 3)
    plant(kind, tmp_path, "val", {CAMVID_NAMES["val"]: mask})
    with pytest.raises(ValueError, match=r"0016E5_07959_L.png holds the colour \(1, 2, 3\) in 1 "):
        kind("val", tmp_path, check=False)[0]


# MSeg -----------------------------------------------------------------------------------------

TABLE = "universal\tunused\t{columns}\n"


@pytest.fixture
def mseg_table(tmp_path, monkeypatch):
    """A small table of MSeg's shape, with three universal classes; its folder is $GSS_DATA."""
    from gss_lite.data import taxonomy

    columns = (*taxonomy.TRAIN_COLUMNS, *taxonomy.TEST_COLUMNS)
    rows = [
        ["universal", *columns],
        ["sky", *["sky"] * 7, *["Sky"] * 6],
        ["rider", *["{cyclist, biker}"] * 7, *["Person"] * 6],
        ["person", *["person"] * 7, *["Person"] * 6],
        ["unlabeled", *[""] * 13],
    ]
    (tmp_path / "mseg").mkdir()
    text = "\n".join("\t".join(row) for row in rows)
    (tmp_path / "mseg" / "MSeg_master.tsv").write_text(text)
    monkeypatch.setenv("GSS_DATA", str(tmp_path))
    return tmp_path


def test_msegs_seven_sets_in_universal_classes(mseg_table):
    # In the files: 0 biker, 1 cyclist, 2 person, 3 sky (alphabetical).
    ids = np.array([[0, 1, 2, 3, 255]])
    for part in PARTS:
        for split in part.splits:
            plant(part, mseg_table / "mseg_dataset", split, {"000001": ids})
    train, val = MSeg("train"), create_dataset_of_mseg("val")
    assert train.classes == ("sky", "rider", "person") and len(train.parts) == 7
    assert len(val) == 7 and len(train) == 6 + 17 + 40 + 1 + 17 + 7 + 24
    assert all(val[i][1][0].tolist() == [1, 1, 2, 0, 255] for i in range(7))
    assert train.names[0] == "mseg-ade20k/000001" and len(train.names) == len(train)
    assert histogram(train[0][1]) == {0: 1, 1: 2, 2: 1, 255: 1}


def create_dataset_of_mseg(split):
    return create_dataset("mseg-hrnet-w48", split, transform=None)


def test_msegs_missing_sets_are_named_together(mseg_table):
    for part in PARTS[2:]:
        plant(part, mseg_table / "mseg_dataset", "val", {"000001": np.array([[0]])})
    with pytest.raises(FileNotFoundError, match="2 of MSeg's 7 sets are missing: ADE20K .* BDD in"):
        MSeg("val")
    with pytest.raises(ValueError, match="splits train, val; got 'test'"):
        MSeg("test")


# Any folder -----------------------------------------------------------------------------------


def own_folder(root, layout="{part}", count=10):
    for i in range(count):
        picture, mask = (root / layout.format(part=part) for part in ("images", "masks"))
        for path in (picture, mask):
            path.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4), (i, 0, 0)).save(picture / f"p{i}.png")
        ids = np.array([[3, 7, 9, 255, 3, 3]] * 4, np.uint8)
        Image.fromarray(ids).save(mask / f"p{i}.png")
    return root


CLASSES = ["7 cat", "3 dog (128, 0, 0)", "9 void"]


def test_any_folder_holds_out_every_fifth_picture(tmp_path):
    own_folder(tmp_path)
    sets = {split: OwnFolder(split, tmp_path, CLASSES) for split in ("train", "val", "test", "all")}
    assert sets["val"].names == sets["test"].names == ["p4", "p9"]
    assert sets["train"].names == [f"p{i}" for i in (0, 1, 2, 3, 5, 6, 7, 8)]
    assert len(sets["all"]) == 10 and sets["all"].classes == ("cat", "dog")
    assert sets["train"][0][1][0].tolist() == [1, 0, 255, 255, 1, 1]
    assert sets["train"][0][0][0, 0, 0] == 0 and sets["val"][0][0][0, 0, 0] == 4


def test_any_folder_with_lists_and_with_folders_of_splits(tmp_path):
    own_folder(tmp_path / "a")
    (tmp_path / "a" / "train.txt").write_text("p1.png\np2\n")
    (tmp_path / "a" / "val.txt").write_text("images/p3.png\n")
    assert OwnFolder("train", tmp_path / "a", CLASSES).names == ["p1", "p2"]
    assert OwnFolder("val", tmp_path / "a", CLASSES).names == ["p3"]
    own_folder(tmp_path / "b", "{part}/train", count=2)
    own_folder(tmp_path / "b", "{part}/val", count=1)
    assert OwnFolder("train", tmp_path / "b", CLASSES).names == ["p0", "p1"]
    assert OwnFolder("val", tmp_path / "b", CLASSES).names == ["p0"]
    for split, part in (("train", "images"), ("trainannot", "masks")):
        (tmp_path / "a" / part).rename(tmp_path / split)
    assert len(OwnFolder("train", tmp_path, CLASSES)) == 10


def test_a_folder_with_coloured_masks(tmp_path):
    own_folder(tmp_path, count=5)
    red = np.zeros((4, 6, 3), np.uint8)
    red[..., 0] = 128
    Image.fromarray(red).save(tmp_path / "masks" / "p0.png")
    assert set(OwnFolder("all", tmp_path, CLASSES)[0][1].unique().tolist()) == {1}


def test_a_folder_without_a_list_of_classes_is_read_by_its_ids(tmp_path):
    own_folder(tmp_path)
    dataset = OwnFolder("all", tmp_path)
    assert dataset.classes == ("id 3", "id 7", "id 9")


def test_a_folder_that_is_none_of_the_layouts_and_one_that_is_too_small(tmp_path):
    with pytest.raises(FileNotFoundError, match="Expected the folders images and masks"):
        OwnFolder("train", tmp_path, CLASSES)
    own_folder(tmp_path, count=4)
    with pytest.raises(ValueError, match="4 pictures; at least 5 are needed"):
        OwnFolder("train", tmp_path, CLASSES)
    assert len(OwnFolder("all", tmp_path, CLASSES)) == 4
