"""Drawn weights keep the size of what goes through a network, and normalizations begin as those of a new one."""

from __future__ import annotations

import numpy as np
from distilled_models import normalized_network
from sample_models import from_text

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.model.edit import overwrite
from onnxslim.runtime.session import Session
from onnxslim.train.initialization import drawn_weights

DEPTH, WIDTH = 12, 256


def test_values_stay_as_large_through_many_layers_with_a_rectifier_and_without() -> None:
    for op in ("Relu", "Identity"):
        body = "".join(f"a{i} = MatMul (r{i}, w{i})  r{i + 1} = {op} (a{i}) " for i in range(DEPTH))
        header = f'<ir_version: 8, opset_import: ["" : 18]> g (float[N,{WIDTH}] r0) => (float[N,{WIDTH}] r{DEPTH})'
        text = f"{header} {{{body}}}"
        zeros = {f"w{i}": np.zeros((WIDTH, WIDTH), np.float32) for i in range(DEPTH)}
        model = from_text(text, **zeros)
        infer_shapes(model)
        for name, array in drawn_weights(model.graph, np.random.default_rng(0)).items():
            overwrite(model.graph.initializers[name], array)
        made = Session.of(model).run({"r0": np.random.default_rng(1).standard_normal((64, WIDTH)).astype(np.float32)})
        assert 0.5 < float(np.sqrt(np.mean(made[f"r{DEPTH}"] ** 2))) < 2, op


def test_a_rectifier_is_seen_behind_a_normalization_and_what_ends_has_none() -> None:
    model = normalized_network(width=64)
    infer_shapes(model)
    drawn = drawn_weights(model.graph, np.random.default_rng(0))
    assert set(drawn) == {"w1", "v", "s1", "t1", "m1", "d1"}
    assert np.isclose(drawn["w1"].var() * 27, 2, rtol=0.15)
    assert np.isclose(drawn["v"].var() * 64, 1, rtol=0.25)
    for name, number in {"s1": 1, "t1": 0, "m1": 0, "d1": 1}.items():
        assert (drawn[name] == number).all()
    again = drawn_weights(model.graph, np.random.default_rng(0))
    assert all((again[name] == array).all() for name, array in drawn.items())
