"""Finds values whose rounding would be most of a small difference, as that of mean squares and squared means is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import onnx_ir as ir

from onnxslim.model.constants import constant
from onnxslim.ops.parameters import op_of
from onnxslim.ops.traits import Trait, has
from onnxslim.pipeline.reasons import Reason

from .codes import HalfCode
from .formats import HalfFormat
from .operands import is_float
from .ranges import Seen, seen_constant
from .table import OpFacts, stands_in

LEFT_BITS = 6
"""Of a difference so many bits must be left on average."""
DIVISOR_BITS = 4
"""Of the smallest number that is divided by, so many."""
LONGEST = 8
"""Ops between a difference and what divides by it."""
KEEPS_SCALE = (Trait.ADDS, Trait.CARRIES, Trait.MOVEMENT, Trait.RECTIFIES, Trait.IDENTITY)


def find_differences(
    graph: ir.Graph, seen: Mapping[str, Seen], half: HalfFormat, facts: OpFacts
) -> dict[ir.Value, Reason]:
    """Return the values of the main graph that must not be rounded, because a difference of them is small, and why.

    Rounding moves an operand by up to 2^-bits of it, and the difference by as much: what is left of it are the bits
    that it is larger than that. Beside the operands, all that they are made of by elementwise ops must stay, up to the
    result of a reduction or of a product.
    """
    found: dict[ir.Value, Reason] = {}
    for node in graph:
        if op_of(node) not in facts.differences:
            continue
        operands = [known for value in node.inputs if (known := _seen(value, seen)) is not None]
        result = _seen(node.outputs[0], seen)
        if result is None or len(operands) < 2 or _adds_up(operands, negated=op_of(node) in facts.negates):
            continue
        size = math.sqrt(max(known.square for known in operands))
        average = math.sqrt(result.square)
        behind = list(_divisors(node.outputs[0], seen, facts))
        values: list[ir.Value] = []
        if 0 < average < size * 2.0 ** (LEFT_BITS - half.bits):
            values = [node.outputs[0]]
        else:
            largest = max(known.magnitude for known in operands)
            for path, lowest in behind:
                if 0 < lowest < largest * 2.0 ** (DIVISOR_BITS - half.bits):
                    values += path
        if values:
            name = node.outputs[0].name or ""
            reason = Reason(HalfCode.DIFFERENCE, (name, half.name), (name,))
            values += [part for value in node.inputs for part in _made_of(value)]
            found.update((value, reason) for value in values if value not in found)
    return found


def _seen(value: ir.Value | None, seen: Mapping[str, Seen]) -> Seen | None:
    array = constant(value)
    if array is not None and is_float(value):
        known: Seen | None = seen_constant(array)
    else:
        known = None if value is None else seen.get(value.name or "")
    return known if known is not None and known.size and math.isfinite(known.square) else None


def _adds_up(operands: list[Seen], *, negated: bool) -> bool:
    """Whether all operands have one sign, the second the other one where it is `negated`: nothing cancels."""
    lows = [known.low for known in operands]
    highs = [known.high for known in operands]
    if negated:
        lows[1], highs[1] = -highs[1], -lows[1]
    return min(lows) >= 0 or max(highs) <= 0


def _divisors(
    value: ir.Value, seen: Mapping[str, Seen], facts: OpFacts, path: tuple[ir.Value, ...] = ()
) -> Iterator[tuple[tuple[ir.Value, ...], float]]:
    """Yield what a value becomes, by ops that keep its scale, where that is divided by: all values on the way, and the
    smallest number there."""
    path = (*path, value)
    known = seen.get(value.name or "")
    for use in value.uses():
        if stands_in(facts.small, use.node, use.idx) and known is not None:
            yield path, known.low
        keeps = any(has(use.node, trait) for trait in KEEPS_SCALE) or stands_in(facts.limits, use.node, use.idx)
        if keeps and len(path) < LONGEST:
            for output in use.node.outputs:
                yield from _divisors(output, seen, facts, path)


def _made_of(value: ir.Value | None) -> Iterator[ir.Value]:
    """Yield a value and all that it is made of by elementwise ops, up to results of products and to what is reduced: of
    that, squares and the like, which another value is the one operand of. That value may be rounded, for both sums are
    then sums of what it was rounded to."""
    waiting, found = [value], set[ir.Value]()
    while waiting:
        current = waiting.pop()
        if current is None or current in found or not is_float(current):
            continue
        found.add(current)
        yield current
        maker = current.producer()
        if maker is not None and (has(maker, Trait.ELEMENTWISE) or has(maker, Trait.MOVEMENT)):
            waiting += maker.inputs
        elif maker is not None and has(maker, Trait.REDUCES):
            yield from (value for value in maker.inputs if value is not None and _has_one_operand(value))


def _has_one_operand(value: ir.Value) -> bool:
    """Whether a value is a function of one other, place by place."""
    maker = value.producer()
    if maker is None or not has(maker, Trait.ELEMENTWISE):
        return False
    return len({operand for operand in maker.inputs if is_float(operand) and constant(operand) is None}) == 1
