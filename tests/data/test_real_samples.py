"""The loaders on a few real files of each set: a known histogram, ignored pixels, class orders."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image
from trees import histogram, replant, shared

from gss_lite.data import DATASETS
from gss_lite.data.own import OwnFolder
from gss_lite.data.pictures import read_mask

# Set → (folder of samples, split, class names and pixels of the first mask).
FIRST = {
    "ade20k": (
        "ade20k",
        "train",
        {"door": None, "wall": 61_273, "floor": 40_786, "ceiling": 166_409, "flag": 457},
    ),
    "kitti": (
        "kitti",
        "train",
        {"road": 114_603, "building": 95_138, "vegetation": 109_862, "car": 84_722, "truck": 47},
    ),
    "voc2012": ("voc2012", "val", {"background": 145_856, "dog": 12_154}),
    "pascal-context": (
        "pascal_context_rgb",
        "val",
        {"grass": 62_440, "ground": 56_534, "bird": 28_373, "water": 17_992, "wood": 1_161},
    ),
    "sunrgbd": (
        "sunrgbd",
        "test",
        {"wall": 60_097, "floor": 66_278, "bed": 44_458, "night stand": 19_627, "lamp": 1_810},
    ),
}
IGNORED = {
    "ade20k": 34_427,
    "kitti": None,
    "voc2012": 8_490,
    "pascal-context": 0,
    "sunrgbd": 59_501,
}


def open_sample(name, tmp_path):
    folder, split, expected = FIRST[name]
    root = replant(DATASETS[name], tmp_path, split, shared("samples") / folder)
    return DATASETS[name](split, root), expected


@pytest.mark.parametrize("name", FIRST)
def test_the_histogram_of_a_known_mask(name, tmp_path):
    dataset, expected = open_sample(name, tmp_path)
    counts = {dataset.classes[k]: n for k, n in histogram(dataset[0][1]).items() if k != 255}
    assert {k: n for k, n in expected.items() if n} == {
        k: counts.get(k) for k in expected if expected[k]
    }
    for absent in (k for k, n in expected.items() if n is None):
        assert absent not in counts


@pytest.mark.parametrize("name", FIRST)
def test_ignored_pixels_and_no_others_become_255(name, tmp_path):
    dataset, _ = open_sample(name, tmp_path)
    image, mask = dataset[0]
    raw = read_mask(dataset.pairs[0][1], dataset.colors)
    void = [k for k, label in dataset.ids.items() if label == 255]
    assert torch.equal(mask == 255, torch.isin(raw, torch.tensor(void, dtype=torch.uint8)))
    if IGNORED[name] is not None:
        assert int((mask == 255).sum()) == IGNORED[name]
    assert image.shape[1:] == mask.shape and image.dtype == mask.dtype == torch.uint8


@pytest.mark.parametrize("name", FIRST)
def test_every_sample_can_be_read(name, tmp_path):
    dataset, _ = open_sample(name, tmp_path)
    for image, mask in (dataset[i] for i in range(len(dataset))):
        assert set(mask.unique().tolist()) <= {*range(dataset.num_classes), 255}
        assert image.float().std() > 10


def test_ade20ks_order_is_the_official_one_and_not_the_alphabetical():
    with open(shared("samples") / "ade20k" / "objectInfo150.txt", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    official = [[name.strip() for name in row["Name"].split(",")] for row in rows]
    classes = DATASETS["ade20k"].classes
    assert len(official) == len(classes) == 150
    assert all(ours in names for ours, names in zip(classes, official))
    assert list(classes) != sorted(classes) and DATASETS["ade20k"].ids[1] == 0
    shares = [float(row["Ratio"]) for row in rows]
    assert shares[classes.index("wall")] == max(shares)


def test_pascal_contexts_colours_have_another_order_than_its_ids():
    kind = DATASETS["pascal-context"]
    by_color = {color: kind.classes[k] for color, k in kind.colors.items()}
    assert by_color[0, 0, 192] == "grass" and by_color[0, 192, 64] == "sky"
    assert kind.classes[36] == "mouse"  # grass is the 36th colour
    assert kind.classes[1:] == tuple(sorted(kind.classes[1:]))
    assert len(kind.colors) == len(set(kind.colors.values())) == 60


def test_voc_palettes_are_read_as_ids(tmp_path):
    dataset, _ = open_sample("voc2012", tmp_path)
    with Image.open(dataset.pairs[0][1]) as file:
        assert file.mode == "P"
        ids = np.array(file)
    assert torch.equal(dataset[0][1], torch.from_numpy(ids))


def test_labelmefacade_by_its_name_and_as_any_folder():
    folder = shared("labelmefacade")
    named = DATASETS["labelmefacade"]("test", folder)
    own = OwnFolder("all", folder, folder / "classes.txt")
    assert len(named) == len(own) == 60 and named.classes == own.classes
    assert torch.equal(named[0][1], own[0][1]) and 255 in named[0][1]
    listed = {line.split()[1]: line for line in (folder / "classes.txt").read_text().splitlines()}
    for color, k in own.colors.items():
        assert named.colors[color] == k
        if k != 255:
            assert listed[own.classes[k]].startswith(f"{k} ")


def test_the_drives_tell_camvids_splits(camvid):
    kind = DATASETS["camvid-32"]
    for split in kind.splits:
        probe = kind.__new__(kind)
        for folder in kind.splits:
            names = [path.stem for path in (camvid / f"{folder}annot").glob("[!.]*.png")]
            assert len(names) == kind.splits[folder]
            probe.split = split
            assert {probe.in_split(name) for name in names} == {folder == split}
