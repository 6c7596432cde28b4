"""Several trainings side by side: their spread, and intervals over frames of the mean."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import gss_lite as gss
from gss_lite.metrics import paired_bootstrap, scores_from_confusion
from notebooks.experiments.camvid_answers import drives
from notebooks.experiments.runner import picture_names, subset
from notebooks.experiments.seeds import read_matrices, summary


def counts(right, wrong, frames, seed):
    """Confusion matrices (N, 2, 2) of a model that is right as often as given, but for noise."""
    noise = torch.randint(10, (frames,), generator=torch.Generator().manual_seed(seed))
    matrices = torch.zeros(frames, 2, 2, dtype=torch.long)
    matrices[:, 0, 0], matrices[:, 1, 1], matrices[:, 0, 1] = right, right, wrong + noise
    return matrices


STACKS = {
    "GSS-FF": torch.stack([counts(100, wrong, 40, wrong) for wrong in (10, 14, 12)]),
    "twin": torch.stack([counts(100, wrong, 40, wrong) for wrong in (31, 30, 29)]),
}
GROUPS = [0] * 25 + [1] * 15


def test_mean_and_deviation_are_over_the_trainings():
    row = summary(STACKS, GROUPS)["GSS-FF"]
    each = [100 * scores_from_confusion(m.sum(0)).miou for m in STACKS["GSS-FF"]]
    assert row["miou"] == pytest.approx(each, abs=1e-3)
    assert row["mean"] == pytest.approx(np.mean(each), abs=2e-3)
    assert row["deviation"] == pytest.approx(np.std(each, ddof=1), abs=2e-3)


def test_the_gain_is_that_of_each_seed_over_the_twin_of_this_seed():
    rows = summary(STACKS, GROUPS)
    gain = rows["GSS-FF"]["over_twin"]
    each = [a - b for a, b in zip(rows["GSS-FF"]["miou"], rows["twin"]["miou"])]
    assert gain["each"] == pytest.approx(each, abs=1e-3)
    assert gain["frames"][0] < gain["mean"] < gain["frames"][1]
    assert "over_twin" not in rows["twin"]


def test_a_frame_can_be_left_out():
    damaged = {name: stack.clone() for name, stack in STACKS.items()}
    damaged["GSS-FF"][:, 7, 0] = torch.tensor([0, 10_000])
    row = summary(damaged, GROUPS, leave_out=[7])["GSS-FF"]
    kept = [i for i in range(40) if i != 7]
    expected = [100 * scores_from_confusion(m[kept].sum(0)).miou for m in STACKS["GSS-FF"]]
    assert row["without_corrupt_frame"] == pytest.approx(expected, abs=1e-3)
    assert row["miou"][0] < expected[0] - 10


def test_one_training_has_no_deviation():
    stacks = {name: stack[:1] for name, stack in STACKS.items()}
    assert summary(stacks, GROUPS)["GSS-FF"]["deviation"] is None


def test_the_interval_of_equal_trainings_is_that_of_one():
    one, other = STACKS["twin"][0], STACKS["GSS-FF"][0]
    how = {"groups": GROUPS, "block": 5}
    both = paired_bootstrap(one.expand(3, -1, -1, -1), other.expand(3, -1, -1, -1), **how)
    assert both == pytest.approx(paired_bootstrap(one, other, **how))


def test_the_interval_of_a_mean_is_narrower_than_those_of_unlike_trainings():
    """Frames that are hard for one training and easy for the other cancel in the mean."""
    steps = torch.arange(40)
    twin = counts(100, 30, 40, 0)
    up, down = twin.clone(), twin.clone()
    up[:, 0, 1] = 10 + steps
    down[:, 0, 1] = 50 - steps
    alone = paired_bootstrap(twin, up)
    mean = paired_bootstrap(torch.stack([twin, twin]), torch.stack([up, down]))
    assert mean[1] - mean[0] < 0.6 * (alone[1] - alone[0])


def save(path, names, **answers):
    np.savez(path, names=np.array(names), **answers)
    return path


def test_files_of_other_frames_or_answers_are_refused(tmp_path):
    m = np.zeros((2, 3, 3), np.uint32)
    one = save(tmp_path / "one.npz", ["a", "b"], prediction=m, twin=m)
    same = save(tmp_path / "same.npz", ["a", "b"], prediction=m, twin=m)
    names, stacks = read_matrices([one, same])
    assert names == ["a", "b"] and {k: v.shape for k, v in stacks.items()} == {"twin": (2, 2, 3, 3)}
    frames = save(tmp_path / "frames.npz", ["a", "c"], prediction=m, twin=m)
    answers = save(tmp_path / "answers.npz", ["a", "b"], prediction=m)
    for other in (frames, answers):
        with pytest.raises(ValueError, match=f"{other.name} has other frames or answers"):
            read_matrices([one, other])
    with pytest.raises(FileNotFoundError, match="no matrices at .*nowhere.npz"):
        read_matrices([tmp_path / "nowhere.npz"])


def test_frames_keep_their_names_in_a_subset_and_drawn_pictures_are_one_drive(camvid):
    frames = gss.create_dataset("camvid", "test", folder=camvid)
    few = subset(frames, 5)
    names = picture_names(few)
    assert names == [frames.names[i] for i in few.indices] and len(set(drives(names))) == 2
    streets = gss.create_dataset("scenes-tiny", "test")
    assert drives(picture_names(streets)) == [0] * len(streets)
