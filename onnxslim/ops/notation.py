"""The infix operators of the rule language, and the ops that they stand for."""

from __future__ import annotations

from typing import NamedTuple


class Infix(NamedTuple):
    """What an infix operator stands for."""

    op_type: str
    negated: bool = False
    """The result is negated: ``a != b`` is Not (Equal (a, b)), since old operator sets have no LessOrEqual."""


LEVELS: tuple[dict[str, Infix], ...] = (
    {"|": Infix("Or")},
    {"&": Infix("And")},
    {
        "==": Infix("Equal"),
        "!=": Infix("Equal", True),
        "<": Infix("Less"),
        ">=": Infix("Less", True),
        ">": Infix("Greater"),
        "<=": Infix("Greater", True),
    },
    {"+": Infix("Add"), "-": Infix("Sub")},
    {"*": Infix("Mul"), "/": Infix("Div"), "%": Infix("Mod")},
    {"**": Infix("Pow")},
)
"""Those of one precedence together, the weakest first."""

INFIX = {sign: infix for level in LEVELS for sign, infix in level.items()}
