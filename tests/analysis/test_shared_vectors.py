"""Vectors that several nodes share by chance are apart while they are cut, and one again where they are still equal."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from channel_models import built

from onnxslim.analysis.shared_vectors import retie_vectors, untie_vectors

TEXT = "g (float[N,4] x) => (float[N,4] y) { a = Add (x, b) c = Mul (a, b) d = Sub (c, b_reader_1) y = Add (d, b) }"


def model() -> ir.Model:
    ones = np.ones(4, np.float32)
    return built(TEXT, b=ones, b_reader_1=ones * 2)


def test_each_reader_has_a_vector_of_its_own_and_no_name_is_taken_twice() -> None:
    """A model that was cut before holds vectors that were named so then."""
    own = model()
    untie_vectors(own)
    names = [value.name for node in own.graph for value in node.inputs[1:]]
    assert len(set(names)) == 4
    assert set(names) == set(own.graph.initializers)


def test_what_is_still_equal_is_one_again() -> None:
    own = model()
    apart = untie_vectors(own)
    second = own.graph.node(1).inputs[1]
    assert second is not None
    second.const_value = ir.tensor(np.arange(4, dtype=np.float32), name=second.name)
    retie_vectors(own, apart)
    first, changed, other, last = [node.inputs[1] for node in own.graph]
    assert first is last
    assert changed is second
    assert other is own.graph.initializers["b_reader_1"]
    assert len(own.graph.initializers) == 3
