"""python -m data_scripts.ade20k: fetch ADE20K with 150 classes (SceneParsing, 920 MB).

The pictures are for non-commercial research and education. The set goes into data/ade20k
($GSS_DATA/ade20k where GSS_DATA is set). Every file is read before it is moved there. A folder that
already holds files is only verified: `python -m data_scripts.ade20k --folder PATH`.
"""

from __future__ import annotations

import sys

from data_scripts.install import Archive, Recipe, run
from gss_lite.data.sets import ADE20K150

RECIPE = Recipe(
    ADE20K150,
    archives=(
        Archive(
            "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
            "sha1:219e1696abb36c8ba3a3afe7fb2f4b4606a897c7",
        ),
    ),
)


def main(argv: list[str] | None = None) -> int:
    """Install or verify the set. Return 0 when it is ready."""
    return run(RECIPE, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
