"""The pass `dequantize`: a quantized model as a model of floats, whose weights are what the levels stand for."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import ClassVar

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from onnxslim.analysis.quantized import count_quantized
from onnxslim.analysis.shapes import infer_shapes
from onnxslim.model.edit import drop_unused
from onnxslim.model.nesting import main_graphs, nodes_within
from onnxslim.ops.traits import Trait, has
from onnxslim.pipeline.interface import Change, Context, Kind, Note, Pass, left_alone
from onnxslim.pipeline.reasons import Reason
from onnxslim.rewrite.driver import fixpoint
from onnxslim.rewrite.reader import load_rules

from .activations import Floats, spread_unary
from .codes import DequantizeCode
from .stored import fold_levels, unfold_packed

OLDEST = 13
"""DequantizeLinear has an axis, and Clip takes limits of any type, since this opset."""


@dataclasses.dataclass(frozen=True)
class Dequantize(Pass):
    """Bring a quantized model back to floats: static or dynamic int8, packed weights, in QDQ form or as integer ops."""

    name: ClassVar[str] = "dequantize"
    kind: ClassVar[Kind] = Kind.LOSSY
    needs: ClassVar[tuple[str, ...]] = ("simplify",)
    speeds_up: ClassVar[bool] = False

    def untimed(self, provider: str) -> Reason | None:
        """Return why its speed decides nothing."""
        return Reason(DequantizeCode.ASKED_FOR)

    def run(self, model: ir.Model, context: Context) -> Change:
        """Change `model` in place; say which nodes stay integers, and why."""
        before = count_quantized(model)
        opset = model.opset_imports.get("", 0)
        if not before:
            return Change(False, (left_alone("model", Reason(DequantizeCode.NOT_QUANTIZED)),))
        if opset < OLDEST:
            return Change(False, (left_alone("model", Reason(DequantizeCode.OLD_OPSET, (opset, OLDEST))),))
        infer_shapes(model)
        rules = load_rules(__name__, opset)
        applied = fixpoint(model, rules, always=True)
        packed = unfold_packed(model)
        spread = spread_unary(model)
        folded = fold_levels(model)
        pairs = Floats(model).run()
        RemoveUnusedNodesPass()(model)
        for graph in main_graphs(model):
            drop_unused(graph)
            graph.sort()
        infer_shapes(model)
        after = count_quantized(model)
        counts = (
            ("ops of integers", sum(applied.counts.values()) + spread),
            ("packed weights", packed),
            ("stored integers", folded),
            ("roundings of activations", pairs),
        )
        notes = [Note(what, f"{count} as floats") for what, count in counts if count]
        return Change(after != before, (*notes, *_left(model)))


def _left(model: ir.Model) -> list[Note]:
    """Return a note for each node that still computes on integers or makes them."""
    quantized = Counter(count_quantized(model))
    notes: list[Note] = []
    for node in nodes_within(model.graph):
        if node.op_type not in quantized:
            continue
        subject = node.name or node.outputs[0].name or node.op_type
        if has(node, Trait.QUANTIZES):
            own = _gives(node.outputs[0])
            reason = Reason(DequantizeCode.INTERFACE, ("output",)) if own else Reason(DequantizeCode.BESIDE_INTEGERS)
        elif has(node, Trait.DEQUANTIZES):
            own = _is_given(node.inputs[0])
            reason = Reason(DequantizeCode.INTERFACE, ("input",)) if own else Reason(DequantizeCode.BESIDE_INTEGERS)
        else:
            reason = Reason(DequantizeCode.NO_FLOAT_FORM, (node.op_type,))
        notes.append(left_alone(subject, reason, action="left as it is"))
    return notes


def _gives(levels: ir.Value) -> bool:
    """Whether levels are an output of the model, themselves or behind nodes that move them."""
    readers = (use.node for use in levels.uses() if has(use.node, Trait.MOVEMENT))
    return levels.is_graph_output() or any(_gives(output) for reader in readers for output in reader.outputs)


def _is_given(levels: ir.Value | None) -> bool:
    """Whether levels are an input of the model, themselves or before nodes that move them."""
    producer = None if levels is None else levels.producer()
    if producer is not None:
        return has(producer, Trait.MOVEMENT) and _is_given(producer.inputs[0])
    return levels is not None and levels.is_graph_input()
