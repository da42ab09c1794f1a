"""Cutting is exact: channels whose weights are all zero can go, and the outputs stay as they were."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from channel_models import CHANNEL_MODELS, built, weight
from exactness import some_of_each, zeroed
from onnxslim.passes.prune.cutting import cut

from onnxslim.analysis.cost import measure_cost
from onnxslim.analysis.coupling import couple, groups
from onnxslim.analysis.remaining_cost import macs_left
from onnxslim.analysis.shapes import forget_shapes, infer_shapes
from onnxslim.runtime.session import Session

TAIL = """g (float[1,3,8,8] x) => (float[1,2,8,8] y) {
    a = Conv (x, w1) %s y = Conv (c, w2)
}"""
LENGTHS = {
    "reshape": (
        TAIL % "b = Reshape (a, r) c = Reshape (b, s)",
        {"r": np.array([1, 8, 64]), "s": np.array([0, 8, 8, 8])},
    ),
    "expand": (TAIL % "b = Expand (e, r) c = Add (a, b)", {"e": weight(1, 8, 1, 1), "r": np.array([1, 8, 8, 8])}),
    "filled": (TAIL % "b = ConstantOfShape (r) c = Add (a, b)", {"r": np.array([1, 8, 8, 8])}),
    "split": (TAIL % "p, q = Split <axis=1, num_outputs=2> (a) c = Concat <axis=1> (q, p)", {}),
    "slice": (
        TAIL % "p = Slice (a, i, j, k) q = Slice (a, j, l, k) c = Concat <axis=1> (q, p)",
        {"i": np.array([0]), "j": np.array([5]), "k": np.array([1]), "l": np.array([1 << 60])},
    ),
    "gather": (TAIL % "c = Gather <axis=1> (a, i)", {"i": np.arange(8)[::-1].copy()}),
    "pad": (
        TAIL % "b = Conv (x, w3) p = Pad (b, i) c = Add (a, p)",
        {"w3": weight(4, 3, 1, 1), "i": np.array([0, 3, 0, 0, 0, 1, 0, 0])},
    ),
    "resize": (
        TAIL % 'c = Resize <mode="nearest"> (a, r, r, s)',
        {"r": np.zeros(0, np.float32), "s": np.array([1, 8, 8, 8])},
    ),
    "group": (TAIL % "b = Conv <group=8> (a, w3) c = Relu (b)", {"w3": weight(8, 1, 1, 1)}),
    "transposed": (TAIL % "b = ConvTranspose <group=2> (a, w3) c = Relu (b)", {"w3": weight(8, 4, 1, 1)}),
    "depth to space": (
        TAIL % "b = SpaceToDepth <blocksize=2> (a) c = DepthToSpace <blocksize=2> (b)",
        {},
    ),
}  # fmt: skip


def exactly(model: ir.Model, *, inferable: bool = True) -> tuple[ir.Model, int]:
    """Zero some channels of a copy of `model`, cut them, compare; return what is left, and how many labels went."""
    model = model.clone()
    coupling = couple(model)
    gone = some_of_each(coupling)
    zeroed(coupling, gone)
    generator = np.random.default_rng(0)
    feeds = {
        value.name: generator.random([size if isinstance(size, int) else 2 for size in value.shape]).astype(np.float32)
        for value in model.graph.inputs
    }
    before = Session.of(model, optimize=False).run(feeds)
    expected = measure_cost(model).macs - macs_left(coupling)(np.zeros_like(gone)) + macs_left(coupling)(gone)
    cut(model, coupling, gone)
    assert measure_cost(model).macs == expected
    for name, array in Session.of(model, optimize=False).run(feeds).items():
        np.testing.assert_allclose(array, before[name], rtol=1e-4, atol=1e-5)  # float32 sums in another order
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    if not inferable:
        return model, int(gone.sum())
    recorded = {value.name: str(value.shape) for node in model.graph for value in node.outputs}
    forget_shapes(model)
    infer_shapes(model)
    assert {value.name: str(value.shape) for node in model.graph for value in node.outputs} == recorded
    return model, int(gone.sum())


@pytest.mark.parametrize("name", [name for name in CHANNEL_MODELS if name != "tied"])
def test_zero_channels_go_without_a_trace(name: str) -> None:
    assert exactly(CHANNEL_MODELS[name])[1]


@pytest.mark.parametrize("opset", [11, 21])
@pytest.mark.parametrize("name", LENGTHS)
def test_lengths_that_are_data_are_rewritten(name: str, opset: int) -> None:
    text, constants = LENGTHS[name]
    if opset == 11 and name == "split":
        text = text.replace(", num_outputs=2", "")
    model = built(text, w1=weight(8, 3, 1, 1), w2=weight(2, 8, 1, 1), **constants)
    model.opset_imports[""] = opset
    assert exactly(model)[1]


def test_what_is_never_read_again_is_dropped() -> None:
    text, constants = LENGTHS["reshape"]
    model = built(text, w1=weight(8, 3, 1, 1), w2=weight(2, 8, 1, 1), **constants)
    left, _ = exactly(model)
    assert set(left.graph.initializers) == {"w1", "w2", "b_shape", "c_shape"}
    assert left.graph.initializers["b_shape"].const_value.numpy().tolist() == [1, 7, 64]
    assert left.graph.initializers["c_shape"].const_value.numpy().tolist() == [0, 7, 8, 8]


def test_attributes_of_old_operator_sets_are_rewritten() -> None:
    model = built(
        TAIL
        % """p, q = Split <axis=1, split=[6,2]> (a) r = Slice <axes=[1], starts=[1], ends=[6]> (p)
        c = Concat <axis=1> (r, q)""",
        w1=weight(8, 3, 1, 1), w2=weight(2, 7, 1, 1),
    )  # fmt: skip
    model.opset_imports[""] = 9
    infer_shapes(model)
    for node in model.graph:
        # the library knows no Slice of this age
        if node.op_type in ("Slice", "Concat"):
            node.outputs[0].shape = ir.Shape([1, 5 if node.op_type == "Slice" else 7, 8, 8])
    left, count = exactly(model, inferable=False)
    assert count
    split = next(node for node in left.graph if node.op_type == "Split")
    assert sum(split.attributes["split"].value) < 8


def test_several_names_are_never_given_twice() -> None:
    text, constants = LENGTHS["reshape"]
    text = text.replace("c = Reshape (b, s)", "b_shape = Relu (b) c = Reshape (b_shape, s)")
    left, _ = exactly(built(text, w1=weight(8, 3, 1, 1), w2=weight(2, 8, 1, 1), **constants))
    assert "b_shape_1" in left.graph.initializers


def test_axes_too_long_to_hold_channels_keep_the_lengths_of_their_parts() -> None:
    model = built(
        """g (float[1,3,600000] x) => (float[1,2,600000] y) {
            a = Conv (x, w1) p, q = Split <axis=2> (a, s) c = Add (p, q) d = Concat <axis=2> (c, c) y = Conv (d, w2)
        }""",
        w1=weight(8, 3, 1), w2=weight(2, 8, 1), s=np.array([300_000, 300_000]),
    )  # fmt: skip
    infer_shapes(model)
    coupling = couple(model)
    (group,) = groups(coupling)
    cut(model, coupling, coupling.labels.removed(group.roots[:3]))
    split = next(node for node in model.graph if node.op_type == "Split")
    assert split.inputs[1].const_value.numpy().tolist() == [300_000, 300_000]
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
