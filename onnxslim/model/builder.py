"""Builds nodes at one place of a graph, one call for each; types and shapes of what they make are known at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Union

import numpy as np
import onnx_ir as ir

from onnxslim.arrays import Array
from onnxslim.model.edit import Editor

Operand = Union[ir.Value, Array, float, Sequence[int], None]  # noqa: UP007  # evaluated, on Python 3.10 too
"""What a node reads: a value; an array; a number of the type of the first value; integers (int64); nothing."""


class GraphBuilder:
    """Adds nodes to the main graph of a model, at its end as a rule.

    Args:
        model: The model, changed in place. The nodes that are there stay as they are.
        infer: Notes the types and shapes of what nodes make, given those of what they read.
        prefix: What the names of nodes and values begin with; a number follows.
    """

    def __init__(self, model: ir.Model, infer: Callable[[Sequence[ir.Node]], None], prefix: str) -> None:
        self.model = model
        self.editor = Editor(model)
        self.before: ir.Node | None = None
        """The node before which nodes are added; None: at the end."""
        self._infer = infer
        self._prefix = prefix

    def op(self, op_type: str, *operands: Operand, domain: str = "", **attributes: Any) -> ir.Value:
        """Append a node with one output, and return that."""
        return self.ops(op_type, *operands, count=1, domain=domain, **attributes)[0]

    def ops(
        self, op_type: str, *operands: Operand, count: int, domain: str = "", **attributes: Any
    ) -> Sequence[ir.Value]:
        """Append a node, and return its `count` outputs. Attributes that are None are left out."""
        inputs = self._inputs(operands)
        kept = {name: value for name, value in attributes.items() if value is not None}
        node = ir.Node(
            domain,
            op_type,
            inputs,
            [ir.convenience.convert_attribute(name, value) for name, value in kept.items()],
            num_outputs=count,
            name=self.editor.numbered(f"{self._prefix}{op_type}_"),
        )
        for output in node.outputs:
            output.name = self.editor.numbered(self._prefix)
        if self.before is None:
            self.model.graph.append(node)
        else:
            self.model.graph.insert_before(self.before, node)
        self._infer([node])
        return node.outputs

    def constant(self, array: Array) -> ir.Value:
        """Return an initializer with these elements; one for all equal arrays."""
        return self.editor.constant(f"{self._prefix}constant_", array)

    def number(self, number: float, like: ir.Value) -> ir.Value:
        """Return a scalar of the element type of `like`."""
        assert like.dtype is not None
        return self.constant(np.asarray(number, like.dtype.numpy()))

    def output(self, node: ir.Node, index: int) -> ir.Value:
        """Return an output of a node that is there already; one that it does not make yet is asked for."""
        if index >= len(node.outputs):
            node.resize_outputs(index + 1)
            for between in node.outputs:
                between.name = between.name or ""  # it is not made
        result = node.outputs[index]
        if not result.name:
            result.name = self.editor.numbered(self._prefix)
            self._infer([node])
        return result

    def _inputs(self, operands: Sequence[Operand]) -> list[ir.Value | None]:
        typed = next((operand for operand in operands if isinstance(operand, ir.Value)), None)
        inputs: list[ir.Value | None] = []
        for operand in operands:
            if operand is None or isinstance(operand, ir.Value):
                inputs.append(operand)
            elif isinstance(operand, (int, float)):
                assert typed is not None, "a number takes the type of a value"
                inputs.append(self.number(operand, typed))
            else:
                inputs.append(self.constant(np.asarray(operand, getattr(operand, "dtype", np.int64))))
        while inputs and inputs[-1] is None:
            inputs.pop()
        return inputs
