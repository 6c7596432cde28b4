"""One real frame through the whole chain, kept small, as a run record.

The picture in the record is 4 × 160 × 120 pixels of CamVid (CC BY-NC 4.0), for readers who do not
have the set.
"""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Sequence
from functools import partial

from PIL import Image
from torch import Tensor

import gss_lite as gss
from gss_lite.predict import to_pil
from gss_lite.storage import weights_hash
from notebooks.experiments.runner import Run, new_parser

CREDIT = (
    "Frame {}: CamVid (Brostow, Fauqueur and Cipolla, 2009), SegNet's 11-class split, CC BY-NC 4.0"
)
PANELS = ("frame", "true mask", "maskige decoded from the predicted tokens", "predicted mask")


def strip(panels: Sequence[Tensor], width: int = 160, height: int = 120) -> str:
    """Pictures (3, H, W) in [0, 1] → one small JPEG of them side by side, as base64 text."""
    sheet = Image.new("RGB", (width * len(panels), height))
    for i, panel in enumerate(panels):
        sheet.paste(to_pil(panel).resize((width, height), Image.Resampling.BOX), (i * width, 0))
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=85)
    return base64.b64encode(buffer.getvalue()).decode()


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
    started = time.perf_counter()
    found = model.predict(gss.normalize(picture)[None].to(run.given.device))
    seconds = time.perf_counter() - started
    metrics = gss.SegmentationMetrics(model.num_classes)
    metrics.update(found.mask, mask[None])
    panels = (
        picture / 255,
        model.palette(mask.to(run.given.device)),
        found.maskige[0],
        model.palette(found.mask[0]),
    )
    run.write(
        "camvid",
        metrics.compute().as_dict(),
        kind="one frame",
        seconds=seconds,
        prior_sha256=weights_hash(model.prior),
        credit=CREDIT.format(frame),
        panels=list(PANELS),
        jpeg_base64=strip(panels),
    )


if __name__ == "__main__":
    main()
