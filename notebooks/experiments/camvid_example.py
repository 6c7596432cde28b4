"""python -m notebooks.experiments.camvid_example: one real frame through the whole chain, kept small, as a run record.

The picture in the record is 4 × 160 × 120 pixels of CamVid (CC BY-NC 4.0), for readers who do not
have the set.
"""

from __future__ import annotations

import argparse
import base64
import io
import time
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from gss_lite.data.folders import CamVid
from gss_lite.data.transforms import eval_transform
from gss_lite.factory import load_gss
from gss_lite.inference import to_pil
from gss_lite.metrics import SegmentationMetrics
from gss_lite.palette import paint
from gss_lite.presets import get_preset
from gss_lite.storage import run_record, weights_hash, write_json

CREDIT = "Frame {name}: CamVid (Brostow, Fauqueur and Cipolla, 2009), SegNet's 11-class split, CC BY-NC 4.0"


FRAME = "0001TP_009390"


PANELS = ("frame", "true mask", "maskige decoded from the predicted tokens", "predicted mask")


def main() -> None:
    """Write notebooks/records/camvid-example.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frame", default=FRAME, help=f"stem of a test frame (default: {FRAME})")
    parser.add_argument("--data", help="CamVid's folder")
    parser.add_argument("--out", type=Path, default=Path("notebooks/records/camvid-example.json"))
    arguments = parser.parse_args()
    preset = get_preset("camvid")
    gss, dataset = load_gss(preset), CamVid("test", arguments.data)
    if arguments.frame not in dataset.names:
        raise SystemExit(
            f"error: CamVid's test split has no frame {arguments.frame!r}; its frames are named "
            f"like {dataset.names[0]}"
        )
    image, mask = dataset[dataset.names.index(arguments.frame)]
    started = time.perf_counter()
    result = gss.predict(eval_transform()(image, mask)[0][None])
    seconds = time.perf_counter() - started
    metrics = SegmentationMetrics(len(gss.colors))
    metrics.update(result.mask, mask[None])
    panels = (
        image / 255,
        paint(mask.long(), gss.colors),
        result.maskige[0, :, : mask.shape[0], : mask.shape[1]],
        paint(result.mask[0], gss.colors),
    )
    record = run_record(
        kind="one frame",
        preset=preset.name,
        seed=preset.seed,
        steps=None,
        seconds=seconds,
        metrics=metrics.compute().as_dict(),
        command=f"python -m notebooks.experiments.camvid_example --frame {arguments.frame}",
    )
    write_json(
        arguments.out,
        {
            **record,
            "prior_sha256": weights_hash(gss.prior),
            "credit": CREDIT.format(name=arguments.frame),
            "panels": list(PANELS),
            "jpeg_base64": strip(panels),
        },
    )
    print(arguments.out)


def strip(panels: tuple[Tensor, ...], width: int = 160, height: int = 120) -> str:
    """Pictures (3, H, W) in [0, 1] → one small JPEG of them side by side, as base64 text."""
    sheet = Image.new("RGB", (width * len(panels), height))
    for i, panel in enumerate(panels):
        sheet.paste(to_pil(panel).resize((width, height), Image.Resampling.BOX), (i * width, 0))
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=85)
    return base64.b64encode(buffer.getvalue()).decode()


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
