"""What is said of channels behind each structural op is true of what ONNX Runtime computes, and is not too little."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from channel_models import built, weight
from onnxslim.passes.prune.channel_values import ChannelValues
from onnxslim.passes.prune.structural_values import follow

from onnxslim.analysis.coupling import couple
from onnxslim.analysis.shapes import infer_shapes
from onnxslim.runtime.session import Session

READER = weight(5, 8, 1, 1)
CASES: dict[str, tuple[str, int, int, dict[str, object]]] = {
    # the nodes between the channels c (0 is zero, 1 a constant, 3 the double of 2; so it is in d) and the reader's t;
    # how many channels of t are constant, and how many classes there are
    "transpose": ("u = Transpose <perm=[0,2,1,3]> (c) t = Transpose <perm=[0,2,1,3]> (u)", 2, 7, {}),
    "reshape": ("u = Reshape (c, s) t = Reshape (u, r)", 2, 7, {"s": [1, 8, 16], "r": [1, 8, 4, 4]}),
    "expand": ("t = Expand (c, s)", 2, 7, {"s": [1, 8, 4, 4]}),
    "add": ("t = Add (c, d)", 2, 7, {}),
    "zero absorbs": ("z = Conv (x, v2) t = Mul (c, z)", 1, 8, {"v2": weight(8, 3, 1, 1)}),
    "concat of halves": ("a, b = Split <axis=1> (c, s) t = Concat <axis=1> (b, a)", 2, 7, {"s": [4, 4]}),
    "concat of one twice": ("a, b = Split <axis=1> (c, s) t = Concat <axis=1> (a, a)", 4, 3, {"s": [4, 4]}),
    "concat across": ("t = Concat <axis=2> (c, d)", 1, 7, {}),
    "slice": ("t = Slice (c, b, e, a, s)", 2, 7, {"b": [7], "e": [-9], "a": [1], "s": [-1]}),
    "gather": ("t = Gather <axis=1> (c, i)", 2, 4, {"i": [0, 2, 3, 3, 1, 5, 5, 3]}),
    "pad of channels": (
        "a, b = Split <axis=1> (c, s) t = Pad (a, p)", 6, 3, {"s": [4, 4], "p": [0, 0, 0, 0, 0, 4, 0, 0]}
    ),
    "pad of space": ("t = Pad (c, p)", 1, 7, {"p": [0, 0, 1, 1, 0, 0, 1, 1]}),
    "tile of channels": ("a, b = Split <axis=1> (c, s) t = Tile (a, p)", 0, 8, {"s": [4, 4], "p": [1, 2, 1, 1]}),
    "resize": ("t = Resize <mode=\"linear\"> (c, , k)", 2, 7, {"k": np.array([1, 1, 2, 2], np.float32)}),
    "sharpened": ("t = Resize <mode=\"cubic\"> (c, , k)", 1, 7, {"k": np.array([1, 1, 2, 2], np.float32)}),
    "largest": ("t = ReduceMax (c, a)", 2, 7, {"a": [2, 3]}),
    "sum": ("t = ReduceSum (c, a)", 1, 7, {"a": [2, 3]}),
    "places along another axis": ("t = GatherElements <axis=2> (c, j)", 2, 7, {"j": np.zeros((1, 8, 4, 4), np.int64)}),
    "other places for each channel": (
        "t = GatherElements <axis=2> (c, j)", 2, 8, {"j": np.arange(128).reshape(1, 8, 4, 4) // 16 % 4}
    ),
    "a normalisation over space": ("t = LpNormalization <axis=2> (c)", 0, 7, {}),
    "softmax over channels": ("t = Softmax <axis=1> (c)", 0, 8, {}),
}  # fmt: skip


def planted(text: str, weights: dict[str, object]) -> ir.Model:
    producers = {}
    for name in ("v", "w"):
        array = weight(8, 3, 1, 1)
        array[:2] = 0
        array[3] = array[2]
        producers[name] = array
    bias = np.arange(8, dtype=np.float32) + 0.5
    bias[0], bias[3] = 0, bias[2]
    return built(
        f"""g (float[1,3,4,4] x) => (float[A,B,C,D] y) {{
            c = Conv (x, v, p0) d = Conv (x, w, p1) {text} y = Conv (t, reader) }}""",
        v=producers["v"], w=producers["w"], p0=bias, p1=np.where(np.arange(8) == 1, 7, bias).astype(np.float32),
        reader=READER, **{name: np.asarray(array) for name, array in weights.items()},
    )  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_is_said_of_channels_is_true_and_enough(name: str) -> None:
    text, constants, classes, weights = CASES[name]
    model = planted(text, weights)
    infer_shapes(model)
    known = ChannelValues(model, couple(model), follow)
    (value,) = (value for node in model.graph for value in node.outputs if value.name == "t")
    values = known.of(value, 1)
    assert values is not None
    assert np.isfinite(values.constant).sum() == constants
    assert len(set(values.classes.tolist())) == classes
    probe = model.clone()
    probe.graph.outputs[:] = [value for node in probe.graph for value in node.outputs if value.name == "t"]
    generator = np.random.default_rng(0)
    feeds = {"x": generator.normal(size=(1, 3, 4, 4)).astype(np.float32)}
    (made,) = Session.of(probe, optimize=False).run(feeds).values()
    for channel, (number, first) in enumerate(zip(values.constant, values.classes, strict=True)):
        if not np.isnan(number):
            np.testing.assert_allclose(made[:, channel], number, rtol=1e-6, atol=1e-6)
        double = values.classes.tolist().index(first)
        np.testing.assert_array_equal(made[:, channel], made[:, double])
