"""A model that runs piece by piece gives what it gives at once, also where nodes are replaced ahead of the place."""

from __future__ import annotations

import weakref

import numpy as np
import onnx_ir as ir
from sample_models import from_text

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.data import open_samples
from onnxslim.observe.stream import Stream
from onnxslim.runtime.session import Session

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(5, 4)).astype(np.float32)


def model() -> ir.Model:
    text = """<ir_version: 10, opset_import: ["" : 17]> g (float[N,4] x, float w, float v) => (float[N,3] y) {
        a = MatMul (x, w) b = Relu (a) c = MatMul (b, v) y = Add (c, a) }"""
    weights = {name: GENERATOR.normal(size=shape).astype(np.float32) for name, shape in (("w", (4, 3)), ("v", (3, 3)))}
    made = from_text(text, **weights)
    infer_shapes(made)
    return made


def stream(of: ir.Model) -> Stream:
    return Stream(of, list(open_samples({"x": X}, Session.of(of).inputs).batches(2)), Session.of)


def test_pieces_give_what_the_whole_gives_and_hold_what_is_read_or_kept() -> None:
    of = model()
    whole = Session.of(of).run({"x": X})["y"]
    running = stream(of)
    assert running.counts == [2, 2, 1]
    names = [node.outputs[0].name for node in running.order]
    running.advance(names.index("b") + 1, {"x"})
    assert [each.shape for each in running["x"]] == [(2, 4), (2, 4), (1, 4)]
    assert np.concatenate(running["a"]).shape == (5, 3)
    running.advance(len(names), {"y"})
    np.testing.assert_allclose(np.concatenate(running["y"]), whole, atol=1e-6)


def test_what_lies_ahead_is_seen_from_where_the_stream_is() -> None:
    of = model()
    whole = Session.of(of).run({"x": X})["y"]
    running = stream(of)
    names = [node.outputs[0].name for node in running.order]
    running.advance(names.index("a") + 1)
    held = np.concatenate(running["a"])
    np.testing.assert_array_equal(np.concatenate(list(running.ahead("a"))), held)
    np.testing.assert_allclose(np.concatenate(list(running.ahead("y"))), whole, atol=1e-6)
    np.testing.assert_array_equal(np.concatenate(running["a"]), held)
    running.advance(len(names), {"y"})
    np.testing.assert_allclose(np.concatenate(running["y"]), whole, atol=1e-6)


def test_nodes_that_take_the_place_of_others_are_what_runs() -> None:
    of = model()
    running = stream(of)
    old = next(node for node in of.graph if node.outputs[0].name == "c")
    running.advance(list(running.order).index(old), ())
    value = ir.Value(name="half", type=old.outputs[0].type)
    first = ir.Node("", "MatMul", list(old.inputs), outputs=[value])
    second = ir.Node("", "Neg", [value], outputs=[ir.Value(name="c", type=old.outputs[0].type)])
    of.graph.insert_before(old, [first, second])
    old.outputs[0].replace_all_uses_with(second.outputs[0])
    of.graph.remove(old, safe=True)
    second.outputs[0].name = "c"
    running.advance(len(running.order), {"y"})
    np.testing.assert_allclose(np.concatenate(running["y"]), Session.of(of).run({"x": X})["y"], atol=1e-6)


def test_an_input_that_has_a_value_of_its_own_need_not_be_given() -> None:
    text = """<ir_version: 10, opset_import: ["" : 17]> g (float[N,4] x, float[1,4] c, float w) => (float[N,3] y) {
        a = MatMul (c, w) b = MatMul (x, w) y = Add (a, b) }"""
    of = from_text(text, w=GENERATOR.normal(size=(4, 3)).astype(np.float32), c=np.ones((1, 4), np.float32))
    of.graph.inputs.insert(1, of.graph.initializers["c"])
    infer_shapes(of)
    running = stream(of)
    assert [each.shape for each in running["c"]] == [(1, 4)] * 3
    running.advance(len(running.order), {"y"})
    np.testing.assert_allclose(np.concatenate(running["y"]), Session.of(of).run({"x": X})["y"], atol=1e-6)


def test_what_a_batch_no_longer_needs_is_dropped_before_the_next_runs() -> None:
    of, alive = model(), []

    class Counting(Session):
        def run(self, feeds, outputs=None):
            alive.append(sum(reference() is not None for reference in seen))
            return super().run(feeds, outputs)

    running = stream(of)
    names = [node.outputs[0].name for node in running.order]
    running.advance(names.index("a") + 1)
    seen = [weakref.ref(array) for array in running["a"]]
    running._open = Counting.of
    running.advance(len(names), {"y"})
    assert alive == [3, 2, 1]
