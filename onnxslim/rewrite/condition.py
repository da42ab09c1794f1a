"""Conditions of a rewrite at a site: the `when` of the rule, and that no constant overflows.

A `when` is evaluated once for sites that are alike to it.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxslim.arrays import Array
from onnxslim.model.constants import constant, constant_tensor
from onnxslim.rewrite.instantiate import BodyEvaluation, Instantiation
from onnxslim.rewrite.match import Match
from onnxslim.rewrite.mismatch import Mismatch, MismatchCode, NotApplicable
from onnxslim.rewrite.rule import Body

SMALL = 64
"""Elements up to which a constant is part of what a site looks like."""
KEPT = 4096
"""Answers that are kept. Models repeat themselves: a hundred transpositions have three permutations between them."""

PLAIN = frozenset(
    {
        ir.AttributeType.INT,
        ir.AttributeType.INTS,
        ir.AttributeType.FLOAT,
        ir.AttributeType.FLOATS,
        ir.AttributeType.STRING,
    }
)
"""Types of attributes whose values can be compared."""

Key = tuple[object, ...]

_ANSWERS: dict[Key, bool | Mismatch] = {}
"""Whether a `when` holds, or why that is not known."""


def holds(match: Match, when: Body) -> bool:
    """Evaluate `when` at a site.

    Raises:
        NotApplicable: It reads what is not known there.
    """
    key = cache_key(match)
    if key is None:
        return BodyEvaluation(match, when).holds()
    answer = _ANSWERS.get(key)
    if answer is None:
        if len(_ANSWERS) >= KEPT:
            _ANSWERS.clear()
        try:
            answer = BodyEvaluation(match, when).holds()
        except NotApplicable as error:
            answer = error.mismatch
        _ANSWERS[key] = answer
    if isinstance(answer, Mismatch):
        raise NotApplicable(answer.code, *answer.words)
    return answer


def overflow(match: Match, plan: Instantiation) -> Mismatch | None:
    """Return a mismatch where a rewrite turns finite constants into infinities or NaN, None elsewhere.

    ``(x * 300) * 300`` is finite in float16 for a small x, and ``x * 90000`` never; nor is a weight divided by zero.
    """
    if all(_is_finite(array) for array in plan.arrays.values()):
        return None
    read = {value for node in match.nodes for value in node.inputs if constant_tensor(value) is not None}
    if all(_is_finite(array) for value in read if (array := constant(value)) is not None):
        return Mismatch(MismatchCode.NOT_FINITE)
    return None


def _is_finite(array: Array) -> bool:
    if array.dtype.kind == "V" and "float" in array.dtype.name:  # as ml_dtypes calls what numpy lacks
        array = array.astype(np.float32)
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


def cache_key(match: Match) -> Key | None:
    """Return all that `when` can read at a site: attributes, constants, and shapes; None where that is too much."""
    seen: list[object] = [match.rule.name, match.rule.source.bodies["when"], match.rule.opset]
    for name, bound in match.attributes.items():
        attribute = bound.attribute
        if attribute is None:
            seen.append((name, None))
            continue
        if attribute.is_ref() or attribute.type not in PLAIN:
            return None
        value = attribute.value
        seen.append((name, bound.explicit, attribute.type, repr(value)))  # as texts 0.0 and -0.0 differ
    for name, value in match.values.items():
        tensor = constant_tensor(value)
        if tensor is not None:
            if tensor.size > SMALL or tensor.dtype.is_string():
                return None
            seen.append((name, tensor.dtype, tuple(tensor.shape.numpy()), tensor.tobytes()))
        elif value is not None:
            seen.append((name, value.dtype, None if value.shape is None else tuple(map(_distinct, value.shape))))
    for name, stands_for in match.environment.items():
        several = isinstance(stands_for, tuple)
        seen.append((name, tuple(map(_distinct, stands_for)) if several else _distinct(stands_for)))
    return tuple(seen)


def _distinct(size: object) -> object:
    """Return what tells a size from others: the number 3 from a symbol that is called 3."""
    return size if isinstance(size, int) else str(size)
