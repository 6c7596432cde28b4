"""python -m data_scripts.cityscapes: where to get Cityscapes, verify it, make its labelTrainIds.

Cityscapes needs an account. The script reads the archives that you have downloaded: `--archives
leftImg8bit_trainvaltest.zip gtFine_trainvaltest.zip`. Where labelTrainIds are absent, it makes them
from labelIds, for programs that read them; our loader needs only one of the two.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from data_scripts.install import Recipe, run
from gss_lite.contracts import IGNORE
from gss_lite.data.pictures import read_mask
from gss_lite.data.sets import CITYSCAPES_IDS, Cityscapes
from gss_lite.storage import replace_file

IDS, TRAIN_IDS = "_gtFine_labelIds.png", "_gtFine_labelTrainIds.png"


def make_train_ids(folder: Path) -> int:
    """Write the labelTrainIds that are absent below gtFine → their number.

    Raises:
        ValueError: a mask cannot be read.
        OSError: a file cannot be written.
    """
    table = np.full(256, IGNORE, np.uint8)
    for label, train_id in CITYSCAPES_IDS.items():
        table[label] = train_id
    made = 0
    for path in sorted((folder / "gtFine").glob(f"*/*/*{IDS}")):
        target = path.with_name(path.name.replace(IDS, TRAIN_IDS))
        if target.is_file():
            continue
        picture = Image.fromarray(table[read_mask(path).numpy()])
        replace_file(target, lambda temporary, picture=picture: picture.save(temporary, "PNG"))
        made += 1
    return made


RECIPE = Recipe(
    Cityscapes,
    advice="Register at https://www.cityscapes-dataset.com and download "
    "leftImg8bit_trainvaltest.zip (11 GB) and gtFine_trainvaltest.zip (241 MB).",
    finish=make_train_ids,
)


def main(argv: list[str] | None = None) -> int:
    """Install or verify the set. Return 0 when it is ready."""
    return run(RECIPE, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
