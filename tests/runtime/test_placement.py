"""Where nodes run, and what conversions are for: as ONNX Runtime really does it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from sample_models import from_text

from onnxslim.runtime.placement import KernelPlacement, Purpose, RunsIn, place, place_of
from onnxslim.runtime.profile import Kernel, kernels
from onnxslim.runtime.target import Target, detect_target

CPU = detect_target("cpu", 1)
FEEDS = {"x": np.random.default_rng(0).normal(size=(1, 4, 8, 8)).astype(np.float32)}
SCALE = {"s": np.float32(0.05), "z": np.uint8(128)}
WEIGHTS = {
    "w": np.full((4, 4, 3, 3), 3, np.int8),
    "k": np.float32(0.01),
}
BIAS = {"b": np.full(4, 7, np.int32), "l": np.float32(5e-4)}


def pairs(*names: str) -> str:
    """Q and DQ behind each value: ``x`` becomes ``xd``."""
    lines = (f"{n}q = QuantizeLinear ({n}, s, z) {n}d = DequantizeLinear ({n}q, s, z)" for n in names)
    return " ".join(lines)


def placed(body: str, feeds: dict[str, np.ndarray] = FEEDS, opset: int = 17, **weights: np.ndarray) -> KernelPlacement:
    head = f'<ir_version: 10, opset_import: ["" : {opset}, "com.microsoft" : 1]>'
    return place(from_text(f"{head} g (float[1,4,8,8] x) => (float[] y) {{ {body} }}", **weights), feeds, CPU, runs=2)


def where(found: KernelPlacement) -> dict[str, str]:
    return {item.node.op_type: item.place.value for item in found.nodes}


def purposes(found: KernelPlacement) -> list[tuple[str, str]]:
    assert found.conversions is not None
    return sorted((item.kernel.op_type, item.purpose.value) for item in found.conversions)


def test_a_convolution_between_pairs_runs_in_int8() -> None:
    found = placed(
        f"{pairs('x')} wd = DequantizeLinear (w, k) bd = DequantizeLinear (b, l) c = Conv (xd, wd, bd) {pairs('c')}"
        " y = Tanh (cd)",
        **SCALE,
        **WEIGHTS,
        **BIAS,
    )
    assert where(found) == {"Conv": "int8", "Tanh": "float"}
    assert purposes(found) == [("DequantizeLinear", "out of int8"), ("QuantizeLinear", "into int8")]
    (into,) = [item for item in found.conversions or () if item.purpose is Purpose.INTO_INT8]
    assert into.purpose.saves_time


def test_pairs_around_an_op_without_kernel_are_in_vain() -> None:
    found = placed(f"{pairs('x')} t = HardSigmoid (xd) {pairs('t')} y = Identity (td)", **SCALE)
    assert where(found)["HardSigmoid"] == "float"
    assert (
        purposes(found)
        == [("DequantizeLinear", "pair around floats")] * 2 + [("QuantizeLinear", "pair around floats")] * 2
    )
    assert not any(item.purpose.saves_time for item in found.conversions or ())
    first = next(item for item in found.conversions or () if "x" in item.kernel.name)
    assert [node.op_type for node in first.neighbours] == ["HardSigmoid"]


def test_a_weight_that_no_kernel_takes_is_dequantized_in_every_run() -> None:
    found = placed("wd = DequantizeLinear (w, k) y = Conv (x, wd)", **WEIGHTS)
    assert where(found) == {"Conv": "float"}
    assert purposes(found) == [("DequantizeLinear", "stored integers")]


def test_packed_weights_are_neither_int8_nor_float() -> None:
    packed = {"p": np.full((6, 2, 8), 0x79, np.uint8), "t": np.full((6, 2), 0.1, np.float32)}
    found = placed(
        "f = Reshape (x, r) y = com.microsoft.MatMulNBits <K = 32, N = 6, bits = 4, block_size = 16> (f, p, t)",
        **packed,
        r=np.array([-1, 32]),
    )
    assert where(found) == {"Reshape": "float", "MatMulNBits": "packed weights"}


def test_dynamic_quantization_is_int8() -> None:
    found = placed(
        "f = Reshape (x, r) q, s, z = DynamicQuantizeLinear (f) i = MatMulInteger (q, v, z)"
        " g = Cast <to = 1> (i) m = Mul (s, k) y = Mul (g, m)",
        r=np.array([-1, 32]),
        v=np.full((32, 6), 3, np.int8),
        k=np.float32(0.01),
    )
    assert where(found)["MatMulInteger"] == "int8"


def test_what_is_folded_and_what_is_not_run_has_no_kernel() -> None:
    text = """<ir_version: 9, opset_import: ["" : 17]>
    g (float[1,4,8,8] x, bool c) => (float[] y) {
        y = If (c) <
            then_branch = t () => (float[] a) { a = Tanh (x) },
            else_branch = e () => (float[] b) { b = Sin (x) }
        >
    }"""
    found = place(from_text(text), {**FEEDS, "c": np.array(True)}, CPU, runs=2)
    assert where(found) == {"If": "float", "Tanh": "float", "Sin": "nowhere"}


def test_fused_nodes_run_where_their_kernel_does() -> None:
    found = placed("c = Conv (x, w) y = Relu (c)", w=np.ones((4, 4, 3, 3), np.float32))
    kernel = {item.node.op_type: item.kernel for item in found.nodes}
    assert kernel["Conv"] is kernel["Relu"]
    assert where(found) == {"Conv": "float", "Relu": "float"}


def test_the_model_is_not_changed() -> None:
    model = from_text('<ir_version: 9, opset_import: ["" : 17]> g (float[2] x) => (float[2] y) { [n] y = Tanh (x) }')
    before = ir.to_proto(model).SerializeToString()
    place(model, {"x": np.ones(2, np.float32)}, CPU, runs=2)
    assert ir.to_proto(model).SerializeToString() == before


def test_a_provider_that_writes_no_graph_tells_the_places_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxslim.errors import RunError
    from onnxslim.runtime import placement

    def compiled(model: ir.Model, feeds: object, target: Target, runs: int, path: object = None) -> list[Kernel]:
        if path is not None:
            raise RunError("ONNX Runtime says: Unable to serialize model as it contains compiled nodes")
        return kernels(model, FEEDS, target, runs)

    monkeypatch.setattr(placement, "kernels", compiled)
    found = placed(f"{pairs('x')} t = HardSigmoid (xd) {pairs('t')} y = Identity (td)", **SCALE)
    assert where(found)["HardSigmoid"] == "float"
    assert found.conversions is None


@pytest.mark.parametrize(
    ("op_type", "inputs", "outputs", "expected"),
    [
        ("QLinearConv", ("uint8", "float", "uint8", "int8"), ("uint8",), RunsIn.INT8),
        ("QuantizeLinear", ("float", "float", "uint8"), ("uint8",), RunsIn.CONVERSION),
        ("DynamicQuantizeLinear", ("float",), ("uint8", "float", "uint8"), RunsIn.CONVERSION),
        ("Cast", ("uint8",), ("float",), RunsIn.FLOAT),
        ("ArgMax", ("float",), ("int64",), RunsIn.FLOAT),
        ("Shape", ("float",), ("int64",), RunsIn.FLOAT),
        ("Add", ("int64", "int64"), ("int64",), RunsIn.OTHER),
        ("", (), (), RunsIn.OTHER),
    ],
)
def test_element_types_say_what_a_kernel_computes_on(
    op_type: str, inputs: tuple[str, ...], outputs: tuple[str, ...], expected: RunsIn
) -> None:
    assert place_of(Kernel("k", op_type, "", inputs, outputs, 1.0)) is expected
