"""What passes would do to a model, as tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.text import Text

from onnxslim.commands.plan import ModelPlan
from onnxslim.pipeline.plan import Planned
from onnxslim.report.terminal import line, print_table

TOP_REASONS = 3
"""How many reasons of one rule are printed where nobody asked for all; JSON has all of them."""


def print_plan(plan: ModelPlan, console: Console, *, verbose: bool = False) -> None:
    """Print what would be done, then what nearly would; `verbose` prints every reason, not the most frequent ones."""
    line(console, f"{plan.path}: what would be done")
    for step in plan.passes:
        before, after = step.plan.nodes
        line(console, f"\n{step.name} ({step.kind}): {before:,} -> {after:,} nodes", style="bold")
        done = ((row.subject, f"{row.sites:,}", row.action) for row in step.plan.lines if row.sites)
        print_table(console, ("would be done", "sites", ""), done, right=(1,))
        left = _left_alone(step.plan.lines, None if verbose else TOP_REASONS)
        print_table(console, ("would be left alone", "sites", "why", "such as"), left, right=(1,))
        if not step.plan.lines:
            line(console, "Nothing to do.")


def _left_alone(lines: Sequence[Planned], limit: int | None) -> Iterator[tuple[str | Text, ...]]:
    for row in sorted(lines, key=lambda row: -sum(obstacle.count for obstacle in row.obstacles)):
        for index, obstacle in enumerate(row.obstacles[:limit]):
            example = obstacle.example if obstacle.example != row.subject else ""
            yield "" if index else row.subject, f"{obstacle.count:,}", obstacle.reason, example
        if limit is not None and len(row.obstacles) > limit:
            yield "", "", Text(f"and {len(row.obstacles) - limit} more reasons (--verbose)", "dim"), ""
