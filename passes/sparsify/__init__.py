"""Sparsity: single weights become zero, the others make up for them; the file gets smaller once it is compressed."""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import zlib
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.cost import measure_cost
from onnxslim.analysis.linear_layer import LinearLayer, linear_layers
from onnxslim.analysis.shapes import infer_shapes
from onnxslim.analysis.specialize import specialize_shapes
from onnxslim.arrays import Floats
from onnxslim.diagnostic import Code
from onnxslim.fit.elimination import BLOCK, eliminate
from onnxslim.fit.refit import BUDGET, COLUMNS, FEWEST, SAMPLES
from onnxslim.model.constants import constant
from onnxslim.model.edit import overwrite
from onnxslim.model.sparse import SPARSE
from onnxslim.observe.gram import measurable, sums
from onnxslim.pipeline.interface import Change, Context, Kind, Note, Pass, left_alone, remark
from onnxslim.pipeline.reasons import Reason
from onnxslim.pipeline.selection import Exclude, Include, Selection
from onnxslim.units import in_bytes

from .selection import Pattern, least, read_pattern, shares

RATIO = 0.5
"""The share that becomes zero where nobody says how many."""
MOST = 0.9
"""Under a budget, where nobody says how many: the largest share that is ever tried."""
PLACES = 64
"""Places of one sample that a convolution is seen at, at most; neighbours say nearly the same."""


class Method(enum.Enum):
    """The way in which weights are chosen."""

    MAGNITUDE = "magnitude"
    """The smallest become zero."""
    OBS = "obs"
    """Those that are missed least on the samples, one after the other; what is left makes up for them."""


class Scope(enum.Enum):
    """Among which weights the share is taken."""

    LAYER = "layer"
    GLOBAL = "global"


class Store(enum.Enum):
    """The form in which zeros are stored."""

    DENSE = "dense"
    SPARSE = "sparse"


class SparsifyCode(Code):
    """Why a weight, or a whole model, stays dense."""

    NOTHING_CHOSEN = "no weight can be made sparse"
    MODEL_OUTPUT = "it is an output of the model"
    TOO_SMALL = "{0} elements are fewer than smallest={1}"
    NO_WHOLE_GROUPS = "{0} input channels are no whole groups of {1}"


@dataclasses.dataclass(frozen=True)
class Sparsify(Pass):
    """Set single weights to zero: smaller once compressed, and no faster in ONNX Runtime."""

    name: ClassVar[str] = "sparsify"
    kind: ClassVar[Kind] = Kind.LOSSY
    needs: ClassVar[tuple[str, ...]] = ("simplify",)
    after: ClassVar[tuple[str, ...]] = ("dequantize", "prune", "lowrank")
    speeds_up: ClassVar[bool] = False

    ratio: Annotated[
        float | None, "share of the weights that become zero, by default 0.5; a pattern N:M has its own"
    ] = None
    pattern: Annotated[str, "unstructured, or N:M along the input as 2:4: so many of each group may stay"] = (
        "unstructured"
    )
    method: Annotated[Method, "how weights are chosen; obs needs samples, and fits the weights that stay"] = Method.OBS
    scope: Annotated[Scope, "the share is that of each layer, or of all layers together"] = Scope.GLOBAL
    smallest: Annotated[int, "leave weights with fewer elements alone"] = 256
    include: Include = ()
    exclude: Exclude = ()
    store: Annotated[
        Store,
        "sparse writes sparse initializers where they make the file smaller; not for weights in an external file",
    ] = Store.DENSE

    def __post_init__(self) -> None:
        self.check_shares("ratio")
        self.check_counts("smallest")
        read_pattern(self.pattern)

    def milder(self, strength: float) -> Pass | None:
        """Set a smaller share to zero; a pattern N:M has one form only."""
        if read_pattern(self.pattern).group:
            return None
        return dataclasses.replace(self, ratio=(MOST if self.ratio is None else self.ratio) * strength)

    @property
    def opening(self) -> float:
        """The default share where none is given."""
        return RATIO / MOST if self.ratio is None else 1.0

    def run(self, model: ir.Model, context: Context) -> Change:
        """Set weights of `model` to zero, in place.

        Raises:
            RunError: The model does not run on the calibration samples.
        """
        infer_shapes(model)
        pattern = read_pattern(self.pattern)
        chosen, notes = self._chosen(model, pattern, Selection(self.include, self.exclude, model, context.original))
        if not chosen:
            return Change(False, (left_alone("model", Reason(SparsifyCode.NOTHING_CHOSEN)), *notes))
        before = _compressed(chosen)
        ratio = RATIO if self.ratio is None else self.ratio
        ratios = dict.fromkeys((layer.weight for layer in chosen), ratio)
        if self.scope is Scope.GLOBAL and not pattern.group:
            ratios = shares({layer.weight: _rows(layer) for layer in chosen}, ratio)
        seen, count = self._seen(chosen, context, notes)
        for layer in chosen:
            if layer not in seen:
                rows = _rows(layer)
                masks = [least(np.abs(group), ratios[layer.weight], pattern) for group in rows]
                _write(layer, np.where(masks, 0.0, rows))
        self._eliminate(model, seen, ratios, pattern, count, context)
        if self.store is Store.SPARSE:
            for layer in chosen:
                layer.weight.meta[SPARSE] = True
        zeros = {layer.weight: int(np.sum(constant(layer.weight) == 0)) for layer in chosen}
        total = sum(layer.parameters for layer in chosen)
        after = _compressed(chosen)
        done = [
            Note("model", f"{sum(zeros.values()) / total:.1%} of {total:,} weights are zero"),
            Note(
                "compressed",
                f"{in_bytes(before)} -> {in_bytes(after)}",
                "these weights under zlib; in the file they take as much as before, and ONNX Runtime is no faster",
            ),
        ]
        for layer in chosen:
            how = "obs" if layer in seen else "magnitude"
            done.append(Note(layer.weight.name or "", f"{zeros[layer.weight] / layer.parameters:.1%} zero by {how}"))
        return Change(True, (*done, *notes))

    def _chosen(self, model: ir.Model, pattern: Pattern, selection: Selection) -> tuple[list[LinearLayer], list[Note]]:
        """Return the weights that may be made sparse, each once, and notes on the others."""
        chosen: list[LinearLayer] = []
        notes = selection.unmatched()
        for layer in linear_layers(model.graph):
            readers = (use.node for use in layer.weight.uses())
            if reason := selection.against(*readers) or self._against(layer, pattern):
                notes.append(left_alone(layer.weight.name or "", reason))
            else:
                chosen.append(layer)
        return chosen, notes

    def _against(self, layer: LinearLayer, pattern: Pattern) -> Reason | None:
        """Return why a weight cannot be made sparse, or is too small for it; None where it can."""
        if layer.weight.is_graph_output():
            return Reason(SparsifyCode.MODEL_OUTPUT)
        if layer.parameters < self.smallest:
            return Reason(SparsifyCode.TOO_SMALL, (layer.parameters, self.smallest))
        if not pattern.fits(layer.inputs):
            return Reason(SparsifyCode.NO_WHOLE_GROUPS, (layer.inputs, pattern.group), nodes=(layer.name,))
        return None

    def _seen(
        self, chosen: Sequence[LinearLayer], context: Context, notes: list[Note]
    ) -> tuple[list[LinearLayer], int]:
        """Return the layers that samples tell something about, and how many samples; notes say why others are not."""
        if self.method is Method.MAGNITUDE:
            return [], 0
        count = min(SAMPLES, context.samples.count)
        if context.samples.synthetic or count < FEWEST:
            why = "samples that were made up say" if context.samples.synthetic else f"{count} samples say"
            notes.append(remark("method", "magnitude", f"{why} nothing about which weights matter"))
            return [], 0
        readers = collections.Counter(layer.node for layer in chosen)
        seen = []
        for layer in chosen:
            name = layer.weight.name or ""
            alone = measurable(layer.first) and len(layer.weight.uses()) == 1
            if not alone or readers[layer.node] > 1:
                notes.append(remark(name, "magnitude", "what it is multiplied with cannot be seen from outside"))
            elif layer.columns > COLUMNS:
                notes.append(remark(name, "magnitude", f"over {COLUMNS} weights an output take too much memory"))
            else:
                seen.append(layer)
        return seen, count

    def _eliminate(
        self,
        model: ir.Model,
        layers: Sequence[LinearLayer],
        ratios: Mapping[ir.Value, float],
        pattern: Pattern,
        count: int,
        context: Context,
    ) -> None:
        """Eliminate layer after layer, each on what those before it give now, as far as the budget of runs reaches."""
        if not layers:
            return
        sizes = {name: array.shape for name, array in context.samples.first().items()}
        macs = measure_cost(specialize_shapes(model, sizes)).macs
        runs = int(max(1, min(len(layers), BUDGET / max(macs * count, 1))))
        samples = context.draw(count, "sparsify: second moments")
        block = BLOCK - BLOCK % (pattern.group or 1)
        done = 0
        for part in np.array_split(np.arange(len(layers)), runs):
            group = [layers[index] for index in part]
            read = [layer.first for layer in group]
            seen = sums(model, read, samples, PLACES, context.generator, context.open_session)
            for layer, total in zip(group, seen, strict=True):
                choose = functools.partial(least, ratio=ratios[layer.weight], pattern=pattern)
                fitted = [
                    eliminate(weight, gram, choose, block)
                    for weight, gram in zip(_rows(layer), total.products, strict=True)
                ]
                _write(layer, np.stack(fitted))
                done += 1
                context.progress("sparsify", done, len(layers))


def _rows(layer: LinearLayer) -> Floats:
    """Return the weight, shape [groups, outputs, columns], neighbouring columns along the input channels."""
    return np.ascontiguousarray(layer.first.blocks().swapaxes(1, 2))


def _write(layer: LinearLayer, rows: Floats) -> None:
    overwrite(layer.weight, layer.first.from_blocks(rows.swapaxes(1, 2)))


def _compressed(layers: Sequence[LinearLayer]) -> int:
    """Return how many bytes the weights take under zlib, each for itself, as gzip and wheels would compress them."""
    arrays = (constant(layer.weight) for layer in layers)
    return sum(len(zlib.compress(np.ascontiguousarray(array).tobytes(), 6)) for array in arrays if array is not None)
