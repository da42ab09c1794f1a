"""Writes weights of few levels into the graph: DequantizeLinear in front of what reads them, or a kernel that does.

ONNX Runtime makes a kernel for integers of a DequantizeLinear with blocks along the first axis of a matrix and the
product that reads it, so that matrices are stored that way round. In front of anything else it runs each time.
Two readers that want a weight in two layouts read the same levels: a Reshape or Transpose of them is folded when the
model is loaded.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.arrays import Array
from onnxslim.model.edit import Editor, drop_unused, take_over
from onnxslim.ops.traits import Trait, has

from .codebooks import Codebook
from .grids import LevelGrid
from .kernels import BlockKernel, WeightOnlyKernels
from .rounding import LevelType, RoundedWeight
from .stored import StoredWeight, WeightUse

AXIS_OPSET, BLOCK_OPSET, PAIR_OPSET = 13, 21, 25
"""DequantizeLinear has an axis, takes blocks and int4, and takes int2 since these operator sets."""
SIGNED = {8: np.dtype(np.int8), 4: np.dtype(ml_dtypes.int4), 2: np.dtype(ml_dtypes.int2)}
UNSIGNED = {8: np.dtype(np.uint8), 4: np.dtype(ml_dtypes.uint4), 2: np.dtype(ml_dtypes.uint2)}


class WeightFormat(enum.Enum):
    """How weights of integers are stored."""

    AUTO = "auto"
    """As the target's kernel takes them, and where it has none as DequantizeLinear."""
    QDQ = "qdq"
    """As DequantizeLinear, which every runtime knows."""
    NBITS = "nbits"
    """As the target's kernel takes them; what it has no kernel for stays float."""


@dataclasses.dataclass(frozen=True)
class WeightStorage:
    """How one weight is stored."""

    packed: bool
    """Whether all that reads it is a kernel of the provider."""
    opset: int
    """The operator set that it needs."""


def storage_of(
    weight: StoredWeight, kind: LevelType, form: WeightFormat, kernels: WeightOnlyKernels
) -> WeightStorage | None:
    """Return how a weight is stored; None where the format has no place for it."""
    bits, block = kind.bits, kind.block
    if not kind.levels.equal_steps:
        return None if form is WeightFormat.NBITS else WeightStorage(False, BLOCK_OPSET)
    if form is not WeightFormat.QDQ and _fits_kernels(weight, bits, block, kernels):
        return WeightStorage(True, 0)
    if form is WeightFormat.NBITS:
        return None
    blocked = 0 < block < weight.columns or weight.is_table
    return WeightStorage(False, PAIR_OPSET if bits < 4 else BLOCK_OPSET if bits < 8 or blocked else AXIS_OPSET)


def _fits_kernels(weight: StoredWeight, bits: int, block: int, kernels: WeightOnlyKernels) -> bool:
    products = all(
        kernels.product is not None
        and kernels.product.takes(product.node, bits, block)
        and product.contraction.weight_index == 1
        and product.contraction.plain
        for product in weight.products
    )
    tables = all(kernels.table is not None and kernels.table.takes(node, bits, block) for node in weight.tables)
    # What reads rows wants them without padding.
    return products and tables and (not weight.tables or weight.columns % block == 0)


class WeightWriter:
    """Writes weights into a model, in place; `finish` ends it."""

    def __init__(self, model: ir.Model, kernels: WeightOnlyKernels) -> None:
        self._model, self._graph, self._kernels = model, model.graph, kernels
        self._editor = Editor(model)

    def write(self, weight: StoredWeight, rounded: RoundedWeight, storage: WeightStorage) -> None:
        """Replace a weight by its levels, and correct the biases behind it."""
        for product, correction in zip(weight.products, rounded.corrections, strict=False):
            bias = None if correction is None else product.contraction.bias
            if bias is not None and bias.vector is not None and correction is not None:
                bias.write(self._editor, bias.vector + correction)
        if isinstance(rounded.grid, Codebook):
            self._write_indices(weight, rounded.grid, rounded.levels)
        elif storage.packed:
            self._write_packed(weight, rounded.grid, rounded.levels)
        else:
            self._write_dequantized(weight, rounded.grid, rounded.levels)

    def finish(self) -> None:
        """Drop what nobody reads any more, and sort the nodes."""
        drop_unused(self._graph)
        self._graph.sort()

    # Levels out of a table

    def _write_indices(self, weight: StoredWeight, codebook: Codebook, levels: npt.NDArray[np.uint8]) -> None:
        """Look levels up, in the place of a weight that keeps its shape; ONNX Runtime does so when it opens a model."""
        shape, name = weight.shape, weight.value.name
        stored = np.ascontiguousarray(levels.T if weight.axis else levels).reshape(shape).astype(UNSIGNED[4])
        sizes = (shape[0], *[1] * (len(shape) - 1)) if weight.axis else shape[1:]
        indices, table, scale = (
            self._editor.initializer(f"{name}_{part}", array)
            for part, array in (
                ("levels", stored),
                ("table", codebook.values),
                ("scale", codebook.scale.reshape(sizes)),
            )
        )
        whole = self._add("Cast", [indices], {"to": ir.DataType.INT32.value}, dtype=ir.DataType.INT32)
        looked_up = self._add("Gather", [table, whole], {})
        value = self._add("Mul", [looked_up, scale], {}, shape=ir.Shape(shape))
        for product in weight.products:
            turned = product.contraction.weight is not weight.value  # it reads a copy
            product.node.replace_input_with(product.contraction.weight_index, self._turned(value) if turned else value)
        for node in weight.tables:
            node.replace_input_with(0, value)

    # DequantizeLinear

    def _write_dequantized(self, weight: StoredWeight, grid: LevelGrid, levels: npt.NDArray[np.uint8]) -> None:
        blocked = grid.block < len(levels) or weight.is_table
        whole = _integers(levels, grid)
        parts = [whole, grid.scale, *([] if grid.symmetric else [grid.zero_point.astype(whole.dtype)])]
        axis = 1 if weight.is_table else _wanted_axis(weight.products[0])
        stored = [np.ascontiguousarray(part.T if axis else part) for part in parts]
        if not blocked:
            stored = [stored[0], *(part.reshape(-1) for part in stored[1:])]
            if len(weight.shape) > 2 and axis:  # the first axis holds the outputs: no Reshape is needed
                stored[0] = stored[0].reshape(weight.shape)
        names = ("levels", "scale", "zero_point")
        values = [
            self._editor.initializer(f"{weight.value.name}_{name}", part)
            for name, part in zip(names, stored, strict=False)
        ]
        made: dict[int, ir.Value] = {}

        def dequantized(wanted: int) -> ir.Value:
            if wanted not in made:
                lie = wanted == axis
                parts = [value if lie or len(value.shape or ()) < 2 else self._turned(value) for value in values]
                made[wanted] = self._dequantize(parts, grid, wanted, blocked, weight)
            return made[wanted]

        for product in weight.products:
            wanted = _wanted_axis(product)
            if has(product.node, Trait.GENERAL_PRODUCT) and product.contraction.weight_index == 1:
                product.node.attributes["transB"] = ir.AttrInt64("transB", 0)
            product.node.replace_input_with(product.contraction.weight_index, dequantized(wanted))
        for node in weight.tables:
            if grid.bits == 8:
                self._read_rows(node, values, grid)
            else:
                node.replace_input_with(0, dequantized(1))

    def _dequantize(
        self, values: list[ir.Value], grid: LevelGrid, axis: int, blocked: bool, weight: StoredWeight
    ) -> ir.Value:
        """Append a DequantizeLinear whose blocks lie along `axis`, and a Reshape where the weight has more axes."""
        attributes = {"axis": axis, "block_size": grid.block} if blocked else {"axis": 1 - axis}
        output = self._add("DequantizeLinear", values, attributes, shape=values[0].shape)
        if len(weight.shape) == len(values[0].shape or ()):
            return output
        sizes = self._editor.constant("shape_", np.array(weight.shape, np.int64))
        return self._add("Reshape", [output, sizes], {}, shape=ir.Shape(weight.shape))

    def _read_rows(self, node: ir.Node, values: list[ir.Value], grid: LevelGrid) -> None:
        """Let a node read rows of levels and of scales, and dequantize those alone."""
        rows = []
        for value in values:
            rows.append(self._add(node.op_type, [value, node.inputs[1]], {}, dtype=value.dtype))
            rows[-1].producer().attributes.update(node.attributes)  # type: ignore[union-attr]  # a node makes it
        new = self._add("DequantizeLinear", rows, {"axis": -1, "block_size": grid.block})
        take_over(new, node.outputs[0])
        self._graph.remove(node, safe=True)

    # Kernels

    def _write_packed(self, weight: StoredWeight, grid: LevelGrid, levels: npt.NDArray[np.uint8]) -> None:
        padding = -len(levels) % grid.block
        packed = pack(np.pad(levels, ((0, padding), (0, 0)), constant_values=grid.middle).T, grid.bits)
        rows, count = packed.shape[0], len(grid.scale)
        name = weight.value.name
        shape = (rows, count, packed.shape[1] // count)
        stored = self._editor.initializer(f"{name}_levels", packed if weight.tables else packed.reshape(shape))
        others = [self._editor.initializer(f"{name}_scale", np.ascontiguousarray(grid.scale.T))]
        if not grid.symmetric:
            others.append(self._editor.initializer(f"{name}_zero_point", pack(grid.zero_point.T, grid.bits)))
        blocks: ir.Value | None = None if weight.tables else stored
        for product in weight.products:
            if blocks is None:
                sizes = self._editor.constant("shape_", np.array(shape, np.int64))
                blocks = self._add("Reshape", [stored, sizes], {}, dtype=ir.DataType.UINT8, shape=ir.Shape(shape))
            assert self._kernels.product is not None
            self._multiply(product, [blocks, *others], grid, len(levels), rows, self._kernels.product)
        for node in weight.tables:
            assert self._kernels.table is not None
            inputs = [stored, node.inputs[1], *others]
            attributes = {"gather_axis": 0, "quantize_axis": 1, "block_size": grid.block, "bits": grid.bits}
            self._replace(node, inputs, attributes, self._kernels.table)

    def _multiply(
        self,
        product: WeightUse,
        values: list[ir.Value],
        grid: LevelGrid,
        columns: int,
        outputs: int,
        kernel: BlockKernel,
    ) -> None:
        node = product.node
        bias = product.contraction.own_bias
        summand = None if bias is None else bias.value
        inputs: list[ir.Value | None] = [product.contraction.data, *values]
        if summand is not None:
            inputs += [None] * (5 - len(inputs)) + [summand]
        self._replace(node, inputs, {"K": columns, "N": outputs, "bits": grid.bits, "block_size": grid.block}, kernel)

    def _replace(
        self, node: ir.Node, inputs: list[ir.Value | None], attributes: dict[str, int], kernel: BlockKernel
    ) -> None:
        """Put a node of a kernel in the place of a node of one output."""
        made = ir.node(
            kernel.op_type, inputs, {**attributes, **kernel.attributes}, domain=kernel.domain, name=node.name
        )
        self._model.opset_imports.setdefault(kernel.domain, 1)
        self._graph.insert_before(node, made)
        take_over(made.outputs[0], node.outputs[0])
        self._graph.remove(node, safe=True)

    # Nodes

    def _turned(self, value: ir.Value) -> ir.Value:
        sizes = None if value.shape is None else ir.Shape(list(value.shape)[::-1])
        return self._add("Transpose", [value], {"perm": [1, 0]}, dtype=value.dtype, shape=sizes)

    def _add(
        self,
        op_type: str,
        inputs: list[ir.Value | None] | list[ir.Value],
        attributes: dict[str, Any],
        *,
        dtype: ir.DataType | None = ir.DataType.FLOAT,
        shape: ir.Shape | None = None,
    ) -> ir.Value:
        """Append a node without a name, and return its output."""
        node = ir.node(op_type, inputs, attributes, name="")
        self._graph.append(node)
        output = node.outputs[0]
        output.name, output.shape = self._editor.numbered("w"), shape
        output.type = None if dtype is None else ir.TensorType(dtype)
        return output


def _wanted_axis(product: WeightUse) -> int:
    """Return which axis of a weight, as a matrix, its blocks lie along: the one that is summed over."""
    contraction = product.contraction
    return product.axis if contraction.kernel else 1 - contraction.weight_index


def _integers(levels: npt.NDArray[np.uint8], grid: LevelGrid) -> Array:
    """Return levels as the integers that DequantizeLinear takes."""
    if grid.symmetric:
        return (levels.astype(np.int16) - grid.middle).astype(SIGNED[grid.bits])
    return levels.astype(UNSIGNED[grid.bits])


def pack(levels: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint8]:
    """Return rows of levels, several to a byte, the first in the lowest bits; a row ends on a whole byte."""
    each = 8 // bits
    padded = np.pad(levels, ((0, 0), (0, -levels.shape[1] % each)))
    packed = np.zeros((len(padded), padded.shape[1] // each), np.uint8)
    for place in range(each):
        packed |= padded[:, place::each] << np.uint8(bits * place)
    return packed
