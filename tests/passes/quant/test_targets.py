"""Targets that cannot be run here: their tables are read, and what is written for them keeps their documented rules."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.checker
import onnx.defs
import onnx_ir as ir
import pytest
from onnxslim.passes.quant import Quant
from onnxslim.passes.quant.plan import make_plan
from onnxslim.passes.quant.table import Role, load_table
from sample_models import from_text
from story import make_context

import onnxslim
from onnxslim.analysis.shapes import infer_shapes
from onnxslim.errors import BadOptionValue, ProviderUnavailable
from onnxslim.extensions import Group, extension_names
from onnxslim.runtime.session import Session
from onnxslim.runtime.target import Target, detect_target

VNNI = Target("cpu", "a processor", "avx512_vnni", 1)
TARGETS = [name for name in extension_names(Group.PROVIDERS, ours=True) if load_table(name).rows]

NET = """<ir_version: 9, opset_import: ["" : 17]>
g (float[N,4,6,6] x) => (float[N,3] y) {
    c = Conv <pads = [1, 1, 1, 1]> (x, w, b)  r = Relu (c)
    d = Conv <pads = [1, 1, 1, 1]> (r, w2, b)  s = Add (d, r)  t = Relu (s)
    e = Conv (t, w3)  h = HardSwish (e)
    p = GlobalAveragePool (h)  f = Flatten (p)  y = Gemm <transB = 1> (f, v, u)
}"""


def net() -> ir.Model:
    generator = np.random.default_rng(3)
    sizes = {"w": (4, 4, 3, 3), "w2": (4, 4, 3, 3), "w3": (6, 4, 3, 3), "b": (4,), "v": (3, 6), "u": (3,)}
    model = from_text(NET, **{name: generator.normal(size=size).astype(np.float32) for name, size in sizes.items()})
    infer_shapes(model)
    return model


def samples() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(4).normal(size=(16, 4, 6, 6)).astype(np.float32)}


def written_for(target: str, model: ir.Model | None = None, **options) -> ir.Model:
    model = net() if model is None else model
    change = Quant(target=target, **options).run(model, make_context(model.clone(), samples(), target=VNNI))
    assert change.modified
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    return model


def by_op(model: ir.Model) -> dict[str, list[ir.Node]]:
    found: dict[str, list[ir.Node]] = {}
    for node in model.graph:
        found.setdefault(node.op_type, []).append(node)
    return found


def maker(node: ir.Node, index: int) -> str:
    producer = node.inputs[index].producer()
    return "" if producer is None else producer.op_type


@pytest.mark.parametrize("name", TARGETS)
def test_a_table_names_ops_and_inputs_that_there_are(name: str) -> None:
    for op_type, row in load_table(name).rows.items():
        schema = onnx.defs.get_schema(op_type)
        named = [index for index in (*(row.data or ()), row.weight, row.bias) if index is not None]
        assert max(named, default=0) < schema.max_input
        assert set(row.attributes) <= set(schema.attributes)
        assert row.role is not Role.CONTRACTION or row.weight is not None
        assert len(row.data or (0,)) == 1 or row.role is not Role.MOVEMENT


@pytest.mark.parametrize("name", [name for name in TARGETS if name != "cpu"])
def test_what_is_written_for_it_runs_and_is_close(name: str) -> None:
    before = Session.of(net(), VNNI).run(samples())["y"]
    after = Session.of(written_for(name), VNNI).run(samples())["y"]
    error = np.square(before - after).sum() / np.square(before).sum()
    assert 10 * np.log10(1 / error) > 25  # 8 bits leave some 30 dB of a few layers


def test_tensorrt_has_symmetric_activations_and_float_biases() -> None:
    nodes = by_op(written_for("tensorrt"))
    zero_points = [node.inputs[2].const_value.numpy() for node in nodes["QuantizeLinear"]]
    assert {array.dtype.name for array in zero_points} == {"int8"}
    assert not any(array.any() for array in zero_points)
    first, *_ = nodes["Conv"]
    assert [maker(first, index) for index in range(3)] == ["DequantizeLinear", "DequantizeLinear", ""]
    assert first.inputs[2].dtype == ir.DataType.FLOAT


def test_tensorrt_quantizes_behind_relu_and_only_the_residual() -> None:
    nodes = by_op(written_for("tensorrt"))
    assert len(nodes["Relu"]) == 2  # a symmetric scale does not end at zero
    (addition,) = nodes["Add"]
    assert [maker(addition, index) for index in range(2)] == ["Conv", "DequantizeLinear"]
    assert maker(nodes["HardSwish"][0], 0) == "Conv"  # no output is quantized that float ops read


def test_the_first_of_two_products_that_are_added_is_the_residual() -> None:
    text = """<ir_version: 9, opset_import: ["" : 17]>
    g (float[N,4,6,6] x) => (float[N,4,2,2] z) {
        c = Conv (x, w) d = Conv (x, w2) s = Add (c, d) t = Relu (s) z = Conv (t, w)
    }"""
    generator = np.random.default_rng(3)
    weights = {name: generator.normal(size=(4, 4, 3, 3)).astype(np.float32) for name in ("w", "w2")}
    model = from_text(text, **weights)
    infer_shapes(model)
    (addition,) = by_op(written_for("tensorrt", model))["Add"]
    assert [maker(addition, index) for index in range(2)] == ["DequantizeLinear", "Conv"]


@pytest.mark.parametrize("name", ["qdq", "qnn"])
def test_everything_is_quantized_up_to_the_outputs(name: str) -> None:
    model = written_for(name)
    assert "Relu" not in by_op(model)  # unsigned levels end at zero
    pairs = {"QuantizeLinear", "DequantizeLinear"}
    for node in model.graph:
        if node.op_type not in pairs:
            assert {maker(node, index) for index in range(len(node.inputs))} == {"DequantizeLinear"}, node
            assert {use.node.op_type for output in node.outputs for use in output.uses()} == {"QuantizeLinear"}, node
    assert model.graph.outputs[0].producer().op_type == "DequantizeLinear"
    assert model.graph.outputs[0].name == "y"


def test_constant_tensors_are_quantized_where_everything_is() -> None:
    text = """<ir_version: 9, opset_import: ["" : 17]>
    g (float[N,4,6] x) => (float[N,4,6] y) { a = Add (x, p) n = LayerNormalization (a, k, k2) y = MatMul (n, w) }"""
    generator = np.random.default_rng(3)
    sizes = {"p": (4, 6), "k": (6,), "k2": (6,), "w": (6, 6)}
    model = from_text(text, **{name: generator.normal(size=size).astype(np.float32) for name, size in sizes.items()})
    infer_shapes(model)
    feeds = {"x": generator.normal(size=(8, 4, 6)).astype(np.float32)}
    change = Quant(target="qnn").run(model, make_context(model.clone(), feeds, target=VNNI))
    assert change.modified
    nodes = by_op(model)
    (addition,), (normalization,) = nodes["Add"], nodes["LayerNormalization"]
    assert {maker(addition, index) for index in range(2)} == {"DequantizeLinear"}
    assert {maker(normalization, index) for index in range(3)} == {"DequantizeLinear"}


def test_an_unknown_target_is_refused_with_those_there_are() -> None:
    with pytest.raises(BadOptionValue, match="there is no target 'npu'") as caught:
        Quant(target="npu")
    assert "tensorrt" in caught.value.hint


def test_the_generic_target_runs_nothing() -> None:
    with pytest.raises(ProviderUnavailable, match="the generic target was asked for") as caught:
        detect_target("qdq")
    assert "quant:target=qdq" in caught.value.hint


def test_speed_here_decides_nothing_about_another_target() -> None:
    result = onnxslim.optimize(net(), "quant:target=tensorrt", data=samples(), provider="cpu", threads=1)
    attempt = result.report.passes[-1].attempts[-1]
    assert attempt.kept
    assert "made for another target" in result.report.passes[-1].reason


def test_products_in_loops_are_told() -> None:
    """Those in branches are not: a branch is a model of its own."""
    text = """<ir_version: 9, opset_import: ["" : 17]>
    g (float[N,6] x, bool c) => (float[N,6] y) {
        v = Transpose (w)
        s = If (c) <
            then_branch = t () => (float[N,6] a) { [branched] a = MatMul (x, v) },
            else_branch = e () => (float[N,6] b) { b = Tanh (x) }
        >
        turns = Constant <value = int64 {2}> ()
        y = Loop (turns, , s) <body = l (int64 i, bool go, float[N,6] h) => (bool on, float[N,6] k) {
            on = Identity (go)
            k = If (c) <
                then_branch = lt () => (float[N,6] la) { [inner] la = MatMul (h, v) },
                else_branch = le () => (float[N,6] lb) { lb = Tanh (h) }
            >
        }>
    }"""
    model = from_text(text, w=np.eye(6, dtype=np.float32))
    infer_shapes(model)
    left = {note.subject: note for note in make_plan(model, load_table("cpu")).left}
    assert (left["inner"].code, left["inner"].reason) == (
        "nested",
        "it lies in a graph of Loop, whose values are not observed",
    )
    assert "branched" not in left


def test_an_op_that_loses_too_much_stays_wide_although_it_has_a_kernel() -> None:
    text = """<ir_version: 9, opset_import: ["" : 17]>
    g (float[N,4,6] x) => (float[N,4,6] y) { a = MatMul (x, w) [soft] s = Softmax (a) y = MatMul (s, w) }"""
    model = from_text(text, w=np.random.default_rng(3).normal(size=(6, 6)).astype(np.float32))
    infer_shapes(model)
    feeds = {"x": np.random.default_rng(4).normal(size=(8, 4, 6)).astype(np.float32)}
    change = Quant().run(model, make_context(model.clone(), feeds, target=VNNI))
    (note,) = [note for note in change.notes if note.subject == "soft"]
    assert (note.code, note.reason) == ("kept-wide", "it stays wide: 256 levels are too few for probabilities")
