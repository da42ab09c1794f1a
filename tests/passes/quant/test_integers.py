"""Static schemes beside int8: weights of 4 bits that run in kernels of int8, and activations of 16 bits."""

from __future__ import annotations

import pathlib
import textwrap

import ml_dtypes
import numpy as np
import onnx
import onnx.checker
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnxslim.passes.dequantize import Dequantize
from onnxslim.passes.quant import Quant
from onnxslim.passes.quant.integers import INT4, INT8, UINT8, IntegerType
from onnxslim.passes.quant.saturation import Saturation
from onnxslim.passes.quant.scales import Activations, Calibration, Scale
from onnxslim.passes.quant.table import load_table
from onnxslim.passes.quant.weight_only.grids import WeightType
from onnxslim.passes.quant.weights import quantize_weight
from onnxslim.passes.simplify import Simplify
from quantized_models import optimized_ops
from sample_models import from_text
from story import AVX2, VNNI, make_context, nodes_of

from onnxslim.analysis.quantized import quantized_layers
from onnxslim.analysis.shapes import infer_shapes
from onnxslim.errors import BadOptionValue
from onnxslim.pipeline.interface import Change
from onnxslim.runtime.placement import place
from onnxslim.runtime.session import Session

NET = """<ir_version: 9, opset_import: ["" : 17]> g (float[N,8,6,6] x) => (float[N,5] y) {
    a = Conv <pads = [1, 1, 1, 1]> (x, u, b)  r = Relu (a)  c = Conv <group = 16> (r, v, d)  q = Relu (c)
    f = Flatten (q)  y = Gemm (f, w, k) }"""
QUICK = {"calibration": Calibration.MINMAX, "float_time": 0.0}
NAMES = ["int2", "uint2", "int4", "uint4", "int8", "uint8", "int16", "uint16"]


def net() -> tuple[ir.Model, dict[str, np.ndarray]]:
    generator = np.random.default_rng(0)
    sizes = {"u": (16, 8, 3, 3), "b": (16,), "v": (16, 1, 3, 3), "d": (16,), "w": (256, 5), "k": (5,)}
    weights = {name: generator.normal(size=size).astype(np.float32) for name, size in sizes.items()}
    model = from_text(NET, **weights)
    infer_shapes(model)
    return model, {"x": generator.normal(size=(64, 8, 6, 6)).astype(np.float32)}


def quantized(model: ir.Model, feeds: dict[str, np.ndarray], target=VNNI, **options) -> tuple[ir.Model, Change]:
    after = model.clone()
    change = Quant(**{**QUICK, **options}).run(after, make_context(model, feeds, target=target))
    if change.modified:
        onnx.checker.check_model(ir.to_proto(after), full_check=True)
    return after, change


def sqnr(model: ir.Model, after: ir.Model, feeds: dict[str, np.ndarray]) -> float:
    reference, found = (Session.of(either, VNNI).run(feeds)["y"] for either in (model, after))
    return float(10 * np.log10(np.square(reference).sum() / np.square(reference - found).sum()))


def stored_types(model: ir.Model) -> list[str]:
    weights = (value for value in model.graph.initializers.values() if value.shape is not None and len(value.shape) > 1)
    return sorted(value.dtype.name for value in weights if value.dtype is not None)


@pytest.mark.parametrize("name", NAMES)
def test_an_integer_type_has_the_ends_of_its_array_type(name: str) -> None:
    integers = IntegerType.named(name)
    info = ml_dtypes.iinfo(integers.dtype)
    assert (integers.name, integers.lowest, integers.highest) == (name, info.min, info.max)
    assert integers.steps == 2**integers.bits - 1


@given(st.sampled_from(NAMES), st.floats(-1e6, 0), st.floats(1e-3, 1e6))
def test_a_scale_covers_its_interval_and_has_zero_as_a_level(name: str, low: float, high: float) -> None:
    integers = IntegerType.named(name)
    scale = Scale.covering(low, high, integers)
    step = float(scale.scale)
    covered = scale.interval
    assert integers.lowest <= scale.zero_point <= integers.highest
    assert covered[0] <= low + 0.51 * step
    assert covered[1] >= high - 0.51 * step
    assert step * integers.steps == pytest.approx(high - low, rel=1e-6)


def test_golden() -> None:
    model = from_text(
        """<ir_version: 9, opset_import: ["" : 17]> g (float[N,2,4,4] x) => (float[N,4] y) {
            f = Flatten (x)  y = Gemm (f, v) }""",
        v=np.full((32, 4), 0.25, np.float32),
    )
    infer_shapes(model)
    x = np.linspace(-1, 1, 32, dtype=np.float32).reshape(1, 2, 4, 4)
    after, _ = quantized(model, {"x": x}, weights=WeightType.INT4, per_channel=False, include=("Gemm",))
    assert after.graph.opset_imports[""] == 21
    assert "\n".join(nodes_of(after.graph)) == textwrap.dedent("""\
        f = Flatten (x)
        q2 = Cast <to = 3> (v[32, 4])
        q4 = DequantizeLinear (q2, 0.0357142873108387, 0)
        q7 = QuantizeLinear (f, 0.007843137718737125, 127)
        q8 = DequantizeLinear (q7, 0.007843137718737125, 127)
        y = Gemm (q8, q4)""")
    assert (after.graph.initializers["v"].const_value.numpy() == 7).all()


@pytest.mark.parametrize("target", [VNNI, AVX2])
def test_four_bits_take_half_the_bytes_and_run_in_int8(target) -> None:
    model, feeds = net()
    after, change = quantized(model, feeds, target, weights=WeightType.INT4)
    assert stored_types(after) == ["INT4"] * 3
    assert {(layer.before, layer.after) for layer in change.layers} == {(32, 4)}
    assert sum(
        value.const_value.nbytes for value in after.graph.initializers.values() if value.dtype.name == "INT4"
    ) == ((16 * 8 * 9 + 16 * 9 + 256 * 5) // 2)
    placed = place(after, {"x": feeds["x"][:1]}, VNNI, runs=2)
    assert {item.node.op_type: item.place.value for item in placed.nodes if item.node.op_type in ("Conv", "Gemm")} == {
        "Conv": "int8",
        "Gemm": "int8",
    }
    assert all(item.purpose.saves_time for item in placed.conversions or ())
    assert sqnr(model, after, feeds) > 15  # 4 bits of normal numbers leave some 20 dB of each weight
    assert [(layers.scheme, layers.weight_bits, layers.activation_bits) for layers in quantized_layers(after)] == [
        ("QDQ", 4, 8)
    ]


@pytest.mark.parametrize("op_type", [name for name, row in load_table("cpu").rows.items() if row.weight is not None])
@pytest.mark.parametrize("stored", ["int4", "int2"])
def test_weights_of_fewer_bits_become_those_of_the_kernel_where_the_table_says_so(
    op_type: str, stored: str, tmp_path: pathlib.Path
) -> None:
    body, weights = {
        "Conv": ("y = Conv (x, v)", (4, 4, 3, 3)),
        "Gemm": (
            "f = Flatten (x) fq = QuantizeLinear (f, s, z0) fd = DequantizeLinear (fq, s, z0) y = Gemm (fd, v)",
            (256, 6),
        ),
        "MatMul": ("y = MatMul (x, v)", (8, 6)),
    }[op_type]
    row, integers = load_table("cpu").rows[op_type], IntegerType.named(stored)
    zero_point = {"z8": np.int8(0)} if row.zero_point else {}
    zero = "".join(f", {name}" for name in zero_point)
    text = f"""<ir_version: 13, opset_import: ["" : {integers.opset}]> g (float[1,4,8,8] x0) => (float[] z) {{
        q = QuantizeLinear (x0, s, z0) x = DequantizeLinear (q, s, z0) e = Cast <to = 3> (w)
        v = DequantizeLinear (e, s{zero}) {body} p = QuantizeLinear (y, s, z0) z = DequantizeLinear (p, s, z0) }}"""
    levels = np.random.default_rng(0).integers(integers.lowest, integers.highest + 1, weights).astype(integers.dtype)
    model = from_text(text, w=levels, s=np.float32(0.1), z0=np.uint8(128), **zero_point)
    ops = optimized_ops(model, tmp_path)
    assert row.reads(integers)
    assert "Cast" not in ops
    assert any(op.startswith(("QLinear", "QGemm", row.becomes)) for op in ops), ops


def test_simplify_leaves_weights_of_four_bits_as_they_are() -> None:
    model, feeds = net()
    after, _ = quantized(model, feeds, weights=WeightType.INT4)
    Simplify().run(after, make_context(after))
    assert stored_types(after) == ["INT4"] * 3


def test_weights_of_four_bits_become_floats_again() -> None:
    model, feeds = net()
    after, _ = quantized(model, feeds, weights=WeightType.INT4)
    back = after.clone()
    assert Dequantize().run(back, make_context(back)).modified
    assert not {"Cast", "DequantizeLinear"} & {node.op_type for node in back.graph}
    assert sqnr(after, back, feeds) > 30


def test_a_target_with_kernels_for_four_bits_reads_them_directly() -> None:
    model, feeds = net()
    after = model.clone()
    assert Quant(target="qdq", weights=WeightType.INT4, **QUICK).run(after, make_context(model, feeds)).modified
    assert "Cast" not in {node.op_type for node in after.graph}
    assert stored_types(after) == ["INT4"] * 3


@pytest.mark.parametrize(
    ("options", "code", "reason"),
    [
        ({"weights": WeightType.INT4}, "no-weights", "tensorrt takes no weights of int4"),
        ({"activations": Activations.UINT8}, "no-activations", "tensorrt takes activations of int8, not of uint8"),
        ({"activations": Activations.INT16}, "no-activations", "tensorrt takes activations of int8, not of int16"),
    ],
)
def test_what_a_target_does_not_take_is_refused(options, code: str, reason: str) -> None:
    model, feeds = net()
    change = Quant(target="tensorrt", **options).run(model, make_context(model, feeds))
    (note,) = change.notes
    assert (change.modified, note.code, note.reason) == (False, code, reason)


@pytest.mark.parametrize("weights", [WeightType.CODEBOOK, WeightType.POWERS])
def test_weights_without_a_static_form_are_refused(weights: WeightType) -> None:
    with pytest.raises(BadOptionValue, match=f"weights={weights.value} needs activations=float"):
        Quant(weights=weights)


def test_dynamic_quantization_has_weights_of_8_bits() -> None:
    with pytest.raises(BadOptionValue, match="weights=int4 needs"):
        Quant(weights=WeightType.INT4, activations=Activations.DYNAMIC)


@pytest.mark.parametrize("saturation", list(Saturation)[1:])
def test_few_bits_need_no_guard_against_saturation(saturation: Saturation) -> None:
    weight = np.random.default_rng(1).normal(size=(4, 18)).astype(np.float32)
    levels = quantize_weight(weight, 0, integers=INT4, saturation=Saturation.IGNORE).levels
    assert saturation.ends(INT4) == (-8, 7)
    assert levels.min() >= -8
    assert levels.max() <= 7
    assert saturation.ends(INT8)[0] == -saturation.ends(INT8)[1]


@pytest.mark.parametrize("activations", [Activations.UINT16, Activations.INT16])
@pytest.mark.parametrize("calibration", [Calibration.MINMAX, Calibration.MSE, Calibration.ENTROPY])
def test_activations_of_16_bits_lose_nearly_nothing(activations: Activations, calibration: Calibration) -> None:
    model, feeds = net()
    eight, _ = quantized(model, feeds, calibration=calibration, exclude=("Gemm",))
    after, change = quantized(model, feeds, calibration=calibration, activations=activations, exclude=("Gemm",))
    quantizers = [node for node in after.graph if node.op_type == "QuantizeLinear"]
    assert {node.inputs[2].dtype.name for node in quantizers} == {activations.value.upper()}
    assert sqnr(model, after, feeds) > sqnr(model, eight, feeds)
    (note,) = [note for note in change.notes if note.subject == "activations"]
    assert note.reason == "cpu computes in float on them, and is no faster"


def test_speed_decides_nothing_where_no_kernel_is_for_the_activations() -> None:
    assert Quant(activations=Activations.UINT16).untimed("cpu") is not None
    assert Quant(activations=Activations.UINT8).untimed("cpu") is None


def test_types_that_kernels_take_are_told_from_those_that_are_only_stored() -> None:
    cpu, qdq = load_table("cpu"), load_table("qdq")
    assert cpu.fuses(UINT8)
    assert cpu.takes(IntegerType.named("int16"))
    assert not cpu.fuses(IntegerType.named("int16"))
    assert cpu.rows["Conv"].reads(INT4)
    assert not cpu.rows["Conv"].multiplies(INT4)
    assert qdq.rows["Conv"].multiplies(INT4)
