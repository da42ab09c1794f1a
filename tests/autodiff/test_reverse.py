"""Reverse mode: what comes back to a value is the sum over all that reads it, and what has no gradient is named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
import pytest
from gradient_proof import Runner
from op_draw import Array
from sample_models import from_text

from onnxslim.autodiff.reverse import build_gradients, graph_builder
from onnxslim.errors import NotDifferentiable

HEADER = '<ir_version: 10, opset_import: ["": 18, "some": 1]> g '
X, W = (np.asarray(np.random.default_rng(seed).uniform(0.5, 2.0, (2, 3)), np.float64) for seed in (0, 1))


def differentiate(
    text: str, of: Sequence[str] = ("x", "w"), seeds: Sequence[str] = ("y",)
) -> tuple[ir.Model, Mapping[str, ir.Value], list[str]]:
    """Return a model with gradients, those of what is asked for by name, and the ops that were appended."""
    model = from_text(HEADER + text)
    before = len(model.graph)
    build = graph_builder(model)
    values = {value.name: value for value in model.graph.inputs}
    values |= {value.name: value for node in model.graph for value in node.outputs}
    ends = {values[name]: build.op("Mul", values[name], 0.0) for name in seeds}
    ones = {value: build.op("Add", zero, 1.0) for value, zero in ends.items()}
    found = build_gradients(build, ones, [values[name] for name in of])
    appended = [node.op_type for node in model.graph][before + 2 * len(ends) :]
    return model, {value.name or "": gradient for value, gradient in found.items()}, appended


def run(model: ir.Model, gradients: Mapping[str, ir.Value], **feeds: Array) -> dict[str, Array]:
    """Return the gradients, by the names of what they are of."""
    model.graph.outputs[:] = list(gradients.values())
    results = Runner(ir.to_proto(model))(feeds)
    return {name: results[gradient.name or ""] for name, gradient in gradients.items()}


def test_what_comes_back_to_a_value_that_is_read_often_is_summed() -> None:
    text = "(double[2, 3] x) => (double[2, 3] y) { a = Mul (x, x)  b = Exp (x)  c = Add (a, b)  y = Mul (c, x) }"
    model, found, appended = differentiate(text, ["x"])
    made = run(model, found, x=X)["x"]
    np.testing.assert_allclose(made, 3 * X**2 + np.exp(X) * (1 + X), rtol=1e-12)
    assert appended.count("Sum") == 1, "four parts are one sum"


def test_an_operand_that_was_broadcast_gets_the_sum_over_its_copies() -> None:
    text = "(double[2, 3] x, double[3] w, double[2, 1] v) => (double[2, 3] y) { a = Mul (x, w)  y = Mul (a, v) }"
    model, found, _ = differentiate(text, ["x", "w", "v"])
    w, v = W[0], W[:, :1]
    made = run(model, found, x=X, w=w, v=v)
    np.testing.assert_allclose(made["x"], w * v, rtol=1e-12)
    np.testing.assert_allclose(made["w"], (X * v).sum(0), rtol=1e-12)
    np.testing.assert_allclose(made["v"], (X * w).sum(1, keepdims=True), rtol=1e-12)


def test_several_ends_add_up_and_values_between_have_gradients() -> None:
    text = "(double[2, 3] x) => (double[2, 3] y, double[2, 3] z) { a = Exp (x)  y = Mul (a, a)  z = Sin (a) }"
    model, found, _ = differentiate(text, ["x", "a"], ["y", "z"])
    made = run(model, found, x=X)
    a = np.exp(X)
    np.testing.assert_allclose(made["a"], 2 * a + np.cos(a), rtol=1e-12)
    np.testing.assert_allclose(made["x"], made["a"] * a, rtol=1e-12)


def test_branches_that_are_not_on_the_way_are_left_alone() -> None:
    text = """(double[2, 3] x, double[2, 3] w) => (double[2, 3] y, double[2, 3] z) <int64[2] shape = {2, 3}> {
        k = some.Strange (x)
        same = Reshape <allowzero = 0> (k, shape)
        y = Mul (w, same)
        behind = Exp (w)
        z = some.Strange (behind)
    }"""
    _, found, appended = differentiate(text, ["w"])
    assert set(found) == {"w"}
    assert appended == ["Mul"]


def test_what_the_end_does_not_hang_on_has_no_gradient() -> None:
    text = "(double[2, 3] x, double[2, 3] w) => (double[2, 3] y) { y = Exp (x)  z = Exp (w) }"
    _, found, _ = differentiate(text)
    assert set(found) == {"x"}


def test_ops_without_a_gradient_are_named_before_anything_is_built() -> None:
    text = "(double[2, 3] w) => (double[2, 3] y) <double[2, 3] a>"
    text += "{ a = some.Strange (w)  b = Floor (a)  c = Exp (w)  y = Add (b, c) }"
    differentiate(text, ["w"])  # of a nothing comes back
    with pytest.raises(NotDifferentiable, match=r"^Strange a has no gradient") as caught:
        differentiate(text.replace("Floor", "Exp"), ["w"])
    assert caught.value.hint
    several = "".join(f"a{step} = some.Strange (a{step - 1})  " for step in range(1, 8))
    model = from_text(f"{HEADER} (double[2, 3] a0) => (double[2, 3] a7) {{ {several} }}")
    (start,), (end,) = model.graph.inputs, model.graph.outputs
    with pytest.raises(NotDifferentiable, match=r"Strange a1, .*, Strange a5 and 2 others have no gradient"):
        build_gradients(graph_builder(model), {end: end}, [start])
    assert len(model.graph) == 7


@pytest.mark.parametrize(
    ("op", "body"),
    [
        (
            "If",
            """y = If (chosen) <
                then_branch = then () => (double[2, 3] a) { a = Exp (w) },
                else_branch = otherwise () => (double[2, 3] b) { b = Neg (w) }>""",
        ),
        (
            "Loop",
            """y = Loop (times, chosen, w) <
                body = each (int64 i, bool go, double[2, 3] v) => (bool on, double[2, 3] u)
                    { on = Identity (go)  u = Exp (v) }>""",
        ),
    ],
)
def test_control_flow_is_named_where_it_is_on_the_way_also_by_what_it_captures(op: str, body: str) -> None:
    text = (
        f"(double[2, 3] x, double[2, 3] w, bool chosen, int64 times) => (double[2, 3] z) {{ {body}  z = Mul (x, y) }}"
    )
    with pytest.raises(NotDifferentiable, match=f"{op} y has no gradient"):
        differentiate(text, ["w"], ["z"])
    _, found, appended = differentiate(text, ["x"], ["z"])
    assert set(found) == {"x"}
    assert appended == ["Mul"]


def test_nothing_flows_through_integers_and_truth_values() -> None:
    text = """(double[2, 3] x, double[2, 3] w) => (double[2, 3] y) {
        whole = Cast <to = 7> (w)
        sizes = Shape (w)
        more = Greater (w, x)
        a = CastLike (whole, x)
        b = Where (more, x, a)
        c = Expand (b, sizes)
        y = Exp (c)
    }"""
    model, found, _ = differentiate(text.replace("c = Expand (b, sizes)", "c = Identity (b)"))
    assert set(found) == {"x"}
    chosen = W > X
    made = run(model, found, x=X, w=W)["x"]
    np.testing.assert_allclose(made, np.where(chosen, np.exp(X), 0), rtol=1e-12)


def test_of_what_is_constant_piece_by_piece_nothing_comes_back() -> None:
    text = "(double[2, 3] x, double[2, 3] w) => (double[2, 3] y) { a = Floor (w)  b = Mul (a, x)  y = Add (b, w) }"
    model, found, _ = differentiate(text)
    made = run(model, found, x=X, w=W)
    np.testing.assert_allclose(made["x"], np.floor(W), rtol=1e-12)
    np.testing.assert_allclose(made["w"], 1, rtol=1e-12)


def test_a_size_that_is_not_known_is_said_to_be() -> None:
    text = "(double[N, 3] x, double[3] w) => (double[N, 3] y) { y = Mul (x, w) }"
    with pytest.raises(NotDifferentiable, match=r"Mul y has a gradient.*not known before the model runs") as caught:
        differentiate(text, ["w"])
    assert "sizes" in str(caught.value.hint)


def test_outputs_that_a_node_did_not_make_are_asked_for() -> None:
    text = "(float[2, 3] x, float[3] w) => (float[2, 3] y) { y = LayerNormalization (x, w) }"
    model, found, _ = differentiate(text)
    (node, *_) = model.graph
    assert [list(output.shape or ()) for output in node.outputs] == [[2, 3], [2, 1], [2, 1]]
    x, w = X.astype(np.float32), W[0].astype(np.float32)
    made = run(model, found, x=x, w=w)
    normal = (X - X.mean(1, keepdims=True)) / np.sqrt(X.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(made["w"], normal.sum(0), rtol=1e-4, atol=1e-5)


def test_a_small_network_is_differentiated_as_by_differences() -> None:
    text = """(double[2, 3] x, double[3] w) => (double[2] y) <int64[1] last = {-1}> {
        a = Mul (x, w)
        b = Softplus (a)
        c = Softmax (b)
        d = Add (c, a)
        e = Tanh (d)
        m = ReduceMax (e, last)
        f = Sub (e, m)
        g = Exp (f)
        h = ReduceSum <keepdims = 0> (g, last)
        y = Log (h)
    }"""
    model, found, _ = differentiate(text)
    w = W[0]
    made = run(model, found, x=X, w=w)

    forward = Runner(ir.to_proto(from_text(HEADER + text)))

    def slope(name: str, direction: Array) -> float:
        given = {"x": X, "w": w}
        ends = (forward({**given, name: given[name] + sign * 1e-6 * direction})["y"].sum() for sign in (1, -1))
        return float(next(ends) - next(ends)) / 2e-6

    random = np.random.default_rng(2)
    for name, gradient in made.items():
        direction = random.standard_normal(gradient.shape)
        np.testing.assert_allclose((gradient * direction).sum(), slope(name, direction), rtol=1e-6, atol=1e-9)
