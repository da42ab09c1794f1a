"""A branch becomes a model that computes what it did, and comes back as it was made."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from sample_models import from_text

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.model import canonicalize
from onnxslim.model.detached import detached, put_back
from onnxslim.model.edit import new_initializer, note_same, same_values
from onnxslim.model.nesting import captured_values, graphs_within, nested_graphs, values_of
from onnxslim.runtime.session import Session

TEXT = """<ir_version: 9, opset_import: ["" : 17]> g (float[N,3] x, bool c) => (float[N,3] y) {
    h = Neg (x)
    y = If (c) <
        then_branch = t () => (float[N,3] tz) {
            ta = Mul (h, k)
            d = Not (c)
            tb = If (d) <
                then_branch = tt () => (float[N,3] ttz) { ttz = Add (h, k) },
                else_branch = te () => (float[N,3] tez) { own = Constant <value = float {3}> () tez = Sub (x, own) }
            >
            tz = Add (ta, tb) },
        else_branch = e () => (float[N,3] ez) { ez = Mul (h, k) }
    > }"""
X = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)


def net() -> ir.Model:
    model = from_text(TEXT.replace("bool c)", "bool c, float[3] k)"), k=np.array([1, 2, 3], np.float32))
    canonicalize(model)
    infer_shapes(model)
    return model


def branch(model: ir.Model, name: str = "t") -> ir.Graph:
    return next(graph for graph in graphs_within(model.graph) if graph.name == name)


def given(model: ir.Model) -> dict[str, ir.Value]:
    return {value.name or "": value for value in captured_values(branch(model))}


def run(model: ir.Model, condition: bool) -> np.ndarray:
    return Session.of(model).run({"x": X, "c": np.array(condition)})["y"]


def text_of(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString(deterministic=True)


def test_a_branch_as_a_model_computes_the_same():
    model = net()
    before = text_of(model)
    alone = detached(branch(model), model)
    assert [value.name for value in alone.graph.inputs] == ["h", "c", "x"]
    assert list(alone.graph.initializers) == ["k"]
    found = Session.of(alone).run({"h": -X, "x": X, "c": np.array(True)})["tz"]
    np.testing.assert_array_equal(found, run(model, True))
    assert text_of(model) == before
    assert {use.node.graph for use in given(model)["h"].uses()} == {branch(model, name) for name in ("t", "tt", "e")}


def test_what_was_not_changed_comes_back_as_it_was():
    model = net()
    expected = text_of(model)
    put_back(detached(branch(model), model), branch(model), given(model), model)
    assert text_of(model) == expected
    readers = {use.node.graph for use in model.graph.initializers["k"].uses()}
    assert readers == {branch(model, name) for name in ("t", "tt", "e")}


def test_what_inference_knows_of_an_input_is_not_told():
    model = net()
    given(model)["h"].const_value = ir.tensor(X)
    assert [value.const_value for value in detached(branch(model), model).graph.inputs] == [None] * 3


def test_names_of_what_is_the_same_go_along():
    model = net()
    note_same(model.graph, [("a", "b")])
    note_same(branch(model), [("b", "c")])
    assert same_values(detached(branch(model), model).graph)["a"] == {"a", "b", "c"}


def test_names_that_another_branch_has_as_well_stay():
    model = net()
    branch(model, "e")[0].outputs[0].name = "tz"
    put_back(detached(branch(model), model), branch(model), given(model), model)
    assert [graph.outputs[0].name for graph in nested_graphs(model.graph[1])] == ["tz", "tz"]


def test_constants_that_nothing_reads_stay_away():
    model = net()
    alone = detached(branch(model), model)
    new_initializer(alone.graph, "spare", np.zeros(3, np.float32))
    put_back(alone, branch(model), given(model), model)
    assert not branch(model).initializers


def test_new_constants_come_into_the_branch_under_free_names():
    model = net()
    taken = new_initializer(model.graph, "q0", np.zeros(3, np.float32))
    model.graph.node(0).replace_input_with(0, taken)  # so that it is read
    alone = detached(branch(model), model)
    multiply = alone.graph[0]
    multiply.replace_input_with(1, new_initializer(alone.graph, "q0", np.array([5, 5, 5], np.float32)))
    put_back(alone, branch(model), given(model), model)
    assert list(branch(model).initializers) == ["q0_1"]
    assert "k" in model.graph.initializers, "another branch reads it"
    names = [value.name for graph in graphs_within(model.graph) for value in values_of(graph)]
    assert len(names) == len(set(names))
    np.testing.assert_allclose(run(model, True), 0 * X + X - 3)


def test_a_constant_that_is_read_no_more_goes_and_leaves_its_name():
    model = net()
    for name in ("tt", "e"):
        node = branch(model, name)[0]
        node.replace_input_with(1, node.inputs[0])
    alone = detached(branch(model), model)
    alone.graph.initializers["k"].const_value = ir.tensor(np.array([5, 5, 5], np.float32), name="k")
    put_back(alone, branch(model), given(model), model)
    assert not model.graph.initializers
    assert list(branch(model).initializers) == ["k"]
    np.testing.assert_allclose(run(model, True), -5 * X + X - 3, rtol=1e-5)


def test_what_is_captured_may_be_another_value_by_now():
    model = net()
    twice = ir.node("Add", [model.graph.inputs[0], model.graph.inputs[0]])
    twice.outputs[0].name = "twice"
    alone, values = detached(branch(model), model), given(model)
    model.graph.insert_after(model.graph[0], twice)
    put_back(alone, branch(model), {**values, "h": twice.outputs[0]}, model)
    np.testing.assert_allclose(run(model, True), 2 * X * np.array([1, 2, 3]) + X - 3, rtol=1e-6)


def test_an_output_that_is_captured_stays_so():
    model = net()
    graph = branch(model, "e")
    graph.outputs[0] = next(value for value in captured_values(graph) if value.name == "h")
    put_back(detached(graph, model), graph, {"h": graph.outputs[0]} | given(model), model)
    assert graph.outputs[0] is model.graph[0].outputs[0]
    assert list(nested_graphs(model.graph[1]))[1] is graph
