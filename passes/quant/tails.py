"""Leaves in float what cannot share a scale on its way to the outputs: boxes in pixels and scores in one tensor.

A Concat in int8 gives all its parts one scale, that of the widest. Where the joined tensor goes to the outputs nothing
makes up for what the narrow parts lose: scores of 0 to 1 beside boxes of 0 to 640 pixels have one level.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from onnxslim.observe.statistics import Range

from .plan import QuantPlan
from .scales import LEVELS
from .table import Int8Table, Role

FEWEST_LEVELS = 32.0
"""Levels that each part of a joined tensor must have of the common scale. 32 levels of a uniform signal are 30 dB, what
int8 layers themselves leave of most outputs; each halving costs 6 dB."""
COARSEST = 1 / 16
"""Steps of what a Sigmoid makes scores of. One moves a score by up to a quarter of it, so that 64 scores are told apart
between 0 and 1; and detectors are judged by the order of their scores."""


def joined_apart(plan: QuantPlan, ranges: Mapping[str, Range]) -> dict[ir.Node, str]:
    """Return the nodes that would give tensors of too different a range one scale at the end of the model, and why.

    Args:
        plan: What would be quantized.
        ranges: What was seen of the tensors of its groups, by their sources.
    """
    sources = {member: group.source.name or "" for group in plan.groups for member in group.members}
    found: dict[ir.Node, str] = {}
    for site in plan.sites:
        if not site.row.joins or site.node not in plan.last:
            continue
        parts = [(value, _span(ranges[sources[value]])) for value in site.operands()]
        whole = _span(*(ranges[sources[value]] for value, _ in parts))
        narrow, span = min(parts, key=lambda part: part[1])
        levels = LEVELS * span / whole if whole > 0 else LEVELS
        if 0 < levels < FEWEST_LEVELS:
            found[site.node] = (
                f"its parts differ too much to share a scale: {narrow.name} would have {levels:.2g} of {LEVELS} levels"
            )
    return found


def _span(*ranges: Range) -> float:
    """Return how far the levels reach that cover the ranges, zero included."""
    return max(0.0, *(seen.high for seen in ranges)) - min(0.0, *(seen.low for seen in ranges))


def coarse_scores(
    graph: ir.Graph, table: Int8Table, plan: QuantPlan, ranges: Mapping[str, Range]
) -> dict[ir.Node, str]:
    """Return the nodes whose int8 results are too coarse for the scores that are made of them, and why.

    A Concat that joins what the scores are made of with something else goes first; then the product itself, which may
    have a finer scale of its own.

    Args:
        graph: The main graph.
        table: What the target runs in int8.
        plan: What would be quantized.
        ranges: What was seen of the tensors of its groups, by their sources.
    """
    sources = {member: group.source.name or "" for group in plan.groups for member in group.members}
    makers = {result: site for site in plan.sites for result in site.results}
    before_products = _before_products(graph, table)
    found: dict[ir.Node, str] = {}
    for node in graph:
        row = table.rows.get(node.op_type) if not node.domain else None
        if row is None or not row.scores or node in before_products:
            continue
        value = node.inputs[0]
        while value in sources and value in makers:
            site, step = makers[value], _span(ranges[sources[value]]) / LEVELS
            if step <= COARSEST:
                break
            if site.row.role is Role.MOVEMENT:
                value = site.operands()[0]
                continue
            found[site.node] = f"{node.op_type} makes scores of it, and would see steps of {step:.2g}"
            break
    return found


def _before_products(graph: ir.Graph, table: Int8Table) -> set[ir.Node]:
    """Return the nodes behind which there is a product, in whatever type it is computed."""
    found: set[ir.Node] = set()
    for node in reversed(graph):
        for reader in (use.node for value in node.outputs for use in value.uses()):
            row = table.rows.get(reader.op_type) if not reader.domain else None
            if reader in found or (row is not None and row.role is Role.CONTRACTION):
                found.add(node)
                break
    return found
