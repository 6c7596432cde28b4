"""GSS-FF, GSS-FT-W and the auxiliary head of CamVid's model on the same frames, pair by pair.

All three answers come from one pass of the shipped network. Beside each difference stand two
intervals in which it would lie, 95 times in 100, on other frames: one draws single frames, the
other draws blocks of ten consecutive frames within each drive. Neighbouring frames resemble each
other, so the second is the honest one. Neither shows what another training would change.
"""

from __future__ import annotations

from functools import partial
from itertools import combinations

import torch
from torch import Tensor

import gss_lite as gss
from gss_lite.evaluation import evaluate_masks
from gss_lite.metrics import paired_bootstrap
from gss_lite.storage import weights_hash
from gss_lite.views import resize_to_image
from notebooks.experiments.runner import Run, new_parser, picture_names, subset

HEAD = "auxiliary head"
BLOCK = 10  # frames, which are one second apart


def judge(model: gss.GSS, other: gss.GSS, dataset: torch.utils.data.Dataset, progress: bool):
    """Confusion matrices of both models' X⁻¹ on the same maskige, and of the head."""

    @torch.no_grad()
    def classify(image: Tensor, _: Tensor) -> dict[str, Tensor]:
        outputs = model.outputs(image)
        sides = image.shape[2:]
        soft = {
            "GSS-FF": model.inverse.probabilities(outputs.maskige),
            "GSS-FT-W": other.inverse.probabilities(outputs.maskige),
            HEAD: outputs.pixel_logits,
        }
        ids = {name: resize_to_image(values, sides).argmax(1) for name, values in soft.items()}
        return {"prediction": ids["GSS-FF"], **ids}

    how = {"batch": 1, "device": model.colors.device, "progress": progress}
    return evaluate_masks(classify, dataset, model.num_classes, **how)


def drives(names: list[str]) -> list[int]:
    """The number of each frame's drive: a frame's name begins with its drive's, and an underscore.

    Pictures without one are all of one drive.
    """
    found = [name.rpartition("_")[0] for name in names]
    order = list(dict.fromkeys(found))
    return [order.index(drive) for drive in found]


def pairs(result: gss.Evaluation, groups: list[int]) -> list[dict]:
    """For every pair of answers the difference of mIoU in percent, its intervals, each drive's."""
    answers = [name for name in result.matrices if name != "prediction"]
    block = min(BLOCK, *torch.bincount(torch.tensor(groups)).tolist())
    rows = []
    for high, low in combinations(answers, 2):
        one, two = result.matrices[low], result.matrices[high]
        intervals = {
            "frames": paired_bootstrap(one, two),
            "blocks": paired_bootstrap(one, two, groups=groups, block=block),
        }
        by_drive = []
        for drive in sorted(set(groups)):
            members = [i for i, group in enumerate(groups) if group != drive]
            scores = result.scores(members)
            by_drive.append(round(100 * (scores[high].miou - scores[low].miou), 3))
        rows.append(
            {
                "high": high,
                "low": low,
                "difference": round(100 * (result[high].miou - result[low].miou), 3),
                **{k: [round(100 * v, 3) for v in values] for k, values in intervals.items()},
                "by_drive": by_drive,
            }
        )
    return rows


parser = partial(
    new_parser,
    __file__,
    __doc__,
    weights={},
    split="test",
    pictures=None,
    data=None,
    record="notebooks/records/camvid-answers.json",
)


def main(argv: list[str] | None = None) -> None:
    """Judge the three answers, print the pairs, write the record."""
    run = Run(parser(), argv)
    given = run.given
    model, other = (
        gss.create_model("camvid", pretrained=given.weights, inverse=name).to(given.device).eval()
        for name in ("ff", "ft-w")
    )
    whole = gss.create_dataset("camvid", given.split, folder=given.data)
    dataset = subset(whole, given.pictures)
    result = judge(model, other, dataset, not given.quiet)
    groups = drives(picture_names(dataset))
    found = pairs(result, groups)
    for row in found:
        print(f"{row['high']} − {row['low']}: {row['difference']:+.2f}, blocks {row['blocks']}")
    run.write(
        "camvid",
        {
            "split": given.split,
            "pictures": len(result),
            "frames_of_drives": torch.bincount(torch.tensor(groups)).tolist(),
            "block": BLOCK,
            "miou": {name: round(100 * s.miou, 3) for name, s in result.scores().items()},
            "pairs": found,
        },
        prior_sha256=weights_hash(model.prior),
    )


if __name__ == "__main__":
    main()
