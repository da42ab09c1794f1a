from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from sample_models import from_text

from onnxslim.analysis.evaluate import evaluate
from onnxslim.analysis.fold import fold_constants
from onnxslim.analysis.growth import LEAST_BYTES, LIMIT_BYTES, NODE_BYTES, Growth
from onnxslim.analysis.shapes import infer_shapes
from onnxslim.model import canonicalize, weight_bytes
from onnxslim.model.constants import as_tensor, constant, static_bytes


def model_of(body, opset=17, inputs="float[N,4] x", outputs="float[N,4] y", **weights):
    names = "".join(f", float[1] {name}" for name in weights)
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> g ({inputs}{names}) => ({outputs}) {{ {body} }}'
    model = from_text(text, **weights)
    canonicalize(model)
    return model


def ops(model):
    return [node.op_type for node in model.graph]


def value(model, name):
    return constant(model.graph.initializers[name])


def test_constant_subgraph_becomes_one_initializer():
    model = model_of("a = Mul (w, w)  b = Add (a, w)  y = Add (x, b)", w=np.array([2.0, 3.0, 0.0, 1.0], np.float32))
    assert fold_constants(model) == ("b",)
    assert ops(model) == ["Add"]
    np.testing.assert_array_equal(value(model, "b"), [6, 12, 0, 2])


def test_default_of_an_input_is_no_constant():
    model = model_of("a = Mul (w, w)  y = Add (x, a)", inputs="float[N,4] x, float[4] w")
    w = model.graph.inputs[1]
    w.const_value = ir.tensor(np.ones(4, np.float32), name="w")
    model.graph.register_initializer(w)
    assert constant(w) is None
    assert fold_constants(model) == ()


@pytest.mark.parametrize(
    "body",
    [
        "a = RandomNormalLike (w)  y = Add (x, a)",
        "a = Bernoulli (w)  y = Add (x, a)",
        "a = Dropout (w)  y = Add (x, a)",
        "a = Identity (w)  y = Add (x, a)",
    ],
)
def test_what_is_never_folded(body):
    model = model_of(body, w=np.ones(4, np.float32))
    assert fold_constants(model) == ()


def test_stored_int8_weight_is_not_unfolded_but_a_float_one_is_quantized():
    model = model_of(
        "q = QuantizeLinear (w, s)  d = DequantizeLinear (q, s)  y = Add (x, d)",
        w=np.ones(4, np.float32),
        s=np.array(0.5, np.float32),
    )
    assert fold_constants(model) == ("q",)
    assert ops(model) == ["DequantizeLinear", "Add"]
    assert value(model, "q").dtype == np.uint8


@pytest.mark.parametrize(("count", "kept"), [(64, ["Cast", "Add"]), (8, ["Add"])])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_a_weight_that_is_stored_in_half_precision_is_not_widened(count, kept, dtype):
    text = f"""<ir_version: 9, opset_import: ["" : 17]>
    g (float[{count}] x) => (float[{count}] y) {{ d = Cast <to = 1> (w)  y = Add (x, d) }}"""
    model = from_text(text, w=np.ones(count, dtype))
    infer_shapes(model)
    fold_constants(model)
    assert [node.op_type for node in model.graph] == kept


def test_large_result_stays_unless_it_replaces_as_much():
    body = "a = Expand (w, s)  b = ReduceSum (a)  y = Add (x, b)"
    big = np.array([1024, 1024], np.int64)
    model = model_of(body, w=np.ones(1, np.float32), s=big)
    infer_shapes(model)
    assert fold_constants(model) == ("b",)  # what is small again may go
    model = model_of(
        "a = Expand (w, s)  y = Add (x, a)",
        inputs="float[1024,1024] x",
        outputs="float[M,N] y",
        w=np.ones(1, np.float32),
        s=big,
    )
    infer_shapes(model)
    assert fold_constants(model) == ()
    model = model_of(
        "a = Expand (w, s)  y = Add (x, a)",
        inputs="float[1024,1024] x",
        outputs="float[M,N] y",
        w=np.ones(1, np.float32),
        s=big,
    )
    assert fold_constants(model) == ()  # seen only once it was evaluated
    model = model_of(
        "a = Transpose (w)  y = MatMul (x, a)",
        inputs="float[N,512] x",
        outputs="float[N,M] y",
        w=np.ones((1024, 512), np.float32),
    )
    infer_shapes(model)
    assert fold_constants(model, Growth(0)) == ("a",)


def test_shared_weight_is_not_stored_twice():
    model = model_of(
        "a = Transpose (w)  t = MatMul (x, a)  y = MatMul (t, w)",
        inputs="float[N,1024] x",
        outputs="float[N,M] y",
        w=np.ones((512, 1024), np.float32),
    )
    infer_shapes(model)
    assert fold_constants(model) == ()


def test_shape_and_size_of_what_is_static():
    model = model_of(
        "s = Shape <start = 1> (x)  n = Size (w)  t = Add (s, n)  f = Cast <to = 1> (t)  y = Mul (x, f)",
        w=np.ones((2, 3), np.float32),
    )
    assert "f" in fold_constants(model)
    np.testing.assert_array_equal(value(model, "f"), [10])
    assert ops(model) == ["Mul"]


def test_dynamic_shape_stays():
    model = model_of("s = Shape (x)  f = Cast <to = 1> (s)  y = Mul (x, f)")
    assert fold_constants(model) == ()


def test_graph_output_keeps_its_name():
    model = model_of(
        "y = Add (x, w)  z = Mul (w, w)  s = Shape (w)",
        outputs="float[N,4] y, float[4] z, int64[1] s",
        w=np.ones(4, np.float32),
    )
    fold_constants(model)
    assert [output.name for output in model.graph.outputs] == ["y", "z", "s"]
    assert sorted(ops(model)) == ["Add", "Identity", "Identity"]
    assert fold_constants(model) == ()
    ir.to_proto(model)


def test_subgraphs_fold_too_and_their_ops_are_left_alone():
    model = from_text(
        """<ir_version: 8, opset_import: ["" : 17]> g (bool c, float[4] x, float[4] w) => (float[4] y) {
        y = If (c) <
            then_branch = t () => (float[4] p) { a = Mul (w, w)  p = Add (x, a) },
            else_branch = e () => (float[4] q) { q = Sub (x, w) }
        >
    }""",
        w=np.full(4, 3, np.float32),
    )
    assert fold_constants(model) == ("a",)
    branch = next(iter(model.graph)).attributes["then_branch"].as_graph()
    assert [node.op_type for node in branch] == ["Add"]
    np.testing.assert_array_equal(constant(branch.initializers["a"]), [9] * 4)


def test_sequences_and_other_domains_stay():
    model = model_of(
        "s = SequenceConstruct (w, w)  a = ConcatFromSequence <axis = 0> (s)  y = Mul (x, a)", w=np.ones(2, np.float32)
    )
    assert fold_constants(model) == ("a",)
    model = model_of(
        "s = SequenceConstruct (w, w)  y = SequenceAt (s, n)",
        inputs="int64 n",
        outputs="float[2] y",
        w=np.ones(2, np.float32),
    )
    assert fold_constants(model) == ()
    model = model_of("a = Foo.Gelu (w)  y = Add (x, a)", w=np.ones(2, np.float32))
    assert fold_constants(model) == ()


def test_one_node_that_cannot_be_computed_does_not_spoil_the_others():
    model = model_of(
        """a = Reshape (w, s)  b = Mul (w, w)  c = MatMul (b, b)  d = Add (c, a)  e = Neg (w)
        y0 = Add (x, d)  y = Add (y0, e)""",
        w=np.ones(4, np.float32),
        s=np.array([3], np.int64),
    )
    names = fold_constants(model)
    assert set(names) == {"c", "e"}
    assert "Reshape" in ops(model)


def test_integers_are_never_divided_by_zero():
    two, none = np.array([6]), np.array([0])
    model = model_of("a = Sub (v, v)  b = Div (v, a)  f = Cast <to = 1> (b)  y = Mul (x, f)", v=two)
    assert fold_constants(model) == ("a",)  # ONNX Runtime would take the whole process with it
    model = model_of(
        "b = Div (v, n)  c = Mod (v, n)  d = Add (b, c)  f = Cast <to = 1> (d)  y = Mul (x, f)", v=two, n=none
    )
    assert fold_constants(model) == ()
    model = model_of("a = Add (v, v)  b = Div (a, v)  f = Cast <to = 1> (b)  y = Mul (x, f)", v=two)
    assert fold_constants(model) == ("f",)
    model = model_of("a = Add (v, v)  b = Div (v, a)  f = Cast <to = 1> (b)  y = Mul (x, f)", v=two)
    assert fold_constants(model) == ("a", "f")
    model = model_of("a = Sub (v, v)  b = Div (v, a)  y = Mul (x, b)", v=np.ones(1, np.float32))
    assert len(fold_constants(model)) >= 1
    node = ir.to_proto(ir.Node("", "Div", [ir.Value(name="a"), ir.Value(name="b")], outputs=[ir.Value(name="c")]))
    assert evaluate([node], {"a": two, "b": none}, ["c"], {"": 17}) is None


def test_strings_fold():
    model = model_of(
        "c = Concat <axis = 0> (w, w)  e = Equal (c, c)  f = Cast <to = 1> (e)  y = Mul (x, f)",
        opset=19,
        w=np.array(["a", "b"], dtype=object),
    )
    assert fold_constants(model) == ("f",)
    np.testing.assert_array_equal(value(model, "f"), [1, 1, 1, 1])
    model = model_of(
        "c = Concat <axis = 0> (w, w)  y = Gather (c, i)",
        inputs="int64[1] i",
        outputs="string[1] y",
        w=np.array(["a", "b"], dtype=object),
    )
    assert fold_constants(model) == ("c",)
    assert value(model, "c").tolist() == [b"a", b"b", b"a", b"b"]


def test_types_that_numpy_lacks_travel_as_initializers():
    array = np.array([1, 2], ml_dtypes.bfloat16)
    node = ir.to_proto(ir.Node("", "Cast", [ir.Value(name="a")], [ir.AttrInt64("to", 1)], outputs=[ir.Value(name="b")]))
    (result,) = evaluate([node], {"a": array}, ["b"], {"": 17})
    np.testing.assert_array_equal(result, np.array([1, 2], np.float32))


def test_reference_takes_over_where_there_is_no_kernel():
    node = ir.to_proto(ir.Node("", "HardSigmoid", [ir.Value(name="a")], outputs=[ir.Value(name="b")]))
    feeds = {"a": np.array([-9.0, 0.0], np.float64)}
    results = evaluate([node], feeds, ["b"], {"": 17})
    assert results is not None
    np.testing.assert_array_equal(results[0], [0, 0.5])
    assert evaluate([node], feeds, ["b"], {"": 17}, reference=False) is None


def test_as_tensor_and_static_bytes():
    assert as_tensor(np.array([["a"]], dtype=object)).shape == (1, 1)
    assert as_tensor(np.float32(2).reshape(())).shape == ()
    assert static_bytes(ir.Value(name="v", type=ir.TensorType(ir.DataType.INT4), shape=ir.Shape([3, 3]))) == 5
    assert static_bytes(ir.Value(name="v", shape=ir.Shape([3]))) is None


def test_constant_of_a_function_body():
    node = ir.Node("", "Constant", [], [ir.AttrFloat32("value_float", 2.0)])
    assert constant(node.outputs[0]) == 2
    reference = ir.Node("", "Constant", [], [ir.RefAttr("value_float", "a", ir.AttributeType.FLOAT)])
    assert constant(reference.outputs[0]) is None
    assert constant(None) is None


def tied(copies: int) -> ir.Model:
    """Return a model in which a weight of 64 kB is transposed and scaled `copies` times, each time otherwise."""
    body = "".join(f" t{i} = Transpose (w)  a{i} = Mul (t{i}, s{i})  y{i} = MatMul (x, a{i})" for i in range(copies))
    text = f"g (float[N,128] x) => ({outputs(copies)}) {{ {body} y = MatMul (x, w) }}"
    factors = {f"s{i}": np.float32(i + 2) for i in range(copies)}
    weight = np.random.default_rng(0).random((128, 128)).astype(np.float32)
    return from_text(f'<ir_version: 8, opset_import: ["" : 17]> {text}', w=weight, **factors)


def outputs(copies: int) -> str:
    return ", ".join([*(f"float[N,128] y{i}" for i in range(copies)), "float[N,128] y"])


@pytest.mark.parametrize("copies", [1, 3, 40])
def test_what_a_model_grows_by_is_bounded_for_the_whole_of_it(copies: int) -> None:
    model = tied(copies)
    infer_shapes(model)
    before = weight_bytes(model)
    growth = Growth(200_000)
    fold_constants(model, growth)
    grown = weight_bytes(model) - before
    assert 0 < grown <= 200_000 + NODE_BYTES * 2 * copies
    assert growth.left_bytes <= 200_000 - grown + 4 * copies


def test_constants_that_several_read_go_where_all_of_these_are_folded() -> None:
    model = from_text(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[N,128] x) => (float[N,256] y, float[N,64] z) {
            a = Concat <axis = 1> (w, w)  y = MatMul (x, a)  b = Slice (w, from, to, axis)  z = MatMul (x, b) }""",
        w=np.random.default_rng(0).random((128, 128)).astype(np.float32),
        **{"from": np.array([0]), "to": np.array([64]), "axis": np.array([1])},
    )
    infer_shapes(model)
    # 64 kB go, 128 kB and 32 kB come: each by itself would cost all that comes.
    assert set(fold_constants(model.clone(), Growth(100_000))) == {"a", "b"}
    assert set(fold_constants(model.clone(), Growth(90_000))) == {"b"}


def test_a_model_that_may_never_grow_does_not() -> None:
    model = tied(2)
    infer_shapes(model)
    assert fold_constants(model, Growth.of(weight_bytes(model), never=True)) == ()


def test_the_budget_is_a_share_of_the_model_and_equal_constants_count_once() -> None:
    assert Growth.of(1000).left_bytes == LEAST_BYTES
    assert Growth.of(4 << 20).left_bytes == 512 << 10
    assert Growth.of(1 << 40).left_bytes == LIMIT_BYTES
    growth = Growth(5000)
    large, small = np.ones(1000, np.float32), np.ones(4, np.float32)
    assert growth.size([large, small]) == 4016
    growth.spend(4016, [large, small])
    assert growth.left_bytes == 984
    assert growth.size([large.copy(), small.copy(), large.astype(np.int32)]) == 16 + 4000
    assert growth.allows(984 + NODE_BYTES, 1)
    assert not growth.allows(985 + NODE_BYTES, 1)
