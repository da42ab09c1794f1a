"""Ops between numbers and the integers that stand for them, and ONNX Runtime's ops on such integers."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from onnxslim.ops.arithmetic import broadcast_shapes
from onnxslim.ops.fact import Fact, NodeFacts
from onnxslim.ops.families.elementwise import aligned, unary
from onnxslim.ops.families.movement import relate_joined
from onnxslim.ops.op import Op
from onnxslim.ops.parameters import read
from onnxslim.ops.relations import Axis, Equal, FreezeCode, NodeAxes, Relation
from onnxslim.ops.rows import typed_row

MICROSOFT = "com.microsoft"


def quantize(site: NodeFacts) -> Fact:
    """QuantizeLinear: the type of the zero point, or what output_dtype says, or uint8."""
    declared = read(site, "output_dtype", 0)
    kind = ir.DataType(declared) if declared else site.fact(2).dtype if site.has(2) else ir.DataType.UINT8
    return Fact(kind, site.fact(0).shape)


def dequantize(site: NodeFacts) -> Fact:
    """DequantizeLinear: the type of the scale."""
    declared = read(site, "output_dtype", 0)
    return Fact(ir.DataType(declared) if declared else site.fact(1).dtype, site.fact(0).shape)


def relate_scales(site: NodeAxes) -> Iterator[Relation]:
    """Yield that the data keep their axes, and that a vector of scales lies along one of them."""
    node = site.node
    source = node.inputs[0]
    assert source is not None
    yield from aligned(site, source, node.outputs[0])
    shape = site.shape_of(source)
    axis = read(site, "axis")
    for scale in node.inputs[1:]:
        own = None if scale is None else site.shape_of(scale)
        if scale is None or own in ((), (1,)):
            continue
        if shape is not None and own is not None and len(own) == 1 and isinstance(axis, int):
            yield Equal(Axis(scale, 0), Axis(source, axis % len(shape)))
        else:
            yield from site.freeze_node(FreezeCode.BLOCKS)


def quantize_dynamically(site: NodeFacts) -> tuple[Fact, ...]:
    """DynamicQuantizeLinear: data of bytes, a scale and a zero point."""
    scale = Fact(ir.DataType.FLOAT, ())
    return (Fact(ir.DataType.UINT8, site.fact(0).shape), scale, Fact(ir.DataType.UINT8, ()))


def quantized_broadcast(site: NodeFacts) -> Fact:
    """Return what an op of ONNX Runtime on (data, scale, zero point) twice makes: the data broadcast."""
    return Fact(site.fact(0).dtype, broadcast_shapes([site.shape(0), site.shape(3)]))


def relate_concat(site: NodeAxes) -> Iterator[Relation]:
    """QLinearConcat: (scale, zero point of the result), then (data, scale, zero point) of each part."""
    return relate_joined(site, site.node.outputs[0], [value for value in site.node.inputs[2::3] if value is not None])


OPS = {
    ("", "QuantizeLinear"): Op(quantize, relate_scales),
    ("", "DequantizeLinear"): Op(dequantize, relate_scales),
    ("", "DynamicQuantizeLinear"): Op(quantize_dynamically),
    (MICROSOFT, "QuantizeLinear"): Op(quantize, relate_scales),
    (MICROSOFT, "DequantizeLinear"): Op(dequantize, relate_scales),
    (MICROSOFT, "QLinearAdd"): Op(quantized_broadcast),
    (MICROSOFT, "QLinearMul"): Op(quantized_broadcast),
    (MICROSOFT, "QLinearSigmoid"): Op(unary()),
    (MICROSOFT, "QLinearLeakyRelu"): Op(unary()),
    (MICROSOFT, "QLinearConcat"): Op(relate=relate_concat),
    ("", "MatMulInteger"): Op(typed_row(ir.DataType.INT32)),
    ("", "QLinearMatMul"): Op(typed_row(7)),
    (MICROSOFT, "DynamicQuantizeMatMul"): Op(typed_row(ir.DataType.FLOAT)),
    (MICROSOFT, "MatMulIntegerToFloat"): Op(typed_row(ir.DataType.FLOAT)),
    (MICROSOFT, "QAttention"): Op(typed_row(3)),
    (MICROSOFT, "QGemm"): Op(typed_row(8)),
}
