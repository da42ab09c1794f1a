"""What the tables declare: every op of the CPU runs in half precision by itself; all entries are ops and types."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.defs
import onnx_ir as ir
import pytest
from onnxslim.passes.half import table
from onnxslim.passes.half.formats import FORMATS, HalfType
from onnxslim.passes.half.operands import half_operands
from onnxslim.passes.half.table import load_half_table, load_op_facts
from quantized_models import optimized_ops
from sample_models import from_text

from onnxslim.errors import ExtensionError
from onnxslim.runtime.provider import Provider

OPSET = 21
NODES: dict[str, tuple[str, dict[str, np.ndarray]]] = {
    "Cast": ("y = Cast <to = KIND> (i)", {"i": np.array([2, 1])}),
    "Clip": ("y = Clip (x)", {}),
    "Concat": ("y = Concat <axis = 1> (x, x2)", {}),
    "ConstantOfShape": ("y = ConstantOfShape (i)", {"i": np.array([2, 1])}),
    "Conv": ("y = Conv (x, w)", {"w": np.ones((6, 4, 1, 1), np.float32)}),
    "Expand": ("y = Expand (x, i)", {"i": np.array([3, 4, 8, 8])}),
    "Flatten": ("y = Flatten (x)", {}),
    "Gather": ("y = Gather <axis = 1> (x, i)", {"i": np.array([2, 1])}),
    "GatherElements": ("y = GatherElements (x, i)", {"i": np.zeros((1, 4, 8, 8), np.int64)}),
    "GatherND": ("y = GatherND (x, i)", {"i": np.zeros((1, 4), np.int64)}),
    "Identity": ("y = Identity (x)", {}),
    "LayerNormalization": ("y = LayerNormalization (x, s)", {"s": np.ones(8, np.float32)}),
    "MatMul": ("y = MatMul (x, x2)", {}),
    "Max": ("y = Max (x, x2)", {}),
    "Min": ("y = Min (x, x2)", {}),
    "Relu": ("y = Relu (x)", {}),
    "Reshape": ("y = Reshape (x, i)", {"i": np.array([0, -1])}),
    "Round": ("y = Round (x)", {}),
    "ScatterElements": ("y = ScatterElements (x, i, x2)", {"i": np.zeros((1, 4, 8, 8), np.int64)}),
    "ScatterND": ("y = ScatterND (x, i, u)", {"i": np.zeros((1, 4), np.int64), "u": np.ones(1, np.float32)}),
    "Sigmoid": ("y = Sigmoid (x)", {}),
    "Sign": ("y = Sign (x)", {}),
    "Slice": ("y = Slice (x, i, j)", {"i": np.array([0]), "j": np.array([1])}),
    "Split": ("y, y2 = Split <axis = 1> (x, i)", {"i": np.array([1, 3])}),
    "Squeeze": ("y = Squeeze (x, i)", {"i": np.array([0])}),
    "Transpose": ("y = Transpose <perm = [0, 2, 3, 1]> (x)", {}),
    "Unsqueeze": ("y = Unsqueeze (x, i)", {"i": np.array([0])}),
}
"""One use of each op of the CPU's table, and of some others, from x and x2 (1 x 4 x 8 x 8) to y."""


def ops_of_one(op_type, half, folder):
    """Returns the ops that ONNX Runtime makes of one node in half precision."""
    body, weights = NODES[op_type]
    body = body.replace("KIND", str(half.onnx_type.value))
    kind = half.name
    weights = {
        name: array.astype(half.dtype) if array.dtype == np.float32 else array for name, array in weights.items()
    }
    text = f"""<ir_version: 10, opset_import: ["" : {OPSET}]>
        g ({kind}[1,4,8,8] x, {kind}[1,4,8,8] x2) => ({kind}[] y) {{ {body} }}"""
    model = from_text(text, **weights)
    model.graph.outputs[0].shape = None
    if op_type == "ConstantOfShape":
        model.graph[0].attributes["value"] = ir.AttrTensor("value", ir.tensor(np.ones(1, half.dtype)))
    return optimized_ops(model, folder, fuse=False)


@pytest.mark.parametrize("kind", list(HalfType))
def test_every_op_of_the_cpu_runs_without_casts(kind, tmp_path):
    half = FORMATS[kind]
    for _, op_type in load_half_table("cpu").kernels[half.name]:
        assert ops_of_one(op_type, half, tmp_path) == [op_type], op_type


@pytest.mark.parametrize("op_type", ["Conv", "MatMul", "Relu", "Sigmoid"])
def test_what_the_cpu_has_no_kernel_for_is_cast_in_float16_and_refused_in_bfloat16(op_type, tmp_path):
    casts = load_half_table("cpu").casts
    assert tuple(casts) == ("float16",)
    assert "Cast" in ops_of_one(op_type, FORMATS[HalfType.FLOAT16], tmp_path)
    with pytest.raises(Exception, match=r"NOT_IMPLEMENTED|type|Type"):
        ops_of_one(op_type, FORMATS[HalfType.BFLOAT16], tmp_path)


def test_a_star_stands_for_all_ops():
    model = ir.from_onnx_text('<ir_version: 9, opset_import: ["" : 17]> g (float x) => (float y) { y = Atan (x) }')
    float16 = FORMATS[HalfType.FLOAT16]
    assert load_half_table("qnn").has_kernel(model.graph[0], float16, 17)
    assert not load_half_table("cuda").has_kernel(model.graph[0], float16, 17)
    assert not load_half_table("qnn").has_kernel(model.graph[0], FORMATS[HalfType.BFLOAT16], 17)


@pytest.mark.parametrize("provider", ["cpu", "cuda"])
@pytest.mark.parametrize("kind", list(HalfType))
def test_what_a_provider_declares_are_ops_that_onnx_knows_in_that_type(provider, kind):
    half = FORMATS[kind]
    for (domain, op_type), since in load_half_table(provider).kernels[half.name].items():
        if domain:
            assert (domain, op_type) in load_op_facts().one_type
            continue
        newest = onnx.defs.get_schema(op_type, onnx.defs.onnx_opset_version())
        assert any(f"tensor({half.name})" in rule.allowed_type_strs for rule in newest.type_constraints), op_type
        assert since <= onnx.defs.onnx_opset_version()


def test_facts_about_ops_are_about_ops_that_there_are():
    facts = load_op_facts()
    places = (facts.result_type, facts.float32_inputs, facts.small, facts.angles, facts.limits, facts.sums)
    names = {name for table_of in places for name in table_of} | facts.digits | facts.differences
    for domain, op_type in names:
        assert onnx.defs.has(op_type, domain=domain), op_type


def test_resize_takes_its_region_and_scales_in_float32():
    text = """<ir_version: 9, opset_import: ["" : 17]>
    g (float[1,3,8,8] x, float[8] roi, float[4] scales) => (float[] y) { y = Resize (x, roi, scales) }"""
    model = ir.from_onnx_text(text)
    model.graph.outputs[0].shape = None
    operands = half_operands(model.graph[0], 17, FORMATS[HalfType.FLOAT16], load_op_facts())
    assert (operands.inputs, operands.outputs, operands.fixed) == ((0,), (0,), (1, 2))


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ("y, m, d = LayerNormalization (x, w)", ((0, 1), (0,), ())),
        ("y = Range (s, s, s)", ((), (), (0, 1, 2))),
        ("y = NonMaxSuppression (x, x)", ((), (), (0, 1))),
        ("y = Clip (x, , s)", ((0, 2), (0,), ())),
        ("y = Concat <axis = 0> (x, x, x)", ((0, 1, 2), (0,), ())),
        ("y = HannWindow (n)", ((), (), ())),
        ("y = com.microsoft.SkipLayerNormalization (x, x, w)", ((0, 1, 2), (0,), ())),
    ],
)
@pytest.mark.parametrize("kind", list(HalfType))
def test_operands(node, expected, kind):
    text = f"""<ir_version: 9, opset_import: ["" : 17, "com.microsoft" : 1]>
    g (float[1,4,8] x, float[8] w, float s, int64 n) => (float[] y) {{ {node} }}"""
    model = ir.from_onnx_text(text)
    made = model.graph[0]
    for value in made.outputs:
        value.type = ir.TensorType(ir.DataType.INT64 if made.op_type == "NonMaxSuppression" else ir.DataType.FLOAT)
    operands = half_operands(made, model.opset_imports[made.domain], FORMATS[kind], load_op_facts())
    assert (operands.inputs, operands.outputs, operands.fixed) == expected


def test_an_op_that_nobody_knows_has_no_operands():
    model = ir.from_onnx_text(
        '<ir_version: 9, opset_import: ["" : 17, "own" : 1]> g (float x) => (float y) { y = own.Op (x) }'
    )
    assert half_operands(model.graph[0], 1, FORMATS[HalfType.FLOAT16], load_op_facts()) is None


@pytest.fixture
def tpu(monkeypatch):
    """Returns the table of a provider of another distribution, whose file says so much of half precision."""

    def load(**half):
        provider = Provider("tpu", "TPUExecutionProvider", "TPU", half=half)
        monkeypatch.setattr(table, "load_provider", lambda name: provider)
        return table.load_half_table.__wrapped__("tpu")

    return load


def test_a_provider_that_declares_nothing_is_known_as_such(tpu):
    assert not tpu().declared


@pytest.mark.parametrize(
    ("half", "said"),
    [({"float16": 3}, "TypeError"), ({"activations": "some"}, "ValueError"), ({"flaot16": []}, "KeyError: 'flaot16'")],
)
def test_a_table_that_cannot_be_read_is_named(tpu, half, said):
    with pytest.raises(ExtensionError, match=f"the half table of tpu cannot be read: {said}"):
        tpu(**half)
