"""python -m data_scripts.kitti: where to get KITTI's semantic benchmark, and verify it."""

from __future__ import annotations

import sys

from data_scripts.install import Recipe, run
from gss_lite.data.sets import Kitti

RECIPE = Recipe(
    Kitti,
    advice="Ask for data_semantics.zip at https://www.cvlibs.net/datasets/kitti/ (Semantics).",
)


def main(argv: list[str] | None = None) -> int:
    """Install or verify the set. Return 0 when it is ready."""
    return run(RECIPE, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
