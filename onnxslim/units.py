"""Numbers for people: with units, and ratios in words."""

from __future__ import annotations

from onnxslim.runtime.statistics import Interval

NOTHING = "-"


def in_bytes(count: float | None) -> str:
    """Return a size in kB, MB or GB (powers of 1000, as disks and file managers count)."""
    return NOTHING if count is None else _scaled(count, ((1e9, " GB"), (1e6, " MB"), (1e3, " kB")), " B")


def in_thousands(count: float | None) -> str:
    """Return a large number in thousands, millions or billions."""
    return NOTHING if count is None else _scaled(count, ((1e9, " G"), (1e6, " M"), (1e3, " k")), "")


def in_milliseconds(time: float | None) -> str:
    """Return a time that is given in milliseconds."""
    return NOTHING if time is None else _scaled(time, ((60e3, " min"), (1e3, " s"), (1, " ms")), " ms")


def in_millijoules(energy: float | None) -> str:
    """Return an energy that is given in millijoules."""
    return NOTHING if energy is None else _scaled(energy, ((1e3, " J"),), " mJ")


def in_decibels(ratio: float | None) -> str:
    """Return a ratio of energies that is given in decibels."""
    return NOTHING if ratio is None else f"{ratio:.1f} dB"


def per_second(rate: float | None) -> str:
    """Return a rate."""
    if rate is None:
        return NOTHING
    return f"{rate:,.0f} /s" if 100 <= rate < 1e6 else f"{in_thousands(rate)} /s"


def in_percent(share: float | None) -> str:
    """Return a share as percent; a number that is no share (a metric that exceeds 1) as it is."""
    if share is None:
        return NOTHING
    return f"{share:.2%}".replace("%", " %") if 0 <= share <= 1 else f"{share:.4g}"


def with_interval(interval: Interval | None, digits: int = 2, scale: float = 1.0, unit: str = "") -> str:
    """Return ``28.70 dB (28.50 to 28.90)``."""
    if interval is None:
        return NOTHING
    value, low, high = (f"{scale * number:.{digits}f}" for number in (interval.value, interval.low, interval.high))
    return f"{value}{unit} ({low} to {high})"


def times(ratio: float | None, above: str, below: str) -> str:
    """Return before / after as words, `above` for ratios over 1: ``2.31x smaller``, ``1.20x larger``, ``the same``."""
    if ratio is None or ratio <= 0:
        return NOTHING
    if round(ratio, 2) == 1 or round(1 / ratio, 2) == 1:
        return "the same"
    return f"{ratio:.2f}x {above}" if ratio > 1 else f"{1 / ratio:.2f}x {below}"


def speed(ratio: Interval | None) -> str:
    """Return a paired ratio of latencies as words: ``2.31x faster (2.25 to 2.37)``.

    Where the interval holds 1, which one is faster cannot be told, and the words say so.
    """
    if ratio is None:
        return NOTHING
    if ratio.low <= 1 <= ratio.high:
        return f"no clear difference ({ratio.low:.2f}x to {ratio.high:.2f}x)"
    if ratio.value > 1:
        return f"{ratio.value:.2f}x faster ({ratio.low:.2f} to {ratio.high:.2f})"
    return f"{1 / ratio.value:.2f}x slower ({1 / ratio.high:.2f} to {1 / ratio.low:.2f})"


def _scaled(number: float, steps: tuple[tuple[float, str], ...], smallest: str) -> str:
    for size, unit in steps:
        if abs(number) >= size:
            return f"{_three_digits(number / size)}{unit}"
    return f"{number:.0f}{smallest}" if number == int(number) else f"{_three_digits(number)}{smallest}"


def _three_digits(number: float) -> str:
    """Return a number with three digits that count, and more where the point stands behind them."""
    return f"{number:#.3g}".rstrip(".") if abs(number) < 999.5 else f"{number:.0f}"
