"""Finds nodes whose int8 results would be too coarse for the outputs: boxes in pixels and scores in one tensor.

A Concat in int8 gives all its parts one scale, that of the widest. Where the joined tensor goes to the outputs nothing
makes up for what the narrow parts lose: scores of 0 to 1 beside boxes of 0 to 640 pixels have one level.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from onnxslim.analysis.linear_layer import label
from onnxslim.observe.statistics import Range
from onnxslim.pipeline.reasons import Reason

from .codes import QuantCode
from .plan import QuantPlan
from .table import Int8Table, Role

FEWEST_LEVELS = 32.0
"""Levels that each part of a joined tensor must have of the common scale. 32 levels of a uniform signal are 30 dB, what
int8 layers themselves leave of most outputs; each halving costs 6 dB."""
COARSEST = 1 / 16
"""Largest step of what a Sigmoid makes scores of. One step moves a score by up to a quarter of it, so that 64 scores
are told apart between 0 and 1; and detectors are judged by the order of their scores."""


def coarse_joins(plan: QuantPlan, ranges: Mapping[str, Range], steps: int) -> dict[ir.Node, Reason]:
    """Return the nodes that would give tensors of too different a range one scale at the end of the model, and why.

    `ranges` are those of the sources of the groups of the plan, by name; there are `steps` between the levels.
    """
    sources = plan.sources
    reasons: dict[ir.Node, Reason] = {}
    for site in plan.sites:
        if not site.row.joins or site.node not in plan.last:
            continue
        spans = {value: _span(ranges[sources[value]]) for value in site.operands()}
        whole = _span(*(ranges[sources[value]] for value in spans))
        narrow = min(spans, key=lambda value: spans[value])
        levels = steps * spans[narrow] / whole if whole > 0 else steps
        if 0 < levels < FEWEST_LEVELS:
            name = narrow.name or ""
            reasons[site.node] = Reason(QuantCode.COARSE_PART, (name, levels, steps), (name,))
    return reasons


def coarse_scores(
    graph: ir.Graph, table: Int8Table, plan: QuantPlan, ranges: Mapping[str, Range], steps: int
) -> dict[ir.Node, Reason]:
    """Return the nodes of the main graph whose int8 results are too coarse for the scores made of them, and why.

    A Concat that joins what the scores are made of with something else goes first; then the product itself, which may
    have a finer scale of its own. `ranges` and `steps` as for `coarse_joins`.
    """
    sources = plan.sources
    makers = {result: site for site in plan.sites for result in site.results}
    before_products = _before_products(graph, table)
    reasons: dict[ir.Node, Reason] = {}
    for node in graph:
        row = table.row(node)
        if row is None or not row.scores or node in before_products:
            continue
        value = node.inputs[0]
        while value in sources and value in makers:
            site, step = makers[value], _span(ranges[sources[value]]) / steps
            if step <= COARSEST:
                break
            if site.row.role is not Role.MOVEMENT:
                reasons[site.node] = Reason(QuantCode.COARSE_SCORES, (node.op_type, step), nodes=(label(node),))
                break
            value = site.operands()[0]
    return reasons


def _span(*ranges: Range) -> float:
    """Return the length of the interval that covers the ranges, and zero."""
    return max(0.0, *(seen.high for seen in ranges)) - min(0.0, *(seen.low for seen in ranges))


def _before_products(graph: ir.Graph, table: Int8Table) -> set[ir.Node]:
    """Return the nodes in front of some contraction, in whatever type it is computed."""
    found: set[ir.Node] = set()
    for node in reversed(graph):
        readers = [use.node for value in node.outputs for use in value.uses()]
        rows = filter(None, map(table.row, readers))
        if not found.isdisjoint(readers) or any(row.role is Role.CONTRACTION for row in rows):
            found.add(node)
    return found
