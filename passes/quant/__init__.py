"""The pass `quant`: static int8 with QuantizeLinear and DequantizeLinear, for the ops that the target runs in int8."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.errors import BadOptionValue
from onnxslim.graph.constants import constant
from onnxslim.graph.gemm import spread
from onnxslim.graph.shapes import infer_shapes
from onnxslim.model import FORM
from onnxslim.nesting import nodes_within
from onnxslim.pipeline.interface import Change, Context, Kind, Note, Pass
from onnxslim.train.finite import first_not_finite

from .bias import correction, observe_means
from .insert import insert
from .observe import HISTOGRAM_OPSET, Floats, Histogram, Range, observe_histograms, observe_ranges
from .opset import QUANTIZATION_OPSET, upgraded
from .plan import Plan, Site, excluded_by, make_plan, matches
from .recognise import quantized_nodes
from .saturation import Saturation
from .scales import Activations, Calibration, Scale, choose_scale
from .table import Table, load_table
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
    include: Annotated[tuple[str, ...], "quantize only nodes whose name or op type matches one of these patterns"] = ()
    exclude: Annotated[tuple[str, ...], "leave nodes whose name or op type matches one of these in float"] = ()
    samples: Annotated[int, "how many calibration samples are used at most"] = 256

    def __post_init__(self) -> None:
        if not 50 < self.percentile <= 100:
            raise BadOptionValue(
                f"percentile {self.percentile} leaves nothing to cover",
                where="quant",
                hint="give a number above 50, at most 100",
            )
        if self.samples < 1:
            raise BadOptionValue(f"{self.samples} samples calibrate nothing", where="quant", hint="give 1 or more")

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
        spread(working.graph, lambda node: not excluded_by(node, self.include, self.exclude))
        calibrator = _Calibrator(self, working, table, context)
        plan = calibrator.plan
        if not any(site.weight is not None or site.row.required for site in plan.sites):
            reason = "nothing in it can run in int8"
            if calibrator.not_finite:
                reason += f": {calibrator.not_finite}"
            return Change(False, (Note("model", UNTOUCHED, reason), *plan.left))
        scales = calibrator.scales()
        means = calibrator.means() if self.bias_correction else {}
        if working is not model:
            _become(model, working)
        weights, biases = self._weights(plan, scales, means, context)
        insert(model.graph, plan, scales, weights, biases, table.clamps)
        _forget_value_info(model)
        notes += calibrator.notes
        notes += [
            Note(pattern, "ignored", "no node has such a name or op type")
            for pattern in (*self.include, *self.exclude)
            if not any(matches(node, (pattern,)) for node in nodes_within(model.graph))
        ]
        notes += _counts(plan)
        return Change(True, (*notes, *plan.left))

    def _weights(
        self, plan: Plan, scales: dict[ir.Value, Scale], means: dict[str, Floats], context: Context
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


class _Calibrator:
    """Finds a plan all of whose tensors have finite ranges, and their scales."""

    def __init__(self, options: Quant, model: ir.Model, table: Table, context: Context) -> None:
        self._options, self._model, self._context = options, model, context
        self._samples = context.samples.take(options.samples)
        self._signed = options.activations is Activations.INT8 or (
            options.activations is Activations.AUTO and table.activations == "int8"
        )
        self._ranges: dict[str, Range] = {}
        self.notes: list[Note] = []
        self.not_finite = ""
        """Where that begins which is not finite, if some tensor is; empty where all are."""
        self.plan = self._plan(table)

    def _plan(self, table: Table) -> Plan:
        infinite: dict[str, str] = {}
        while True:
            plan = make_plan(
                self._model,
                table,
                include=self._options.include,
                exclude=self._options.exclude,
                float_values=infinite,
            )
            sources = [group.source.name or "" for group in plan.groups]
            new = [name for name in sources if name not in self._ranges]
            if new:
                self._ranges.update(observe_ranges(self._model, new, self._context, self._samples))
            bad = [name for name in sources if not self._ranges[name].finite]
            if not bad:
                return plan
            begins = first_not_finite(self._model, self._samples, self._context.open_session, bad)
            reason = "its range is not finite" + (f": {begins}" if begins is not None else "")
            infinite.update(dict.fromkeys(bad, reason))
            self.not_finite = self.not_finite or reason

    def scales(self) -> dict[ir.Value, Scale]:
        """Return the scale of every tensor that is quantized."""
        options = self._options
        histograms = self._histograms() if options.calibration is not Calibration.MINMAX else {}
        scales: dict[ir.Value, Scale] = {}
        for group in self.plan.groups:
            name = group.source.name or ""
            seen = self._ranges[name]
            scale = choose_scale(seen, histograms.get(name), options.calibration, options.percentile, self._signed)
            scales.update(dict.fromkeys(group.members, scale))
        return scales

    def means(self) -> dict[str, Floats]:
        """Return the mean of each channel of the tensors that are multiplied by a weight and get a bias."""
        axes: dict[str, tuple[int, int]] = {}
        for site in self.plan.sites:
            operand = site.operands()[0]
            if site.weight is not None and site.bias is not None and operand.shape is not None:
                axes[operand.name or ""] = (1, operand.shape.rank())
        return observe_means(self._model, axes, self._context, self._samples) if axes else {}

    def _histograms(self) -> dict[str, Histogram]:
        model: ir.Model | str = self._model
        if self._model.graph.opset_imports[""] < HISTOGRAM_OPSET:
            model = upgraded(self._model)
        ranges = {group.source.name or "": self._ranges[group.source.name or ""] for group in self.plan.groups}
        if isinstance(model, str):
            wanted = self._options.calibration.value
            self.notes.append(Note("calibration", f"minmax, not {wanted}", f"histograms need opset {HISTOGRAM_OPSET}"))
            return {}
        return observe_histograms(model, ranges, self._context, self._samples)


def _reason_against(model: ir.Model, table: Table) -> str:
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


def _adds_exactly(site: Site, weight: npt.NDArray[np.generic]) -> bool:
    """Whether this is a depthwise convolution, and the kernel for it does not saturate."""
    group = site.node.attributes.get_int("group", 1)
    return site.row.depthwise == "exact" and group == weight.shape[0] and bool(weight.shape[1] == 1)


def _counts(plan: Plan) -> list[Note]:
    counts = Counter(site.node.op_type for site in plan.sites)
    return [Note(op_type, f"{count} in int8") for op_type, count in counts.most_common()]


def _become(model: ir.Model, other: ir.Model) -> None:
    """Give `model` the content of `other`."""
    model.graph = other.graph
    model.ir_version = other.ir_version
    model.functions.clear()
    model.functions.update(other.functions)


def _forget_value_info(model: ir.Model) -> None:
    """Do not write the types of inner values: an eighth of a small model's overhead, and inference knows them."""
    form = model.graph.meta.get(FORM)
    if form is not None:
        model.graph.meta[FORM] = dataclasses.replace(form, value_info=False)
