"""Two models that were compared, as tables."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from onnxslim.commands.compare import Comparison
from onnxslim.report.figures import FigureRow, task_rows
from onnxslim.report.terminal import line, plain_table, print_data, print_diagnostics, print_judgement, print_target
from onnxslim.units import in_bytes, in_milliseconds, speed, times, with_interval


def print_comparison(result: Comparison, console: Console) -> None:
    """Print the figures of both models, and how close each output is."""
    print_data(result.data, console)
    print_target(result.target, console)
    print_diagnostics(result.diagnostics, console)
    line(console, f"{result.candidate} against {result.reference}")
    labelled = result.reference_accuracy is not None
    tasks = plain_table("", "reference", "candidate", "change")
    for row in comparison_rows(result):
        tasks.add_row(*(Text(cell) for cell in (row.label, row.before, row.after, row.change)))
    console.print(tasks)
    print_judgement(result.quality, console)
    table = plain_table("output", "agreement", "SQNR", "cosine", "largest error")
    for name, cells in output_rows(result):
        table.add_row(Text(name), *(Text(cell) for cell in cells))
    console.print(table)
    if not labelled:
        line(console, f"Accuracy: {result.reference_accuracy_reason}")


def comparison_rows(result: Comparison) -> list[FigureRow]:
    """Return the figures of both models as a person reads them: size, latency, and those of the task."""
    sizes = in_bytes(result.reference_bytes), in_bytes(result.candidate_bytes)
    smaller = times(result.reference_bytes / result.candidate_bytes, "smaller", "larger")
    before, after = (
        in_milliseconds(latency.p50 if latency else None)
        for latency in (result.reference_latency_ms, result.candidate_latency_ms)
    )
    faster = speed(result.speedup) if result.speedup else result.speedup_reason or ""
    return [
        FigureRow("Size", *sizes, smaller),
        FigureRow("Latency, median", before, after, faster),
        *task_rows(result.quality, labelled=result.reference_accuracy is not None),
    ]


def output_rows(result: Comparison) -> list[tuple[str, list[str]]]:
    """Return how close each output is, and all of them where there are several: agreement, SQNR, cosine, error."""
    found = []
    rows = [(each.name, each.fidelity) for each in result.outputs]
    if len(rows) != 1:
        rows.insert(0, ("all together", result.fidelity))
    for name, figures in rows:
        cells = [
            with_interval(interval, digits, scale, unit) if interval else reason or ""
            for interval, reason, digits, scale, unit in (
                (figures.agreement, figures.agreement_reason, 2, 100.0, " %"),
                (figures.sqnr_db, figures.sqnr_reason, 1, 1.0, " dB"),
                (figures.cosine, figures.cosine_reason, 4, 1.0, ""),
            )
        ]
        error = figures.max_abs_error
        cells.append(figures.max_abs_error_reason or "" if error is None else f"{error:.3g}")
        found.append((name, cells))
    return found
