"""Every op proves all that is said of it at once, on drawn nodes of every operator set, against ONNX Runtime.

What it infers is what comes out; what is left free can be permuted, and the outputs are permuted with it; what is cut
before is cut out of the results.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from op_cases import DRAWN, Case, operator_sets
from op_proof import Batch, infers, permutes, prove, resizes, runs, shown
from row_cases import ones, row_case

from onnxslim.analysis.axis_relations import AxisRelations
from onnxslim.analysis.coupling import Coupling
from onnxslim.analysis.labels import solve
from onnxslim.ops.binding import dimensions, fit
from onnxslim.ops.fact import Fact, NodeFacts
from onnxslim.ops.relations import FreezeCode, NodeAxes
from onnxslim.ops.rows import relate_row, row_facts
from onnxslim.ops.signatures import OpName, Signature, SignatureTable, signatures
from onnxslim.ops.table import find_op, ops

NEWEST = 26
"""The newest operator set that is drawn of; where ONNX Runtime has no kernel yet, the reference of onnx runs."""
UNPROVABLE = {
    "GemmFastGelu": "ONNX Runtime has it on other providers only; the row is that of MatMul and a bias",
    "GroupNorm": "ONNX Runtime has it on other providers only; the row is GroupNormalization's",
}
ADDING = frozenset(
    ("Conv", "ConvInteger", "ConvTranspose", "FusedConv", "FusedGemm", "FusedMatMul", "Gemm", "MatMul", "MatMulInteger")
)
"""Ops that are one sum of products, whose MACs can be counted by adding up ones."""
UNDRAWN = {
    "Constant": "it reads nothing, and has no axes that others have",
    "DepthToSpace": "it has a row", "SpaceToDepth": "it has a row", "ReverseSequence": "it has a row",
}  # fmt: skip


CASES = [
    pytest.param(op, opset, id=f"{'::'.join(filter(None, op))}-{opset}")
    for op in sorted(DRAWN)
    for opset in operator_sets(op, NEWEST)
]


@pytest.mark.parametrize(("op", "opset"), CASES)
def test_an_op_is_what_is_said_of_it(op: OpName, opset: int) -> None:
    prove(op, opset)


ROWS = [row for rows in signatures().values() for row in rows if not row.kind]


def named(row: Signature) -> str:
    return "::".join(filter(None, row.op)) + "".join(f" {name}={value}" for name, value in row.where)


def proves(row: Signature, case: Case, opset: int) -> tuple[int, int]:
    """Prove a row on a node; return how many elements were moved, and how many labels went.

    Raises:
        AssertionError: The row says something else than the node does.
    """
    batch = Batch(opset, [case])
    results = batch.run()
    model = ir.from_proto(batch.model(fixed=True))
    (node,) = model.graph
    bound = fit(node, row)
    assert bound is not None, "it does not fit"
    if not row.invents_axes:
        facts = [None if value is None else Fact(value.dtype, dimensions(value)) for value in node.inputs]
        for output, fact in zip(node.outputs, row_facts(NodeFacts(node, facts, opset), bound), strict=True):
            sizes = fact.shape if output.name and fact.shape is not None else ()
            made = results[output.name].shape if output.name else ()
            assert len(sizes) == len(made), "it has another rank"
            known = zip(sizes, made, strict=True)
            assert all(size == length for size, length in known if isinstance(size, int)), "it has another shape"
    bound = fit(shown(model, results).graph[0], row)
    assert bound is not None, "it does not fit"
    relations = AxisRelations()
    related = list(relate_row(NodeAxes(node, relations.shape), bound))
    factors = relations.add(node, related)
    coupling = Coupling(relations, solve(relations), {node: (bound, factors)})
    for _, why in relations.frozen:
        assert why.code is not FreezeCode.UNKNOWN_SIZE, "axes that shall be one are not as long as each other"
    return permutes(batch, results, coupling, model), resizes(batch, results, coupling, model)


@pytest.mark.parametrize("row", ROWS, ids=named)
def test_a_row_is_what_its_op_does(row: Signature) -> None:
    domain, op_type = row.op
    if op_type in UNPROVABLE:
        pytest.skip(UNPROVABLE[op_type])
    random = np.random.default_rng(list(map(ord, named(row))))
    free = {f for o in (*row.inputs, *row.outputs) for d in o.dimensions for f in d.factors} - row.fixed
    if not free:
        pytest.skip("the row freezes everything")
    opsets = [21] if domain or not onnx.defs.has(op_type) else list(operator_sets(row.op, NEWEST))
    proved = 0
    for opset in opsets:
        case = row_case(row, random)
        batch = Batch(opset, [case])
        if not runs(batch):  # an older form of the op
            continue
        results = batch.run()
        proved += 1
        infers(batch, results)
        infers(batch, results, symbolic=True)
        infers(batch, results, unranked=True)
        moved, _ = proves(row, case, opset)
        assert bool(moved) == bool(free)
        if op_type in ADDING:
            counted = Batch(opset, [ones(row, case)]).run()["y0_0"].sum(dtype=np.float64)
            node = next(iter(shown(ir.from_proto(batch.model(fixed=True)), results).graph))
            bound = fit(node, row)
            assert bound is not None
            assert bound.macs() == counted
    assert proved, "no node that was drawn of this row runs in ONNX Runtime: a letter allows more than the op does"


RIGHT = {"CumSum": "CumSum X[...!s] _ -> Y[...!s]"}


@pytest.mark.parametrize(
    "text",
    [
        "Conv<group=g> X[n, i*g, ...s] W[o*g, i, ...k] B[o*g] -> Y[n, o*g, ...t]",
        "ConvTranspose<group=g> X[n, g*i, ...s] W[g*i, o, ...k] B[g*o] -> Y[n, o*g, ...t]",
        "Gemm<transA=0, transB=1> A[m, k] B[o, k] C{m, o} -> Y[o, m]",
        "GlobalAveragePool X[n, c, ...s] -> Y[n, c, ...s]",
        "MaxPool X[n, c, ...s] -> Y[n, c, ...s]",
        "LSTM<hidden_size=h, layout=0> X[!s, n, i] W[!d, h*4, i] R[!d, h*4, h] B[!d, 8*h] _ H[!d, n, h] C[!d, n, h]"
        " P[!d, 3*h] -> Y[!s, !d, n, h] Yh[!d, n, h] Yc[!d, n, h]",
        "CumSum X[...s] _ -> Y[...s]",
        "RotaryEmbedding<interleaved=0, rotary_embedding_dim=0> X[n, h, !s, e*2] C[!p, e] S[!p, e] I[n, !s]"
        " -> Y[n, h, !s, e*2]",
        "Attention<is_causal=0> Q[n, r*j, s, d] K[n, j, t, d] V[n, j, t, v] M{n, r*j, s, t} -> Y[n, r*j, s, v]",
        "Attention<is_causal=1> Q[n, j*r, s, d] K[n, j, t, d] V[n, j, t, v] M{n, j*r, s, t} -> Y[n, j*r, s, v]",
        "com.microsoft::Attention<num_heads=h, qkv_hidden_sizes=0, do_rotary=0> X[n, !s, i] W[i, 3*d*h] B[3*d*h] _"
        " P[2, n, h, !p, d] M{n, h, !s, !t} -> Y[n, !s, d*h] R[2, n, h, !t, d]",
        "com.microsoft::MatMulNBits<K=k, N=o> A[...b, m, !k] B[o, !q, !p] S[!q*o] Z[o*!z] _ C[o] -> Y[...b, m, o]",
        "com.microsoft::SkipLayerNormalization X[...b, ~c] S{...b, ~c} g[~c] b[~c] i[~c] -> Y[...b, ~c] _ _ Z[~c]",
        "Trilu X[...b, m, k] _ -> Y[...b, m, k]",
        "DepthToSpace<blocksize=p, blocksize=q, mode=DCR> X[n, c*!p*!q, ...s] -> Y[n, c, ...t]",
    ],
)
def test_a_wrong_row_does_not_prove_on_a_node_that_the_right_one_proves_on(text: str) -> None:
    ((wrong,),) = SignatureTable(text, "wrong").values()
    rows = [row for row in signatures().get(wrong.op, ()) if row.where == wrong.where]
    right = rows[0] if rows else SignatureTable(RIGHT[wrong.op[1]], "right")[wrong.op][0]
    opset = 23 if wrong.op[1] in ("Attention", "RotaryEmbedding") else 21
    case = row_case(right, np.random.default_rng(0), equal=4)
    proves(right, case, opset)
    with pytest.raises(AssertionError):
        proves(wrong, case, opset)


def test_every_op_without_a_row_is_drawn() -> None:
    related = {op for op in ops() if op not in signatures() and find_op(op).infer is not None}
    assert related - DRAWN.keys() <= {("", name) for name in UNDRAWN}
