"""python -m data_scripts.labelmefacade: fetch LabelMeFacade into data/labelmefacade.

The set is for non-commercial research.
"""

from __future__ import annotations

import sys

from data_scripts.install import Archive, Recipe, run
from gss_lite.data.sets import LabelMeFacade

RECIPE = Recipe(
    LabelMeFacade,
    archives=(Archive("https://github.com/cvjena/labelmefacade/archive/refs/heads/master.zip"),),
)


def main(argv: list[str] | None = None) -> int:
    """Install or verify the set. Return 0 when it is ready."""
    return run(RECIPE, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
