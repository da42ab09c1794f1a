"""The few large figures at the top of a page."""

from __future__ import annotations

import dataclasses

from onnxslim.pipeline.records import Budget, FidelityFigures, Figures, QualityFigures, Report
from onnxslim.report.page.visible import shortened
from onnxslim.runtime.latency import Percentiles
from onnxslim.runtime.statistics import Interval
from onnxslim.units import in_bytes, in_milliseconds, in_percent

GOOD, BAD, NEITHER = "good", "bad", ""


@dataclasses.dataclass(frozen=True)
class Tile:
    """One large figure."""

    label: str
    value: str
    unit: str
    detail: str
    mood: str = NEITHER


def report_tiles(report: Report) -> list[Tile]:
    """Return size, speed, quality and budget of a report, as far as they are known."""
    before, after = report.before, report.after
    tiles = [size_tile(before.size_bytes, after.size_bytes, _compressed(before, after))]
    tiles += latency_tiles(report.ratio.latency, before.latency_ms, after.latency_ms)
    quality = quality_tile(report.quality, report.fidelity, labelled=before.accuracy is not None)
    if quality is not None:
        tiles.append(quality)
    if report.budget.max_drop is not None:
        tiles.append(Tile("Budget", "✓ met", "", _limit(report.budget), GOOD))
    return tiles


def _limit(budget: Budget) -> str:
    """Return what may be lost, how sure that has to be, and how many samples would settle it."""
    text = f"at most {in_percent(budget.max_drop)} may be lost"
    if budget.confidence is not None:
        text += f", at {100 * budget.confidence:g} % confidence"
    if budget.samples_needed is not None:
        text += f"; about {budget.samples_needed:,} samples would settle it"
    return text


def _compressed(before: Figures, after: Figures) -> str:
    return f"; compressed {in_bytes(before.compressed_bytes)} → {in_bytes(after.compressed_bytes)}"


def size_tile(before: int, after: int, more: str = "") -> Tile:
    """Return how many times smaller a file of `after` bytes is than one of `before`; `more` is said of it besides."""
    detail = f"{in_bytes(before)} → {in_bytes(after)}{more}"
    return ratio_tile("Size", before / max(1, after), "smaller", "larger", detail)


def latency_tiles(ratio: Interval | None, before: Percentiles | None, after: Percentiles | None) -> list[Tile]:
    """Return how many times as fast a model is, with both medians; nothing where it was not timed."""
    if ratio is None or before is None or after is None:
        return []
    detail = f"{in_milliseconds(before.p50)} → {in_milliseconds(after.p50)}"
    if ratio.low <= 1 <= ratio.high:
        return [Tile("Speed", "the same", "", f"{detail} ({ratio.low:.2f}× to {ratio.high:.2f}×)")]
    inverse = Interval(1 / ratio.value, 1 / ratio.high, 1 / ratio.low)
    shown, word, mood = (ratio, "faster", GOOD) if ratio.value > 1 else (inverse, "slower", BAD)
    return [Tile("Speed", f"{_two(shown.value)}×", word, f"{detail} ({_two(shown.low)} to {_two(shown.high)})", mood)]


def ratio_tile(label: str, ratio: float, above: str, below: str, detail: str) -> Tile:
    """Return before divided by after in words."""
    if ratio <= 0 or round(ratio, 2) == 1 or round(1 / ratio, 2) == 1:
        return Tile(label, "the same", "", detail)
    if ratio > 1:
        return Tile(label, f"{_two(ratio)}×", above, detail, GOOD)
    return Tile(label, f"{_two(1 / ratio)}×", below, detail, BAD)


def quality_tile(quality: QualityFigures, fidelity: FidelityFigures, *, labelled: bool) -> Tile | None:
    """Return the most telling figure of the task, or how close the outputs are; None where nothing is known."""
    for figure in quality.figures[:1]:
        label = shortened(figure.name.capitalize() if figure.name.islower() else figure.name, 40)
        before, after = figure.before.value, figure.after.value
        if not labelled and figure.unit == "%":
            return Tile(f"{label}, as the original", in_percent(after), "", _between(figure.after, 100, " %"))
        if figure.unit == "%" and 0 <= before <= 1 and 0 <= after <= 1:
            change = f"{in_percent(before)} → {in_percent(after)}"
            return Tile(label, _signed(100 * (after - before)), "points", change)
        return Tile(label, f"{after - before:+.4g}", "", f"{before:.4g} → {after:.4g}")
    if fidelity.sqnr_db is not None:
        return Tile("Signal to noise", f"{fidelity.sqnr_db.value:.1f}", "dB", _between(fidelity.sqnr_db, 1, " dB"))
    return Tile("Outputs", "the same", "", "no difference at all") if fidelity.max_abs_error == 0 else None


def _between(interval: Interval, scale: float, unit: str) -> str:
    return f"95 % interval {scale * interval.low:.4g} to {scale * interval.high:.4g}{unit}"


def _signed(number: float) -> str:
    text = f"{number:+.2f}"
    return "0.00" if float(text) == 0 else text.replace("-", "−")


def _two(ratio: float) -> str:
    return f"{ratio:#.3g}".rstrip(".") if ratio < 999.5 else f"{ratio:,.0f}"
