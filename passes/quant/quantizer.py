"""Decides what static quantization makes of a model, step by step, each measured on samples where it can be."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.cost import macs_by_value
from onnxslim.analysis.gemm import spread
from onnxslim.analysis.rescaling import Rescaling
from onnxslim.arrays import Floats
from onnxslim.data import Samples
from onnxslim.errors import DataError, NotDifferentiable, RunError
from onnxslim.pipeline.interface import Context, LayerChange, LayerSensitivity, Note, NoteCode, left_alone, remark
from onnxslim.pipeline.reasons import Reason
from onnxslim.pipeline.selection import Selection
from onnxslim.runtime.layer_latency import LayerTimes
from onnxslim.runtime.model_times import ModelTimes

from .calibration import CalibrationSettings, Calibrator
from .codes import QuantCode
from .cost import PlanCosts, estimated_costs
from .equalisation import (
    WORTH_INSERTING,
    WORTHWHILE,
    EqualChannels,
    Factors,
    balanced_factors,
    fitted_factors,
)
from .fed_forward import MUCH, FedLayers, fed_where_better
from .fitted import fitted_weights
from .float_change import EXACT, deviation
from .gates import with_gates
from .insert import insert
from .insertion import Insertion, costly, insertions
from .integers import INT8, IntegerType
from .layer_bits import bits_change, share_in_int8
from .layer_table import plan_table
from .measuring import Stopwatch, measured_costs
from .mixed import CostLimits, fastest
from .parameters import Parameters, quantize_parameters
from .plan import QuantPlan, layers_of, sites_of
from .precision import Demands, MixedPlan, PlanFigures, PlanTrial, mixed_plan
from .quantized_copy import JudgedScales, QuantizedCopies, quantized_copy
from .scales import ScaleChoice
from .sensitivity import PartErrors, Sensitivity, part_errors
from .site import QuantSite
from .static_settings import StaticSettings
from .table import Int8Table
from .weights import QuantizedWeight, Rounding
from .wide_activations import wide_activations
from .wider import wider_weights

APART = 0.25
"""Share of the samples that choices of scales are judged on, and that they are not made from."""
FEWEST = 16
"""Of fewer samples none is set apart."""
WORTH_FREEING = 0.9
"""Share of the error at which ties of scales are given up: what is tied is copied or added faster."""
ENOUGH = 10**-3.6
"""The error of the outputs, as a share of the energy by which samples differ, below which no time is spent to make it
smaller: 36 dB, a sixtieth of what tells samples apart."""


class Quantizer:
    """Decides what is quantized and how; the model is not changed before `write`.

    `reference` is the model as it came in, which the result must not be slower than; of `model` inputs are held exactly
    whose `levels` are named.
    """

    def __init__(
        self,
        reference: ir.Model,
        model: ir.Model,
        levels: tuple[str, ...],
        settings: StaticSettings,
        table: Int8Table,
        context: Context,
    ) -> None:
        self.model, self._settings, self._table, self._context = model, settings, table, context
        self._reference = reference
        self._levels = frozenset(levels)
        selection = Selection(settings.include, settings.exclude, model, context.original)
        self.unmatched = selection.unmatched()
        spread(model, lambda node: not selection.against(node))
        excluded = {value.name or "" for node in model.graph if selection.against(node) for value in _values(node)}
        self._fixed = self._levels | excluded
        """Values whose channels keep their widths, by name."""
        self._samples = context.draw(settings.samples, "quant: calibration")
        self.macs = macs_by_value(model, {name: np.shape(array) for name, array in self._samples.first().items()})
        self._of_calibration = CalibrationSettings(
            settings.calibration,
            settings.percentile,
            settings.integers(table),
            levels,
            settings.bias_correction,
            selection,
        )
        self.calibrator = Calibrator(self._of_calibration, model, table, context, self._samples)
        self._of_weights = settings.of_weights
        self._fitted: Mapping[str, QuantizedWeight] = {}
        # A layer in float takes more bytes than those that few bits save of many others.
        float_time = 0.0 if settings.few_bits or table.everywhere else settings.float_time
        self._demands = Demands(settings.error, float_time, settings.latency, settings.size)
        self._watch = Stopwatch(ModelTimes(context.target), LayerTimes(context.target), self._samples.first())
        self._timed = settings.timed and (settings.latency is not None or not settings.few_bits)
        wide = settings.wide(table)
        self._wide = wide if wide is not None and model.graph.opset_imports[""] >= wide.opset else None
        self._loss = math.nan
        self.notes: list[Note] = []
        self._asked = QuantPlan((), (), ())
        self._errors: PartErrors | None = None
        self._costs: PlanCosts | None = None

    def exactness_takes(self) -> float:
        """Return how much longer a run takes because layers whose inputs are held exactly are int8, as a share; 0 where
        that is not measured."""
        return self._context.observed("exactness", self._exactness_takes)

    def _exactness_takes(self) -> float:
        plan = self.calibrator.plan()
        if not self._timed or not plan.pays:
            return 0.0
        costs = self._measure(plan, self.calibrator.choices(plan)[0])
        bound, free = fastest(costs, CostLimits(int8=self._exact(plan))), fastest(costs)
        if not costs.measured or bound is None or free is None:
            return 0.0
        return costs.time(bound) / costs.time(free) - 1

    def _exact(self, plan: QuantPlan) -> frozenset[str]:
        """Return the layers whose input is held exactly: in float the ops that make it so would be there in vain."""
        return frozenset(key for key, own in layers_of(plan).items() for site in own if self._levels & _names(site))

    def equalized(self) -> tuple[Quantizer, tuple[Note, ...]]:
        """Return what quantizes the model with its channels equalised, where that costs the outputs less, else this;
        and a note on it."""
        plan = self.calibrator.plan()
        if not plan.pays:
            return self, ()
        found = EqualChannels(self.model, self._fixed).found
        places = {} if self._table.everywhere or self._samples.synthetic else insertions(found, plan, self._fixed)
        if not (len(found.roots) or places):
            return self, (left_alone("channels", Reason(QuantCode.NOT_SCALABLE)),)
        equal, told = self._equalized(plan, found, places)
        if equal is self and places and len(found.roots):  # multiplications must bring more than factors alone
            return self._equalized(plan, found, {})
        return equal, told

    def _equalized(
        self, plan: QuantPlan, found: Rescaling, places: Mapping[str, Insertion]
    ) -> tuple[Quantizer, tuple[Note, ...]]:
        """Return what `equalized` does, with multiplications at some places, if they are worth it."""
        form, context = frozenset(places), self._context
        factors = context.observed(("factors of channels", form), lambda: self._factors(plan, found, places))
        if factors.left > WORTHWHILE:
            return self, (left_alone("channels", Reason(QuantCode.ALREADY_EQUAL, (1 - factors.left,))),)
        channels = EqualChannels(self.model, self._fixed, factors.inserted)
        scaled = channels.scaled(factors)
        changed = context.observed(
            ("scaled channels", form), lambda: deviation(self.model, scaled, self._samples, context)
        )
        if changed > EXACT:
            return self, (left_alone("channels", Reason(QuantCode.NOT_EXACT, (changed,))),)
        levels, beside = self._of_calibration.levels, context.beside(("model of scaled channels", form))
        equal = Quantizer(self._reference, scaled, levels, self._settings, self._table, beside)
        before, after = self._judged_scales(plan).error, equal._judged_scales(equal.calibrator.plan()).error
        if not before > 0 or after > (WORTH_INSERTING if factors.inserted else WORTHWHILE) * before:
            worse = after / before - 1 if before > 0 else 0.0
            return self, (left_alone("channels", Reason(QuantCode.NOT_BETTER_EQUAL, (worse,))),)
        told = f"the error of the outputs is {1 - after / before:.0%} smaller on samples that were set apart"
        by = f"; multiplications inserted: {count}" if (count := len(factors.inserted)) else ""
        values = tuple(value.name or "" for value in channels.found.changed(factors.of_labels))
        done = f"{channels.count} equalised{by}"
        return equal, (remark("channels", done, told, NoteCode.RESCALED.word, values=values),)

    def _factors(self, plan: QuantPlan, found: Rescaling, places: Mapping[str, Insertion]) -> Factors:
        if self._samples.synthetic:
            return balanced_factors(found)
        choice = self._judged_scales(plan).scales
        errors = self._context.observed("rounding errors", lambda: self._part_errors(plan, choice))
        return fitted_factors(
            EqualChannels(self.model, self._fixed, costly(places, errors)),
            plan,
            errors,
            choice,
            self._table.symmetric,
            self._samples,
            self._context.open_session,
        )

    def decide(self) -> tuple[MixedPlan, ScaleChoice]:
        """Return what is quantized, and the scales of the sources of its groups."""
        plan, settings = self.calibrator.plan(), self._settings
        self._asked = plan
        if not plan.pays:
            return MixedPlan(plan), {}
        judged = self._judged_scales(plan)
        choice, self._loss = judged.scales, judged.error
        if judged.error > 0:
            self._demands = dataclasses.replace(self._demands, enough=ENOUGH * judged.varying / judged.error)
        errors, widened = None, None
        if settings.few_bits or self._wide is not None or self._demands.need_errors or settings.float_time:
            errors = self._context.observed("rounding errors", lambda: self._part_errors(plan, choice))
            self._errors = errors
            if settings.few_bits_of_weights:
                errors = self._widen(plan, errors)
            if self._wide is not None:
                costs = self._estimated(plan, sites_of(plan))
                widened = wide_activations(plan, errors, costs, settings.float_time, self._demands.error)
                self.notes += widened.notes(plan, self._wide)
                self._leave(errors, widened.errors)
                errors = widened.errors
        if errors is None and not self._timed:
            return MixedPlan(plan), choice
        mixed = self._mixed(plan, choice, errors or PartErrors({}, {}))
        if widened is not None and self._wide is not None:
            whole = self.calibrator.whole(mixed.plan, self._wide)
            mixed = dataclasses.replace(mixed, plan=widened.on(mixed.plan, whole))
        return mixed, self._completed(mixed.plan, choice)

    def _completed(self, plan: QuantPlan, choice: ScaleChoice) -> ScaleChoice:
        """Return a choice with scales of tensors that are quantized only where others are not: what a clamp reads that
        runs by itself, because the op in front of it is float."""
        known = all((group.source.name or "") in choice for group in plan.groups)
        return choice if known else with_gates(plan, {**self.calibrator.choices(plan)[0], **choice})

    def sensitivity(self, plan: QuantPlan, against: str = "") -> tuple[LayerSensitivity, ...]:
        """Return what each layer costs the outputs, and what becomes of it by a plan; `against` is why it has none."""
        activations, of_weights = self._settings.integers(self._table), self._of_weights

        def integers(site: QuantSite) -> IntegerType:
            return activations if site.product is None else of_weights.integers_of(site)

        return plan_table(self._asked, plan, integers, of_weights.wider, self._errors, self._costs, against)

    def write(
        self, model: ir.Model, plan: QuantPlan, choice: ScaleChoice
    ) -> tuple[list[Note], tuple[LayerChange, ...]]:
        """Quantize the model of the plan, in place; return notes on what runs in int8, and the layers that do."""
        given = self._parameters(plan, choice, self.calibrator.means)
        fed = self._fed(plan, given)
        parameters = fed.within(plan, given)
        notes, layers = _summary(plan, parameters.weights, self.macs)
        insert(model, plan, plan.scales(choice), parameters.weights, parameters.biases, self._table)
        return [*fed.notes, *notes], layers

    def _fed(self, plan: QuantPlan, given: Parameters) -> FedLayers:
        """Return layers that make up for what those in front of them lose, where that is much."""
        if not (self._settings.makes_up and self._loss >= MUCH):
            return FedLayers({})
        return self._context.observed(
            ("fed forward", tuple(site.key for site in plan.sites), self._of_weights.wider, plan.wide),
            lambda: fed_where_better(
                self.model, plan, given, self._table, self._of_weights, *self._apart(), self._context
            ),
        )

    def _parameters(self, plan: QuantPlan, choice: ScaleChoice, means: Mapping[str, Floats]) -> Parameters:
        settings, context = self._of_weights, self._context
        weights, biases = quantize_parameters(plan, plan.scales(choice), means, settings, context, self._fitted)
        return Parameters(choice, weights, biases)

    def _judged_scales(self, plan: QuantPlan) -> JudgedScales:
        """Return the choice of scales; weights are rounded as they will be from now on."""
        if self._settings.rounding is Rounding.FITTED:
            self._fit(plan, frozenset())
        return self._context.observed("scales", lambda: self._choose(plan))

    def _fit(self, plan: QuantPlan, wider: frozenset[str]) -> None:
        """Fit the weights of sites whose weights get 8 bits in place of fewer; of all, where there are none."""
        part = dataclasses.replace(plan, sites=tuple(s for s in plan.sites if s.key in wider)) if wider else plan
        correct = self._settings.bias_correction
        found = self._context.observed(
            ("fitted weights", wider),
            lambda: fitted_weights(self.model, part, self._of_weights, self._samples, correct, self._context),
        )
        # Of those that get 8 bits the weights of fewer bits go in any case: some cannot be fitted.
        self._fitted = {**{key: own for key, own in self._fitted.items() if key not in wider}, **found}

    def _choose(self, plan: QuantPlan) -> JudgedScales:
        """Return the choice of scales that costs the outputs least.

        Each is made from a part of the samples, and run on the others: the range of what was seen is always right for
        what was seen. Of the best one it is seen as well whether the scales that it ties are better free.
        """
        choices, free = (self.calibrator.choices(plan, tied) for tied in (True, False))
        best, least, varying = choices[0], math.nan, 0.0
        if len(choices) > 1 or self._settings.equalize:
            seen, others = self._apart()
            calibrator = Calibrator(self._of_calibration, self.model, self._table, self._context, seen)
            calibrator.observe(plan)
            given = self._parameters(plan, best, self.calibrator.means)
            copies = self._copies(len(choices) + 1, others)

            def error(choice: ScaleChoice) -> float:
                return copies.error(plan, dataclasses.replace(given, choice=choice))

            errors = [error(each) for each in calibrator.choices(plan)]
            index = int(np.argmin(errors))
            best, least, varying = choices[index], errors[index], copies.varying
            loose = error(calibrator.choices(plan, tied=False)[index]) if free[index] != best else math.inf
            if loose < WORTH_FREEING * least:
                best, least = free[index], loose
        # Of all members: where fewer nodes are quantized, another of them may be the source.
        scales = {member.name or "": scale for member, scale in plan.scales(best).usual.items()}
        return JudgedScales(scales, least, varying)

    def _copies(self, trials: int, samples: Samples) -> QuantizedCopies:
        return QuantizedCopies(self.model, self._table, sum(self.macs.values()), trials, samples, self._context)

    def _apart(self) -> tuple[Samples, Samples]:
        """Return the samples that something is made from, and those that it is judged on: all, where they are few."""
        if self._samples.count >= FEWEST:
            with contextlib.suppress(DataError):  # a model of fixed batch takes all of them at once
                others, seen = self._samples.split(APART)
                return seen, others
        return self._samples, self._samples

    def _part_errors(self, plan: QuantPlan, choice: ScaleChoice) -> PartErrors:
        weights, macs = self._parameters(plan, choice, {}).weights, sum(self.macs.values())
        if self._settings.sensitivity is Sensitivity.GRADIENTS:
            try:
                return part_errors(self.model, plan, choice, weights, macs, self._context, Sensitivity.GRADIENTS)
            except NotDifferentiable as error:
                self.notes.append(remark("sensitivity", Sensitivity.MEASURED.value, f"not by gradients: {error}"))
        return part_errors(self.model, plan, choice, weights, macs, self._context)

    def _widen(self, plan: QuantPlan, errors: PartErrors) -> PartErrors:
        """Give 8 bits to the weights that cost the outputs most, and return what errors are left."""
        settings = self._settings
        wider = wider_weights(plan, errors, settings.weights, settings.error)
        self.notes += wider.notes(plan)
        self._of_weights = dataclasses.replace(self._of_weights, wider=wider.sites)
        if settings.rounding is Rounding.FITTED and wider.sites:
            self._fit(plan, wider.sites)
        self._leave(errors, wider.errors)
        return wider.errors

    def _leave(self, before: PartErrors, after: PartErrors) -> None:
        """Take note that errors are smaller by now: so much larger is the share of them that may be left."""
        share = min(1.0, self._demands.error * before.total / max(after.total, 1e-300))
        self._demands = dataclasses.replace(self._demands, error=share)

    def _mixed(self, plan: QuantPlan, choice: ScaleChoice, errors: PartErrors) -> MixedPlan:
        """Return a plan with the layers in float that cost the outputs too much, or are slower in int8."""
        costs = self._costs = self._context.observed(
            ("costs", self._of_weights.wider), lambda: self._measure(plan, choice)
        )
        return mixed_plan(
            PlanFigures(
                plan, errors.of_layers(plan), costs, self.macs, self._estimated(plan) if costs.measured else None
            ),
            self._demands,
            self._exact(plan),
            PlanTrial(
                self.calibrator.plan,
                lambda plans: self._watch.race([self._reference, *(self._copy(own, choice) for own in plans)]),
                lambda plans: self._judge(plans, choice),
            ),
        )

    def _measure(self, plan: QuantPlan, choice: ScaleChoice) -> PlanCosts:
        """Return what layers cost: measured where times decide, and can be."""
        if self._timed:
            self._context.progress("quant: timing", 0, None)
            with contextlib.suppress(RunError):
                copy = self._copy(plan, choice)
                return measured_costs(self.model, copy, plan, self.macs, self._of_weights.integers_of, self._watch)
        return self._estimated(plan)

    def _estimated(self, plan: QuantPlan, layers: Mapping[str, list[QuantSite]] | None = None) -> PlanCosts:
        saturating = self._context.target.instruction_set in self._table.saturates
        feeds, integers = self._samples.first(), self._of_weights.integers_of
        return estimated_costs(self.model, plan, self.macs, feeds, integers, saturating, layers)

    def _judge(self, plans: Sequence[QuantPlan], choice: ScaleChoice) -> list[float]:
        """Return the energy of the error of the outputs by each plan, as a share of theirs, on the samples that choices
        are judged on; NaN for all where one does not run."""
        try:
            copies = self._copies(len(plans), self._apart()[1])
            return [copies.error(plan, self._completed_parameters(plan, choice)) for plan in plans]
        except RunError:
            return [math.nan] * len(plans)

    def _copy(self, plan: QuantPlan, choice: ScaleChoice) -> ir.Model:
        return quantized_copy(self.model, plan, self._completed_parameters(plan, choice), self._table)

    def _completed_parameters(self, plan: QuantPlan, choice: ScaleChoice) -> Parameters:
        return self._parameters(plan, self._completed(plan, choice), self.calibrator.means)


def _values(node: ir.Node) -> list[ir.Value]:
    return [value for value in (*node.inputs, *node.outputs) if value is not None]


def _names(site: QuantSite) -> set[str]:
    return {value.name or "" for value in site.operands()}


def _summary(
    plan: QuantPlan, weights: Mapping[ir.Node, QuantizedWeight], macs: Mapping[str, int]
) -> tuple[list[Note], tuple[LayerChange, ...]]:
    """Return notes on what runs in int8, and the layers that do; `macs` by the names of the first outputs of nodes."""
    counts = Counter(site.node.op_type for site in plan.sites)
    bits = {node: weight.integers.bits for node, weight in weights.items()}
    layers = tuple(
        bits_change(site.node, bits.get(site.node, INT8.bits), macs.get(site.key, 0))
        for site in plan.sites
        if site.is_contraction
    )
    notes = [Note(op_type, f"{count} in int8") for op_type, count in counts.most_common()]
    return share_in_int8(layers, macs) + notes, layers
