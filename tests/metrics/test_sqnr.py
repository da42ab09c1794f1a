"""SQNR: what is judged by where no task is recognised."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from evidences import evidence_of
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from onnxslim.extensions import Group, extension_names
from onnxslim.metrics.sqnr import Sqnr
from onnxslim.quality.choosing import recognise
from onnxslim.quality.discovery import find_metric
from onnxslim.quality.evidence import Evidence
from onnxslim.quality.metric import Recognition

ANY = st.one_of(
    arrays.arrays(
        st.sampled_from([np.float16, np.float32, np.float64, np.int64, np.uint8, np.bool_]),
        arrays.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4),
    ),
    st.just(np.array(["a", "b"], object)),
    st.lists(st.dictionaries(st.integers(), st.floats()), max_size=3),
    st.just([np.zeros((2, 2), np.float32)]),
)


def test_the_worst_output_decides() -> None:
    found = Sqnr.recognise(evidence_of({"a": np.ones((1, 4), np.float32), "b": np.ones((1, 4), np.float32)}))
    before = {name: np.ones((2, 4), np.float32) for name in "ab"}
    after = {"a": before["a"] * np.float32(1.01), "b": before["b"] * np.float32(0.9)}
    assert found.metric.loss(found.metric.rows(before, after, None, 2)) == pytest.approx(0.1, rel=1e-5)
    assert found.metric.loss(found.metric.rows(before, before, None, 2)) == 0.0


def test_what_is_no_float_counts_by_its_elements() -> None:
    metric = Sqnr(("n", "y"), frozenset({"n"}))
    before = {"n": np.array([[1, 2], [3, 4]]), "y": np.ones((2, 1), np.float32)}
    after = {"n": np.array([[1, 2], [3, 5]]), "y": before["y"]}
    assert metric.loss(metric.rows(before, after, None, 2)) == 0.25


@pytest.mark.parametrize("broken", [np.full((2, 4), np.nan), np.zeros((2, 3)), np.zeros((2, 4), np.int64)])
def test_what_is_broken_is_lost(broken: np.ndarray) -> None:
    metric = Sqnr(("a",))
    after = broken if broken.dtype.kind == "i" else broken.astype(np.float32)
    assert metric.loss(metric.rows({"a": np.ones((2, 4), np.float32)}, {"a": after}, None, 2)) == 1.0
    assert metric.loss(metric.rows({"a": np.zeros((2, 4), np.float32)}, {"a": after}, None, 2)) == 1.0


NAMES = ("boxes", "scores", "labels", "num_dets", "logits", "mask", "embedding", "depth", "y", "output0", "pred_boxes")
OPS = ("Softmax", "Sigmoid", "ArgMax", "LayerNormalization", "LSTM", "Conv", "Gemm", "TreeEnsemble")
INPUTS = (
    {"x": np.zeros((1, 3, 16, 16), np.float32)},
    {"ids": np.zeros((1, 6), np.int64)},
    {"x": np.zeros((1, 40), np.float32)},
)
SHAPED = st.builds(
    lambda shape, scale, kind, seed: (np.random.default_rng(seed).random(shape) * scale).astype(kind),
    st.sampled_from([(1, 7, 21), (1, 21, 7), (1, 21, 4), (21, 4), (1, 21), (21,), (1, 1), (1, 5, 16, 16), (0, 4)]),
    st.sampled_from([1.0, 100.0, -3.0, np.nan, np.inf, 0.0]),
    st.sampled_from([np.float32, np.float64]),
    st.integers(0, 9),
)


@settings(deadline=None, max_examples=150)
@given(
    st.dictionaries(st.sampled_from(NAMES), SHAPED, min_size=1, max_size=4),
    st.lists(st.sampled_from(OPS), max_size=2),
    st.sampled_from(INPUTS),
)
def test_whatever_a_model_is_like_its_outputs_lose_nothing_to_themselves_and_all_where_they_are_nan(
    outputs, ops: list[str], inputs
) -> None:
    evidence = evidence_of(outputs, inputs, ops=dict.fromkeys(outputs, ops))
    for found in (recognise(evidence), *named(evidence)):
        rows = found.metric.gather(found.metric.rows(outputs, outputs, None, 1))
        assert found.metric.loss(rows) == pytest.approx(0.0, abs=1e-6), found
        broken = {name: np.full_like(value, np.nan) for name, value in outputs.items()}
        lost = found.metric.loss(found.metric.gather(found.metric.rows(outputs, broken, None, 1)))
        if all(value.size and np.isfinite(value).all() and value.any() for value in outputs.values()):
            assert lost == 0.0 or lost > 0.3, found
        assert np.isfinite(lost)


def named(evidence: Evidence) -> list[Recognition]:
    told = dataclasses.replace(evidence, named=True)
    metrics = [find_metric(name) for name in extension_names(Group.METRICS)]
    return [found for metric in metrics if (found := metric.recognise(told)) is not None]


@settings(deadline=None, max_examples=300)  # the first example imports every metric
@given(st.dictionaries(st.text(max_size=5), ANY, max_size=3), st.booleans())
def test_whatever_the_outputs_are_some_metric_fits_and_the_same_outputs_lose_nothing(outputs, synthetic: bool) -> None:
    found = recognise(evidence_of(outputs, synthetic=synthetic))
    assert found.reason
    rows = found.metric.rows(outputs, outputs, None, 1)
    assert found.metric.loss(rows) == 0.0
    assert all(figure.before == figure.before for figure in found.metric.figures(rows).values())
