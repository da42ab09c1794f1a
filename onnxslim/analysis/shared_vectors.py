"""Gives each node a vector of its own where several share one by chance, so that they can be cut apart.

Exporters and simplifiers store equal biases once. Equal by chance is not tied by design: matrices that are shared
stay so.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from onnxslim.model.edit import Editor

MANY = 1 << 14
"""Longer vectors stay shared; no bias is that long."""


def untie_vectors(model: ir.Model) -> Mapping[str, tuple[ir.Value, ...]]:
    """Copy each vector of the main graph for all but the first of its readers; return for each name that was shared
    the values that hold it now."""
    untied: dict[str, tuple[ir.Value, ...]] = {}
    editor = Editor(model)
    for value in list(model.graph.initializers.values()):
        tensor, uses = value.const_value, list(value.uses())
        if tensor is None or value.is_graph_input() or value.is_graph_output() or not value.name:
            continue
        # A scale and a vector along the channels of an image alike: one axis longer than 1.
        vector = sum(size != 1 for size in tensor.shape) == 1 and tensor.size <= MANY
        if not vector or len(uses) < 2 or any(use.node.graph is not model.graph for use in uses):
            continue
        copies = [value]
        for number, use in enumerate(uses[1:], start=1):
            # A tensor of its own: writing a model names tensors after their values, and this one may be the caller's.
            copy = editor.initializer(f"{value.name}_reader_{number}", tensor.numpy())
            use.node.replace_input_with(use.idx, copy)
            copies.append(copy)
        untied[value.name] = tuple(copies)
    return untied


def retie_vectors(model: ir.Model, untied: Mapping[str, tuple[ir.Value, ...]]) -> None:
    """Merge again what `untie_vectors` copied and what is still equal."""
    for copies in untied.values():
        kept: dict[bytes, ir.Value] = {}
        for value in copies:
            if value.const_value is None or model.graph.initializers.get(value.name or "") is not value:
                continue
            first = kept.setdefault(value.const_value.tobytes(), value)
            if first is not value and first.shape == value.shape:
                value.replace_all_uses_with(first)
                del model.graph.initializers[value.name or ""]
