"""Gradients of matrix products: MatMul of all ranks, and Gemm."""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx_ir as ir

from onnxslim.ops.gradient import Gradient, GradientSite, static_shape
from onnxslim.ops.gradients.movement import Gradients
from onnxslim.ops.parameters import read
from onnxslim.ops.signatures import OpName


def matmul(site: GradientSite) -> Gradients:
    """MatMul: dA is dY by the other transposed, dB the first transposed by dY; summed over what was broadcast."""
    first, second, incoming = site.operand(0), site.operand(1), site.incoming()
    left, right = site.shape(0), site.shape(1)
    rows = (1, *left) if len(left) == 1 else left
    columns = (*right, 1) if len(right) == 1 else right
    outer = static_shape(incoming)[: max(len(left), len(right), 2) - 2] if max(len(left), len(right)) > 2 else ()
    incoming = site.reshape(incoming, (*outer, rows[-2], columns[-1]))
    first, second = site.reshape(first, rows), site.reshape(second, columns)
    found: dict[int, ir.Value | None] = {}
    if len(columns) == 2:  # one product of matrices, whatever the rank of the first operand
        count = math.prod(rows[:-1])
        flat = site.reshape(incoming, (count, columns[1]))
        if 0 in site.wanted:
            found[0] = site.reshape(site.op("Gemm", flat, second, transB=1), left)
        if 1 in site.wanted:
            tall = site.reshape(first, (count, columns[0]))
            found[1] = site.reshape(site.op("Gemm", tall, flat, transA=1), right)
        return found
    if 0 in site.wanted:
        product = site.op("MatMul", incoming, _turned(site, second))
        found[0] = site.reshape(site.sum_to(product, rows), left)
    if 1 in site.wanted:
        product = site.op("MatMul", _turned(site, first), incoming)
        found[1] = site.reshape(site.sum_to(product, columns), right)
    return found


def _turned(site: GradientSite, value: ir.Value) -> ir.Value:
    """Return matrices transposed."""
    order = list(range(len(static_shape(value))))
    return site.transpose(value, [*order[:-2], order[-1], order[-2]])


def gemm(site: GradientSite) -> Gradients:
    """Gemm: products of the same kind, and what was added broadcast is summed."""
    first, second, incoming = site.operand(0), site.operand(1), site.incoming()
    turned = bool(read(site, "transA")), bool(read(site, "transB"))
    alpha, beta = read(site, "alpha"), read(site, "beta")
    found: dict[int, ir.Value | None] = {}

    def product(left: ir.Value, right: ir.Value, turn_left: bool, turn_right: bool) -> ir.Value:
        return site.op("Gemm", left, right, alpha=alpha, transA=int(turn_left), transB=int(turn_right))

    if 0 in site.wanted:
        if turned[0]:
            found[0] = product(second, incoming, turned[1], True)
        else:
            found[0] = product(incoming, second, False, not turned[1])
    if 1 in site.wanted:
        if turned[1]:
            found[1] = product(incoming, first, True, turned[0])
        else:
            found[1] = product(first, incoming, not turned[0], False)
    if 2 in site.wanted:
        scaled = incoming if beta == 1 else site.op("Mul", incoming, float(beta))
        found[2] = site.sum_to(scaled, site.shape(2))
    return found


GRADIENTS: Mapping[OpName, Gradient] = {("", "MatMul"): matmul, ("", "Gemm"): gemm}
