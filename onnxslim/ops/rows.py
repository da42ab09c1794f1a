"""What a row of ops.axes says of the ops that have one: the sizes of their outputs, and the relations of their axes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx_ir as ir

from onnxslim.ops.binding import BoundSignature, FactorKey, bind
from onnxslim.ops.fact import Fact, NodeFacts, ShapeRule, Unknowable
from onnxslim.ops.relations import Axis, Equal, Factor, Factored, FreezeCode, Mixes, NodeAxes, Relation
from onnxslim.ops.signatures import Operand
from onnxslim.ops.symbols import Size, product


def infer_row(site: NodeFacts) -> tuple[Fact, ...]:
    """Return what the row of ops.axes that holds for a node says of the sizes of its outputs."""
    shapes = {value: fact.shape for value, fact in zip(site.node.inputs, site.facts, strict=True) if fact is not None}
    bound = bind(site.node, shapes.get)
    if bound is None or any(
        not operand.ignored and shapes.get(value) is None
        for operand, value in zip(bound.signature.inputs, site.node.inputs, strict=False)
        if value is not None
    ):
        raise Unknowable
    return row_facts(site, bound)


def typed_row(kind: int | ir.DataType) -> ShapeRule:
    """Return the rule of an op whose row says the sizes, and that makes a type, or that of an input by its index."""

    def rule(site: NodeFacts) -> tuple[Fact, ...]:
        dtype = kind if isinstance(kind, ir.DataType) else site.fact(kind).dtype
        return tuple(fact._replace(dtype=dtype) for fact in infer_row(site))

    return rule


def row_facts(site: NodeFacts, bound: BoundSignature) -> tuple[Fact, ...]:
    """Return what a row says of the outputs of a node, whose sizes are those of `bound`: of the first input's type."""
    dtype = site.fact(0).dtype
    return tuple(
        Fact(dtype, _shape(site, operand, bound.sizes, output))
        for output, operand in enumerate(bound.signature.outputs[: len(site.node.outputs)])
    )


def _shape(site: NodeFacts, operand: Operand, sizes: Mapping[FactorKey, Size], output: int) -> tuple[Size, ...]:
    result: list[Size] = []
    for dimension in operand.dimensions:
        if dimension.ellipsis:
            places = sorted((place for letter, place in sizes if letter == dimension.factors[0]), reverse=True)
            result += [sizes[dimension.factors[0], place] for place in places]
            continue
        factors = [int(letter) if letter.isdigit() else sizes.get((letter, 0)) for letter in dimension.factors]
        known = [factor for factor in factors if factor is not None]
        result.append(product(known) if len(known) == len(factors) else site.unknown(len(result), output))
    return tuple(result)


def relate_row(site: NodeAxes, bound: BoundSignature) -> Iterator[Relation]:
    """Yield what a row of the table says about the operands of its node: equal letters are one factor."""
    signature = bound.signature
    seen: dict[FactorKey, Factor] = {}
    for operand, value in bound.operands():
        if operand.ignored:
            yield from site.freeze_values((value,), FreezeCode.READ_AS_WHOLE)
            continue
        shape = site.shape(value)
        for position, ((dimension, place), length) in enumerate(zip(operand.axes(len(shape)), shape, strict=True)):
            if length == 1 and (operand.broadcasts or dimension.ellipsis):
                continue
            factors: list[Factor] = []
            for letter in dimension.factors:
                factor = seen.get((letter, place))
                if factor is None:
                    size = int(letter) if letter.isdigit() else bound.sizes.get((letter, place))
                    factor = seen[letter, place] = Factor(letter, place, size)
                    if letter in signature.fixed:
                        yield from site.freeze((factor,), FreezeCode.FIXED_FACTOR)
                factors.append(factor)
            axis = Axis(value, position)
            yield Equal(factors[0], axis) if len(factors) == 1 else Factored(axis, tuple(factors))
    for (letter, _), factor in seen.items():
        if letter in signature.mixed:
            yield Mixes(factor)
