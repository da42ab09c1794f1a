"""Puts passes into the order that they declare."""

from __future__ import annotations

from collections.abc import Sequence

import networkx as nx

from onnxslim.errors import ScheduleError
from onnxslim.pipeline.discovery import find_pass
from onnxslim.pipeline.interface import Pass


def with_needs(passes: Sequence[Pass]) -> tuple[Pass, ...]:
    """Return `passes` and, in front of each, what it `needs` and nobody asked for, with default options."""
    asked = {step.name for step in passes}
    result: list[Pass] = []

    def add(step: Pass) -> None:
        for need in step.needs:
            if need not in asked:
                asked.add(need)
                add(find_pass(need)())
        result.append(step)

    for step in passes:
        add(step)
    return tuple(result)


def schedule(passes: Sequence[Pass], *, as_written: bool = False) -> tuple[Pass, ...]:
    """Return `passes` with their needs, sorted by the orders that they declare.

    Passes that no declaration orders keep the order in which they were given.

    Args:
        passes: What was asked for.
        as_written: Keep the given order; needs are still added, each before the first pass that needs it.

    Raises:
        ScheduleError: The declarations form a circle.
    """
    everything = with_needs(passes)
    if as_written:
        return everything
    order: nx.DiGraph[int] = nx.DiGraph()
    order.add_nodes_from(range(len(everything)))
    for late, step in enumerate(everything):
        for early, other in enumerate(everything):
            if other.name in (*step.needs, *step.after) and other.name != step.name:
                order.add_edge(early, late)
    if not nx.is_directed_acyclic_graph(order):
        circle = [everything[early].name for early, _ in nx.find_cycle(order)]
        raise ScheduleError(
            f"the passes {', '.join(circle)} each want to run after the other",
            hint="use --as-written to keep the order as typed",
        )
    return tuple(everything[index] for index in nx.lexicographical_topological_sort(order))
