"""python -m data_scripts.sunrgbd: where to get SUN RGB-D, and verify it."""

from __future__ import annotations

import sys

from data_scripts.install import Recipe, run
from gss_lite.data.sets import SunRGBD

RECIPE = Recipe(
    SunRGBD,
    advice="Download SUN RGB-D at https://rgbd.cs.princeton.edu and write its 37 labels as PNG "
    "files with 0…36 for the classes and 255 for unlabelled pixels.",
)


def main(argv: list[str] | None = None) -> int:
    """Install or verify the set. Return 0 when it is ready."""
    return run(RECIPE, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
