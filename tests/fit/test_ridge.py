"""Ridge regression: what it solves, primal and dual, and how it chooses its strength."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim.fit.ridge import DEFAULT, STRENGTHS, RidgeRegression, predict


def pieces(rows: int, width: int, count: int = 8, groups: int = 2) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.normal(size=(groups, rows, width)).astype(np.float32) for _ in range(count)]


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize(("rows", "width"), [(40, 5), (2, 30)])
def test_it_solves_the_equations(rows: int, width: int, intercept: bool) -> None:
    inputs = pieces(rows, width)
    wanted = [each[..., :3] * 2 + 0.5 for each in inputs]
    found = RidgeRegression(inputs, intercept=intercept).solve(wanted, 0.1)
    for group in range(2):
        x = np.concatenate([each[group] for each in inputs]).astype(np.float64)
        y = np.concatenate([each[group] for each in wanted]).astype(np.float64)
        middle, target = (x.mean(0), y.mean(0)) if intercept else (np.zeros(width), np.zeros(3))
        x, y = x - middle, y - target
        gram = x.T @ x
        expected = np.linalg.solve(gram + 0.1 * np.trace(gram) / width * np.eye(width), x.T @ y)
        np.testing.assert_allclose(found.weights[group], expected, atol=1e-4)
        np.testing.assert_allclose(found.bias[group], target - middle @ expected, atol=1e-4)
        assert intercept == bool(found.bias[group].any())


@pytest.mark.parametrize(("rows", "width"), [(40, 5), (2, 30)])
def test_strength_is_what_serves_the_rows_set_aside(rows: int, width: int) -> None:
    inputs = pieces(rows, width)
    generator = np.random.default_rng(3)
    wanted = [each[..., :3] + generator.normal(size=(2, each.shape[1], 3)).astype(np.float32) for each in inputs]
    chosen = RidgeRegression(inputs, intercept=True).strength(wanted)
    taught = [at for at in range(8) if at % 4 != 3]
    others = RidgeRegression([inputs[at] for at in taught], intercept=True)
    # None of the eighth piece is set aside there: its own split does not matter for `solve`.
    errors = {}
    for strength in STRENGTHS:
        change = others.solve([wanted[at] for at in taught], strength)
        errors[strength] = sum(float(((wanted[at] - predict(inputs[at], change)) ** 2).sum()) for at in (3, 7))
    nothing = sum(float((wanted[at] ** 2).sum()) for at in (3, 7))
    best = min(errors, key=errors.__getitem__)
    assert chosen == (best if errors[best] < nothing else np.inf)


def test_noise_is_not_learnt_and_few_pieces_take_the_default() -> None:
    inputs = pieces(4, 30)
    generator = np.random.default_rng(4)
    noise = [generator.normal(size=(2, 4, 3)).astype(np.float32) for _ in inputs]
    assert RidgeRegression(inputs, intercept=True).strength(noise) >= STRENGTHS[-1]
    assert RidgeRegression(inputs[:2], intercept=True).strength(noise[:2]) == DEFAULT


def test_rows_far_from_zero_are_told_apart() -> None:
    inputs = [(1000 + 0.05 * each).astype(np.float32) for each in pieces(40, 5)]
    wanted = [(each - 1000)[..., :3] * 2 for each in inputs]
    found = RidgeRegression(inputs, intercept=True).solve(wanted, 1e-4)
    np.testing.assert_allclose(found.weights, np.broadcast_to(2 * np.eye(5, 3), (2, 5, 3)), atol=1e-2)
