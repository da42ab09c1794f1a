"""Ops that put what is new into a cache of what was computed before: TensorScatter."""

from __future__ import annotations

from collections.abc import Iterator

from onnxslim.ops.fact import Fact, NodeFacts, axis_of
from onnxslim.ops.op import Op
from onnxslim.ops.parameters import read
from onnxslim.ops.relations import Equal, FreezeCode, NodeAxes, Relation


def tensor_scatter(site: NodeFacts) -> Fact:
    """TensorScatter: the cache keeps its shape and type."""
    return Fact(site.fact(0).dtype, site.fact(0).shape)


def relate_tensor_scatter(site: NodeAxes) -> Iterator[Relation]:
    """Yield that cache, update and result lie side by side but for the axis of time; indices are of the batch."""
    cache, result = site.source_and_result()
    update = site.axes(site.node.inputs[1])
    time = axis_of(read(site, "axis"), len(cache))
    for old, new, made in zip(cache, update, result, strict=True):
        if old.position == time:
            yield from site.freeze((old, new, made), FreezeCode.SCATTERED)
        else:
            yield Equal(old, new)
            yield Equal(old, made)
    if site.has(2):
        (batch,) = site.axes(site.node.inputs[2])
        yield Equal(batch, cache[0])


OPS = {("", "TensorScatter"): Op(tensor_scatter, relate_tensor_scatter)}
