"""Any folder of pictures and masks, with a list of its classes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gss_lite.contracts import IGNORE
from gss_lite.data.folders import MaskFolder
from gss_lite.data.pictures import read_mask

# Classes of these names are no classes: their pixels are ignored.
VOID = frozenset({"void", "ignore", "ignored", "unlabeled", "unlabelled"})
HELD_OUT = 5  # without a split, every fifth picture is held out
_LINE = re.compile(
    r"^(?:(?P<id>\d+)[\s,:]+)?(?P<name>[^\d\s,:(].*?)"
    r"(?:[\s,]*\(\s*(?P<color>\d+\s*,\s*\d+\s*,\s*\d+)\s*\))?$"
)


@dataclass(frozen=True)
class ClassList:
    """The classes of a folder's masks.

    Attributes:
        names: names of the classes 0 … K−1.
        ids: id in the mask files → class id, or 255 for pixels to ignore.
        colors: RGB colour → id in the mask files, for coloured masks; empty if none is given.
        lines: the lines that they were read from.
    """

    names: tuple[str, ...]
    ids: Mapping[int, int]
    colors: Mapping[tuple[int, int, int], int]
    lines: tuple[str, ...]

    @classmethod
    def read(cls, path: str | Path) -> ClassList:
        """Read a text file with a class on each line, as `parse` explains.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: a line cannot be understood; the message names it.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(
                f"there is no list of classes {path}; write a text file with a class on each line, "
                'as "0 road" and "1 car"'
            )
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
            return cls.parse(lines)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    @classmethod
    def parse(cls, lines: Sequence[str]) -> ClassList:
        """Read lines such as "road", "7 road" or "7 road (128, 64, 128)".

        The number is the id in the mask files; without numbers, the first line is id 0. The colour
        is what coloured masks show. Classes that are called void, ignore or unlabelled, and id 255,
        are ignored. Empty lines and lines that begin with # are skipped.

        Raises:
            ValueError: a line cannot be understood, or a name, id or colour is there twice.
        """
        kept = tuple(line.strip() for line in lines if line.strip() and line.strip()[0] != "#")
        names: list[str] = []
        ids = {IGNORE: IGNORE}
        colors: dict[tuple[int, int, int], int] = {}
        numbered = None
        for position, line in enumerate(kept):
            match = _LINE.match(line)
            if match is None:
                raise ValueError(f'cannot read the line {line!r}; expected "7 road" or "road"')
            if numbered is None:
                numbered = match["id"] is not None
            if numbered != (match["id"] is not None):
                raise ValueError(f"either all lines begin with an id or none does; see {line!r}")
            label = int(match["id"]) if numbered else position
            name = match["name"].strip()
            if not numbered and label >= IGNORE:
                raise ValueError(f"it names {len(kept)} classes; masks hold at most 255")
            if label > IGNORE or (label in ids and label != IGNORE):
                raise ValueError(f"{line!r}: id {label} is there twice, or above 255")
            if name in names:
                raise ValueError(f"{line!r}: there are two classes called {name}")
            if name.lower() in VOID or label == IGNORE:
                ids[label] = IGNORE
            else:
                ids[label] = len(names)
                names.append(name)
            if match["color"]:
                color = tuple(int(value) for value in match["color"].split(","))
                if color in colors or max(color) > 255:
                    raise ValueError(f"{line!r}: the colour is another class's, or above 255")
                colors[color] = label
        if not names:
            raise ValueError("it names no class")
        return cls(tuple(names), ids, colors, kept)


class OwnFolder(MaskFolder):
    """A folder of pictures and masks, with a list of classes, in one of three layouts.

    - images/ and masks/ (or labels/). Every fifth picture in the order of the names is held out:
      it is in the splits "val" and "test", and the others are "train". Files train.txt, val.txt and
      test.txt, if there are any, name the frames of the splits instead.
    - images/SPLIT and masks/SPLIT.
    - SPLIT and SPLITannot, as SegNet's CamVid.

    The split "all" has every picture of the first layout.

    Args:
        split: "train", "val", "test" or "all".
        folder: the folder.
        classes: the list of classes, its path, or its lines. None takes the ids as they are: then
            the classes are called after the ids that are found.
        transform: called as transform(image, mask).

    Raises:
        ValueError: see `MaskFolder` and `ClassList`.
        FileNotFoundError: the folder has none of the layouts.
    """

    name = "folder"
    title = "the folder"
    classes = ()
    ids: Mapping[int, int] = {}
    splits: Mapping[str, int | None] = {"train": None, "val": None, "test": None, "all": None}
    script = "python -m gss_lite data check FOLDER"

    def __init__(
        self,
        split: str = "train",
        folder: str | Path | None = None,
        classes: ClassList | str | Path | Sequence[str] | None = None,
        *,
        transform: Callable | None = None,
        check: bool = True,
    ) -> None:
        if folder is None:
            raise ValueError("name the folder that holds the pictures and masks (--data PATH)")
        self._lay_out(Path(folder), split)
        self._name_classes(classes, split)
        super().__init__(split, folder, transform=transform, check=check)
        self._hold_out()

    def _lay_out(self, folder: Path, split: str) -> None:
        """Find out which layout the folder has."""
        masks = "masks" if (folder / "masks").is_dir() else "labels"
        if (folder / "images").is_dir() and (folder / masks).is_dir():
            word = {"all": ""}.get(split, split)
            inner = (
                word and (folder / "images" / word).is_dir() and (folder / masks / word).is_dir()
            )
            self.pictures, self.masks = (
                (f"images/{word}", f"{masks}/{word}") if inner else ("images", masks)
            )
            if not inner and (folder / f"{split}.txt").is_file():
                self.list_file = "{split}.txt"
            self._whole = not inner and self.list_file is None
        elif (folder / split).is_dir() and (folder / f"{split}annot").is_dir():
            self._whole = False
        else:
            raise FileNotFoundError(
                f"{folder} has no split {split!r} of pictures and masks. Expected the folders "
                f"images and masks, or images/{split} and masks/{split}, or {split} and "
                f"{split}annot"
            )
        self.root = folder
        self.title = folder.resolve().name

    def _name_classes(
        self, classes: ClassList | str | Path | Sequence[str] | None, split: str
    ) -> None:
        if isinstance(classes, (str, Path)):
            classes = ClassList.read(classes)
        elif classes is not None and not isinstance(classes, ClassList):
            classes = ClassList.parse(classes)
        if classes is None:
            self.split = split
            masks = [path for _, path in self._listed().pairs]
            found = sorted({k for path in masks for k in read_mask(path).unique().tolist()})
            classes = ClassList.parse([f"{k} id {k}" for k in found if k != IGNORE] or ["0 none"])
        self.classes, self.ids, self.colors = classes.names, classes.ids, dict(classes.colors)
        self.num_classes = len(self.classes)

    def _hold_out(self) -> None:
        """Keep the split's part of a folder that does not say what its splits are."""
        if not self._whole or self.split == "all":
            return
        held_out = range(HELD_OUT - 1, len(self.pairs), HELD_OUT)
        if len(self.pairs) < HELD_OUT:
            raise ValueError(
                f"{self.root} holds {len(self.pairs)} pictures; at least {HELD_OUT} are needed to "
                "hold one out for validation. Add pictures, or write train.txt and val.txt"
            )
        kept = [i for i in range(len(self)) if (i in held_out) == (self.split != "train")]
        self.pairs = [self.pairs[i] for i in kept]
        self.names = [self.names[i] for i in kept]

    def check_command(self) -> str:
        """Return the command that looks through the folder's files."""
        return f"python -m gss_lite data check {self.root} --classes FILE"

    @classmethod
    def present(cls, folder: Path) -> list[str]:
        """List the splits that a folder holds: all of it, or those that have folders."""
        found = []
        for split in ("train", "val", "test"):
            apart = any((folder / masks / split).is_dir() for masks in ("masks", "labels"))
            if apart or (folder / f"{split}annot").is_dir():
                found.append(split)
        return found or ["all"]

    @classmethod
    def find(cls, folder: str | Path | None = None, split: str = "train") -> Path:
        """Return the folder, which `__init__` has looked into."""
        return Path(folder)
