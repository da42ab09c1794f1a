"""What a model is, without running it: size, cost, inputs and outputs, ops."""

from __future__ import annotations

import collections
import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import onnx_ir as ir

from onnxslim.analysis.cost import measure_cost
from onnxslim.analysis.quantized import quantized_layers
from onnxslim.analysis.shapes import infer_shapes
from onnxslim.analysis.specialize import specialize_shapes
from onnxslim.commands.onnx_text import op_title
from onnxslim.model import FORM, file_bytes, open_model
from onnxslim.model.nesting import main_graphs
from onnxslim.pipeline.discovery import pass_names


@dataclasses.dataclass(frozen=True)
class TensorFigures:
    """An input or output."""

    name: Annotated[str, "of the input or output"]
    type: Annotated[str, "element type, as ONNX names it; sequence, map or optional where it is no tensor"]
    shape: Annotated[tuple[int | str | None, ...], "a number, the name of a symbolic dimension, or null: not known"]


@dataclasses.dataclass(frozen=True)
class NodeFigures:
    """What one node costs."""

    name: Annotated[str, "of the node, or of its first output where it has none"]
    op_type: Annotated[str, "what it computes"]
    macs: Annotated[int, "multiply-accumulates"]
    parameters: Annotated[int, "numbers in the weights that it reads"]


@dataclasses.dataclass(frozen=True)
class QuantizedFigures:
    """Layers with stored weights that are quantized alike."""

    scheme: Annotated[str, "QDQ, QOperator, dynamic, packed, or weight-only: QDQ whose data are floats"]
    layers: Annotated[int, "how many"]
    weight_bits: Annotated[int, "of each weight"]
    activation_bits: Annotated[int | None, "of the data; null: floats"]


@dataclasses.dataclass(frozen=True)
class Inspection:
    """One model, looked at."""

    path: Annotated[str, "where it lies"]
    size_bytes: Annotated[int, "the file, with external data"]
    ir_version: Annotated[int, "version of the file format"]
    opsets: Annotated[Mapping[str, int], "domain to version; the default domain is written ai.onnx"]
    producer: Annotated[str, "what wrote the file"]
    metadata: Annotated[Mapping[str, str], "what the file says about itself; a slim model says how it was made"]
    inputs: Annotated[tuple[TensorFigures, ...], "as the file declares them"]
    outputs: Annotated[tuple[TensorFigures, ...], "as the file declares them"]
    parameters: Annotated[int, "numbers in the weights"]
    macs: Annotated[int, "multiply-accumulates of one inference; symbolic dimensions of inputs count as 1"]
    weight_bytes: Annotated[int, "the weights in memory"]
    activation_bytes: Annotated[int, "all values between the nodes, were they all kept"]
    peak_activation_bytes: Annotated[int, "the most that is alive at once"]
    nodes: Annotated[int, "subgraphs included, Constant nodes not"]
    ops: Annotated[Mapping[str, int], "how often each op occurs, the most frequent first"]
    uncounted: Annotated[tuple[str, ...], "ops whose MACs are not known and count as 0"]
    costly: Annotated[tuple[NodeFigures, ...], "the nodes with the most MACs, then the most parameters"]
    quantization: Annotated[tuple[QuantizedFigures, ...], "how its layers are quantized already; empty: not at all"]
    passes: Annotated[tuple[str, ...], "the passes that are installed"]
    not_inferred: Annotated[tuple[str, ...], "nodes whose shapes could not be inferred, with the error"] = ()


def inspect(path: str | os.PathLike[str], top: int = 10, *, inline: bool = True) -> Inspection:
    """Look at the model at `path`.

    Args:
        path: The ONNX file.
        top: How many of the costliest nodes to list.
        inline: Inline local functions first.

    Raises:
        ModelError: As `open_model` does.
    """
    path = Path(path)
    model = open_model(path, inline=inline)
    # as declared: inference gives names to what is unknown
    inputs, outputs = (tuple(map(_tensor, values)) for values in (model.graph.inputs, model.graph.outputs))
    specialized = specialize_shapes(model)
    cost, at_one = measure_cost(model), measure_cost(specialized)
    ops = collections.Counter(op_title(node) for graph in main_graphs(model) for node in graph)
    not_inferred = infer_shapes(specialized)
    quantization = tuple(
        QuantizedFigures(layers.scheme, layers.count, layers.weight_bits, layers.activation_bits)
        for layers in quantized_layers(specialized)
    )
    costly = sorted(at_one.per_node, key=lambda node: (-node.macs, -node.parameters))[:top]
    return Inspection(
        path=str(path),
        size_bytes=file_bytes(path),
        ir_version=model.graph.meta[FORM].ir_version,
        opsets={domain or "ai.onnx": version for domain, version in model.opset_imports.items()},
        producer=" ".join(part for part in (model.producer_name, model.producer_version) if part),
        metadata=dict(model.metadata_props),
        inputs=inputs,
        outputs=outputs,
        parameters=cost.parameters,
        macs=at_one.macs,
        weight_bytes=cost.weight_bytes,
        activation_bytes=at_one.activation_bytes,
        peak_activation_bytes=at_one.peak_activation_bytes,
        nodes=cost.nodes,
        ops=dict(ops.most_common()),
        uncounted=cost.uncounted,
        costly=tuple(NodeFigures(node.name, node.op_type, node.macs, node.parameters) for node in costly),
        quantization=quantization,
        passes=pass_names(),
        not_inferred=not_inferred,
    )


def _tensor(value: ir.Value) -> TensorFigures:
    kind = "unknown" if value.type is None else type(value.type).__name__.removesuffix("Type").lower()
    if isinstance(value.type, ir.TensorType):
        kind = value.type.dtype.name.lower()
    shape = tuple(size if isinstance(size, int) else size.value for size in value.shape or ())
    return TensorFigures(value.name or "", kind, shape)
