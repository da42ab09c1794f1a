"""Rounding of weights: every value is one of the format, and the outputs change less than with the nearest ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peak_memory import peak_bytes

from onnxslim.fit.rounding import _inverse_factors, best_steps, output_error, round_columns


def layer(seed, groups=1, columns=24, outputs=6, mixing=1.0):
    generator = np.random.default_rng(seed)
    mix = np.eye(columns) + mixing * generator.normal(size=(groups, columns, columns)) / np.sqrt(columns)
    inputs = generator.normal(size=(groups, 8 * columns, columns)) @ mix
    moment = inputs.swapaxes(1, 2) @ inputs / inputs.shape[1]
    return generator.normal(size=(groups, columns, outputs)), moment


def grid(weight, most):
    """Return the steps of the levels, what rounds a column to them, and the nearest of all columns."""
    step = np.abs(weight).max(axis=1) / most
    plain = np.clip(np.rint(weight / step[:, None]), -most, most) * step[:, None]
    return step, lambda column, values, others: np.clip(np.rint(values / step), -most, most) * step, plain


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 3]), st.integers(1, 70), st.sampled_from([1, 7, 127]))
def test_values_are_those_of_the_format_and_no_output_gets_worse_than_with_the_nearest(seed, groups, columns, most):
    weight, moment = layer(seed, groups, columns)
    step, nearest, plain = grid(weight, most)
    rounded = round_columns(weight, moment, nearest, plain)
    levels = rounded / step[:, None]
    np.testing.assert_allclose(levels, np.rint(levels), atol=1e-9)
    assert np.abs(levels).max() <= most + 1e-9
    damped = moment + np.einsum("gcc->gc", moment).mean(axis=1)[:, None, None] * 1e-2 * np.eye(columns)
    assert (output_error(weight - rounded, damped) <= output_error(weight - plain, damped) * (1 + 1e-9)).all()


@pytest.mark.parametrize("columns", [24, 130])
def test_correlated_inputs_make_up_for_each_other(columns):
    weight, moment = layer(0, columns=columns, mixing=3.0)
    _, nearest, plain = grid(weight, 7)
    rounded = round_columns(weight, moment, nearest, plain)
    assert output_error(weight - rounded, moment).sum() < output_error(weight - plain, moment).sum() * 0.6


def test_weights_that_the_format_has_stay():
    weight, moment = layer(1, groups=2)
    step, nearest, plain = grid(weight, 7)
    weight = np.clip(np.rint(weight / step[:, None]), -7, 7) * step[:, None]
    np.testing.assert_allclose(round_columns(weight, moment, nearest, plain), weight)


def test_columns_that_are_always_zero_are_rounded_to_the_nearest():
    weight, moment = layer(2)
    moment[:, 3] = moment[:, :, 3] = 0
    _, nearest, plain = grid(weight, 7)
    np.testing.assert_allclose(round_columns(weight, moment, nearest, plain)[:, 3], plain[:, 3], atol=1e-6)


def test_what_a_column_may_be_can_depend_on_the_others():
    """No two neighbours may sum up to more than a limit, whichever of them is rounded first."""
    weight, moment = layer(5, groups=2, columns=130, mixing=3.0)
    step = np.abs(weight).max(axis=1) / 7

    def nearest(column, values, others):
        beside = np.abs(others[:, column ^ 1])
        return np.clip(np.rint(values / step) * step, beside - 8 * step, 8 * step - beside)

    plain = np.clip(np.rint(weight / step[:, None]), -4, 4) * step[:, None]
    rounded = round_columns(weight, moment, nearest, plain) / step[:, None]
    pairs = np.abs(rounded[:, 0::2]) + np.abs(rounded[:, 1::2])
    assert pairs.max() <= 8 + 1e-9
    assert np.abs(rounded).max() > 4
    errors = [
        output_error(weight - levels * step[:, None], moment).sum() for levels in (rounded, plain / step[:, None])
    ]
    assert errors[0] < 0.5 * errors[1]


@pytest.mark.parametrize("seed", range(4))
def test_the_distance_of_levels_is_chosen_by_the_outputs(seed):
    weight, moment = layer(seed, columns=48, mixing=2.0)
    weight[:, 0] *= 6  # one weight would make all other levels coarse
    moment[:, 0] /= 30
    moment[:, :, 0] /= 30  # and is multiplied with little
    first = np.abs(weight).max(axis=1) / 7
    found = best_steps(weight, moment, first, (-8, 7))
    assert found.shape == first.shape
    assert (found < first).mean() > 0.5

    def error(step):
        plain = np.clip(np.rint(weight / step[:, None]), -8, 7) * step[:, None]
        rounded = round_columns(
            weight, moment, lambda _, values, __: np.clip(np.rint(values / step), -8, 7) * step, plain
        )
        return output_error(weight - rounded, moment).sum()

    assert error(found) < 0.8 * error(first)


def test_moments_are_as_they_were_and_there_is_one_copy_of_them():
    """Those of a layer of 4,608 columns are 170 MB: inverting copies of them took 1.3 GB."""
    weight, moment = layer(3, columns=500, outputs=4)
    before = moment.copy()
    _, nearest, plain = grid(weight, 7)
    assert peak_bytes(lambda: round_columns(weight, moment, nearest, plain)) < 1.5 * moment.nbytes
    step = np.abs(weight).max(axis=1) / 7
    assert peak_bytes(lambda: best_steps(weight, moment, step, (-7, 7))) < 0.2 * moment.nbytes
    np.testing.assert_array_equal(moment, before)


def test_the_error_of_a_column_is_passed_on_as_the_inverse_has_it():
    _, moment = layer(4, groups=2, columns=9)
    order = np.random.default_rng(0).permutation(9)
    factors = _inverse_factors(moment, order)
    inverse = np.linalg.inv(moment[:, order[:, None], order])
    np.testing.assert_allclose(factors.swapaxes(1, 2) @ factors, inverse, rtol=1e-8)
    np.testing.assert_array_equal(np.tril(factors, -1), 0)
