"""Every op proves all that is said of it at once, on drawn nodes of every operator set, against ONNX Runtime.

What it infers is what comes out; what is left free can be permuted, and the outputs are permuted with it; what is cut
before is cut out of the results.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator
from onnxslim.passes.prune.cutting import cut
from op_cases import DRAWN, Array, Case, Draw, operator_sets
from permute_channels import permutation, permuted
from row_cases import ones, row_case
from shape_programs import check_facts

from onnxslim.analysis.axis_relations import AxisRelations
from onnxslim.analysis.coupling import Coupling, relate
from onnxslim.analysis.inference import Inference
from onnxslim.analysis.labels import solve
from onnxslim.ops.binding import dimensions, fit
from onnxslim.ops.fact import Fact, NodeFacts
from onnxslim.ops.relations import AddsUp, Axis, FreezeCode, NodeAxes
from onnxslim.ops.rows import relate_row, row_facts
from onnxslim.ops.signatures import OpName, Signature, read_signatures, signatures
from onnxslim.ops.table import find_op, ops, relations_of

NEWEST = 25
"""The newest operator set that is drawn of: ONNX Runtime has kernels up to here."""
COUNT = 40
"""Nodes that are drawn of an op and an operator set."""
TOLERANCE = 1e-4
"""Sums of some tens of float32 products of numbers around 1, in another order."""
NO_KERNEL = ("NOT_IMPLEMENTED", "not a registered function", "not supported")
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
RANDOM = {"Bernoulli", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Dropout"}


@dataclasses.dataclass
class Batch:
    """Nodes of one op that have nothing to do with each other, in one model."""

    opset: int
    cases: list[Case]
    _runner: Runner | None = None

    def name(self, number: int, operand: int) -> str:
        return f"c{number}_{operand}"

    def run(self, feeds: dict[str, Array] | None = None) -> dict[str, Array]:
        """Return what the nodes make; of other inputs, where `feeds` are given."""
        if feeds is not None and any(case.stored for case in self.cases):
            changed = [
                dataclasses.replace(
                    case, operands=[feeds.get(self.name(number, at)) for at in range(len(case.operands))]
                )
                for number, case in enumerate(self.cases)
            ]
            return Batch(self.opset, changed).run()
        if self._runner is None:
            self._runner = Runner(self.model(fixed=False))
        return self._runner(feeds or self.feeds())

    def feeds(self) -> dict[str, Array]:
        return {
            self.name(number, at): operand
            for number, case in enumerate(self.cases)
            for at, operand in enumerate(case.operands)
            if operand is not None
        }

    def model(self, *, fixed: bool, symbols: dict[str, int] | None = None) -> onnx.ModelProto:
        """Return the model; with `fixed` what is constant as initializers, and shapes; symbolic where `symbols` are."""
        nodes, inputs, outputs, constants = [], [], [], []
        for number, case in enumerate(self.cases):
            names = [self.name(number, at) if x is not None else "" for at, x in enumerate(case.operands)]
            made = [f"y{number}_{at}" if there else "" for at, there in enumerate(case.outputs)]
            domain, op_type = case.op
            nodes.append(onnx.helper.make_node(op_type, names, made, domain=domain, **case.attributes))
            outputs += [onnx.helper.make_empty_tensor_value_info(name) for name in made if name]
            for at, operand in enumerate(case.operands):
                if operand is None:
                    continue
                if at in case.fixed and (fixed or case.stored):
                    constants.append(onnx.numpy_helper.from_array(operand, names[at]))
                    continue
                shape: list[int | str] = list(operand.shape)
                for axis, size in enumerate(operand.shape if symbols is not None else ()):
                    if (number + axis) % 3 == 0:
                        shape[axis] = f"N{number}_{at}_{axis}"
                        symbols[str(shape[axis])] = size  # type: ignore[index]
                kind = onnx.helper.np_dtype_to_tensor_dtype(operand.dtype)
                inputs.append(onnx.helper.make_tensor_value_info(names[at], kind, shape))
        graph = onnx.helper.make_graph(nodes, "g", inputs, outputs, constants)
        opsets = [onnx.helper.make_opsetid("", self.opset), onnx.helper.make_opsetid("com.microsoft", 1)]
        return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)


class Runner:
    """Runs a model, in ONNX Runtime, or as the reference of onnx says where that has no kernel."""

    def __init__(self, model: onnx.ModelProto) -> None:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        self.names = [output.name for output in model.graph.output]
        read = {name for node in model.graph.node for name in node.input}
        self._fed = [value.name for value in model.graph.input if value.name in read]
        try:
            self.session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has no narrower class
            if not any(text in str(error) for text in NO_KERNEL):
                raise
            self.session = ReferenceEvaluator(model)

    def __call__(self, feeds: dict[str, Array]) -> dict[str, Array]:
        results = self.session.run(None, {name: feeds[name] for name in self._fed})
        return dict(zip(self.names, results, strict=True))


def drawn(op: OpName, opset: int) -> tuple[Batch, dict[str, Array]]:
    """Return nodes of an op that ONNX Runtime takes, and what it makes of them."""
    draw = Draw(np.random.default_rng([opset, *map(ord, op[1])]), opset)
    batch = Batch(opset, [DRAWN[op](draw) for _ in range(COUNT)])
    try:
        return batch, batch.run()
    except Exception:  # one of them is refused: they are asked one by one
        cases = [case for case in batch.cases if runs(Batch(opset, [case]))]
        assert len(cases) > COUNT / 4, "most of what is drawn is refused"
        batch = Batch(opset, cases)
        return batch, batch.run()


def runs(batch: Batch) -> bool:
    try:
        batch.run()
    except Exception:  # a node that is none: onnxruntime has no narrower class
        return False
    return True


def coupled(model: ir.Model) -> Coupling:
    """Return the coupling of all nodes, without what a model freezes for its inputs and outputs."""
    relations = AxisRelations()
    fitted = relate(model.graph, relations)
    return Coupling(relations, solve(relations), fitted)


def infers(batch: Batch, results: dict[str, Array], symbolic: bool) -> None:
    symbols: dict[str, int] | None = {} if symbolic else None
    model = ir.from_proto(batch.model(fixed=True, symbols=symbols))
    for output in model.graph.outputs:
        output.type = output.shape = None
    inference = Inference(model)
    inference.run()
    assert not inference.problems
    facts = {value.name or "": fact for value, fact in inference.facts.items()}
    random = all(case.op[1] in RANDOM for case in batch.cases)
    check_facts(facts, {**batch.feeds(), **results}, symbols or {}, elements=not random)
    if not symbolic and batch.cases[0].op[1] != "NonZero":
        for name in results:
            assert facts[name].shape is not None, f"nothing is known of {name}"


def shown(model: ir.Model, results: dict[str, Array]) -> ir.Model:
    """Return a model whose outputs have the shapes that came out."""
    for output in model.graph.outputs:
        array = results[output.name or ""]
        output.type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
        output.shape = ir.Shape(array.shape)
    return model


def permutes(batch: Batch, results: dict[str, Array], coupling: Coupling, model: ir.Model) -> int:
    """Permute what is free, and return how many elements of inputs were moved."""
    source = permutation(coupling, np.random.default_rng(0))
    values = {value.name: value for value in (*model.graph.inputs, *model.graph.initializers.values())}
    feeds = {name: permuted(array, values[name], coupling, source) for name, array in batch.feeds().items()}
    moved = sum(int((feeds[name] != array).sum()) for name, array in batch.feeds().items())
    after = batch.run(feeds)
    for output in model.graph.outputs:
        name = output.name or ""
        expected = permuted(results[name], output, coupling, source)
        np.testing.assert_allclose(after[name], expected, rtol=TOLERANCE, atol=TOLERANCE, err_msg=name)
    return moved


def resizes(batch: Batch, results: dict[str, Array], coupling: Coupling, model: ir.Model) -> int:
    """Cut what is free and reaches a result place by place; return how many labels went."""
    labels, relations = coupling.labels, coupling.relations
    generator = np.random.default_rng(1)
    ends: set[int] = set()
    for node in model.graph:
        for relation in relations_of(NodeAxes(node))[1]:
            if isinstance(relation, AddsUp) and isinstance(relation.axis, Axis):
                ends.update(labels.root[coupling.of(*relation.axis)].tolist())
    for bound, factors in coupling.fitted.values():
        for (letter, _), axis in factors.items():
            again = any(
                sum(letter in dimension.factors for dimension in operand.dimensions) > 1
                for operand in bound.signature.inputs
            )
            own = coupling.of_axis(axis)
            if own is not None and (letter not in bound.signature.reaching or again):
                ends.update(labels.root[own].tolist())
    crowded: set[int] = set()
    chosen: list[int] = []
    for axis, first in labels.start.items():
        own = first + np.arange(relations.sizes[axis] or 0)
        free = np.unique(labels.bases(own)[1])
        options = [root for root in free.tolist() if root not in ends and not labels.mixed[root]]
        if options and not crowded.intersection(free.tolist()) and len(free) > 1:
            chosen.append(int(generator.choice(options)))
            crowded.update(free.tolist())
    gone = labels.removed(np.array(chosen, np.int64))
    for axis, first in labels.start.items():  # an axis must not run empty
        own = first + np.arange(relations.sizes[axis] or 0)
        if len(own) and gone[own].all():
            chosen = [root for root in chosen if not labels.removed(np.array([root]))[own].any()]
    gone = labels.removed(np.array(chosen, np.int64))

    def left(value: ir.Value, array: Array) -> Array:
        for axis in range(array.ndim):
            kept = coupling.kept(value, axis, gone)
            array = array if kept is None else np.take(array, kept, axis=axis)
        return array

    feeds = {value.name: left(value, batch.feeds()[value.name]) for value in model.graph.inputs}
    expected = {output.name: left(output, results[output.name]) for output in model.graph.outputs}
    cut(model, coupling, gone)
    after = Runner(ir.to_proto(model))(feeds)
    for name, array in expected.items():
        np.testing.assert_allclose(after[name], array, rtol=TOLERANCE, atol=TOLERANCE, err_msg=str(name))
    return len(chosen)


CASES = [
    pytest.param(op, opset, id=f"{op[1]}-{opset}") for op in sorted(DRAWN) for opset in operator_sets(op[1], NEWEST)
]


@pytest.mark.parametrize(("op", "opset"), CASES)
def test_an_op_is_what_is_said_of_it(op: OpName, opset: int) -> None:
    batch, results = drawn(op, opset)
    infers(batch, results, symbolic=False)
    infers(batch, results, symbolic=True)
    if op[1] in RANDOM or find_op(op).relate is None:
        return
    model = shown(ir.from_proto(batch.model(fixed=True)), results)
    coupling = coupled(model)
    moved = permutes(batch, results, coupling, model)
    went = resizes(batch, results, coupling, model)
    frozen = signatures()[op][0].kind == "frozen" if op in signatures() else op[1] in ("Shape", "Size")
    assert bool(moved) != (frozen or op[1] == "ConstantOfShape")  # it reads no data
    assert bool(went) != (frozen or op[1] == "DynamicQuantizeLinear")  # it mixes along all axes


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
    opsets = [21] if domain or not onnx.defs.has(op_type) else list(operator_sets(op_type, NEWEST))
    proved = 0
    for opset in opsets:
        case = row_case(row, random)
        batch = Batch(opset, [case])
        if not runs(batch):  # an older form of the op
            continue
        results = batch.run()
        proved += 1
        infers(batch, results, symbolic=False)
        infers(batch, results, symbolic=True)
        moved, _ = proves(row, case, opset)
        assert bool(moved) == bool(free)
        if op_type in ADDING:
            counted = Batch(opset, [ones(row, case)]).run()["y0_0"].sum(dtype=np.float64)
            node = next(iter(shown(ir.from_proto(batch.model(fixed=True)), results).graph))
            bound = fit(node, row)
            assert bound is not None
            assert bound.macs() == counted
    assert proved


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
    ((wrong,),) = read_signatures(text, "wrong").values()
    rows = [row for row in signatures().get(wrong.op, ()) if row.where == wrong.where]
    right = rows[0] if rows else read_signatures(RIGHT[wrong.op[1]], "right")[wrong.op][0]
    opset = 23 if wrong.op[1] in ("Attention", "RotaryEmbedding") else 21
    case = row_case(right, np.random.default_rng(0), equal=4)
    proves(right, case, opset)
    with pytest.raises(AssertionError):
        proves(wrong, case, opset)


def test_every_op_without_a_row_is_drawn() -> None:
    related = {op for op in ops() if op not in signatures() and find_op(op).infer is not None}
    assert {op for op in related - DRAWN.keys() if not op[0]} <= {("", name) for name in UNDRAWN}
