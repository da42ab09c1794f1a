"""Static quantization: int8 weights, and activations at scales that are calibrated on samples, between Q and DQ.

The steps, each measured on samples where it can be: inputs that are images are brought to their levels; channels are
equalised; tensors are calibrated; weights are rounded by what their layers read; of several ways to choose scales the
one that costs the outputs least is taken; the layers that cost most for their time stay in float. Branches are models
of their own, and go the same way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import onnx_ir as ir

from onnxslim.analysis.float_form import keep_float_form
from onnxslim.analysis.shapes import infer_shapes
from onnxslim.errors import RunError
from onnxslim.model.edit import become
from onnxslim.pipeline.interface import Change, Context, Note, left_alone, remark
from onnxslim.pipeline.opset import PREFERRED_OPSET, at_least
from onnxslim.pipeline.reasons import Reason
from onnxslim.pipeline.selection import Selection

from .branches import Branches, branches_of, joined
from .codes import QuantCode
from .float_change import EXACT, deviation
from .input_grid import align_inputs
from .integers import IntegerType
from .newer_ops import with_newer_ops
from .plan import QuantPlan
from .quantizer import Quantizer
from .static_settings import StaticSettings
from .table import Int8Table

EXACTNESS = 0.05
"""Share of the time that a run may take longer so that images are held exactly."""


def quantize_statically(model: ir.Model, settings: StaticSettings, table: Int8Table, context: Context) -> Change:
    """Quantize `model` in place for a target, which runs something in int8, or say why not; branches as well."""
    if reason := _reason_against(settings, table):
        return Change(False, (left_alone("model", reason),))
    infer_shapes(model)
    newest, notes = _with_newer_ops(model, settings, table, context)
    working, wide = _at_opset(newest, settings.weights, settings.integers(table).kept_in), settings.wide(table)
    if isinstance(working, Reason):
        return Change(False, (left_alone("model", working),))
    if wide is not None:
        newer = _at_opset(working, wide)
        working = working if isinstance(newer, Reason) else newer
    opset = working.graph.opset_imports[""]
    if working is not newest:
        notes.append(remark("model", f"opset {opset}", "DequantizeLinear takes that there"))
    of_branches = dataclasses.replace(table, whole=())  # their operator set is that of the model
    branches = Branches(
        settings, table, lambda inner, own: quantize_statically(inner, settings, of_branches, own), context
    )
    if working is not model:
        context = context.beside(f"model at opset {opset}")
    before = working.clone() if branches.within(working) else None
    change = _quantize_main_graph(model, working, notes, branches, settings, table, context)
    if change.modified or before is None:
        return change
    result = before.clone()
    inside = branches.quantize(result, branches_of(result), before)
    if inside.modified:
        become(model, result)
        keep_float_form(model, before)
        told = (dataclasses.replace(n, subject="main graph") if n.subject == "model" else n for n in change.notes)
        change = dataclasses.replace(change, notes=(*notes, *told))
    return joined(change, inside)


def _quantize_main_graph(
    model: ir.Model,
    working: ir.Model,
    told: Sequence[Note],
    branches: Branches,
    settings: StaticSettings,
    table: Int8Table,
    context: Context,
) -> Change:
    """Quantize the main graph of `model` in place, and with it its branches, or neither and say why not.

    `working` is the model at the operator set that is needed; `told` are notes on that.
    """
    notes = list(told)
    if not table.fuses(settings.integers(table)):
        what = settings.integers(table).name
        notes.append(remark("activations", what, f"{table.provider} computes in float on them, and is no faster"))
    levels: tuple[str, ...] = ()
    exact = working
    whole = not settings.integers(table).narrow
    if whole and not (table.symmetric or context.samples.synthetic):
        candidate = working.clone()
        levels = align_inputs(candidate, context.draw(settings.samples, "quant: calibration"))
        exact = candidate if levels else working
    quantizer = Quantizer(model, exact, levels, settings, table, context)
    dearer = quantizer.exactness_takes() if levels else 0.0
    if dearer > EXACTNESS:
        reason = Reason(QuantCode.EXACT_TOO_DEAR, (dearer,))
        notes += [left_alone(name, reason) for name in levels]
        quantizer = Quantizer(model, working, (), settings, table, context.beside("inputs as they come"))
    else:
        notes += [remark(name, "256 levels", "the input is an image of 8 bits") for name in levels]
    if settings.equalize:
        quantizer, on_channels = quantizer.equalized()
        notes += on_channels
    mixed, choice = quantizer.decide()
    plan = mixed.plan
    notes += (*quantizer.calibrator.notes, *quantizer.notes, *mixed.notes)
    if mixed.against is not None or not plan.pays:
        code = QuantCode.NOTHING_QUANTIZABLE if settings.error == 1 else QuantCode.NOTHING_CHEAP
        begins = quantizer.calibrator.not_finite
        reason = Reason(code, ("",)) if begins is None else Reason(code, (f": {begins}",), begins.values)
        reason = mixed.against or reason
        table_of = quantizer.sensitivity(QuantPlan((), (), plan.left), str(reason))
        against = (left_alone("model", reason), *quantizer.unmatched, *plan.left)
        return Change(False, against, sensitivity=table_of)
    sensitivity = quantizer.sensitivity(plan)
    if quantizer.model is not model:
        become(model, quantizer.model)
    floats, places = model.clone(), branches_of(model)
    summary, layers = quantizer.write(model, plan, choice)
    keep_float_form(model, floats)
    change = Change(True, (*quantizer.unmatched, *notes, *summary, *plan.left), layers, sensitivity)
    return joined(change, branches.quantize(model, places, floats))


def _with_newer_ops(
    model: ir.Model, settings: StaticSettings, table: Int8Table, context: Context
) -> tuple[ir.Model, list[Note]]:
    """Return `model` with one op for each that it spells out and the target wants whole, and a note on them."""

    def chosen(raised: ir.Model) -> Selection:
        return Selection(settings.include, settings.exclude, raised, context.original)

    found = with_newer_ops(model, table.whole, chosen, context)
    notes = [] if found.against is None else [left_alone("opset", found.against)]
    if found.model is model:
        return model, notes
    opset = found.model.graph.opset_imports[""]
    key = f"outputs at opset {opset}"
    try:
        changed = context.observed(key, lambda: deviation(model, found.model, context.samples, context))
    except RunError as error:
        return model, [left_alone("opset", str(error))]
    if not changed <= EXACT:
        return model, [left_alone("opset", Reason(QuantCode.NEWER_NOT_EXACT, (opset, changed)))]
    made = ", ".join(f"{count} {op_type}" for op_type, count in sorted(found.counts.items()))
    return found.model, [*notes, remark("model", f"opset {opset}", f"for {made}: one op there, which is rounded once")]


def _at_opset(model: ir.Model, *wanted: IntegerType) -> ir.Model | Reason:
    """Return `model` at an operator set that knows some types, or why that is not possible."""
    opset = max(integers.opset for integers in wanted)
    return at_least(model, opset, max(opset, PREFERRED_OPSET))


def _reason_against(settings: StaticSettings, table: Int8Table) -> Reason | None:
    """Return why a target does not take what is wanted; None where it does."""
    activations, weights = settings.integers(table), settings.weights
    if not table.takes(activations):
        return Reason(QuantCode.NO_ACTIVATIONS, (table.provider, ", ".join(table.types), activations.name))
    weighted = [row for row in table.rows.values() if row.weight is not None]
    if not any(row.reads(weights) for row in weighted):
        return Reason(QuantCode.NO_WEIGHTS, (table.provider, weights.name))
    return None
