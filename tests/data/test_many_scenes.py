"""Scenes of many classes: the fine classes, and how they are folded into fewer."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from gss_lite.data.scenes import (
    ManyScenes,
    Scenes,
    fold,
    render_fine,
)
from gss_lite.data.street.classes import CLASSES, FINE_CLASSES, FINE_GROUP, FINE_TO_COARSE


@pytest.mark.parametrize("num_classes", [11, 12, 60, 61, 149, 150])
def test_fold_is_a_refinement_of_camvid(num_classes: int) -> None:
    table, names = fold(num_classes)
    assert set(table[:150].tolist()) == set(range(num_classes)) and (table[150:] == 255).all()
    assert len(set(names)) == num_classes
    assert (np.diff(table[:150].astype(int)) >= 0).all()
    for k, name in enumerate(names):
        members = np.flatnonzero(table == k)
        assert {CLASSES[FINE_TO_COARSE[m]] for m in members} == {name.split(": ")[0]}


def test_fold_merges_siblings_before_groups() -> None:
    table, _ = fold(60)
    groups = [{FINE_GROUP[m] for m in np.flatnonzero(table == k)} for k in range(60)]
    assert all(len(group) == 1 for group in groups)
    assert fold(150)[1] == FINE_CLASSES
    assert [name.split(": ")[0] for name in fold(11)[1]] == list(CLASSES)


@pytest.mark.parametrize(
    "num_classes, digest",
    [(33, "a9cc75f349a7ca8e"), (64, "a52da4241c9c992f"), (100, "62de07c76e9c9374")],
)
def test_folded_classes_are_what_they_always_were(num_classes: int, digest: str) -> None:
    table, names = fold(num_classes)
    assert hashlib.sha256(table.tobytes() + repr(names).encode()).hexdigest()[:16] == digest


@pytest.mark.parametrize("num_classes", [0, 10, 151])
def test_fold_outside_its_range(num_classes: int) -> None:
    with pytest.raises(ValueError, match="11…150"):
        ManyScenes(3, num_classes=num_classes)


@pytest.mark.parametrize("num_classes", [11, 60, 150])
def test_many_scenes_agree_with_scenes(num_classes: int) -> None:
    arguments = {"split": "val", "seed": 3, "height": 64, "width": 96, "domain": "dusk"}
    many, plain = ManyScenes(3, num_classes=num_classes, **arguments), Scenes(3, **arguments)
    assert many.num_classes == len(many.classes) == num_classes
    for i in range(3):
        assert torch.equal(many[i][0], plain[i][0])
        np.testing.assert_array_equal(many.to_coarse[many[i][1].numpy()], plain[i][1].numpy())


@pytest.mark.slow
def test_every_fine_class_appears_regularly() -> None:
    present = np.zeros(150)
    for i in range(300):
        present += np.bincount(render_fine(0, i)[1].ravel(), minlength=256)[:150] >= 4
    assert (present >= 3).all(), [FINE_CLASSES[k] for k in np.flatnonzero(present < 3)]
