"""Lets equal sizes be computed once: integers with the same formulas are one value, and runs of a shape one Shape.

An exporter reads the batch size anew wherever it needs it, off whatever tensor is at hand. The first to say the same,
or an input that has the sizes side by side, stands for all; the rest is dead.
"""

from __future__ import annotations

from collections.abc import Hashable

import onnx_ir as ir

from onnxslim.analysis.inference import Inference
from onnxslim.model.edit import take_over
from onnxslim.model.nesting import main_graphs
from onnxslim.ops.fact import Fact
from onnxslim.ops.symbols import Expression, Size
from onnxslim.ops.traits import Trait, has

SHAPE_RUNS_SINCE = 15
"""From this opset on, Shape has start and end."""


def name_sizes_once(model: ir.Model, known: Inference) -> int:
    """Merge integers that are equal by their formulas, and read runs of sizes off inputs. Returns how many changed."""
    version = model.opset_imports.get("", 0)
    return sum(_name_sizes(graph, known, version, graph is model.graph) for graph in main_graphs(model))


def _name_sizes(graph: ir.Graph, known: Inference, version: int, outermost: bool) -> int:
    first: dict[Hashable, ir.Value] = {}
    inputs = [value for value in graph.inputs if known.fact(value).shape] if outermost else []
    count = 0
    for node in list(graph):
        if len(node.outputs) != 1 or not node.outputs[0].uses():
            continue
        value = node.outputs[0]
        fact = known.fact(value)
        if not _is_computed(fact) or value.is_graph_output():
            continue
        same = first.setdefault((fact.dtype, fact.shape, fact.elements), value)
        if same is not value:
            value.replace_all_uses_with(same)
            count += 1
        elif fact.dtype is ir.DataType.INT64 and len(fact.shape or ()) == 1:
            runs = (_run(fact.elements or (), source, known) for source in inputs)
            run = next((found for found in runs if found is not None), None)
            if run is not None and _reads_run(node, run, version):
                continue
            if run is not None and (version >= SHAPE_RUNS_SINCE or run[3]):
                first[fact.dtype, fact.shape, fact.elements] = _read_run(graph, node, run)
                count += 1
    return count


def _is_computed(fact: Fact) -> bool:
    """Whether a value is small integers that are known by formulas, not all of them numbers."""
    elements = fact.elements
    if elements is None or fact.dtype not in (ir.DataType.INT64, ir.DataType.INT32):
        return False
    if not all(isinstance(element, (int, Expression)) for element in elements):
        return False
    return any(isinstance(element, Expression) for element in elements)


Run = tuple[ir.Value, int, int, bool]
"""A value, from which axis to which, and whether these are all."""


def _run(elements: tuple[Size | float | None, ...], value: ir.Value, known: Inference) -> Run | None:
    """Return where in the shape of a value some sizes stand side by side."""
    shape = known.fact(value).shape or ()
    for start in range(len(shape) - len(elements) + 1):
        if shape[start : start + len(elements)] == elements:
            return value, start, start + len(elements), len(elements) == len(shape)
    return None


def _reads_run(node: ir.Node, run: Run, version: int) -> bool:
    """Whether a node is already the Shape of an input, with or without start and end."""
    source = node.inputs[0] if has(node, Trait.LISTS_SIZES) else None
    return source is not None and source.is_graph_input() and (source is run[0] or version < SHAPE_RUNS_SINCE)


def _read_run(graph: ir.Graph, node: ir.Node, run: Run) -> ir.Value:
    source, start, end, whole = run
    attributes = [] if whole else [ir.AttrInt64("start", start), ir.AttrInt64("end", end)]
    shape = ir.Node("", "Shape", [source], attributes, name=node.name)
    graph.insert_before(node, shape)
    old, new = node.outputs[0], shape.outputs[0]
    take_over(new, old)
    old.name = f"{old.name}/replaced"  # what is dead goes later
    return new
