"""The pass `quant`: integers for weights, and for activations where the target has kernels for them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, ClassVar

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.cost import macs_by_value
from onnxslim.analysis.gemm import spread
from onnxslim.analysis.quantized import count_quantized
from onnxslim.analysis.shapes import infer_shapes
from onnxslim.errors import BadOptionValue
from onnxslim.model import FORM
from onnxslim.model.edit import become
from onnxslim.pipeline.interface import Change, Context, Goal, Kind, LayerChange, Note, Pass, left_alone, remark
from onnxslim.pipeline.reasons import Reason, ReasonCode
from onnxslim.pipeline.selection import Exclude, Include, Selection
from onnxslim.runtime.provider import check_target

from .calibration import CalibrationSettings, Calibrator
from .codes import QuantCode
from .dynamic import DynamicSettings, quantize_dynamically
from .insert import insert
from .opset import QUANTIZATION_OPSET, upgraded
from .parameters import WeightSettings, quantize_parameters
from .plan import QuantPlan
from .saturation import Saturation
from .scales import Activations, Calibration
from .sensitivity import RoundingError, layers_in_float, layers_of, rounding_errors
from .table import Int8Table, load_table
from .weight_only import WeightOnlySettings, quantize_weights
from .weight_only.grids import WeightType
from .weight_only.writing import WeightFormat

FLOAT_BITS, BITS = 32, 8


@dataclasses.dataclass(frozen=True)
class Quant(Pass):
    """Run in int8 what the target runs faster in int8: weights once and for all, activations by calibrated scales."""

    name: ClassVar[str] = "quant"
    kind: ClassVar[Kind] = Kind.LOSSY
    needs: ClassVar[tuple[str, ...]] = ("simplify",)
    after: ClassVar[tuple[str, ...]] = ("dequantize", "prune", "lowrank", "sparsify")

    target: Annotated[
        str, "what the result is written for: cpu, tensorrt, qnn, qdq or another provider; auto: the one of the run"
    ] = "auto"
    calibration: Annotated[Calibration, "how the range of an activation is chosen"] = Calibration.MINMAX
    percentile: Annotated[float, "percent of the values that percentile calibration covers"] = 99.99
    activations: Annotated[
        Activations,
        "element type of activations; auto: what the target likes best; dynamic: uint8, scaled as it runs; float:"
        " weights alone become integers",
    ] = Activations.AUTO
    weights: Annotated[
        WeightType,
        "element type of weights; codebook: 16 levels where they serve best; powers: of two; all but int8 need"
        " activations=float",
    ] = WeightType.INT8
    block: Annotated[
        int | None,
        "weights along the summed axis that share a scale, with activations=float; 0: all; by default 0 for int8, and"
        " 32 for fewer bits",
    ] = None
    symmetric: Annotated[
        bool | None, "zero is the level in the middle, with activations=float; by default for int8 only"
    ] = None
    format: Annotated[
        WeightFormat,
        "how weights are stored with activations=float: as the target's kernel takes them (nbits), as DequantizeLinear"
        " (qdq), or the first where there is a kernel (auto)",
    ] = WeightFormat.AUTO
    per_channel: Annotated[bool, "a weight scale for each output channel rather than for each tensor"] = True
    saturation: Annotated[Saturation, "what keeps products from saturating on processors without VNNI"] = (
        Saturation.AUTO
    )
    bias_correction: Annotated[bool, "let biases take back the mean error of rounded weights"] = True
    include: Include = ()
    exclude: Exclude = ()
    samples: Annotated[int, "how many calibration samples are used at most"] = 256
    error: Annotated[
        float,
        "share of the error that int8 would bring everywhere: for less than 1, layers that cost the outputs much for"
        " their size stay in float",
    ] = 1.0

    def __post_init__(self) -> None:
        if not 50 < self.percentile <= 100:
            raise BadOptionValue(
                f"percentile {self.percentile} leaves nothing to cover",
                where="quant",
                hint="give a number above 50, at most 100",
            )
        self.check_counts("samples")
        if self.block is not None and self.block < 0:
            raise BadOptionValue(
                f"block is {self.block}", where="quant", hint="block is a number of weights, or 0 for all of an output"
            )
        if self.block and not self.weights.equal_steps:
            raise BadOptionValue(
                f"block={self.block} has no meaning with weights={self.weights.value}",
                where="quant",
                hint="a codebook has a scale for each output: leave block out",
            )
        given = {"block": self.block, "symmetric": self.symmetric, "error": None if self.error == 1 else self.error}
        needless = {"error"} if self.activations is Activations.DYNAMIC else set[str]()
        needless |= {"block", "symmetric"} if self.activations is not Activations.FLOAT else set()
        for name in sorted(needless):
            if given[name] is not None:
                raise BadOptionValue(
                    f"{name} has no meaning with activations={self.activations.value}",
                    where="quant",
                    hint="leave it out",
                )
        if self.weights is not WeightType.INT8 and self.activations is not Activations.FLOAT:
            raise BadOptionValue(
                f"weights={self.weights.value} needs activations=float",
                where="quant",
                hint=f"write quant:weights={self.weights.value}:activations=float",
            )
        if self.target != "auto":
            check_target(self.target, "quant")
        if not 0 < self.error <= 1:
            raise BadOptionValue(
                f"error is {self.error}", where="quant", hint="error is a share above 0 and at most 1, which is all"
            )

    def untimed(self, provider: str) -> Reason | None:
        """Return why its speed on `provider` decides nothing: it is written for another target."""
        return None if self.target in ("auto", provider) else Reason(ReasonCode.MADE_FOR_OTHER)

    @property
    def pursues(self) -> Goal | None:
        """Size, where activations stay float: products are no faster where they do not wait for memory."""
        return Goal.SIZE if self.activations is Activations.FLOAT else None

    def milder(self, strength: float) -> Pass | None:
        """Leave the layers that cost the outputs most in float, or with more bits; the amplitude of the error is the
        strength. Dynamic quantization, which needs no samples, has one form only."""
        if self.activations is Activations.DYNAMIC:
            return None
        return dataclasses.replace(self, error=self.error * strength**2)

    def run(self, model: ir.Model, context: Context) -> Change:
        """Quantize `model` in place, or say why not."""
        provider = context.target.provider if self.target == "auto" else self.target
        if self.activations in (Activations.FLOAT, Activations.DYNAMIC):
            reason = _reason_against_any(model)
            if reason is not None:
                return Change(False, (left_alone("model", reason),))
            if self.activations is Activations.FLOAT:
                change = quantize_weights(model, self._weight_only, provider, context)
            else:
                saturation = self.saturation.on(context.target.instruction_set in load_table(provider).saturates)
                dynamic = DynamicSettings(saturation, self.per_channel, self.include, self.exclude)
                change = quantize_dynamically(model, dynamic, provider, context)
            if change.modified:
                _forget_value_info(model)
            return change
        table = load_table(provider)
        if reason := _reason_against(model, table):
            return Change(False, (left_alone("model", reason),))
        infer_shapes(model)
        notes: list[Note] = []
        working = model
        if model.graph.opset_imports[""] < QUANTIZATION_OPSET:
            newer = upgraded(model)
            if isinstance(newer, Reason):
                return Change(False, (left_alone("model", newer),))
            working = newer
            notes.append(
                remark("model", f"opset {working.graph.opset_imports['']}", "DequantizeLinear has an axis there")
            )
        selection = Selection(self.include, self.exclude, working, context.original)
        notes += selection.unmatched()
        spread(working, lambda node: not selection.against(node))
        samples = context.draw(self.samples, "quant: calibration")
        settings = CalibrationSettings(
            self.calibration, self.percentile, self.activations, self.bias_correction, selection
        )
        calibrator = Calibrator(settings, working, table, context, samples)
        macs = macs_by_value(working, {name: np.shape(array) for name, array in samples.first().items()})
        plan = calibrator.plan()
        if self.error < 1 and plan.pays:
            plan = calibrator.plan(self._in_float(working, plan, calibrator, macs, table, context))
        if not plan.pays:
            code = QuantCode.NOTHING_QUANTIZABLE if self.error == 1 else QuantCode.NOTHING_CHEAP
            begins = calibrator.not_finite
            reason = Reason(code, ("",)) if begins is None else Reason(code, (f": {begins}",), begins.values)
            return Change(False, (left_alone("model", reason), *selection.unmatched(), *plan.left))
        summary, layers = _summary(plan, macs)
        scales = calibrator.scales(plan)
        if working is not model:
            become(model, working)
        settings_of_weights = self._weight_settings(table, context)
        weights, biases = quantize_parameters(plan, scales, calibrator.means, settings_of_weights, context)
        insert(model, plan, scales, weights, biases, table)
        _forget_value_info(model)
        notes += calibrator.notes
        return Change(True, (*notes, *summary, *plan.left), layers)

    @property
    def _weight_only(self) -> WeightOnlySettings:
        return WeightOnlySettings(
            self.weights,
            self.block,
            self.symmetric,
            self.format,
            self.bias_correction,
            self.error,
            self.samples,
            self.include,
            self.exclude,
        )

    def _in_float(
        self,
        model: ir.Model,
        plan: QuantPlan,
        calibrator: Calibrator,
        macs: Mapping[str, int],
        table: Int8Table,
        context: Context,
    ) -> dict[ir.Node, Reason]:
        """Return the nodes of the layers that cost the outputs most, and why they stay in float."""

        def observe() -> tuple[RoundingError, ...]:
            scales = calibrator.scales(plan)
            weights, _ = quantize_parameters(plan, scales, {}, self._weight_settings(table, context), context)
            return rounding_errors(model, plan, scales, weights, sum(macs.values()), context)

        errors = context.observed("rounding errors", observe)
        reasons: dict[ir.Node, Reason] = {}
        sites = layers_of(plan)
        work = {key: sum(macs.get(site.key, 0) for site in own) for key, own in sites.items()}
        for key, reason in layers_in_float(errors, work, self.error).items():
            for site in sites[key]:
                of_layer = Reason(QuantCode.OF_FLOAT_LAYER, (key,), (key,))
                reasons[site.node] = reason if site.is_contraction else of_layer
        return reasons

    def _weight_settings(self, table: Int8Table, context: Context) -> WeightSettings:
        saturation = self.saturation.on(context.target.instruction_set in table.saturates)
        return WeightSettings(saturation, self.per_channel, self.calibration is Calibration.MSE)


def _summary(plan: QuantPlan, macs: Mapping[str, int]) -> tuple[list[Note], tuple[LayerChange, ...]]:
    """Return notes on what runs in int8, and the layers that do; `macs` by the names of the first outputs of nodes."""
    counts = Counter(site.node.op_type for site in plan.sites)
    notes = [Note(op_type, f"{count} in int8") for op_type, count in counts.most_common()]
    layers = []
    for site in plan.sites:
        if site.is_contraction:
            own = macs.get(site.key, 0)
            layers.append(
                LayerChange(site.node.name or site.key, site.node.op_type, "bits", FLOAT_BITS, BITS, own, own)
            )
    total = sum(macs.values())
    if total:
        share = sum(layer.macs_after for layer in layers) / total
        notes.insert(0, Note("model", f"{share:.1%} of the multiply-accumulates in int8"))
    return notes, tuple(layers)


def _reason_against(model: ir.Model, table: Int8Table) -> Reason | None:
    """Return why `model` must not be quantized at all; None where nothing speaks against it."""
    return Reason(QuantCode.NO_INT8_KERNELS, (table.reason,)) if table.reason else _reason_against_any(model)


def _reason_against_any(model: ir.Model) -> Reason | None:
    """Return why nothing in `model` can be quantized, in whatever scheme; None where something may."""
    found = count_quantized(model)
    if found:
        counts = ", ".join(f"{count} {op_type}" for op_type, count in sorted(found.items()))
        return Reason(QuantCode.QUANTIZED, (counts,))
    halves = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
    if any(value.dtype in halves for value in model.graph.initializers.values()):
        return Reason(QuantCode.HALF_PRECISION)
    return None if "" in model.graph.opset_imports else Reason(QuantCode.NO_ONNX_OPS)


def _forget_value_info(model: ir.Model) -> None:
    """Do not write the types of inner values: an eighth of a small model's overhead, and inference knows them."""
    form = model.graph.meta.get(FORM)
    if form is not None:
        model.graph.meta[FORM] = dataclasses.replace(form, value_info=False)
