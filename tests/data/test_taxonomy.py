"""Maps between sets of classes: the matrix, the table, and every column of MSeg's table."""

import json

import numpy as np
import pytest
import torch
from trees import shared

from gss_lite.contracts import IGNORE
from gss_lite.data import DATASETS, LabelMap, Relabeled, Taxonomy
from gss_lite.data.choice import map_classes
from gss_lite.data.scenes import Scenes
from gss_lite.data.taxonomy import TEST_COLUMNS, TRAIN_COLUMNS, UNRELABELED_COLUMNS
from gss_lite.views import flipped, relabeled

SMALL = LabelMap(("van", "car", "sky", "cow"), ("vehicle", "sky", "sea"), (0, 0, 1, IGNORE))


def test_the_matrix_adds_up_the_sources_of_a_target():
    assert SMALL.matrix.tolist() == [[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    scores = torch.tensor([0.3, 0.25, 0.35, 0.1])[None, :, None, None]  # (1, 4, 1, 1)
    mapped = SMALL.scores(scores)  # (1, 3, 1, 1)
    torch.testing.assert_close(mapped.flatten(), torch.tensor([0.55, 0.35, 0.0]))
    # sky alone beats van and car one by one, and loses to both together
    assert scores.argmax(1).item() == 2 and mapped.argmax(1).item() == 0
    with pytest.raises(ValueError, match="from 4 classes; got scores"):
        SMALL.scores(scores[:, :3])


def test_masks_and_one_hot_scores_are_mapped_alike():
    ids = torch.randint(0, 3, (2, 5, 7))  # no cow, which has no target
    onehot = torch.nn.functional.one_hot(ids, 4).movedim(-1, 1).float()
    assert torch.equal(SMALL.masks(ids), SMALL.scores(onehot).argmax(1))
    with_void = SMALL.masks(torch.tensor([[3, IGNORE, 2]]))
    assert with_void.tolist() == [[IGNORE, IGNORE, 1]]
    with pytest.raises(ValueError):
        SMALL.masks(torch.tensor([[4]]))


def test_it_is_a_view_that_can_be_nested():
    def score_fn(image):
        return {"prediction": image[:, :4].softmax(1), "pixel_head": image[:, 4:].softmax(1)}

    image = torch.randn(1, 8, 3, 4)
    inside = relabeled(flipped(score_fn), SMALL)(image)
    outside = flipped(relabeled(score_fn, SMALL))(image)
    for name in ("prediction", "pixel_head"):
        assert inside[name].shape == (1, 3, 3, 4)
        torch.testing.assert_close(inside[name], outside[name])


def test_the_table_reads_from_target_to_sources():
    lines = SMALL.table().splitlines()
    assert lines == [
        "vehicle    ← van, car",
        "sky        ← sky",
        "sea        ← – (nothing)",
        "(ignored)  ← cow",
    ]
    assert SMALL.ignored == ("cow",) and SMALL.unreached == ("sea",)


def test_a_map_is_written_and_read(tmp_path):
    path = tmp_path / "map.tsv"
    path.write_text(SMALL.write())
    assert LabelMap.read(path, SMALL.source, SMALL.target) == SMALL
    assert LabelMap.read(path, SMALL.source).target == ("vehicle", "sky")
    for text, match in (
        ("a\tb\nvan vehicle\n", "line 2: expected two columns"),
        ("a\tb\nvan\tsky\nvan\tsea\n", "line 3: .*each class once"),
        ("a\tb\nbus\tsky\n", "names 'bus', which is no class"),
        ("a\tb\nvan\tship\n", "names 'ship', which is no class"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=match):
            LabelMap.read(path, SMALL.source, SMALL.target)
    with pytest.raises(FileNotFoundError, match="no map of classes"):
        LabelMap.read(tmp_path / "none.tsv", SMALL.source)


def test_two_maps_in_a_row():
    second = LabelMap(SMALL.target, ("thing", "rest"), (0, 1, 1))
    both = SMALL.then(second)
    assert both.ids == (0, 0, 1, IGNORE)
    assert torch.equal(both.matrix, second.matrix @ SMALL.matrix)
    with pytest.raises(ValueError, match="must begin with"):
        second.then(SMALL)
    with pytest.raises(ValueError, match="each 0…2 or 255"):
        LabelMap(SMALL.source, SMALL.target, (0, 0, 1, 3))


def test_a_data_set_in_other_classes(tmp_path):
    streets = Scenes(3, height=32, width=48)
    path = tmp_path / "map.tsv"
    path.write_text("from\tto\nCar\tvehicle\nSky\tsky\nRoad\tunlabeled\n")
    label_map, mapped = map_classes(streets.classes, streets, path, path)
    assert mapped.classes == label_map.target == ("vehicle", "sky") and len(mapped) == 3
    assert isinstance(mapped, Relabeled)
    before, after = streets[1][1].long(), mapped[1][1]
    assert torch.equal(after == 1, before == streets.classes.index("Sky"))
    assert torch.equal(after == 0, before == streets.classes.index("Car"))
    with pytest.raises(ValueError, match="no column for this set"):
        map_classes(streets.classes, streets, "mseg")


# MSeg's table ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def taxonomy():
    return Taxonomy.read(shared("mseg") / "MSeg_master.tsv")


def remap(name):
    """The rows of one of MSeg's files that map one set's classes to another's."""
    lines = (shared("mseg") / name).read_text().splitlines()[1:]
    return [tuple(line.split("\t")) for line in lines]


def test_the_universal_taxonomy_has_194_classes(taxonomy):
    assert len(taxonomy.classes) == len(set(taxonomy.classes)) == 194
    assert taxonomy.classes[:2] == ("backpack", "umbrella")
    assert "unlabeled" not in taxonomy.classes


@pytest.mark.parametrize("column", TRAIN_COLUMNS)
def test_a_relabeled_training_set_maps_without_loss_and_back(taxonomy, column):
    label_map = taxonomy.to_universal(column)
    assert label_map.ignored == ()
    assert len(set(label_map.ids)) == len(label_map.source)
    back = LabelMap(
        label_map.target,
        label_map.source,
        tuple(
            label_map.ids.index(k) if k in label_map.ids else IGNORE
            for k in range(len(label_map.target))
        ),
    )
    assert label_map.then(back).ids == tuple(range(len(label_map.source)))


# What has no universal class before relabeling, as the table says.
LOST = {
    "ade20k-150": {
        *("bar", "canopy", "computer", "crt screen", "monitor"),
        *("plant", "screen", "signboard", "step"),
    },
    "cityscapes-34": {
        *("dynamic", "ego vehicle", "ground", "out of roi"),
        *("parking", "rectification border", "static", "unlabeled"),
    },
    "idd-39": {
        *("animal", "ego vehicle", "fallback background", "license plate"),
        *("non-drivable fallback", "obs-str-bar-fallback", "out of roi"),
        *("rectification border", "vehicle fallback"),
    },
    "mapillary-public65": {"Car Mount", "Catch Basin", "Ego Vehicle", "Manhole", "Other Vehicle"},
}
OTHER_COLUMNS = {"cityscapes-34-relabeled": set(), "nyudepthv2-37": {"table"}}
OTHER_COLUMNS["scannet-37"] = {"table"}


@pytest.mark.parametrize("column", [*UNRELABELED_COLUMNS, *OTHER_COLUMNS])
def test_every_other_training_column_maps_or_is_listed(taxonomy, column):
    label_map = taxonomy.to_universal(column)
    assert set(label_map.ignored) == {**LOST, **OTHER_COLUMNS}.get(column, set())
    number = column.rsplit("-", 1)[-1].removeprefix("public")
    if number.isdigit() and column != "nyudepthv2-37":
        assert len(label_map.source) == int(number)


@pytest.mark.parametrize("column", [*TEST_COLUMNS, "test-nyudepthv2-37"])
def test_every_test_column_maps_or_is_listed(taxonomy, column):
    label_map = taxonomy.to_test(column)
    assert label_map.unreached == ()
    assert sum(k != IGNORE for k in label_map.ids) == int(label_map.matrix.sum())
    assert label_map.matrix.sum(0).max() == 1
    mapped = {name for name, k in zip(label_map.source, label_map.ids) if k != IGNORE}
    cells = dict(zip(taxonomy.classes, taxonomy.columns[column]))
    assert mapped == {name for name, cell in cells.items() if cell}
    assert mapped | set(label_map.ignored) == set(taxonomy.classes)


@pytest.mark.parametrize("name", [n for n, kind in DATASETS.items() if getattr(kind, "mseg", None)])
def test_every_test_set_is_reached_in_its_own_order(taxonomy, name):
    kind = DATASETS[name]
    label_map = taxonomy.to_test(kind.mseg, kind.classes)
    # No universal class becomes Context's flower or wood: MSeg merges them into others.
    assert label_map.unreached == (("flower", "wood") if name == "pascal-context" else ())
    cells = dict(zip(taxonomy.classes, taxonomy.columns[kind.mseg]))
    for universal, k in zip(label_map.source, label_map.ids):
        assert cells[universal] == (() if k == IGNORE else (kind.classes[k],))


def test_from_a_training_set_to_a_test_set(taxonomy):
    first = taxonomy.to_universal("cityscapes-19", DATASETS["cityscapes"].classes)
    there = first.then(taxonomy.to_test("kitti-19", DATASETS["kitti"].classes))
    assert there.ids == tuple(range(19))
    relabeled_first = taxonomy.to_universal("cityscapes-19-relabeled")
    there = relabeled_first.then(taxonomy.to_test("kitti-19"))
    found = {a: there.target[k] for a, k in zip(there.source, there.ids)}
    assert found["bicyclist"] == found["motorcyclist"] == "rider" and found["person"] == "person"
    assert there.ignored == ()


def test_ade20ks_official_names_and_msegs_are_the_same_in_another_order(taxonomy):
    classes = DATASETS["ade20k"].classes
    assert set(classes) == set(taxonomy.names("ade20k-150"))
    by_official = taxonomy.to_universal("ade20k-150", classes)
    by_mseg = taxonomy.to_universal("ade20k-150")
    assert by_official.ids != by_mseg.ids
    assert dict(zip(by_official.source, by_official.ids)) == dict(zip(by_mseg.source, by_mseg.ids))
    assert by_official.target[by_official.ids[0]] == "wall"


def test_relabeled_ids_count_names_alphabetically(taxonomy):
    """Three places in MSeg's own lists of names."""
    names = {column: taxonomy.names(column) for column in TRAIN_COLUMNS}
    assert [len(names[column]) for column in TRAIN_COLUMNS] == [141, 21, 21, 155, 30, 51, 48]
    assert names["coco-panoptic-133-relabeled"][36:39] == ("ceiling", "cell phone", "chair_other")
    assert names["ade20k-150-relabeled"][-1] == "zebra"
    assert names["cityscapes-19-relabeled"][8:11] == ("person", "pole", "rider_other")


@pytest.mark.parametrize("name", ["cityscapes", "kitti"])
def test_the_ids_of_cityscapes_and_kitti_are_msegs(name):
    rows = remap(f"{name}-34_to_{name}-19.tsv")
    kind = DATASETS[name]
    for label, (_, target) in enumerate(rows):
        expected = IGNORE if target == "unlabeled" else kind.classes.index(target)
        assert kind.ids[label] == expected
    assert len(rows) == 34


def test_the_colours_of_camvid_are_msegs_32():
    rows = dict(remap("camvid-32_to_camvid-11.tsv"))
    names = {name for name in rows if name not in ("unlabeled", "Void")}
    assert names == set(DATASETS["camvid-32"].classes)
    kept = {name for name, target in rows.items() if target != "unlabeled"}
    assert kept == set(DATASETS["camvid-mseg"].classes)


def test_the_maps_made_by_hand_agree_with_the_table(taxonomy):
    hand = json.loads((shared("taxonomy_map.json")).read_text())
    camvid, mseg = DATASETS["camvid"], DATASETS["camvid-mseg"]
    assert tuple(hand["camvid_segnet11_names"]) == camvid.classes
    universal = LabelMap(
        camvid.classes, taxonomy.classes, tuple(hand["camvid_segnet11_to_mseg_universal"])
    )
    there = universal.then(taxonomy.to_test("camvid-11", mseg.classes))
    assert there.ids == tuple(hand["camvid_segnet11_to_mseg_camvid11"])
    facade = LabelMap(
        DATASETS["labelmefacade"].classes,
        tuple(hand["common6_names"]),
        tuple(hand["labelmefacade_to_common6"]),
    )
    assert facade.unreached == () and facade.ids[facade.source.index("window")] == 0


def test_a_file_that_is_not_the_table_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "MSeg_master.tsv"
    path.write_text("universal\tvoc2012\nsky\tsky\n")
    with pytest.raises(ValueError, match="so it is not MSeg's table"):
        Taxonomy.read(path)
    monkeypatch.setenv("GSS_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="python -m data_scripts.mseg"):
        Taxonomy.read()


def test_a_class_with_two_universal_classes_must_be_relabeled_first(taxonomy):
    columns = {**taxonomy.columns}
    rows = list(columns["bdd"])
    rows[0] = ("road",)
    broken = Taxonomy(taxonomy.classes, {**columns, "bdd": tuple(rows)})
    with pytest.raises(ValueError, match="column bdd: road belongs to backpack and to road"):
        broken.to_universal("bdd")


def test_probabilities_of_many_classes_keep_their_sum(taxonomy):
    label_map = taxonomy.to_test("voc2012", DATASETS["voc2012"].classes)
    scores = torch.from_numpy(np.random.default_rng(0).random((1, 194, 4, 5), np.float32))
    scores = scores / scores.sum(1, keepdim=True)
    torch.testing.assert_close(label_map.scores(scores).sum(1), torch.ones(1, 4, 5))
