"""The report as tables that a newcomer can read, at 80 columns, with colours only where a terminal takes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnxslim.diagnostic import Diagnostic
from onnxslim.pipeline.options import changed_options
from onnxslim.pipeline.records import DataSource, PassRecord, QualityFigures, Report
from onnxslim.report.figures import data_words, figure_rows, judgement, target_words
from onnxslim.runtime.target import Target
from onnxslim.units import in_percent, in_thousands

TOP_CHANGES = 4
"""How many changes of a pass are printed where nobody asked for all."""


def print_report(report: Report, console: Console, *, verbose: bool = False, reports: Sequence[Path] = ()) -> None:
    """Print the whole report: where the data came from, before and after, the passes, what changed.

    Args:
        report: What to print.
        console: Where to.
        verbose: Print every change, not the first few of each pass.
        reports: Where the report was written to as a file.
    """
    print_data(report.data, console)
    print_target(report.target, console)
    print_diagnostics(report.diagnostics, console)
    console.print(figures_table(report))
    print_judgement(report.quality, console)
    budget = report.budget
    if budget.max_drop is not None:
        verdict = "met"
        if budget.confidence is not None:
            verdict += f" with a confidence of {in_percent(budget.confidence)}"
        elif budget.samples_needed is not None:
            verdict += f" by the estimate; about {budget.samples_needed:,} samples to measure with would settle it"
        line(console, f"Budget: at most {in_percent(budget.max_drop)} lost, {verdict}")
    if report.passes:
        console.print(passes_table(report.passes))
    for step in report.passes:
        print_attempts(step, console)
        print_changes(step, console, limit=None if verbose else TOP_CHANGES)
        print_layers(step, console, limit=None if verbose else TOP_CHANGES)
    if report.output.path is not None:
        line(console, f"Written to {report.output.path}", style="bold")
    print_places(reports, console)


def print_places(reports: Sequence[Path], console: Console) -> None:
    """Print where a report was written to."""
    for path in reports:
        line(console, f"Report in {path}")


def print_data(data: DataSource, console: Console) -> None:
    """Print what was measured on; a warning where that means nothing."""
    line(console, data_words(data), style="bold yellow" if data.synthetic else "")
    if data.subsets:
        used = (f"{subset.purpose} {subset.used:,} of {subset.of:,}" for subset in data.subsets)
        line(console, f"Samples used, drawn by chance: {'; '.join(used)}")


def print_target(target: Target, console: Console) -> None:
    """Print where it was measured."""
    line(console, f"Target: {target_words(target)}")


def print_diagnostics(diagnostics: Sequence[Diagnostic], console: Console) -> None:
    """Print warnings, each with what to do about it."""
    for diagnostic in diagnostics:
        hint = f" Hint: {diagnostic.hint}." if diagnostic.hint else ""
        line(console, f"Warning: {diagnostic.message}.{hint}", style="yellow")


def line(console: Console, text: str, *, style: str = "") -> None:
    """Print one line of plain text: brackets in node names are no markup, numbers get no colour of their own."""
    console.print(Text(text, style=style))


def plain_table(*columns: str, title: str | None = None) -> Table:
    """Return a table with these headings, the first column for names."""
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def figures_table(report: Report) -> Table:
    """Return the table of before, after, and what that means."""
    table = plain_table("", "before", "after", "change")
    table.columns[1].justify = table.columns[2].justify = "right"
    for row in figure_rows(report):
        table.add_row(Text(row.label), *(Text(cell) for cell in (row.before, row.after, row.change)))
    return table


def print_judgement(quality: QualityFigures, console: Console) -> None:
    """Print which metric judged and why, what was lost in its terms, and the noise of slices of another scale."""
    for text in judgement(quality):
        line(console, text)


def passes_table(passes: tuple[PassRecord, ...]) -> Table:
    """Return one row a pass: kept or rolled back, and why."""
    table = plain_table("pass", "kind", "", "nodes", "seconds", "why")
    table.columns[4].justify = "right"
    for step in passes:
        verdict = Text("kept", "green") if step.kept else Text("not kept", "yellow")
        nodes = f"{step.nodes[0]:,} -> {step.nodes[1]:,}"
        table.add_row(step.name, step.kind, verdict, nodes, f"{step.seconds:.1f}", Text(step.reason))
    return table


def print_attempts(step: PassRecord, console: Console) -> None:
    """Print the forms of a pass that were tried, where it was more than one."""
    if len(step.attempts) < 2:
        return
    table = plain_table(f"{step.name}: forms tried", "", "lost", "smaller", "seconds", "why")
    for column in table.columns[2:5]:
        column.justify = "right"
    for form in step.attempts:
        lost = "-" if form.loss is None else in_percent(form.loss.value)
        smaller = "-" if form.size is None else f"{form.size:.2f}x"
        verdict = Text("kept", "green") if form.kept else Text("not kept", "yellow")
        name = Text(changed_options(step.asked, form.options) or "as asked")
        table.add_row(name, verdict, lost, smaller, f"{form.seconds:.1f}", Text(form.reason))
    console.print(table)


def print_changes(step: PassRecord, console: Console, *, limit: int | None) -> None:
    """Print what a pass did, at most `limit` lines of it (None: all)."""
    if not step.changes:
        return
    table = plain_table(f"{step.name}: what changed", "", "")
    for note in step.changes[:limit]:
        table.add_row(Text(note.subject), Text(note.action), Text(note.reason))
    console.print(table)
    if limit is not None and len(step.changes) > limit:
        line(console, f"... and {len(step.changes) - limit:,} more (--verbose prints all)", style="dim")


def print_layers(step: PassRecord, console: Console, *, limit: int | None) -> None:
    """Print the layers that got narrower or of a lower rank: at most `limit` of them, those that save the most."""
    if not step.layers or not step.kept:
        return
    table = plain_table(f"{step.name}: layers", "op", "", "before", "after", "MACs before", "MACs after")
    for column in table.columns[3:]:
        column.justify = "right"
    heaviest = sorted(step.layers, key=lambda row: row.macs_after - row.macs_before)
    for row in step.layers if limit is None else heaviest[:limit]:
        counts = f"{row.before:,}", f"{row.after:,}", in_thousands(row.macs_before), in_thousands(row.macs_after)
        table.add_row(Text(row.layer), row.op, row.quantity, *counts)
    console.print(table)
    if limit is not None and len(step.layers) > limit:
        line(console, f"... and {len(step.layers) - limit:,} more layers (--verbose prints all)", style="dim")
