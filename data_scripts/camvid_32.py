"""python -m data_scripts.camvid_32: fetch the original CamVid, 960 × 720, with its 32 colours.

The set goes into data/camvid-32 and serves camvid-32 and camvid-mseg. CC BY-NC 4.0.
"""

from __future__ import annotations

import sys

from data_scripts.install import Archive, Recipe, run
from gss_lite.data.sets import CamVid32

RECIPE = Recipe(
    CamVid32,
    archives=(
        Archive(
            "http://web4.cs.ucl.ac.uk/staff/g.brostow/MotionSegRecData/files/701_StillsRaw_full.zip"
        ),
        Archive(
            "http://web4.cs.ucl.ac.uk/staff/g.brostow/MotionSegRecData/data/"
            "LabeledApproved_full.zip",
            folder="LabeledApproved_full",
        ),
    ),
)


def main(argv: list[str] | None = None) -> int:
    """Install or verify the set. Return 0 when it is ready."""
    return run(RECIPE, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
