"""python -m data_scripts.voc2012: fetch Pascal VOC 2012 (2 GB) into data/voc2012."""

from __future__ import annotations

import sys

from data_scripts.install import Archive, Recipe, run
from gss_lite.data.sets import PascalVOC

RECIPE = Recipe(
    PascalVOC,
    archives=(
        Archive(
            "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
            "md5:6cd6e144f989b92b3379bac3b3de84fd",
        ),
    ),
)


def main(argv: list[str] | None = None) -> int:
    """Install or verify the set. Return 0 when it is ready."""
    return run(RECIPE, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
