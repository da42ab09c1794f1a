"""The page of a run of optimize."""

from __future__ import annotations

import json
import pathlib
from typing import Any

from onnxslim.pipeline.records import PassRecord, Report
from onnxslim.report.figures import data_words, figure_rows, judgement, target_words
from onnxslim.report.page.attempts import attempts_view
from onnxslim.report.page.bars import Bars
from onnxslim.report.page.facts import LONGEST, provenance, warnings_view
from onnxslim.report.page.layers import breakdown_view
from onnxslim.report.page.plots import latency_plot
from onnxslim.report.page.rendering import render
from onnxslim.report.page.sensitivity import sensitivity_view
from onnxslim.report.page.tiles import report_tiles
from onnxslim.report.page.visible import shortened
from onnxslim.units import in_thousands

TOP_NOTES = 400
"""How many changes of passes are shown, in all."""
TOP_LAYERS = 40
"""How many layers are shown."""


def optimization_page(report: Report) -> str:
    """Return the page of `report`."""
    names = [_file_name(report.input.path, "a model in memory"), _file_name(report.output.path, "")]
    latencies = [
        (name, figures.latency_ms)
        for name, figures in (("before", report.before), ("after", report.after))
        if figures.latency_ms is not None
    ]
    widths = _widths(report)
    return render(
        "optimization.html",
        {
            "version": report.onnxslim,
            "title": f"{names[0]} → {names[1]}" if names[1] else names[0],
            "names": names,
            "summary": _summary(report),
            "tiles": report_tiles(report),
            "warnings": warnings_view(report.diagnostics),
            "measured": data_words(report.data),
            "judgement": judgement(report.quality),
            "rows": figure_rows(report),
            "latency": latency_plot(latencies) if latencies else None,
            **breakdown_view(report.breakdown),
            "widths": [] if report.breakdown else widths[:TOP_LAYERS],
            "more_widths": f"{len(widths) - TOP_LAYERS:,}" if len(widths) > TOP_LAYERS else "",
            **sensitivity_view(report),
            **attempts_view(report),
            "steps": [_step(step, max(3, TOP_NOTES // len(report.passes))) for step in report.passes],
            "made": report.reproduction,
            "provenance": _provenance(report),
        },
    )


def _file_name(path: str | None, otherwise: str) -> str:
    return otherwise if path is None else shortened(pathlib.PurePath(path).name, 80)


def _summary(report: Report) -> str:
    kept = [step.name for step in report.passes if step.kept]
    dropped = [step.name for step in report.passes if not step.kept]
    parts = [f"Kept: {', '.join(kept) or 'no pass'}."]
    if dropped:
        parts.append(f"Not kept: {', '.join(dropped)}.")
    parts.append(f"Measured on {target_words(report.target)}.")
    return shortened(" ".join(parts), 2 * LONGEST)


def _step(step: PassRecord, most: int) -> dict[str, Any]:
    """Return what is shown of a pass, with at most `most` of its changes."""
    notes = [
        {name: shortened(getattr(note, name), LONGEST) for name in ("subject", "action", "reason")}
        for note in step.changes[:most]
    ]
    return {
        "name": shortened(step.name, 60),
        "kept": step.kept,
        "reason": shortened(step.reason, 4 * LONGEST),
        "facts": f"{step.kind} · {step.nodes[0]:,} → {step.nodes[1]:,} nodes · {step.seconds:.1f} s",
        "options": [
            (shortened(name, 60), shortened(json.dumps(value, ensure_ascii=False), LONGEST))
            for name, value in step.options.items()
        ],
        "changes": notes,
        "count": f"{len(step.changes):,}",
        "more": f"{len(step.changes) - most:,}" if len(step.changes) > most else "",
    }


def _widths(report: Report) -> list[dict[str, Any]]:
    """Return the layers that got thinner in passes that were kept, those first that save the most."""
    changed = [(step, layer) for step in report.passes if step.kept for layer in step.layers]
    changed.sort(key=lambda pair: pair[1].macs_after - pair[1].macs_before)
    longest = max((max(layer.macs_before, layer.macs_after) for _, layer in changed), default=0)
    return [
        {
            "layer": shortened(layer.layer, LONGEST),
            "op": shortened(layer.op, 60),
            "step": shortened(step.name, 60),
            "width": f"{layer.before:,} → {layer.after:,} {shortened(layer.quantity, 60)}",
            "macs": Bars.of(layer.macs_before, layer.macs_after, longest, in_thousands),
        }
        for step, layer in changed
    ]


def _provenance(report: Report) -> list[tuple[str, str]]:
    facts = [("data", data_words(report.data)), *provenance(report.target, report.seed, report.reproduction)]
    for name, file in (("input", report.input), ("output", report.output)):
        facts.append((name, file.path or file.path_reason or ""))
        if file.sha256 is not None:
            facts.append((f"SHA-256 of the {name}", file.sha256))
    return [(name, shortened(text, 3 * LONGEST)) for name, text in facts]
