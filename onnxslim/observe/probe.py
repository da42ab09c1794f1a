"""Copies of a model that compute some of its values, or numbers made of them, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnx_ir.passes.common

from onnxslim.arrays import Array
from onnxslim.data import Batch
from onnxslim.model.edit import Editor
from onnxslim.runtime.session import OpenSession, Session

Feeds = Mapping[str, Array]

AXES_AS_INPUT = 18
"""Since this operator set, ReduceMean, ReduceMin and ReduceMax take their axes as an input."""


class Probe:
    """A copy of a model to which nodes are added.

    Args:
        model: Any model; it is not changed.
    """

    def __init__(self, model: ir.Model) -> None:
        self.model = model.clone()
        self.editor = Editor(self.model)
        self._graph = self.model.graph
        self.values: dict[str, ir.Value] = {value.name or "": value for value in self._graph.inputs}
        """The values of the main graph that nodes make, and its inputs, by name."""
        self.values |= {value.name or "": value for node in self._graph for value in node.outputs}

    def add(self, op_type: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        """Append a node and return its output."""
        node = ir.node(op_type, inputs, attributes)
        node.outputs[0].name = self.editor.numbered("probe_")
        self._graph.append(node)
        return node.outputs[0]

    def constant(self, array: npt.ArrayLike) -> ir.Value:
        """Return an initializer, one for all equal arrays."""
        return self.editor.constant("probe_constant_", np.asarray(array))

    def reduce(self, op_type: str, value: ir.Value, axes: Sequence[int] | None) -> ir.Value:
        """Append ReduceMean, ReduceMin or ReduceMax over `axes`, which do not stay, and return its output; None: over
        all axes."""
        if axes is None:
            return self.add(op_type, value, keepdims=0)
        if not axes:
            return self.add("Identity", value)
        if self._graph.opset_imports.get("", AXES_AS_INPUT) < AXES_AS_INPUT:
            return self.add(op_type, value, axes=list(axes), keepdims=0)
        return self.add(op_type, value, self.constant(np.array(axes, np.int64)), keepdims=0)

    def compute(self, values: Iterable[ir.Value]) -> ir.Model:
        """Return the model with `values` as its only outputs, in this order, and without what they do not need."""
        self._graph.outputs.clear()
        self._graph.outputs.extend(values)
        onnx_ir.passes.common.RemoveUnusedNodesPass()(self.model)
        return self.model


def truncated(model: ir.Model, names: Iterable[str]) -> ir.Model:
    """Return a copy of `model` that computes the values `names` of its main graph, in this order, and nothing else."""
    probe = Probe(model)
    return probe.compute(probe.values[name] for name in names)


def defaults(model: ir.Model) -> dict[str, Array]:
    """Return the inputs of `model` that have a default, by name: samples need not hold them."""
    return {
        value.name or "": value.const_value.numpy()
        for value in model.graph.inputs
        if value.is_initializer() and value.const_value is not None
    }


def run_on(session: Session, feeds: Feeds, outputs: Sequence[str] | None = None) -> dict[str, Any]:
    """Return the outputs of a session that may have fewer inputs than there are feeds."""
    inputs = {spec.name for spec in session.inputs}
    return session.run({name: array for name, array in feeds.items() if name in inputs}, outputs)


def stream_values(
    model: ir.Model, names: Iterable[str], batches: Iterable[Batch], open_session: OpenSession
) -> Iterator[tuple[Batch, dict[str, Any]]]:
    """Yield batches, each with the inputs of the model and the values `names`, by name.

    Args:
        model: Any model; it is not changed.
        names: Values of its main graph.
        batches: Read once.
        open_session: Opens a model on the target.

    Raises:
        RunError: The model does not run.
    """
    computed = {value.name or "" for node in model.graph for value in node.outputs}
    inner = sorted(computed & set(names))
    session = open_session(truncated(model, inner)) if inner else None
    given = defaults(model)
    for batch in batches:
        yield batch, {**given, **batch.feeds, **({} if session is None else run_on(session, batch.feeds))}
