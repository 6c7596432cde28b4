"""Several trainings of one preset: the mean over seeds, its spread, and intervals over frames.

`twin_comparison --matrices FILE.npz` evaluates one training and its twin. This command reads the
files of several seeds. It reports two kinds of uncertainty and keeps them apart:

- the standard deviation over the trainings, which differ in their seed alone;
- a 95 % interval over frames, for these trainings. It draws blocks of ten consecutive frames within
  each drive, because neighbouring frames resemble each other.

The answers "…, views" are averaged with the mirrored picture.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gss_lite.data.folders import CamVid
from gss_lite.metrics import paired_bootstrap, scores_from_confusion
from gss_lite.storage import read_json
from gss_lite.tables import text_table
from notebooks.experiments.camvid_answers import BLOCK, drives
from notebooks.experiments.runner import REQUIRED, Run, new_parser
from notebooks.experiments.twin_comparison import MIRRORED, TWIN

OF_A_TRAINING = ("seed", "steps", "seconds", "hardware", "command")


def read_matrices(paths: Sequence[Path]) -> tuple[list[str], dict[str, Tensor]]:
    """Read files of `twin_comparison` → the frames' names, answer → matrices (T, N, K, K).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the files are not of the same frames and answers.
    """
    files = []
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(
                f"no matrices at {path}; twin_comparison --matrices {path} writes them"
            )
        with np.load(path, allow_pickle=False) as arrays:
            files.append(dict(arrays))
    first = files[0]
    for path, arrays in zip(paths, files):
        same = arrays.keys() == first.keys() and np.array_equal(arrays["names"], first["names"])
        if not same:
            raise ValueError(f"{path} has other frames or answers than {paths[0]}")
    names = [str(name) for name in first["names"]]
    answers = [name for name in first if name not in ("names", "prediction")]
    stacks = {
        name: torch.from_numpy(np.stack([arrays[name] for arrays in files]).astype(np.int64))
        for name in answers
    }
    return names, stacks


def summary(
    stacks: Mapping[str, Tensor], groups: list[int], leave_out: Sequence[int] = ()
) -> dict[str, dict]:
    """Answer → its mIoU of each training (%), mean and deviation, and its gain over the twin.

    Args:
        stacks: answer → confusion matrices (T, N, K, K).
        groups: the number of each frame's drive.
        leave_out: frames that a second figure leaves out.
    """
    kept = [i for i in range(len(groups)) if i not in leave_out]
    block = min(BLOCK, *torch.bincount(torch.tensor(groups)).tolist())
    rows = {}
    for name, matrices in stacks.items():
        values = _miou(matrices)
        rows[name] = {
            "miou": values,
            "mean": round(statistics.mean(values), 3),
            "deviation": round(statistics.stdev(values), 3) if len(values) > 1 else None,
            "without_corrupt_frame": _miou(matrices[:, kept]),
        }
        if not name.startswith(TWIN):
            other = stacks[TWIN + (MIRRORED if name.endswith(MIRRORED) else "")]
            gains = [mine - twins for mine, twins in zip(values, _miou(other))]
            interval = paired_bootstrap(other, matrices, groups=groups, block=block)
            rows[name]["over_twin"] = {
                "each": [round(gain, 3) for gain in gains],
                "mean": round(statistics.mean(gains), 3),
                "deviation": round(statistics.stdev(gains), 3) if len(gains) > 1 else None,
                "frames": [round(100 * value, 3) for value in interval],
            }
    return rows


def _miou(matrices: Tensor) -> list[float]:
    """Confusion matrices (T, N, K, K) → mIoU of each training in percent."""
    return [round(100 * scores_from_confusion(m.sum(0)).miou, 3) for m in matrices]


def table(rows: Mapping[str, Mapping]) -> str:
    """Format the rows as text."""
    lines = {}
    for name, row in rows.items():
        each = " ".join(f"{value:.1f}" for value in row["miou"])
        lines[name] = [each, _with_deviation(row), "", ""]
        if "over_twin" in row:
            gain = row["over_twin"]
            lines[name][2:] = [_with_deviation(gain), "{:+.1f} … {:+.1f}".format(*gain["frames"])]
    return text_table(("mIoU", "each seed", "mean ± sd", "over the twin", "other frames"), lines)


def _with_deviation(row: Mapping) -> str:
    return f"{row['mean']:.1f}" + (f" ± {row['deviation']:.1f}" if row["deviation"] else "")


parser = partial(
    new_parser,
    __file__,
    __doc__,
    preset="camvid-pretrained",
    matrices={
        "nargs": "+",
        "type": Path,
        "default": REQUIRED,
        "help": "the .npz files of twin_comparison, one a seed; their records lie beside them, as "
        ".json",
    },
    record="runs/{preset}/seeds.json",
)


def main(argv: list[str] | None = None) -> None:
    """Read the seeds' matrices, print the table, write the record."""
    run = Run(parser(), argv)
    given = run.given
    names, stacks = read_matrices(given.matrices)
    cards = [read_json(path.with_suffix(".json")) for path in given.matrices]
    for path, card in zip(given.matrices, cards):
        if card["preset"] != given.preset:
            raise ValueError(f"{path} is of the preset {card['preset']}, not of {given.preset}")
    corrupt = [i for i, name in enumerate(names) if name in CamVid.leave_out]
    groups = drives(names)
    rows = summary(stacks, groups, corrupt)
    metrics = {
        "split": cards[0]["metrics"]["split"],
        "seeds": [card["seed"] for card in cards],
        "pictures": len(names),
        "frames_of_drives": torch.bincount(torch.tensor(groups)).tolist(),
        "block": BLOCK,
        "rows": rows,
        "trainings": [
            {part: _facts(card["metrics"][part]) for part in ("prior", "twin")} for card in cards
        ],
    }
    print(f"{given.preset}, seeds {metrics['seeds']}\n{table(rows)}")
    run.write(given.preset, metrics, seed=cards[0]["seed"], steps=None)


def _facts(training: Mapping) -> dict:
    return {name: training[name] for name in OF_A_TRAINING}


if __name__ == "__main__":
    main()
