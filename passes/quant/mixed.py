"""Chooses the layers that stay in float: most error for least time, as an integer program.

A tensor is rounded as long as one layer that makes or reads it runs in int8, so that the choice is among sets of
layers. The program is solved exactly by HiGHS (Huangfu and Hall, "Parallelizing the dual revised simplex method",
Mathematical Programming Computation 10, 2018), through SciPy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence, Set

import numpy as np
import scipy.optimize
import scipy.sparse

from onnxslim.arrays import Floats
from onnxslim.pipeline.reasons import Reason

from .codes import QuantCode

SECONDS = 10.0
"""How long the solver may take; then the best solution so far is taken."""
GAP = 1e-3
"""How far from the best a solution may be, relative to it."""


@dataclasses.dataclass(frozen=True)
class RoundingError:
    """The error that rounding some weights and tensors brings, which are float only where all of some layers are."""

    layers: frozenset[str]
    """The layers, by their keys: of a weight its own, of a tensor those that make it and that read it."""
    share: float
    """The energy of the error of the outputs where nothing else is rounded, as a share of theirs."""


def cheapest_below(errors: Sequence[RoundingError], costs: Mapping[str, float], share: float) -> frozenset[str]:
    """Return the layers to leave in float so that at most a share of the error is left, at the least cost.

    Args:
        errors: All of them; they add up.
        costs: Of leaving each layer in float, by its key.
        share: Above 0, at most 1.
    """
    total = sum(error.share for error in errors)
    if not total or share >= 1:
        return frozenset()
    program = _Program(errors, costs)
    return program.solve(program.costs, program.avoided, (1 - share) * total)


def best_within(errors: Sequence[RoundingError], costs: Mapping[str, float], budget: float) -> frozenset[str]:
    """Return the layers to leave in float that avoid most error, where these may cost `budget` together."""
    program = _Program(errors, costs)
    return program.solve(-program.avoided, -program.costs, -budget)


def left_after(chosen: Set[str], errors: Sequence[RoundingError]) -> float:
    """Return the share of the error that is left where some layers stay in float."""
    total = sum(error.share for error in errors)
    return sum(error.share for error in errors if not error.layers <= chosen) / total if total else 0.0


def reasons(chosen: Set[str], errors: Sequence[RoundingError], macs: Mapping[str, int]) -> dict[str, Reason]:
    """Return for each layer that stays in float why; `macs` are the multiply-accumulates of layers by their keys."""
    total, work = sum(error.share for error in errors), max(sum(macs.values()), 1)
    found: dict[str, Reason] = {}
    for layer in sorted(chosen):
        gone = [error for error in errors if layer in error.layers and error.layers <= chosen]
        others = sorted(frozenset[str]().union(*(error.layers for error in gone)) - {layer})
        together = f"together with {', '.join(others)} " if others else ""
        brought = sum(error.share for error in gone) / total if total else 0.0
        found[layer] = Reason(QuantCode.COSTLY, (together, brought, macs.get(layer, 0) / work), tuple(others))
    return found


class _Program:
    """Variables: for each layer whether it stays in float, and for each error whether it is avoided."""

    def __init__(self, errors: Sequence[RoundingError], costs: Mapping[str, float]) -> None:
        self._layers = sorted(frozenset[str]().union(*(error.layers for error in errors)))
        place = {layer: index for index, layer in enumerate(self._layers)}
        count, known = len(self._layers), len(errors)
        self.costs: Floats = np.array([costs.get(layer, 0.0) for layer in self._layers] + [0.0] * known)
        self.avoided: Floats = np.array([0.0] * count + [error.share for error in errors])
        pairs = [(count + index, place[layer]) for index, error in enumerate(errors) for layer in error.layers]
        rows = np.arange(len(pairs))
        # An error is avoided only where each of its layers is in float: error - layer <= 0.
        columns = np.array(pairs, np.int64).reshape(-1, 2)
        ones, shape = np.ones(len(pairs)), (len(pairs), count + known)
        self._needs = scipy.sparse.csr_array((ones, (rows, columns[:, 0])), shape) - scipy.sparse.csr_array(
            (ones, (rows, columns[:, 1])), shape
        )
        self._integral = np.array([1] * count + [0] * known)

    def solve(self, minimized: Floats, bounded: Floats, least: float) -> frozenset[str]:
        """Return the layers in float that make a sum least, while another is at least so much; none if none does."""
        if not self._layers:
            return frozenset()
        scale = max(np.abs(bounded).max(), 1e-300)
        found = scipy.optimize.milp(
            minimized / max(np.abs(minimized).max(), 1e-300),
            integrality=self._integral,
            bounds=scipy.optimize.Bounds(0, 1),
            constraints=[
                scipy.optimize.LinearConstraint(self._needs, ub=0),
                scipy.optimize.LinearConstraint(bounded[None] / scale, lb=least / scale),
            ],
            options={"time_limit": SECONDS, "mip_rel_gap": GAP},
        )
        if found.x is None:
            return frozenset()
        return frozenset(layer for layer, value in zip(self._layers, found.x, strict=False) if value > 0.5)
