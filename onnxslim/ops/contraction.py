"""Products of matrices, recurrences, normalisations: the sizes that the axis signatures in ops.axes say."""

from __future__ import annotations

import onnx_ir as ir

from onnxslim.ops.arithmetic import broadcast
from onnxslim.ops.binding import FactorKey, attribute
from onnxslim.ops.elementwise import broadcast_shapes
from onnxslim.ops.fact import Fact, NodeFacts, ShapeRule, Unknowable, axis_of
from onnxslim.ops.signatures import Operand, Signature
from onnxslim.ops.symbols import Size, exact_quotient, product


def matmul(site: NodeFacts) -> Fact:
    """MatMul: as numpy multiplies; vectors have no axis of their own in the result."""
    left, right = site.shape(0), site.shape(1)
    kind = site.fact(0).dtype
    rows = left[-2:-1] if len(left) > 1 else ()
    columns = right[-1:] if len(right) > 1 else ()
    if len(left) == len(right) and left[:-2] == right[:-2]:
        batch = left[:-2]
    else:
        batch = broadcast_shapes([left[:-2], right[:-2]]) if left[:-2] else right[:-2]
    return Fact(kind, (*batch, *rows, *columns))


def gemm(site: NodeFacts) -> Fact:
    """Gemm: two matrices, either of them transposed."""
    kind = site.fact(0).dtype
    left, right = site.fact(0).shape, site.fact(1).shape
    rows = site.unknown(0) if left is None else left[1 if site.attribute("transA", 0) else 0]
    columns = site.unknown(1) if right is None else right[0 if site.attribute("transB", 0) else 1]
    return Fact(kind, (rows, columns))


def normalization(site: NodeFacts) -> tuple[Fact, ...]:
    """LayerNormalization: the data keep their shape; the statistics lack what is normalised, but for ones."""
    first = site.fact(0)
    if first.shape is None:
        raise Unknowable
    axis = axis_of(site.attribute("axis", -1), len(first.shape))
    statistic = (*first.shape[:axis], *[1] * (len(first.shape) - axis))
    kind = ir.DataType(site.attribute("stash_type", 1))
    return (Fact(first.dtype, first.shape), *[Fact(kind, statistic)] * (len(site.node.outputs) - 1))


def by_signature(rows: tuple[Signature, ...]) -> ShapeRule:
    """Return the rule of an op whose operands are spelled out in ops.axes."""

    def rule(site: NodeFacts) -> tuple[Fact, ...]:
        row = next((row for row in rows if _holds(site, row)), None)
        if row is None:
            raise Unknowable
        kind = TYPED.get(site.node.op_type, 0)
        dtype = kind if isinstance(kind, ir.DataType) else site.fact(kind).dtype
        sizes = _sizes(site, row)
        return tuple(
            Fact(dtype, _shape(site, operand, sizes, output))
            for output, operand in enumerate(row.outputs[: len(site.node.outputs)])
        )

    return rule


TYPED: dict[str, int | ir.DataType] = {
    "DynamicQuantizeMatMul": ir.DataType.FLOAT,
    "MatMulInteger": ir.DataType.INT32,
    "MatMulIntegerToFloat": ir.DataType.FLOAT,
    "QLinearMatMul": 7,
    "QGemm": 8,
}
"""The element type of what an op makes, or the input that has it, where that is not the first."""


def _holds(site: NodeFacts, row: Signature) -> bool:
    for name, wanted in row.where:
        got = attribute(site.node, name)
        if name == "axis" and isinstance(got, int) and got >= 0 and site.has(0):
            got -= len(site.shape(0))
        if (got or 0) != wanted:
            return False
    if len(site.facts) > len(row.inputs) or len(site.node.outputs) > len(row.outputs):
        return False
    for operand, fact in zip(row.inputs, site.facts, strict=False):
        if fact is not None and fact.shape is None and not operand.ignored:
            raise Unknowable
        if fact is not None and fact.shape is not None and not operand.fits(len(fact.shape)):
            return False
    return True


def _sizes(site: NodeFacts, row: Signature) -> dict[FactorKey, Size]:
    sizes: dict[FactorKey, Size] = {}
    products: list[tuple[tuple[str, ...], Size]] = []
    for name, factors in row.binds:
        got = attribute(site.node, name)
        if isinstance(got, int) and len(factors) == 1:
            sizes[factors[0], 0] = got
        elif isinstance(got, int):
            products.append((factors, got))
    for operand, fact in zip(row.inputs, site.facts, strict=False):
        if fact is None or fact.shape is None or operand.ignored or operand.broadcasts:
            continue
        for (dimension, place), size in zip(operand.axes(len(fact.shape)), fact.shape, strict=True):
            if len(dimension.factors) > 1:
                products.append((dimension.factors, size))
                continue
            key = (dimension.factors[0], place)
            known = sizes.get(key)
            if known is None:
                sizes[key] = size
            elif dimension.ellipsis:
                sizes[key] = broadcast(known, size)
            elif isinstance(size, int):
                sizes[key] = size
    for factors, size in products:
        missing = [factor for factor in factors if not factor.isdigit() and (factor, 0) not in sizes]
        if len(missing) == 1:
            rest = product([_factor(factor, sizes) or 1 for factor in factors if factor != missing[0]])
            quotient = exact_quotient(size, rest)
            if quotient is not None:
                sizes[missing[0], 0] = quotient
    return sizes


def _factor(factor: str, sizes: dict[FactorKey, Size]) -> Size | None:
    return int(factor) if factor.isdigit() else sizes.get((factor, 0))


def _shape(site: NodeFacts, operand: Operand, sizes: dict[FactorKey, Size], output: int) -> tuple[Size, ...] | None:
    result: list[Size] = []
    for dimension in operand.dimensions:
        if dimension.ellipsis:
            places = sorted((place for letter, place in sizes if letter == dimension.factors[0]), reverse=True)
            if not places and site.fact(0).shape is None:
                return None
            result += [sizes[dimension.factors[0], place] for place in places]
            continue
        factors = [_factor(factor, sizes) for factor in dimension.factors]
        known = [factor for factor in factors if factor is not None]
        result.append(product(known) if len(known) == len(factors) else site.unknown(len(result), output))
    return tuple(result)


RULES: dict[tuple[str, str], ShapeRule] = {
    ("", "MatMul"): matmul,
    ("", "Gemm"): gemm,
    ("com.microsoft", "FusedGemm"): gemm,
    ("", "LayerNormalization"): normalization,
}
"""The rules of this theme that are asked too often to be read off the table each time, or say more than it."""
