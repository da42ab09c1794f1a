"""Nodes that are replaced by the nodes that they stand for: the same numbers, and gradients of them."""

from __future__ import annotations

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest
from gradient_cases import drawn_for_gradient
from gradient_cases_bodies import DRAWN_FOR_GRADIENTS
from gradient_proof import prove_gradient
from op_cases import operator_sets
from op_draw import Draw
from op_proof import Batch, Runner

from onnxslim.autodiff.expand import expand
from onnxslim.errors import NotDifferentiable
from onnxslim.ops.body import declared_bodies
from onnxslim.ops.signatures import OpName

OLDEST, NEWEST = 18, 26
COUNT = 6
CASES = [
    pytest.param(op, opset, id=f"{'::'.join(filter(None, op))}-{opset}")
    for op in sorted(DRAWN_FOR_GRADIENTS)
    for opset in sorted({max(opset, OLDEST) for opset in operator_sets(op, NEWEST)})
]


def test_every_body_that_is_declared_is_drawn() -> None:
    assert declared_bodies().keys() <= DRAWN_FOR_GRADIENTS.keys()


@pytest.mark.parametrize(("op", "opset"), CASES)
def test_what_takes_the_place_of_a_node_makes_the_same(op: OpName, opset: int) -> None:
    draw = Draw(np.random.default_rng([opset, *map(ord, op[1])]), opset)
    for _ in range(COUNT):
        batch = Batch(opset, [drawn_for_gradient(op, draw)])
        proto = batch.model(fixed=True)
        model = ir.from_proto(proto)
        assert expand(model, [value for value in model.graph.inputs if value.dtype is ir.DataType.FLOAT])
        assert all((node.domain, node.op_type) != op for node in model.graph)
        expected, found = Runner(proto)(batch.feeds()), Runner(ir.to_proto(model))(batch.feeds())
        assert expected.keys() == found.keys()
        for name, array in expected.items():
            np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-5, err_msg=str(batch.cases))


@pytest.mark.parametrize(("op", "opset"), CASES)
def test_its_gradient_is_that_of_central_differences(op: OpName, opset: int) -> None:
    random = np.random.default_rng([opset, *map(ord, op[1])])
    draw = Draw(random, opset)
    assert sum(prove_gradient(drawn_for_gradient(op, draw), opset, random) for _ in range(COUNT))


def expanded(text: str) -> ir.Model:
    model = ir.from_proto(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]> {text}'))
    expand(model, [value for value in model.graph.inputs if value.dtype is ir.DataType.FLOAT])
    return model


REFUSED = {
    "sequences with lengths of their own": (
        "float[5,2,3] x, float[1,8,3] w, float[1,8,2] r, int32[2] n",
        "y = LSTM <hidden_size=2> (x, w, r, , n)",
        "sequence_lens",
    ),
    "more steps than can be unrolled": (
        "float[5000,2,3] x, float[1,6,3] w, float[1,6,2] r",
        "y = GRU <hidden_size=2> (x, w, r)",
        "5000 steps in time, more than",
    ),
    "gates that are coupled": (
        "float[5,2,3] x, float[1,8,3] w, float[1,8,2] r",
        "y = LSTM <hidden_size=2, input_forget=1> (x, w, r)",
        "gates are coupled",
    ),
    "sizes that are not known": (
        "float[T,2,3] x, float[1,2,3] w, float[1,2,2] r",
        "y = RNN <hidden_size=2> (x, w, r)",
        "not known before the model runs",
    ),
    "a function of ONNX that does not hold": (
        "float[1,2,3] t",
        "s = Constant <value_ints = [1, 1, 4, 4]> ()  y = AffineGrid (t, s)",
        "does not hold",
    ),
}


def test_an_index_of_the_mask_that_is_read_is_no_gradient() -> None:
    text = """<ir_version: 10, opset_import: ["": 20, "com.microsoft": 1]>
    g (int32[1,2] i, int32[1,2] m, float[4,3] w, float[2,3] p, float[3] s, float[3] b) => (float[1,2,3] y, int32[1] n) {
        y, k = com.microsoft.EmbedLayerNormalization (i, , w, p, , s, b, m)  n = Identity (k) }"""
    model = ir.from_proto(onnx.parser.parse_model(text))
    with pytest.raises(NotDifferentiable, match="index of the mask is read"):
        expand(model, [model.graph.inputs[2]])


@pytest.mark.parametrize("case", REFUSED)
def test_a_node_that_cannot_be_replaced_says_why(case: str) -> None:
    inputs, body, why = REFUSED[case]
    with pytest.raises(NotDifferentiable, match=why):
        expanded(f"g ({inputs}) => (float[M] y) {{ {body} }}")


def test_lengths_that_are_all_of_the_time_are_no_obstacle() -> None:
    model = expanded("""g (float[3,2,3] x, float[1,2,3] w, float[1,2,2] r) => (float[3,1,2,2] y) <int32[2] n = {3, 3}>
    { y = RNN <hidden_size=2> (x, w, r, , n) }""")
    assert "RNN" not in {node.op_type for node in model.graph}


def test_the_batch_may_come_first() -> None:
    """ONNX Runtime has no kernel for it: what comes out is what it makes of the same numbers in the other order."""
    random = np.random.default_rng(0)
    sizes = {"x": (2, 3, 4), "w": (2, 20, 4), "r": (2, 20, 5), "b": (2, 40), "h": (2, 2, 5), "c": (2, 2, 5)}
    feeds = {name: random.standard_normal(shape).astype(np.float32) for name, shape in sizes.items()}
    inputs = ", ".join(f"float[{','.join(map(str, shape))}] {name}" for name, shape in sizes.items())
    swapped = {name: array.swapaxes(0, 1) if name in "xhc" else array for name, array in feeds.items()}
    other = inputs.replace("float[2,3,4]", "float[3,2,4]")
    body = 'y, p, q = LSTM <hidden_size=5, direction="bidirectional", layout=LAYOUT> (x, w, r, b, , h, c)'
    text = f"({inputs}) => (float[2,3,2,5] y, float[2,2,5] p, float[2,2,5] q) {{ {body.replace('LAYOUT', '1')} }}"
    found = Runner(ir.to_proto(expanded(f"g {text}")))(feeds)
    plain = f"g ({other}) => (float[3,2,2,5] y, float[2,2,5] p, float[2,2,5] q) {{ {body.replace('LAYOUT', '0')} }}"
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]> {plain}')
    expected = Runner(proto)(swapped)
    np.testing.assert_allclose(found["y"], expected["y"].transpose(2, 0, 1, 3), rtol=1e-5, atol=1e-5)
    for name in "pq":
        np.testing.assert_allclose(found[name], expected[name].swapaxes(0, 1), rtol=1e-5, atol=1e-5)


def test_names_that_are_there_stay_and_new_ones_are_free() -> None:
    model = expanded("""g (float[2,1,3] x, float[1,2,3] w, float[1,2,2] r) => (float[2,1,1,2] y) {
        expanded_0 = RNN <hidden_size=2> (x, w, r)  expanded_Gemm_0 = RNN <hidden_size=2> (x, w, r)
        y = Add (expanded_0, expanded_Gemm_0) }""")
    names = [output.name for node in model.graph for output in node.outputs]
    assert len(set(names)) == len(names)
    assert {"expanded_0", "expanded_Gemm_0", "y"} <= set(names)


def test_what_does_not_depend_on_the_weights_stays() -> None:
    model = ir.from_proto(
        onnx.parser.parse_model("""<ir_version: 10, opset_import: ["": 20]>
    g (float[2,1,3] x, float[1,2,3] w, float[1,2,2] r, float v) => (float[2,1,1,2] y) {
        h = RNN <hidden_size=2> (x, w, r)  y = Mul (h, v) }""")
    )
    assert expand(model, [model.graph.inputs[3]]) == 0
    assert [node.op_type for node in model.graph] == ["RNN", "Mul"]
