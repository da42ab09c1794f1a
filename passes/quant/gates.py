"""Gates that are read off the levels of what they gate: HardSigmoid, and HardSwish, which multiplies by one.

A HardSigmoid rises on a straight line from 0 to 1, and is cut off there. Where zero and both ends of the line are
levels of what it reads (or would be, if the levels went so far), the levels of the result are the same, cut off at the
ends, on a scale of its own: nothing is computed, and nothing is rounded a second time. ONNX Runtime 1.32 has no kernel
of integers for either op, and computes in float what lies between DequantizeLinear and QuantizeLinear.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.observe.statistics import Range
from onnxslim.ops.traits import Trait, has
from onnxslim.pipeline.reasons import Reason

from .codes import QuantCode
from .gate_line import reach
from .integers import IntegerType
from .plan import QuantPlan, ScaleGroup, Sites
from .scales import Scale
from .table import Gate

FEWEST_LEVELS = 8
"""Levels between zero and an end of the line: scales lie further apart the fewer there are, and one that an end is a
level of is coarser by up to one part in so many."""
WIDEST_STEPS = 1.5
"""How much wider steps may be because levels reach to where the gate closes, though next to nothing lies there: 3.5 dB
of what is read."""
ON_LEVEL = 1e-2
"""How far from a level an end may lie, in steps: scales are in single precision."""


@dataclasses.dataclass(frozen=True)
class GateInput:
    """What gates ask of the scale of a tensor that they read."""

    reach: float
    """How far from zero the ends of the line are, which are to be levels."""
    spent: bool
    """Whether what lies below the line leads to zero in the end, whatever it is."""

    def limits(self, low: float, high: float) -> tuple[float, float]:
        """Return the interval that levels must cover, of one that the tensor covers."""
        return (-self.reach if self.spent else min(low, -self.reach)), max(high, 0.0)

    def covering(self, low: float, high: float, integers: IntegerType) -> Scale:
        """Return the finest scale that has the ends of the line among its levels, and covers an interval."""
        low, high = self.limits(low, high)
        steps = max(1, int(integers.steps * self.reach / (high - low)))
        scale = np.float32(self.reach / steps)
        below = int(np.clip(round(-low / float(scale)), steps, integers.steps))
        return Scale(scale, integers.lowest + below, integers)


def gate_inputs(plan: QuantPlan) -> dict[str, GateInput]:
    """Return what gates ask of the scales of a plan, by the names of the sources of their groups; one reach for each
    (`coarse_gates`)."""
    sites = {site.node: site for site in plan.sites}
    sources, groups = plan.sources, {group.source.name or "": group for group in plan.groups}
    found: dict[str, GateInput] = {}
    for site in plan.sites:
        if site.row.gate is not None and (name := sources[site.operands()[0]]) not in found:  # the first one decides
            found[name] = GateInput(reach(site.node, site.row), _is_spent(groups[name], sites))
    return found


def _is_spent(group: ScaleGroup, sites: Sites) -> bool:
    """Whether gates alone read a tensor, and what multiplies by one: the product is zero where the gate is."""

    def is_gate(node: ir.Node | None) -> bool:
        site = None if node is None else sites.get(node)
        return site is not None and site.row.gate is not None

    def multiplies(node: ir.Node) -> bool:
        makers = [value.producer() for value in node.inputs if value is not None and value is not group.source]
        gated = any(is_gate(maker) and maker.inputs[0] is group.source for maker in makers if maker)
        return gated and has(node, Trait.ABSORBS_ZERO)

    if len(group.members) > 1 or group.source.is_graph_output():
        return False
    readers = [use.node for use in group.source.uses()]
    return all(is_gate(reader) or multiplies(reader) for reader in readers)


def coarse_gates(plan: QuantPlan, ranges: Mapping[str, Range], steps: int) -> dict[ir.Node, Reason]:
    """Return the gates that stay float, and why: levels are too few, another gate asks for other ones, or what one
    reads lies so near to zero that levels down to where it closes would be wasted.

    `ranges` are those of the sources of the groups of the plan, by name; there are `steps` between the levels.
    """
    inputs, sources = gate_inputs(plan), plan.sources
    reasons: dict[ir.Node, Reason] = {}
    for site in plan.sites:
        if site.row.gate is None:
            continue
        name, own = sources[site.operands()[0]], reach(site.node, site.row)
        low, high = GateInput(own, inputs[name].spent).limits(ranges[name].low, ranges[name].high)
        levels = steps * own / (high - low)
        if levels < FEWEST_LEVELS:
            reasons[site.node] = Reason(QuantCode.COARSE_GATE, (name, levels), (name,))
        elif not np.isclose(own, inputs[name].reach, rtol=ON_LEVEL / steps):
            reasons[site.node] = Reason(QuantCode.OTHER_GATE, (name,), (name,))
        elif ranges[name].low >= 0:
            reasons[site.node] = Reason(QuantCode.OPEN_GATE, (name,), (name,))
        elif (wider := (high - low) / (max(ranges[name].high, 0.0) - ranges[name].low)) > WIDEST_STEPS:
            reasons[site.node] = Reason(QuantCode.WIDE_GATE, (name, wider), (name,))
    return reasons


def with_gates(plan: QuantPlan, scales: Mapping[str, Scale]) -> dict[str, Scale]:
    """Return a choice of scales in which those of the results of gates are what those of their inputs make them."""
    found, sources = dict(scales), plan.sources
    for site in plan.sites:
        if site.row.gate is Gate.RESULT:
            name = site.results[0].name or ""
            found[name] = gate_scale(found[sources[site.operands()[0]]], reach(site.node, site.row)) or found[name]
    return found


def gate_scale(scale: Scale, ends: float) -> Scale | None:
    """Return the scale on which the levels of a tensor are those of its gate; None where the ends of the line, so far
    from zero, are no levels."""
    steps = ends / float(scale.scale)
    whole = round(steps)
    zero_point = scale.zero_point - whole
    if whole < 1 or abs(steps - whole) > ON_LEVEL or zero_point < scale.integers.lowest:
        return None
    return Scale(np.float32(1 / (2 * whole)), zero_point, scale.integers)


def gate_ends(gate: Scale) -> tuple[npt.NDArray[np.integer], npt.NDArray[np.integer]] | None:
    """Return the levels at which a gate is 0 and 1, shape []; None where levels end there or before by themselves."""
    low, high = gate.zero_point, gate.zero_point + round(1 / float(gate.scale))
    if low <= gate.integers.lowest and high >= gate.integers.highest:
        return None
    dtype = gate.integers.kept_in.dtype
    return np.asarray(low, dtype), np.asarray(min(high, gate.integers.highest), dtype)
