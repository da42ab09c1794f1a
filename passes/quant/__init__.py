"""The pass `quant`: integers for weights, and for activations where the target has kernels for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, ClassVar

import onnx_ir as ir

from onnxslim.analysis.quantized import count_quantized
from onnxslim.errors import BadOptionValue
from onnxslim.model import FORM
from onnxslim.pipeline.interface import Change, Context, Goal, Kind, Pass, left_alone
from onnxslim.pipeline.reasons import Reason, ReasonCode
from onnxslim.pipeline.selection import Exclude, Include
from onnxslim.runtime.provider import check_target

from .codes import QuantCode
from .dynamic import DynamicSettings, quantize_dynamically
from .integers import IntegerType
from .precision import Times
from .saturation import Saturation
from .scales import Activations, Calibration
from .sensitivity import Sensitivity
from .static import quantize_statically
from .static_settings import StaticSettings
from .table import load_table
from .weight_only import WeightOnlySettings, quantize_weights
from .weight_only.grids import WeightType
from .weight_only.writing import WeightFormat
from .weights import Rounding

DYNAMIC, FLOAT = frozenset({Activations.DYNAMIC}), frozenset({Activations.FLOAT})
STATIC = frozenset(Activations) - DYNAMIC - FLOAT
CONCERNED: Mapping[str, frozenset[Activations]] = {
    "calibration": STATIC,
    "percentile": STATIC,
    "block": FLOAT,
    "symmetric": FLOAT,
    "format": FLOAT,
    "per_channel": STATIC | DYNAMIC,
    "saturation": STATIC | DYNAMIC,
    "rounding": STATIC,
    "bias_correction": STATIC | FLOAT,
    "equalize": STATIC,
    "samples": STATIC | FLOAT,
    "error": STATIC | FLOAT,
    "float_time": STATIC,
    "latency": STATIC,
    "size": STATIC | FLOAT,
    "sensitivity": STATIC,
    "times": STATIC,
}
"""The activations with which an option means something; one that is not listed does with all."""


@dataclasses.dataclass(frozen=True)
class Quant(Pass):
    """Run in int8 what the target runs faster in int8: weights once and for all, activations by calibrated scales."""

    name: ClassVar[str] = "quant"
    kind: ClassVar[Kind] = Kind.LOSSY
    needs: ClassVar[tuple[str, ...]] = ("simplify",)
    after: ClassVar[tuple[str, ...]] = ("dequantize", "prune", "lowrank", "sparsify", "distill")
    tells_layers: ClassVar[bool] = True

    target: Annotated[
        str, "what the result is written for: cpu, tensorrt, qnn, qdq or another provider; auto: the one of the run"
    ] = "auto"
    calibration: Annotated[
        Calibration, "how the range of an activation is chosen; auto: what costs the outputs least"
    ] = Calibration.AUTO
    percentile: Annotated[float, "percent of the values that percentile calibration covers"] = 99.99
    activations: Annotated[
        Activations,
        "element type of activations; auto: what the target likes best; uint16, int16: for targets that multiply them;"
        " uint4, int4, uint2, int2: so few levels, computed on in 8 bits, worth training with qat afterwards;"
        " dynamic: uint8, scaled as it runs; float: weights alone become integers",
    ] = Activations.AUTO
    weights: Annotated[
        WeightType,
        "element type of weights; codebook: 16 levels where they serve best; powers: of two; these two need"
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
    rounding: Annotated[
        Rounding, "how weights are rounded; fitted: so that the outputs of their layers change least"
    ] = Rounding.FITTED
    bias_correction: Annotated[bool, "let biases take back the mean error of rounded weights"] = True
    equalize: Annotated[
        bool, "scale channels so that those of a tensor are equally wide, where that costs the outputs less"
    ] = True
    include: Include = ()
    exclude: Exclude = ()
    samples: Annotated[int, "how many calibration samples are used at most"] = 256
    error: Annotated[
        float,
        "share of the error that int8 would bring everywhere: for less than 1, layers that cost the outputs much for"
        " their size stay in float",
    ] = 1.0
    float_time: Annotated[
        float,
        "share of the time of the int8 layers that may be added for layers in float, or ops of 16 bits where nothing is"
        " float, those that cost most",
    ] = 0.05
    latency: Annotated[
        float | None, "share of the time in float that a run may take: of the choices that keep it, the least error"
    ] = None
    size: Annotated[
        float | None, "share of the bytes of float weights that weights may take: of the choices that keep it, the same"
    ] = None
    sensitivity: Annotated[
        Sensitivity,
        "how it is found out what each layer costs the outputs; gradients: to first order, for all layers at once",
    ] = Sensitivity.MEASURED
    times: Annotated[
        Times, "where times of layers come from; auto: measured where the run times models on what this is written for"
    ] = Times.AUTO

    def __post_init__(self) -> None:
        self._check_concerned()
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
        static = {WeightType.INT8, WeightType.INT4, WeightType.INT2}
        stored = {Activations.FLOAT: set(WeightType), Activations.DYNAMIC: {WeightType.INT8}}
        if self.weights not in stored.get(self.activations, static):
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
        if not 0 <= self.float_time < 1:
            raise BadOptionValue(
                f"float_time is {self.float_time}", where="quant", hint="float_time is a share from 0 to less than 1"
            )
        self.check_shares("latency", "size")
        if self.times is Times.MEASURED and self.weights is not WeightType.INT8 and self.latency is None:
            raise BadOptionValue(
                f"times has no meaning with weights={self.weights.value}: a layer in float takes more bytes",
                where="quant",
                hint="give latency= as well, or leave it out",
            )

    def _check_concerned(self) -> None:
        """Raise BadOptionValue where an option was given that means nothing beside others."""
        for field in dataclasses.fields(self):
            beside = "activations" if self.activations not in CONCERNED.get(field.name, Activations) else ""
            if field.name == "percentile" and self.calibration is not Calibration.PERCENTILE:
                beside = beside or "calibration"
            if beside and getattr(self, field.name) != field.default:
                raise BadOptionValue(
                    f"{field.name} has no meaning with {beside}={getattr(self, beside).value}",
                    where="quant",
                    hint="leave it out",
                )

    def untimed(self, provider: str) -> Reason | None:
        """Return why its speed on `provider` decides nothing: it is written for another target."""
        integers = self.activations.integers
        here = self.target in ("auto", provider) and (integers is None or load_table(provider).fuses(integers))
        return None if here else Reason(ReasonCode.MADE_FOR_OTHER)

    @property
    def pursues(self) -> Goal | None:
        """Size, where it is asked for, or activations stay float: products are no faster where they do not wait for
        memory."""
        sized = self.size is not None and self.latency is None
        return Goal.SIZE if self.activations is Activations.FLOAT or sized else None

    def _timed(self, context: Context) -> bool:
        """Whether the times of layers are measured.

        Raises:
            BadOptionValue: They are to be, and cannot.
        """
        provider = context.target.provider
        can = context.target.facts.node_times and self.untimed(provider) is None
        if self.times is Times.MEASURED and not can:
            raise BadOptionValue(
                f"{provider} does not tell the times of layers of what is written for {self.target}",
                where="quant",
                hint="leave times=measured out",
            )
        wanted = self.latency is not None or (self.pursues or context.goal) is Goal.LATENCY
        return can and (self.times is Times.MEASURED or (self.times is Times.AUTO and context.timed and wanted))

    def milder(self, strength: float) -> Pass | None:
        """Leave the layers that cost the outputs most in float, or with more bits; the amplitude of the error is the
        strength. Dynamic quantization, which needs no samples, has one form only."""
        if self.activations is Activations.DYNAMIC:
            return None
        return dataclasses.replace(self, error=self.error * strength**2)

    def run(self, model: ir.Model, context: Context) -> Change:
        """Quantize `model` in place, or say why not."""
        provider = context.target.provider if self.target == "auto" else self.target
        table = load_table(provider)
        static = self.activations not in (Activations.FLOAT, Activations.DYNAMIC)
        reason = (
            Reason(QuantCode.NO_INT8_KERNELS, (table.reason,)) if static and table.reason else _reason_against(model)
        )
        if reason is not None:
            return Change(False, (left_alone("model", reason),))
        saturation = self.saturation.on(context.target.instruction_set in table.saturates)
        match self.activations:
            case Activations.FLOAT:
                change = quantize_weights(model, self._weight_only, provider, context)
            case Activations.DYNAMIC:
                dynamic = DynamicSettings(saturation, self.per_channel, self.include, self.exclude)
                change = quantize_dynamically(model, dynamic, provider, context)
            case _:
                change = quantize_statically(model, self._static(saturation, self._timed(context)), table, context)
        if change.modified:
            _forget_value_info(model)
        return change

    def _static(self, saturation: Saturation, timed: bool) -> StaticSettings:
        return StaticSettings(
            self.calibration,
            self.percentile,
            self.activations,
            IntegerType.named(self.weights.value),
            self.per_channel,
            saturation,
            self.rounding,
            self.bias_correction,
            self.include,
            self.exclude,
            self.equalize,
            self.samples,
            self.error,
            self.float_time,
            self.latency,
            self.size,
            timed,
            self.sensitivity,
        )

    @property
    def _weight_only(self) -> WeightOnlySettings:
        return WeightOnlySettings(
            self.weights,
            self.block,
            self.symmetric,
            self.format,
            self.bias_correction,
            self.error,
            self.size,
            self.samples,
            self.include,
            self.exclude,
        )


def _reason_against(model: ir.Model) -> Reason | None:
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
