"""A layer by itself: a few nodes at given sizes, as a model that can be timed. Which numbers its weights hold is of no
account."""

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
"""Element types of layers that are timed, and what numpy calls them."""


@dataclasses.dataclass(frozen=True)
class Tensor:
    """An operand of a layer that comes from outside."""

    shape: tuple[int, ...]
    constant: bool = False
    """A weight, which ONNX Runtime may lay out anew when it loads the model; else the value is fed."""
    dtype: str = "float32"
    """As numpy calls it."""

    def array(self) -> npt.NDArray[Any]:
        """Return numbers of this shape: around 1 and of both signs, so that none is denormal and slow."""
        return np.cos(np.arange(math.prod(self.shape))).astype(self.dtype).reshape(self.shape)


@dataclasses.dataclass(frozen=True)
class Previous:
    """An operand of a layer that a step before it makes."""

    back: int = 1
    """How many steps before."""


@dataclasses.dataclass(frozen=True)
class Step:
    """One node of a layer."""

    op: OpName
    """(domain, op type)."""
    inputs: tuple[Tensor | Previous | None, ...]
    attributes: tuple[tuple[str, Attribute], ...] = ()


@dataclasses.dataclass(frozen=True)
class TimedLayer:
    """A chain of nodes: what the last one makes is the output."""

    steps: tuple[Step, ...]
    opsets: tuple[tuple[str, int], ...] = (("", 21),)
    """(domain, version)."""

    def key(self) -> str:
        """Return text that is equal for equal layers, and in every process."""
        steps = [[step.op, [_plain(each) for each in step.inputs], step.attributes] for step in self.steps]
        return json.dumps([steps, self.opsets], separators=(",", ":"))

    @property
    def nbytes(self) -> int:
        """The bytes of all tensors that come from outside."""
        return sum(
            math.prod(each.shape) * np.dtype(each.dtype).itemsize
            for step in self.steps
            for each in step.inputs
            if isinstance(each, Tensor)
        )

    def model(self) -> tuple[ir.Model, dict[str, npt.NDArray[Any]]]:
        """Return the layer as a model, and something to feed it."""
        graph = ir.Graph([], [], nodes=[], opset_imports=dict(self.opsets), name="layer")
        feeds: dict[str, npt.NDArray[Any]] = {}
        made: list[ir.Value] = []
        for number, step in enumerate(self.steps):
            inputs: list[ir.Value | None] = []
            for at, each in enumerate(step.inputs):
                if isinstance(each, Tensor):
                    name, array = f"input_{number}_{at}", each.array()
                    if each.constant:
                        inputs.append(new_initializer(graph, name, array))
                        continue
                    kind = ir.TensorType(ir.DataType.from_numpy(array.dtype))
                    graph.inputs.append(ir.Value(name=name, type=kind, shape=ir.Shape(each.shape)))
                    feeds[name] = array
                    inputs.append(graph.inputs[-1])
                else:
                    inputs.append(made[-each.back] if each is not None and made else None)
            attributes = [ir.convenience.convert_attribute(name, value) for name, value in step.attributes]
            output = ir.Value(name=f"output_{number}")
            graph.append(ir.Node(step.op[0], step.op[1], inputs, attributes, outputs=[output]))
            made.append(output)
        before = made[-1]
        dtypes = [each.dtype for step in self.steps for each in step.inputs if isinstance(each, Tensor)]
        before.type = ir.TensorType(ir.DataType.from_numpy(np.dtype(dtypes[0])))
        graph.outputs.append(before)
        return ir.Model(graph, ir_version=10), feeds


def layer_of(fitted: BoundSignature, sizes: Mapping[FactorKey, int] | None = None) -> TimedLayer | None:
    """Return a node as a layer by itself.

    Args:
        fitted: The node, with a row of its own, in a model whose sizes are known (`onnxslim.analysis.specialize`).
        sizes: Factors that are to be of another size than they are, as pruning leaves them.

    Returns:
        The layer; None where it cannot be had: a size is not known, or an operand is none whose numbers are free (an
        index, a scale, a length).
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
        for (dimension, place), size in zip(operand.axes(len(shape)), shape, strict=True):
            if size == 1 and (operand.broadcasts or dimension.ellipsis):
                lengths.append(1)
                continue
            factors = [int(each) if each.isdigit() else known.get((each, place)) for each in dimension.factors]
            if None in factors:
                return None
            lengths.append(math.prod(each for each in factors if each is not None))
        inputs.append(Tensor(tuple(lengths), constant_tensor(value) is not None, dtype))
    bound = dict(signature.binds)
    attributes: list[tuple[str, Attribute]] = []
    for name, attribute in sorted(node.attributes.items()):
        value_of = attribute.value
        if attribute.is_ref() or not isinstance(value_of, (int, float, str, list, tuple)):
            return None
        factors = [known.get((each, 0)) for each in bound.get(name, ())]
        factor = math.prod(each for each in factors if each is not None) if factors and None not in factors else None
        plain: Attribute = tuple(value_of) if isinstance(value_of, (list, tuple)) else value_of
        attributes.append((name, plain if factor is None else factor))
    domain, op_type = op_of(node)
    opsets = node.graph.opset_imports if node.graph is not None else {}
    used = tuple((each, version) for each, version in sorted(opsets.items()) if each in ("", domain))
    return TimedLayer((Step((domain, op_type), tuple(inputs), tuple(attributes)),), used)


def _plain(operand: Tensor | Previous | None) -> list[object] | str | None:
    if isinstance(operand, Tensor):
        return [list(operand.shape), operand.constant, operand.dtype]
    return None if operand is None else "previous" if operand.back == 1 else f"previous {operand.back}"
