"""data check: counts, sizes, a label histogram, and every broken file by its name."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from PIL import Image
from trees import plant

from gss_lite.__main__ import main
from gss_lite.data import DATASETS
from gss_lite.data.inspection import check_files, inspect, open_splits
from gss_lite.data.own import ClassList, OwnFolder

CLASSES = "0 road\n1 car\n2 sky\n"
COUNT = 2_000  # frames of the large folder


def write(folder, count=12, size=(8, 6)):
    """Frames with masks of three classes, 4 : 3 : 1, and a row of 255."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    ids = np.tile(np.array([0, 0, 0, 0, 1, 1, 1, 2], np.uint8), (size[1], 1))
    ids[0] = 255
    for i in range(count):
        Image.new("RGB", size, (i % 256, 0, 0)).save(folder / "images" / f"f{i:04}.png")
        Image.fromarray(ids).save(folder / "masks" / f"f{i:04}.png")
    (folder.parent / "classes.txt").write_text(CLASSES)
    return folder


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "streets")


def check(capsys, folder, *options):
    """Run the command → (status, what it says)."""
    capsys.readouterr()
    classes = folder.parent / "classes.txt"
    given = ["data", "check", folder, "--classes", classes, *options]
    status = main([str(argument) for argument in given])
    said = capsys.readouterr()
    return status, said.out + said.err


def test_counts_sizes_and_the_histogram(folder, capsys):
    Image.new("RGB", (10, 6)).save(folder / "images" / "g.png")
    Image.fromarray(np.zeros((6, 10), np.uint8)).save(folder / "masks" / "g.png")
    status, said = check(capsys, folder)
    assert status == 0 and "streets, all: 13 pictures with masks" in said
    assert "8×6 (12), 10×6 (1)" in said and "no faults" in said
    row = {
        line.split()[1]: line.split()[2:]
        for line in said.splitlines()
        if line[:3].strip().isdigit()
    }
    total = 12 * 40 + 60
    assert float(row["road"][0]) == pytest.approx(100 * (12 * 20 + 60) / total, abs=1e-3)
    assert float(row["sky"][0]) == pytest.approx(100 * 12 * 5 / total, abs=1e-3)
    assert row["road"][1] == "13" and row["car"][1] == row["sky"][1] == "12"
    report = inspect(OwnFolder("all", folder, ClassList.parse(CLASSES.splitlines())))
    assert report.pixels.tolist() == [300, 180, 60, 96] and report.sizes[8, 6] == 12


LEFT_BEHIND = (".DS_Store", "Thumbs.db", "desktop.ini", "._f0001.png", ".ipynb_checkpoints/f0.png")


def test_what_operating_systems_leave_behind_is_no_data(folder, capsys):
    for part in ("images", "masks"):
        for name in LEFT_BEHIND:
            path = folder / part / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"\0\0\0\1Bud1")
    status, said = check(capsys, folder)
    assert status == 0 and "12 pictures" in said and "no faults" in said
    assert not any(name in said for name in LEFT_BEHIND)


def cut(path):
    path.write_bytes(path.read_bytes()[:50])


# What is broken → (how, what the report says).
BROKEN = {
    "corrupt mask": (
        lambda f: cut(f / "masks" / "f0003.png"),
        "masks/f0003.png is not a mask that can be read",
    ),
    "corrupt picture": (
        lambda f: cut(f / "images" / "f0003.png"),
        "images/f0003.png is not a picture that can be read",
    ),
    "stray id": (
        lambda f: Image.fromarray(np.full((6, 8), 9, np.uint8)).save(f / "masks" / "f0003.png"),
        "masks/f0003.png holds id 9; streets's masks hold 0…2 and 255",
    ),
    "other size": (
        lambda f: Image.new("RGB", (9, 6)).save(f / "images" / "f0003.png"),
        "f0003.png: the picture is 9×6 (width × height), its mask 8×6",
    ),
    "missing mask": (
        lambda f: (f / "masks" / "f0003.png").unlink(),
        "1 of their masks are missing: f0003.png",
    ),
    "missing picture": (
        lambda f: (f / "images" / "f0003.png").unlink(),
        "masks without a picture (1): f0003.png",
    ),
    "wrong extension": (
        lambda f: (f / "images" / "f0003.png").rename(f / "images" / "f0003.bmp"),
        "files of a kind that is not read (1): f0003.bmp",
    ),
    "no PNG inside": (
        lambda f: Image.new("RGB", (8, 6)).save(f / "masks" / "f0003.png", "JPEG"),
        "f0003.png holds uint8 values of shape (6, 8, 3); expected one channel",
    ),
    "twice": (
        lambda f: Image.new("RGB", (8, 6)).save(f / "images" / "f0003.jpg"),
        "a frame is there twice: f0003.jpg, f0003.png",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_broken_is_named_and_the_rest_can_be_used(folder, capsys, kind):
    breaks, expected = BROKEN[kind]
    breaks(folder)
    status, said = check(capsys, folder)
    assert status == 2 and expected in said
    assert "f0002" not in said and "f0004" not in said  # nothing else is blamed
    assert not (folder / "exclude.txt").exists()

    status, said = check(capsys, folder, "--exclude")
    assert status == 0 and "exclude.txt names the broken frames" in said
    assert (folder / "exclude.txt").read_text() == "f0003\n"
    with pytest.warns(UserWarning, match=r"frames that exclude.txt names are left out \(1\)"):
        dataset = OwnFolder("all", folder, folder.parent / "classes.txt")
    assert len(dataset) == 11 and "f0003" not in dataset.names
    assert all(dataset[i][1].shape == (6, 8) for i in range(11))
    status, said = check(capsys, folder)
    assert status == 0 and "no faults" in said and "are left out (1)" in said


def test_many_faults_are_counted_and_cut_short(folder, capsys):
    for i in range(12):
        cut(folder / "masks" / f"f{i:04}.png")
        Image.new("RGB", (8, 6)).save(folder / "images" / f"g{i}.png")
    status, said = check(capsys, folder)
    assert status == 2 and "13 faults, see above" in said
    assert "12 of their masks are missing: g0.png, g1.png" in said


@pytest.mark.slow
def test_one_corrupt_png_among_thousands(tmp_path, capsys):
    folder = write(tmp_path / "streets", count=COUNT)
    cut(folder / "masks" / "f1234.png")
    status, said = check(capsys, folder, "--exclude")
    assert status == 0 and said.count("fault:") == 1 and "masks/f1234.png" in said
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        assert len(OwnFolder("all", folder, tmp_path / "classes.txt")) == COUNT - 1


def test_the_usable_frames_are_listed(folder, capsys, tmp_path):
    cut(folder / "masks" / "f0003.png")
    status, _ = check(capsys, folder, "--list", tmp_path / "list.txt")
    lines = (tmp_path / "list.txt").read_text().splitlines()
    assert status == 2 and len(lines) == 11
    assert lines[0] == "images/f0000.png masks/f0000.png"
    assert not any("f0003" in line for line in lines)


def test_a_published_set_is_checked_split_by_split(tmp_path, capsys):
    kind = DATASETS["ade20k"]
    mask = np.arange(151, dtype=np.uint8)[None]
    for split in kind.splits:
        plant(kind, tmp_path, split, {"ADE_00000001": mask})
    assert main(["data", "check", "ade20k", "--data", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "ADE20K, train: 1 pictures with masks (the published set has 20,210)" in said
    assert "ADE20K, val: 1" in said and "note: the published split has 2,000 pictures" in said
    assert said.count("television receiver") == 2
    with pytest.raises(FileNotFoundError, match="Expected below data/ade20k"):
        open_splits("ade20k", tmp_path / "none")


def test_a_mask_of_each_test_set_of_msegs_can_be_listed(tmp_path, capsys):
    """The released code lacks the lists of its test sets."""
    names = [name for name, kind in DATASETS.items() if getattr(kind, "mseg", None)]
    assert {DATASETS[name].mseg for name in names} == {
        *("voc2012", "pascal-context-60", "camvid-11"),
        *("wilddash-19", "kitti-19", "scannet-20"),
    }
    frames = {"camvid-mseg": "0016E5_07959", "scannet": "scene0000_00/000100"}
    for name in names:
        kind = DATASETS[name]
        split = "val" if "val" in kind.splits else "train"
        frame = frames.get(name, "ulm/f1" if name == "cityscapes" else "f1")
        values = list(kind.colors or kind.ids)
        mask = np.asarray([values], np.uint8)
        plant(kind, tmp_path / name, split, {frame: mask})
        listed = tmp_path / f"{name}.txt"
        check_files(open_splits(name, tmp_path / name, split=split), listed, say=lambda text: None)
        picture, annotation = listed.read_text().split()
        root = kind.find(tmp_path / name, split)
        assert (root / picture).is_file() and (root / annotation).is_file()
    capsys.readouterr()


def test_what_cannot_be_checked(tmp_path, capsys):
    for given, match in (
        (("scenes",), "drawn by the code"),
        (("atlantis",), "is no data set and no folder"),
        (("kitti", "--classes", "x"), "has its own classes"),
    ):
        assert main(["data", "check", *given]) == 2
        assert match in capsys.readouterr().err
    assert main(["data", "check", str(tmp_path), "--data", "x"]) == 2
    assert "leave it out for a folder" in capsys.readouterr().err


def test_the_sets_are_listed(capsys):
    assert main(["data", "list"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in DATASETS) and "194 classes" in said


# Lists of classes -----------------------------------------------------------------------------


def test_a_list_of_classes_with_ids_and_without():
    plain = ClassList.parse(["road", "", "# a comment", "car", "void"])
    assert plain.names == ("road", "car") and plain.ids == {255: 255, 0: 0, 1: 1, 2: 255}
    listed = ClassList.parse(["7 road (128, 64, 128)", "26: car", "255 various (0,0,0)"])
    assert listed.names == ("road", "car") and listed.ids == {255: 255, 7: 0, 26: 1}
    assert listed.colors == {(128, 64, 128): 7, (0, 0, 0): 255}
    assert ClassList.parse(listed.lines) == listed


@pytest.mark.parametrize(
    "lines, match",
    [
        ([], "names no class"),
        (["void"], "names no class"),
        (["0 road", "0 car"], "id 0 is there twice"),
        (["0 road", "1 road"], "two classes called road"),
        (["0 road", "car"], "either all lines begin with an id or none does"),
        (["300 road"], "above 255"),
        (["0 road (1,2,3)", "1 car (1,2,3)"], "the colour is another class's"),
        (["0"], "cannot read the line '0'"),
        ([f"c{'x' * k}" for k in range(256)], "256 classes; masks hold at most 255"),
    ],
)
def test_a_list_of_classes_that_is_wrong(lines, match, tmp_path):
    with pytest.raises(ValueError, match=match):
        ClassList.parse(lines)
    path = tmp_path / "classes.txt"
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match="classes.txt"):
        ClassList.read(path)
