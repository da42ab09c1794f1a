"""At full rank every split gives what the layer gave, whatever its strides, pads, dilations and orientation."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnxslim.passes.lowrank.candidates import Positions, cost, forms
from onnxslim.passes.lowrank.emit import parts, timed, write
from onnxslim.passes.lowrank.factors import Factorization, LayerMoments, Problem, split
from onnxslim.passes.lowrank.layer import find_layers
from sample_models import from_text

from onnxslim.analysis.cost import measure_cost
from onnxslim.analysis.linear_layer import LinearLayer
from onnxslim.analysis.shapes import infer_shapes
from onnxslim.model.edit import Editor
from onnxslim.runtime.session import Session

GENERATOR = np.random.default_rng(0)
OPSETS = (11, 13, 17, 21)


def weight(*shape: int, dtype: str = "float32") -> np.ndarray:
    return (GENERATOR.normal(size=shape) / 4).astype(dtype)


def model(text: str, opset: int = 17, **weights: np.ndarray) -> ir.Model:
    kind = "float16" if next(iter(weights.values())).dtype == np.float16 else "float"
    names = "".join(f", {kind} {name}" for name in weights)
    header = f'<ir_version: {7 if opset < 15 else 10}, opset_import: ["" : {opset}]> '
    made = from_text(header + text.replace(") => (", f"{names}) => (", 1), **weights)
    infer_shapes(made)
    return made


def full(layer: LinearLayer, form: Factorization) -> tuple[int, ...]:
    inputs, outputs = layer.inputs, layer.outputs
    return {
        Factorization.MATRIX: (min(layer.columns, outputs),),
        Factorization.PIVOT: (min(layer.columns, outputs),),
        Factorization.TUCKER: (inputs, outputs - 1),
        Factorization.SPATIAL: (min(inputs * layer.kernel[0], outputs * layer.kernel[-1]) if layer.kernel else 1,),
        Factorization.SEPARABLE: (int(np.prod(layer.kernel)),),
    }[form]


def spread(
    before: ir.Model, form: Factorization, ranks: tuple[int, ...] | None = None, name: str = "x"
) -> tuple[float, float]:
    """Split the only layer; return the largest difference to the original, and what is expected of the dense weight."""
    after = before.clone()
    infer_shapes(after)
    (layer,), _ = find_layers(after, smallest=1)
    matrix = layer.matrix()
    made = split(Problem(LayerMoments.plain(matrix), layer.kernel), form, ranks or full(layer, form))
    write(Editor(after), layer, made, [None] * len(layer.uses))
    onnx.checker.check_model(ir.to_proto(after), full_check=True)
    given = next(value for value in before.graph.inputs if value.name == name)
    shape = [size if isinstance(size, int) else 3 for size in given.shape or ()]
    data = GENERATOR.normal(size=shape).astype(given.dtype.numpy() if given.dtype is not None else np.float32)
    one, two = (Session.of(each).run({name: data})["y"].astype(np.float64) for each in (before, after))
    assert one.shape == two.shape
    return float(np.abs(one - two).max() / np.abs(one).max()), float(np.abs(made.dense - matrix).max())


MATRICES = {
    "matmul": ("g (float[N,5,8] x) => (float[N,5,12] y) { y = MatMul (x, w) }", {"w": (8, 12)}),
    "matmul with bias": (
        "g (float[N,5,8] x) => (float[N,5,12] y) { a = MatMul (x, w) y = Add (a, b) }",
        {"w": (8, 12), "b": (12,)},
    ),
    "matmul of a vector": ("g (float[8] x) => (float[12] y) { y = MatMul (x, w) }", {"w": (8, 12)}),
    "matmul, weight on the left": ("g (float[N,8,5] x) => (float[N,12,5] y) { y = MatMul (w, x) }", {"w": (12, 8)}),
    "gemm": ("g (float[N,8] x) => (float[N,12] y) { y = Gemm (x, w, b) }", {"w": (8, 12), "b": (12,)}),
    "gemm, transposed": (
        "g (float[N,8] x) => (float[N,12] y) { y = Gemm <transB=1> (x, w, b) }",
        {"w": (12, 8), "b": (12,)},
    ),
    "gemm without bias, both transposed": (
        "g (float[8,N] x) => (float[N,12] y) { y = Gemm <transA=1, transB=1> (x, w) }",
        {"w": (12, 8)},
    ),
    "pointwise": (
        "g (float[N,8,5,5] x) => (float[N,12,3,3] y) { y = Conv <strides=[2,2]> (x, w, b) }",
        {"w": (12, 8, 1, 1), "b": (12,)},
    ),
}


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("form", [Factorization.MATRIX, Factorization.PIVOT])
def test_matrices_of_full_rank(name: str, opset: int, form: Factorization) -> None:
    text, shapes = MATRICES[name]
    error, dense = spread(model(text, opset, **{key: weight(*shape) for key, shape in shapes.items()}), form)
    assert error < (1e-5 if form is Factorization.MATRIX else 1e-4)
    assert dense < (1e-9 if form is Factorization.MATRIX else 1e-4)


@pytest.mark.parametrize("name", MATRICES)
def test_the_pivoted_form_gives_what_the_product_of_that_rank_gives(name: str) -> None:
    text, shapes = MATRICES[name]
    before = model(text, **{key: weight(*shape) for key, shape in shapes.items()})
    made = []
    for form in (Factorization.MATRIX, Factorization.PIVOT):
        after = before.clone()
        (layer,), _ = find_layers(after, smallest=1)
        bias = GENERATOR.normal(size=12) if layer.uses[0].bias is not None and not made else None
        bias = bias if not made else made[0][1]
        write(Editor(after), layer, split(Problem(LayerMoments.plain(layer.matrix())), form, (5,)), [bias])
        infer_shapes(after)
        made.append((after, bias, measure_cost(after).parameters))
    data = GENERATOR.normal(size=[size if isinstance(size, int) else 3 for size in before.graph.inputs[0].shape or ()])
    one, two = (Session.of(after).run({"x": data.astype(np.float32)})["y"] for after, _, _ in made)
    np.testing.assert_allclose(one, two, atol=1e-4 * np.abs(one).max())
    assert made[0][2] - made[1][2] == 5 * 5
    assert "b" not in made[1][0].graph.initializers or "Add" in [node.op_type for node in made[1][0].graph]


WINDOWS = [
    "kernel_shape=[3,3], pads=[1,1,1,1]",
    "kernel_shape=[3,3], strides=[2,1], pads=[0,1,2,0]",
    "dilations=[2,1], pads=[2,1,2,1]",
    "strides=[3,2]",
    'auto_pad="VALID", strides=[2,1]',
]


@pytest.mark.parametrize(
    ("attributes", "form", "bias"),
    [
        *itertools.product(
            WINDOWS, (Factorization.SPATIAL, Factorization.SEPARABLE, Factorization.MATRIX), (True, False)
        )
    ],
)
def test_windows_of_full_rank(attributes: str, form: Factorization, bias: bool) -> None:
    weights = {"w": weight(6, 4, 3, 3)} | ({"b": weight(6)} if bias else {})
    text = f"g (float[N,4,9,10] x) => (float[N,6,P,Q] y) {{ y = Conv <{attributes}> (x, w{', b' * bias}) }}"
    error, dense = spread(model(text, **weights), form)
    assert error < 1e-5
    assert dense < 1e-9


@pytest.mark.parametrize("attributes", WINDOWS)
@pytest.mark.parametrize("ranks", [(3, 6), (4, 5), (3, 5)])
def test_tucker_of_a_weight_that_has_its_ranks(attributes: str, ranks: tuple[int, int]) -> None:
    few, narrow = ranks
    core = GENERATOR.normal(size=(narrow, few, 3, 3))
    w = np.einsum("os,srab,ri->oiab", GENERATOR.normal(size=(6, narrow)), core, GENERATOR.normal(size=(few, 4)))
    text = f"g (float[N,4,9,10] x) => (float[N,6,P,Q] y) {{ y = Conv <{attributes}> (x, w, b) }}"
    error, dense = spread(model(text, w=w.astype(np.float32), b=weight(6)), Factorization.TUCKER, ranks)
    assert error < 1e-5
    assert dense < 1e-5


def test_windows_of_one_axis() -> None:
    text = "g (float[N,4,9] x) => (float[N,6,P] y) { y = Conv <strides=[2], pads=[1,1]> (x, w, b) }"
    assert spread(model(text, w=weight(6, 4, 3), b=weight(6)), Factorization.SEPARABLE)[0] < 1e-5


def test_half_precision_is_stored_in_half_precision() -> None:
    text = "g (float16[N,5,8] x) => (float16[N,5,12] y) { y = MatMul (x, w) }"
    before = model(text, w=weight(8, 12, dtype="float16"))
    assert spread(before, Factorization.MATRIX)[0] < 5e-3


def test_a_weight_that_two_nodes_read_is_split_once() -> None:
    before = model(
        "g (float[N,8] x) => (float[N,8] y) { a = MatMul (x, w) r = Relu (a) y = MatMul (r, w) }", w=weight(8, 8)
    )
    assert spread(before, Factorization.MATRIX)[0] < 1e-5
    after = before.clone()
    (layer,), _ = find_layers(after, smallest=1)
    assert len(layer.uses) == 2
    write(
        Editor(after),
        layer,
        split(Problem(LayerMoments.plain(layer.matrix())), Factorization.MATRIX, (3,)),
        [None, None],
    )
    assert sorted(after.graph.initializers) == ["w_factor_1", "w_factor_2"]


@pytest.mark.parametrize(
    ("text", "shapes", "reason"),
    [
        (
            "g (float[N,8] x) => (float[N,8] y) { a = MatMul (x, w) b = Transpose (w) y = MatMul (a, b) }",
            {"w": (8, 8)},
            "shared with a node of another kind",
        ),
        (
            "g (float[N,8,8] x) => (float[N,8,8] y) { a = MatMul (x, w) y = MatMul (w, a) }",
            {"w": (8, 8)},
            "read it differently",
        ),
        ("g (float[N,8,5,5] x) => (float[N,8,5,5] y) { y = Conv <group=2> (x, w) }", {"w": (8, 4, 1, 1)}, "grouped"),
        (
            'g (float[N,8,5,5] x) => (float[N,8,5,5] y) { y = Conv <auto_pad="SAME_UPPER"> (x, w) }',
            {"w": (8, 8, 3, 3)},
            "auto_pad",
        ),
        ("g (float[N,8] x) => (float[N,8] y) { y = Gemm <alpha=0.5> (x, w) }", {"w": (8, 8)}, "alpha"),
        (
            "g (float[N,8] x) => (float[N,8] y) { a = Relu (x) y = Gemm (x, w, a) }",
            {"w": (8, 8)},
            "bias is not constant",
        ),
        (
            "g (float[N,8] x) => (float[N,8] y) { y = Gemm (x, w, b) }",
            {"w": (8, 8), "b": (1,)},
            "bias is not one number for each output",
        ),
        (
            "g (float[N,8] x) => (float[N,8] y, float[8,8] w) { y = MatMul (x, w) }",
            {"w": (8, 8)},
            "its weight is an output",
        ),
        ("g (float[8,N] x) => (float[8,N] y) { y = Gemm (w, x) }", {"w": (8, 8)}, "left factor"),
        ("g (float[2,5,8] x) => (float[2,5,8] y) { y = MatMul (x, w) }", {"w": (2, 8, 8)}, "3 axes"),
        (
            "g (float[N,8,5,5] x) => (float[N,8,5,5] y) { y = ConvTranspose (x, w) }",
            {"w": (8, 8, 1, 1)},
            "ConvTranspose is not split",
        ),
    ],
)
def test_what_is_left_alone_has_a_reason(text: str, shapes: dict[str, tuple[int, ...]], reason: str) -> None:
    layers, left = find_layers(model(text, **{key: weight(*shape) for key, shape in shapes.items()}), smallest=1)
    assert not layers
    assert len(left) == 1
    assert reason in left[0].reason


def test_a_bias_that_two_nodes_read_is_copied() -> None:
    before = model(
        "g (float[N,8] x) => (float[N,8] y) { a = Gemm (x, w, b) y = Gemm (a, v, b) }",
        w=weight(8, 8), v=weight(8, 8), b=weight(8),
    )  # fmt: skip
    layers, _ = find_layers(before, smallest=1)
    held = before.graph.initializers["b"].const_value
    assert held is not None
    kept = held.numpy().copy()
    made = split(Problem(LayerMoments.plain(layers[0].matrix())), Factorization.MATRIX, (3,))
    write(Editor(before), layers[0], made, [np.zeros(8)])
    np.testing.assert_array_equal(held.numpy(), kept)
    assert next(iter(before.graph)).op_type == "Gemm"


def test_a_bias_that_is_an_output_too_is_copied() -> None:
    before = model("g (float[N,8] x) => (float[N,8] y, float[8] b) { y = Gemm (x, w, b) }", w=weight(8, 8), b=weight(8))
    (layer,), _ = find_layers(before, smallest=1)
    held = before.graph.initializers["b"].const_value
    assert held is not None
    kept = held.numpy().copy()
    write(
        Editor(before),
        layer,
        split(Problem(LayerMoments.plain(layer.matrix())), Factorization.MATRIX, (3,)),
        [np.ones(8)],
    )
    given = Session.of(before).run({"x": np.zeros((2, 8), np.float32)})
    np.testing.assert_array_equal(given["b"], kept)
    np.testing.assert_array_equal(given["y"], np.ones((2, 8)))


def test_quantized_weights_are_left_alone() -> None:
    before = model(
        "g (float[N,8] x) => (float[N,8] y) <float s = {0.1}> { d = DequantizeLinear (w, s) y = MatMul (x, d) }",
        w=np.ones((8, 8), np.int8),
    )
    layers, left = find_layers(before, smallest=1)
    assert not layers
    assert [note.reason for note in left] == ["its weight is quantized"]


def test_what_is_counted_is_what_is_written() -> None:
    before = model(
        "g (float[N,32,9,9] x) => (float[N,48,P,Q] y) { y = Conv <strides=[2,2], pads=[1,1,1,1]> (x, w) }",
        w=weight(48, 32, 3, 3),
    )
    (layer,), _ = find_layers(before)
    extent = Positions(81, 25, 5 * 9)
    for form in forms(layer):
        ranks = {Factorization.TUCKER: (16, 16), Factorization.SPATIAL: (16,), Factorization.SEPARABLE: (2,)}[form]
        written = sum(int(np.prod(part.shape)) for part in parts(layer, form, ranks))
        parameters, share = cost(layer, form, ranks, extent)
        assert parameters == written
        one = timed(layer, (1, 32, 9, 9), form, ranks, {"": 17})
        assert one is not None
        made, feeds = one.model()
        infer_shapes(made)
        work = share * layer.parameters * extent.outputs
        assert measure_cost(made).macs == round(work)
        (result,) = Session.of(made).run(feeds).values()
        assert result.shape == (1, 48, 5, 5)


@pytest.mark.parametrize("form", [Factorization.MATRIX, Factorization.PIVOT])
@pytest.mark.parametrize("text", ["MatMul (x, w)", "Gemm (x, w)", "MatMul (v, x)"])
def test_what_is_counted_of_matrices_is_what_is_written(form: Factorization, text: str) -> None:
    before = model(
        f"g (float[64,64] x) => (float[64,64] y) {{ y = {text} }}", **{"v" if "v" in text else "w": weight(64, 64)}
    )
    (layer,), _ = find_layers(before, smallest=1)
    assert form in forms(layer)
    written = sum(int(np.prod(part.shape)) for part in parts(layer, form, (16,)))
    parameters, _ = cost(layer, form, (16,), Positions(1, 1, 1))
    assert parameters == written == 16 * (128 - 16 * (form is Factorization.PIVOT))
    one = timed(layer, (64, 64), form, (16,), {"": 17})
    assert one is not None
    made, feeds = one.model()
    (result,) = Session.of(made).run(feeds).values()
    assert result.shape == (64, 64)
    assert one.key() != timed(layer, (64, 64), form, (32,), {"": 17}).key()  # type: ignore[union-attr]


def test_half_precision_has_no_pivoted_form() -> None:
    text = "g (float16[N,5,8] x) => (float16[N,5,12] y) { y = MatMul (x, w) }"
    (layer,), _ = find_layers(model(text, w=weight(8, 12, dtype="float16")), smallest=1)
    assert forms(layer) == (Factorization.MATRIX,)
