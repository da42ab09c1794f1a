"""Says what runs in int8: how many nodes, which share of the multiply-accumulates, and the bits of each layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from onnxslim.analysis.specialize import specialize_shapes
from onnxslim.ops.binding import bind
from onnxslim.pipeline.interface import LayerChange, Note

from .plan import QuantPlan
from .table import Role

FLOAT_BITS, BITS = 32, 8


def count_macs(model: ir.Model, sizes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Return the multiply-accumulates of the nodes of the main graph, by the names of their first outputs.

    Args:
        model: It is not changed.
        sizes: The shapes of its inputs.
    """
    fitted = ((node, bind(node)) for node in specialize_shapes(model, sizes).graph)
    return {node.outputs[0].name or "": found.macs() for node, found in fitted if found is not None and node.outputs}


def account(plan: QuantPlan, macs: Mapping[str, int]) -> tuple[list[Note], tuple[LayerChange, ...]]:
    """Return notes on what runs in int8, and the layers that do.

    Args:
        plan: What is quantized; its nodes are those of the float model.
        macs: `count_macs` of that model.
    """
    counts = Counter(site.node.op_type for site in plan.sites)
    notes = [Note(op_type, f"{count} in int8") for op_type, count in counts.most_common()]
    layers = []
    for site in plan.sites:
        if site.row.role is Role.CONTRACTION:
            name = site.node.outputs[0].name or ""
            own = macs.get(name, 0)
            layers.append(LayerChange(site.node.name or name, site.node.op_type, "bits", FLOAT_BITS, BITS, own, own))
    total = sum(macs.values())
    if total:
        share = sum(layer.macs_after for layer in layers) / total
        notes.insert(0, Note("model", f"{share:.1%} of the multiply-accumulates in int8"))
    return notes, tuple(layers)
