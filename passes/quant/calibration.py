"""Finds a plan all of whose tensors have finite ranges and bearable scales, and what calibration has to say of them.

What is observed does not depend on which layers stay in float, and is asked for once, however often the pass is tried.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import TypeVar

import onnx_ir as ir

from onnxslim.data import Samples
from onnxslim.observe.finite import first_not_finite
from onnxslim.pipeline.interface import Context, Note
from onnxslim.pipeline.selection import Selection

from .bias import observe_means
from .observe import HISTOGRAM_OPSET, Floats, Histogram, Range, observe_histograms, observe_ranges
from .opset import upgraded
from .plan import QuantPlan, make_plan
from .scales import Activations, Calibration, Scale, choose_scale
from .table import Int8Table
from .tails import coarse_scores, joined_apart

_A = TypeVar("_A")
_R = TypeVar("_R")
Of = Mapping[str, _R]
"""By the names of tensors."""


@dataclasses.dataclass(frozen=True)
class CalibrationSettings:
    """What calibration is told; the fields are options of the pass."""

    calibration: Calibration
    percentile: float
    activations: Activations
    selection: Selection
    """Which nodes."""


class Calibrator:
    """Calibrates one model.

    Args:
        settings: What is asked for.
        model: With the types of its values known; it is not changed.
        table: What the target runs in int8.
        context: Where to run.
        samples: To calibrate with.
    """

    def __init__(
        self, settings: CalibrationSettings, model: ir.Model, table: Int8Table, context: Context, samples: Samples
    ) -> None:
        self._settings, self._model, self._table = settings, model, table
        self._context, self._samples = context, samples
        self._signed = settings.activations is Activations.INT8 or (
            settings.activations is Activations.AUTO and table.activations == "int8"
        )
        self._ranges: dict[str, Range] = {}
        self._infinite: dict[str, str] = {}
        self.notes: list[Note] = []
        self._whole: QuantPlan | None = None
        """The first plan: all others leave more of it in float."""
        self.not_finite = ""
        """Where that begins which is not finite, if some tensor is; empty where all are."""

    def plan(self, in_float: Mapping[ir.Node, str] | None = None) -> QuantPlan:
        """Return what can be quantized.

        Args:
            in_float: Nodes that stay float in any case, and why.
        """
        left = dict(in_float or {})
        while True:
            plan = make_plan(
                self._model,
                self._table,
                selection=self._settings.selection,
                float_values=self._infinite,
                float_nodes=left,
            )
            sources = [group.source.name or "" for group in plan.groups]
            self._observe([name for name in sources if name not in self._ranges])
            bad = [name for name in sources if not self._ranges[name].finite]
            apart: dict[ir.Node, str] = {}
            if not bad:
                apart = joined_apart(plan, self._ranges)
                apart |= coarse_scores(self._model.graph, self._table, plan, self._ranges)
            if not bad and not apart:
                self._whole = self._whole or plan
                return plan
            left.update(apart)
            if bad:
                begins = first_not_finite(self._model, self._samples, self._context.open_session, bad)
                reason = "its range is not finite" + (f": {begins}" if begins is not None else "")
                self._infinite.update(dict.fromkeys(bad, reason))
                self.not_finite = self.not_finite or reason

    def _observe(self, names: list[str]) -> None:
        if names:
            key = ("ranges", tuple(names))
            self._ranges |= self._context.observed(
                key, lambda: observe_ranges(self._model, names, self._context, self._samples)
            )

    def _all(
        self,
        what: str,
        asked: Callable[[QuantPlan], dict[str, _A]],
        plan: QuantPlan,
        observe: Callable[[dict[str, _A]], Of[_R]],
    ) -> Of[_R]:
        """Return an observation of the tensors of `plan`: those of the whole are observed first, once for all plans."""
        known: dict[str, _R] = {}
        for each in (self._whole or plan, plan):
            missing = {name: wanted for name, wanted in asked(each).items() if name not in known}
            if missing:
                key = (what, tuple(missing))
                known |= self._context.observed(key, functools.partial(observe, missing))
        return known

    def scales(self, plan: QuantPlan) -> dict[ir.Value, Scale]:
        """Return the scale of every tensor that is quantized."""
        settings = self._settings
        histograms = self._histograms(plan) if settings.calibration is not Calibration.MINMAX else {}
        scales: dict[ir.Value, Scale] = {}
        for group in plan.groups:
            name = group.source.name or ""
            seen = self._ranges[name]
            scale = choose_scale(seen, histograms.get(name), settings.calibration, settings.percentile, self._signed)
            scales.update(dict.fromkeys(group.members, scale))
        return scales

    def means(self, plan: QuantPlan) -> Of[Floats]:
        """Return the mean of each channel of the tensors that are multiplied by a weight and get a bias."""
        return self._all(
            "means", _axes, plan, lambda axes: observe_means(self._model, axes, self._context, self._samples)
        )

    def _histograms(self, plan: QuantPlan) -> Of[Histogram]:
        model: ir.Model | str = self._model
        if self._model.graph.opset_imports[""] < HISTOGRAM_OPSET:
            model = upgraded(self._model)
        if isinstance(model, str):
            wanted = self._settings.calibration.value
            self.notes.append(Note("calibration", f"minmax, not {wanted}", f"histograms need opset {HISTOGRAM_OPSET}"))
            return {}
        opened = model

        def ranges(plan: QuantPlan) -> dict[str, Range]:
            return {group.source.name or "": self._ranges[group.source.name or ""] for group in plan.groups}

        return self._all(
            "histograms", ranges, plan, lambda seen: observe_histograms(opened, seen, self._context, self._samples)
        )


def _axes(plan: QuantPlan) -> dict[str, tuple[int, int]]:
    """Return the axis of channels, and the rank, of the tensors whose means are asked for."""
    axes: dict[str, tuple[int, int]] = {}
    for site in plan.sites:
        operand = site.operands()[0]
        if site.weight is not None and site.bias is not None and operand.shape is not None:
            axes[operand.name or ""] = (1, operand.shape.rank())
    return axes
