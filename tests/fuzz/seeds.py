"""Small sound models from which the fuzzer starts: together they use most of what a model file can hold."""

from __future__ import annotations

import pathlib

import numpy as np
import onnx
from onnx import helper, numpy_helper

HEADER = '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]> '

CONVOLUTIONS = """g (float[N,3,8,8] x) => (float[N,4] y) {
    a = Conv <pads=[1,1,1,1], kernel_shape=[3,3]> (x, w1, b1)
    n = BatchNormalization <epsilon=0.001> (a, s, b, m, v)
    r = Relu (n)
    c = Conv <pads=[1,1,1,1]> (r, w2)
    d = Add (c, r)
    p = MaxPool <kernel_shape=[2,2], strides=[2,2]> (d)
    q = GlobalAveragePool (p)
    f = Flatten (q)
    y = Gemm <transB=1, alpha=1.0> (f, w3, b3)
}"""
WEIGHTS: dict[str, tuple[int, ...]] = {
    "w1": (8, 3, 3, 3), "b1": (8,), "s": (8,), "b": (8,), "m": (8,), "v": (8,),
    "w2": (8, 8, 3, 3), "w3": (4, 8), "b3": (4,),
}  # fmt: skip

SHAPES = """g (float[N,T,12] x, int64[N,T] ids) => (float[N,T,12] y, int64[K] k) <int64[3] target = {0, -1, 12}> {
    shape = Shape (x)
    zero = Constant <value = int64 {0}> ()
    axis = Constant <value_ints = [0]> ()
    n = Gather <axis=0> (shape, zero)
    u = Unsqueeze (n, axis)
    rest = Constant <value = int64[2] {4, 3}> ()
    minus = Constant <value_ints = [-1]> ()
    four = Concat <axis=0> (u, minus, rest)
    h = Reshape (x, four)
    t = Transpose <perm=[0,2,1,3]> (h)
    i = Transpose <perm=[0,2,1,3]> (t)
    e = Softmax <axis=-1> (i)
    back = Reshape (e, target)
    y = Identity (back)
    c = Cast <to=7> (ids)
    k = Reshape (c, minus)
}"""

CONTROL = """g (float[N,4] x, bool c, int64 trips) => (float[N,4] y, float[M,N,4] all) <float[4] b = {1,2,3,4}> {
    i = If (c) <then_branch = t () => (float[N,4] ty) { ty = Add (x, b) },
                else_branch = e () => (float[N,4] ey) { ea = Mul (x, b) ey = Relu (ea) }>
    yes = Constant <value = bool {1}> ()
    y, all = Loop (trips, yes, i) <body = l (int64 n, bool go, float[N,4] state) =>
        (bool on, float[N,4] next, float[N,4] out) { on = Identity (go) next = Add (state, b) out = Identity (next) }>
}"""

FUNCTIONS = """g (float[N,4] x) => (float[N,4] y) {
    a = local.scaled <factor=2.0> (x)
    y = local.scaled (a)
}
<domain: "local", opset_import: ["" : 21]>
scaled <factor: float = 3.0> (a) => (r) {
    f = Constant <value_float: float = @factor> ()
    m = Mul (a, f)
    r = Relu (m)
}"""

SEQUENCES = """g (float[T,B,4] x, string[B] words) => (float[T,1,B,5] y, string[B] same, seq(float[B,4]) parts) {
    y, yh, yc = LSTM <hidden_size=5> (x, w, r, bias)
    same = Identity (words)
    one = Constant <value = int64 {1}> ()
    parts = SplitToSequence <axis=0, keepdims=0> (x, one)
}"""

QUANTIZED = """g (float[1,8] x) => (float[1,4] y) <float s = {0.05}, int8 z = {1}> {
    q = QuantizeLinear (x, s, z)
    d = DequantizeLinear (q, s, z)
    w = DequantizeLinear (wq, s, z)
    p = MatMul (d, w)
    u = QuantizeLinear (p, s, z)
    y = DequantizeLinear (u, s, z)
}"""

INTEGERS = """g (int64[4] a, int64[4] b) => (int64[4] y, uint8[4] z, int64[2] k, int64[2] i)
  <int64[4] n = {5, -7, 9, 2}> {
    d = Div (a, n)
    m = Mod (b, n)
    y = Add (d, m)
    c = Cast <to=6> (y)
    z = BitShift <direction="LEFT"> (u, u2)
    two = Constant <value_ints = [2]> ()
    k, i = TopK (a, two)
}"""


def seed_models() -> dict[str, onnx.ModelProto]:
    """Return the models by name."""
    generator = np.random.default_rng(0)

    def drawn(shape: tuple[int, ...]) -> np.ndarray:
        return np.abs(generator.standard_normal(shape)).astype(np.float32)

    models = {
        "convolutions": _model(CONVOLUTIONS, {name: drawn(shape) for name, shape in WEIGHTS.items()}),
        "shapes": _model(SHAPES),
        "control": _model(CONTROL),
        "sequences": _model(SEQUENCES, {"w": drawn((1, 20, 4)), "r": drawn((1, 20, 5)), "bias": drawn((1, 40))}),
        "quantized": _model(QUANTIZED, {"wq": np.arange(32, dtype=np.int8).reshape(8, 4)}),
        "integers": _model(INTEGERS, {"u": np.arange(4, dtype=np.uint8), "u2": np.ones(4, np.uint8)}),
        "old": _model(CONVOLUTIONS, {name: drawn(shape) for name, shape in WEIGHTS.items()}),
    }
    functions = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 21, "local" : 1]> ' + FUNCTIONS)
    models["functions"] = functions
    models["sparse"] = _sparse(models["convolutions"])
    old = models["old"]
    old.ir_version = 3
    del old.opset_import[:]
    old.opset_import.append(helper.make_opsetid("", 9))
    for tensor in old.graph.initializer:
        old.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return models


def write_external(model: onnx.ModelProto, path: pathlib.Path) -> None:
    """Write a model whose weights lie in ``<name>.data`` beside it."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    onnx.save(copy, path, save_as_external_data=True, location=path.name + ".data", size_threshold=0)


def _model(text: str, weights: dict[str, np.ndarray] | None = None) -> onnx.ModelProto:
    model = onnx.parser.parse_model(HEADER + text)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in (weights or {}).items())
    return model


def _sparse(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy whose last weight is stored sparse."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    dense = copy.graph.initializer.pop()
    array = numpy_helper.to_array(dense).copy()
    array[::2] = 0
    places = np.flatnonzero(array)
    sparse = copy.graph.sparse_initializer.add()
    sparse.values.CopyFrom(numpy_helper.from_array(array.reshape(-1)[places], dense.name))
    sparse.indices.CopyFrom(numpy_helper.from_array(places.astype(np.int64), dense.name + "_indices"))
    sparse.dims.extend(array.shape)
    return copy
