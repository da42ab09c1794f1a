"""Products of matrices, whose rules are asked so often that they are written out."""

from __future__ import annotations

from onnxslim.ops.arithmetic import broadcast_shapes
from onnxslim.ops.fact import Fact, NodeFacts
from onnxslim.ops.op import Op
from onnxslim.ops.parameters import read


def matmul(site: NodeFacts) -> Fact:
    """MatMul: as numpy multiplies; vectors have no axis of their own in the result."""
    left, right = site.shape(0), site.shape(1)
    kind = site.fact(0).dtype
    rows = left[-2:-1] if len(left) > 1 else ()
    columns = right[-1:] if len(right) > 1 else ()
    if len(left) == len(right) and left[:-2] == right[:-2]:
        batch = left[:-2]
    else:
        batch = broadcast_shapes([left[:-2], right[:-2]]) if left[:-2] else right[:-2]
    return Fact(kind, (*batch, *rows, *columns))


def gemm(site: NodeFacts) -> Fact:
    """Gemm: two matrices, either of them transposed."""
    kind = site.fact(0).dtype
    left, right = site.fact(0).shape, site.fact(1).shape
    rows = site.unknown(0) if left is None else left[1 if read(site, "transA", 0) else 0]
    columns = site.unknown(1) if right is None else right[0 if read(site, "transB", 0) else 1]
    return Fact(kind, (rows, columns))


OPS = {
    ("", "MatMul"): Op(matmul),
    ("", "Gemm"): Op(gemm),
    ("com.microsoft", "FusedGemm"): Op(gemm),
}
