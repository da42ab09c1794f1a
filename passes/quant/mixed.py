"""Chooses the layers that stay in float: most error for least time and bytes, as an integer program.

A tensor is rounded as long as one layer that makes or reads it runs in int8, and converted as long as one of them is
float and another int8, so that the choice is among sets of layers. The program is solved exactly by HiGHS (Huangfu and
Hall, "Parallelizing the dual revised simplex method", Mathematical Programming Computation 10, 2018), through SciPy.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence, Set

import numpy as np
import scipy.optimize
import scipy.sparse

from onnxslim.arrays import Floats
from onnxslim.pipeline.reasons import Reason

from .codes import QuantCode
from .cost import PlanCosts

SECONDS = 10.0
"""How long the solver may take; then the best solution so far is taken."""
GAP = 1e-3
"""How far from the best a solution may be, relative to it."""
TIE = 1e-4
"""What the time of the layer that gains most counts for beside the largest error: of choices that avoid as much error
the faster."""


@dataclasses.dataclass(frozen=True)
class RoundingError:
    """The error that rounding some weights and tensors brings, which are float only where all of some layers are."""

    layers: frozenset[str]
    """The layers, by their keys: of a weight its own, of a tensor those that make it and that read it."""
    share: float
    """The energy of the error of the outputs where nothing else is rounded, as a share of theirs."""


@dataclasses.dataclass(frozen=True)
class CostLimits:
    """What a choice may cost."""

    time: float = math.inf
    """In the unit of the costs."""
    size: float = math.inf
    """Bytes of all weights."""
    int8: frozenset[str] = frozenset()
    """Layers that cannot be float."""


NO_LIMITS = CostLimits()


def fastest(costs: PlanCosts, limits: CostLimits = NO_LIMITS) -> frozenset[str] | None:
    """Return the layers to leave in float so that a run takes least; None where nothing keeps the limits."""
    program = _Program((), costs, limits)
    return program.solve(program.time)


def best_within(errors: Sequence[RoundingError], costs: PlanCosts, limits: CostLimits) -> frozenset[str] | None:
    """Return the layers to leave in float that avoid most error within the limits; None where nothing keeps them."""
    program = _Program(errors, costs, limits)
    return program.solve(TIE * program.time / _unit(program.time) - program.avoided / _unit(program.avoided))


def cheapest_below(errors: Sequence[RoundingError], costs: PlanCosts, share: float) -> frozenset[str] | None:
    """Return the layers to leave in float so that at most a share of the error is left, and a run takes least.

    Args:
        errors: All of them; they add up.
        costs: Of all layers.
        share: Above 0, at most 1.

    Returns:
        The layers; None where the solver finds none in its time.
    """
    program = _Program(errors, costs, NO_LIMITS)
    return program.solve(program.time, avoided=1 - share)


def avoiding(least: float, chosen: frozenset[str], errors: Sequence[RoundingError], costs: PlanCosts) -> frozenset[str]:
    """Return layers that avoid so much error: those chosen where they do, else the cheapest, and all where none do."""
    whole = sum(error.share for error in errors)
    if sum(error.share for error in errors if error.layers <= chosen) >= least:
        return chosen
    enough = cheapest_below(errors, costs, 1 - least / whole) if least < whole else None
    return frozenset(costs.layers) if enough is None else enough


def left_after(chosen: Set[str], errors: Sequence[RoundingError]) -> float:
    """Return the share of the error that is left where some layers stay in float."""
    total = sum(error.share for error in errors)
    return sum(error.share for error in errors if not error.layers <= chosen) / total if total else 0.0


def reasons(
    chosen: Set[str], errors: Sequence[RoundingError], macs: Mapping[str, int], costs: PlanCosts
) -> dict[str, Reason]:
    """Return for each layer that stays in float why; `macs` are the multiply-accumulates of layers by their keys."""
    total, work = sum(error.share for error in errors), max(sum(macs.values()), 1)
    found: dict[str, Reason] = {}
    for layer in sorted(chosen):
        if costs.measured:
            in_float = costs.layers[layer].float_time
            in_int8 = in_float + costs.time(chosen - {layer}) - costs.time(chosen)
            if in_int8 >= in_float:
                found[layer] = Reason(QuantCode.SLOWER_LAYER, (in_int8, in_float))
                continue
        gone = [error for error in errors if layer in error.layers and error.layers <= chosen]
        others = sorted(frozenset[str]().union(*(error.layers for error in gone)) - {layer})
        together = f"together with {', '.join(others)} " if others else ""
        brought = sum(error.share for error in gone) / total if total else 0.0
        found[layer] = Reason(QuantCode.COSTLY, (together, brought, macs.get(layer, 0) / work), tuple(others))
    return found


class _Program:
    """Variables: for each layer whether it is float, for each error whether it is avoided, for each boundary whether
    its tensor is made int8, and whether it is made float."""

    def __init__(self, errors: Sequence[RoundingError], costs: PlanCosts, limits: CostLimits) -> None:
        self._layers = sorted(costs.layers.keys() | frozenset[str]().union(*(error.layers for error in errors)))
        place = {layer: index for index, layer in enumerate(self._layers)}
        count, first = len(self._layers), len(self._layers) + len(errors)
        size = first + 2 * len(costs.boundaries)
        self._entries: list[tuple[int, int, float]] = []
        """Row, column, factor."""
        self._least: list[float] = []
        """What the sum of each row must be at least."""
        known = [(place[layer], cost) for layer, cost in costs.layers.items()]
        time, weights, avoided = np.zeros(size), np.zeros(size), np.zeros(size)
        for column, cost in known:
            time[column], weights[column] = cost.float_time - cost.int8_time, cost.float_bytes - cost.int8_bytes
        for column, error in enumerate(errors, count):
            avoided[column] = error.share
            for layer in sorted(error.layers):  # avoided only where each of its layers is float
                self._at_least(0, {place[layer]: 1, column: -1})
        for index, boundary in enumerate(costs.boundaries):
            quantize, dequantize = first + 2 * index, first + 2 * index + 1
            time[quantize], time[dequantize] = boundary.quantize, boundary.dequantize
            readers = [place[reader] for reader in sorted(boundary.readers)]
            if boundary.maker is None:
                for reader in readers:
                    self._at_least(1, {quantize: 1, reader: 1})
                continue
            maker = place[boundary.maker]
            if boundary.read_in_float:
                self._at_least(1, {dequantize: 1, maker: 1})
            for reader in readers:
                self._at_least(0, {quantize: 1, maker: -1, reader: 1})
                self._at_least(0, {dequantize: 1, maker: 1, reader: -1})
        fixed = costs.rest_time + sum(cost.int8_time for _, cost in known)
        self._at_most(limits.time - fixed, time)
        self._at_most(limits.size - costs.size(frozenset()), weights)
        self._upper = np.ones(size)
        self._upper[[place[layer] for layer in limits.int8 & place.keys()]] = 0
        self._integral = np.array([1] * count + [0] * (size - count))
        self.time, self.avoided = time, avoided

    def _at_least(self, least: float, factors: Mapping[int, float]) -> None:
        self._entries += ((len(self._least), column, factor) for column, factor in factors.items())
        self._least.append(least)

    def _at_most(self, most: float, factors: Floats) -> None:
        """Demand it in units of the largest factor: the solver's tolerances are absolute."""
        if math.isfinite(most):
            unit = _unit(factors)
            self._at_least(-most / unit, {int(column): -factors[column] / unit for column in np.flatnonzero(factors)})

    def solve(self, minimized: Floats, avoided: float = 0.0) -> frozenset[str] | None:
        """Return the layers in float that make a sum least; None where nothing keeps what is demanded.

        `avoided` is the share of the error that must be.
        """
        if not self._layers:
            return frozenset()
        if avoided:
            self._at_most(-avoided * float(self.avoided.sum()), -self.avoided)
        rows, columns, factors = zip(*self._entries, strict=True) if self._entries else ((), (), ())
        shape = len(self._least), len(minimized)
        found = scipy.optimize.milp(
            minimized / _unit(minimized),
            integrality=self._integral,
            bounds=scipy.optimize.Bounds(0, self._upper),
            constraints=scipy.optimize.LinearConstraint(
                scipy.sparse.csr_array((factors, (rows, columns)), shape), lb=self._least
            ),
            options={"time_limit": SECONDS, "mip_rel_gap": GAP},
        )
        if found.x is None:
            return None
        return frozenset(layer for layer, value in zip(self._layers, found.x, strict=False) if value > 0.5)


def _unit(factors: Floats) -> float:
    return max(float(np.abs(factors).max(initial=0.0)), 1e-300)
