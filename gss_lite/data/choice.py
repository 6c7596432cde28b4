"""Choose the data of an experiment: another set than a preset's, or your own folder, and maps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch.utils.data import Dataset

from gss_lite.data.mseg import MSeg, Part
from gss_lite.data.own import ClassList, OwnFolder
from gss_lite.data.registry import DATASETS
from gss_lite.data.taxonomy import LabelMap, Relabeled, Taxonomy
from gss_lite.presets import DataSpec, Preset, get_preset, tokenizer_owner


def number_of_classes(name: str) -> int:
    """Return the number of classes of a set; the parts of MSeg share its universal classes."""
    kind = DATASETS[name]
    return MSeg.num_classes if issubclass(kind, Part) else kind.num_classes


def with_data(
    preset: str | Preset, name: str | None = None, classes: str | Path | None = None
) -> Preset:
    """Return a preset for another data set, or for your own folder.

    The networks and the schedules stay. A palette that was released for certain classes becomes
    one of maximal distance.

    Args:
        preset: a preset or its name.
        name: a key of DATASETS.
        classes: the path of a list of classes, see `ClassList`, for a folder of pictures and masks.

    Raises:
        ValueError: there is no such set, both are given, or the preset shares a tokenizer that
            knows another number of colours.
        FileNotFoundError: there is no such list.
    """
    preset = get_preset(preset)
    if name is not None and classes is not None:
        raise ValueError("name a data set or a list of classes, not both")
    if name is None and classes is None:
        return preset
    lines: tuple[str, ...] = ()
    if classes is not None:
        listed = ClassList.read(classes)
        name, count, lines = OwnFolder.name, len(listed.names), listed.lines
    elif name not in DATASETS:
        raise ValueError(f"there is no data set {name!r}; there are: {', '.join(DATASETS)}")
    else:
        count = number_of_classes(name)
    owner = tokenizer_owner(preset)
    if owner is not preset and owner.palette is not None and count != owner.data.num_classes:
        raise ValueError(
            f"preset {preset.name} shares the tokenizer of {owner.name}, which knows "
            f"{owner.data.num_classes} colours, and there are {count} classes. Choose one with "
            "its own tokenizer, or one that shares generic-s4, as camvid-generic"
        )
    palette = preset.palette
    if palette is not None and palette.startswith("released") and name != preset.data.name:
        palette = "greedy"
    data = DataSpec(name, preset.data.size, count, class_list=lines)
    drawn = name in DATASETS and DATASETS[name].drawn
    if drawn:
        data = replace(
            data,
            train_pictures=preset.data.train_pictures or 2_000,
            eval_pictures=preset.data.eval_pictures or 200,
        )
    return replace(preset, data=data, palette=palette)


def class_names_of(preset: str | Preset) -> tuple[str, ...]:
    """Return the names of the classes that a preset's model predicts.

    Raises:
        ValueError: the set is unknown.
        FileNotFoundError: the classes are MSeg's, and its table is not there.
    """
    spec = get_preset(preset).data
    if spec.name == OwnFolder.name:
        return ClassList.parse(spec.class_list).names
    kind = DATASETS[spec.name]
    if issubclass(kind, (MSeg, Part)):
        return Taxonomy.read().classes
    if kind.drawn and spec.num_classes != kind.num_classes:
        return kind(1, num_classes=spec.num_classes).classes
    return kind.classes


def default_split(preset: str | Preset) -> str:
    """Return the split that a preset is evaluated on: test, or val or train where there is none."""
    kind = DATASETS.get(get_preset(preset).data.name)
    splits = getattr(kind, "splits", ("test",))
    return next(split for split in ("test", "val", "train") if split in splits)


def map_classes(
    source: tuple[str, ...], dataset: Dataset, path: str | Path, truth: str | Path | None = None
) -> tuple[LabelMap, Dataset]:
    """Read the maps for a model that is evaluated in other classes than its own.

    Args:
        source: the classes that the model predicts.
        dataset: the set that it is evaluated on.
        path: the map from `source` to the set's classes, see `LabelMap.read`. "mseg" takes it from
            MSeg's table, for a model with the universal classes and one of MSeg's test sets.
        truth: a map from the set's classes to those of the file `path`, where they differ.

    Returns:
        The map for the model's scores, and the data set, with its masks mapped if `truth` is given.

    Raises:
        ValueError: a map names an unknown class, or the set has no column in MSeg's table.
        FileNotFoundError: there is no such file.
    """
    if str(path) == "mseg":
        if getattr(dataset, "mseg", None) is None:
            columns = [name for name, kind in DATASETS.items() if getattr(kind, "mseg", None)]
            raise ValueError(
                f"MSeg's table has no column for this set; it has one for {', '.join(columns)}"
            )
        taxonomy = Taxonomy.read()
        if source != taxonomy.classes:
            raise ValueError(
                f"--map mseg is for a model with MSeg's {len(taxonomy.classes)} universal classes; "
                f"this one has {len(source)}. Give a file in place of mseg"
            )
        return taxonomy.to_test(dataset.mseg, dataset.classes), dataset
    if truth is None:
        return LabelMap.read(path, source, dataset.classes), dataset
    label_map = LabelMap.read(path, source)
    return label_map, Relabeled(dataset, LabelMap.read(truth, dataset.classes, label_map.target))
