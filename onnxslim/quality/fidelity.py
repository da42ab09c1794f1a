"""How closely the outputs of one model follow those of another, sample by sample, without keeping them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim.data import Samples
from onnxslim.quality.metric import Slice, by_sample
from onnxslim.runtime.session import Session
from onnxslim.runtime.statistics import Interval, bootstrap, wilson

IDENTICAL = "the outputs are identical"
CEILING_DB = 150.0
"""More than float32 resolves (24 bits, 6.02 dB each): resamples without any noise count as this much."""


@dataclasses.dataclass(frozen=True)
class OutputFidelity:
    """How closely one output follows. What does not apply to it is None, and `reason` says why."""

    name: str
    agreement: Interval | None = None
    """Share of equal elements of integers and strings, of equal sequences and maps; None for floats."""
    sqnr_db: Interval | None = None
    """10 log10 of the energy of the reference over that of the difference; None for identical outputs (infinite)."""
    cosine: Interval | None = None
    """Cosine of the angle between the outputs over all samples."""
    max_abs_error: float | None = None
    reason: str | None = None
    slices: tuple[OutputFidelity, ...] = ()
    """Parts of it that hold quantities of another scale, each for itself."""


@dataclasses.dataclass(frozen=True)
class Fidelity:
    """How closely a model follows another. SQNR, cosine and error are those of the output that follows worst."""

    agreement: Interval | None
    """Equality of the first output that is no float; None where all are. Decisions are what a metric knows of."""
    sqnr_db: Interval | None
    cosine: Interval | None
    max_abs_error: float | None
    reason: str | None
    """Why something is None: identical outputs have no finite SQNR; outputs that are not finite have none at all."""
    outputs: tuple[OutputFidelity, ...]


@dataclasses.dataclass
class Tally:
    """What is kept of one output: a few sums for each sample."""

    name: str
    decisions: list[float] = dataclasses.field(default_factory=list)
    """Per sample: the share of elements that are equal, where they are no floats."""
    sums: list[list[float]] = dataclasses.field(default_factory=list)
    """Per sample: energies of the reference, of the difference and of the candidate, and their inner product."""
    max_abs_error: float = 0.0
    not_finite: int = 0
    """Samples where one of the two is NaN or infinite and the other is not the same."""
    other_shape: int = 0
    parts: tuple[tuple[Slice, Tally], ...] = ()
    """Slices of it, and what is kept of them."""

    def add(self, reference: Any, candidate: Any) -> None:
        """Compare the outputs of one sample."""
        if not (_is_float(reference) and _is_float(candidate)):
            self.decisions.append(equal_share(reference, candidate))
            return
        if reference.shape != candidate.shape:
            self.other_shape += 1
            return
        for part, tally in self.parts:
            if reference.ndim >= -part.axis:
                tally.add(*(_cut(side, part) for side in (reference, candidate)))
        wanted, given = reference.astype(np.float64), candidate.astype(np.float64)
        finite = np.isfinite(wanted) & np.isfinite(given)
        broken = ~finite & ~((wanted == given) | (np.isnan(wanted) & np.isnan(given)))
        self.not_finite += bool(broken.any())
        wanted, given = np.where(finite, wanted, 0.0), np.where(finite, given, 0.0)
        noise = wanted - given
        pairs = (wanted, wanted), (noise, noise), (given, given), (wanted, given)
        self.sums.append([float(np.vdot(one, other)) for one, other in pairs])
        self.max_abs_error = max(self.max_abs_error, float(np.abs(noise).max(initial=0.0)))

    def result(self, generator: np.random.Generator) -> OutputFidelity:
        """Return what the sums say."""
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
    """Return the SQNR in dB of samples with the sums `rows` (see `Tally.sums`), shape [n, 4]."""
    signal, noise = rows[:, 0].sum(), rows[:, 1].sum()
    if signal == 0:
        return CEILING_DB if noise == 0 else -CEILING_DB
    return min(CEILING_DB, 10 * math.log10(signal / noise)) if noise > 0 else CEILING_DB


def cosine(rows: npt.NDArray[np.float64]) -> float:
    """Return the cosine of samples with the sums `rows` (see `Tally.sums`), shape [n, 4]; 0 if one side is zero."""
    length = math.sqrt(rows[:, 0].sum()) * math.sqrt(rows[:, 2].sum())
    return float(np.clip(rows[:, 3].sum() / length, -1.0, 1.0)) if length > 0 else 0.0


def measure_fidelity(
    reference: Session,
    candidate: Session,
    samples: Samples,
    *,
    generator: np.random.Generator,
    size: int | None = None,
) -> Fidelity:
    """Run both models on all samples and compare the outputs, which must have the same names.

    SQNR and cosine have a bootstrap interval over the samples, shares of equal elements Wilson's. A sample with many
    elements counts their share as one, since they are not independent. Where one output is NaN or infinite and the
    other is not there is no SQNR.

    Args:
        reference: The original.
        candidate: What became of it.
        samples: Run one by one, or `size` at a time.
        generator: For the bootstrap.
        size: Samples in a run; each still counts by itself where the outputs tell them apart.

    Raises:
        RunError: A model does not run, or lacks an output of the other.
        DataError: The samples cannot be read.
    """
    tallies = start_tallies([spec.name for spec in reference.outputs])
    names = list(tallies)
    for batch in samples.batches(size):
        outputs = reference.run(batch.feeds, names), candidate.run(batch.feeds, names)
        add_run(tallies, *outputs, batch.count)
    return summarize(list(tallies.values()), generator)


def start_tallies(names: Sequence[str], slices: Sequence[Slice] = ()) -> dict[str, Tally]:
    """Return an empty tally for each output, with one for each of its slices."""
    return {
        name: Tally(name, parts=tuple((part, Tally(part.label)) for part in slices if part.output == name))
        for name in names
    }


def add_run(tallies: Mapping[str, Tally], wanted: Mapping[str, Any], given: Mapping[str, Any], count: int) -> None:
    """Add the outputs of one run of `count` samples, sample by sample."""
    for one, other in by_sample(wanted, given, count):
        for name, tally in tallies.items():
            tally.add(one[name], other[name])


def summarize(tallies: Sequence[Tally], generator: np.random.Generator) -> Fidelity:
    """Return the fidelity of a model from the sums of its outputs."""
    outputs = tuple(tally.result(generator) for tally in tallies)
    agreement = next((output.agreement for output in outputs if output.agreement is not None), None)
    for output, tally in zip(outputs, tallies, strict=True):
        if tally.other_shape or tally.not_finite:
            return Fidelity(agreement, None, None, None, output.reason, outputs)
    noisy = [output.sqnr_db for output in outputs if output.sqnr_db is not None]
    turned = [output.cosine for output in outputs if output.cosine is not None]
    reason = None
    if not noisy:
        reasons = {output.reason: None for output in outputs if output.reason}  # each once, in order
        reason = "; ".join(reasons) or "there is nothing to compare"
    return Fidelity(
        agreement,
        min(noisy, key=lambda interval: interval.value, default=None),
        min(turned, key=lambda interval: interval.value, default=None),
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


def equal_share(wanted: Any, given: Any) -> float:
    """Return the share of equal elements of two tensors, or 1 or 0 for other things."""
    if isinstance(wanted, np.ndarray) and isinstance(given, np.ndarray):
        if wanted.shape != given.shape:
            return 0.0
        return float((wanted == given).mean()) if wanted.size else 1.0
    return float(_equal(wanted, given))


def _equal(wanted: Any, given: Any) -> bool:
    if isinstance(wanted, np.ndarray):
        if not isinstance(given, np.ndarray) or wanted.shape != given.shape:
            return False
        return np.array_equal(wanted, given, equal_nan=wanted.dtype.kind == given.dtype.kind == "f")
    if isinstance(wanted, Mapping):
        return (
            isinstance(given, Mapping)
            and wanted.keys() == given.keys()
            and all(_equal(each, given[key]) for key, each in wanted.items())
        )
    if isinstance(wanted, list):
        return isinstance(given, list) and len(wanted) == len(given) and all(map(_equal, wanted, given))
    return bool(wanted == given) or (isinstance(wanted, float) and wanted != wanted and given != given)
