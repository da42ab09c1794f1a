"""Every form of a pass that was tried, on plots of loss against size and speed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from onnxslim.pipeline.records import PassRecord, Report
from onnxslim.report.page.plots import Plot
from onnxslim.report.page.svg import BAD, GOOD, INK, MUTED, drawing
from onnxslim.report.page.visible import shortened
from onnxslim.runtime.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST = 60
"""Attempts that are drawn; more of them cover each other."""


@dataclasses.dataclass(frozen=True)
class Tried:
    """One attempt as it is drawn and listed."""

    number: int
    """Of the pass, from 1."""
    mark: str
    """The number, with a letter where several forms of the pass were tried: 2b."""
    name: str
    kept: bool
    loss: Interval | None
    size: float | None
    """How many times smaller than the original."""
    speed: float | None
    """How many times as fast as the original: of the passes kept before, times its own."""
    reason: str


def attempts_tried(passes: Sequence[PassRecord]) -> list[Tried]:
    """Return all attempts in their order."""
    found: list[Tried] = []
    speed = 1.0
    for number, step in enumerate(passes, 1):
        kept_speed = 1.0
        for index, form in enumerate(step.attempts):
            mark = f"{number}{_letter(index) if len(step.attempts) > 1 else ''}"
            own = None if form.latency is None else speed * form.latency.value
            kept = form.kept and step.kept
            tried = Tried(number, mark, step.name, kept, form.loss, form.size, own, form.reason)
            found.append(tried)
            if tried.kept and form.latency is not None:
                kept_speed = form.latency.value
        speed *= kept_speed
    return found


def attempts_view(report: Report) -> dict[str, Any]:
    """Return what the template shows of attempts: plots, and a list for each pass by its number."""
    tried = attempts_tried(report.passes)
    drawings = [
        _loss_plot(tried, name, label, report.budget.max_drop)
        for name, label in (("size", "times smaller than the original"), ("speed", "times as fast as the original"))
    ]
    lists = [
        [
            {
                "mark": attempt.mark,
                "kept": attempt.kept,
                "loss": "" if attempt.loss is None else _percent(attempt.loss),
                "size": "" if attempt.size is None else f"{attempt.size:.2f}× smaller",
                "reason": shortened(attempt.reason, 400),
            }
            for attempt in tried
            if attempt.number == number
        ][:MOST]
        for number, _ in enumerate(report.passes, 1)
    ]
    return {"attempt_plots": [plot for plot in drawings if plot], "attempts": lists}


def _letter(index: int) -> str:
    return chr(ord("a") + index % 26) * (1 + index // 26)


def _percent(loss: Interval) -> str:
    return f"{100 * loss.value:.2f} % lost ({100 * loss.low:.2f} to {100 * loss.high:.2f})"


def _loss_plot(tried: Sequence[Tried], name: str, label: str, budget: float | None) -> Plot | None:
    """Return the attempts whose loss is known, and the field `name` as well, with `label` on its axis."""
    points = [
        (form, form.loss, across)
        for form in tried[:MOST]
        if form.loss is not None and (across := getattr(form, name)) is not None
    ]
    if not points:
        return None

    def draw(axes: Axes) -> None:
        for form, loss, across in points:
            colour = GOOD if form.kept else BAD
            low, high = 100 * max(0.0, loss.value - loss.low), 100 * max(0.0, loss.high - loss.value)
            value = 100 * loss.value
            axes.errorbar([across], [value], yerr=[[low], [high]], fmt="none", ecolor=colour, alpha=0.5, linewidth=1.5)
            axes.plot([across], [value], "o" if form.kept else "X", color=colour, markersize=10)
            axes.annotate(form.mark, (across, value), (8, 6), textcoords="offset points", color=INK)
        if budget is not None:
            axes.axhline(100 * budget, color=MUTED, linestyle="--", linewidth=1.2)
            axes.annotate(
                "budget", (1, 100 * budget), (4, 0), xycoords=("axes fraction", "data"),
                textcoords="offset points", va="center", color=MUTED,
            )  # fmt: skip
        axes.margins(0.12)
        axes.set_xlabel(label)
        axes.set_ylabel("lost, in %")

    words = "; ".join(
        f"{form.mark} {shortened(form.name, 30)} {'' if form.kept else 'not '}kept: {_percent(loss)} at {across:.2f}"
        for form, loss, across in points
    )
    caption = "Circles were kept, crosses not; the numbers are those below. Lines: intervals of 95 %."
    title = f"Loss against {name}"
    return Plot(title, drawing(name, title, words, 250, draw), caption)
