"""The part of a page that says what each layer costs where it alone is changed, and what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from onnxslim.pipeline.interface import IN_FLOAT, LayerSensitivity
from onnxslim.pipeline.records import Report
from onnxslim.report.page.bars import Bars
from onnxslim.report.page.plots import Plot
from onnxslim.report.page.svg import AFTER, BAD, BEFORE, drawing
from onnxslim.report.page.visible import shortened
from onnxslim.units import in_bytes, in_decibels, in_milliseconds, in_percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PASSES = 3
"""Passes that are shown."""
TOP = 12
"""Layers of each that are listed: those that cost most."""
POINTS = 400
"""Layers of each that are drawn."""
LIMIT = 400.0
"""Decibels beyond which a layer is drawn at the edge: float64 resolves no more."""


def sensitivity_view(report: Report) -> dict[str, Any]:
    """Return what the template shows of each pass that says what layers cost."""
    shown: list[dict[str, Any]] = []
    for step in report.passes:
        measured = [
            (place, row) for place, row in enumerate(step.sensitivity, 1) if row.sqnr_db is not None and row.share
        ]
        if not measured or len(shown) == PASSES:
            continue
        costly = sorted(measured, key=lambda pair: -(pair[1].share or 0.0))
        most = max(max(row.bytes_before, row.bytes_after) for _, row in costly[:TOP])
        shown.append(
            {
                "step": shortened(step.name, 60),
                "places": ", ".join(dict.fromkeys(shortened(row.measured_on, 40) for _, row in costly[:TOP])),
                "plot": _plot(f"costs{len(shown)}", costly[:POINTS], len(step.sensitivity)),
                "rows": [_row(row, most) for _, row in costly[:TOP]],
                "more": f"{len(measured) - TOP:,}" if len(measured) > TOP else "",
            }
        )
    return {"costs": shown}


def _row(row: LayerSensitivity, most: int) -> dict[str, Any]:
    return {
        "name": shortened(row.layer, 200),
        "op": shortened(row.op, 40),
        "became": shortened(row.became, 40),
        "why": shortened(row.why, 400),
        "alone": in_decibels(row.sqnr_db),
        "share": in_percent(row.share),
        "weight": Bars.of(row.bytes_before, row.bytes_after, most, in_bytes) if row.bytes_before else None,
        "saves": "" if row.saved_ms is None else in_milliseconds(row.saved_ms),
    }


def _plot(name: str, layers: Sequence[tuple[int, LayerSensitivity]], count: int) -> Plot | None:
    """Return the signal to noise of layers by their places, the costliest first; None of one."""
    if len(layers) < 2:
        return None
    decibels = {place: min(max(row.sqnr_db or 0.0, -LIMIT), LIMIT) for place, row in layers}
    place, worst = layers[0]

    def draw(axes: Axes) -> None:
        size = 7 if len(layers) < 60 else 4
        for colour, kept in ((AFTER, False), (BEFORE, True)):
            own = [index for index, row in layers if (row.became == IN_FLOAT) is kept]
            axes.plot(own, [decibels[index] for index in own], "o", color=colour, markersize=size)
        axes.plot([place], [decibels[place]], "o", color=BAD, markersize=9, fillstyle="none", markeredgewidth=2)
        low, high = min(decibels.values()), max(decibels.values())
        axes.set_ylim(low - 0.12 * (high - low) - 1, high + 0.12 * (high - low) + 1)
        axes.set_xlim(0.5, count + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("layer, in the order of the model")
        axes.set_ylabel("SQNR in dB")

    from matplotlib.ticker import MaxNLocator

    label = shortened(worst.layer, 60)
    costs = f"{in_decibels(worst.sqnr_db)}, {in_percent(worst.share)} of the noise"
    words = f"{len(layers)} of {count} layers; {label} costs most: {costs}"
    caption = f"Each layer alone; lower costs more. Grey: left in float. Ring: costs most: {label}, {costs}."
    title = "Noise of each layer alone"
    return Plot(title, drawing(name, title, words, 210, draw), caption)
