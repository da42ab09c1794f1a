"""Ops that compute element by element, on inputs that broadcast; on small integers, what they compute."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator

import onnx_ir as ir

from onnxslim.ops.arithmetic import (
    broadcast_shapes,
    is_nonnegative,
    is_positive,
    maximum,
    minimum,
    mod,
    never_equal,
    truncdiv,
)
from onnxslim.ops.fact import INTEGERS, Element, Fact, NodeFacts
from onnxslim.ops.op import Op
from onnxslim.ops.parameters import read
from onnxslim.ops.relations import Axis, Equal, FreezeCode, NodeAxes, Relation
from onnxslim.ops.symbols import Expression, Size, exact_quotient

OneResult = Callable[[NodeFacts], Fact]
Compute = Callable[..., Element]
"""Makes one element of one element of each input; never of None."""


LIMITS: dict[ir.DataType | None, int] = {
    ir.DataType.INT64: 1 << 63,
    ir.DataType.INT32: 1 << 31,
    ir.DataType.BOOL: 2,
    ir.DataType.FLOAT: 1 << 24,
    ir.DataType.DOUBLE: 1 << 53,
}
"""The element types that sizes are computed in, and up to where integers are exact; sizes are taken to lie below."""


def elementwise(compute: Compute | None = None, dtype: ir.DataType | None = None, typed_like: int = 0) -> OneResult:
    """Return the rule of an op whose inputs all broadcast.

    Args:
        compute: Makes an element of the result.
        dtype: The element type of the result, where it is none of the inputs'.
        typed_like: Else, the input that has it.
    """

    def rule(site: NodeFacts) -> Fact:
        kind = dtype or site.fact(typed_like).dtype
        facts = [fact for fact in site.facts if fact is not None]
        elements = None
        if compute is not None and all(len(fact.shape) < 2 if fact.shape is not None else False for fact in facts):
            elements = _elements(site, compute, kind)
        if any(fact.shape is None for fact in facts) or not facts:
            return Fact(kind)
        return Fact(kind, broadcast_shapes([fact.shape for fact in facts if fact.shape is not None]), elements)

    return rule


def _elements(site: NodeFacts, compute: Compute, kind: ir.DataType | None) -> tuple[Element, ...] | None:
    """Return the elements that a node computes; those of floats that are not whole are not known, as they round."""
    if all(fact is None or fact.elements is None for fact in site.facts):
        return None  # nothing is known that would be worth an opaque result
    inputs = [site.elements(index) for index in range(len(site.facts))]
    length = max((len(elements) for elements in inputs if elements is not None), default=0)
    limit = LIMITS.get(kind)
    if limit is None or any(elements is None or len(elements) not in (1, length) for elements in inputs):
        return None
    result: list[Element] = []
    for index in range(length):
        arguments = [elements[index if len(elements) > 1 else 0] for elements in inputs if elements is not None]
        known = all(isinstance(argument, (int, Expression)) for argument in arguments)
        element = compute(*arguments) if known else None
        result.append(None if isinstance(element, int) and abs(element) >= limit else element)
    return tuple(result)


def unary(dtype: ir.DataType | None = None, compute: Callable[[Size], Element] | None = None) -> OneResult:
    """Return the rule of an op that keeps the shape of its first input, whatever its other inputs are."""

    def rule(site: NodeFacts) -> Fact:
        first = site.fact(0)
        elements = None
        if compute is not None and first.elements is not None:
            elements = tuple(compute(e) if isinstance(e, (int, Expression)) else None for e in first.elements)
        return Fact(dtype or first.dtype, first.shape, elements)

    return rule


# What they say about axes


def aligned(site: NodeAxes, source: ir.Value | None, result: ir.Value) -> Iterator[Relation]:
    """Yield that `source` broadcasts to `result`: axes aligned at the right are one, but for those of size 1."""
    left, right = None if source is None else site.shape_of(source), site.shape_of(result)
    if source is None or left is None or right is None or len(left) > len(right):
        yield from site.freeze_values((source, result), FreezeCode.UNKNOWN_SHAPE)
        return
    for place in range(1, len(left) + 1):
        if left[-place] != 1:
            yield Equal(Axis(source, len(left) - place), Axis(result, len(right) - place))


def relate_all(site: NodeAxes) -> Iterator[Relation]:
    """Yield that all inputs broadcast to all outputs."""
    node = site.node
    for result in node.outputs:
        for source in node.inputs:
            if source is not None and result.name and (result is node.outputs[0] or site.shape_of(result)):
                yield from aligned(site, source, result)


# What elements become


def equal(first: Size, second: Size) -> Element:
    """Return 1 where two elements are known to be equal, 0 where they are known not to be."""
    return 1 if first == second else 0 if never_equal(first, second) else None


def greater(first: Size, second: Size) -> Element:
    """Return 1 or 0, where it is known whether the first element is greater."""
    return 1 if is_positive(first - second) else 0 if is_nonnegative(second - first) else None


def greater_or_equal(first: Size, second: Size) -> Element:
    """Return 1 or 0, where it is known whether the first element is at least as great."""
    return 1 if is_nonnegative(first - second) else 0 if is_positive(second - first) else None


def both(first: Size, second: Size) -> Element:
    """Return the logical and."""
    return 0 if 0 in (first, second) else 1 if first == second == 1 else None


def either(first: Size, second: Size) -> Element:
    """Return the logical or."""
    return 1 if 1 in (first, second) else 0 if first == second == 0 else None


def _fold(compute: Callable[[Size, Size], Size]) -> Compute:
    def folded(first: Size, *others: Size) -> Element:
        for other in others:
            first = compute(first, other)
        return first

    return folded


def divide(site: NodeFacts) -> Fact:
    """Div: integers are rounded towards zero, sizes that were cast to floats are divided only where that is exact."""
    quotient: Compute = truncdiv if site.fact(0).dtype in INTEGERS else exact_quotient
    return elementwise(lambda first, second: None if second == 0 else quotient(first, second))(site)


def remainder(site: NodeFacts) -> Fact:
    """Mod: the sign of the divisor, or of the dividend with fmod."""
    if read(site, "fmod") or site.fact(0).dtype not in INTEGERS:
        return elementwise()(site)
    return elementwise(lambda first, second: None if second == 0 else mod(first, second))(site)


def power(site: NodeFacts) -> Fact:
    """Pow: small whole exponents."""

    def compute(base: Size, exponent: Size) -> Element:
        if not isinstance(exponent, int) or not 0 <= exponent <= 4:
            return None
        result: Size = 1
        for _ in range(exponent):
            result = base * result
        return result

    return elementwise(compute)(site)


def where(site: NodeFacts) -> Fact:
    """Where: a condition that is known picks; so does one that does not matter."""

    def pick(condition: Element, first: Element, second: Element) -> Element:
        return first if condition == 1 else second if condition == 0 else first if first == second else None

    result = elementwise(typed_like=1)(site)
    condition, first, second = (site.elements(index) for index in range(3))
    if result.shape is None or len(result.shape) > 1 or first is None or second is None:
        return result
    inputs = ((None,) if condition is None else condition, first, second)
    length = max(map(len, inputs))
    if any(len(elements) not in (1, length) for elements in inputs) or result.shape not in ((), (length,)):
        return result
    columns = [elements * length if len(elements) == 1 else elements for elements in inputs]
    return result._replace(elements=tuple(map(pick, *columns)))


def cast(site: NodeFacts) -> Fact:
    """Cast: whole numbers stay what they are; what a float loses is not known."""
    kind = ir.DataType(read(site, "to"))
    first = site.fact(0)
    elements = first.elements
    if elements is not None:
        if kind is ir.DataType.BOOL:
            elements = tuple(None if not isinstance(e, (int, Expression)) else _truth(e) for e in elements)
        elif kind in INTEGERS:
            elements = tuple(int(e) if isinstance(e, float) else e for e in elements)
            if kind not in (ir.DataType.INT64, ir.DataType.INT32):
                elements = tuple(e if isinstance(e, int) and 0 <= e < 128 else None for e in elements)
        elif kind not in (ir.DataType.FLOAT, ir.DataType.DOUBLE):
            elements = None
        elif kind is ir.DataType.FLOAT:
            elements = tuple(e if not isinstance(e, int) or abs(e) <= 1 << 24 else None for e in elements)
    return Fact(kind, first.shape, elements)


def _truth(size: Size) -> Element:
    equal_to_zero = equal(size, 0)
    return None if equal_to_zero is None else 1 - int(equal_to_zero)  # type: ignore[arg-type]  # 0 or 1


def clip(site: NodeFacts) -> Fact:
    """Clip: bounds do not broadcast; elements stay where they are known to lie within."""
    first = site.fact(0)
    if first.elements is None or site.version < 11:
        return Fact(first.dtype, first.shape)
    bounds = [site.elements(index) if site.has(index) else (None,) for index in (1, 2)]
    if any(bound is None or len(bound) != 1 or isinstance(bound[0], float) for bound in bounds):
        return Fact(first.dtype, first.shape)
    (low,), (high,) = (bound or (None,) for bound in bounds)
    elements: list[Element] = []
    for element in first.elements:
        if isinstance(element, (int, Expression)):
            element = element if low is None else maximum(element, low)  # type: ignore[arg-type]  # no floats are left
            element = element if high is None else minimum(element, high)  # type: ignore[arg-type]  # as above
        else:
            element = None
        elements.append(element)
    return Fact(first.dtype, first.shape, tuple(elements))


def dropout(site: NodeFacts) -> tuple[Fact, ...]:
    """Dropout: the mask is as large as the data, and boolean from opset 10 on."""
    first = site.fact(0)
    mask = ir.DataType.BOOL if site.version >= 10 else first.dtype
    return (Fact(first.dtype, first.shape), Fact(mask, first.shape))


def like_identity(site: NodeFacts) -> Fact:
    """Identity: whatever it is, it stays that."""
    return site.fact(0)


BOOL = ir.DataType.BOOL

KINDS = {"broadcast": Op(elementwise(), relate_all)}
"""Ops of the kind broadcast all their inputs; their result has the type of the first."""

OPS = {
    ("", "Add"): Op(elementwise(operator.add)),
    ("", "Sub"): Op(elementwise(operator.sub)),
    ("", "Mul"): Op(elementwise(operator.mul)),
    ("", "Div"): Op(divide),
    ("", "Mod"): Op(remainder),
    ("", "Pow"): Op(power),
    ("", "Max"): Op(elementwise(_fold(maximum))),
    ("", "Min"): Op(elementwise(_fold(minimum))),
    ("", "Sum"): Op(elementwise(_fold(operator.add))),
    ("", "Equal"): Op(elementwise(equal, BOOL)),
    ("", "Greater"): Op(elementwise(greater, BOOL)),
    ("", "GreaterOrEqual"): Op(elementwise(greater_or_equal, BOOL)),
    ("", "Less"): Op(elementwise(lambda first, second: greater(second, first), BOOL)),
    ("", "LessOrEqual"): Op(elementwise(lambda first, second: greater_or_equal(second, first), BOOL)),
    ("", "And"): Op(elementwise(both, BOOL)),
    ("", "Or"): Op(elementwise(either, BOOL)),
    ("", "Xor"): Op(elementwise(None, BOOL)),
    ("", "Not"): Op(unary(BOOL, lambda element: 1 - element)),
    ("", "Neg"): Op(unary(None, operator.neg)),
    ("", "Abs"): Op(unary(None, lambda element: element if is_nonnegative(element) else None)),
    ("", "Ceil"): Op(unary(None, lambda element: element)),
    ("", "Floor"): Op(unary(None, lambda element: element)),
    ("", "Round"): Op(unary(None, lambda element: element)),
    ("", "IsNaN"): Op(unary(BOOL)),
    ("", "IsInf"): Op(unary(BOOL)),
    ("", "Where"): Op(where, carried=(1, 2)),
    ("", "Cast"): Op(cast),
    ("", "CastLike"): Op(
        lambda site: Fact(site.fact(1).dtype, site.fact(0).shape),
        lambda site: aligned(site, site.node.inputs[0], site.node.outputs[0]),
    ),
    ("", "Clip"): Op(clip),
    ("", "PRelu"): Op(unary()),
    ("", "Dropout"): Op(dropout),
    ("", "Identity"): Op(like_identity),
}
"""Ops whose rule is not that of their kind."""
