"""A layer of a few nodes with given sizes, as a model of its own that can be timed with arbitrary weights."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.model.constants import constant_tensor
from onnxslim.model.edit import new_initializer
from onnxslim.ops.binding import BoundSignature, FactorKey
from onnxslim.ops.parameters import Attribute, op_of
from onnxslim.ops.signatures import OpName

DTYPES = {ir.DataType.FLOAT16: "float16", ir.DataType.FLOAT: "float32", ir.DataType.DOUBLE: "float64"}
"""Element types of timed layers -> names in numpy."""


@dataclasses.dataclass(frozen=True)
class Tensor:
    """An operand of a layer from outside: a weight or an input."""

    shape: tuple[int, ...]
    constant: bool = False
    """Whether it is a weight, whose layout ONNX Runtime may change when it loads the model; otherwise it is fed."""
    dtype: str = "float32"
    """Name of the type in numpy."""

    def array(self) -> npt.NDArray[Any]:
        """Return values of this shape of magnitude 1 and both signs, none of which is denormal and slow."""
        return np.cos(np.arange(math.prod(self.shape))).astype(self.dtype).reshape(self.shape)


@dataclasses.dataclass(frozen=True)
class Previous:
    """An operand of a layer computed by an earlier step."""

    back: int = 1
    """Number of steps back."""


@dataclasses.dataclass(frozen=True)
class Step:
    """One node of a layer."""

    op: OpName
    """(domain, op type)."""
    inputs: tuple[Tensor | Previous | None, ...]
    attributes: tuple[tuple[str, Attribute], ...] = ()


@dataclasses.dataclass(frozen=True)
class TimedLayer:
    """A chain of nodes, whose last output is the output of the layer."""

    steps: tuple[Step, ...]
    opsets: tuple[tuple[str, int], ...] = (("", 21),)
    """(domain, version)."""

    def key(self) -> str:
        """Return text that is equal for equal layers, in every process."""
        steps = [[step.op, [_plain(operand) for operand in step.inputs], step.attributes] for step in self.steps]
        return json.dumps([steps, self.opsets], separators=(",", ":"))

    @property
    def nbytes(self) -> int:
        """Bytes of all operands from outside."""
        return sum(
            math.prod(operand.shape) * np.dtype(operand.dtype).itemsize
            for step in self.steps
            for operand in step.inputs
            if isinstance(operand, Tensor)
        )

    def model(self) -> tuple[ir.Model, dict[str, npt.NDArray[Any]]]:
        """Return the layer as a model, with feeds."""
        graph = ir.Graph([], [], nodes=[], opset_imports=dict(self.opsets), name="layer")
        feeds: dict[str, npt.NDArray[Any]] = {}
        outputs: list[ir.Value] = []
        for number, step in enumerate(self.steps):
            inputs: list[ir.Value | None] = []
            for index, operand in enumerate(step.inputs):
                if isinstance(operand, Tensor):
                    name, array = f"input_{number}_{index}", operand.array()
                    if operand.constant:
                        inputs.append(new_initializer(graph, name, array))
                        continue
                    kind = ir.TensorType(ir.DataType.from_numpy(array.dtype))
                    graph.inputs.append(ir.Value(name=name, type=kind, shape=ir.Shape(operand.shape)))
                    feeds[name] = array
                    inputs.append(graph.inputs[-1])
                else:
                    inputs.append(outputs[-operand.back] if operand is not None and outputs else None)
            attributes = [ir.convenience.convert_attribute(name, value) for name, value in step.attributes]
            output = ir.Value(name=f"output_{number}")
            graph.append(ir.Node(step.op[0], step.op[1], inputs, attributes, outputs=[output]))
            outputs.append(output)
        last = outputs[-1]
        dtypes = [operand.dtype for step in self.steps for operand in step.inputs if isinstance(operand, Tensor)]
        last.type = ir.TensorType(ir.DataType.from_numpy(np.dtype(dtypes[0])))
        graph.outputs.append(last)
        return ir.Model(graph, ir_version=10), feeds


def layer_of(fitted: BoundSignature, sizes: Mapping[FactorKey, int] | None = None) -> TimedLayer | None:
    """Return a node as a layer of its own.

    Args:
        fitted: The node with its signature, in a model of known sizes (`onnxslim.analysis.specialize`).
        sizes: Factors with other sizes, as after pruning.

    Returns:
        The layer; None if a size is unknown, or an operand cannot have arbitrary values (an index, a scale, a length).
    """
    node, signature = fitted.node, fitted.signature
    known = {**fitted.sizes, **(sizes or {})}
    inputs: list[Tensor | None] = []
    for operand, value in zip(signature.inputs, node.inputs, strict=False):
        if value is None:
            inputs.append(None)
            continue
        shape, dtype = value.shape, DTYPES.get(value.dtype) if value.dtype is not None else None
        if operand.ignored or shape is None or dtype is None:
            return None
        lengths: list[int] = []
        for (dimension, position), size in zip(operand.axes(len(shape)), shape, strict=True):
            if size == 1 and (operand.broadcasts or dimension.ellipsis):
                lengths.append(1)
                continue
            factors = [int(name) if name.isdigit() else known.get((name, position)) for name in dimension.factors]
            if None in factors:
                return None
            lengths.append(math.prod(size for size in factors if size is not None))
        inputs.append(Tensor(tuple(lengths), constant_tensor(value) is not None, dtype))
    bound = dict(signature.binds)
    attributes: list[tuple[str, Attribute]] = []
    for name, attribute in sorted(node.attributes.items()):
        content = attribute.value
        if attribute.is_ref() or not isinstance(content, (int, float, str, list, tuple)):
            return None
        factors = [known.get((factor, 0)) for factor in bound.get(name, ())]
        scaled = math.prod(size for size in factors if size is not None) if factors and None not in factors else None
        plain: Attribute = tuple(content) if isinstance(content, (list, tuple)) else content
        attributes.append((name, plain if scaled is None else scaled))
    domain, op_type = op_of(node)
    opsets = node.graph.opset_imports if node.graph is not None else {}
    used = tuple((name, version) for name, version in sorted(opsets.items()) if name in ("", domain))
    return TimedLayer((Step((domain, op_type), tuple(inputs), tuple(attributes)),), used)


def _plain(operand: Tensor | Previous | None) -> list[object] | str | None:
    if isinstance(operand, Tensor):
        return [list(operand.shape), operand.constant, operand.dtype]
    return None if operand is None else "previous" if operand.back == 1 else f"previous {operand.back}"
