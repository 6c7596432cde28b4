"""One real frame through the whole chain, kept small, as a run record.

The pictures in the record are 4 × 160 × 120 and 4 × 240 × 180 pixels of CamVid (CC BY-NC 4.0), for
readers who do not have the set. The larger ones show where the prediction is wrong, and the entropy
of masks drawn from the prior.
"""

from __future__ import annotations

import base64
import io
import math
import time
from collections.abc import Sequence
from functools import partial

import torch
from PIL import Image
from torch import Tensor

import gss_lite as gss
from gss_lite.inference import class_frequencies, entropy_map, sample_masks
from gss_lite.metrics import risk_coverage
from gss_lite.predict import to_pil
from gss_lite.storage import weights_hash
from notebooks.experiments.runner import Run, new_parser

CREDIT = (
    "Frame {}: CamVid (Brostow, Fauqueur and Cipolla, 2009), SegNet's 11-class split, CC BY-NC 4.0"
)
PANELS = ("frame", "true mask", "maskige decoded from the predicted tokens", "predicted mask")
DOUBT_PANELS = ("frame", "predicted mask", "wrong pixels", "entropy")
DRAWS = 16


def strip(panels: Sequence[Tensor], width: int = 160, height: int = 120) -> str:
    """Pictures (3, H, W) in [0, 1] → one small JPEG of them side by side, as base64 text."""
    sheet = Image.new("RGB", (width * len(panels), height))
    for i, panel in enumerate(panels):
        sheet.paste(to_pil(panel).resize((width, height), Image.Resampling.BOX), (i * width, 0))
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=85)
    return base64.b64encode(buffer.getvalue()).decode()


def doubt(model: gss.GSS, image: Tensor, mask: Tensor, predicted: Tensor) -> tuple[dict, list]:
    """How uncertain masks drawn at T = 1 are, and where the prediction is wrong: record and panels.

    Args:
        model: CamVid's.
        image: normalised frame (1, 3, H, W).
        mask: its true ids (H, W).
        predicted: the predicted ids (H, W).
    """
    generator = torch.Generator(image.device).manual_seed(0)
    drawn = sample_masks(model, image, DRAWS, 1.0, generator)  # (DRAWS, 1, H, W)
    entropy = entropy_map(class_frequencies(drawn, model.num_classes))[0]  # (H, W), in nats
    labelled = mask != gss.IGNORE
    wrong = (predicted != mask) & labelled  # (H, W)
    half, whole = risk_coverage(entropy[labelled], wrong[labelled], [0.5, 1.0])
    white = math.log(model.num_classes)
    found = {
        "draws": DRAWS,
        "temperature": 1.0,
        "nats_at_white": white,
        "mean_entropy_of_right_pixels": float(entropy[labelled & ~wrong].mean()),
        "mean_entropy_of_wrong_pixels": float(entropy[wrong].mean()),
        "wrong_in_surest_half": half,
        "wrong": whole,
    }
    # Unlabelled pixels are neither right nor wrong: mid-grey.
    errors = torch.where(labelled, wrong.float(), 0.5)
    return found, [errors.expand(3, -1, -1), (entropy / white).expand(3, -1, -1)]


parser = partial(
    new_parser,
    __file__,
    __doc__,
    frame={"default": "0001TP_009390", "help": "name of a test frame"},
    data=None,
    record="notebooks/records/camvid-example.json",
)


def main(argv: list[str] | None = None) -> None:
    """Predict one frame and write the record."""
    run = Run(parser(), argv)
    frame = run.given.frame
    model = gss.create_model("camvid", pretrained=True).to(run.given.device)
    dataset = gss.CamVid("test", run.given.data)
    if frame not in dataset.names:
        raise SystemExit(
            f"error: CamVid's test split has no frame {frame!r}; its frames are named like "
            f"{dataset.names[0]}"
        )
    picture, mask = dataset[dataset.names.index(frame)]
    image = gss.normalize(picture)[None].to(run.given.device)
    started = time.perf_counter()
    found = model.predict(image)
    seconds = time.perf_counter() - started
    metrics = gss.SegmentationMetrics(model.num_classes)
    metrics.update(found.mask, mask[None])
    mask = mask.to(run.given.device)
    painted = model.palette(found.mask[0])
    panels = (picture / 255, model.palette(mask), found.maskige[0], painted)
    how_sure, maps = doubt(model, image, mask, found.mask[0])
    run.write(
        "camvid",
        metrics.compute().as_dict(),
        kind="one frame",
        seconds=seconds,
        prior_sha256=weights_hash(model.prior),
        credit=CREDIT.format(frame),
        panels=list(PANELS),
        jpeg_base64=strip(panels),
        doubt={
            **how_sure,
            "panels": list(DOUBT_PANELS),
            "jpeg_base64": strip((picture / 255, painted, *maps), 240, 180),
        },
    )


if __name__ == "__main__":
    main()
