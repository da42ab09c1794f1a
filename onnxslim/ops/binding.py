"""Fits the axis signatures to nodes: which row holds, how long each factor is, which axis of a weight is which."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import cast

import onnx_ir as ir

from onnxslim.ops.arithmetic import broadcast
from onnxslim.ops.einsum import EINSUM, einsum_row
from onnxslim.ops.parameters import attribute, op_of
from onnxslim.ops.signatures import Operand, Signature, signatures
from onnxslim.ops.symbols import Size, exact_quotient, product

FactorKey = tuple[str, int]
"""(factor, place): the letter and, within an ellipsis, the place from the right; 0 for a factor that is one axis."""
Dimensions = tuple[int | None, ...]
"""A shape, None for each dimension that is symbolic."""
ShapeOf = Callable[[ir.Value], Dimensions | None]
"""Says the shape of a value; None where not even the rank is known."""
SizesOf = Callable[[ir.Value], Sequence[Size | None] | None]
"""The same, where sizes may be formulas."""


@dataclasses.dataclass(frozen=True)
class BoundSignature:
    """A node and the row of the table that holds for it."""

    node: ir.Node
    signature: Signature
    sizes: Mapping[FactorKey, int]
    """The sizes that are known; a symbolic dimension has none."""

    def operands(self) -> Iterator[tuple[Operand, ir.Value]]:
        """Yield every declared operand that the node has, inputs first."""
        for side, values in ((self.signature.inputs, self.node.inputs), (self.signature.outputs, self.node.outputs)):
            for operand, value in zip(side, values, strict=False):
                if value is not None and value.name:
                    yield operand, value

    def size(self, factor: str) -> int:
        """Return how long `factor` is, an ellipsis as the product of its axes; symbolic dimensions count as 1."""
        if factor.isdigit():
            return int(factor)
        return math.prod(size for (letter, _), size in self.sizes.items() if letter == factor)

    def macs(self) -> int:
        """Return the multiply-accumulates of one run; symbolic dimensions count as 1."""
        return sum(math.prod(self.size(factor) for factor in term) for term in self.signature.macs)


def input_index(node: ir.Node, name: str) -> int | None:
    """Return which input of `node` its row calls `name`, as in ``scale[c]``; None where there is none."""
    rows = signatures().get(op_of(node))
    operands = rows[0].inputs if rows else ()
    return next((index for index, operand in enumerate(operands) if operand.name == name), None)


def dimensions(value: ir.Value) -> Dimensions | None:
    """Return the shape of `value`, None for each symbolic dimension; None where not even the rank is known."""
    shape: ir.ShapeProtocol | None = value.shape
    if shape is None and value.const_value is not None:
        shape = value.const_value.shape
    if shape is None:
        return None
    return tuple([size if type(size) is int and size >= 0 else _length(size) for size in shape])


def _length(size: int | ir.SymbolicDimProtocol) -> int | None:
    if isinstance(size, int):
        return size if size >= 0 else None  # some exporters write -1 for what is not known
    # Symbolic arithmetic may end in a number: a batch of N rows of 8, over N.
    return int(size.value) if size.value is not None and size.value.isdecimal() else None


def is_sized(node: ir.Node, shape_of: ShapeOf = dimensions) -> bool:
    """Whether the sizes of all values that a node reads and makes are known."""
    shapes = (shape_of(value) for value in (*node.inputs, *node.outputs) if value is not None and value.name)
    return all(shape is not None and None not in shape for shape in shapes)


def bind(node: ir.Node, shape_of: SizesOf = dimensions) -> BoundSignature | None:
    """Return the first row of the table that holds for `node`, or None; ops of a kind have no row.

    A row holds where the attributes have the values that it names, no operand is left over, and every rank fits.
    `shape_of` says the shapes of the node's values; the sizes of factors are formulas where those of shapes are.
    """
    for signature in signatures().get(op_of(node), ()):
        row: Signature | None = signature
        if signature.kind == EINSUM:
            row = einsum_row(signature.op, attribute(node, "equation"), len(node.inputs))
        elif signature.kind:
            return None
        bound = None if row is None else fit(node, row, shape_of)
        if bound is not None:
            return bound
    return None


def fit(node: ir.Node, row: Signature, shape_of: SizesOf = dimensions) -> BoundSignature | None:
    """Return `node` with a row, if that holds for it, else None."""
    if not _holds(node, row, shape_of):
        return None
    return BoundSignature(node, row, cast(dict[FactorKey, int], _sizes(node, row, shape_of)))


def _holds(node: ir.Node, signature: Signature, shape_of: SizesOf) -> bool:
    for name, wanted in signature.where:
        got = attribute(node, name)
        if name == "axis" and isinstance(got, int) and node.inputs and node.inputs[0] is not None:
            # An axis may be counted from either end; rows count from the last.
            shape = shape_of(node.inputs[0])
            got = got - len(shape) if shape is not None and got >= 0 else got
        # ONNX Runtime's own ops have no schema here; what such a node leaves out is 0.
        if (got or 0) != wanted:
            return False
    for side, values in ((signature.inputs, node.inputs), (signature.outputs, node.outputs)):
        for position, value in enumerate(values):
            if value is None or (side is signature.outputs and not value.name):
                continue
            if position >= len(side) or side[position].absent:
                return False
            shape = shape_of(value)
            if shape is not None and not side[position].fits(len(shape)):
                return False
    return True


def _sizes(node: ir.Node, signature: Signature, shape_of: SizesOf) -> dict[FactorKey, Size]:
    sizes: dict[FactorKey, Size] = {}
    products: list[tuple[tuple[FactorKey, ...], Size]] = []
    for name, factors in signature.binds:
        length = attribute(node, name)
        if isinstance(length, int) and length > 0:
            if len(factors) == 1:
                sizes[factors[0], 0] = length
            else:
                products.append((tuple((factor, 0) for factor in factors), length))
    for operand, value in BoundSignature(node, signature, {}).operands():
        shape = None if operand.ignored else shape_of(value)
        if shape is None:
            continue
        for (dimension, place), size in zip(operand.axes(len(shape)), shape, strict=True):
            if size is None or (size == 1 and operand.broadcasts):
                continue
            keys = tuple((factor, place) for factor in dimension.factors)
            known = sizes.get(keys[0])
            if len(keys) > 1:
                products.append((keys, size))
            elif known is None:
                sizes[keys[0]] = size
            elif dimension.ellipsis:
                sizes[keys[0]] = max(known, size) if type(known) is type(size) is int else broadcast(known, size)
            elif isinstance(size, int) and not operand.broadcasts:
                sizes[keys[0]] = size
    before = -1
    while products and before != len(sizes):
        before = len(sizes)
        for keys, size in products:
            unknown = [key for key in keys if key not in sizes and not key[0].isdigit()]
            if len(unknown) == 1:
                rest = product([sizes[key] if key in sizes else int(key[0]) for key in keys if key not in unknown])
                quotient = exact_quotient(size, rest) if rest != 0 else None
                if quotient is not None:
                    sizes[unknown[0]] = quotient
    return sizes


def output_channel_axis(node: ir.Node, input_index: int) -> int | None:
    """Return which axis of an input reaches the output: the one that a per-channel scale of a weight belongs to.

    Conv: 0. ConvTranspose of one group: 1. Gemm: 0 or 1, by transB. MatMul, right-hand side: the last.

    Returns:
        The axis, or None where there is none: the op has no signature that says so, or mixes what reaches the output
        with what is summed over on one axis (ConvTranspose of several groups).
    """
    fitted = bind(node)
    if fitted is None or input_index >= len(fitted.signature.inputs):
        return None
    value = node.inputs[input_index] if input_index < len(node.inputs) else None
    shape = None if value is None else dimensions(value)
    if shape is None:
        return None
    reaching = fitted.signature.channels
    needed: set[str] = set()
    found: dict[int, set[str]] = {}
    for axis, (dimension, _) in enumerate(fitted.signature.inputs[input_index].axes(len(shape))):
        long = {factor for factor in dimension.factors if len(dimension.factors) == 1 or fitted.size(factor) != 1}
        if not long and reaching.issuperset(dimension.factors):  # one channel in one group: still the channels' axis
            long = set(dimension.factors)
        needed |= long & reaching
        if long and long <= reaching:
            found[axis] = long
    whole = [axis for axis, factors in found.items() if factors == needed]
    return whole[-1] if whole else None
