"""The pass `quant`: static int8 with QuantizeLinear and DequantizeLinear, for the ops that the target runs in int8."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.analysis.gemm import spread
from onnxslim.analysis.shapes import infer_shapes
from onnxslim.errors import BadOptionValue
from onnxslim.model import FORM
from onnxslim.model.constants import constant
from onnxslim.model.edit import become
from onnxslim.pipeline.interface import Change, Context, Kind, Note, Pass
from onnxslim.pipeline.selection import Exclude, Include, Selection

from .account import account, count_macs
from .bias import correction
from .calibration import CalibrationSettings, Calibrator
from .insert import insert
from .observe import Floats
from .opset import QUANTIZATION_OPSET, upgraded
from .plan import QuantPlan, QuantSite
from .recognise import quantized_nodes
from .saturation import Saturation
from .scales import Activations, Calibration, Scale
from .sensitivity import Noise, layers_of, measure, spared
from .table import Int8Table, Role, load_table
from .weights import QuantizedWeight, bias_floor, quantize_weight

UNTOUCHED = "left alone"

Bias = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Quant(Pass):
    """Run in int8 what the target runs faster in int8: weights once and for all, activations by calibrated scales."""

    name: ClassVar[str] = "quant"
    kind: ClassVar[Kind] = Kind.LOSSY
    needs: ClassVar[tuple[str, ...]] = ("simplify",)
    after: ClassVar[tuple[str, ...]] = ("prune", "lowrank", "sparsify")

    calibration: Annotated[Calibration, "how the range of an activation is chosen"] = Calibration.MINMAX
    percentile: Annotated[float, "percent of the values that percentile calibration covers"] = 99.99
    activations: Annotated[Activations, "element type of activations; auto: what the target likes best"] = (
        Activations.AUTO
    )
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
        if self.samples < 1:
            raise BadOptionValue(f"{self.samples} samples calibrate nothing", where="quant", hint="give 1 or more")

        if not 0 < self.error <= 1:
            raise BadOptionValue(
                f"error is {self.error}", where="quant", hint="error is a share above 0 and at most 1, which is all"
            )

    def milder(self, strength: float) -> Pass | None:
        """Leave the layers that cost the outputs most in float; the amplitude of the error is the strength."""
        return dataclasses.replace(self, error=self.error * strength**2)

    def run(self, model: ir.Model, context: Context) -> Change:
        """Quantize `model` in place, or say why not."""
        table = load_table(context.target.provider)
        reason = _reason_against(model, table)
        if reason:
            return Change(False, (Note("model", UNTOUCHED, reason),))
        infer_shapes(model)
        notes: list[Note] = []
        working = model
        if model.graph.opset_imports[""] < QUANTIZATION_OPSET:
            newer = upgraded(model)
            if isinstance(newer, str):
                return Change(False, (Note("model", UNTOUCHED, newer),))
            working = newer
            notes.append(
                Note("model", f"opset {working.graph.opset_imports['']}", "DequantizeLinear has an axis there")
            )
        selection = Selection(self.include, self.exclude, working, context.original)
        notes += selection.unmatched()
        spread(working, lambda node: not selection.against(node))
        samples = context.draw(self.samples, "quant: calibration")
        settings = CalibrationSettings(self.calibration, self.percentile, self.activations, selection)
        calibrator = Calibrator(settings, working, table, context, samples)
        macs = count_macs(working, {name: np.shape(array) for name, array in samples.first().items()})
        plan = calibrator.plan()
        if self.error < 1 and _pays(plan):
            plan = calibrator.plan(self._spared(working, plan, calibrator, macs, context))
        if not _pays(plan):
            reason = "nothing in it can run in int8"
            if self.error < 1:
                reason = "no layer is left that costs the outputs little enough"
            if calibrator.not_finite:
                reason += f": {calibrator.not_finite}"
            return Change(False, (Note("model", UNTOUCHED, reason), *selection.unmatched(), *plan.left))
        told, layers = account(plan, macs)
        scales = calibrator.scales(plan)
        means = calibrator.means(plan) if self.bias_correction else {}
        if working is not model:
            become(model, working)
        weights, biases = self._weights(plan, scales, means, context)
        insert(model, plan, scales, weights, biases, table.clamps)
        _forget_value_info(model)
        notes += calibrator.notes
        return Change(True, (*notes, *told, *plan.left), layers)

    def _spared(
        self,
        model: ir.Model,
        plan: QuantPlan,
        calibrator: Calibrator,
        macs: Mapping[str, int],
        context: Context,
    ) -> dict[ir.Node, str]:
        """Return the nodes of the layers that cost the outputs most, and why they stay in float."""

        def observe() -> tuple[Noise, ...]:
            scales = calibrator.scales(plan)
            weights, _ = self._weights(plan, scales, {}, context)
            return measure(model, plan, scales, weights, sum(macs.values()), context)

        noises = context.observed("what int8 costs", observe)
        reasons: dict[ir.Node, str] = {}
        sites = layers_of(plan)
        work = {key: sum(macs.get(site.node.outputs[0].name or "", 0) for site in own) for key, own in sites.items()}
        for key, reason in spared(noises, work, self.error).items():
            for site in sites[key]:
                product = site.row.role is Role.CONTRACTION
                reasons[site.node] = reason if product else f"it belongs to the layer {key}, which stays in float"
        return reasons

    def _weights(
        self, plan: QuantPlan, scales: Mapping[ir.Value, Scale], means: Mapping[str, Floats], context: Context
    ) -> tuple[dict[ir.Node, QuantizedWeight], dict[ir.Node, Bias]]:
        """Return the weight and the bias of every site that has one."""
        saturation = self.saturation.on(context.target.int8_saturates)
        biases: dict[ir.Node, Bias] = {}
        floors: dict[ir.Value, Bias] = {}
        for site in plan.sites:
            if site.weight is None or site.bias is None:
                continue
            bias = constant(site.node.inputs[site.bias])
            weight = site.node.inputs[site.weight]
            if bias is None or weight is None:
                raise AssertionError("the plan has seen both")
            biases[site.node] = bias.astype(np.float64)
            floor = bias_floor(bias, scales[site.operands()[0]].scale)
            floors[weight] = np.maximum(floors.get(weight, np.zeros(1)), floor)
        done: dict[tuple[ir.Value, int], QuantizedWeight] = {}
        weights: dict[ir.Node, QuantizedWeight] = {}
        for index, site in enumerate(plan.sites):
            if site.weight is None or site.axis is None:
                continue
            value = site.node.inputs[site.weight]
            axis = site.axis
            array = constant(value)
            if value is None or array is None:
                raise AssertionError("the plan has seen it")
            if (value, axis) not in done:
                done[value, axis] = quantize_weight(
                    array.astype(np.float32, copy=False),
                    axis,
                    packing=site.row.packing,
                    saturation=Saturation.IGNORE if _adds_exactly(site, array) else saturation,
                    per_channel=self.per_channel,
                    search=self.calibration is Calibration.MSE,
                    floor=floors.get(value, 0.0),
                )
            weights[site.node] = done[value, axis]
            mean = means.get(site.operands()[0].name or "")
            if mean is not None and site.node in biases:
                biases[site.node] += correction(array, done[value, axis].dequantized(), axis, mean)
            context.progress("quantizing weights", index + 1, len(plan.sites))
        return weights, biases


def _reason_against(model: ir.Model, table: Int8Table) -> str:
    """Return why `model` must not be quantized at all; empty where nothing speaks against it."""
    if table.reason:
        return table.reason
    found = quantized_nodes(model)
    if found:
        return "already quantized: " + ", ".join(f"{count} {op_type}" for op_type, count in sorted(found.items()))
    halves = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
    if any(value.dtype in halves for value in model.graph.initializers.values()):
        return "its weights are half precision: quantize the float32 model instead"
    if "" not in model.graph.opset_imports:
        return "it uses no operators of ONNX itself"
    return ""


def _adds_exactly(site: QuantSite, weight: npt.NDArray[np.generic]) -> bool:
    """Whether this is a depthwise convolution, and the kernel for it does not saturate."""
    group = site.node.attributes.get_int("group", 1)
    return site.row.depthwise == "exact" and group == weight.shape[0] and bool(weight.shape[1] == 1)


def _pays(plan: QuantPlan) -> bool:
    """Whether something runs in int8 that is worth it by itself."""
    return any(site.weight is not None or site.row.required for site in plan.sites)


def _forget_value_info(model: ir.Model) -> None:
    """Do not write the types of inner values: an eighth of a small model's overhead, and inference knows them."""
    form = model.graph.meta.get(FORM)
    if form is not None:
        model.graph.meta[FORM] = dataclasses.replace(form, value_info=False)
