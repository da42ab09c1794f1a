"""What passes would do to a model, as tables."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from onnxslim.commands.plan import ModelPlan
from onnxslim.pipeline.plan import Planned
from onnxslim.report.terminal import line, plain_table

TOP_REASONS = 3
"""How many reasons of one rule are printed where nobody asked for all; JSON has all of them."""


def print_plan(plan: ModelPlan, console: Console, *, verbose: bool = False) -> None:
    """Print what would be done, then what nearly would.

    Args:
        plan: What to print.
        console: Where to.
        verbose: Print every reason, not the most frequent ones of each rule.
    """
    line(console, f"{plan.path}: what would be done")
    for step in plan.passes:
        before, after = step.plan.nodes
        line(console, f"\n{step.name} ({step.kind}): {before:,} -> {after:,} nodes", style="bold")
        _print_done([row for row in step.plan.lines if row.sites], console)
        _print_left([row for row in step.plan.lines if row.obstacles], console, None if verbose else TOP_REASONS)
        if not step.plan.lines:
            line(console, "Nothing to do.")


def _print_done(rows: list[Planned], console: Console) -> None:
    if not rows:
        return
    table = plain_table("would be done", "sites", "")
    table.columns[1].justify = "right"
    for row in rows:
        table.add_row(Text(row.subject), f"{row.sites:,}", Text(row.action))
    console.print(table)


def _print_left(rows: list[Planned], console: Console, limit: int | None) -> None:
    if not rows:
        return
    rows = sorted(rows, key=lambda row: -sum(obstacle.count for obstacle in row.obstacles))
    table = plain_table("would be left alone", "sites", "why", "such as")
    table.columns[1].justify = "right"
    for row in rows:
        for index, obstacle in enumerate(row.obstacles[:limit]):
            example = Text(obstacle.example if obstacle.example != row.subject else "")
            table.add_row(Text("" if index else row.subject), f"{obstacle.count:,}", Text(obstacle.reason), example)
        if limit is not None and len(row.obstacles) > limit:
            table.add_row("", "", Text(f"and {len(row.obstacles) - limit} more reasons (--verbose)", "dim"), "")
    console.print(table)
