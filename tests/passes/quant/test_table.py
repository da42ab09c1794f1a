"""Every row of the CPU's table proves itself: ONNX Runtime must make of it what the row says."""

from __future__ import annotations

import pathlib

import numpy as np
import onnx_ir as ir
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented
from onnxslim.passes.quant import table
from onnxslim.passes.quant.gate_line import reach
from onnxslim.passes.quant.gates import GateInput, gate_scale
from onnxslim.passes.quant.insert import insert
from onnxslim.passes.quant.integers import INT8, UINT8
from onnxslim.passes.quant.plan import LEFT, TensorScales, make_plan
from onnxslim.passes.quant.scales import Scale
from onnxslim.passes.quant.table import Gate, Role, load_table
from onnxslim.passes.quant.weights import quantize_weight
from quantized_models import optimized_ops
from sample_models import from_text

from onnxslim.errors import ExtensionError
from onnxslim.runtime.provider import Provider

CPU = load_table("cpu")

EXAMPLES: dict[str, tuple[str, dict[str, np.ndarray]]] = {
    "Conv": ("y = Conv (x, w, b)", {"w": np.ones((6, 4, 3, 3), np.float32), "b": np.ones(6, np.float32)}),
    "Gemm": (
        "f = Flatten (x) y = Gemm <transB = 1> (f, w, b)",
        {"w": np.ones((6, 256), np.float32), "b": np.ones(6, np.float32)},
    ),
    "MatMul": ("y = MatMul (x, w)", {"w": np.ones((8, 5), np.float32)}),
    "Add": ("y = Add (x, x2)", {}),
    "Mul": ("y = Mul (x, x2)", {}),
    "Concat": ("y = Concat <axis = 1> (x, x2)", {}),
    "GlobalAveragePool": ("y = GlobalAveragePool (x)", {}),
    "AveragePool": ("y = AveragePool <kernel_shape = [2, 2]> (x)", {}),
    "LeakyRelu": ("y = LeakyRelu (x)", {}),
    "Sigmoid": ("y = Sigmoid (x)", {}),
    "HardSigmoid": ("y = HardSigmoid <alpha = 0.25, beta = 0.5> (x)", {}),
    "HardSwish": ("y = HardSwish (x)", {}),
    "MaxPool": ("y = MaxPool <kernel_shape = [2, 2]> (x)", {}),
    "ReduceMax": ("y = ReduceMax (x, i)", {"i": np.array([2])}),
    "ReduceMin": ("y = ReduceMin (x, i)", {"i": np.array([2])}),
    "Reshape": ("y = Reshape (x, i)", {"i": np.array([0, -1])}),
    "Flatten": ("y = Flatten (x)", {}),
    "Transpose": ("y = Transpose <perm = [0, 2, 3, 1]> (x)", {}),
    "Squeeze": ("y = Squeeze (x, i)", {"i": np.array([0])}),
    "Unsqueeze": ("y = Unsqueeze (x, i)", {"i": np.array([0])}),
    "Slice": ("y = Slice (x, i, j)", {"i": np.array([0]), "j": np.array([1])}),
    "Split": ("y, y2 = Split <axis = 1> (x, i)", {"i": np.array([1, 3])}),
    "Gather": ("y = Gather <axis = 1> (x, i)", {"i": np.array([2, 1])}),
    "GatherElements": ("y = GatherElements (x, i)", {"i": np.zeros((1, 4, 8, 8), np.int64)}),
    "Expand": ("y = Expand (x, i)", {"i": np.array([3, 4, 8, 8])}),
    "Tile": ("y = Tile (x, i)", {"i": np.array([2, 1, 1, 1])}),
    "DepthToSpace": ("y = DepthToSpace <blocksize = 2> (x)", {}),
    "Softmax": ("y = Softmax (x)", {}),
    "Where": ("c = Less (t, x2) y = Where (c, x, x2)", {"t": np.ones(1, np.float32)}),
    "Resize": ('y = Resize <mode = "nearest"> (x, , i)', {"i": np.array([1, 1, 2, 2], np.float32)}),
}
"""One use of each op of the table, from x and x2 (1 x 4 x 8 x 8) to y."""


def between_pairs(op_type: str, signed: bool) -> ir.Model:
    """A model of one op of the table, with Q and DQ around it."""
    body, weights = EXAMPLES[op_type]
    text = f"""<ir_version: 10, opset_import: ["" : 21]>
        g (float[1,4,8,8] x, float[1,4,8,8] x2) => (float[] z) {{ {body} z = Softplus (y) }}"""
    model = from_text(text, **weights)
    if "y2" in body:
        second = next(value for node in model.graph for value in node.outputs if value.name == "y2")
        model.graph.outputs.append(second)
        tail = ir.node("Softplus", [second], name="tail")
        model.graph.append(tail)
        model.graph.outputs[1] = tail.outputs[0]
        tail.outputs[0].name, tail.outputs[0].type = "z2", ir.TensorType(ir.DataType.FLOAT)
    for node in model.graph:
        for value in node.outputs:
            value.dtype = ir.DataType.BOOL if value.name == "c" else ir.DataType.FLOAT
    plan = make_plan(model, CPU)
    if not plan.sites or all(site.node.op_type != op_type for site in plan.sites):
        # arithmetic and movement join int8 neighbours only: write their pairs without asking for neighbours
        plan = plan_alone(model, op_type)
    scale = Scale.covering(-2.0, 3.0, INT8 if signed else UINT8)
    scales = dict.fromkeys((value for group in plan.groups for value in group.members), scale)
    for site in plan.sites:
        if site.row.gate is not None:
            ends = reach(site.node, site.row)
            of_input = GateInput(ends, spent=False).covering(-2.0, 3.0, scale.integers)
            scales[site.operands()[0]] = of_input
            if site.row.gate is Gate.RESULT:
                scales[site.results[0]] = gate_scale(of_input, ends)
    quantized, biases = {}, {}
    for site in plan.sites:
        if site.product is not None:
            array = site.product.weight.const_value.numpy()
            quantized[site.node] = quantize_weight(array, 1 if op_type == "MatMul" else 0)
        if site.bias is not None:
            biases[site.node] = site.bias.const_value.numpy().astype(np.float64)
    insert(model, plan, TensorScales(scales), quantized, biases, CPU)
    return model


def plan_alone(model: ir.Model, op_type: str):
    from onnxslim.passes.quant.plan import QuantPlan, ScaleGroup
    from onnxslim.passes.quant.site import QuantSite

    node = next(node for node in model.graph if node.op_type == op_type)
    row = CPU.rows[op_type]
    data = row.data if row.data is not None else tuple(range(len(node.inputs)))
    site = QuantSite(node, row, data)
    values = dict.fromkeys((*site.operands(), *site.results))
    return QuantPlan((site,), tuple(ScaleGroup(value, (value,)) for value in values), ())


TYPES = ("uint8", "int8", "uint16", "int16")
WEIGHTS = (*TYPES, "uint4", "int4")


def retype(model: ir.Model, names: set[str], element_type: str) -> None:
    """Give initializers another element type."""
    dtype = ir.DataType[element_type.upper()]
    for name in names:
        value = model.graph.initializers[name]
        levels = np.clip(value.const_value.numpy(), 0, 7).astype(dtype.numpy())
        value.const_value = ir.tensor(levels, dtype, name=name)
        value.dtype = dtype


def with_activations(model: ir.Model, element_type: str) -> ir.Model:
    of_levels = [node for node in model.graph if node.op_type in ("QuantizeLinear", "Clip")]
    zeros = [node.inputs[2] for node in model.graph if node.op_type.endswith("Linear") and node.inputs[0].producer()]
    ends = [value for node in of_levels if node.op_type == "Clip" for value in node.inputs[1:]]
    quantizers = [node.inputs[2] for node in of_levels if node.op_type == "QuantizeLinear"]
    retype(model, {value.name for value in (*zeros, *ends, *quantizers)}, element_type)
    for node in of_levels:
        node.outputs[0].dtype = node.inputs[2].dtype
    return model


def with_weights(model: ir.Model, element_type: str) -> ir.Model:
    stored = [node for node in model.graph if node.op_type == "DequantizeLinear" and node.inputs[0].is_initializer()]
    weights = [node for node in stored if node.inputs[0].dtype == ir.DataType.INT8]
    retype(model, {value.name for node in weights for value in (node.inputs[0], *node.inputs[2:])}, element_type)
    return model


def is_fused(op_type: str, model: ir.Model, folder: pathlib.Path) -> bool:
    """Whether ONNX Runtime makes what the row says, and leaves what leads into int8 and out of it, and no more."""
    ops = optimized_ops(model, folder)
    outputs = 2 if op_type == "Split" else 1
    inputs = 2 if op_type in ("Add", "Mul", "Concat", "Where") else 1
    leads = ops.count("DequantizeLinear") <= outputs and ops.count("QuantizeLinear") <= inputs
    return leads and CPU.rows[op_type].becomes in ops


@pytest.mark.parametrize("op_type", sorted(CPU.rows))
def test_row_becomes_what_it_says_for_its_types_and_no_other(op_type, tmp_path):
    def fused(element_type: str) -> bool:
        model = between_pairs(op_type, signed=element_type.startswith("int"))
        try:
            return is_fused(op_type, with_activations(model, element_type), tmp_path)
        except NotImplemented:  # a Clip of 16 bits
            return False

    assert tuple(filter(fused, TYPES)) == CPU.rows[op_type].types


@pytest.mark.parametrize("op_type", [name for name, row in sorted(CPU.rows.items()) if row.weight is not None])
def test_kernel_takes_the_weights_that_its_row_says_and_no_other(op_type, tmp_path):
    def fused(element_type: str) -> bool:
        return is_fused(op_type, with_weights(between_pairs(op_type, signed=False), element_type), tmp_path)

    assert tuple(filter(fused, WEIGHTS)) == CPU.rows[op_type].weights


def test_every_row_has_an_example():
    assert set(EXAMPLES) == set(CPU.rows)


def test_cuda_runs_nothing_in_int8():
    assert "12229" in load_table("cuda").reason
    assert not load_table("cuda").rows


@pytest.fixture
def tpu(monkeypatch):
    """Returns the table of a provider of another distribution, whose file says so much of int8."""

    def load(**int8):
        provider = Provider("tpu", "TPUExecutionProvider", "TPU", int8=int8)
        monkeypatch.setattr(table, "load_provider", lambda name: provider)
        return table.load_table.__wrapped__("tpu")

    return load


def test_a_provider_that_declares_no_table_runs_nothing(tpu):
    assert tpu().reason == "nobody has said yet which ops tpu runs in int8"


def test_a_table_that_cannot_be_read_is_named(tpu):
    with pytest.raises(ExtensionError, match="the int8 table of tpu cannot be read: KeyError: 'role'"):
        tpu(ops={"Conv": {"rol": 1}})


def test_rows_say_how_they_pack_iff_they_contract():
    for row in CPU.rows.values():
        assert (row.packing is not None) == (row.role is Role.CONTRACTION)


def test_attributes_that_the_kernel_lacks_keep_a_node_float():
    text = """<ir_version: 9, opset_import: ["" : 17]>
        g (float[1,4,8,8] x) => (float[] z) { z = Resize <mode = "linear"> (x, , i) }"""
    model = from_text(text, i=np.array([1, 1, 2, 2], np.float32))
    (note,) = make_plan(model, CPU).left or make_plan_typed(model)
    assert (note.action, note.reason) == (LEFT, "its kernel is for mode = nearest")


def make_plan_typed(model):
    model.graph.outputs[0].dtype = ir.DataType.FLOAT
    return make_plan(model, CPU).left
