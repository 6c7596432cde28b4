"""The statements of a notebook that its controls need, so that a browser test runs no others."""

from __future__ import annotations

import ast
import dis
from collections.abc import Collection, Iterator, Sequence
from itertools import groupby
from types import CodeType
from typing import NamedTuple

from IPython.core.inputtransformer2 import TransformerManager

GROWS = {"append", "add", "extend", "update"}  # methods that fill a list, a set or a dict


class Names(NamedTuple):
    """Names that a statement sets, that it needs from above, and whose content it changes."""

    sets: set[str]
    needs: set[str]
    fills: set[str]


def names_of(statement: str) -> Names:
    """Read the names from the byte code of a statement, which does not run."""
    code = compile(statement, "statement", "exec")
    sets, needs = set(), set()
    for step in dis.get_instructions(code):
        if step.opname == "STORE_NAME":
            sets.add(step.argval)
        elif step.opname == "LOAD_NAME" and step.argval not in sets:
            needs.add(step.argval)
    needs |= inner_names(code) - sets
    return Names(sets, needs, set(filled(statement)) - sets)


def inner_names(code: CodeType) -> set[str]:
    """The global names that the functions and classes inside `code` use."""
    found = set()
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            found |= {
                step.argval
                for step in dis.get_instructions(inner)
                if step.opname in {"LOAD_GLOBAL", "LOAD_NAME"}
            }
            found |= inner_names(inner)
    return found


def filled(statement: str) -> Iterator[str]:
    """Yield the x of `x[i] = …`, of `x.append(…)` and the like, and of a line `x.method(…)`."""
    tree = ast.parse(statement)
    lines = [line.value for line in tree.body if isinstance(line, ast.Expr)]
    for node in ast.walk(tree):
        holder = None
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
            holder = node.value
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            grows = node.func.attr in GROWS or node in lines
            holder = node.func.value if grows else None
        if isinstance(holder, ast.Name):
            yield holder.id


def needed(statements: Sequence[str], wanted: Collection[int]) -> list[int]:
    """Return the indices of the statements `wanted` and of those that they need, in order.

    A name comes from the last statement above that sets it, and from those between that fill it.
    Nothing fills a module: `plt.show()` is needed by nobody.
    """
    known = [names_of(statement) for statement in statements]
    imports = [text.startswith(("import ", "from ")) for text in statements]
    modules = set().union(*(names.sets for names, is_import in zip(known, imports) if is_import))
    kept: set[int] = set()
    waiting = set(wanted)
    while waiting:
        user = waiting.pop()
        kept.add(user)
        for name in known[user].needs:
            for above in reversed(range(user)):
                if name in known[above].sets | (known[above].fills - modules):
                    waiting |= {above} - kept
                if name in known[above].sets:
                    break
    return sorted(kept)


def control_slice(cells: Sequence[str], controls: Collection[int]) -> list[str]:
    """Cells that show the cells `controls` working, with no statement that they do not need.

    The first cell is kept whole: it imports and sets up the figures.
    """
    statements = [
        (cell, ast.unparse(statement))
        for cell, source in enumerate(cells)
        for statement in ast.parse(TransformerManager().transform_cell(source)).body
    ]
    wanted = {i for i, (cell, _) in enumerate(statements) if cell == 0 or cell in controls}
    kept = [statements[i] for i in needed([text for _, text in statements], wanted)]
    by_cell = groupby(kept, key=lambda pair: pair[0])
    return ["\n".join(text for _, text in pairs) for _, pairs in by_cell]
