"""Map one set of classes to another: a matrix over scores, and a table over ids.

A model that was trained with one set of classes is evaluated with another (section E). Several
classes may become one. A class without a counterpart becomes 255, which is ignored.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from gss_lite.contracts import IGNORE, check_mask
from gss_lite.data.checks import data_roots

UNLABELED = "unlabeled"  # the name of what is ignored in MSeg's tables
# The columns of MSeg's table that say which universal class a class of a training set becomes. In
# the relabeled masks every class belongs to one universal class.
TRAIN_COLUMNS = (
    "ade20k-150-relabeled",
    "bdd-relabeled",
    "cityscapes-19-relabeled",
    "coco-panoptic-133-relabeled",
    "idd-39-relabeled",
    "mapillary-public65-relabeled",
    "sunrgbd-37-relabeled",
)
UNRELABELED_COLUMNS = (
    "ade20k-150",
    "bdd",
    "cityscapes-19",
    "cityscapes-34",
    "coco-panoptic-133",
    "idd-39",
    "mapillary-public65",
    "sunrgbd-37",
)
# The columns that say which class of a test set a universal class becomes.
TEST_COLUMNS = (
    "camvid-11",
    "kitti-19",
    "pascal-context-60",
    "scannet-20",
    "voc2012",
    "wilddash-19",
)


@dataclass(frozen=True)
class LabelMap:
    """Which target class each source class becomes.

    Attributes:
        source: names of the K source classes.
        target: names of the L target classes.
        ids: the target class of each source class, or 255 for none.
    """

    source: tuple[str, ...]
    target: tuple[str, ...]
    ids: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse a map that does not fit its classes."""
        wrong = [k for k in self.ids if k != IGNORE and not 0 <= k < len(self.target)]
        if len(self.ids) != len(self.source) or wrong:
            raise ValueError(
                f"a map of {len(self.source)} classes needs as many ids, each 0…"
                f"{len(self.target) - 1} or 255; got {len(self.ids)} ids"
                + (f", among them {wrong[0]}" if wrong else "")
            )

    @classmethod
    def of_names(
        cls, source: Sequence[str], target: Sequence[str], pairs: Mapping[str, str | None]
    ) -> LabelMap:
        """Make a map of names: source class → target class, or "unlabeled", or None for none.

        Source classes that `pairs` leaves out are ignored.

        Raises:
            ValueError: a name in `pairs` is no class.
        """
        unknown = [name for name in pairs if name not in source and name != UNLABELED]
        wanted = {name for name in pairs.values() if name not in (None, UNLABELED)}
        unknown += sorted(wanted - set(target))
        if unknown:
            raise ValueError(
                f"the map names {unknown[0]!r}, which is no class. The source classes are "
                f"{', '.join(source)}; the target classes are {', '.join(target)}"
            )
        found = [pairs.get(name) for name in source]
        ids = [IGNORE if name in (None, UNLABELED) else target.index(name) for name in found]
        return cls(tuple(source), tuple(target), tuple(ids))

    @classmethod
    def read(
        cls, path: str | Path, source: Sequence[str], target: Sequence[str] | None = None
    ) -> LabelMap:
        """Read a map from a file of two columns with a tabulator between them, and a header.

        Without `target`, the target classes are the names in the second column, in their order.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: a line has not two columns, a class is there twice, or a name is unknown.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"there is no map of classes {path}")
        pairs: dict[str, str] = {}
        lines = path.read_text(encoding="utf-8-sig").splitlines()[1:]
        for number, line in enumerate(lines, start=2):
            cells = [cell.strip() for cell in line.split("\t")]
            if not any(cells):
                continue
            if len(cells) != 2 or cells[0] in pairs:
                raise ValueError(
                    f"{path}, line {number}: expected two columns with a tabulator between them, "
                    f"and each class once; got {line!r}"
                )
            pairs[cells[0]] = cells[1] or UNLABELED
        if target is None:
            target = [name for name in dict.fromkeys(pairs.values()) if name != UNLABELED]
        try:
            return cls.of_names(source, target, pairs)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def write(self) -> str:
        """Return the map as text that `read` understands."""
        rows = zip(self.source, self.ids)
        lines = [f"{name}\t{UNLABELED if k == IGNORE else self.target[k]}" for name, k in rows]
        return "\n".join(["source\ttarget", *lines]) + "\n"

    @property
    def matrix(self) -> Tensor:
        """The matrix (L, K) of zeros and ones that adds up the source classes of each target."""
        matrix = torch.zeros(len(self.target), len(self.source))
        for k, label in enumerate(self.ids):
            if label != IGNORE:
                matrix[label, k] = 1
        return matrix

    def scores(self, scores: Tensor) -> Tensor:
        """Scores (B, K, H, W) that are not negative, as probabilities → (B, L, H, W).

        The probability of a target class is the sum over its source classes.

        Raises:
            ValueError: the scores have not K channels.
        """
        if scores.shape[1] != len(self.source):
            raise ValueError(
                f"the map is from {len(self.source)} classes; got scores {tuple(scores.shape)}"
            )
        matrix = self.matrix.to(scores.device, scores.dtype)
        return torch.einsum("lk,bkhw->blhw", matrix, scores)  # (B, L, H, W)

    def masks(self, mask: Tensor) -> Tensor:
        """Map the ids of masks (…) of source classes; 255 stays 255."""
        table = torch.full((256,), IGNORE, dtype=torch.long)
        table[: len(self.ids)] = torch.tensor(self.ids, dtype=torch.long)
        mask = check_mask(mask, len(self.source))
        return table.to(mask.device)[mask]

    def then(self, other: LabelMap) -> LabelMap:
        """Return the map that applies this one and then the other.

        Raises:
            ValueError: the other map begins with other classes than this one ends with.
        """
        if self.target != other.source:
            raise ValueError("the second map must begin with the classes that the first ends with")
        ids = tuple(IGNORE if k == IGNORE else other.ids[k] for k in self.ids)
        return LabelMap(self.source, other.target, ids)

    @property
    def ignored(self) -> tuple[str, ...]:
        """The source classes that become nothing."""
        return tuple(name for name, k in zip(self.source, self.ids) if k == IGNORE)

    @property
    def unreached(self) -> tuple[str, ...]:
        """The target classes that no source class becomes."""
        return tuple(name for k, name in enumerate(self.target) if k not in self.ids)

    def table(self, width: int = 96) -> str:
        """Return what maps to what as text: each target class, and its source classes."""
        rows = []
        for k, name in enumerate(self.target):
            found = [source for source, label in zip(self.source, self.ids) if label == k]
            rows.append((name, ", ".join(found) or "– (nothing)"))
        if self.ignored:
            rows.append(("(ignored)", ", ".join(self.ignored)))
        left = max(len(name) for name, _ in rows)
        lines = []
        for name, text in rows:
            short = text if len(text) <= width - left else text[: width - left - 2].rstrip() + " …"
            lines.append(f"{name:<{left}}  ← {short}")
        return "\n".join(lines)


class Relabeled(Dataset):
    """A data set whose masks are mapped to other classes.

    Args:
        dataset: pairs of a picture and a mask of `label_map.source`.
        label_map: the map.
    """

    def __init__(self, dataset: Dataset, label_map: LabelMap) -> None:
        self.dataset, self.label_map = dataset, label_map
        self.classes = label_map.target
        self.num_classes = len(self.classes)
        self.names = getattr(dataset, "names", [])
        self.leave_out = getattr(dataset, "leave_out", ())

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, mask = self.dataset[index]
        return image, self.label_map.masks(mask)


@dataclass(frozen=True)
class Taxonomy:
    """MSeg's universal classes, read from MSeg_master.tsv.

    Attributes:
        classes: the names of the 194 universal classes.
        columns: column → the class names of its cell for each row; the last row is "unlabeled".
    """

    classes: tuple[str, ...]
    columns: Mapping[str, tuple[tuple[str, ...], ...]]

    @classmethod
    def read(cls, path: str | Path | None = None) -> Taxonomy:
        """Read the table; by default it is found as a data set is, in the folder mseg.

        Raises:
            FileNotFoundError: there is no such file; the message says how to get it.
            ValueError: the file is not MSeg's table.
        """
        path = Path(path) if path else find_table()
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
        header = [name.strip() for name in rows[0]] if rows else []
        lacking = {"universal", *TRAIN_COLUMNS, *TEST_COLUMNS} - set(header)
        if lacking:
            raise ValueError(
                f"{path} has no column {sorted(lacking)[0]}, so it is not MSeg's table. "
                "`python -m data_scripts.mseg` fetches it"
            )
        rows = [row + [""] * (len(header) - len(row)) for row in rows[1:] if any(row)]
        at = header.index("universal")
        names = [row[at].strip() for row in rows]
        if names.count(UNLABELED) != 1 or names[-1] != UNLABELED or len(set(names)) != len(names):
            raise ValueError(
                f"{path}: expected each universal class once and {UNLABELED!r} in the last row"
            )
        columns = {name: tuple(split_cell(row[k]) for row in rows) for k, name in enumerate(header)}
        return cls(tuple(names[:-1]), columns)

    def names(self, column: str) -> tuple[str, ...]:
        """Return the class names of a column in alphabetical order, MSeg's order of ids.

        Raises:
            ValueError: there is no such column.
        """
        if column not in self.columns:
            raise ValueError(f"MSeg's table has no column {column!r}")
        return tuple(sorted({name for cell in self.columns[column] for name in cell}))

    def to_universal(self, column: str, classes: Sequence[str] | None = None) -> LabelMap:
        """Return the map from a training set's classes to the universal ones.

        Args:
            column: one of TRAIN_COLUMNS and UNRELABELED_COLUMNS.
            classes: the set's classes in the order of its ids; by default `names(column)`.

        Raises:
            ValueError: there is no such column, or a class belongs to two universal classes.
        """
        classes = self.names(column) if classes is None else tuple(classes)
        pairs: dict[str, str] = {}
        for universal, cell in zip((*self.classes, UNLABELED), self.columns[column]):
            for name in cell:
                if name in pairs:
                    raise ValueError(
                        f"column {column}: {name} belongs to {pairs[name]} and to {universal}, so "
                        "this set's masks must be relabeled first"
                    )
                pairs[name] = universal
        return LabelMap.of_names(classes, self.classes, pairs)

    def to_test(self, column: str, classes: Sequence[str] | None = None) -> LabelMap:
        """Return the map from the universal classes to those of a test set.

        Args:
            column: one of TEST_COLUMNS.
            classes: the set's classes in the order of its ids; by default `names(column)`.
        """
        classes = self.names(column) if classes is None else tuple(classes)
        cells = self.columns[column]
        pairs = {name: cell[0] for name, cell in zip(self.classes, cells) if cell}
        return LabelMap.of_names(self.classes, classes, pairs)


def split_cell(cell: str) -> tuple[str, ...]:
    """Return the class names in a cell: "a" is one, and "{a, b}" are two."""
    cell = cell.strip()
    names = cell[1:-1].split(",") if cell.startswith("{") else [cell]
    return tuple(name.strip() for name in names if name.strip())


def find_table() -> Path:
    """Return the path of MSeg_master.tsv: below $GSS_DATA/mseg, data/mseg or ../shared/data/mseg.

    Raises:
        FileNotFoundError: it is in none of them.
    """
    roots = data_roots()
    for root in roots:
        path = root / "mseg" / "MSeg_master.tsv"
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"MSeg's table of classes was not found in {', '.join(str(r / 'mseg') for r in roots)}. "
        "Run `python -m data_scripts.mseg` to download it (MSeg_master.tsv, 42 kB)"
    )
