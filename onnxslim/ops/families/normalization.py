"""Ops that mix along axes and keep the shape: Softmax and its kin, and normalisations."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from onnxslim.ops.fact import Fact, NodeFacts, axis_of
from onnxslim.ops.families.elementwise import relate_all, unary
from onnxslim.ops.op import Constancy, IndexInto, Op
from onnxslim.ops.parameters import NodeReader, read
from onnxslim.ops.relations import Axis, Mixes, NodeAxes, Relation
from onnxslim.ops.rows import typed_row

ALONG_ONE_AXIS = 13
"""Since this operator set, Softmax works along one axis; before, it took all axes from that one on for one."""

FLATTENING = frozenset({"Hardmax", "LogSoftmax", "QLinearSoftmax", "Softmax"})


def mixed_axes(site: NodeReader, rank: int) -> tuple[int, ...]:
    """Return the axes along which a node of the kind ``mixing`` mixes, for data of this rank.

    Softmax, LogSoftmax and Hardmax have an axis, which means others before operator set 13; LpNormalization has one
    axis in all; MeanVarianceNormalization has axes; DynamicQuantizeLinear has neither, and mixes along all.

    Raises:
        Unknowable: The attribute is a parameter of the local function that the node is in.
    """
    axes, axis = read(site, "axes"), read(site, "axis")
    if axes is not None:
        return tuple(index % rank for index in axes if -rank <= index < rank)
    if axis is None:
        return tuple(range(rank))
    if not -rank <= axis < rank:
        return ()
    # ONNX Runtime's own QLinearSoftmax has an attribute that says which operator set it follows.
    opset = read(site, "opset", ALONG_ONE_AXIS) if site.node.domain else site.version
    if opset < ALONG_ONE_AXIS and site.node.op_type in FLATTENING:
        return tuple(range(axis % rank, rank))
    return (axis % rank,)


def relate_mixing(site: NodeAxes) -> Iterator[Relation]:
    """Yield that the data keep their axes, and along which of them the op mixes."""
    yield from relate_all(site)
    source = site.node.inputs[0]
    shape = None if source is None else site.shape_of(source)
    if source is not None and shape is not None:
        for axis in mixed_axes(site, len(shape)):
            yield Mixes(Axis(source, axis))


def layer_normalization(site: NodeFacts) -> tuple[Fact, ...]:
    """LayerNormalization: the data keep their shape; the statistics lack what is normalised, but for ones."""
    shape = site.shape()
    axis = axis_of(read(site, "axis", -1), len(shape))
    statistic = Fact(ir.DataType(read(site, "stash_type", 1)), (*shape[:axis], *[1] * (len(shape) - axis)))
    return (Fact(site.fact(0).dtype, shape), *[statistic] * (len(site.node.outputs) - 1))


def batch_normalization(site: NodeFacts) -> tuple[Fact, ...]:
    """BatchNormalization: the data keep their shape, the statistics theirs."""
    first, mean = site.fact(0), site.fact(3)
    return (Fact(first.dtype, first.shape), *[Fact(mean.dtype, mean.shape)] * (len(site.node.outputs) - 1))


KINDS = {"mixing": Op(unary(), relate_mixing)}
"""Ops of the kind keep the shape and type of their first input."""

OPS = {
    ("", "LayerNormalization"): Op(layer_normalization),
    ("", "BatchNormalization"): Op(batch_normalization, constancy=lambda _: Constancy.EVALUATED),
    ("", "GroupNormalization"): Op(unary()),
    ("", "InstanceNormalization"): Op(unary()),
    ("", "RMSNormalization"): Op(unary()),
    ("com.microsoft", "EmbedLayerNormalization"): Op(typed_row(2), indices={0: IndexInto(2, 0), 1: IndexInto(3, 0)}),
}
"""Ops whose result has the shape of their first input, whatever else their rows say of them."""
