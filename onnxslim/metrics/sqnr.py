"""SQNR: noise of the outputs relative to their signal, for models whose task is not recognized."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from onnxslim.arrays import Array
from onnxslim.quality.evidence import Evidence
from onnxslim.quality.fidelity import equal_share
from onnxslim.quality.metric import Figure, Metric, Outputs, Recognition, Rows, as_numbers


@dataclasses.dataclass(frozen=True)
class Sqnr(Metric):
    """The relative error of the worst output: amplitude of the noise over the signal; 0.1 is 20 dB."""

    outputs: tuple[str, ...]
    exact: frozenset[str] = frozenset()
    """Outputs that are not of floats, for which the share of unequal elements counts."""

    name: ClassVar[str] = "sqnr"
    losses: ClassVar[tuple[str, str]] = "the outputs' signal", "the outputs' signal"
    harmful: ClassVar[float] = 0.1
    """20 dB."""
    reads_labels: ClassVar[bool] = False

    @classmethod
    def recognise(cls, evidence: Evidence) -> Recognition | None:
        """Return this metric for any outputs, with the least strength."""
        names = tuple(output.name for output in evidence.outputs)
        exact = frozenset(output.name for output in evidence.outputs if not output.is_float)
        reason = "no task is recognised in the outputs: judged by SQNR, the noise of the outputs against their signal"
        return Recognition(cls(names, exact), 0.0, reason)

    def row(self, reference: Outputs, candidate: Outputs | None, label: Array | None) -> Sequence[float]:
        """Return the energies of signal and noise of each output, or 1 and the share of unequal elements."""
        found: list[float] = []
        for name in self.outputs:
            expected = reference[name]
            actual = expected if candidate is None else candidate[name]
            if name in self.exact:
                found += 1.0, 1.0 if candidate is None else 1 - equal_share(expected, actual)
            else:
                found += _energies(expected, actual, broken=candidate is None)
        return found

    def figures(self, rows: Rows) -> dict[str, Figure]:
        """Return the relative error of the worst output."""
        return {"relative error": Figure(0.0, self.loss(rows))}

    def loss(self, rows: Rows) -> float:
        """Return the relative error of the worst output, at most 1."""
        pairs = rows.reshape(len(rows), -1, 2).sum(axis=0).tolist()
        losses = [
            noise / signal if name in self.exact else _relative(signal, noise)
            for name, (signal, noise) in zip(self.outputs, pairs, strict=True)
        ]
        return max(losses, default=0.0)


def _relative(signal: float, noise: float) -> float:
    if noise <= 0:
        return 0.0
    return min(1.0, math.sqrt(noise / signal)) if signal > 0 else 1.0


def _energies(expected: npt.NDArray[Any], actual: npt.NDArray[Any], *, broken: bool) -> tuple[float, float]:
    """Return the energies of signal and noise, which are equal if the candidate cannot be read."""
    signal = _energy(expected)
    if broken:
        return (signal, signal) if signal > 0 else (0.0, 1.0)
    return signal, _energy(as_numbers(expected) - as_numbers(actual))


def _energy(array: npt.NDArray[Any]) -> float:
    values = as_numbers(array)
    return float(np.vdot(values, values))
