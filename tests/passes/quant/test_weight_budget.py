"""A budget of bytes for weights alone: those that lose most get more bits."""

from __future__ import annotations

import numpy as np
import pytest
from onnxslim.passes.quant import Quant
from onnxslim.passes.quant.scales import Activations
from onnxslim.passes.quant.weight_only.grids import WeightType
from onnxslim.passes.quant.weight_only.writing import WeightFormat
from sample_models import from_text
from story import make_context

from onnxslim.model import weight_bytes

TEXT = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,64] x) => (float[N,32] y) {
    a = MatMul (x, u)  r = Relu (a)  b = MatMul (r, v)  y = MatMul (b, w) }"""


def stored(**options):
    """Return the bits of three weights, the bytes as a share of those before, and what could not be kept."""
    generator = np.random.default_rng(0)
    shapes = {"u": (64, 64), "v": (64, 64), "w": (64, 32)}
    model = from_text(TEXT, **{name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()})
    before = weight_bytes(model)
    given = {"activations": Activations.FLOAT, "weights": WeightType.INT4, "format": WeightFormat.NBITS, **options}
    feeds = {"x": generator.normal(size=(64, 64)).astype(np.float32)}
    change = Quant(**given).run(model, make_context(model, feeds))
    missed = [note.reason for note in change.notes if note.code == "budget-missed"]
    return [layer.after for layer in change.layers], weight_bytes(model) / before, missed


@pytest.mark.parametrize(("size", "eight"), [(0.99, 3), (0.24, 2), (0.2, 1), (0.165, 0)])
def test_as_many_weights_get_eight_bits_as_there_is_room_for(size, eight):
    bits, share, missed = stored(size=size)
    assert bits.count(8) == eight
    assert share <= size
    assert not missed


def test_what_cannot_be_kept_is_told():
    bits, share, missed = stored(size=0.1)
    assert bits == [4, 4, 4]
    assert share > 0.1
    assert missed == ["size=0.1 is not to be had"]


def test_the_error_goes_before_the_bytes():
    bits, _, missed = stored(size=0.16, error=1e-6)
    assert bits == [8, 8, 8]
    assert missed == ["size=0.16 is not to be had"]


def test_of_eight_bits_weights_stay_float():
    bits, share, _ = stored(weights=WeightType.INT8, size=0.6)
    assert len(bits) == 2
    assert share <= 0.6
