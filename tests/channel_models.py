"""Small models in which channels are coupled in all the ways that real models know."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from sample_models import from_text

from onnxslim.analysis.shapes import infer_shapes

HEADER = '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]> '
GENERATOR = np.random.default_rng(0)


def weight(*shape: int) -> np.ndarray:
    return GENERATOR.normal(size=shape).astype(np.float32) * 0.5


def built(text: str, **weights: np.ndarray) -> ir.Model:
    names = "".join(f", float {name}" for name in weights)
    header = HEADER.replace("21", "23") if " Attention <" in text else HEADER
    model = from_text(header + text.replace(") => (", f"{names}) => (", 1), **weights)
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
# Swin: the image is rolled (two slices, swapped), cut into windows, and every head has a bias for each pair of places.
SHIFTED = built(
    """g (float[2,4,4,3] x) => (float[2,4,4,3] y) {
        a = MatMul (x, w0)
        s0 = Slice (a, one, end, one) s1 = Slice (a, zero, one, one) s = Concat <axis=1> (s0, s1)
        t0 = Slice (s, one, end, two) t1 = Slice (s, zero, one, two) t = Concat <axis=2> (t0, t1)
        p0 = Reshape (t, split) p1 = Transpose <perm=[0,1,3,2,4,5]> (p0) p = Reshape (p1, windows)
        q0 = MatMul (p, wqkv) q1 = Reshape (q0, qkv) q2 = Transpose <perm=[2,0,3,1,4]> (q1)
        q3, k3, v3 = Split <axis=0, num_outputs=3> (q2)
        q = Squeeze (q3, zero) k = Squeeze (k3, zero) v = Squeeze (v3, zero)
        kt = Transpose <perm=[0,1,3,2]> (k) l0 = MatMul (q, kt)
        b0 = Gather <axis=0> (bias, places) b = Transpose <perm=[2,0,1]> (b0)
        l = Add (l0, b) e = Softmax (l) o0 = MatMul (e, v)
        o1 = Transpose <perm=[0,2,1,3]> (o0) o = Reshape (o1, heads)
        r0 = MatMul (o, wo) r1 = Reshape (r0, join) r2 = Transpose <perm=[0,1,3,2,4,5]> (r1) r = Reshape (r2, image)
        y = MatMul (r, w1)
    }""",
    w0=weight(3, 6), zero=np.array([0]), one=np.array([1]), two=np.array([2]), end=np.array([1 << 40]),
    split=np.array([2, 2, 2, 2, 2, 6]), windows=np.array([-1, 4, 6]), wqkv=weight(6, 24),
    qkv=np.array([8, 4, 3, 2, 4]), bias=weight(9, 2), places=np.arange(16).reshape(4, 4) % 9,
    heads=np.array([8, 4, 8]), wo=weight(8, 6), join=np.array([2, 2, 2, 2, 2, 6]), image=np.array([2, 4, 4, 6]),
    w1=weight(6, 3),
)  # fmt: skip
# Rotary embeddings spelled out: the second half, negated, goes before the first; batch and time are symbolic.
ROTARY = built(
    """g (float[N,5,6] x) => (float[N,5,6] y) {
        q0 = MatMul (x, wq) k0 = MatMul (x, wk) v0 = MatMul (x, wv)
        q1 = Reshape (q0, heads) k1 = Reshape (k0, heads) v1 = Reshape (v0, heads)
        q = Transpose <perm=[0,2,1,3]> (q1) k = Transpose <perm=[0,2,1,3]> (k1) v = Transpose <perm=[0,2,1,3]> (v1)
        qa = Slice (q, zero, half, three) qb = Slice (q, half, end, three) qn = Neg (qb)
        qr = Concat <axis=-1> (qn, qa) qc = Mul (q, cos) qs = Mul (qr, sin) qe = Add (qc, qs)
        ka = Slice (k, zero, half, three) kb = Slice (k, half, end, three) kn = Neg (kb)
        kr = Concat <axis=-1> (kn, ka) kc = Mul (k, cos) ks = Mul (kr, sin) ke = Add (kc, ks)
        kt = Transpose <perm=[0,1,3,2]> (ke) l = MatMul (qe, kt) p = Softmax (l) o0 = MatMul (p, v)
        o1 = Transpose <perm=[0,2,1,3]> (o0) o = Reshape (o1, flat) y = MatMul (o, wo)
    }""",
    wq=weight(6, 24), wk=weight(6, 24), wv=weight(6, 24), heads=np.array([0, 0, 3, 8]), zero=np.array([0]),
    half=np.array([4]), three=np.array([3]), end=np.array([1 << 40]), cos=weight(1, 1, 5, 8), sin=weight(1, 1, 5, 8),
    flat=np.array([0, 0, -1]), wo=weight(24, 6),
)  # fmt: skip
# As exporters write it: the lengths of batch and time are read of the input, those of heads are numbers among them.
COMPUTED = built(
    """g (float[N,T,6] x) => (float[N,T,6] y) {
        z = Shape (x) n = Slice (z, zero, one) t = Slice (z, one, two)
        heads = Concat <axis=0> (n, t, three, eight) flat = Concat <axis=0> (n, t, long)
        q0 = MatMul (x, wq) k0 = MatMul (x, wk) v0 = MatMul (x, wv)
        q1 = Reshape (q0, heads) k1 = Reshape (k0, heads) v1 = Reshape (v0, heads)
        q = Transpose <perm=[0,2,1,3]> (q1) k = Transpose <perm=[0,2,3,1]> (k1) v = Transpose <perm=[0,2,1,3]> (v1)
        l = MatMul (q, k) p = Softmax (l) o0 = MatMul (p, v)
        o1 = Transpose <perm=[0,2,1,3]> (o0) o = Reshape (o1, flat) y = MatMul (o, wo)
    }""",
    wq=weight(6, 24), wk=weight(6, 24), wv=weight(6, 24), zero=np.array([0]), one=np.array([1]), two=np.array([2]),
    three=np.array([3]), eight=np.array([8]), long=np.array([24]), wo=weight(24, 6),
)  # fmt: skip
# Every other channel, and the rest backwards.
STRIDED = built(
    """g (float[1,3,4,4] x) => (float[1,2,4,4] y) {
        a = Conv (x, w1)
        b = Slice (a, zero, end, one, two) c = Slice (a, last, back, one, minus) d = Concat <axis=1> (b, c)
        e = Conv (d, w2) f = Conv (a, w3) y = Add (e, f)
    }""",
    w1=weight(12, 3, 1, 1), zero=np.array([0]), end=np.array([12]), one=np.array([1]), two=np.array([2]),
    last=np.array([-1]), back=np.array([-1000]), minus=np.array([-3]), w2=weight(2, 10, 1, 1), w3=weight(2, 12, 1, 1),
)  # fmt: skip
EINSUM = built(
    """g (float[2,5,6] x) => (float[2,5,6] y) {
        q = Einsum <equation="bsi,ihd->bshd"> (x, wq) k = Einsum <equation="bsi,ihd->bshd"> (x, wk)
        v = Einsum <equation="bsi,ihd->bshd"> (x, wv)
        l = Einsum <equation="bshd,bthd->bhst"> (q, k) p = Softmax (l)
        o = Einsum <equation="bhst,bthd->bshd"> (p, v) y = Einsum <equation="bshd,hdi->bsi"> (o, wo)
    }""",
    wq=weight(6, 3, 4), wk=weight(6, 3, 4), wv=weight(6, 3, 4), wo=weight(3, 4, 6),
)  # fmt: skip
# ONNX's own Attention on packed heads: the scale that follows from the size of a head must stay when the head shrinks.
ATTENTION_OP = built(
    """g (float[2,5,6] x) => (float[2,5,6] y) {
        q = MatMul (x, wq) k = MatMul (x, wk) v = MatMul (x, wv)
        o = Attention <q_num_heads=4, kv_num_heads=2> (q, k, v) y = MatMul (o, wo)
    }""",
    wq=weight(6, 32), wk=weight(6, 16), wv=weight(6, 16), wo=weight(32, 6),
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
    "shifted": SHIFTED,
    "rotary": ROTARY,
    "computed": COMPUTED,
    "strided": STRIDED,
    "einsum": EINSUM,
    "attention op": ATTENTION_OP,
    "tied": TIED,
}
