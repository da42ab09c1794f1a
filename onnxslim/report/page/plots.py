"""The figures that pages show: what is drawn, and what it says to those who do not see it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from onnxslim.report.page.svg import AFTER, BAD, BEFORE, INK, drawing
from onnxslim.report.page.visible import shortened
from onnxslim.runtime.latency import Percentiles
from onnxslim.units import in_milliseconds

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

LABEL = 22
"""Letters of a name that stand beside a bar."""


WIDE = 8.0
"""Times that are so many times apart stand on a logarithmic axis."""


@dataclasses.dataclass(frozen=True)
class Plot:
    """A figure with its heading, and a line below it."""

    title: str
    svg: Markup
    caption: str = ""


def latency_plot(models: Sequence[tuple[str, Percentiles]]) -> Plot:
    """Return how the latencies of models are spread, and a line from the median to the slowest hundredth of the runs.

    The first of the models, which have names, is what the others are compared with.
    """

    def draw(axes: Axes) -> None:
        places = range(len(models), 0, -1)
        for place, (_, latency), colour in zip(places, models, colours, strict=True):
            if latency.quantiles:
                _density(axes, latency.quantiles, place, colour)
            axes.plot([latency.p50, latency.p99], [place, place], color=colour, linewidth=2, solid_capstyle="butt")
            axes.plot([latency.p95, latency.p99], [place, place], "|", color=colour, markersize=11, markeredgewidth=2)
            axes.plot([latency.p50], [place], "o", color=colour, markersize=9)
            text = in_milliseconds(latency.p50)
            axes.annotate(text, (latency.p50, place), (0, -9), textcoords="offset points", ha="center", va="top")
        axes.set_yticks(list(places), [shortened(name, LABEL) for name, _ in models])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.set_ylim(0.3, len(models) + 0.7)
        milliseconds_axis(axes, [time for _, times in models for time in (*times.quantiles[:1], times.p50, times.p99)])
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)

    colours = [BEFORE, *[AFTER] * (len(models) - 1)]
    words = "; ".join(
        f"{shortened(name, 60)}: median {in_milliseconds(times.p50)}, 95 % within {in_milliseconds(times.p95)}, "
        f"99 % within {in_milliseconds(times.p99)}"
        for name, times in models
    )
    svg = drawing("latency", "Latency of one inference", words, 64 + 58 * len(models), draw)
    return Plot(
        "Latency of one inference",
        svg,
        "Dot: the median. Hill: where the runs lie. Ticks: what 95 % and 99 % of the runs stay within.",
    )


def _density(axes: Axes, quantiles: Sequence[float], place: float, colour: str) -> None:
    """Draw how dense runs are along the axis: the closer two quantiles, the higher; the slowest 1 % is left out."""
    import numpy as np

    ends = np.asarray(quantiles[: max(2, len(quantiles) - 1)])
    edges = np.geomspace(max(ends[0], 1e-9), max(ends[-1], 1e-9), 41) if ends[-1] > ends[0] > 0 else ends[[0, -1]]
    if edges[-1] <= edges[0]:
        return
    shares = np.diff(np.interp(edges, ends, np.linspace(0, 1, len(ends))))
    heights = 0.42 * shares / shares.max()
    centres = np.sqrt(edges[1:] * edges[:-1])
    axes.fill_between(centres, place, place + heights, color=colour, alpha=0.35, linewidth=0)


def milliseconds_axis(axes: Axes, times: Sequence[float]) -> None:
    """Scale the horizontal axis for `times`: from zero, or by powers where a few of them would fill it alone."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = min(times), max(times)
    axes.set_xlabel("milliseconds")
    if low <= 0 or high < WIDE * low:
        axes.set_xlim(0, min(1.15 * high, 1e300) if high > 0 else 1)
        return
    axes.set_xscale("log")
    axes.set_xlim(low / 1.5, high * 1.3)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda time, _: f"{time:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("milliseconds (logarithmic)")


def error_plot(layers: Sequence[tuple[int, str, float]], count: int) -> Plot:
    """Return how the error grows over `count` layers: place, name and SQNR in decibels of those that were compared."""

    def draw(axes: Axes) -> None:
        places, decibels = [place for place, _, _ in layers], [decibel for _, _, decibel in layers]
        axes.plot(places, decibels, color=AFTER, linewidth=1.5, alpha=0.6)
        axes.plot(places, decibels, "o", color=AFTER, markersize=7 if len(layers) < 60 else 4)
        axes.plot([worst[0]], [worst[2]], "o", color=BAD, markersize=9)
        low, high = min(decibels), max(decibels)
        axes.set_ylim(low - 0.12 * (high - low) - 1, high + 0.12 * (high - low) + 1)
        axes.set_xlim(0.5, count + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("layer, in the order of the model")
        axes.set_ylabel("SQNR in dB")

    from matplotlib.ticker import MaxNLocator

    worst = min(layers, key=lambda layer: layer[2])
    name = shortened(worst[1], 60)
    words = f"{len(layers)} of {count} layers; the lowest, {worst[2]:.1f} dB, is that of {name}"
    title = "Error by layer"
    caption = (
        f"Signal to noise of the values that both models have; higher is closer. Lowest: {name}, {worst[2]:.1f} dB."
    )
    return Plot(title, drawing("errors", title, words, 210, draw), caption)
