"""What inference says of sizes and elements is what ONNX Runtime makes, whatever the symbolic sizes are."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sample_models import from_text
from shape_programs import BINDING, Program, check_facts, programs

from onnxslim.analysis.inference import Inference
from onnxslim.ops.fact import Fact
from onnxslim.runtime.session import Session

SIZES = st.sampled_from([1, 2, 3, 4, 5, 8])


def session(program: Program) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(program.model().SerializeToString(), options, ["CPUExecutionProvider"])


def inferred(program: Program) -> tuple[dict[str, Fact], tuple[str, ...]]:
    model = ir.from_proto(program.model())
    inference = Inference(model)
    inference.run()
    return {value.name or "": fact for value, fact in inference.facts.items()}, tuple(inference.problems)


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(programs(), st.lists(st.fixed_dictionaries({"N": SIZES, "M": SIZES, "K": SIZES}), min_size=2, max_size=4))
def test_sizes_and_elements_are_those_that_onnx_runtime_makes(program: Program, bindings: list[dict[str, int]]) -> None:
    facts, problems = inferred(program)
    assert not problems
    if not program.nodes or not program.windows_fit(program.arrays):
        return
    check_facts(facts, program.arrays, BINDING)
    try:
        runner = session(program)
    except Exception:  # what onnx infers at loading is wrong for some windows, and the program is refused
        return
    names = [output.name for output in runner.get_outputs()]
    for binding in bindings:
        feeds = program.feeds(binding)
        try:
            results = runner.run(names, feeds)
        except Exception:  # these sizes do not go together: ONNX Runtime has no narrower class to catch
            continue
        arrays = {**program.constants, **feeds, **dict(zip(names, results, strict=True))}
        if program.windows_fit(arrays):
            check_facts(facts, arrays, binding)


def test_every_reduction_tells_its_elements() -> None:
    """The sums of `ops.axes` are reductions like the others."""
    text = '<ir_version: 8, opset_import: ["": 13]> g (float[2,3,5] x) => (int64[K] y) { s = Shape (x) %s }'
    for op, element in (("ReduceSum", 10), ("ReduceProd", 30), ("ReduceMax", 5)):
        inference = Inference(from_text(text % f"y = {op} <keepdims=1> (s)"))
        inference.run()
        facts = {value.name: fact for value, fact in inference.facts.items()}
        assert facts["y"].elements == (element,), op


def test_a_size_that_may_be_0_copies_what_stands_at_its_place() -> None:
    """Of an empty tensor [-1, 0] is [0, N], and not [N, 0]: the 0 that was computed is taken for "as it was"."""
    model = from_text(
        """<ir_version: 8, opset_import: ["": 13]> g (float[N,N] x, int64[1] e) => (float[A,B] y)
        { v = Slice (x, n, e, n) s = Shape (v) r = Gather (s, n) t = Concat <axis = 0> (p, r) y = Reshape (v, t) }""",
        n=np.array([0]),
        p=np.array([-1]),
    )
    inference = Inference(model)
    inference.run()
    shape = inference.facts[model.graph.outputs[0]].shape
    assert shape is not None
    feeds = {"x": np.ones((2, 2), np.float32), "e": np.array([0])}
    assert Session.of(model).run(feeds)["y"].shape == (0, 2)
    cut = inference.facts[model.graph[0].outputs[0]].shape
    assert cut is not None
    assert shape != (cut[1], cut[0])
