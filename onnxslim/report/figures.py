"""The figures before and after as rows that a person reads: the terminal prints them, and the page shows them."""

from __future__ import annotations

import dataclasses

from onnxslim.pipeline.records import DataSource, QualityFigures, Report, reason_key
from onnxslim.quality.measure import MeasuredFigure
from onnxslim.runtime.latency import Percentiles
from onnxslim.runtime.statistics import Interval
from onnxslim.runtime.target import Target
from onnxslim.units import (
    NOTHING,
    in_bytes,
    in_millijoules,
    in_milliseconds,
    in_percent,
    in_thousands,
    per_second,
    speed,
    times,
    with_interval,
)


@dataclasses.dataclass(frozen=True)
class FigureRow:
    """One figure of two models, with units."""

    label: str
    before: str
    after: str
    change: str
    """What that means, or why there is nothing to compare."""


def figure_rows(report: Report) -> list[FigureRow]:
    """Return a row for each figure that a report has or gives a reason for."""
    before, after, ratio, fidelity = report.before, report.after, report.ratio, report.fidelity
    rows = [
        size_row(before.size_bytes, after.size_bytes),
        size_row(before.compressed_bytes, after.compressed_bytes, "  compressed"),
    ]
    for label, key, per in (("Parameters", "parameters", ratio.parameters), ("MACs", "macs", ratio.macs)):
        old, new = (in_thousands(getattr(figures, key)) for figures in (before, after))
        rows.append(FigureRow(label, old, new, times(per, "fewer", "more")))
    nodes = times(before.nodes / after.nodes, "fewer", "more") if before.nodes and after.nodes else ""
    rows.append(FigureRow("Nodes", f"{before.nodes:,}", f"{after.nodes:,}", nodes))
    rows.append(latency_row(before.latency_ms, after.latency_ms, ratio.latency, ratio.latency_reason))
    for label, key, show in (
        ("Loading", "load_ms", in_milliseconds),
        ("First run", "first_run_ms", in_milliseconds),
        ("Throughput", "throughput_per_s", per_second),
        ("Peak memory", "peak_memory_bytes", in_bytes),
        ("Energy", "energy_mj", in_millijoules),
    ):
        old, new = getattr(before, key), getattr(after, key)
        change = times(old / new, "less", "more") if old and new else _reason(report, key)
        rows.append(FigureRow(label, show(old), show(new), change))
    if before.accuracy is None and report.data.labels:
        rows.append(FigureRow("Accuracy", NOTHING, NOTHING, _reason(report, "accuracy")))
    rows += task_rows(report.quality, labelled=before.accuracy is not None)
    sqnr = with_interval(fidelity.sqnr_db, 1, 1.0, " dB") if fidelity.sqnr_db else fidelity.sqnr_reason
    rows.append(FigureRow("SQNR", "", "", sqnr or ""))
    return rows


def size_row(before: int, after: int, label: str = "Size") -> FigureRow:
    """Return the row of two sizes in bytes."""
    return FigureRow(label, in_bytes(before), in_bytes(after), times(before / max(1, after), "smaller", "larger"))


def latency_row(
    before: Percentiles | None, after: Percentiles | None, ratio: Interval | None, untimed: str | None
) -> FigureRow:
    """Return the row of two latencies with their ratio, or why there are none."""
    old, new = (in_milliseconds(latency.p50 if latency else None) for latency in (before, after))
    return FigureRow("Latency, median", old, new, speed(ratio) if ratio else untimed or "")


def task_rows(quality: QualityFigures, *, labelled: bool) -> list[FigureRow]:
    """Return a row for each figure of the task: before, after, and the change with its interval.

    Without labels the original is right by definition: then there is no before, and after has the interval.
    """
    if quality.metric is None:
        return [FigureRow("Quality", "", "", quality.metric_reason or "")]
    rows = []
    for figure in quality.figures:
        name = figure.name.capitalize() if figure.name.islower() else figure.name
        before, after = (_amount(interval.value, figure.unit) for interval in (figure.before, figure.after))
        if labelled:
            rows.append(FigureRow(name, before, after, _with_change(figure)))
        else:
            ends = " to ".join(_amount(end, figure.unit) for end in (figure.after.low, figure.after.high))
            rows.append(FigureRow(name, "", after, f"{ends}, against the original"))
    return rows


def judgement(quality: QualityFigures) -> list[str]:
    """Return which metric judged and why, what was lost in its terms, and the noise of slices of another scale."""
    if quality.metric is None or quality.loss is None:
        return []
    loss = quality.loss
    ends = " to ".join(f"{100 * end:.2f} %" for end in (loss.low, loss.high))
    lines = [
        f"Metric: {quality.metric}: {quality.chosen}",
        f"Lost: {100 * loss.value:.2f} % of {quality.lost} ({ends})",
    ]
    for output in quality.outputs:
        if output.slices:
            parts = (
                f"{part.name} {with_interval(part.sqnr_db, 1, 1.0, ' dB') if part.sqnr_db else part.sqnr_reason}"
                for part in output.slices
            )
            lines.append(f"SQNR within {output.name}: {', '.join(parts)}")
    return lines


def data_words(data: DataSource) -> str:
    """Return what was measured on."""
    if data.synthetic:
        return "The data is synthetic: speed and size are real, accuracy and agreement say nothing about your data."
    count = f"{data.samples:,} sample{'s' * (data.samples != 1)}"
    return f"Measured on {count} {'with' if data.labels else 'without'} labels: {data.source}"


def target_words(target: Target) -> str:
    """Return where it was measured: ``cpu avx512_vnni, 2 threads (Xeon)``."""
    threads = f"{target.threads} thread{'s' * (target.threads != 1)}"
    return f"{target.provider} {target.instruction_set}, {threads} ({target.device})"


def _amount(value: float, unit: str) -> str:
    return in_percent(value) if unit == "%" else f"{value:.4g}{unit and ' '}{unit}"


def _with_change(figure: MeasuredFigure) -> str:
    change = figure.change
    if figure.unit != "%":
        return f"{change.value:+.4g} ({change.low:+.4g} to {change.high:+.4g})"
    value, low, high = (f"{100 * number:+.2f}" for number in (change.value, change.low, change.high))
    return f"{value} points ({low} to {high})"


def _reason(report: Report, key: str) -> str:
    name = reason_key(key)
    return getattr(report.after, name) or getattr(report.before, name) or ""
