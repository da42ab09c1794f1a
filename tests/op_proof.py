"""Proves what is said of ops against ONNX Runtime: what they infer, what they leave free, what follows from a cut."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from onnx.reference import ReferenceEvaluator
from onnxslim.passes.prune.cutting import cut
from op_cases import DRAWN, Array, Case, Draw
from permute_channels import permutation, permuted
from reference_ops import REFERENCES
from shape_programs import check_facts

from onnxslim.analysis.axis_relations import AxisRelations
from onnxslim.analysis.coupling import Coupling, relate
from onnxslim.analysis.inference import Inference
from onnxslim.analysis.labels import solve
from onnxslim.ops.relations import AddsUp, Axis, NodeAxes
from onnxslim.ops.signatures import OpName, signatures
from onnxslim.ops.table import find_op, relations_of

COUNT = 40
"""Nodes that are drawn of an op and an operator set."""
TOLERANCE = 1e-4
"""Sums of some tens of float32 products of numbers around 1, in another order."""
NO_KERNEL = ("NOT_IMPLEMENTED", "not a registered function", "not supported")
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
        self._fed = [value.name for value in model.graph.input]
        try:
            self.session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has no narrower class
            if not any(text in str(error) for text in NO_KERNEL):
                raise
            self.session = ReferenceEvaluator(model, new_ops=REFERENCES)

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


def infers(batch: Batch, results: dict[str, Array], symbolic: bool = False, unranked: bool = False) -> None:
    """Infer shapes and elements where sizes are known, where they are symbolic, and where not even ranks are known."""
    symbols: dict[str, int] | None = {} if symbolic else None
    model = ir.from_proto(batch.model(fixed=True, symbols=symbols))
    for output in model.graph.outputs:
        output.type = output.shape = None
    for given in model.graph.inputs if unranked else ():
        given.shape = None
    inference = Inference(model)
    inference.run()
    assert not inference.problems, "; ".join(inference.problems)
    facts = {value.name or "": fact for value, fact in inference.facts.items()}
    random = all(case.op[1] in RANDOM for case in batch.cases)
    check_facts(facts, {**batch.feeds(), **results}, symbols or {}, elements=not random)
    if not symbolic and not unranked and batch.cases[0].op[1] != "NonZero":
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


def prove(op: OpName, opset: int) -> None:
    """Prove all that is said of an op without a row on drawn nodes.

    Raises:
        AssertionError: Something that is said of it is wrong.
    """
    batch, results = drawn(op, opset)
    infers(batch, results)
    infers(batch, results, symbolic=True)
    infers(batch, results, unranked=True)
    if op[1] in RANDOM or find_op(op).relate is None:
        return
    model = shown(ir.from_proto(batch.model(fixed=True)), results)
    coupling = coupled(model)
    moved = permutes(batch, results, coupling, model)
    went = resizes(batch, results, coupling, model)
    frozen = signatures()[op][0].kind == "frozen" if op in signatures() else op[1] in ("Shape", "Size")
    assert bool(moved) != (frozen or op[1] == "ConstantOfShape")  # it reads no data
    assert bool(went) != (frozen or op[1] == "DynamicQuantizeLinear")  # it mixes along all axes
