"""The axis signature of an Einsum: its equation is one already."""

from __future__ import annotations

import collections
import re

from onnxslim.ops.signatures import Dimension, Operand, OpName, Signature

EINSUM = "einsum"
"""The word of `ops.axes` for ops whose row is spelled out by their attribute `equation`."""

_TERM = re.compile(r"([a-zA-Z]*)(\.\.\.)?([a-zA-Z]*)$")
_ELLIPSIS = "..."


def einsum_row(op: OpName, equation: object, count: int) -> Signature | None:
    """Return the row that an equation, ``bhid,bhjd->bhij``, spells out for `count` operands; None where it does not
    read.

    Each letter is a factor, those missing in the output are summed over. Where the output is left out it has the
    ellipsis and then the letters that occur once, in alphabetical order (ONNX specification, Einsum). A letter that one
    operand has twice is a diagonal: its places keep their order.
    """
    if not isinstance(equation, str):
        return None
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = [_term(text) for text in left.split(",")]
    places = collections.Counter(factor for term in terms for factor in term or ())
    if not arrow:
        once = sorted(factor for factor, number in places.items() if number == 1 and factor != _ELLIPSIS)
        right = (_ELLIPSIS if _ELLIPSIS in places else "") + "".join(once)
    result = _term(right)
    if result is None or None in terms or len(terms) != count or not set(result) <= set(places):
        return None
    inputs = [term for term in terms if term is not None]
    diagonal = {factor for term in (*inputs, result) for factor in term if term.count(factor) > 1}
    # Only a contraction multiplies and accumulates; of three operands, pair by pair.
    contracts = len(inputs) > 1 and not places.keys() <= set(result)
    return Signature(
        op=op,
        inputs=tuple(_operand(f"X{index}", term) for index, term in enumerate(inputs)),
        outputs=(_operand("Y", result),),
        macs=(tuple(sorted(places)),) * (len(inputs) - 1) if contracts else (),
        fixed=frozenset(diagonal),
    )


def _term(text: str) -> tuple[str, ...] | None:
    match = _TERM.match(text)
    return None if match is None else (*match[1], *([match[2]] if match[2] else ()), *match[3])


def _operand(name: str, term: tuple[str, ...]) -> Operand:
    return Operand(name, tuple(Dimension((factor,), ellipsis=factor == _ELLIPSIS) for factor in term))
