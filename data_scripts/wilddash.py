"""python -m data_scripts.wilddash: where to get WildDash, and verify it."""

from __future__ import annotations

import sys

from data_scripts.install import Recipe, run
from gss_lite.data.sets import WildDash

RECIPE = Recipe(
    WildDash,
    advice="Register at https://wilddash.cc and download wd_val_01.zip, the first validation set.",
)


def main(argv: list[str] | None = None) -> int:
    """Install or verify the set. Return 0 when it is ready."""
    return run(RECIPE, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
