"""What a runtime fused as the ops that it was: FusedGemm, FusedMatMul and EmbedLayerNormalization of ONNX Runtime.

Source: ONNX Runtime, docs/ContribOperators.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from onnxslim.ops.activation import activation
from onnxslim.ops.parameters import read
from onnxslim.ops.signatures import OpName
from onnxslim.ops.site import Body, Declined, NodeSite, static_shape

MICROSOFT = "com.microsoft"
EPSILON = 1e-12
"""What EmbedLayerNormalization adds to a variance where it is not told."""
NUMBERS = ("activation_alpha", "activation_beta")


def gemm(site: NodeSite) -> Sequence[ir.Value | None]:
    """FusedGemm: a Gemm and an activation."""
    own = {name: value for name, value in site.node.attributes.items() if not name.startswith("activation")}
    result = site.op("Gemm", *site.node.inputs, **own)
    return [_activated(site, result, [read(site, name) for name in NUMBERS if name in site.node.attributes])]


def matmul(site: NodeSite) -> Sequence[ir.Value | None]:
    """FusedMatMul: alpha times a MatMul of operands whose last two axes may be swapped."""
    if read(site, "transBatchA", 0) or read(site, "transBatchB", 0):
        raise Declined("it moves axes of the batch")
    operands = []
    for index, name in enumerate(("transA", "transB")):
        value = site.operand(index)
        order = list(range(len(static_shape(value))))
        if read(site, name, 0) and len(order) > 1:
            value = site.transpose(value, [*order[:-2], order[-1], order[-2]])
        operands.append(value)
    alpha = float(read(site, "alpha", 1.0))
    result = site.op("MatMul", *operands)
    return [result if alpha == 1 else site.op("Mul", result, alpha)]


def embedding(site: NodeSite) -> Sequence[ir.Value | None]:
    """EmbedLayerNormalization: the sum of the vectors of words, of places and of segments, normalised.

    Inputs are the words, the segments, the tables of words, places and segments, scale, shift, a mask, and places;
    outputs the result, an index of the mask, and the sum.
    """
    outputs = site.node.outputs
    if len(outputs) > 1 and outputs[1].uses():
        raise Declined("its index of the mask is read")
    words, table = site.op("Gather", site.operand(2), site.operand(0)), site.operand(3)
    first = site.shape(0)[1]
    places = site.op("Gather", table, site.operand(8)) if site.has(8) else site.cut(table, 0, 0, first)
    segments = [site.op("Gather", site.operand(4), site.operand(1))] if site.has(1) and site.has(4) else []
    total = site.op("Sum", words, places, *segments)
    epsilon = float(read(site, "epsilon", EPSILON))
    return [site.op("LayerNormalization", total, site.operand(5), site.operand(6), epsilon=epsilon), None, total]


def _activated(site: NodeSite, value: ir.Value, numbers: Sequence[float]) -> ir.Value:
    """Return the activation of a value that the attributes name, with the numbers that they give it in turn."""
    name = str(read(site, "activation", ""))
    if not name:
        return value
    found = activation(name)
    if found is None:
        raise Declined(f"its activation {name} is none that is known")
    told = dict(zip(found.takes, numbers, strict=False))
    return dataclasses.replace(found, numbers={**found.numbers, **told})(site, value)


BODIES: Mapping[OpName, Body] = {
    (MICROSOFT, "FusedGemm"): gemm,
    (MICROSOFT, "FusedMatMul"): matmul,
    (MICROSOFT, "EmbedLayerNormalization"): embedding,
}
