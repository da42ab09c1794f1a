"""Two models that were compared, as tables."""

from __future__ import annotations

from rich.console import Console

from onnxslim.commands.compare import Comparison
from onnxslim.pipeline.records import FidelityFigures, reason_key
from onnxslim.quality.fidelity import FIGURES, FidelityFigure
from onnxslim.report.figures import FigureRow, latency_row, size_row, task_rows
from onnxslim.report.terminal import line, print_data, print_diagnostics, print_judgement, print_table, print_target


def print_comparison(result: Comparison, console: Console) -> None:
    """Print the figures of both models, and how close each output is."""
    print_data(result.data, console)
    print_target(result.target, console)
    print_diagnostics(result.diagnostics, console)
    line(console, f"{result.candidate} against {result.reference}")
    rows = ((row.label, row.before, row.after, row.change) for row in comparison_rows(result))
    print_table(console, ("", "reference", "candidate", "change"), rows)
    print_judgement(result.quality, console)
    outputs = ((name, *cells) for name, cells in output_rows(result))
    print_table(console, ("output", *(figure.title for figure in FIGURES)), outputs)
    if result.reference_accuracy is None:
        line(console, f"Accuracy: {result.reference_accuracy_reason}")


def comparison_rows(result: Comparison) -> list[FigureRow]:
    """Return the figures of both models as a person reads them: size, latency, and those of the task."""
    latencies = result.reference_latency_ms, result.candidate_latency_ms
    return [
        size_row(result.reference_bytes, result.candidate_bytes),
        latency_row(*latencies, result.speedup, result.speedup_reason),
        *task_rows(result.quality, labelled=result.reference_accuracy is not None),
    ]


def output_rows(result: Comparison) -> list[tuple[str, list[str]]]:
    """Return how close each output is, and all of them where there are several: a text for each of `FIGURES`."""
    rows = [(output.name, output.fidelity) for output in result.outputs]
    if len(rows) != 1:
        rows.insert(0, ("all together", result.fidelity))
    return [(name, [_cell(figure, fidelity) for figure in FIGURES]) for name, fidelity in rows]


def _cell(figure: FidelityFigure, fidelity: FidelityFigures) -> str:
    value = getattr(fidelity, figure.key)
    return str(getattr(fidelity, reason_key(figure.key)) or "") if value is None else figure.text(value)
