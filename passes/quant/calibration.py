"""Finds a plan all of whose tensors have finite ranges and bearable scales, and the scales and means of its tensors.

The samples are streamed once for ranges and means, and once more where a calibration wants histograms. A plan that
leaves more nodes in float has no tensor that the first one has not, so that what was observed serves all of them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from onnxslim.arrays import Floats
from onnxslim.data import Samples
from onnxslim.observe.not_finite import first_not_finite
from onnxslim.observe.statistics import (
    HISTOGRAM_OPSET,
    Grid,
    Query,
    Range,
    Statistic,
    observe,
    range_queries,
    ranges,
)
from onnxslim.pipeline.interface import Context, Note, remark
from onnxslim.pipeline.opset import PREFERRED_OPSET, at_least
from onnxslim.pipeline.reasons import Reason
from onnxslim.pipeline.selection import Selection

from .clamped_sums import clamped_sums
from .coarse import coarse_joins, coarse_scores
from .codes import QuantCode
from .gates import GateInput, coarse_gates, gate_inputs, with_gates
from .integers import UINT8, IntegerType
from .intervals import Histogram
from .plan import QuantPlan, make_plan
from .pointwise import curves
from .scales import Calibration, Scale, intervals_of
from .site import clamp_limits
from .table import Gate, Int8Table
from .ties import SeenTensor, with_ties

CHANNELS = 1
"""The axis of channels of the tensors that are multiplied by a weight and get a bias."""
EXTREMES = (Statistic.MEAN_MINIMUM, Statistic.MEAN_MAXIMUM)
"""The range of a moving average."""


@dataclasses.dataclass(frozen=True)
class CalibrationSettings:
    """The options of the pass that concern calibration."""

    calibration: Calibration
    percentile: float
    integers: IntegerType
    """What activations become."""
    levels: tuple[str, ...]
    """Tensors of whole numbers from 0 to 255."""
    means: bool
    """Observe the means of channels as well, to correct biases with."""
    selection: Selection


class Calibrator:
    """Calibrates one model, which is not changed, on samples; the types of its values are known."""

    def __init__(
        self, settings: CalibrationSettings, model: ir.Model, table: Int8Table, context: Context, samples: Samples
    ) -> None:
        self._settings, self._model, self._table = settings, model, table
        self._context, self._samples = context, samples
        self._ranges: dict[str, Range] = {}
        self._infinite: dict[str, Reason] = {}
        self.means: dict[str, Floats] = {}
        """The mean of each channel of the tensors that are multiplied by a weight and get a bias, by name."""
        self.notes: list[Note] = []
        self.not_finite: Reason | None = None
        """Where values that are not finite begin; None where all are finite."""

    def plan(self, in_float: Mapping[ir.Node, Reason] | None = None) -> QuantPlan:
        """Return which nodes and tensors can be quantized; `in_float` says which stay float in any case, and why."""
        left, steps = dict(in_float or {}), self._settings.integers.steps
        while True:
            plan = make_plan(
                self._model,
                self._table,
                selection=self._settings.selection,
                float_values=self._infinite,
                float_nodes=left,
            )
            self.observe(plan)
            sources = [group.source.name or "" for group in plan.groups]
            infinite = [name for name in sources if not self._ranges[name].finite]
            if infinite:
                begins = first_not_finite(self._model, self._samples, self._context.open_session, infinite)
                words = ("" if begins is None else f": {begins}",)
                self._infinite |= {name: Reason(QuantCode.RANGE_NOT_FINITE, words, (name,)) for name in infinite}
                self.not_finite = self.not_finite or self._infinite[infinite[0]]
                continue
            coarse = coarse_joins(plan, self._ranges, steps)
            coarse |= coarse_gates(plan, self._ranges, steps)
            coarse |= coarse_scores(self._model.graph, self._table, plan, self._ranges, steps)
            if not coarse:
                return plan
            left.update(coarse)

    def observe(self, plan: QuantPlan) -> None:
        """Observe the ranges of all tensors of a plan that are not known yet, and the means of channels."""
        members = (value.name or "" for group in plan.groups for value in group.members)
        names = [name for name in members if name not in self._ranges]
        if not names:
            return
        biased = [site.operands()[0] for site in plan.sites if self._settings.means and site.bias is not None]
        means = {value.name or "": None for value in biased if value.shape is not None}
        moving = self._settings.calibration is Calibration.MOVING
        queries = [*range_queries(names), *(Query(name, Statistic.MEAN, CHANNELS) for name in means)]
        queries += [Query(name, extreme) for name in names for extreme in EXTREMES if moving]
        answers = self._answers(self._model, queries, "calibration: ranges")
        found = ranges(answers, names)
        if moving:
            low, high = ({name: float(answers[Query(name, extreme)]) for name in names} for extreme in EXTREMES)
            found = {name: dataclasses.replace(found[name], low=low[name], high=high[name]) for name in names}
        self._ranges |= found | {name: Range(0.0, UINT8.steps) for name in self._settings.levels if name in found}
        self.means |= {name: answers[Query(name, Statistic.MEAN, CHANNELS)] for name in means}

    def _answers(self, model: ir.Model, queries: list[Query], purpose: str) -> Mapping[Query, Floats]:
        context = self._context
        return context.observed(
            (self._samples.count, tuple(queries)),  # all samples, or the part that choices are made from
            lambda: observe(
                model,
                queries,
                self._samples,
                context.open_session,
                lambda done, total: context.progress(purpose, done, total),
            ),
        )

    def choices(self, plan: QuantPlan, tied: bool = True) -> list[dict[str, Scale]]:
        """Return choices of a scale for the source of each group of a plan, by its name: one, but for `AUTO`; with
        those of sums and joins `tied` to others."""
        settings = self._settings
        histograms = self._counted(plan) if settings.calibration.needs_histograms else {}
        choices: list[dict[str, Scale]] = []
        gates = gate_inputs(plan)
        for group in plan.groups:
            name = group.source.name or ""
            intervals = intervals_of(
                self._ranges[name],
                histograms.get(name),
                settings.calibration,
                settings.percentile,
                settings.integers.steps,
            )
            for index, interval in enumerate(intervals):
                if index == len(choices):
                    choices.append({})
                choices[index][name] = self._covering(group.source, interval, settings.integers, gates.get(name))
        fixed = gates.keys() | {site.key for site in plan.sites if site.row.gate is Gate.RESULT}
        limits = {group.source.name or "": self._limits(group.source) for group in plan.groups}
        seen = {name: SeenTensor(histogram, limits[name], name in fixed) for name, histogram in histograms.items()}
        cutting = settings.calibration.cutting
        whole = [{**choices[0], **choice} for choice in choices]
        if tied:
            whole = [with_ties(plan, each, seen, cutting[at], self._table.symmetric) for at, each in enumerate(whole)]
        return [with_gates(plan, each) for each in whole]

    def _counted(self, plan: QuantPlan) -> dict[str, Histogram]:
        """Return the histograms of tensors that may be cut off, and what becomes of the elements of each before their
        error counts, by the names of the sources of the groups of a plan."""
        sums = clamped_sums(plan, self._table, self._histograms)
        found: dict[str, Histogram] = {}
        for group in plan.groups:
            name = group.source.name or ""
            histogram = self._histograms.get(name)
            if histogram is not None and name not in self._settings.levels:
                made = sums[name] if name in sums else curves(group.members, histogram.centers)
                found[name] = dataclasses.replace(histogram, curves=made, certain=name not in sums)
        return found

    def whole(self, plan: QuantPlan, integers: IntegerType) -> dict[str, Scale]:
        """Return for the source of each group of a plan, by its name, the scale of a type that covers its range."""
        gates, found = gate_inputs(plan), dict[str, Scale]()
        for group in plan.groups:
            name = group.source.name or ""
            seen = self._ranges[name].low, self._ranges[name].high
            found[name] = self._covering(group.source, seen, integers, gates.get(name))
        return with_gates(plan, found)

    def _covering(
        self, source: ir.Value, interval: tuple[float, float], integers: IntegerType, gate: GateInput | None = None
    ) -> Scale:
        """Return the scale that covers an interval of a tensor, as far as what makes it does not cut it off, and that
        has the levels which a gate asks for."""
        least, most = self._limits(source)
        low, high = max(interval[0], least), min(interval[1], most)
        if gate is not None and not self._table.symmetric:
            return gate.covering(low, high, integers)
        return Scale.covering(low, high, integers, self._table.symmetric)

    def _limits(self, source: ir.Value) -> tuple[float, float]:
        """Return what the clamp lets through that makes a tensor; everything where none does."""
        producer = source.producer()
        limits = None if producer is None else clamp_limits(producer, self._table)
        return limits or (-np.inf, np.inf)

    @functools.cached_property
    def _histograms(self) -> Mapping[str, Histogram]:
        """Return the histograms of all tensors whose ranges are known and finite."""
        model = at_least(self._model, HISTOGRAM_OPSET, PREFERRED_OPSET)
        if isinstance(model, Reason):
            wanted = self._settings.calibration.value
            self.notes.append(
                remark("calibration", f"minmax, not {wanted}", f"histograms need opset {HISTOGRAM_OPSET}")
            )
            return {}
        grids = {name: Grid.covering(seen.low, seen.high) for name, seen in self._ranges.items() if seen.finite}
        queries = [Query(name, grid) for name, grid in grids.items()]
        answers = self._answers(model, queries, "calibration: histograms")
        return {name: Histogram(answers[Query(name, grid)], grid) for name, grid in grids.items()}
