"""Fidelity: the error of the outputs of one model against another, from sums per sample."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim.quality.metric import Slice, by_sample
from onnxslim.runtime.statistics import Interval, bootstrap, wilson

IDENTICAL = "the outputs are identical"
CEILING_DB = 150.0
"""SQNR of resamples without noise, above the resolution of float32 (24 bits of 6.02 dB)."""


@dataclasses.dataclass(frozen=True)
class OutputFidelity:
    """Fidelity of one output. Values that do not apply are None, with the `reason`."""

    name: str
    agreement: Interval | None = None
    """Share of equal elements (integers, strings) or equal values (sequences, maps); None for floats."""
    sqnr_db: Interval | None = None
    """10 log10 of the energy of the reference over that of the difference, in dB; None for identical outputs."""
    cosine: Interval | None = None
    """Cosine of the angle between the outputs over all samples."""
    max_abs_error: float | None = None
    reason: str | None = None
    slices: tuple[OutputFidelity, ...] = ()
    """Fidelity of the parts with different scales."""


@dataclasses.dataclass(frozen=True)
class Fidelity:
    """Fidelity of a model. SQNR, cosine and error are those of the worst output."""

    agreement: Interval | None
    """Agreement of the first output that is not of floats; None if all are."""
    sqnr_db: Interval | None
    cosine: Interval | None
    max_abs_error: float | None
    reason: str | None
    """Why a value is None: identical outputs have no finite SQNR; outputs that are not finite have no SQNR."""
    outputs: tuple[OutputFidelity, ...]


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

    def result(self, generator: np.random.Generator) -> OutputFidelity:
        """Return the fidelity of the output."""
        slices = tuple(tally.result(generator) for _, tally in self.parts)
        return dataclasses.replace(self._whole(generator), slices=slices)

    def _whole(self, generator: np.random.Generator) -> OutputFidelity:
        agreement = wilson(sum(self.decisions), len(self.decisions)) if self.decisions else None
        if self.other_shape:
            return OutputFidelity(self.name, agreement, reason=f"{self.name} has another shape")
        if self.not_finite:
            reason = (
                f"{self.name} is NaN or infinite in {self.not_finite} of {len(self.sums)} samples, unlike the original"
            )
            return OutputFidelity(self.name, agreement, reason=reason)
        if not self.sums:
            return OutputFidelity(self.name, agreement, reason=f"{self.name} is not of floats")
        rows = np.asarray(self.sums, np.float64)
        signal, noise = rows[:, 0].sum(), rows[:, 1].sum()
        if signal == 0 and noise > 0:
            return OutputFidelity(
                self.name, agreement, None, None, self.max_abs_error, f"{self.name} is all zeros in the original"
            )
        if noise == 0:
            return OutputFidelity(self.name, agreement, None, Interval(1.0, 1.0, 1.0), 0.0, IDENTICAL)
        return OutputFidelity(
            self.name,
            agreement,
            bootstrap(rows, sqnr_db, generator),
            bootstrap(rows, cosine, generator),
            self.max_abs_error,
        )


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
    agreement = next((output.agreement for output in outputs if output.agreement is not None), None)
    for output, tally in zip(outputs, tallies, strict=True):
        if tally.other_shape or tally.not_finite:
            return Fidelity(agreement, None, None, None, output.reason, outputs)
    sqnrs = [output.sqnr_db for output in outputs if output.sqnr_db is not None]
    cosines = [output.cosine for output in outputs if output.cosine is not None]
    reason = None
    if not sqnrs:
        reasons = {output.reason: None for output in outputs if output.reason}  # distinct, in order
        reason = "; ".join(reasons) or "there is nothing to compare"
    return Fidelity(
        agreement,
        min(sqnrs, key=lambda interval: interval.value, default=None),
        min(cosines, key=lambda interval: interval.value, default=None),
        max((output.max_abs_error for output in outputs if output.max_abs_error is not None), default=None),
        reason,
        outputs,
    )


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
