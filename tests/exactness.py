"""The two exactness tests of a coupling: permute its groups, or zero and remove some; the outputs must not notice."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from onnxslim.passes.prune.cutting import cut
from permute_channels import permutation, permuted

from onnxslim.analysis.coupling import Coupling, couple, groups
from onnxslim.analysis.remaining_cost import Lengths
from onnxslim.runtime.session import Session

Feeds = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Trial:
    """What became of the outputs when a model was changed in a way that they should not notice."""

    difference: float
    """The largest difference of any output, relative to its largest magnitude."""
    touched: int
    """How many weights were permuted, or lost channels."""
    control: float = float("nan")
    """The same difference where only the first of the weights was permuted: it must be noticed."""


def run(model: ir.Model, feeds: Feeds) -> dict[str, np.ndarray]:
    return Session.of(model, optimize=False).run(feeds)


def largest_difference(left: Feeds, right: Feeds) -> float:
    worst = 0.0
    for name, one in left.items():
        other = right[name]
        if one.shape != other.shape:
            return float("inf")
        if one.dtype.kind not in "f":
            worst = max(worst, float((one != other).mean()) if one.size else 0.0)
        elif one.size:
            one, other = one.astype(np.float64), other.astype(np.float64)
            if (np.isnan(one) != np.isnan(other)).any():
                return float("inf")
            scale = float(np.abs(np.nan_to_num(one, posinf=0, neginf=0)).max()) or 1.0
            with np.errstate(invalid="ignore"):
                apart = np.where(one == other, 0.0, np.nan_to_num(np.abs(one - other)))
            worst = max(worst, float(apart.max()) / scale)
    return worst


def permute_groups(model: ir.Model, feeds: Feeds, seed: int = 0) -> Trial:
    """Permute all groups of `model` wherever they occur, and compare."""
    coupling = couple(model)
    source = permutation(coupling, np.random.default_rng(seed))
    before = run(model, feeds)
    other, control = model.clone(), model.clone()
    changed = 0
    for value, _ in coupling.weights():
        array = value.const_value.numpy()
        after = permuted(array, value, coupling, source)
        if not np.array_equal(array, after):
            tensor = ir.Tensor(np.ascontiguousarray(after), dtype=value.const_value.dtype, name=value.name)
            other.graph.initializers[value.name].const_value = tensor
            if not changed:
                control.graph.initializers[value.name].const_value = tensor
            changed += 1
    return Trial(
        largest_difference(before, run(other, feeds)), changed, largest_difference(before, run(control, feeds))
    )


def some_of_each(coupling: Coupling, share: float = 0.0, *, mixed: bool = False) -> np.ndarray:
    """Return the labels that go when every group of more than one loses its second channel, or `share` of them.

    Groups that an op mixes along (a mean over the channels) notice zeros that are gone; they stay unless `mixed`.
    """
    gone = np.zeros(coupling.labels.count, np.bool_)
    lengths = Lengths(coupling)
    for group in groups(coupling):
        if group.mixed and not mixed:
            continue
        count = max(1, int(len(group.roots) * share))
        more = gone | coupling.labels.removed(group.roots[1 : 1 + count])
        if not lengths.empties(more):
            gone = more
    return gone


def zeroed(coupling: Coupling, gone: np.ndarray) -> None:
    """Set the weights of the channels `gone` to zero, in place."""
    for value, axes in coupling.weights():
        array = value.const_value.numpy().copy()
        if array.dtype.kind != "f":
            continue
        for at, axis in enumerate(axes):
            labels = coupling.of_axis(axis)
            if labels is not None:
                np.moveaxis(array, at, 0)[gone[labels]] = 0
        value.const_value = ir.Tensor(array, dtype=value.const_value.dtype, name=value.name)


def remove_zeroed(model: ir.Model, feeds: Feeds, share: float = 0.0) -> tuple[Trial, ir.Model]:
    """Zero some channels of every group of a copy of `model`, remove them, and compare; return the copy as well."""
    model = model.clone()
    coupling = couple(model)
    gone = some_of_each(coupling, share)
    zeroed(coupling, gone)
    before = run(model, feeds)
    shapes = {value: value.shape for value, _ in coupling.weights()}
    cut(model, coupling, gone)
    touched = sum(value.shape != shape for value, shape in shapes.items())
    return Trial(largest_difference(before, run(model, feeds)), touched), model
