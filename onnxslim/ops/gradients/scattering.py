"""Gradients of ops that write updates into data, ScatterElements and ScatterND, with each of their reductions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from onnxslim.model.constants import constant
from onnxslim.ops.fact import axis_of
from onnxslim.ops.gradient import Declined, Gradient, GradientSite
from onnxslim.ops.gradients.movement import Gradients
from onnxslim.ops.parameters import read
from onnxslim.ops.signatures import OpName


@dataclasses.dataclass(frozen=True)
class Writing:
    """How one of the ops writes, and the op that reads the same places."""

    scatter: str
    gather: str
    along_axis: bool
    """Places are those of one axis, which is an attribute; else tuples."""

    def __call__(self, site: GradientSite) -> Gradients:
        """Build the gradients of data and updates."""
        reduction = str(read(site, "reduction", "none"))
        incoming = site.incoming()
        if reduction == "add":
            return {0: incoming, 2: self._read(site, incoming)}
        if reduction in ("max", "min"):
            return self._extreme(site, incoming)
        if 2 in site.wanted:
            self._check_distinct(site, certain=reduction == "mul")
        updates = site.operand(2)
        found: dict[int, ir.Value | None] = {}
        if reduction == "mul":
            if 0 in site.wanted:
                found[0] = self._write(site, incoming, updates, "mul")
            if 2 in site.wanted:
                found[2] = self._read(site, site.op("Mul", incoming, site.operand(0)))
            return found
        if 0 in site.wanted:
            found[0] = self._write(site, incoming, site.zeros(updates), None)
        if 2 in site.wanted:
            found[2] = self._read(site, incoming)
        return found

    def _read(self, site: GradientSite, value: ir.Value) -> ir.Value:
        """Return the elements of a value where updates are written."""
        axis = read(site, "axis") if self.along_axis else None
        return site.op(self.gather, value, site.operand(1), axis=axis)

    def _write(self, site: GradientSite, data: ir.Value, updates: ir.Value, reduction: str | None) -> ir.Value:
        axis = read(site, "axis") if self.along_axis else None
        return site.op(self.scatter, data, site.operand(1), updates, axis=axis, reduction=reduction)

    def _extreme(self, site: GradientSite, incoming: ir.Value) -> Gradients:
        """Share what comes back among all that are the largest, or smallest: Relu, for one, makes many zeros."""
        result, updates = site.result(), site.operand(2)
        kind = int(site.dtype)
        of_data = site.op("Cast", site.op("Equal", site.operand(0), result), to=kind)
        of_updates = site.op("Cast", site.op("Equal", updates, self._read(site, result)), to=kind)
        share = site.op("Div", incoming, self._write(site, of_data, of_updates, "add"))
        return {0: site.op("Mul", share, of_data), 2: site.op("Mul", self._read(site, share), of_updates)}

    def _check_distinct(self, site: GradientSite, certain: bool) -> None:
        """Make sure that no place is written twice, as far as it can be known.

        ONNX forbids it where nothing is reduced; products may meet. Source: ONNX specification, ScatterElements.

        Raises:
            Declined: A place is written twice, or might be though it may be written once only.
        """
        indices = constant(site.operand(1))
        if indices is None:
            if certain:
                raise Declined("it multiplies at places that are computed, some of which may be the same")
            return
        shape = site.shape()
        indices = indices.astype(np.int64)
        if self.along_axis:
            axis = axis_of(read(site, "axis"), len(shape))
            ordered = np.sort(np.where(indices < 0, indices + shape[axis], indices), axis=axis)
            twice = bool((np.diff(ordered, axis=axis) == 0).any())
        else:
            depth = indices.shape[-1]
            tuples = np.where(indices < 0, indices + np.array(shape[:depth]), indices).reshape(-1, depth)
            twice = len(np.unique(tuples, axis=0)) < len(tuples)
        if twice:
            raise Declined("it writes a place twice")


ELEMENTS = Writing("ScatterElements", "GatherElements", along_axis=True)
TUPLES = Writing("ScatterND", "GatherND", along_axis=False)
GRADIENTS: Mapping[OpName, Gradient] = {
    ("", "ScatterElements"): ELEMENTS,
    ("", "ScatterND"): TUPLES,
}
