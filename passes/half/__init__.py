"""The pass `half`: weights, and where the target is faster so the values between them, in float16 or bfloat16."""

from __future__ import annotations

import dataclasses
import enum
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, ClassVar

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.cost import macs_by_value
from onnxslim.analysis.linear_layer import label
from onnxslim.analysis.quantized import count_quantized
from onnxslim.analysis.shapes import infer_shapes
from onnxslim.errors import BadOptionValue, RunError
from onnxslim.model import weight_bytes
from onnxslim.model.constants import constant_tensor
from onnxslim.model.edit import become
from onnxslim.model.nesting import every_graph, main_graphs
from onnxslim.observe.statistics import observe
from onnxslim.ops.traits import Trait, has
from onnxslim.pipeline.interface import Change, Context, Goal, Kind, LayerChange, Note, Pass, left_alone, remark
from onnxslim.pipeline.opset import upgraded
from onnxslim.pipeline.reasons import Reason, ReasonCode
from onnxslim.pipeline.selection import Exclude, Include, Selection
from onnxslim.runtime.provider import check_target
from onnxslim.units import in_bytes

from .codes import HalfCode
from .convert import HalfWriter
from .differences import find_differences
from .formats import FORMATS, HalfFormat, HalfType
from .masks import find_masks
from .operands import is_float
from .plan import HalfPlan, judged_by_values, keep_moved_weights, leave_small_regions, makes_indices, possible
from .ranges import Fitness, Seen, range_queries, seen_values
from .simulation import simulated
from .storage import SMALLEST, choose_storage, float_weights
from .table import HalfTable, load_half_table, load_op_facts

AUTO = "auto"
IN_FLOAT = "left in float32"
BITS, HALF_BITS = 32, 16
SYNTHETIC_HEADROOM = 4.0
"""Random inputs say less about values than samples do: they get so many times the headroom."""
SIMULATED = 8
"""Samples on which the outputs are compared."""
BFLOAT16_OPSET = 22
"""Conv and the pools know bfloat16 since."""


class Inner(enum.Enum):
    """What runs in half precision, beside the storage of weights."""

    AUTO = "auto"
    """What the target runs faster so."""
    HALF = "half"
    """All that ONNX defines for it, and the target runs at all."""
    FLOAT = "float"
    """Nothing: weights are cast when the model is loaded, or when it runs."""


class Interface(enum.Enum):
    """The element type of the inputs and outputs of the model."""

    FLOAT = "float"
    HALF = "half"


@dataclasses.dataclass(frozen=True)
class Half(Pass):
    """Halve the size: weights in float16 or bfloat16, and inner values where that is faster and they fit."""

    name: ClassVar[str] = "half"
    kind: ClassVar[Kind] = Kind.LOSSY
    needs: ClassVar[tuple[str, ...]] = ("simplify",)
    after: ClassVar[tuple[str, ...]] = ("dequantize", "prune", "lowrank", "sparsify", "distill", "quant", "qat")
    speeds_up: ClassVar[bool] = False

    type: Annotated[HalfType, "element type: float16 has more digits, bfloat16 the range of float32"] = HalfType.FLOAT16
    target: Annotated[
        str,
        "what the result is to run on: auto, the provider of this run; or one that need not be here: cuda, tensorrt",
    ] = AUTO
    activations: Annotated[
        Inner,
        "inner values: auto, where the target runs them faster in half precision; half, wherever that is possible, even"
        " if it is slower here; float, weights only",
    ] = Inner.AUTO
    io: Annotated[Interface, "element type of the inputs and outputs of the model"] = Interface.FLOAT
    headroom: Annotated[float, "how many times as large as on the samples inner values may get elsewhere"] = 4.0
    include: Include = ()
    exclude: Exclude = ()
    samples: Annotated[int, "how many samples the ranges of inner values are seen on at most"] = 64

    def __post_init__(self) -> None:
        self.check_counts("samples")
        if self.target != AUTO:
            check_target(self.target, "half")
        if not 1 <= self.headroom <= 1000:
            raise BadOptionValue(
                f"headroom is {self.headroom}", where="half", hint="give a factor from 1 to 1000; 4 is the default"
            )

    def untimed(self, provider: str) -> Reason | None:
        """Return why its speed on `provider` decides nothing: it is written for another target."""
        return None if self.target in (AUTO, provider) else Reason(ReasonCode.MADE_FOR_OTHER)

    @property
    def pursues(self) -> Goal | None:
        """Size, where weights are all that changes."""
        return Goal.SIZE if self.activations is Inner.FLOAT else None

    def milder(self, strength: float) -> Pass | None:
        """Store the weights only, as whose rounding is all that is lost then."""
        if self.activations is Inner.FLOAT:
            return None
        return self if strength == 1 else dataclasses.replace(self, activations=Inner.FLOAT)

    def run(self, model: ir.Model, context: Context) -> Change:
        """Convert `model` in place, or say why not."""
        half = FORMATS[self.type]
        table = load_half_table(context.target.provider if self.target == AUTO else self.target)
        infer_shapes(model)
        if reason := _reason_against(model):
            return Change(False, (left_alone("model", reason),))
        why = self._stays_float(table, half)
        notes: list[Note] = []
        working = model
        opset = half.opset if why is not None or self.type is HalfType.FLOAT16 else BFLOAT16_OPSET
        if model.opset_imports[""] < opset:
            newer = upgraded(model, max(opset, half.opset))
            if isinstance(newer, Reason):
                return Change(False, (left_alone("model", newer),))
            working = newer
            notes.append(remark("model", f"opset {newer.opset_imports['']}", f"{half.name} needs it"))
        selection = Selection(self.include, self.exclude, working, context.original)
        notes += selection.unmatched()
        before = weight_bytes(working)
        float32 = working.clone()
        made = self._plan(working, half, table, selection, context, why)
        layers = self._write(made, working, half, context)
        if why is None and made.plan.half:
            left = self._simulate(float32, working, half, table, context)
            if isinstance(left, Reason):
                working = float32
                selection = Selection(self.include, self.exclude, working, context.original)
                made = self._plan(working, half, table, selection, context, left)
                layers = self._write(made, working, half, context)
            elif left is not None:
                notes.append(remark("outputs", f"{left:.1f} dB", "of the worst one, every value rounded"))
        if not made.plan.half and not made.stored and self.io is Interface.FLOAT:
            nothing = Reason(HalfCode.NOTHING_LARGE, (SMALLEST, half.name))
            return Change(False, (left_alone("model", nothing), *notes, *made.notes))
        if working is not model:
            become(model, working)
        notes += _summary(made, half, before, weight_bytes(model))
        return Change(True, (*notes, *made.notes), layers)

    def _write(self, made: _Made, model: ir.Model, half: HalfFormat, context: Context) -> tuple[LayerChange, ...]:
        """Convert `model` as planned, and return its layers that change."""
        layers = _layers(made, model, context)
        writer = HalfWriter(model, made.plan, half, made.masks, load_op_facts())
        writer.write(made.stored, io=self.io is Interface.HALF)
        return layers

    def _simulate(
        self, before: ir.Model, after: ir.Model, half: HalfFormat, table: HalfTable, context: Context
    ) -> float | Reason | None:
        """Return what half precision leaves of the outputs, as `simulated` does; None where they are random."""
        if any(has(node, Trait.RANDOM) for graph in main_graphs(before) for node in graph):
            return None
        samples = context.draw(min(self.samples, SIMULATED), "half: outputs, every value rounded")
        here = table.provider == context.target.provider and half.name not in table.casts
        return simulated(before, after, samples, context.open_session, rounds=here)

    def _stays_float(self, table: HalfTable, half: HalfFormat) -> Reason | None:
        """Return why all inner values stay in float32, whatever they are; None where they need not."""
        if self.activations is Inner.FLOAT:
            return Reason(HalfCode.ASKED)
        if self.activations is Inner.AUTO and not table.declared:
            return Reason(HalfCode.NO_TABLE, (table.provider, half.name))
        if self.activations is Inner.AUTO and table.activations == "float":
            return Reason(HalfCode.TARGET_IN_FLOAT, (table.reason,))
        return None

    def _plan(
        self,
        model: ir.Model,
        half: HalfFormat,
        table: HalfTable,
        selection: Selection,
        context: Context,
        why: Reason | None,
    ) -> _Made:
        """Return what is to be done; `why` all inner values stay in float32."""
        facts = load_op_facts()
        plan, masks, seen = HalfPlan({}, {}), set[ir.Value](), dict[str, Seen]()
        headroom = self.headroom * (SYNTHETIC_HEADROOM if context.samples.synthetic else 1.0)
        if why is None:
            plan = possible(model, half, table, facts, selection, kernels_only=self.activations is Inner.AUTO)
            found = self._observe(model, plan, context)
            if isinstance(found, Reason):
                plan, why = HalfPlan({}, {}), found
            else:
                seen, masks = found, find_masks(model.graph, found, half, facts)
        precise = find_differences(model.graph, seen, half, facts)
        fitness = Fitness(half, headroom, seen, masks, facts, precise)
        judged_by_values(plan, fitness)
        leave_small_regions(plan, _macs(model, context))
        exact = makes_indices(model.graph, half, model.opset_imports, facts)
        storage = choose_storage(model, fitness, selection, exact)
        keep_moved_weights(plan, model, half, table, storage.stored, exact)
        notes = [remark("inner values", "float32", str(why), why.code.word)] if why is not None else []
        notes += [left_alone(label(node), reason, action=IN_FLOAT) for node, reason in plan.left.items()]
        return _Made(plan, masks, storage.stored, (*notes, *storage.left))

    def _observe(self, model: ir.Model, plan: HalfPlan, context: Context) -> dict[str, Seen] | Reason:
        """Return what is seen of the values that would be in half precision, or why nothing can be."""
        values = [value for node in plan.half for value in (*node.inputs, *node.outputs)]
        constants = {value for value in values if value is not None and constant_tensor(value) is not None}
        wanted = dict.fromkeys(value for value in values if is_float(value) and value not in constants)
        names = [value.name for value in wanted if value is not None and value.name]
        samples = context.draw(self.samples, "half: ranges")
        queries = range_queries(names)
        if not queries:
            return {}
        try:
            answers = context.observed(
                tuple(queries),
                lambda: observe(
                    model,
                    queries,
                    samples,
                    context.open_session,
                    lambda done, total: context.progress("half: ranges", done, total),
                ),
            )
        except RunError as error:
            return Reason(HalfCode.NOT_OBSERVED, (error.what,))
        return seen_values(answers, names)


@dataclasses.dataclass(frozen=True)
class _Made:
    """What is to be done to a model."""

    plan: HalfPlan
    masks: set[ir.Value]
    stored: frozenset[ir.Value]
    notes: tuple[Note, ...]


def _macs(model: ir.Model, context: Context) -> Mapping[str, int]:
    return macs_by_value(model, {name: np.shape(array) for name, array in context.samples.first().items()})


def _layers(made: _Made, model: ir.Model, context: Context) -> tuple[LayerChange, ...]:
    """Return the layers whose weights, or products, become half precision."""
    layers = []
    macs = _macs(model, context)
    for node in model.graph:
        own = macs.get(next((output.name for output in node.outputs if output.name), ""), 0)
        if own and (node in made.plan.half or not made.stored.isdisjoint(node.inputs)):
            layers.append(LayerChange(label(node), node.op_type, "bits", BITS, HALF_BITS, own, own))
    return tuple(layers)


def _summary(made: _Made, half: HalfFormat, before: int, after: int) -> list[Note]:
    notes = [Note("weights", f"{half.name}: {in_bytes(before)} -> {in_bytes(after)}")]
    counts = Counter(node.op_type for node in made.plan.half)
    return notes + [Note(op_type, f"{count} in {half.name}") for op_type, count in counts.most_common()]


def _reason_against(model: ir.Model) -> Reason | None:
    """Return why a model must not be converted at all; None where nothing speaks against it."""
    if "" not in model.opset_imports:
        return Reason(HalfCode.NO_ONNX_OPS)
    quantized = count_quantized(model)
    if quantized:
        counts = ", ".join(f"{count} {op_type}" for op_type, count in sorted(quantized.items()))
        return Reason(HalfCode.QUANTIZED, (counts,))
    kinds = Counter(value.dtype for graph in every_graph(model) for value in graph.initializers.values())
    halves = sum(kinds[form.onnx_type] for form in FORMATS.values())
    if halves:
        return Reason(HalfCode.IS_HALF, (halves,))
    values = (value for node in model.graph for value in (*node.inputs, *node.outputs))
    return None if any(float_weights(model)) or any(map(is_float, values)) else Reason(HalfCode.NOTHING_FLOAT)
