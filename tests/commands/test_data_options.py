"""Train and evaluate on any folder with a list of classes, on another set, and across classes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from command_line import TINY, command, refused
from PIL import Image

from gss_lite.data import LabelMap, Relabeled, Scenes, create_dataset, with_data
from gss_lite.data.choice import class_names_of, default_split
from gss_lite.data.masks import stack_masks
from gss_lite.evaluation import evaluate
from gss_lite.presets import get_preset
from gss_lite.training.run import schedule_hash

PLACES = ("Sky", "Road", "Car")
LINES = "0 Sky\n1 Road\n2 Car\n3 void\n"


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Ten streets with three classes and void, in images/ and masks/, with a list of classes."""
    folder = tmp_path_factory.mktemp("own") / "streets"
    table = np.full(256, 3, np.uint8)
    for k, name in enumerate(PLACES):
        table[Scenes.classes.index(name)] = k
    streets = Scenes(10, height=64, width=64)
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for i in range(10):
        image, mask = streets[i]
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / "images" / f"s{i}.png")
        Image.fromarray(table[mask.numpy()]).save(folder / "masks" / f"s{i}.png")
    (folder.parent / "classes.txt").write_text(LINES)
    return folder


def options(own):
    return ("--data", own, "--classes", own.parent / "classes.txt")


@pytest.mark.slow
def test_train_and_evaluate_on_any_folder(own, tmp_path, capsys):
    run = tmp_path / "run"
    assert command("train", *TINY, *options(own), "--out", run) == 0
    card = json.loads((run / "scenes-tiny.prior.json").read_text())
    assert card["preset"] == "scenes-tiny"
    record = tmp_path / "record.json"
    arguments = (*TINY, *options(own), "--weights", run, "--record", record, "--device", "cpu")
    assert command("evaluate", *arguments) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in PLACES) and "test split, 2 pictures" in printed
    metrics = json.loads(record.read_text())["metrics"]
    assert metrics["pictures"] == 2 and len(metrics["prediction"]["iou"]) == 3
    assert command("evaluate", *arguments, "--split", "all") == 0
    assert json.loads(record.read_text())["metrics"]["pictures"] == 10
    # Another list of classes is another run.
    (own.parent / "other.txt").write_text(LINES.replace("Car", "Vehicle"))
    other = (*TINY, "--data", own, "--classes", own.parent / "other.txt", "--out", run)
    said = refused(capsys, "train", *other)
    assert str(run) in said and "plan" in said


def test_a_folder_needs_both_options(own, capsys):
    said = refused(capsys, "train", *TINY, "--classes", own.parent / "classes.txt")
    assert "name it with --data" in said
    said = refused(capsys, "train", *TINY, "--data", own)
    assert "give --classes FILE too" in said
    said = refused(capsys, "train", *TINY, "--data", own, "--classes", own / "none.txt")
    assert "there is no list of classes" in said
    said = refused(capsys, "train", *TINY, "--set", "atlantis")
    assert "there is no data set 'atlantis'" in said


def test_a_preset_for_other_data_keeps_its_networks(own):
    preset = get_preset("camvid-generic")
    changed = with_data(preset, classes=own.parent / "classes.txt")
    assert changed.prior == preset.prior and changed.schedules == preset.schedules
    assert changed.data.num_classes == 3 and changed.data.name == "folder"
    assert class_names_of(changed) == PLACES and default_split(changed) == "test"
    dataset = create_dataset(changed, "val", folder=own, transform=None)
    assert dataset.names == ["s4", "s9"] and dataset.classes == PLACES
    schedule = preset.schedules["prior"]
    assert schedule_hash(preset, "prior", schedule) != schedule_hash(changed, "prior", schedule)


def test_another_set_takes_the_place_of_the_presets():
    changed = with_data("cityscapes-r101", "ade20k")
    assert (changed.data.num_classes, changed.palette) == (150, "greedy")
    assert with_data("cityscapes-r101", "cityscapes").palette == "released-cityscapes"
    assert with_data("scenes-tiny", "voc2012").data.num_classes == 21
    assert (
        default_split(changed) == "val" and default_split(with_data("camvid", "kitti")) == "train"
    )
    drawn = with_data("camvid-generic", "scenes")
    assert len(create_dataset(drawn, "test")) == 200
    assert class_names_of(with_data("many-scenes-cpu")) == create_dataset("many-scenes-cpu").classes
    assert with_data("camvid") is get_preset("camvid")
    with pytest.raises(ValueError, match="tokenizer of camvid, which knows 11 colours.*21 classes"):
        with_data("camvid-pretrained", "voc2012")


# Across classes -------------------------------------------------------------------------------


def test_a_map_adds_up_the_probabilities_of_the_model(tiny_gss):
    streets = create_dataset("scenes-tiny", "test")
    classes = ("Still", "Moving")
    moving = {"Car", "Pedestrian", "Bicyclist"}
    pairs = {k: classes[k in moving] for k in streets.classes if k != "Tree"}
    label_map = LabelMap.of_names(streets.classes, classes, pairs)
    mapped = Relabeled(streets, label_map)
    result = evaluate(tiny_gss, mapped, label_map=label_map, progress=False)
    assert set(result.matrices) == {"prediction", "pixel_head"} and result.classes == classes
    image, mask = streets[0]
    with torch.no_grad():
        scores = tiny_gss.probabilities(image[None])["prediction"][0]  # (11, H, W)
    parts = [[k for k, to in enumerate(label_map.ids) if to == label] for label in (0, 1)]
    found = torch.stack([scores[part].sum(0) for part in parts]).argmax(0)
    true = label_map.masks(mask)
    assert bool((true == 255).any()) == bool((mask == streets.classes.index("Tree")).any())
    expected = [[int(((true == a) & (found == b)).sum()) for b in (0, 1)] for a in (0, 1)]
    assert result.matrices["prediction"][0].tolist() == expected


def test_evaluate_with_maps_from_the_command_line(own, tiny_run, tmp_path, capsys):
    maps = tmp_path / "model.tsv"
    maps.write_text("model\tset\nSky\tSky\nRoad\tRoad\nPavement\tRoad\nCar\tCar\n")
    record = tmp_path / "record.json"
    given = (*TINY, *options(own), "--weights", tiny_run, "--device", "cpu", "--record", record)
    assert command("evaluate", *given, "--map", maps, "--split", "all") == 0
    printed = capsys.readouterr().out
    assert "Road       ← Road, Pavement" in printed
    metrics = json.loads(record.read_text())["metrics"]
    assert metrics["label_map"] == "model.tsv" and len(metrics["prediction"]["iou"]) == 3
    truth = tmp_path / "truth.tsv"
    truth.write_text("set\tshared\nSky\tabove\nRoad\tbelow\nCar\tbelow\n")
    maps.write_text("model\tshared\nSky\tabove\nTree\tabove\nRoad\tbelow\nCar\tbelow\n")
    assert command("evaluate", *given, "--map", maps, "--map-truth", truth) == 0
    assert len(json.loads(record.read_text())["metrics"]["prediction"]["iou"]) == 2
    said = refused(capsys, "evaluate", *given, "--map-truth", truth)
    assert "to the classes of --map; give that too" in said
    assert "no column for this set" in refused(capsys, "evaluate", *given, "--map", "mseg")


def test_masks_of_the_folder_have_all_its_classes(own):
    dataset = create_dataset(
        with_data("scenes-tiny", classes=own.parent / "classes.txt"), folder=own, transform=None
    )
    assert set(stack_masks(dataset, range(8)).unique().tolist()) <= {0, 1, 2, 255}
