"""The importance of channels: shares of weights, and of what readers make of their inputs."""

from __future__ import annotations

import numpy as np
import pytest
from channel_models import built
from onnxslim.passes.prune.criterion import activation_scores, shuffled, weight_scores

from onnxslim.analysis.contraction import contractions
from onnxslim.analysis.coupling import couple, groups
from onnxslim.data import open_samples
from onnxslim.observe.statistics import channel_moments
from onnxslim.runtime.session import Session

MODEL = built(
    "g (float[N,2] x) => (float[N,1] y) { a = MatMul (x, w1) b = Relu (a) y = MatMul (b, w2) }",
    w1=np.array([[1, 2, 0], [1, 0, 4]], np.float32),
    w2=np.array([[3], [1], [0]], np.float32),
)
DATA = np.array([[1, 1], [2, 0], [0, 1], [1, 0]], np.float32)


def test_a_weight_is_shared_out_among_its_channels() -> None:
    coupling = couple(MODEL)
    (group,) = groups(coupling)
    read = list(contractions(MODEL.graph))
    squares = weight_scores(coupling, read)[group.roots]
    np.testing.assert_allclose(squares, [2 / 22 + 9 / 10, 4 / 22 + 1 / 10, 16 / 22])


@pytest.mark.parametrize("compensated", [True, False])
def test_readers_share_out_the_energy_of_their_inputs(compensated: bool) -> None:
    coupling = couple(MODEL)
    (group,) = groups(coupling)
    read = list(contractions(MODEL.graph))
    samples = open_samples({"x": DATA}, Session.of(MODEL).inputs)
    moments = channel_moments(MODEL, [(each.data.name, each.data_axis) for each in read], samples, Session.of)
    scores = activation_scores(coupling, read, moments, compensated=compensated)[group.roots]
    hidden = np.maximum(DATA @ MODEL.graph.initializers["w1"].const_value.numpy(), 0)
    energy = (hidden.var(0) if compensated else (hidden**2).mean(0)) * np.array([9, 1, 0])
    np.testing.assert_allclose(scores, energy / energy.sum(), rtol=1e-5)


def test_chance_moves_scores_within_groups_alone() -> None:
    coupling = couple(MODEL)
    found = groups(coupling)
    scores = np.arange(coupling.labels.count, dtype=np.float64)
    other = shuffled(found, scores, np.random.default_rng(1))
    assert sorted(other[found[0].roots]) == sorted(scores[found[0].roots])
    outside = np.setdiff1d(np.arange(len(scores)), found[0].roots)
    assert (other[outside] == scores[outside]).all()
