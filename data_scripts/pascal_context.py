"""python -m data_scripts.pascal_context: where to get Pascal Context, and verify it."""

from __future__ import annotations

import sys

from data_scripts.install import Recipe, run
from gss_lite.data.sets import PascalContext

RECIPE = Recipe(
    PascalContext,
    advice="The pictures are those of Pascal VOC 2010 (host.robots.ox.ac.uk/pascal/VOC/voc2010). "
    "The labels are MATLAB files at https://cs.stanford.edu/~roozbeh/pascal-context; convert them "
    "to PNG files of 60 classes, as mmsegmentation's tool does. Coloured masks are read too.",
)


def main(argv: list[str] | None = None) -> int:
    """Install or verify the set. Return 0 when it is ready."""
    return run(RECIPE, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
