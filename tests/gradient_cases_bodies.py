"""Draws nodes of ops that are differentiated as the other ops that they stand for."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from op_draw import Array, Case, Draw

from onnxslim.ops.signatures import OpName

f32, i64 = np.float32, np.int64
ACTIVATIONS = ("Sigmoid", "Tanh", "Relu", "Softsign", "LeakyRelu", "Elu", "Affine", "ScaledTanh", "HardSigmoid")
NUMBERS = {
    "LeakyRelu": (0.3,),
    "Elu": (0.7,),
    "Affine": (0.8, 0.1),
    "ScaledTanh": (0.9, 0.7),
    "HardSigmoid": (0.3, 0.4),
}


def recurrence(op_type: str, gates: int, functions: int) -> Callable[[Draw], Case]:
    def drawn(draw: Draw) -> Case:
        steps, batch, width, hidden = (draw.number(1, 3) for _ in range(4))
        direction = draw.one_of(["forward", "reverse", "bidirectional"])
        count = 2 if direction == "bidirectional" else 1
        state = (count, batch, hidden)
        operands: list[Array | None] = [
            draw.data((steps, batch, width)),
            draw.data((count, gates * hidden, width)),
            draw.data((count, gates * hidden, hidden)),
            draw.data((count, 2 * gates * hidden)) if draw.chance(0.7) else None,
            None,
            draw.data(state) if draw.chance() else None,
        ]
        if op_type == "LSTM":
            operands += [draw.data(state) if draw.chance() else None, draw.data((count, 3 * hidden))]
            operands = operands[: draw.number(6, 8)]
        attributes: dict[str, object] = {"hidden_size": hidden, "direction": direction}
        if direction == "forward" and draw.chance():
            del attributes["direction"]
        if op_type == "GRU" and draw.chance(0.6):
            attributes["linear_before_reset"] = draw.number(0, 1)
        if draw.chance(0.3):
            attributes["clip"] = 1.5
        if draw.chance(0.3):
            names = [draw.one_of(ACTIVATIONS) for _ in range(functions * count)]
            numbers = [NUMBERS.get(name, ()) for name in names]
            attributes["activations"] = names
            attributes["activation_alpha"] = [given[0] for given in numbers if given]
            attributes["activation_beta"] = [given[1] for given in numbers if len(given) > 1]
            attributes = {name: value for name, value in attributes.items() if value != []}
        while operands[-1] is None:
            operands.pop()
        outputs = (True, draw.chance(), *([True] if op_type == "LSTM" else []))
        return Case(("", op_type), operands, attributes, outputs=outputs)

    return drawn


def attention(draw: Draw) -> Case:
    batch, heads, groups, places, size, wide = (draw.number(1, 3) for _ in range(6))
    seen = places if draw.chance() else draw.number(1, 4)
    many = heads * groups
    packed = draw.chance()
    shapes = [(many, places, size), (heads, seen, size), (heads, seen, wide)]
    if packed:
        shapes = [(long, number * each) for number, long, each in shapes]
    operands: list[Array | None] = [draw.data((batch, *shape)) for shape in shapes]
    attributes: dict[str, object] = {"q_num_heads": many, "kv_num_heads": heads} if packed else {}
    if draw.chance(0.4):
        operands.append(draw.data(draw.one_of([(places, seen), (batch, many, places, seen), (1, 1, places, seen)])))
    if draw.chance(0.3):
        attributes["is_causal"] = 1
    if draw.chance(0.3):
        attributes["scale"] = 0.4
    if draw.chance(0.3):
        attributes["softcap"] = 2.0
    return Case(("", "Attention"), operands, attributes)


def rotary(draw: Draw) -> Case:
    batch, heads, places, half = (draw.number(1, 3) for _ in range(4))
    packed = draw.chance()
    data = draw.data((batch, places, heads * 2 * half) if packed else (batch, heads, places, 2 * half))
    attributes: dict[str, object] = {"num_heads": heads} if packed else {}
    if draw.chance():
        attributes["interleaved"] = 1
    if draw.chance():
        return Case(("", "RotaryEmbedding"), [data, *(draw.data((batch, places, half)) for _ in range(2))], attributes)
    spots = np.asarray(draw.random.integers(0, 5, (batch, places)), i64)
    caches = [draw.data((5, half)) for _ in range(2)]
    return Case(("", "RotaryEmbedding"), [data, *caches, spots], attributes, frozenset({3}))


def affine_grid(draw: Draw) -> Case:
    sizes = [draw.number(2, 4) for _ in range(draw.number(2, 3))]
    batch = draw.number(1, 2) if len(sizes) == 3 else 2  # ONNX's function squeezes a batch of one away
    theta = draw.data((batch, len(sizes), len(sizes) + 1))
    attributes = {"align_corners": draw.number(0, 1)} if draw.chance(0.7) else {}
    return Case(("", "AffineGrid"), [theta, draw.vector(batch, draw.number(1, 2), *sizes)], attributes, frozenset({1}))


def center_crop_pad(draw: Draw) -> Case:
    shape = draw.shape(1, 3)
    axes = draw.axes(len(shape)) if draw.chance() else None
    target = draw.vector(*(draw.number(1, 6) for _ in (shape if axes is None else axes)))
    attributes = {} if axes is None else {"axes": axes}
    return Case(("", "CenterCropPad"), [draw.data(shape), target], attributes, frozenset({1}))


def loss(op_type: str) -> Callable[[Draw], Case]:
    def drawn(draw: Draw) -> Case:
        batch, classes, *rest = (draw.number(1, 3) for _ in range(draw.number(2, 4)))
        labels = np.asarray(draw.random.integers(0, classes, (batch, *rest)), i64)
        operands: list[Array | None] = [draw.data((batch, classes, *rest)), labels]
        if draw.chance():
            operands.append(np.asarray(draw.random.uniform(0.5, 2, classes), f32))
        attributes = {"reduction": draw.one_of(["mean", "sum", "none"])} if draw.chance(0.8) else {}
        both = op_type == "SoftmaxCrossEntropyLoss" and draw.chance()
        return Case(("", op_type), operands, attributes, frozenset({1, 2}), (True, True) if both else (True,))

    return drawn


def fused_product(op_type: str) -> Callable[[Draw], Case]:
    def drawn(draw: Draw) -> Case:
        m, k, n = (draw.number(1, 4) for _ in range(3))
        turned = draw.number(0, 1), draw.number(0, 1)
        outer = draw.shape(0, 2, 1, 3) if op_type == "FusedMatMul" else ()
        first, second = (k, m) if turned[0] else (m, k), (n, k) if turned[1] else (k, n)
        operands: list[Array | None] = [draw.data((*outer, *first)), draw.data((*outer, *second))]
        attributes: dict[str, object] = {"transA": turned[0], "transB": turned[1]}
        if draw.chance():
            attributes["alpha"] = 0.5
        if op_type == "FusedGemm":
            operands.append(draw.data(draw.one_of([(n,), (m, n), (1, n)])))
            name = draw.one_of(["Relu", "Tanh", "Sigmoid", "LeakyRelu"])
            attributes |= {"activation": name} | ({"activation_alpha": 0.3} if name == "LeakyRelu" else {})
        return Case(("com.microsoft", op_type), operands, attributes)

    return drawn


def fused_attention(op_type: str) -> Callable[[Draw], Case]:
    def drawn(draw: Draw) -> Case:
        batch, heads, places, size, wide = (draw.number(1, 3) for _ in range(5))
        whole = heads * size
        attributes: dict[str, object] = {"num_heads": heads}
        if draw.chance(0.3):
            attributes["scale"] = 0.4
        if draw.chance(0.3):
            attributes["unidirectional"] = 1
        bias = [None] * 2 + [draw.data((batch, heads, places, places))] if draw.chance(0.3) else []
        if op_type == "Attention":
            operands = [draw.data((batch, places, wide)), draw.data((wide, 3 * whole)), draw.data((3 * whole,))]
            return Case(("com.microsoft", op_type), [*operands, *bias], attributes)
        parts = [draw.data((batch, places, whole)) for _ in range(3)]
        added = draw.data((3 * whole,)) if draw.chance() else None
        operands = [*parts, added, *bias[1:]] if added is not None or bias else parts
        return Case(("com.microsoft", op_type), operands, attributes)

    return drawn


def embedding(draw: Draw) -> Case:
    batch, length, width, words = draw.number(1, 3), draw.number(1, 4), draw.number(2, 6), draw.number(2, 5)
    longest, segmented = length + draw.number(0, 2), draw.chance()

    def picked(most: int) -> Array:
        return np.asarray(draw.random.integers(0, most, (batch, length)), np.int32)

    operands: list[Array | None] = [picked(words), picked(2) if segmented else None, draw.data((words, width))]
    operands += [draw.data((longest, width)), draw.data((2, width)) if segmented else None]
    operands += [draw.data((width,)), draw.data((width,))]
    operands += [None, picked(longest)] if draw.chance(0.4) else []
    attributes: dict[str, object] = {"epsilon": 0.01}
    return Case(
        ("com.microsoft", "EmbedLayerNormalization"), operands, attributes, outputs=(True, False, draw.chance())
    )


DRAWN_FOR_GRADIENTS: Mapping[OpName, Callable[[Draw], Case]] = {
    ("", "LSTM"): recurrence("LSTM", 4, 3),
    ("", "GRU"): recurrence("GRU", 3, 2),
    ("", "RNN"): recurrence("RNN", 1, 1),
    ("", "Attention"): attention,
    ("", "RotaryEmbedding"): rotary,
    ("com.microsoft", "EmbedLayerNormalization"): embedding,
    ("", "AffineGrid"): affine_grid,
    ("", "CenterCropPad"): center_crop_pad,
    ("", "SoftmaxCrossEntropyLoss"): loss("SoftmaxCrossEntropyLoss"),
    ("", "NegativeLogLikelihoodLoss"): loss("NegativeLogLikelihoodLoss"),
    **{("com.microsoft", name): fused_product(name) for name in ("FusedGemm", "FusedMatMul")},
    **{("com.microsoft", name): fused_attention(name) for name in ("Attention", "MultiHeadAttention")},
}
