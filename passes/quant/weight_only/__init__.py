"""Weights of few bits, products in float: smaller files, and faster where memory is what a product waits for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.cost import macs_by_value
from onnxslim.analysis.gemm import spread
from onnxslim.analysis.shapes import infer_shapes
from onnxslim.model import weight_bytes
from onnxslim.model.constants import constant_tensor
from onnxslim.model.edit import become
from onnxslim.pipeline.interface import IN_FLOAT, Change, Context, LayerChange, Note, left_alone, remark
from onnxslim.pipeline.opset import upgraded
from onnxslim.pipeline.reasons import Reason
from onnxslim.pipeline.selection import Selection

from ..codes import QuantCode
from ..layer_bits import bits_change
from ..layer_table import TableRow, layer_table
from .choice import costly_weights, stored_bytes, weights_within
from .grids import WeightType
from .kernels import WeightOnlyKernels, load_kernels
from .rounding import LevelType, RoundedWeight, decibels, rounded_alone, rounded_weights, with_noise
from .stored import StoredWeight, find_weights, turn, turn_back
from .writing import WeightFormat, WeightStorage, WeightWriter, storage_of

FULL_BITS = 8
"""Of as many bits one scale for each output, and zero in the middle, are enough. Tables that are read row by row get as
many at least: no sum averages their errors."""
NARROW_BLOCK = 32
"""Weights that share a scale where they have fewer bits."""
MOST_BYTES = 200_000_000
"""Bytes of float weights up to which the noise of the outputs is measured where each alone is rounded: copies of the
model hold both."""
FEWEST = 8
"""Fewer samples say nothing about which sums matter."""


@dataclasses.dataclass(frozen=True)
class WeightOnlySettings:
    """The options of the pass that concern weights."""

    weights: WeightType
    block: int | None
    symmetric: bool | None
    form: WeightFormat
    bias_correction: bool
    error: float
    size: float | None
    samples: int
    include: tuple[str, ...]
    exclude: tuple[str, ...]

    def level_type(self, weight: StoredWeight, bits: int | None = None) -> LevelType:
        """Return what a weight gets; `bits` where it gets others than it should."""
        if bits is None:
            bits = FULL_BITS if weight.is_table else self.weights.bits
        full = bits == FULL_BITS
        levels = WeightType.INT8 if full else self.weights
        whole = full and not weight.is_table and self.form is not WeightFormat.NBITS  # kernels take blocks alone
        block = (0 if whole else NARROW_BLOCK) if self.block is None else self.block
        return LevelType(
            levels, bits, block if levels.equal_steps else 0, full if self.symmetric is None else self.symmetric
        )


def quantize_weights(model: ir.Model, settings: WeightOnlySettings, provider: str, context: Context) -> Change:
    """Store the weights of `model` as integers, in place, or say why not.

    Args:
        model: A clone in canonical form.
        settings: The options.
        provider: What the result is written for.
        context: Of the run.

    Raises:
        RunError: The model does not run on the calibration samples.
    """
    kernels = load_kernels(provider)
    selection = Selection(settings.include, settings.exclude, model, context.original)
    infer_shapes(model)
    spread(model, lambda node: not selection.against(node))
    whole = weight_bytes(model)
    names = {copy.name: original.name for copy, original in turn(model).items()}
    notes = selection.unmatched()
    working, copies = model, _copies(model, names)
    found, left = find_weights(model, copies, selection)
    stored = _stored(found, settings, kernels)
    needed = max((storage.opset for storage in stored.values() if storage is not None), default=0)
    if needed > model.graph.opset_imports[""]:
        newer = upgraded(model, needed)
        if isinstance(newer, Reason):
            notes.append(remark("model", f"opset {model.graph.opset_imports['']}", str(newer), newer.code.word))
        else:
            working, copies = newer, _copies(newer, names)
            found, left = find_weights(
                working, copies, Selection(settings.include, settings.exclude, newer, context.original)
            )
            stored = _stored(found, settings, kernels)
            notes.append(
                remark("model", f"opset {needed}", "DequantizeLinear has blocks, and integers of few bits, there")
            )
    opset = working.graph.opset_imports[""]
    chosen = {weight: storage for weight, storage in stored.items() if storage is not None and storage.opset <= opset}
    for weight in stored.keys() - chosen.keys():
        bits = settings.level_type(weight).bits
        left.append(left_alone(weight.name, Reason(QuantCode.NO_FORMAT, (bits, settings.form.value))))
    if not chosen:
        return Change(False, (left_alone("model", Reason(QuantCode.NOTHING_STORED)), *notes, *left))
    types = {weight: settings.level_type(weight) for weight in chosen}
    samples = context.draw(settings.samples, "quant: weights")
    learns = not samples.synthetic and samples.count >= FEWEST
    if not learns:
        why = "samples that were made up say" if samples.synthetic else f"{samples.count} samples say"
        notes.append(
            remark("model", "weights rounded one by one", f"{why} nothing about what they are multiplied with")
        )

    def observe() -> dict[str, RoundedWeight]:
        return rounded_weights(working, types, samples if learns else None, settings.bias_correction, context)

    rounded = context.observed("rounded weights", observe)
    macs = macs_by_value(working, {name: np.shape(array) for name, array in samples.first().items()})
    if learns and sum(map(stored_bytes, types)) <= MOST_BYTES:
        work = sum(macs.values())
        rounded = context.observed(
            "noise of weights", lambda: with_noise(working, rounded, types, copies, work, context)
        )
    if settings.size is None:
        wide = costly_weights(rounded, types, settings.error)
    else:
        wide, missed = weights_within(rounded, types, whole, settings.size, settings.error)
        notes += missed
    writer = WeightWriter(working, kernels)
    layers: list[LayerChange] = []
    rows: list[TableRow] = []
    for weight, storage in chosen.items():
        name, kind, made = weight.value.name or "", types[weight], rounded[weight.value.name or ""]
        if name in wide:
            if kind.bits == FULL_BITS:
                left.append(left_alone(weight.name, wide[name]))
                rows.append(_row(weight, kind, made, made, wide[name]))
                continue
            kind = settings.level_type(weight, FULL_BITS)
            made, wider = rounded_alone(weight, kind), storage_of(weight, kind, settings.form, kernels)
            assert wider is not None, "what takes fewer bits takes eight"
            storage = wider
        rows.append(_row(weight, kind, rounded[name], made, wide.get(name)))
        writer.write(weight, made, storage)
        notes.append(_told(weight, kind, made, wide.get(name)))
        work = sum(macs.get(node.outputs[0].name or "", 0) for node in weight.nodes)
        layers.append(bits_change(weight.nodes[0], kind.bits, work))
    table = layer_table(rows)
    if not layers:
        return Change(False, (left_alone("model", Reason(QuantCode.NOTHING_CHEAP, ("",))), *left), sensitivity=table)
    turn_back(working, copies)
    writer.finish()
    if working is not model:
        become(model, working)
    return Change(True, (*notes, *left), tuple(layers), table)


def _copies(model: ir.Model, names: Mapping[str | None, str | None]) -> dict[ir.Value, ir.Value]:
    """Return the values of these names, copies with what they are copies of."""
    known = model.graph.initializers
    return {known[copy]: known[original] for copy, original in names.items() if copy and original}


def _stored(
    found: Sequence[StoredWeight], settings: WeightOnlySettings, kernels: WeightOnlyKernels
) -> dict[StoredWeight, WeightStorage | None]:
    types = {weight: settings.level_type(weight) for weight in found}
    return {weight: storage_of(weight, kind, settings.form, kernels) for weight, kind in types.items()}


def _row(
    weight: StoredWeight, kind: LevelType, asked: RoundedWeight, made: RoundedWeight, why: Reason | None
) -> TableRow:
    """Return what the report says of a weight: the noise of the levels that were asked for, and what is stored."""
    tensor = constant_tensor(weight.value)
    levels = f"int{kind.bits}" if kind.levels.equal_steps else kind.levels.value
    return TableRow(
        weight.nodes[0],
        bytes_before=0 if tensor is None else tensor.nbytes,
        bytes_after=-(-made.levels.size * kind.bits // 8) + made.grid.scale.nbytes,
        became=IN_FLOAT if asked is made and why is not None else levels,
        why="" if why is None else str(why),
        noise=asked.lost,
        measured_on="outputs" if asked.noise is not None else "products" if asked.fitted else "weights",
        own=asked.lost,
    )


def _told(weight: StoredWeight, kind: LevelType, made: RoundedWeight, why: Reason | None) -> Note:
    scales = f"in blocks of {kind.block}" if kind.block else "with a scale for each output"
    of_what = "what it makes" if made.fitted else "the weight"
    how = f"its error is {decibels(made.error):.1f} dB below {of_what}"
    levels = f"{kind.bits} bits" if kind.levels.equal_steps else f"{kind.levels.value} of {2**kind.bits}"
    return Note(weight.name, f"{levels} {scales}", how if why is None else f"{how}; {why}")
