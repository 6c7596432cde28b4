"""LaTeX formulas as MathML, which every browser draws by itself and without a network."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from latex2mathml.converter import convert

MATHML = "http://www.w3.org/1998/Math/MathML"
ElementTree.register_namespace("", MATHML)
# What the converter does not know, in words that it knows.
SPELLINGS = [
    (re.compile(r"\\arg(?![a-zA-Z])"), r"\\operatorname{arg}"),
    (re.compile(r"\\(begin|end)\{(?:aligned|align)\}"), r"\\\1{align*}"),
    (re.compile(r"\\(mathcal|mathbb)\s+(\w)"), r"\\\1{\2}"),
]
# Brackets that it does not know behind a command of size.
BIG = re.compile(r"(\\[bB]igg?[lrm]?)\s*\\(\||[lr]Vert|langle|rangle)(?![a-zA-Z])")
BRACKETS = {"|": "‖", "lVert": "‖", "rVert": "‖", "langle": "⟨", "rangle": "⟩"}
# Browsers know one variant, "normal". The letters of the others are characters of their own.
DOUBLE_STRUCK_ONE = re.compile(r'<mn mathvariant="double-struck">1</mn>')
# A name such as log is no sign between two things. It has a thin space after it, except before a
# bracket. A name that carries an index stays as it is.
NAME = re.compile(
    r"(?<!<msub>)(?<!<munder>)(?<!<msup>)(?<!<msubsup>)"
    r"<(?:mi|mo)>([A-Za-z]{2,})</(?:mi|mo)>(<mo[ >])?"
)
# How many parts these have; a browser draws no other number.
PARTS = {"mfrac": 2, "msub": 2, "msup": 2, "munder": 2, "mover": 2, "msubsup": 3, "munderover": 3}


class FormulaError(ValueError):
    """A formula that cannot be converted as it is written."""


def mathml(latex: str, display: str = "inline") -> str:
    """Convert a formula; `display` is "inline" or "block".

    Raises:
        FormulaError: it holds a command that is not known here, or its brackets do not match.
    """
    text = latex.strip()
    for pattern, known in SPELLINGS:
        text = pattern.sub(known, text)
    text = BIG.sub(lambda match: match.group(1) + BRACKETS[match.group(2)], text)
    try:
        result = convert(text, display=display)
        result = DOUBLE_STRUCK_ONE.sub("<mn>\U0001d7d9</mn>", result)
        result = NAME.sub(spaced, result)
        root = ElementTree.fromstring(result)
        check(root)
    except Exception as error:  # the converter has exceptions of many kinds
        raise FormulaError(f"{latex!r}: {error}") from error
    for node in root.iter(f"{{{MATHML}}}mo"):
        # As in TeX, bars grow with what stands between them only if they were told to.
        if node.text in {"|", "‖"} and "minsize" not in node.attrib:
            node.attrib.setdefault("stretchy", "false")
    if display == "block":
        for node in root.iter(f"{{{MATHML}}}msub"):
            if node[0].text in {"max", "min"}:
                node.tag = f"{{{MATHML}}}munder"
    return ElementTree.tostring(root, encoding="unicode")


def check(root: ElementTree.Element) -> None:
    """ValueError if a command was taken for a letter, or a fraction or an index is incomplete."""
    for node in root.iter():
        name = node.tag.split("}")[-1]
        if node.text and node.text.startswith("\\"):
            raise ValueError(f"{node.text} is not known")
        if len(node) != PARTS.get(name, len(node)):
            raise ValueError(f"{name} has {len(node)} parts")


def spaced(match: re.Match[str]) -> str:
    """The name of a function, with a thin space where none follows by itself."""
    name, operator = match.groups()
    return f"<mi>{name}</mi>" + (operator or '<mspace width="0.167em"></mspace>')
