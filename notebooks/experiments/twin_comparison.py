"""GSS-FF, GSS-FT-W, its auxiliary head and the discriminative twin, on the same pictures.

The twin has GSS's network, data, crops and number of steps, and classifies pixels instead of
tokens. It is not shipped. Train it first: `python -m gss_lite train --preset camvid --stage pixel`.
Each answer is evaluated on one view of a picture, and on the average with its mirror image. The
averages are of class probabilities (for the nearest colour a soft-max of −distance²/0.1).

Each difference to the twin has a 95 % interval for other pictures of this kind. The interval does
not include the effect of another seed of the training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

import gss_lite as gss
from gss_lite.contracts import Inverse
from gss_lite.data.folders import broken_frames
from gss_lite.evaluation import evaluate_masks
from gss_lite.factory import INVERSES
from gss_lite.metrics import paired_bootstrap
from gss_lite.storage import read_json, replace_file, weights_hash
from gss_lite.tables import text_table
from gss_lite.views import Answers, resize_to_image
from notebooks.experiments.runner import Run, new_parser, picture_names, subset

HEAD = "auxiliary head"
TWIN = "twin"
MIRRORED = ", views"  # the ending of names of answers that are averaged with the mirror image
OF_A_TRAINING = ("seed", "steps", "seconds", "hardware", "command", "commit")


def answers_of(
    model: gss.GSS, inverses: Mapping[str, Inverse], twin: gss.PixelTwin
) -> Callable[[Tensor], Answers]:
    """Photographs (B, 3, H, W) → {answer: class probabilities (B, K, H, W)}, one pass a network.

    The answers are every X⁻¹ of `inverses` on the same maskige, the auxiliary head, and the twin.
    """

    @torch.no_grad()
    def answers(image: Tensor) -> Answers:
        outputs = model.outputs(image)
        sides = image.shape[2:]
        found = {
            name: resize_to_image(inverse.probabilities(outputs.maskige), sides)
            for name, inverse in inverses.items()
        }
        found[HEAD] = resize_to_image(outputs.pixel_logits, sides).softmax(1)
        found[TWIN] = twin.scores(image)["prediction"]
        return found

    return answers


def judge(
    model: gss.GSS,
    inverses: Mapping[str, Inverse],
    twin: gss.PixelTwin,
    dataset: Dataset,
    *,
    progress: bool = True,
) -> gss.Evaluation:
    """Count confusion matrices of every answer, on one view and (", views") averaged with a mirror.

    "prediction" is the first of them.
    """
    answers = answers_of(model.eval(), inverses, twin.eval())

    def classify(image: Tensor, _: Tensor) -> dict[str, Tensor]:
        once = answers(image)
        mirrored = answers(image.flip(-1))
        ids = {}
        for name, values in once.items():
            ids[name] = values.argmax(1)
            ids[name + MIRRORED] = ((values + mirrored[name].flip(-1)) / 2).argmax(1)
        return {"prediction": next(iter(ids.values())), **ids}

    how = {"batch": 1, "device": model.colors.device, "progress": progress}
    return evaluate_masks(classify, dataset, model.num_classes, **how)


def summary(result: gss.Evaluation, leave_out: list[int]) -> dict[str, dict]:
    """Return each answer's scores, with and without some pictures, and its gain's interval (%)."""
    scores = result.scores()
    kept = result.scores(leave_out)
    rows = {}
    for name, matrices in result.matrices.items():
        if name == "prediction":
            continue
        rows[name] = {**scores[name].as_dict(), "without_corrupt_frame": kept[name].miou}
        if not name.startswith(TWIN):
            other = result.matrices[TWIN + (MIRRORED if name.endswith(MIRRORED) else "")]
            interval = paired_bootstrap(other, matrices)
            rows[name]["over_twin"] = [round(100 * value, 3) for value in interval]
    return rows


def save_matrices(path: Path, result: gss.Evaluation, dataset: Dataset) -> None:
    """Write answer → confusion matrices (N, K, K) of the N pictures, and the pictures' names."""
    matrices = {name: m.numpy().astype(np.uint32) for name, m in result.matrices.items()}
    replace_file(
        path, lambda part: _write_npz(part, {"names": np.array(picture_names(dataset)), **matrices})
    )


def _write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    with path.open("wb") as file:  # numpy would append ".npz" to a name
        np.savez_compressed(file, **arrays)


def table(rows: Mapping[str, Mapping]) -> str:
    """Format the record's rows as text."""
    lines = {}
    for name in (name for name in rows if not name.endswith(MIRRORED)):
        lines[name] = []
        for row in (rows[name], rows[name + MIRRORED]):
            gain = "{:+.1f} … {:+.1f}".format(*row["over_twin"]) if "over_twin" in row else ""
            lines[name] += [f"{100 * row['miou']:.1f}", gain]
    over = "over the twin"
    return text_table(("mIoU", "one view", over, "mirrored too", over), lines)


choices = [name for name in INVERSES if name not in ("ff", "expected")]
inverse_option = {"nargs": "*", "default": ["ft-w"], "choices": choices}
parser = partial(
    new_parser,
    __file__,
    __doc__,
    preset="camvid",
    weights={},
    twin={"default": "runs/{preset}", "help": "folder of the twin"},
    inverse={**inverse_option, "help": "X⁻¹ beside the nearest colour"},
    split="test",
    pictures=None,
    data=None,
    record="runs/{preset}/twin-comparison.json",
    matrices={"type": Path, "help": "write each picture's confusion matrices to this .npz file"},
)


def main(argv: list[str] | None = None) -> None:
    """Evaluate all answers, print the table, write the record."""
    run = Run(parser(), argv)
    given = run.given
    preset = gss.get_preset(given.preset)
    folder = run.path(given.twin)
    model = gss.create_model(preset, pretrained=given.weights).to(given.device)
    twin = gss.create_model(preset, pretrained=folder, model="pixel").to(given.device)
    inverses = {"GSS-FF": model.inverse}
    for name in given.inverse:
        its_model = gss.create_model(preset, pretrained=given.weights, inverse=name)
        inverses[INVERSES[name]] = its_model.inverse.to(given.device)
    dataset = gss.create_dataset(preset, given.split, folder=given.data)
    corrupt = broken_frames(dataset)
    dataset = subset(dataset, given.pictures)
    picked = getattr(dataset, "indices", range(len(dataset)))
    result = judge(model, inverses, twin, dataset, progress=not given.quiet)
    rows = summary(result, [i for i, number in enumerate(picked) if number in corrupt])
    card = read_json(Path(folder) / f"{preset.name}.pixel.json")
    prior_card = read_json(Path(given.weights) / f"{preset.name}.prior.json")
    if given.matrices:
        save_matrices(given.matrices, result, dataset)
    metrics = {
        "split": given.split,
        "pictures": len(result),
        "flip": True,
        "rows": rows,
        "prior_sha256": weights_hash(model.prior),
        "prior": {key: prior_card[key] for key in (*OF_A_TRAINING, "schedule", "parameters")},
        "twin": {key: card[key] for key in (*OF_A_TRAINING, "schedule", "parameters")},
        "twin_log": card["log"][:: max(1, len(card["log"]) // 30)],
    }
    print(f"{preset.name}, {given.split}, {len(result)} pictures\n{table(rows)}")
    run.write(preset.name, metrics, seed=prior_card["seed"], steps=None, seconds=result.seconds)


if __name__ == "__main__":
    main()
