"""python -m notebooks.experiments.twin_comparison: GSS-FF, GSS-FT-W, its auxiliary head and the discriminative twin, on the same pictures.

The twin has GSS's network, data, crops and number of steps, and classifies pixels in place of
tokens; it is not shipped. Train it first: `python -m gss_lite train --preset camvid --stage pixel`.
Each is judged on one view of a picture, and with its mirror image too, class probabilities averaged
(for nearest colour a soft-max of −distance²/0.1).

With each difference to the twin stands the interval in which it would lie, 95 times in 100, on
other pictures of this kind; what another seed of the training would change it does not show.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from gss_lite.baselines.pixel import PixelTwin, load_twin
from gss_lite.data import dataset_for
from gss_lite.data.folders import CORRUPT_TEST_FRAME
from gss_lite.data.transforms import eval_transform
from gss_lite.evaluation import Evaluation, evaluate_masks
from gss_lite.factory import SHIPPED, TITLES, load_gss, with_inverse
from gss_lite.gss import GSS, over_picture, pad_picture
from gss_lite.metrics import paired_bootstrap, scores_from_confusion
from gss_lite.presets import get_preset
from gss_lite.storage import run_record, weights_hash, write_json

HEAD, TWIN = "auxiliary head", "twin"


def scorer(
    gss: GSS, inverses: dict[str, torch.nn.Module], twin: PixelTwin
) -> Callable[[Tensor], Tensor]:
    """All answers at once: normalised photographs (B, 3, H, W) → class probabilities (B, A·K, H, W), K for each answer.

    The answers: every X⁻¹ of `inverses` on the same maskige, the auxiliary head, the twin. One pass
        through each network.
    """

    @torch.no_grad()
    def probabilities(image: Tensor) -> Tensor:
        output, sides = gss.prior(pad_picture(image)), image.shape[2:]
        maskige = gss.decode_logits(output.token_logits)
        answers = [
            over_picture(inverse.probabilities(maskige), sides) for inverse in inverses.values()
        ]
        return torch.cat(
            [*answers, over_picture(output.pixel_logits, sides).softmax(1), twin.scores(image)], 1
        )

    return probabilities


def judge(
    gss: GSS,
    inverses: dict[str, torch.nn.Module],
    twin: PixelTwin,
    dataset: Dataset,
    *,
    progress: bool = True,
) -> Evaluation:
    """Confusion matrices of every answer, "NAME" on one view and "NAME, views" with its mirror image; "prediction" is the first."""
    names, classes = [*inverses, HEAD, TWIN], len(gss.colors)
    answers = scorer(gss.eval(), inverses, twin.eval())

    def classify(image: Tensor, _: Tensor) -> dict[str, Tensor]:
        once = answers(image)
        # `inference.flipped`, which would compute the first again
        both = (once + answers(image.flip(-1)).flip(-1)) / 2
        found = {
            name + suffix: part.argmax(1)
            for scores, suffix in ((once, ""), (both, ", views"))
            for name, part in zip(names, scores.split(classes, 1))
        }
        return {"prediction": found[names[0]], **found}

    return evaluate_masks(classify, dataset, classes, batch=1, progress=progress)


def summary(result: Evaluation, leave_out: list[int]) -> dict[str, dict]:
    """Per answer: mIoU and the like, without the pictures `leave_out`, and what it gains over the twin with its interval (percent)."""
    kept = [i for i in range(len(result)) if i not in leave_out]
    rows = {}
    for name, matrices in result.matrices.items():
        if name == "prediction":
            continue
        other = result.matrices[TWIN + (", views" if name.endswith(", views") else "")]
        rows[name] = scores_from_confusion(matrices.sum(0)).as_dict() | {
            "without_corrupt_frame": scores_from_confusion(matrices[kept].sum(0)).miou
        }
        if not name.startswith(TWIN):
            rows[name]["over_twin"] = [
                round(100 * value, 3) for value in paired_bootstrap(other, matrices)
            ]
    return rows


def table(rows: dict[str, dict]) -> str:
    """The record's rows as text."""
    lines = [
        f"{'mIoU':16s} {'one view':>9s} {'over the twin':>18s} {'mirrored too':>14s} "
        f"{'over the twin':>18s}"
    ]
    for name in (name for name in rows if not name.endswith(", views")):
        line = f"{name:16s}"
        for row, width in ((rows[name], 9), (rows[f"{name}, views"], 14)):
            gain = "{:+.1f} … {:+.1f}".format(*row["over_twin"]) if "over_twin" in row else ""
            line += f" {100 * row['miou']:{width}.1f} {gain:>18s}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    main = argparse.ArgumentParser(
        prog="python -m notebooks.experiments.twin_comparison", description=__doc__.splitlines()[0]
    )
    main.add_argument("--preset", default="camvid")
    main.add_argument(
        "--weights",
        default=str(SHIPPED),
        help="folder of the GSS and its X⁻¹ (default: the shipped ones)",
    )
    main.add_argument("--twin", help="folder of the twin (default: runs/PRESET)")
    main.add_argument(
        "--inverse",
        nargs="*",
        default=["ft-w"],
        choices=[name for name in TITLES if name not in ("ff", "expected")],
        help="X⁻¹ beside nearest colour (default: ft-w)",
    )
    main.add_argument("--split", default="test", choices=["val", "test"])
    main.add_argument(
        "--pictures", type=int, help="judge on this many pictures only, evenly spaced"
    )
    main.add_argument(
        "--data", help="folder of the data set (default: $GSS_DATA/NAME, then data/NAME)"
    )
    main.add_argument(
        "--record",
        type=Path,
        help="where to write the run record (default: runs/PRESET/twin-comparison.json)",
    )
    return main


def main(argv: list[str] | None = None) -> None:
    """Judge all answers, print the table, write the record."""
    given = parser().parse_args(argv)
    preset, folder = get_preset(given.preset), Path(given.twin or f"runs/{given.preset}")
    gss, twin = load_gss(preset, given.weights), load_twin(preset, folder)
    inverses = {
        "GSS-FF": gss.inverse,
        **{
            TITLES[name]: with_inverse(gss, preset, name, given.weights)[0].inverse
            for name in given.inverse
        },
    }
    dataset = dataset_for(preset, given.split, folder=given.data, transform=eval_transform())
    names = list(getattr(dataset, "names", []))
    if given.pictures and given.pictures < len(dataset):
        picked = torch.linspace(0, len(dataset) - 1, given.pictures).round().long().tolist()
        dataset, names = Subset(dataset, picked), [names[i] for i in picked] if names else []
    result = judge(gss, inverses, twin, dataset)
    rows = summary(result, [i for i, name in enumerate(names) if name == CORRUPT_TEST_FRAME])
    trained = json.loads((folder / f"{preset.name}.pixel.json").read_text())
    metrics = {
        "split": given.split,
        "pictures": len(result),
        "flip": True,
        "rows": rows,
        "prior_sha256": weights_hash(gss.prior),
        "twin": {
            key: trained[key]
            for key in (
                "seed",
                "steps",
                "seconds",
                "hardware",
                "command",
                "commit",
                "schedule",
                "parameters",
            )
        },
        "twin_log": trained["log"][:: max(1, len(trained["log"]) // 30)],
    }
    path = given.record or Path(f"runs/{preset.name}/twin-comparison.json")
    line = shlex.join(
        [
            "python",
            "-m",
            "notebooks.experiments.twin_comparison",
            *(sys.argv[1:] if argv is None else argv),
        ]
    )
    write_json(
        path,
        run_record(
            kind="twin comparison",
            preset=preset.name,
            seed=preset.seed,
            steps=None,
            seconds=result.seconds,
            metrics=metrics,
            command=line,
        ),
    )
    print(
        f"{preset.name}, {given.split}, {len(result)} pictures\n{table(rows)}\nrun record: {path}"
    )


if __name__ == "__main__":
    main()
