"""Small models in which channels are coupled in all the ways that real models know."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from sample_models import from_text

from onnxslim.graph.shapes import infer_shapes

HEADER = '<ir_version: 10, opset_import: ["" : 21]> '
GENERATOR = np.random.default_rng(0)


def weight(*shape: int) -> np.ndarray:
    return GENERATOR.normal(size=shape).astype(np.float32) * 0.5


def built(text: str, **weights: np.ndarray) -> ir.Model:
    names = "".join(f", float {name}" for name in weights)
    model = from_text(HEADER + text.replace(") => (", f"{names}) => (", 1), **weights)
    for output in model.graph.outputs:
        if output.shape is not None and output.shape.rank() == 0:
            output.shape = None
    infer_shapes(model)
    return model


RESIDUAL = built(
    """g (float[N,3,8,8] x) => (float[N,5] y) {
        a = Conv <pads=[1,1,1,1]> (x, w1, b1)
        n = BatchNormalization (a, s, b, m, v)
        r = Relu (n)
        c = Conv <pads=[1,1,1,1]> (r, w2)
        d = Add (c, r)
        p = MaxPool <kernel_shape=[4,4], strides=[4,4]> (d)
        f = Flatten (p)
        y = Gemm <transB=1> (f, w3, b3)
    }""",
    w1=weight(16, 3, 3, 3), b1=weight(16), s=weight(16), b=weight(16), m=weight(16), v=weight(16) ** 2,
    w2=weight(16, 16, 3, 3), w3=weight(5, 64), b3=weight(5),
)  # fmt: skip
GROUPED = built(
    """g (float[1,4,8,8] x) => (float[1,2,8,8] y) {
        a = Conv (x, w1)
        d = Conv <group=12, pads=[1,1,1,1]> (a, w2)
        e = GlobalAveragePool (d)
        h = Conv (e, w3)
        i = HardSigmoid (h)
        j = Mul (d, i)
        k = Conv <group=3> (j, w4)
        y = Conv (k, w5)
    }""",
    w1=weight(12, 4, 1, 1), w2=weight(12, 1, 3, 3), w3=weight(12, 12, 1, 1), w4=weight(6, 4, 1, 1),
    w5=weight(2, 6, 1, 1),
)  # fmt: skip
SHUFFLE = built(
    """g (float[1,4,4,4] x) => (float[1,2,4,4] y) {
        a = Conv (x, w1)
        b, c = Split <axis=1> (a, s)
        d = Conv (c, w2)
        e = Concat <axis=1> (b, d)
        f = Reshape (e, t)
        g = Transpose <perm=[0,2,1,3,4]> (f)
        h = Reshape (g, u)
        i, j = Split <axis=1, num_outputs=2> (h)
        k = Conv (i, w3)
        l = Conv (j, w4)
        m = Add (k, l)
        y = Relu (m)
    }""",
    w1=weight(16, 4, 1, 1), s=np.array([8, 8]), w2=weight(8, 8, 1, 1), t=np.array([1, 2, 8, 4, 4]),
    u=np.array([1, 16, 4, 4]), w3=weight(2, 8, 1, 1), w4=weight(2, 8, 1, 1),
)  # fmt: skip
ATTENTION = built(
    """g (float[2,7,12] x) => (float[2,7,12] y) {
        a = MatMul (x, w)
        q, k, v = Split <axis=2> (a, s)
        q1 = Reshape (q, hq) q2 = Transpose <perm=[0,2,1,3]> (q1)
        k1 = Reshape (k, hk) k2 = Transpose <perm=[0,2,3,1]> (k1)
        v1 = Reshape (v, hk) v2 = Transpose <perm=[0,2,1,3]> (v1)
        k3 = Unsqueeze (k2, two) k4 = Expand (k3, ek) k5 = Reshape (k4, rk)
        v3 = Unsqueeze (v2, two) v4 = Expand (v3, ev) v5 = Reshape (v4, rv)
        l = MatMul (q2, k5) p = Softmax (l) o = MatMul (p, v5)
        t = Transpose <perm=[0,2,1,3]> (o) u = Reshape (t, out)
        y = MatMul (u, wo)
    }""",
    w=weight(12, 64), s=np.array([32, 16, 16]), hq=np.array([2, 7, 4, 8]), hk=np.array([2, 7, 2, 8]),
    two=np.array([2]), ek=np.array([2, 2, 2, 8, 7]), rk=np.array([2, 4, 8, 7]), ev=np.array([2, 2, 2, 7, 8]),
    rv=np.array([2, 4, 7, 8]), out=np.array([2, 7, 32]), wo=weight(32, 12),
)  # fmt: skip
LSTM = built(
    """g (float[5,2,4] x) => (float[5,2,3] y) {
        a = MatMul (x, w0)
        h = LSTM <hidden_size=6> (a, w, r, b)
        s = Squeeze (h, one)
        y = MatMul (s, w1)
    }""",
    w0=weight(4, 8), w=weight(1, 24, 8), r=weight(1, 24, 6), b=weight(1, 48), one=np.array([1]), w1=weight(6, 3),
)  # fmt: skip
PADDED = built(
    """g (float[1,3,8,8] x) => (float[1,2,4,4] y) {
        a = Conv (x, w1)
        b = Slice (a, i, j, axes, two)
        c = Pad (b, p)
        d = Conv <strides=[2,2]> (a, w2)
        e = Add (c, d)
        f = Gather <axis=1> (e, order)
        y = Conv (f, w3)
    }""",
    w1=weight(4, 3, 1, 1), i=np.array([0, 0]), j=np.array([8, 8]), axes=np.array([2, 3]), two=np.array([2, 2]),
    p=np.array([0, 2, 0, 0, 0, 2, 0, 0]), w2=weight(8, 4, 1, 1), order=np.arange(8)[::-1].copy(), w3=weight(2, 8, 1, 1),
)  # fmt: skip
TIED = built(
    """g (float[3,8] x) => (float[3,8] y) {
        a = MatMul (x, w) b = Relu (a) c = MatMul (b, w) d = Relu (c) y = MatMul (d, v)
    }""",
    w=weight(8, 8), v=weight(8, 8),
)  # fmt: skip
CHANNEL_MODELS = {
    "residual": RESIDUAL,
    "grouped": GROUPED,
    "shuffle": SHUFFLE,
    "attention": ATTENTION,
    "lstm": LSTM,
    "padded": PADDED,
    "tied": TIED,
}
