"""Work grows as models do, not as their squares: counted in calls, not in seconds."""

from __future__ import annotations

import functools
import sys

import numpy as np
import onnx_ir as ir
from onnxslim.passes.quant.insert import insert
from onnxslim.passes.quant.integers import UINT8
from onnxslim.passes.quant.plan import TensorScales, make_plan
from onnxslim.passes.quant.scales import Scale
from onnxslim.passes.quant.table import load_table
from onnxslim.passes.quant.weights import quantize_weight
from sample_models import from_text

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.runtime.session import Session
from onnxslim.runtime.target import Target

CPU = load_table("cpu")


def counted(work):
    """Return how many calls `work` makes, of functions in Python; comprehensions and generators count at each step."""
    calls = 0

    def count(frame, event, argument):
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls


def chain(length):
    body = " ".join(f"a{n + 1} = MatMul (a{n}, w)" for n in range(length))
    model = from_text(
        f"""<ir_version: 9, opset_import: ["" : 17]> g (float[N,2] a0) => (float[N,2] a{length}) {{ {body} }}""",
        w=np.eye(2, dtype=np.float32),
    )
    infer_shapes(model)
    return model


def wide(width):
    names = [f"c{n}" for n in range(width)]
    body = " ".join(f"{name} = Conv (x, w)" for name in names)
    model = from_text(
        f"""<ir_version: 9, opset_import: ["" : 17]> g (float[N,1,2,2] x) => (float[N,{width},2,2] y) {{ {body}
        j = Concat <axis = 1> ({", ".join(names)}) y = Conv (j, v) }}""",
        w=np.ones((1, 1, 1, 1), np.float32),
        v=np.ones((1, width, 1, 1), np.float32),
    )
    infer_shapes(model)
    return model


def quantize(model):
    plan = make_plan(model, CPU)
    scales = {value: Scale.covering(-1, 1, UINT8) for group in plan.groups for value in group.members}
    weights = {
        site.node: quantize_weight(site.product.weight.const_value.numpy(), site.product.weight_axis)
        for site in plan.sites
        if site.product is not None
    }
    insert(model, plan, TensorScales(scales), weights, {}, CPU)


def growth(make, sizes):
    small, large = (counted(functools.partial(quantize, make(size))) for size in sizes)
    return large / small


def test_long_chains_and_wide_nodes_take_work_in_proportion():
    assert growth(chain, (100, 400)) < 6, "4 times as long"
    assert growth(wide, (100, 400)) < 6, "4 times as wide"


def test_a_node_with_many_inputs_reads_what_was_quantized():
    model = wide(200)
    quantize(model)
    (joined,) = (node for node in model.graph if node.op_type == "Concat")
    assert len(joined.inputs) == 200
    assert {value.producer().op_type for value in joined.inputs} == {"DequantizeLinear"}
    assert len({value.name for value in joined.inputs}) == 200
    ir.to_proto(model)


def test_many_outputs_are_asked_for_at_once():
    def outputs(count):
        names = [f"y{n}" for n in range(count)]
        results = ", ".join(f"float[N] {name}" for name in names)
        model = from_text(
            f"""<ir_version: 9, opset_import: ["" : 17]> g (float[N] x) => ({results}) {{
            {" ".join(f"{name} = Relu (x)" for name in names)} }}"""
        )
        session = Session.of(model, Target("cpu", "a processor", "avx2", 1))

        class Counting(str):
            __slots__ = ()
            hashed = 0

            def __hash__(self):
                Counting.hashed += 1
                return str.__hash__(self)

        session.outputs = tuple(type(spec)(Counting(spec.name), spec.dtype, spec.shape) for spec in session.outputs)
        Counting.hashed = 0
        session.run({"x": np.ones(2, np.float32)})
        return Counting.hashed

    assert outputs(80) < 6 * outputs(20)
