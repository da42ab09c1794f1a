"""Fidelity: the error of the outputs of one model against another, from sums per sample."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim.quality.metric import Slice, by_sample
from onnxslim.runtime.statistics import Interval, bootstrap, wilson
from onnxslim.units import with_interval

IDENTICAL = "the outputs are identical"
CEILING_DB = 150.0
"""SQNR of resamples without noise, above the resolution of float32 (24 bits of 6.02 dB)."""


Estimate = Interval | float


@dataclasses.dataclass(frozen=True)
class FidelityFigure:
    """One figure of how close outputs are: its key in JSON, how it is computed, what it means, and how it is shown."""

    key: str
    title: str
    of: Callable[[Tally, np.random.Generator], Estimate | None]
    """Returns the figure of one output; None: it does not apply."""
    worst: Callable[[Sequence[Any]], Estimate]
    """Returns that of the outputs' figures which stands for the model."""
    help: str
    digits: int = 3
    unit: str = ""
    scale: float = 1.0
    kind: type[Interval] | type[float] = Interval
    of_floats: bool = True
    """Whether it is computed from floats: of finite outputs of equal shapes alone."""

    def text(self, value: Estimate) -> str:
        """Return a value as people read it; of a number without interval `digits` are those that count."""
        if isinstance(value, Interval):
            return with_interval(value, self.digits, self.scale, self.unit)
        return f"{value:.{self.digits}g}{self.unit}"


@dataclasses.dataclass(frozen=True)
class Fidelity:
    """Fidelity of a model, which is that of its worst output, of an output, or of a slice of one."""

    name: str
    values: Mapping[str, Estimate]
    """The figures that apply, by key."""
    reason: str | None = None
    """Why a figure does not apply: identical outputs have no finite SQNR; outputs that are not finite have none."""
    parts: tuple[Fidelity, ...] = ()
    """The outputs of a model; the parts of an output with different scales."""

    def __getitem__(self, key: str) -> Any:
        """Return a figure; None: it does not apply."""
        return self.values.get(key)


@dataclasses.dataclass
class Tally:
    """Sums of one output for each sample."""

    name: str
    decisions: list[float] = dataclasses.field(default_factory=list)
    """Share of equal elements per sample, for outputs that are not of floats."""
    sums: list[list[float]] = dataclasses.field(default_factory=list)
    """Energies of the reference, the difference and the candidate, and their inner product, per sample."""
    max_abs_error: float = 0.0
    not_finite: int = 0
    """Number of samples with a NaN or infinity in one of the two outputs that the other does not have."""
    other_shape: int = 0
    parts: tuple[tuple[Slice, Tally], ...] = ()
    """Slices with their tallies."""

    def add(self, reference: Any, candidate: Any) -> None:
        """Add the outputs of one sample."""
        if not (_is_float(reference) and _is_float(candidate)):
            self.decisions.append(equal_share(reference, candidate))
            return
        if reference.shape != candidate.shape:
            self.other_shape += 1
            return
        for part, tally in self.parts:
            if reference.ndim >= -part.axis:
                tally.add(*(_cut(side, part) for side in (reference, candidate)))
        expected, actual = reference.astype(np.float64), candidate.astype(np.float64)
        finite = np.isfinite(expected) & np.isfinite(actual)
        broken = ~finite & ~((expected == actual) | (np.isnan(expected) & np.isnan(actual)))
        self.not_finite += bool(broken.any())
        expected, actual = np.where(finite, expected, 0.0), np.where(finite, actual, 0.0)
        noise = expected - actual
        pairs = (expected, expected), (noise, noise), (actual, actual), (expected, actual)
        self.sums.append([float(np.vdot(left, right)) for left, right in pairs])
        self.max_abs_error = max(self.max_abs_error, float(np.abs(noise).max(initial=0.0)))

    @functools.cached_property
    def rows(self) -> npt.NDArray[np.float64]:
        """The sums, shape [samples, 4]; to be read when all samples were added."""
        return np.asarray(self.sums, np.float64).reshape(-1, 4)

    @property
    def has_signal(self) -> bool:
        """Whether the reference is not all zeros."""
        return bool(self.rows[:, 0].any())

    @property
    def has_noise(self) -> bool:
        """Whether the outputs differ."""
        return bool(self.rows[:, 1].any())

    @property
    def broken(self) -> bool:
        """Whether the outputs cannot be compared as floats."""
        return bool(self.other_shape or self.not_finite)

    def result(self, generator: np.random.Generator) -> Fidelity:
        """Return the fidelity of the output."""
        parts = tuple(tally.result(generator) for _, tally in self.parts)
        comparable = bool(self.sums) and not self.broken
        found = [(figure.key, figure.of(self, generator)) for figure in FIGURES if comparable or not figure.of_floats]
        return Fidelity(self.name, {key: value for key, value in found if value is not None}, self._reason(), parts)

    def _reason(self) -> str | None:
        if self.other_shape:
            return f"{self.name} has another shape"
        if self.not_finite:
            count = f"{self.not_finite} of {len(self.sums)} samples"
            return f"{self.name} is NaN or infinite in {count}, unlike the original"
        if not self.sums:
            return f"{self.name} is not of floats"
        if not self.has_noise:
            return IDENTICAL
        return None if self.has_signal else f"{self.name} is all zeros in the original"


def sqnr_db(rows: npt.NDArray[np.float64]) -> float:
    """Return the SQNR in dB from the sums of samples, shape [n, 4] (see `Tally.sums`)."""
    signal, noise = rows[:, 0].sum(), rows[:, 1].sum()
    if signal == 0:
        return CEILING_DB if noise == 0 else -CEILING_DB
    return min(CEILING_DB, 10 * math.log10(signal / noise)) if noise > 0 else CEILING_DB


def cosine(rows: npt.NDArray[np.float64]) -> float:
    """Return the cosine from the sums of samples, shape [n, 4] (see `Tally.sums`); 0 if one side is all zeros."""
    length = math.sqrt(rows[:, 0].sum()) * math.sqrt(rows[:, 2].sum())
    return float(np.clip(rows[:, 3].sum() / length, -1.0, 1.0)) if length > 0 else 0.0


def _agreement(tally: Tally, generator: np.random.Generator) -> Interval | None:
    return wilson(sum(tally.decisions), len(tally.decisions)) if tally.decisions else None


def _sqnr_db(tally: Tally, generator: np.random.Generator) -> Interval | None:
    return bootstrap(tally.rows, sqnr_db, generator) if tally.has_signal and tally.has_noise else None


def _cosine(tally: Tally, generator: np.random.Generator) -> Interval | None:
    if not tally.has_noise:
        return Interval(1.0, 1.0, 1.0)
    return bootstrap(tally.rows, cosine, generator) if tally.has_signal else None


def _max_abs_error(tally: Tally, generator: np.random.Generator) -> float:
    return tally.max_abs_error if tally.has_noise else 0.0


def _first(intervals: Sequence[Interval]) -> Interval:
    return intervals[0]


def _lowest(intervals: Sequence[Interval]) -> Interval:
    return min(intervals, key=lambda interval: interval.value)


AGREEMENT = "share of decisions that both models make alike, as the metric counts them"
SQNR = "signal to quantization noise, in decibels; null where nothing differs"
COSINE = "cosine of the angle between the outputs; 1 is the same direction"
LARGEST = "largest difference of any output value"
FIGURES = (
    FidelityFigure("agreement", "agreement", _agreement, _first, AGREEMENT, 2, " %", 100.0, of_floats=False),
    FidelityFigure("sqnr_db", "SQNR", _sqnr_db, _lowest, SQNR, digits=1, unit=" dB"),
    FidelityFigure("cosine", "cosine", _cosine, _lowest, COSINE, digits=4),
    FidelityFigure("max_abs_error", "largest error", _max_abs_error, max, LARGEST, kind=float),
)
"""The figures of fidelity, in the order in which they are computed, recorded and shown."""


def start_tallies(names: Sequence[str], slices: Sequence[Slice] = ()) -> dict[str, Tally]:
    """Return empty tallies of the outputs and their slices."""
    return {
        name: Tally(name, parts=tuple((part, Tally(part.label)) for part in slices if part.output == name))
        for name in names
    }


def add_run(
    tallies: Mapping[str, Tally], reference: Mapping[str, Any], candidate: Mapping[str, Any], count: int
) -> None:
    """Add the outputs of one run of `count` samples, sample by sample."""
    for expected, actual in by_sample(reference, candidate, count):
        for name, tally in tallies.items():
            tally.add(expected[name], actual[name])


def summarize(tallies: Sequence[Tally], generator: np.random.Generator) -> Fidelity:
    """Return the fidelity of a model from the tallies of its outputs.

    SQNR and cosine have bootstrap intervals over the samples, shares of equal elements have Wilson's. The elements of a
    sample count as one trial, by their share, since they are not independent. If one output is NaN or infinite and the
    other is not, there is no SQNR.
    """
    outputs = tuple(tally.result(generator) for tally in tallies)
    broken = next((output for output, tally in zip(outputs, tallies, strict=True) if tally.broken), None)
    values = {
        figure.key: figure.worst(known)
        for figure in FIGURES
        if (known := [output[figure.key] for output in outputs if output[figure.key] is not None])
        and (broken is None or not figure.of_floats)
    }
    if broken is not None:
        return Fidelity("", values, broken.reason, outputs)
    reasons = dict.fromkeys(output.reason for output in outputs if output.reason)
    reason = None if "sqnr_db" in values else "; ".join(reasons) or "there is nothing to compare"
    return Fidelity("", values, reason, outputs)


def _cut(array: npt.NDArray[Any], part: Slice) -> npt.NDArray[Any]:
    index = [slice(None)] * array.ndim
    index[part.axis] = slice(part.start, part.stop)
    return array[tuple(index)]


def _is_float(output: Any) -> bool:
    return isinstance(output, np.ndarray) and output.dtype.kind == "f"


def equal_share(expected: Any, actual: Any) -> float:
    """Return the share of equal elements of two tensors; 1 or 0 for other values."""
    if isinstance(expected, np.ndarray) and isinstance(actual, np.ndarray):
        if expected.shape != actual.shape:
            return 0.0
        return float((expected == actual).mean()) if expected.size else 1.0
    return float(_equal(expected, actual))


def _equal(expected: Any, actual: Any) -> bool:
    if isinstance(expected, np.ndarray):
        if not isinstance(actual, np.ndarray) or expected.shape != actual.shape:
            return False
        return np.array_equal(expected, actual, equal_nan=expected.dtype.kind == actual.dtype.kind == "f")
    if isinstance(expected, Mapping):
        return (
            isinstance(actual, Mapping)
            and expected.keys() == actual.keys()
            and all(_equal(value, actual[key]) for key, value in expected.items())
        )
    if isinstance(expected, list):
        return isinstance(actual, list) and len(expected) == len(actual) and all(map(_equal, expected, actual))
    return bool(expected == actual) or (isinstance(expected, float) and expected != expected and actual != actual)
