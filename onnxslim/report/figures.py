"""The figures before and after as rows that a person reads: the terminal prints them, and the page shows them."""

from __future__ import annotations

import dataclasses

from onnxslim.report.model import Figures, Report, reason_key
from onnxslim.report.units import (
    in_bytes,
    in_millijoules,
    in_milliseconds,
    in_percent,
    in_points,
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
    sizes = in_bytes(before.size_bytes), in_bytes(after.size_bytes)
    rows = [FigureRow("Size", *sizes, times(ratio.size, "smaller", "larger"))]
    for label, key, per in (("Parameters", "parameters", ratio.parameters), ("MACs", "macs", ratio.macs)):
        old, new = (in_thousands(getattr(figures, key)) for figures in (before, after))
        rows.append(FigureRow(label, old, new, times(per, "fewer", "more")))
    nodes = _change(before.nodes, after.nodes, "fewer", "more")
    rows.append(FigureRow("Nodes", f"{before.nodes:,}", f"{after.nodes:,}", nodes))
    latency = speed(ratio.latency) if ratio.latency else ratio.latency_reason or ""
    rows.append(FigureRow("Latency, median", _median(before), _median(after), latency))
    for label, key, show, less in (
        ("Loading", "load_ms", in_milliseconds, "less"),
        ("First run", "first_run_ms", in_milliseconds, "less"),
        ("Throughput", "throughput_per_s", per_second, "less"),
        ("Peak memory", "peak_memory_bytes", in_bytes, "less"),
        ("Energy", "energy_mj", in_millijoules, "less"),
    ):
        old, new = getattr(before, key), getattr(after, key)
        change = _change(old, new, less, "more") or _reason(report, key)
        rows.append(FigureRow(label, show(old), show(new), change))
    rows.append(FigureRow("Accuracy", in_percent(before.accuracy), in_percent(after.accuracy), _accuracy(report)))
    for label, key, digits, scale, unit in (
        ("Agreement", "agreement", 2, 100.0, " %"),
        ("SQNR", "sqnr_db", 1, 1.0, " dB"),
    ):
        interval = getattr(fidelity, key)
        reason = getattr(fidelity, reason_key(key)) or ""
        change = with_interval(interval, digits, scale, unit) if interval else reason
        rows.append(FigureRow(label, "", "", change))
    return rows


def _median(figures: Figures) -> str:
    return in_milliseconds(figures.latency_ms.p50 if figures.latency_ms else None)


def _change(before: float | None, after: float | None, less: str, more: str) -> str:
    return times(before / after, less, more) if before and after else ""


def _reason(report: Report, key: str) -> str:
    name = reason_key(key)
    return getattr(report.after, name) or getattr(report.before, name) or ""


def _accuracy(report: Report) -> str:
    before, after = report.before.accuracy, report.after.accuracy
    if before is None or after is None:
        return _reason(report, "accuracy")
    return in_points(before, after)
