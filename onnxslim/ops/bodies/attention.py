"""Attention of ONNX Runtime, as the products and the Softmax that it is: MultiHeadAttention and Attention.

Source: ONNX Runtime, docs/ContribOperators.md. What ONNX itself calls Attention has a function in its schema.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxslim.ops.parameters import read
from onnxslim.ops.signatures import OpName
from onnxslim.ops.site import Body, Declined, NodeSite, static_shape

MICROSOFT = "com.microsoft"
HIDDEN = -10000.0
"""What is added to the scores of places that must not be seen, where the node says nothing else."""
SCORE_BIAS = 5
"""The input that is added to the scores, of both ops."""


def multi_head(site: NodeSite) -> Sequence[ir.Value | None]:
    """MultiHeadAttention: queries, keys and values are inputs, [batch, places, heads * size]."""
    _check(site, {0, 1, 2, 3, SCORE_BIAS})
    if not (site.has(1) and site.has(2)) or any(len(site.shape(index)) != 3 for index in range(3)):
        raise Declined("its queries, keys and values are packed")
    parts = [site.operand(index) for index in range(3)]
    if site.has(3):
        sizes = [site.shape(index)[2] for index in range(3)]
        biases = site.ops("Split", site.operand(3), sizes, count=3, axis=0)
        parts = [site.op("Add", value, bias) for value, bias in zip(parts, biases, strict=True)]
    return [_attended(site, *parts)]


def projected(site: NodeSite) -> Sequence[ir.Value | None]:
    """Attention: queries, keys and values are the products of one input, [batch, places, input], with one weight."""
    _check(site, {0, 1, 2, SCORE_BIAS})
    if read(site, "do_rotary", 0):
        raise Declined("it turns queries and keys (do_rotary)")
    product = site.op("MatMul", site.operand(0), site.operand(1))
    if site.has(2):
        product = site.op("Add", product, site.operand(2))
    width = static_shape(product)[2]
    sizes = list(read(site, "qkv_hidden_sizes", ()) or [width // 3] * 3)
    return [_attended(site, *site.ops("Split", product, sizes, count=3, axis=2))]


def _check(site: NodeSite, known: set[int]) -> None:
    other = [index for index in range(len(site.node.inputs)) if site.has(index) and index not in known]
    if other:
        raise Declined(f"it has masks, or keys of the past (input {other[0]})")
    if any(output.name for output in site.node.outputs[1:]):
        raise Declined("it gives keys and values on")


def _attended(site: NodeSite, queries: ir.Value, keys: ir.Value, values: ir.Value) -> ir.Value:
    """Return softmax(Q K' / sqrt(size) + bias) V of each head, side by side again."""
    heads = int(read(site, "num_heads"))
    batch, places, width = static_shape(queries)
    seen, size = static_shape(keys)[1], width // heads
    scale = float(read(site, "scale", 0.0)) or 1 / math.sqrt(size)

    def by_head(value: ir.Value, order: tuple[int, ...]) -> ir.Value:
        long, whole = static_shape(value)[1:]
        return site.transpose(site.reshape(value, (batch, long, heads, whole // heads)), order)

    scores = site.op("MatMul", site.op("Mul", by_head(queries, (0, 2, 1, 3)), scale), by_head(keys, (0, 2, 3, 1)))
    if site.has(SCORE_BIAS):
        scores = site.op("Add", scores, site.operand(SCORE_BIAS))
    if read(site, "unidirectional", 0):
        kind = scores.dtype
        assert kind is not None
        hidden = site.filled((places, seen), float(read(site, "mask_filter_value", HIDDEN)), kind)
        scores = site.op("Add", scores, site.op("Trilu", hidden, _number(site, 1 + seen - places), upper=1))
    shares = site.op("Softmax", scores, axis=-1)
    result = site.op("MatMul", shares, by_head(values, (0, 2, 1, 3)))
    joined = site.transpose(result, (0, 2, 1, 3))
    return site.reshape(joined, (batch, places, static_shape(values)[2]))


def _number(site: NodeSite, number: int) -> ir.Value:
    return site.build.constant(np.asarray(number, np.int64))


BODIES: Mapping[OpName, Body] = {
    (MICROSOFT, "MultiHeadAttention"): multi_head,
    (MICROSOFT, "Attention"): projected,
}
