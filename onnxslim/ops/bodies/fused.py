"""What a runtime fused as the ops that it was: FusedGemm and FusedMatMul of ONNX Runtime.

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
}
