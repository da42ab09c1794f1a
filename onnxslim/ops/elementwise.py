"""Ops that compute element by element, on inputs that broadcast; on small integers, what they compute."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from onnxslim.ops.arithmetic import (
    broadcast,
    is_nonnegative,
    is_positive,
    maximum,
    minimum,
    mod,
    never_equal,
    truncdiv,
)
from onnxslim.ops.fact import INTEGERS, Element, Fact, NodeFacts, ShapeRule, Unknowable
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


def broadcast_shapes(shapes: Sequence[tuple[Size, ...]]) -> tuple[Size, ...]:
    """Return the shape that shapes broadcast to, aligned at the right (ONNX, Broadcasting)."""
    first = shapes[0]
    if len(shapes) == 1 or (len(shapes) == 2 and (first == shapes[1] or not shapes[1])):
        return first
    rank = max(map(len, shapes))
    result: list[Size] = []
    for place in range(-rank, 0):
        sizes = [shape[place] for shape in shapes if -place <= len(shape)]
        one = sizes[0]
        result.append(one if all(size == one for size in sizes) else broadcast(*sizes))
    return tuple(result)


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
    if all(fact is None or fact.elements is None for fact in site.facts):
        return None  # nothing is known that would be worth an opaque result
    inputs = [site.elements(index) for index in range(len(site.facts))]
    length = max((len(each) for each in inputs if each is not None), default=0)
    if any(each is None or len(each) not in (1, length) for each in inputs):
        return None
    limit = LIMITS.get(kind)
    if limit is None:
        return None
    result: list[Element] = []
    for place in range(length):
        arguments = [each[place if len(each) > 1 else 0] for each in inputs if each is not None]
        result.append(None if None in arguments else _computed(compute, arguments, limit))
    return tuple(result)


def _computed(compute: Compute, arguments: list[Element], limit: int) -> Element:
    """Compute one element; floats go on only where they are whole, for roundings are another's business."""
    if any(isinstance(each, float) for each in arguments):
        return None
    result = compute(*arguments)
    return None if isinstance(result, int) and abs(result) >= limit else result


def unary(dtype: ir.DataType | None = None, compute: Callable[[Size], Element] | None = None) -> OneResult:
    """Return the rule of an op that keeps the shape of its first input, whatever its other inputs are."""

    def rule(site: NodeFacts) -> Fact:
        first = site.fact(0)
        elements = None
        if compute is not None and first.elements is not None:
            elements = tuple(compute(e) if isinstance(e, (int, Expression)) else None for e in first.elements)
        return Fact(dtype or first.dtype, first.shape, elements)

    return rule


# What elements become


def add(first: Size, second: Size) -> Element:
    """Return a sum."""
    return first + second


def subtract(first: Size, second: Size) -> Element:
    """Return a difference."""
    return first - second


def multiply(first: Size, second: Size) -> Element:
    """Return a product."""
    return first * second


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
    kind = site.fact(0).dtype
    return elementwise(_integer_quotient if kind in INTEGERS else _float_quotient)(site)


def _integer_quotient(first: Size, second: Size) -> Element:
    return None if second == 0 else truncdiv(first, second)


def _float_quotient(first: Size, second: Size) -> Element:
    return None if second == 0 else exact_quotient(first, second)


def remainder(site: NodeFacts) -> Fact:
    """Mod: the sign of the divisor, or of the dividend with fmod."""
    if site.attribute("fmod", 0) or site.fact(0).dtype not in INTEGERS:
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
    inputs = [site.elements(index) for index in range(3)]
    if result.shape is None or len(result.shape) > 1 or any(each is None for each in inputs[1:]):
        return result
    known = [each if each is not None else (None,) for each in inputs]
    length = max(map(len, known))
    if any(len(each) not in (1, length) for each in known) or result.shape not in ((), (length,)):
        return result
    columns = [each * length if len(each) == 1 else each for each in known]
    return result._replace(elements=tuple(pick(*each) for each in zip(*columns, strict=True)))


def cast(site: NodeFacts) -> Fact:
    """Cast: whole numbers stay what they are; what a float loses is not known."""
    kind = ir.DataType(site.attribute("to"))
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
    if any(each is None or len(each) != 1 or isinstance(each[0], float) for each in bounds):
        return Fact(first.dtype, first.shape)
    (low,), (high,) = (each or (None,) for each in bounds)
    elements: list[Element] = []
    for element in first.elements:
        if isinstance(element, (int, Expression)):
            element = element if low is None else maximum(element, low)  # type: ignore[arg-type]  # no floats are left
            element = element if high is None else minimum(element, high)  # type: ignore[arg-type]
        else:
            element = None
        elements.append(element)
    return Fact(first.dtype, first.shape, tuple(elements))


def dropout(site: NodeFacts) -> tuple[Fact, ...]:
    """Dropout: the mask is as large as the data, and boolean from opset 10 on."""
    first = site.fact(0)
    mask = ir.DataType.BOOL if site.version >= 10 else first.dtype
    return (Fact(first.dtype, first.shape), Fact(mask, first.shape))


def batch_normalization(site: NodeFacts) -> tuple[Fact, ...]:
    """BatchNormalization: the data keep their shape, the statistics theirs."""
    first, mean = site.fact(0), site.fact(3)
    return (Fact(first.dtype, first.shape), *[Fact(mean.dtype, mean.shape)] * (len(site.node.outputs) - 1))


def like_identity(site: NodeFacts) -> Fact:
    """Identity: whatever it is, it stays that."""
    return site.fact(0)


def quantize(site: NodeFacts) -> Fact:
    """QuantizeLinear: the type of the zero point, or what output_dtype says, or uint8."""
    told = site.attribute("output_dtype", 0)
    kind = ir.DataType(told) if told else (site.fact(2).dtype if site.has(2) else ir.DataType.UINT8)
    return Fact(kind, site.fact(0).shape)


def dequantize(site: NodeFacts) -> Fact:
    """DequantizeLinear: the type of the scale."""
    told = site.attribute("output_dtype", 0)
    return Fact(ir.DataType(told) if told else site.fact(1).dtype, site.fact(0).shape)


def quantize_dynamically(site: NodeFacts) -> tuple[Fact, ...]:
    """DynamicQuantizeLinear: data of bytes, a scale and a zero point."""
    scale = Fact(ir.DataType.FLOAT, ())
    return (Fact(ir.DataType.UINT8, site.fact(0).shape), scale, Fact(ir.DataType.UINT8, ()))


def quantized_broadcast(site: NodeFacts) -> Fact:
    """Return what an op of ONNX Runtime on (data, scale, zero point) twice makes: the data broadcast."""
    if len(site.facts) < 4:
        raise Unknowable
    return Fact(site.fact(0).dtype, broadcast_shapes([site.shape(0), site.shape(3)]))


BOOL = ir.DataType.BOOL

RULES: dict[tuple[str, str], ShapeRule] = {
    ("", "Add"): elementwise(add),
    ("", "Sub"): elementwise(subtract),
    ("", "Mul"): elementwise(multiply),
    ("", "Div"): divide,
    ("", "Mod"): remainder,
    ("", "Pow"): power,
    ("", "Max"): elementwise(_fold(maximum)),
    ("", "Min"): elementwise(_fold(minimum)),
    ("", "Sum"): elementwise(_fold(lambda first, second: first + second)),
    ("", "Equal"): elementwise(equal, BOOL),
    ("", "Greater"): elementwise(greater, BOOL),
    ("", "GreaterOrEqual"): elementwise(greater_or_equal, BOOL),
    ("", "Less"): elementwise(lambda first, second: greater(second, first), BOOL),
    ("", "LessOrEqual"): elementwise(lambda first, second: greater_or_equal(second, first), BOOL),
    ("", "And"): elementwise(both, BOOL),
    ("", "Or"): elementwise(either, BOOL),
    ("", "Xor"): elementwise(None, BOOL),
    ("", "Not"): unary(BOOL, lambda element: 1 - element),
    ("", "Neg"): unary(None, lambda element: -element),
    ("", "Abs"): unary(None, lambda element: element if is_nonnegative(element) else None),
    ("", "Ceil"): unary(None, lambda element: element),
    ("", "Floor"): unary(None, lambda element: element),
    ("", "Round"): unary(None, lambda element: element),
    ("", "IsNaN"): unary(BOOL),
    ("", "IsInf"): unary(BOOL),
    ("", "Where"): where,
    ("", "Cast"): cast,
    ("", "CastLike"): lambda site: Fact(site.fact(1).dtype, site.fact(0).shape),
    ("", "Clip"): clip,
    ("", "PRelu"): unary(),
    ("", "Dropout"): dropout,
    ("", "Identity"): like_identity,
    ("", "BatchNormalization"): batch_normalization,
    ("", "QuantizeLinear"): quantize,
    ("", "DequantizeLinear"): dequantize,
    ("", "DynamicQuantizeLinear"): quantize_dynamically,
    ("com.microsoft", "QuantizeLinear"): quantize,
    ("com.microsoft", "DequantizeLinear"): dequantize,
    ("com.microsoft", "QLinearAdd"): quantized_broadcast,
    ("com.microsoft", "QLinearMul"): quantized_broadcast,
    ("com.microsoft", "QLinearSigmoid"): unary(),
    ("com.microsoft", "QLinearLeakyRelu"): unary(),
}
"""Other ops that ops.axes calls broadcast or mixing broadcast all their inputs, and have the type of the first."""
