"""Factors on channels that stored numbers make up for: the outputs stay, and what is not homogeneous stops them."""

from __future__ import annotations

import channel_models
import numpy as np
import onnx_ir as ir
import pytest
from channel_models import built, weight
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo import zoo_file

from onnxslim.analysis.rescaling import Rescaling, rescaling
from onnxslim.analysis.shapes import infer_shapes
from onnxslim.analysis.shared_vectors import untie_vectors
from onnxslim.arrays import Array
from onnxslim.model import canonicalize, open_model
from onnxslim.runtime.session import Session

EXACT = 2e-5
"""Of the largest output: single precision, and factors of up to e**2."""


def free(model: ir.Model) -> dict[str, int]:
    """Return for each value how many of its places may be scaled, along all its axes."""
    found = rescaling(model)
    values = [value for node in model.graph for value in node.outputs]
    pairs = [(str(value.name), found.channels(value)) for value in values]
    return {name: int(found.free[own[1]].sum()) for name, own in pairs if own is not None}


def scale(model: ir.Model, seed: int) -> tuple[ir.Model, Rescaling]:
    """Return a copy whose channels have random factors."""
    copy = model.clone()
    untie_vectors(copy)
    found = rescaling(copy)
    found.apply(np.exp(np.random.default_rng(seed).uniform(-2, 2, found.coupling.labels.count)))
    return copy, found


def feeds_of(session: Session, seed: int) -> dict[str, Array]:
    generator = np.random.default_rng(seed)
    shapes = {spec.name: [size if isinstance(size, int) else 2 for size in spec.shape or ()] for spec in session.inputs}
    return {
        spec.name: generator.normal(size=shapes[spec.name]).astype(spec.dtype)
        if np.dtype(spec.dtype).kind == "f"
        else np.ones(shapes[spec.name], spec.dtype)
        for spec in session.inputs
    }


def assert_outputs_stay(model: ir.Model, scaled: ir.Model) -> None:
    before, after = (Session.of(either, optimize=False) for either in (model, scaled))
    feeds = feeds_of(before, 0)
    expected, got = before.run(feeds), after.run(feeds)
    for name, array in expected.items():
        np.testing.assert_allclose(got[name], array, rtol=0, atol=EXACT * max(float(np.abs(array).max()), 1e-6))


def changed(model: ir.Model, scaled: ir.Model) -> set[str]:
    pairs = [(name, value, scaled.graph.initializers[name]) for name, value in model.graph.initializers.items()]
    return {
        name
        for name, before, after in pairs
        if before.const_value is not None
        and after.const_value is not None
        and not np.array_equal(before.const_value.numpy(), after.const_value.numpy())
    }


MODELS = {name: value for name, value in vars(channel_models).items() if isinstance(value, ir.Model)}


@pytest.mark.parametrize("name", sorted(MODELS))
def test_outputs_stay_however_channels_are_coupled(name: str) -> None:
    scaled, _ = scale(MODELS[name], seed=1)
    assert_outputs_stay(MODELS[name], scaled)


def test_a_residual_stream_has_one_factor_for_each_channel() -> None:
    model = built(
        """g (float[N,3,8,8] x) => (float[N,5] y) {
            a = Conv <pads=[1,1,1,1]> (x, w1, b1)  r = Relu (a)
            c = Conv <pads=[1,1,1,1]> (r, w2, b2)  d = Add (c, r)  q = Relu (d)
            p = GlobalAveragePool (q)  f = Flatten (p)  y = Gemm <transB=1> (f, w3, b3) }""",
        w1=weight(6, 3, 3, 3), b1=weight(6), w2=weight(6, 6, 3, 3), b2=weight(6), w3=weight(5, 6), b3=weight(5),
    )  # fmt: skip
    assert len(rescaling(model).roots) == 6
    scaled, found = scale(model, seed=0)
    assert changed(model, scaled) == {"w1", "b1", "w2", "b2", "w3"}
    assert [value.name for value, _ in found.rectified()] == ["r", "q"]
    assert_outputs_stay(model, scaled)


def test_channels_of_a_depthwise_convolution_have_factors_in_front_of_it_and_behind_it() -> None:
    model = built(
        """g (float[N,3,8,8] x) => (float[N,5,8,8] y) {
            a = Conv (x, w1)  r = Relu (a)  d = Conv <group=6, pads=[1,1,1,1]> (r, w2)  q = Relu (d)
            y = Conv (q, w3) }""",
        w1=weight(6, 3, 1, 1), w2=weight(6, 1, 3, 3), w3=weight(5, 6, 1, 1),
    )  # fmt: skip
    assert len(rescaling(model).roots) == 12
    assert_outputs_stay(model, scale(model, seed=0)[0])


@pytest.mark.parametrize(
    ("step", "count"),
    [
        ("b = LeakyRelu <alpha=0.1> (a)", 6),
        ("b = PRelu (a, slope)", 6),
        ("b = Mul (a, vector)", 12),
        ("b = Mul (vector, a)", 12),
        ("b = Mul (a, six)", 6),
        ("b = Add (a, vector)", 6),
        ("b = Max (a, vector)", 6),
        ("b = Resize <mode=\"nearest\"> (a, , sizes)", 6),
        ("b = Abs (a)", 6),
        # Not homogeneous, or only with one factor for all channels:
        ("b = Clip (a, zero, six)", 0),
        ("b = Sigmoid (a)", 0),
        ("b = Add (a, six)", 0),
        ("b = Div (vector, a)", 0),
        ("b = Softmax <axis=1> (a)", 0),
        ("b = Pad (a, border, six)", 0),
        ("b = Mul (a, a)", 0),
    ],
)  # fmt: skip
def test_a_factor_passes_through_what_is_homogeneous_and_nothing_else(step: str, count: int) -> None:
    given = {
        "w1": weight(6, 3, 1, 1), "b1": weight(6), "w2": weight(5, 6, 1, 1), "zero": np.float32(0),
        "six": np.float32(0.6), "slope": weight(6, 1, 1), "vector": weight(6, 1, 1),
        "sizes": np.array([1, 1, 2, 2], np.float32), "border": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    }  # fmt: skip
    text = f"""g (float[2,3,8,8] x) => (float[2,5,H,W] y) {{
        a = Conv (x, w1, b1)  {step}  y = Conv (b, w2) }}"""
    model = built(text, **{name: array for name, array in given.items() if name in text})
    assert len(rescaling(model).roots) == count
    assert_outputs_stay(model, scale(model, seed=0)[0])


def test_a_gate_is_not_scaled_and_what_it_multiplies_is() -> None:
    model = MODELS["GROUPED"]
    scaled, _ = scale(model, seed=0)
    assert free(model)["d"] == free(model)["j"] == 12
    assert "h" not in free(model)
    # What the gate is made of is scaled back by the weight that reads it.
    assert changed(model, scaled) == {"w1", "w2", "w3", "w4", "w5"}


def test_what_is_joined_keeps_its_own_factors_and_stored_parts_take_part() -> None:
    model = built(
        """g (float[2,3,8,8] x) => (float[2,5,8,8] y) {
            a = Conv (x, w1)  b = Conv (x, w2)  c = Concat <axis=1> (a, s, b)  y = Conv (c, w3) }""",
        w1=weight(4, 3, 1, 1), w2=weight(2, 3, 1, 1), s=weight(2, 3, 8, 8), w3=weight(5, 9, 1, 1),
    )  # fmt: skip
    assert len(rescaling(model).roots) == 9
    scaled, _ = scale(model, seed=0)
    assert changed(model, scaled) == {"w1", "w2", "s", "w3"}
    assert_outputs_stay(model, scaled)


@pytest.mark.parametrize(
    ("norm", "touched"),
    [
        ("n = LayerNormalization <axis=-1> (a, s, b)", {"s", "b", "w2", "w3"}),
        ("n = LayerNormalization <axis=-1> (a, s)", {"s", "w2", "w3"}),
        ("n = RMSNormalization <axis=-1> (a, s)", {"s", "w2", "w3"}),
    ],
)
def test_a_normalisation_brings_factors_in_and_lets_none_through(norm: str, touched: set[str]) -> None:
    text = f"""g (float[N,7,8] x) => (float[N,7,5] y, float[N,7,5] z) {{
        a = MatMul (x, w1)  {norm}  y = MatMul (n, w2)  z = MatMul (n, w3) }}"""
    given = {"w1": weight(8, 6), "s": weight(6), "b": weight(6), "w2": weight(6, 5), "w3": weight(6, 5)}
    model = built(text, **{name: array for name, array in given.items() if name != "b" or "b)" in norm})
    if "RMS" in norm:
        model.graph.opset_imports[""] = 23
    infer_shapes(model)
    scaled, _ = scale(model, seed=0)
    assert changed(model, scaled) == touched
    assert_outputs_stay(model, scaled)


def test_what_is_read_elsewhere_as_well_stays() -> None:
    model = built(
        """g (float[N,3,8,8] x) => (float[N,6,8,8] a, float[N,5,8,8] y, float[N,6,8,8] z) {
            a = Conv (x, w1)  b = Conv (x, w1)  c = Conv (b, w2)  t = Tanh (c)  y = Conv (c, w3)
            d = Conv (x, w4)  z = Add (d, a) }""",
        w1=weight(6, 3, 1, 1), w2=weight(6, 6, 1, 1), w3=weight(5, 6, 1, 1), w4=weight(6, 3, 1, 1),
    )  # fmt: skip
    assert not free(model)


def test_values_that_are_fixed_keep_their_numbers() -> None:
    model = built(
        """g (float[N,3,8,8] x) => (float[N,5,8,8] y) { a = Mul (x, v)  b = Relu (a)  y = Conv (b, w) }""",
        v=weight(3, 1, 1), w=weight(5, 3, 1, 1),
    )  # fmt: skip
    assert len(rescaling(model).roots) == 3
    assert not len(rescaling(model, {"b"}).roots)


def test_a_nested_graph_that_reads_a_value_stops_its_factors() -> None:
    model = built(
        """g (float[N,3,8,8] x, bool k) => (float[N,5,8,8] y, float[N,6,8,8] z) {
            a = Conv (x, w1)  y = Conv (a, w2)
            z = If (k) <then_branch = t () => (float[N,6,8,8] u) { u = Relu (a) },
                        else_branch = e () => (float[N,6,8,8] v) { v = Neg (a) }> }""",
        w1=weight(6, 3, 1, 1), w2=weight(5, 6, 1, 1),
    )  # fmt: skip
    assert not free(model)


STEPS = (
    "Relu ({a})",
    "LeakyRelu <alpha=0.3> ({a})",
    "Conv <pads=[1,1,1,1]> ({a}, w{n}, b{n})",
    "Conv <group=4, pads=[1,1,1,1]> ({a}, g{n})",
    "Conv <group=2> ({a}, h{n}, b{n})",
    "Add ({a}, {b})",
    "Sub ({a}, {b})",
    "Max ({a}, {b})",
    "Mul ({a}, v{n})",
    "Add ({a}, v{n})",
    "Clip ({a}, low, high)",
    "Sigmoid ({a})",
    "Mul ({a}, {b})",
    "MaxPool <kernel_shape=[3,3], pads=[1,1,1,1]> ({a})",
    "AveragePool <kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1> ({a})",
    "Concat <axis=1> ({a}1, {b}0)",
    "Transpose <perm=[0,1,3,2]> ({a})",
    "InstanceNormalization ({a}, s{n}, b{n})",
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 3)), min_size=2, max_size=9), st.integers(0, 9))
def test_outputs_of_drawn_nets_stay(steps: list[tuple[str, int]], seed: int) -> None:
    generator = np.random.default_rng(seed)
    lines, weights = ["t0 = Conv (x, w, b)"], {"w": weight(4, 3, 1, 1), "b": weight(4), "u": weight(2, 4, 1, 1)}
    for number, (step, back) in enumerate(steps, start=1):
        former, earlier = f"t{number - 1}", f"t{max(number - 1 - back, 0)}"
        if "Concat" in step:
            lines += [f"{former}0, {former}1 = Split <axis=1, num_outputs=2> ({former})"]
            lines += [f"e{number}0, e{number}1 = Split <axis=1, num_outputs=2> ({earlier})"]
            earlier = f"e{number}"
        lines.append(f"t{number} = " + step.format(a=former, b=earlier, n=number))
        shapes = {"w": (4, 4, 3, 3), "b": (4,), "g": (4, 1, 3, 3), "h": (4, 2, 1, 1), "v": (4, 1, 1), "s": (4,)}
        for letter, shape in shapes.items():
            if f", {letter}{number}" in lines[-1]:
                weights[f"{letter}{number}"] = generator.normal(size=shape).astype(np.float32)
    if any("low" in line for line in lines):
        weights |= {"low": np.float32(-0.5), "high": np.float32(0.7)}
    lines.append(f"y = Conv (t{len(steps)}, u)")
    model = built("g (float[2,3,5,5] x) => (float[2,2,5,5] y) {\n" + "\n".join(lines) + "\n}", **weights)
    assert_outputs_stay(model, scale(model, seed)[0])


@pytest.mark.parametrize("name", ["onnx/cifar10_resnet20.onnx", "fashion/resnet18.onnx"])
def test_outputs_of_real_models_stay(name: str) -> None:
    model = open_model(zoo_file(*name.split("/")))
    canonicalize(model)
    infer_shapes(model)
    scaled, found = scale(model, seed=0)
    assert len(found.roots) > 200
    assert_outputs_stay(model, scaled)
