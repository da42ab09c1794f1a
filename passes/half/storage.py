"""Chooses the weights that are stored in half precision, whoever reads them."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator

import onnx_ir as ir

from onnxslim.model.constants import constant_tensor
from onnxslim.model.nesting import main_graphs
from onnxslim.pipeline.interface import Note, left_alone
from onnxslim.pipeline.reasons import Reason
from onnxslim.pipeline.selection import Selection

from .codes import HalfCode
from .operands import is_float
from .ranges import Fitness

SMALLEST = 64
"""Numbers of a weight that is worth the Cast that float32 readers need, which takes about as many bytes."""


@dataclasses.dataclass(frozen=True)
class Storage:
    """The float32 weights of a model that are large enough to be stored in half precision."""

    stored: frozenset[ir.Value]
    left: tuple[Note, ...]
    """Those that stay as they are, and why."""


def choose_storage(model: ir.Model, fitness: Fitness, selection: Selection, exact: Collection[ir.Node]) -> Storage:
    """Return which weights are stored in half precision; a Cast before a float32 reader undoes that.

    Args:
        model: The types of its values are known.
        fitness: What fits.
        selection: What is asked for.
        exact: Nodes whose weights must keep all digits.
    """
    stored: list[ir.Value] = []
    left: list[Note] = []
    for value in float_weights(model):
        tensor = constant_tensor(value)
        if tensor is None or tensor.size < SMALLEST or not value.uses():
            continue
        reason = selection.against(value)
        for use in value.uses():
            if reason is None and use.node in exact:
                reason = Reason(HalfCode.INDICES)
            reason = reason or fitness.against_constant(value, use.node, use.idx)
        if reason is None:
            stored.append(value)
        else:
            left.append(left_alone(value.name or "", reason, action="left in float32"))
    return Storage(frozenset(stored), tuple(left))


def float_weights(model: ir.Model) -> Iterator[ir.Value]:
    """Yield the float32 initializers outside of functions that are no outputs, and that no caller may override."""
    for graph in main_graphs(model):
        for value in graph.initializers.values():
            if is_float(value) and constant_tensor(value) is not None and not value.is_graph_output():
                yield value
