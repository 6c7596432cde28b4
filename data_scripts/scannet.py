"""python -m data_scripts.scannet: where to get ScanNet's 25,000 frames, and verify them."""

from __future__ import annotations

import sys

from data_scripts.install import Recipe, run
from gss_lite.data.sets import ScanNet

RECIPE = Recipe(
    ScanNet,
    advice="Sign the terms of use at http://www.scan-net.org and download scannet_frames_25k.zip. "
    "Put scannetv2_train.txt and scannetv2_val.txt of the project's repository (Tasks/Benchmark) "
    "beside the folders of the scenes.",
)


def main(argv: list[str] | None = None) -> int:
    """Install or verify the set. Return 0 when it is ready."""
    return run(RECIPE, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
