"""The slice of a notebook holds the statements that a control needs and leaves the others out."""

from __future__ import annotations

import pytest
from slices import control_slice, names_of, needed

CELLS = [
    "%matplotlib inline\nimport torch\nfrom ipywidgets import interact as move",
    "data = torch.rand(3)\nslow = [x for x in range(10**9)]",
    "torch.manual_seed(0)\ndata = data + torch.rand(3)\ndata.add_(1)",
    "table = {}\nlog = []\nprint(table)",
    "for k in range(3):\n    table[k] = data\n    log.append(k)",
    "def show(k):\n    local = k\n    print(table, local)",
    "show(1)",
    "move(show, k=3)",
    "data = 0",
]


def test_what_stands_behind_a_control_is_found_through_functions_and_items() -> None:
    first, *others = control_slice(CELLS, {7})
    assert first.startswith("get_ipython().run_line_magic('matplotlib', 'inline')\n")
    assert others == [
        "data = torch.rand(3)",
        "data = data + torch.rand(3)\ndata.add_(1)",
        "table = {}\nlog = []",
        CELLS[4],
        CELLS[5],
        CELLS[7],
    ]


def test_only_the_last_statement_that_sets_a_name_counts() -> None:
    assert needed(["a = 1", "a = 2", "b = 1", "print(a)", "a = 3"], {3}) == [1, 3]


@pytest.mark.parametrize(
    ("statement", "sets", "needs", "fills"),
    [
        ("import a.b", {"a"}, set(), set()),
        ("from c import d as e", {"e"}, set(), set()),
        ("x = x + 1", {"x"}, {"x"}, set()),
        ("for i in y:\n    z[i] = i", {"i"}, {"y", "z"}, {"z"}),
        ("if x:\n    y.append(1)\n    z.other()", set(), {"x", "y", "z"}, {"y"}),
        ("x.method()", set(), {"x"}, {"x"}),
        ("class A(B):\n    c = D", {"A"}, {"B", "D"}, set()),
        ("f = lambda u: u + v", {"f"}, {"v"}, set()),
        ("[w for w in r]", set(), {"r"}, set()),
    ],
)
def test_names(statement: str, sets: set[str], needs: set[str], fills: set[str]) -> None:
    names = names_of(statement)
    assert names.sets == sets and names.fills == fills
    # The byte code of a class also reads names like __name__.
    assert {name for name in names.needs if not name.startswith("__")} == needs
