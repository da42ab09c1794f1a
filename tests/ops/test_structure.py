"""Every structure proves itself: what a handler leaves free can be permuted, and the output is permuted with it."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from permute_channels import permutation, permuted
from sample_models import from_text

from onnxslim.analysis.axis_relations import AxisRelations
from onnxslim.analysis.coupling import Coupling
from onnxslim.analysis.labels import solve
from onnxslim.analysis.shapes import infer_shapes
from onnxslim.ops.relations import NodeAxes
from onnxslim.ops.signatures import signatures
from onnxslim.ops.table import kinds, relations_of
from onnxslim.runtime.session import Session

ELEMENTWISE = sorted(
    op_type
    for (domain, op_type), rows in signatures().items()
    if rows[0].kind in ("broadcast", "mixing") and not domain and onnx.defs.has(op_type)
)
TYPES = {"And": "bool", "Or": "bool", "Xor": "bool", "Not": "bool"} | dict.fromkeys(
    ("BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor"), "uint8"
)
SETTINGS = {"Cast": "<to=1>", "BitShift": '<direction="LEFT">', "Mod": "<fmod=1>"}
BINARY = [
    "Add", "Sub", "Mul", "Div", "Pow", "Mod", "Max",
    "Min", "Sum", "Mean", "And", "Or", "Xor", "BitwiseAnd",
    "BitwiseOr", "BitwiseXor", "BitShift", "Equal", "Greater", "GreaterOrEqual", "Less",
    "LessOrEqual", "PRelu",
]  # fmt: skip


def model(node: str, inputs: str, **constants: np.ndarray) -> ir.Model:
    text = f'<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]> g ({inputs}) => (y) {{ {node} }}'
    names = ", ".join(f"float {name}" for name in constants)
    text = text.replace(") => (y)", f"{', ' + names if names else ''}) => (float y)")
    result = from_text(text, **constants)
    for output in result.graph.outputs:
        output.shape = output.type = None
    infer_shapes(result)
    return result


def solved(net: ir.Model, kind: str | None = None) -> Coupling:
    relations = AxisRelations()
    for node in net.graph:
        site = NodeAxes(node, relations.shape)
        relations.add(node, relations_of(site)[1] if kind is None else kinds()[kind].relate(site))
    return Coupling(relations, solve(relations), {})


def proves(net: ir.Model, kind: str | None = None) -> tuple[bool, int]:
    """Return whether permuting what is free permutes the output, and how many places of inputs were moved."""
    generator = np.random.default_rng(0)
    coupling = solved(net, kind)
    source = permutation(coupling, generator)
    feeds = {}
    for value in net.graph.inputs:
        assert value.shape is not None
        size = [each if isinstance(each, int) else 2 for each in value.shape]
        numbers = generator.random(size) + 0.1 if value.dtype == ir.DataType.FLOAT else generator.integers(0, 2, size)
        feeds[value.name] = np.asarray(numbers, value.dtype.numpy())
    before, *_ = Session.of(net, optimize=False).run(feeds).values()
    moved = 0
    for value in net.graph.inputs:
        after = permuted(feeds[value.name], value, coupling, source)
        moved += int((after != feeds[value.name]).sum())
        feeds[value.name] = after
    for value in net.graph.initializers.values():
        array = value.const_value.numpy()
        value.const_value = ir.tensor(np.ascontiguousarray(permuted(array, value, coupling, source)), name=value.name)
    after, *_ = Session.of(net, optimize=False).run(feeds).values()
    expected = permuted(before, net.graph.outputs[0], coupling, source)
    return np.allclose(after, expected, rtol=1e-5, atol=1e-5, equal_nan=True), moved


@pytest.mark.parametrize("op_type", ELEMENTWISE)
def test_elementwise_ops_and_mixing_ops_keep_their_axes(op_type: str) -> None:
    kind = TYPES.get(op_type, "float")
    if onnx.defs.get_schema(op_type).since_version > 23:
        pytest.skip("younger than the oldest ONNX Runtime that we run on")
    if op_type == "Where":
        net = model("y = Where (c, x, z)", "bool[5,1] c, float[2,5,4] x, float[4] z")
    elif op_type == "DynamicQuantizeLinear":
        net = model("y, s, z = DynamicQuantizeLinear (x)", "float[2,5,4] x")
    elif op_type in BINARY:
        net = model(f"y = {op_type} {SETTINGS.get(op_type, '')} (x, z)", f"{kind}[2,5,4] x, {kind}[5,1] z")
    else:
        net = model(f"y = {op_type} {SETTINGS.get(op_type, '')} (x)", f"{kind}[2,5,4] x")
    held, moved = proves(net)
    assert held
    assert moved


def constant(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


CASES = {
    "transpose": ("y = Transpose <perm=[2,0,1]> (x)", "float[4,5,6] x", {}),
    "transpose reversed": ("y = Transpose (x)", "float[4,5,6] x", {}),
    "reshape into heads": ("y = Reshape (x, a)", "float[2,12] x", {"a": constant(2, 3, 4)}),
    "reshape out of heads": ("y = Reshape (x, a)", "float[2,3,4] x", {"a": constant(0, -1)}),
    "reshape across": ("y = Reshape (x, a)", "float[6,4] x", {"a": constant(3, 8)}),
    "reshape with a batch": ("y = Reshape (x, a)", "float[N,3,4] x", {"a": constant(-1, 12)}),
    "flatten": ("y = Flatten (x)", "float[2,3,4,5] x", {}),
    "squeeze": ("y = Squeeze (x, a)", "float[2,1,5] x", {"a": constant(1)}),
    "unsqueeze": ("y = Unsqueeze (x, a)", "float[2,5] x", {"a": constant(1)}),
    "shuffle": (
        "t = Reshape (x, a) u = Transpose <perm=[0,2,1]> (t) y = Reshape (u, b)",
        "float[2,12] x",
        {"a": constant(2, 2, 6), "b": constant(2, 12)},
    ),
    "expand": ("y = Expand (x, a)", "float[5,1,3] x", {"a": constant(2, 1, 4, 3)}),
    "concat": ("y = Concat <axis=1> (x, z)", "float[2,3] x, float[2,5] z", {}),
    "split": ("y, z = Split <axis=-1> (x, a)", "float[2,8] x", {"a": constant(3, 5)}),
    "slice": ("y = Slice (x, a, b, c)", "float[9,4] x", {"a": constant(2), "b": constant(-2), "c": constant(0)}),
    "strided slice": (
        "y = Slice (x, a, b, c, d)",
        "float[9,4] x",
        {"a": constant(0), "b": constant(9), "c": constant(0), "d": constant(2)},
    ),
    "gather places": ("y = Gather <axis=1> (x, a)", "float[3,6] x", {"a": constant(4, 0, -1)}),
    "gather one": ("y = Gather <axis=0> (x, a)", "float[3,6] x", {"a": np.array(1)}),
    "pad": ("y = Pad (x, a)", "float[3,6] x", {"a": constant(0, 2, 0, 1)}),
    "reflect": ('y = Pad <mode="reflect"> (x, a)', "float[3,6] x", {"a": constant(0, 2, 0, 1)}),
    "pad some axes": ("y = Pad (x, a, , b)", "float[3,6] x", {"a": constant(2, 1), "b": constant(-1)}),
    "resize": (
        'y = Resize <mode="nearest"> (x, , a)',
        "float[1,6,4,4] x",
        {"a": np.array([1, 1, 2, 2], np.float32)},
    ),
    "resize to a size": ('y = Resize <mode="nearest"> (x, , , a)', "float[1,6,4,4] x", {"a": constant(1, 6, 8, 9)}),
    "reduce": ("y = ReduceMean <keepdims=0> (x, a)", "float[3,6,4] x", {"a": constant(1)}),
    "reduce all": ("y = ReduceSum (x)", "float[3,6,4] x", {}),
    "reduce nothing": ("y = ReduceSum <noop_with_empty_axes=1> (x, a)", "float[3,6,4] x", {"a": constant()}),
    "argmax": ("y = ArgMax <axis=1, keepdims=0> (x)", "float[3,6,4] x", {}),
    "quantize per channel": (
        "q = QuantizeLinear <axis=1> (x, s, z) y = DequantizeLinear <axis=1> (q, s, z)",
        "float[3,4] x, float[4] s",
        {"z": np.zeros(4, np.uint8)},
    ),
    "quantize per tensor": ("y = QuantizeLinear (x, s)", "float[3,4] x, float s", {}),
    "shape": ("y = Shape (x)", "float[3,4] x", {}),
    "backwards slice": (
        "y = Slice (x, a, b, c, d)",
        "float[9,4] x",
        {"a": constant(-1), "b": constant(-100), "c": constant(0), "d": constant(-4)},
    ),
    "gather elements": ("y = GatherElements <axis=1> (x, a)", "float[2,6,3] x", {"a": np.ones((2, 4, 3), np.int64)}),
    "gather tuples": ("y = GatherND (x, a)", "float[3,6,4] x", {"a": np.array([[0, 1], [2, 5]])}),
    "gather tuples of a batch": ("y = GatherND <batch_dims=1> (x, a)", "float[2,6,4] x", {"a": np.array([[1], [5]])}),
    "scatter tuples": ("y = ScatterND (x, a, z)", "float[6,4] x, float[2,4] z", {"a": np.array([[1], [5]])}),
    "tile": ("y = Tile (x, a)", "float[3,4] x", {"a": constant(2, 1)}),
    "sum so far": ("y = CumSum (x, a)", "float[3,4] x", {"a": np.array(1)}),
    "largest": ("y, z = TopK <axis=1> (x, a)", "float[3,4] x", {"a": constant(2)}),
    "like another": ("y = CastLike (x, z)", "float[3,4] x, float[5] z", {}),
    "mean and variance": ("y = MeanVarianceNormalization <axes=[1]> (x)", "float[3,4,5] x", {}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_structure_follows_its_shapes(name: str) -> None:
    node, inputs, constants = CASES[name]
    held, moved = proves(model(node, inputs, **constants))
    assert held
    assert moved or name == "shape"


@pytest.mark.parametrize(
    ("node", "inputs"),
    [("y = CumSum (x, a)", "float[5] x"), ("y = Transpose (x)", "float[4,4] x"), ("y = Trilu (x)", "float[4,4] x")],
)
def test_what_is_not_elementwise_does_not_prove_as_such(node: str, inputs: str) -> None:
    constants = {"a": np.array(0)} if "a)" in node else {}
    assert not proves(model(node, inputs, **constants), "broadcast")[0]


@pytest.mark.parametrize(
    ("node", "inputs", "constants"),
    [
        ("y = NonZero (x)", "float[6] x", {}),
        ("y = RandomNormalLike (x)", "float[6] x", {}),
        ("y = GatherElements (x, a)", "float[6] x, int64[3] a", {}),
        ("y = Tile (x, a)", "float[6] x, int64[1] a", {}),
        ("y = CumSum (x, a)", "float[6] x, int64 a", {}),
        ("y = Reshape (x, a)", "float[6,4] x, int64[2] a", {}),
        ("y = Reshape (x, a)", "float[N,6,4] x", {"a": constant(6, -1)}),
        ("y = Reshape (x, a)", "float[2,3] x", {"a": constant(3, 2)}),
        ("y = Expand (x, a)", "float[6,4] x, int64[2] a", {}),
        ("y = ConstantOfShape (a)", "int64[2] a", {}),
        ("y, z = Split (x, a)", "float[6,4] x, int64[2] a", {}),
        ("y = Slice (x, a, b)", "float[6] x, int64[1] a, int64[1] b", {}),
        ("y = Gather (x, a)", "float[6] x, int64[3] a", {}),
        ("y = Pad (x, a)", "float[6] x, int64[2] a", {}),
        ("y = Resize (x, , a)", "float[6] x, float[1] a", {}),
        ("y = ReduceMean (x, a)", "float[6,4] x, int64[1] a", {}),
        ("y = Concat <axis=0> (x, z)", "float[6] x, float[N] z", {}),
        ("y = QuantizeLinear <axis=0, block_size=2> (x, z)", "float[6,4] x, float[3,4] z", {}),
        (
            'y = Resize <coordinate_transformation_mode="tf_crop_and_resize"> (x, r, , a)',
            "float[6] x, float[2] r",
            {"a": constant(6)},
        ),
    ],
)
def test_what_is_computed_when_the_model_runs_is_frozen(
    node: str, inputs: str, constants: dict[str, np.ndarray]
) -> None:
    coupling = solved(model(node, inputs, **constants))
    for value, axes in coupling.relations.values().items():
        for axis in range(len(axes)):
            labels = coupling.of(value, axis)
            if labels is not None and value.name == "x":
                assert (coupling.labels.reason[coupling.labels.root[labels]] >= 0).all(), value
