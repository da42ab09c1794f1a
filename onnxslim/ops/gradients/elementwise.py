"""Gradients of elementwise ops that hang on how many operands there are, or on what no schema tells."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from onnxslim.model.constants import constant
from onnxslim.ops.fact import Unknowable
from onnxslim.ops.gradient import Gradient, GradientSite
from onnxslim.ops.parameters import read
from onnxslim.ops.signatures import OpName

QUICK_GELU = 1.702
"""What ONNX Runtime takes for `alpha` of its own QuickGelu."""


def total(site: GradientSite) -> Mapping[int, ir.Value | None]:
    """Sum: what comes back goes to all operands."""
    return dict.fromkeys(site.wanted, site.incoming())


def mean(site: GradientSite) -> Mapping[int, ir.Value | None]:
    """Mean: all operands have an equal share."""
    return dict.fromkeys(site.wanted, site.op("Mul", site.incoming(), 1 / len(site.node.inputs)))


def extreme(site: GradientSite) -> Mapping[int, ir.Value | None]:
    """Max, Min: operands that are the result, element by element, share what comes back equally."""
    one, zero = (site.build.number(number, site.incoming()) for number in (1, 0))
    chosen = {
        index: site.op("Where", site.op("Equal", site.operand(index), site.result()), one, zero)
        for index in range(len(site.node.inputs))
    }
    share = site.op("Div", site.incoming(), site.op("Sum", *chosen.values())) if len(chosen) > 1 else site.incoming()
    return {index: site.op("Mul", chosen[index], share) for index in site.wanted}


def dropout(site: GradientSite) -> Mapping[int, ir.Value | None]:
    """Dropout: as it is in inference; in training, what was kept, and scaled as it was.

    Raises:
        Unknowable: Whether it is in training is computed when the model runs.
    """
    training = constant(site.operand(2)) if site.has(2) else False
    if training is None:
        raise Unknowable
    if not training:
        return {0: site.incoming()}
    kept = site.op("CastLike", site.result(1), site.incoming())
    ratio = site.op("CastLike", site.operand(1), site.incoming()) if site.has(1) else site.build.number(0.5, kept)
    scale = site.op("Sub", site.build.number(1, kept), ratio)
    return {0: site.op("Div", site.op("Mul", site.incoming(), kept), scale)}


def quick_gelu(site: GradientSite) -> Mapping[int, ir.Value | None]:
    """QuickGelu: y = x * s with s = sigmoid (alpha * x), so that dy/dx = s + alpha * y * (1 - s)."""
    op, alpha = site.op, read(site, "alpha", QUICK_GELU)
    gate = op("Sigmoid", op("Mul", site.operand(), alpha))
    rest = op("Sub", site.build.number(1, gate), gate)
    slope = op("Add", gate, op("Mul", op("Mul", site.result(), alpha), rest))
    return {0: op("Mul", site.incoming(), slope)}


GRADIENTS: Mapping[OpName, Gradient] = {
    ("", "Sum"): total,
    ("", "Mean"): mean,
    ("", "Max"): extreme,
    ("", "Min"): extreme,
    ("", "Dropout"): dropout,
    ("com.microsoft", "QuickGelu"): quick_gelu,
}
