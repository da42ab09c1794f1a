"""The report as tables that a newcomer can read, at 80 columns, with colours only where a terminal takes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnxslim.diagnostic import Diagnostic
from onnxslim.pipeline.interface import LayerSensitivity
from onnxslim.pipeline.options import changed_options
from onnxslim.pipeline.records import DataSource, PassRecord, QualityFigures, Report
from onnxslim.report.figures import data_words, figure_rows, judgement, target_words
from onnxslim.runtime.target import Target
from onnxslim.units import in_bytes, in_decibels, in_milliseconds, in_percent, in_thousands

TOP_CHANGES = 4
"""How many changes of a pass are printed where nobody asked for all."""


def print_report(report: Report, console: Console, *, verbose: bool = False, reports: Sequence[Path] = ()) -> None:
    """Print the whole report: where the data came from, before and after, the passes, what changed.

    `verbose` prints every change, not the first few of each pass; `reports` are the files that it was written to.
    """
    print_data(report.data, console)
    print_target(report.target, console)
    print_diagnostics(report.diagnostics, console)
    figures = ((row.label, row.before, row.after, row.change) for row in figure_rows(report))
    print_table(console, ("", "before", "after", "change"), figures, right=(1, 2))
    print_judgement(report.quality, console)
    budget = report.budget
    if budget.max_drop is not None:
        verdict = "met"
        if budget.confidence is not None:
            verdict += f" with a confidence of {in_percent(budget.confidence)}"
        elif budget.samples_needed is not None:
            verdict += f" by the estimate; about {budget.samples_needed:,} samples to measure with would settle it"
        line(console, f"Budget: at most {in_percent(budget.max_drop)} lost, {verdict}")
    print_passes(report.passes, console)
    for step in report.passes:
        print_attempts(step, console)
        print_changes(step, console, limit=None if verbose else TOP_CHANGES)
        print_layers(step, console, limit=None if verbose else TOP_CHANGES)
        title = f"{step.name}: costliest"
        print_sensitivity(title, step.sensitivity, console, limit=None if verbose else TOP_CHANGES)
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


def print_table(
    console: Console, headings: Sequence[str], rows: Iterable[Sequence[str | Text]], *, right: Sequence[int] = ()
) -> None:
    """Print a table if it has rows, the columns `right` aligned to the right."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, heading in enumerate(headings):
        table.add_column(heading, overflow="fold", justify="right" if index in right else "left")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
    if table.rows:
        console.print(table)


def print_facts(console: Console, rows: Iterable[tuple[str, str]]) -> None:
    """Print names and what there is to say, one line a fact."""
    table = Table.grid(padding=(0, 2))
    for name, text in rows:
        table.add_row(name, Text(text))
    console.print(table)


def print_judgement(quality: QualityFigures, console: Console) -> None:
    """Print which metric judged and why, what was lost in its terms, and the noise of slices of another scale."""
    for text in judgement(quality):
        line(console, text)


def print_passes(passes: Sequence[PassRecord], console: Console) -> None:
    """Print one row a pass: kept or rolled back, and why."""
    rows = []
    for step in passes:
        nodes = f"{step.nodes[0]:,} -> {step.nodes[1]:,}"
        rows.append((step.name, step.kind, _verdict(step.kept), nodes, f"{step.seconds:.1f}", step.reason))
    print_table(console, ("pass", "kind", "", "nodes", "seconds", "why"), rows, right=(4,))


def _verdict(kept: bool) -> Text:
    return Text("kept", "green") if kept else Text("not kept", "yellow")


def print_attempts(step: PassRecord, console: Console) -> None:
    """Print the forms of a pass that were tried, where it was more than one."""
    if len(step.attempts) < 2:
        return
    rows = (
        (
            changed_options(step.asked, form.options) or "as asked",
            _verdict(form.kept),
            "-" if form.loss is None else in_percent(form.loss.value),
            "-" if form.size is None else f"{form.size:.2f}x",
            f"{form.seconds:.1f}",
            form.reason,
        )
        for form in step.attempts
    )
    headings = f"{step.name}: forms tried", "", "lost", "smaller", "seconds", "why"
    print_table(console, headings, rows, right=(2, 3, 4))


def print_changes(step: PassRecord, console: Console, *, limit: int | None) -> None:
    """Print what a pass did, at most `limit` lines of it (None: all)."""
    rows = ((note.subject, note.action, note.reason) for note in step.changes[:limit])
    title = "what changed" if step.kept else "what it found, not kept"
    print_table(console, (f"{step.name}: {title}", "", ""), rows)
    if limit is not None and len(step.changes) > limit:
        line(console, f"... and {len(step.changes) - limit:,} more (--verbose prints all)", style="dim")


def print_layers(step: PassRecord, console: Console, *, limit: int | None) -> None:
    """Print the layers that got narrower or of a lower rank: at most `limit` of them, those that save the most."""
    if not step.kept:
        return
    heaviest = sorted(step.layers, key=lambda layer: layer.macs_after - layer.macs_before)
    rows = (
        (
            layer.layer,
            layer.op,
            layer.quantity,
            f"{layer.before:,}",
            f"{layer.after:,}",
            in_thousands(layer.macs_before),
            in_thousands(layer.macs_after),
        )
        for layer in (step.layers if limit is None else heaviest[:limit])
    )
    headings = f"{step.name}: layers", "op", "", "before", "after", "MACs before", "MACs after"
    print_table(console, headings, rows, right=(3, 4, 5, 6))
    if limit is not None and len(step.layers) > limit:
        line(console, f"... and {len(step.layers) - limit:,} more layers (--verbose prints all)", style="dim")


def print_sensitivity(title: str, layers: Sequence[LayerSensitivity], console: Console, *, limit: int | None) -> None:
    """Print what layers cost where each alone is changed: at most `limit` of them, those that cost most."""
    worst = sorted((layer for layer in layers if layer.share is not None), key=lambda layer: -(layer.share or 0.0))
    rows = (
        (
            layer.layer,
            in_decibels(layer.sqnr_db),
            in_percent(layer.share),
            f"{in_bytes(layer.bytes_before)} -> {in_bytes(layer.bytes_after)}" if layer.bytes_before else "",
            in_milliseconds(layer.saved_ms),
            layer.became,
        )
        for layer in worst[:limit]
    )
    headings = title, "alone", "noise", "weight", "saves", "became"
    print_table(console, headings, rows, right=(1, 2, 3, 4))
    if limit is not None and len(worst) > limit:
        line(console, f"... and {len(worst) - limit:,} more layers that cost less", style="dim")
