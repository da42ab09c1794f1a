from __future__ import annotations

import numpy as np
from channel_models import CHANNEL_MODELS
from hypothesis import given
from hypothesis import strategies as st
from sample_models import from_text

from onnxslim.analysis.cost import macs_by_value
from onnxslim.runtime.kernels import assign, kernel_milliseconds
from onnxslim.runtime.target import detect_target

MODEL = from_text(
    """
    <ir_version: 10, opset_import: ["": 18]>
    g (float[1, 3, 8, 8] x, float[4, 3, 3, 3] w, float[4] s) => (float[1, 4, 6, 6] y) {
        [conv] c = Conv (x, w)
        [norm] b = BatchNormalization (c, s, s, s, s)
        [relu] r = Relu (b)
        [out] y = Sigmoid (r)
    }
    """
)
MACS = {"c": 1000}


def test_a_fused_kernel_counts_where_the_multiplications_are():
    assert assign(MODEL, {"r_nchwc": 2.0, "out": 0.5, "ReorderInput": 0.25}, MACS) == ({"c": 2.0, "y": 0.5}, 0.25)
    assert assign(MODEL, {"conv_token_3": 2.0, "out_token_7": 0.5}, MACS)[0] == {"c": 2.0, "y": 0.5}
    assert assign(MODEL, {"conv/MatMulAddFusion_2": 1.0}, MACS) == ({"c": 1.0}, 0.0)
    assert assign(MODEL, {"norm": 1.0, "conv": 3.0}, MACS) == ({"b": 1.0, "c": 3.0}, 0.0)


@given(st.dictionaries(st.text() | st.sampled_from(["conv", "r_nchwc", "", "_", "x", "c"]), st.floats(0, 9)))
def test_no_time_is_lost_whatever_kernels_are_called(times: dict[str, float]):
    known, unknown = assign(MODEL, times, MACS)
    assert abs(sum(known.values()) + unknown - sum(times.values())) < 1e-6
    assert known.keys() <= {"c", "b", "r", "y"}


def test_a_real_model_is_timed_where_it_multiplies():
    model = CHANNEL_MODELS["residual"]
    macs = macs_by_value(model, {"x": (2, 3, 8, 8)})
    feeds = {"x": np.ones((2, 3, 8, 8), np.float32)}
    known, unknown = kernel_milliseconds(model, feeds, detect_target("cpu", 1), macs)
    assert macs.keys() <= known.keys()
    assert all(time >= 0 for time in known.values())
    assert unknown >= 0
