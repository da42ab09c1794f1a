"""A node by itself is a model that runs, at the sizes that it is given."""

from __future__ import annotations

import numpy as np
import pytest
from channel_models import CHANNEL_MODELS, built, weight

from onnxslim.analysis.specialize import specialize_shapes
from onnxslim.ops.binding import bind
from onnxslim.runtime.layer import Previous, Step, Tensor, TimedLayer, layer_of
from onnxslim.runtime.session import Session


@pytest.mark.parametrize("name", CHANNEL_MODELS)
def test_every_node_that_multiplies_runs_by_itself(name: str) -> None:
    count = 0
    for node in specialize_shapes(CHANNEL_MODELS[name]).graph:
        fitted = bind(node)
        if fitted is None or not fitted.signature.macs:
            continue
        layer = layer_of(fitted)
        assert layer is not None
        model, feeds = layer.model()
        (output,) = Session.of(model).run(feeds).values()
        assert output.shape == tuple(node.outputs[0].shape.numpy())
        count += 1
    assert count > 1


def test_factors_of_another_size_change_weights_and_attributes() -> None:
    model = CHANNEL_MODELS["grouped"]
    node = next(node for node in model.graph if node.attributes.get_int("group", 1) == 12)
    layer = layer_of(bind(node), {("g", 0): 8})
    assert layer is not None
    (step,) = layer.steps
    assert [each.shape for each in step.inputs] == [(1, 8, 8, 8), (8, 1, 3, 3)]
    assert dict(step.attributes)["group"] == 8
    model, feeds = layer.model()
    assert Session.of(model).run(feeds)["output_0"].shape == (1, 8, 8, 8)


def test_a_bias_that_broadcasts_stays_as_long_as_it_is() -> None:
    model = built("g (float[2,4] x) => (float[2,6] y) { y = Gemm (x, w, c) }", w=weight(4, 6), c=weight(1, 6))
    layer = layer_of(bind(model.graph[0]), {("m", 0): 5, ("o", 0): 3})
    assert [each.shape for each in layer.steps[0].inputs] == [(5, 4), (4, 3), (1, 3)]


def test_what_cannot_stand_alone_is_no_layer() -> None:
    symbolic = built("g (float[N,4] x) => (float[N,6] y) { y = MatMul (x, w) }", w=weight(4, 6))
    assert layer_of(bind(symbolic.graph[0])) is None
    integers = built(
        "g (float[2,4] x) => (int32[2,6] y) { a, s, z = DynamicQuantizeLinear (x) y = MatMulInteger (a, w, z) }",
        w=np.ones((4, 6), np.uint8),
    )
    assert layer_of(bind(integers.graph[1])) is None


def test_a_chain_feeds_each_step_to_the_next_and_equal_chains_have_equal_keys() -> None:
    def pair(rank: int) -> TimedLayer:
        first = Step(("", "MatMul"), (Tensor((7, 8)), Tensor((8, rank), constant=True)))
        return TimedLayer((first, Step(("", "MatMul"), (Previous(), Tensor((rank, 8), constant=True)))))

    model, feeds = pair(3).model()
    assert [node.op_type for node in model.graph] == ["MatMul", "MatMul"]
    assert Session.of(model).run(feeds)["output_1"].shape == (7, 8)
    assert pair(3).key() == pair(3).key() != pair(4).key()
    assert pair(3).nbytes == 4 * (7 * 8 + 2 * 3 * 8)


def test_a_step_may_read_what_an_earlier_one_made() -> None:
    steps = tuple(Step(("", "Relu"), (each,)) for each in (Tensor((7, 8)), Previous()))
    joined = TimedLayer((*steps, Step(("", "Concat"), (Previous(2), Previous()), (("axis", 1),))))
    model, feeds = joined.model()
    assert Session.of(model).run(feeds)["output_2"].shape == (7, 16)
    other = TimedLayer((*steps, Step(("", "Concat"), (Previous(), Previous()), (("axis", 1),))))
    assert joined.key() != other.key()
