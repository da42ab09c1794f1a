"""Optimisers take the steps that their papers write down, computed by numpy in float64."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from train_models import WEIGHTS, compiled, mlp, samples, weights_of

from onnxslim.arrays import Array
from onnxslim.runtime.resident import ResidentState
from onnxslim.train.batches import in_order
from onnxslim.train.optimizer import Optimizer, OptimizerKind

RATE, STEPS = 0.01, 5


def followed(optimizer: Optimizer, gradients: list[dict[str, Array]], weights: dict[str, Array]) -> dict[str, Array]:
    """Return weights after the updates of the papers, given the gradient of each step."""
    weights = {name: array.astype(np.float64) for name, array in weights.items()}
    first = {name: np.zeros_like(array) for name, array in weights.items()}
    second = {name: np.zeros_like(array) for name, array in weights.items()}
    for t, found in enumerate(gradients, 1):
        norm = np.sqrt(sum(float((g.astype(np.float64) ** 2).sum()) for g in found.values()))
        factor = 1.0 if optimizer.clip is None else min(1.0, optimizer.clip / norm)
        for name, raw in found.items():
            gradient, decay = factor * raw.astype(np.float64), optimizer.weight_decay if raw.ndim > 1 else 0.0
            if optimizer.kind is OptimizerKind.SGD:
                first[name] = optimizer.momentum * first[name] + gradient + decay * weights[name]
                weights[name] = weights[name] - RATE * first[name]
                continue
            if optimizer.kind is OptimizerKind.ADAM:
                gradient = gradient + decay * weights[name]
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            change = first[name] / (1 - 0.9**t) / (np.sqrt(second[name] / (1 - 0.999**t)) + 1e-8)
            if optimizer.kind is OptimizerKind.ADAMW:
                change = change + decay * weights[name]
            weights[name] = weights[name] - RATE * change
    return weights


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("kind", OptimizerKind)
def test_a_step_is_that_of_the_paper(kind: OptimizerKind, decay: float, clip: float | None) -> None:
    optimizer = Optimizer(kind, weight_decay=decay, clip=clip)
    plain = dataclasses.replace(optimizer, kind=OptimizerKind.SGD, momentum=0.0, weight_decay=0.0, clip=None)
    given = samples(16 * STEPS)
    step, by_one = (compiled(mlp(1), mlp(0), 16, given.count, how) for how in (optimizer, plain))
    weights = weights_of(mlp(1))
    state = ResidentState(step.session, {**weights, **step.step.start()}, step.step.successors)
    gradients = []
    for number, batch in enumerate(in_order(given, 16)):
        now = state.read(WEIGHTS)
        gradient = ResidentState(by_one.session, now, by_one.step.successors)  # a step of rate 1 is the gradient
        gradient.run(by_one.feeds(batch, plain.values(0, 1.0)), by_one.step.losses)
        gradients.append({name: now[name] - array for name, array in gradient.read(WEIGHTS).items()})
        state.run(step.feeds(batch, optimizer.values(number, RATE)), step.step.losses)
    for name, array in followed(optimizer, gradients, weights).items():
        np.testing.assert_allclose(state.read([name])[name], array, rtol=1e-3, atol=2e-4, err_msg=name)
