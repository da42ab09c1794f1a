"""The page of a run of optimize."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from onnxslim.diagnostic import Diagnostic
from onnxslim.report.figures import figure_rows
from onnxslim.report.model import PassRecord, Report
from onnxslim.report.page.bars import Bars, share
from onnxslim.report.page.layers import breakdown_view
from onnxslim.report.page.plots import latency_plot
from onnxslim.report.page.rendering import render
from onnxslim.report.page.tiles import report_tiles
from onnxslim.report.page.visible import shortened
from onnxslim.report.units import in_thousands
from onnxslim.runner.target import Target

TOP_NOTES = 400
"""How many changes of passes are shown, in all."""
TOP_LAYERS = 40
"""How many layers are shown."""
TOP_WARNINGS = 40
LONGEST = 300
"""Letters of a name, option or reason that are shown: a page of hostile names must stay small."""


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
            "measured": _measured(report),
            "rows": figure_rows(report),
            "latency": latency_plot(latencies) if latencies else None,
            **breakdown_view(report.breakdown),
            "widths": [] if report.breakdown else widths[:TOP_LAYERS],
            "more_widths": f"{len(widths) - TOP_LAYERS:,}" if len(widths) > TOP_LAYERS else "",
            "steps": [_step(step, max(3, TOP_NOTES // len(report.passes))) for step in report.passes],
            "made": report.reproduction,
            "provenance": _provenance(report),
        },
    )


def warnings_view(diagnostics: Sequence[Diagnostic]) -> list[Diagnostic]:
    """Return warnings as they are shown: the first of them, and not too long."""
    return [
        Diagnostic(each.code, shortened(each.message, 3 * LONGEST), shortened(each.hint, 3 * LONGEST))
        for each in diagnostics[:TOP_WARNINGS]
    ]


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


def target_words(target: Target) -> str:
    """Return where something ran: ``cpu avx512_vnni, 2 threads (Xeon)``."""
    threads = f"{target.threads} thread{'s' * (target.threads != 1)}"
    return f"{target.provider} {target.instruction_set}, {threads} ({target.device})"


def _measured(report: Report) -> str:
    data = report.data
    if data.synthetic:
        return (
            "The data is synthetic: random numbers that fit the inputs. Speed and size are real, accuracy and "
            "agreement say nothing about your data."
        )
    count = "samples" if data.samples is None else f"{data.samples:,} sample{'s' * (data.samples != 1)}"
    words = f"Quality is that on {count} {'with' if data.labels else 'without'} labels ({data.source})"
    judged = f" Judged by {report.quality.metric}: {report.quality.chosen}." if report.quality.metric else ""
    return f"{shortened(words, 2 * LONGEST)}; intervals are those of 95 %.{shortened(judged, 4 * LONGEST)}"


def _step(step: PassRecord, most: int) -> dict[str, Any]:
    """Return what is shown of a pass, with at most `most` of its changes."""
    notes = [
        {
            "subject": shortened(note.subject, LONGEST),
            "action": shortened(note.action, LONGEST),
            "reason": shortened(note.reason, LONGEST),
        }
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
    changed = [(step, each) for step in report.passes if step.kept for each in step.layers]
    changed.sort(key=lambda pair: pair[1].macs_after - pair[1].macs_before)
    longest = max((max(each.macs_before, each.macs_after) for _, each in changed), default=0)
    return [
        {
            "layer": shortened(each.layer, LONGEST),
            "op": shortened(each.op, 60),
            "step": shortened(step.name, 60),
            "width": f"{each.before:,} → {each.after:,} {shortened(each.quantity, 60)}",
            "macs": Bars(
                share(each.macs_before, longest),
                share(each.macs_after, longest),
                in_thousands(each.macs_before),
                in_thousands(each.macs_after),
            ),
        }
        for step, each in changed
    ]


def _provenance(report: Report) -> list[tuple[str, str]]:
    data = report.data
    facts = [("seed", str(report.seed)), ("target", target_words(report.target))]
    samples = "an unknown number of samples" if data.samples is None else f"{data.samples:,} samples"
    facts.append(("data", f"{samples}, {data.source}"))
    if report.reproduction is not None:
        facts.append(("versions", ", ".join(f"{name} {each}" for name, each in report.reproduction.versions.items())))
    for name, file in (("input", report.input), ("output", report.output)):
        facts.append((name, file.path or file.path_reason or ""))
        if file.sha256 is not None:
            facts.append((f"SHA-256 of the {name}", file.sha256))
    return [(name, shortened(text, 3 * LONGEST)) for name, text in facts]
