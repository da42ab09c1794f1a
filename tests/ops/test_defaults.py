"""Defaults that hang on the node: what is declared is what ONNX Runtime takes where the attribute is left out."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from sample_models import from_text

from onnxslim.ops.op import Repeated
from onnxslim.ops.table import computed_default, is_usual, ops

BODIES: dict[str, tuple[int, str, str]] = {
    "Transpose": (17, "float[2,3,4] x", "y = Transpose (x)"),
    "Squeeze": (12, "float[2,1,3,1] x", "y = Squeeze (x)"),
    "Resize": (18, "float[1,1,4,4] x, float[4] r, float[4] scales", "y = Resize (x, r, scales)"),
    **{
        f"Reduce{kind}": (12, "float[2,3,4] x", f"y = Reduce{kind} (x)") for kind in ("L1", "L2", "LogSum", "LogSumExp")
    },
    **{f"Reduce{kind}": (12, "float[2,3,4] x", f"y = Reduce{kind} (x)") for kind in ("Max", "Mean", "Min", "Prod")},
    **{f"Reduce{kind}": (12, "float[2,3,4] x", f"y = Reduce{kind} (x)") for kind in ("Sum", "SumSquare")},
    "Conv": (17, "float[1,2,7,6] x, float[4,2,3,2] w", "y = Conv (x, w)"),
    "ConvTranspose": (17, "float[1,2,7,6] x, float[2,4,3,2] w", "y = ConvTranspose (x, w)"),
    "ConvInteger": (17, "uint8[1,2,7,6] x, uint8[4,2,3,2] w", "y = ConvInteger (x, w)"),
    "QLinearConv": (
        17,
        "uint8[1,2,7,6] x, float s, uint8 z, uint8[4,2,3,2] w, float s2, uint8 z2, float s3, uint8 z3",
        "y = QLinearConv (x, s, z, w, s2, z2, s3, z3)",
    ),
    "DeformConv": (19, "float[1,2,7,6] x, float[4,2,3,2] w, float[1,12,5,5] o", "y = DeformConv (x, w, o)"),
    "AveragePool": (19, "float[1,2,7,6] x", "y = AveragePool <kernel_shape = [3, 2]> (x)"),
    "MaxPool": (17, "float[1,2,7,6] x", "y = MaxPool <kernel_shape = [3, 2]> (x)"),
    "LpPool": (18, "float[1,2,7,6] x", "y = LpPool <kernel_shape = [3, 2]> (x)"),
    "MaxUnpool": (17, "float[1,1,2,2] x, int64[1,1,2,2] i", "y = MaxUnpool <kernel_shape = [2, 2]> (x, i)"),
}
"""For each op: an operator set that has its attributes, inputs, and a node without them."""


def node_of(op: str) -> tuple[ir.Model, ir.Node]:
    opset, inputs, body = BODIES[op]
    model = from_text(f'<ir_version: 9, opset_import: ["" : {opset}]> g ({inputs}) => (float y) {{ {body} }}')
    model.graph.outputs[0].type = model.graph.outputs[0].shape = None
    return model, model.graph[0]


def run(model: ir.Model) -> np.ndarray:
    generator = np.random.default_rng(0)
    feeds = {}
    for value in model.graph.inputs:
        shape = tuple(value.shape)
        array = generator.random(shape) + 0.5 if value.dtype is ir.DataType.FLOAT else generator.integers(1, 9, shape)
        feeds[value.name] = np.asarray(array).astype(value.dtype.numpy()).reshape(shape)
    if "i" in feeds:
        feeds["i"] = np.array([[[[0, 2], [1, 3]]]])
    if "r" in feeds:
        feeds["r"], feeds["scales"] = np.zeros(0, np.float32), np.array([1, 1, 2, 2], np.float32)
    proto = ir.to_proto(model)
    if "r" in feeds:
        proto.graph.input[1].type.tensor_type.shape.dim[0].dim_value = 0
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


@pytest.mark.parametrize(
    ("op", "name"), sorted((op, name) for (_, op), entry in ops().items() for name in entry.defaults)
)
def test_what_is_declared_is_what_the_runtime_takes(op: str, name: str) -> None:
    model, node = node_of(op)
    schema = onnx.defs.get_schema(op, BODIES[op][0], "")
    assert name in schema.attributes
    assert schema.attributes[name].default_value.type == onnx.AttributeProto.UNDEFINED, "the schema says it"
    default = computed_default(node, name)
    assert default is not None
    without = run(model)
    node.attributes[name] = ir.AttrInt64s(name, default)
    np.testing.assert_array_equal(run(model), without)


def test_nothing_is_said_where_shapes_are_not_known() -> None:
    model = from_text(
        '<ir_version: 9, opset_import: ["" : 17]> g (float[2,N] x, float y0) => (float y) { y = Abs (x) }'
    )
    value = model.graph.inputs[0]
    assert computed_default(ir.Node("", "Squeeze", [value]), "axes") is None
    assert computed_default(ir.Node("", "Transpose", [value]), "perm") == (1, 0)
    value.shape = None
    assert computed_default(ir.Node("", "Transpose", [value]), "perm") is None
    assert computed_default(ir.Node("somewhere", "Transpose", [value]), "perm") is None
    assert computed_default(ir.Node("", "Transpose", [value]), "axes") is None


def test_an_op_that_pads_by_itself_has_no_default_for_pads() -> None:
    model, node = node_of("Conv")
    node.attributes["auto_pad"] = ir.AttrString("auto_pad", "SAME_UPPER")
    assert computed_default(node, "pads") is None
    assert model.graph[0] is node


def test_a_number_that_is_repeated_may_be_left_out_at_any_rank() -> None:
    repeated = [
        (op, name, default.number)
        for (_, op), entry in ops().items()
        for name, default in entry.defaults.items()
        if isinstance(default, Repeated)
    ]
    assert ("Conv", "strides", 1) in repeated
    for op, name, number in repeated:
        assert is_usual("", op, name, [number] * 6)
        assert not is_usual("", op, name, [number, number + 1])
        assert not is_usual("com.microsoft", op, name, [number] * 6)
    assert not is_usual("", "Transpose", "perm", [1, 0])
