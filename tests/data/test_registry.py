"""The one place that knows which data sets there are."""

import pickle
from dataclasses import replace

import pytest
import torch
from PIL import Image

from gss_lite.data import DATASETS, create_dataset
from gss_lite.data.choice import number_of_classes
from gss_lite.data.folders import CamVid
from gss_lite.data.scenes import ManyScenes, Scenes
from gss_lite.data.transforms import eval_transform
from gss_lite.presets import PRESETS, get_preset

OURS = [name for name, preset in PRESETS.items() if preset.data.name in DATASETS]
DRAWN = [name for name in OURS if DATASETS[PRESETS[name].data.name].drawn]


@pytest.fixture
def camvid_folder(tmp_path):
    for split in CamVid.splits:
        for part, kind in ((split, "RGB"), (f"{split}annot", "L")):
            (tmp_path / part).mkdir()
            for i in range(2):
                picture = Image.effect_noise((48, 36), 80).convert(kind)
                picture = picture.point(lambda v: v % 12) if kind == "L" else picture
                picture.save(tmp_path / part / f"{split}{i}.png")
    return tmp_path


@pytest.mark.parametrize("name", DATASETS)
def test_every_set_says_what_there_is_to_know(name):
    kind = DATASETS[name]
    assert kind.name == name
    assert len(kind.classes) == len(set(kind.classes))
    if "mseg" in name.split("-")[0]:  # MSeg's classes are read from its table
        assert number_of_classes(name) == 194 and kind.classes == ()
    else:
        assert number_of_classes(name) == kind.num_classes == len(kind.classes)
    assert kind.licence is None or "\n" not in kind.licence
    assert isinstance(kind.leave_out, tuple) and isinstance(kind.drawn, bool)
    assert kind.ignore_index == 255


def test_what_the_sets_are():
    for name, kind in {"scenes": Scenes, "many-scenes": ManyScenes, "camvid": CamVid}.items():
        assert DATASETS[name] is kind
    assert Scenes.drawn and ManyScenes.drawn and not CamVid.drawn
    assert CamVid.licence.startswith("CC BY-NC 4.0") and Scenes.licence is None
    assert CamVid.classes == Scenes.classes and CamVid.classes[3] == "Road"
    assert dict(CamVid.splits) == {"train": 367, "val": 101, "test": 233}
    assert CamVid.leave_out == ("Seq05VD_f02610",) and Scenes.leave_out == ()
    with pytest.raises(TypeError):
        DATASETS["scenes"] = CamVid


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_drawn_set_is_the_presets(name, split):
    preset = get_preset(name)
    spec = preset.data
    dataset = create_dataset(name, split)
    assert type(dataset) is DATASETS[spec.name]
    assert len(dataset) == (spec.train_pictures if split == "train" else spec.eval_pictures)
    assert len(dataset.classes) == dataset.num_classes == spec.num_classes
    assert (dataset.split, dataset.seed) == (split, preset.seed)
    image, mask = dataset[0]
    assert image.shape == (3, *spec.size) and mask.shape == spec.size
    assert image.dtype == torch.float32 and mask.dtype == torch.int64
    assert set(mask.unique().tolist()) <= {*range(spec.num_classes), 255}


def test_a_preset_or_its_name_with_its_seed():
    preset = get_preset("scenes-tiny")
    first, named = create_dataset(preset, "val")[0], create_dataset("scenes-tiny", "val")[0]
    assert torch.equal(first[0], named[0]) and torch.equal(first[1], named[1])
    other = create_dataset(replace(preset, seed=preset.seed + 1), "val")[0]
    assert not torch.equal(first[1], other[1])
    assert create_dataset(preset).split == "train"


def test_items_are_ready_for_the_model_unless_another_transform_is_given():
    raw = create_dataset("scenes-tiny", "test", transform=None)[1]
    assert raw[0].dtype == raw[1].dtype == torch.uint8
    ready = create_dataset("scenes-tiny", "test")[1]
    expected = eval_transform()(*raw)
    assert torch.equal(ready[0], expected[0]) and torch.equal(ready[1], expected[1])
    sizes = create_dataset("scenes-tiny", "test", transform=lambda image, mask: mask.shape)[1]
    assert sizes == raw[1].shape


def test_camvid_from_its_folder(camvid_folder):
    dataset = create_dataset("camvid", "val", folder=camvid_folder)
    assert type(dataset) is CamVid and dataset.names == ["val0", "val1"]
    image, mask = dataset[0]
    assert image.shape == (3, 36, 48) and image.dtype == torch.float32 and mask.dtype == torch.int64
    assert create_dataset("camvid", folder=camvid_folder).names == ["train0", "train1"]
    raw = create_dataset("camvid", "val", folder=camvid_folder, transform=None)[0][0]
    assert torch.equal(eval_transform()(raw, raw[0])[0], image)


def test_a_folder_for_drawn_pictures_is_refused(tmp_path):
    with pytest.raises(ValueError, match="preset scenes-tiny draws its pictures and reads none fr"):
        create_dataset("scenes-tiny", folder=tmp_path)


def test_the_folder_of_a_tokenizers_photographs_is_no_mistake(tmp_path):
    name = next(n for n in DRAWN if getattr(PRESETS[n].tokenizer, "photographs", None))
    assert create_dataset(name, "val", folder=tmp_path).drawn


def test_a_set_without_a_loader_is_named():
    preset = get_preset("scenes-tiny")
    wrong = replace(preset, data=replace(preset.data, name="atlantis"))
    with pytest.raises(ValueError, match="no data set atlantis, which preset scenes-tiny names"):
        create_dataset(wrong)


@pytest.mark.parametrize("name", PRESETS)
def test_every_presets_data_have_a_loader(name):
    spec = PRESETS[name].data
    assert name in OURS and spec.num_classes <= number_of_classes(spec.name)


def test_another_number_of_classes_is_refused():
    preset = get_preset("scenes-tiny")
    wrong = replace(preset, data=replace(preset.data, num_classes=12))
    with pytest.raises(ValueError, match="is for 12 classes, and scenes has 11"):
        create_dataset(wrong)


def test_an_unknown_split_is_refused(camvid_folder):
    with pytest.raises(ValueError, match="unknown split 'dev'"):
        create_dataset("scenes-tiny", "dev")
    with pytest.raises(ValueError, match="got 'dev'"):
        create_dataset("camvid", "dev", folder=camvid_folder)


def test_sets_can_be_sent_to_fresh_processes(camvid_folder):
    """Where processes are spawned (macOS, Windows), workers get a pickled copy."""
    for dataset in (
        create_dataset("scenes-tiny", "val"),
        create_dataset("camvid", "val", folder=camvid_folder),
    ):
        copy = pickle.loads(pickle.dumps(dataset))
        assert torch.equal(copy[1][0], dataset[1][0]) and torch.equal(copy[1][1], dataset[1][1])
