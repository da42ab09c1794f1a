"""The closed forms: exact at full rank, best at any other, and better than plain SVD on what was seen."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxslim.passes.lowrank.factors import Factorization, LayerMoments, Problem, Split, split

FULL = {
    Factorization.MATRIX: lambda inputs, kernel, outputs: (min(inputs * math.prod(kernel), outputs),),
    Factorization.PIVOT: lambda inputs, kernel, outputs: (min(inputs * math.prod(kernel), outputs),),
    Factorization.TUCKER: lambda inputs, kernel, outputs: (inputs, outputs - 1),
    Factorization.SPATIAL: lambda inputs, kernel, outputs: (inputs * kernel[0],),
    Factorization.SEPARABLE: lambda inputs, kernel, outputs: (math.prod(kernel),),
}


def problem(seed: int, inputs: int, kernel: tuple[int, ...], outputs: int, *, exact: bool = True) -> Problem:
    """Return a layer on inputs that are correlated; not `exact`: it gets other inputs than it was made for."""
    generator = np.random.default_rng(seed)
    columns = inputs * math.prod(kernel)
    weight = generator.normal(size=(columns, outputs))
    data = generator.normal(size=(40 * columns, columns)) @ np.diag(0.8 ** np.arange(columns))
    data = data @ generator.normal(size=(columns, columns))
    wanted = data @ weight
    got = data if exact else data + 0.3 * data.std() * generator.normal(size=data.shape)
    count = len(data)
    moments = LayerMoments(got.T @ got / count, got.T @ wanted / count, float((wanted**2).sum()) / count)
    return Problem(moments.damped(weight, 1e-9), kernel)


def plain(of: Problem, weight: np.ndarray, form: Factorization, ranks: tuple[int, ...]) -> np.ndarray:
    return split(Problem(LayerMoments.plain(weight), of.kernel), form, ranks).dense


@pytest.mark.parametrize(
    ("form", "inputs", "kernel", "outputs"),
    [
        (Factorization.MATRIX, 6, (), 9),
        (Factorization.MATRIX, 9, (), 6),
        (Factorization.MATRIX, 5, (3, 3), 4),
        (Factorization.PIVOT, 6, (), 9),
        (Factorization.PIVOT, 9, (), 6),
        (Factorization.SPATIAL, 4, (3, 2), 5),
        (Factorization.SEPARABLE, 3, (3, 3), 7),
        (Factorization.SEPARABLE, 3, (5,), 4),
    ],
)
def test_full_rank_is_exact(form: Factorization, inputs: int, kernel: tuple[int, ...], outputs: int) -> None:
    of = problem(0, inputs, kernel, outputs)
    made = split(of, form, FULL[form](inputs, kernel, outputs))
    assert of.moments.loss(made.dense) < 1e-8
    np.testing.assert_allclose(made.dense, of.best, atol=1e-5 * np.abs(of.best).max())


@pytest.mark.parametrize("ranks", [(4, 5), (3, 6), (4, 6), (3, 5)])
def test_tucker_loses_only_what_its_ranks_cannot_hold(ranks: tuple[int, int]) -> None:
    """A weight that has those ranks is split without loss."""
    generator = np.random.default_rng(1)
    few, narrow = ranks
    core = generator.normal(size=(few, 9, narrow))
    weight = np.einsum(
        "ir,rto,om->itm", generator.normal(size=(4, few)), core, generator.normal(size=(narrow, 6))
    ).reshape(36, 6)
    gram = problem(2, 4, (3, 3), 6).moments.gram
    moments = LayerMoments(gram, gram @ weight, float(np.vdot(weight, gram @ weight)))
    made = split(Problem(moments, (3, 3)), Factorization.TUCKER, ranks)
    assert moments.loss(made.dense) < 1e-8
    assert len(made.factors) == 1 + (few < 4) + (narrow < 6)


@given(
    seed=st.integers(0, 1000),
    inputs=st.integers(2, 12),
    outputs=st.integers(2, 12),
    rank=st.integers(1, 11),
    exact=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_whitened_never_loses_more_than_plain_on_what_was_seen(
    seed: int, inputs: int, outputs: int, rank: int, exact: bool
) -> None:
    of = problem(seed, inputs, (), outputs, exact=exact)
    weight = np.linalg.solve(of.moments.gram, of.moments.cross) if exact else problem(seed, inputs, (), outputs).best
    ranks = (min(rank, inputs, outputs),)
    whitened = of.moments.loss(split(of, Factorization.MATRIX, ranks).dense)
    assert whitened <= of.moments.loss(plain(of, weight, Factorization.MATRIX, ranks)) + 1e-9


@given(seed=st.integers(0, 1000), rank=st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_the_loss_of_rank_r_is_the_tail_of_the_whitened_spectrum(seed: int, rank: int) -> None:
    of = problem(seed, 7, (), 6)
    energies, _, _ = of.output_basis
    assert of.moments.loss(split(of, Factorization.MATRIX, (rank,)).dense) == pytest.approx(
        energies[rank:].sum() / energies.sum(), abs=1e-7
    )


def metric(seed: int, outputs: int) -> np.ndarray:
    factor = np.random.default_rng(seed).normal(size=(outputs, outputs)) * 0.6 ** np.arange(outputs)
    return factor @ factor.T


@given(seed=st.integers(0, 1000), rank=st.integers(1, 5), inputs=st.integers(3, 9))
@settings(max_examples=30, deadline=None)
def test_with_a_metric_the_loss_is_the_tail_of_its_spectrum_and_less_than_without(
    seed: int, rank: int, inputs: int
) -> None:
    blind = problem(seed, inputs, (), 6)
    seeing = dataclasses.replace(blind, metric=metric(seed, 6))
    ranks = (min(rank, inputs),)
    made = split(seeing, Factorization.MATRIX, ranks)
    energies = seeing.output_basis[0]
    lost = seeing.loss(made.dense)
    assert lost == pytest.approx(energies[ranks[0] :].sum() / energies.sum(), abs=1e-6)
    assert lost <= seeing.loss(split(blind, Factorization.MATRIX, ranks).dense) + 1e-9
    assert blind.loss(made.dense) == pytest.approx(blind.moments.loss(made.dense), abs=1e-6)
    full = split(seeing, Factorization.MATRIX, (min(inputs, 6),))
    np.testing.assert_allclose(full.dense, blind.best, atol=1e-5 * np.abs(blind.best).max())


@pytest.mark.parametrize("ranks", [(4, 4), (3, 4)])
def test_tucker_is_chosen_for_the_metric_as_well(ranks: tuple[int, int]) -> None:
    blind = problem(1, 4, (3, 3), 6)
    seeing = dataclasses.replace(blind, metric=metric(1, 6))
    made = split(seeing, Factorization.TUCKER, ranks)
    assert seeing.loss(made.dense) < seeing.loss(split(blind, Factorization.TUCKER, ranks).dense)
    sums = {2: "rabs,sm->rabm", 3: "ir,rabs,sm->iabm"}[len(made.factors)]
    np.testing.assert_allclose(np.einsum(sums, *made.factors).reshape(made.dense.shape), made.dense, atol=1e-9)


@pytest.mark.parametrize("form", [Factorization.TUCKER, Factorization.SPATIAL, Factorization.SEPARABLE])
def test_windows_are_fitted_to_what_was_seen(form: Factorization) -> None:
    of = problem(3, 6, (3, 3), 8)
    ranks = {Factorization.TUCKER: (3, 4), Factorization.SPATIAL: (5,), Factorization.SEPARABLE: (2,)}[form]
    whitened = of.moments.loss(split(of, form, ranks).dense)
    assert whitened < of.moments.loss(plain(of, of.best, form, ranks))


def test_the_pivoted_form_tells_what_outputs_lose_that_the_first_do_not_span() -> None:
    weight = np.random.default_rng(7).normal(size=(8, 10))
    weight[:, :2] = 0
    of = Problem(LayerMoments.plain(weight))
    made = split(of, Factorization.PIVOT, (4,))
    assert np.isfinite(made.dense).all()
    assert of.moments.loss(made.dense) > of.moments.loss(split(of, Factorization.MATRIX, (4,)).dense) + 0.01
    weight = np.roll(weight, -2, axis=1)  # what is 0 comes last: the first span the others
    of = Problem(LayerMoments.plain(weight))
    lost = of.moments.loss(split(of, Factorization.MATRIX, (4,)).dense)
    assert of.moments.loss(split(of, Factorization.PIVOT, (4,)).dense) == pytest.approx(lost, rel=1e-4)


@pytest.mark.parametrize(
    "form", [Factorization.MATRIX, Factorization.TUCKER, Factorization.SPATIAL, Factorization.SEPARABLE]
)
def test_factors_amount_to_the_dense_weight(form: Factorization) -> None:
    of = problem(4, 4, (3, 3), 5)
    ranks = {
        Factorization.MATRIX: (3,),
        Factorization.TUCKER: (3, 4),
        Factorization.SPATIAL: (5,),
        Factorization.SEPARABLE: (2,),
    }[form]
    made = split(of, form, ranks)
    sums = {
        Factorization.MATRIX: "ar,rm->am",
        Factorization.TUCKER: "ir,rabs,sm->iabm",
        Factorization.SPATIAL: "iar,rbm->iabm",
        Factorization.SEPARABLE: "iabr,irm->iabm",
    }
    dense = np.einsum(sums[form], *made.factors).reshape(made.dense.shape)
    np.testing.assert_allclose(dense, made.dense, atol=1e-9)


def test_a_layer_that_gets_other_inputs_makes_up_for_it() -> None:
    of = problem(5, 8, (), 6, exact=False)
    weight = problem(5, 8, (), 6).best
    assert of.moments.loss(of.best) < of.moments.loss(weight)
    assert of.moments.loss(split(of, Factorization.MATRIX, (6,)).dense) == pytest.approx(of.moments.loss(of.best))


def product(made: Split) -> np.ndarray:
    """Return what factors amount to, shape [columns, outputs]."""
    first, *rest = made.factors
    if made.form is Factorization.SEPARABLE:
        return np.einsum("i...r,iro->i...o", first, rest[0]).reshape(-1, made.dense.shape[1])
    for factor in rest:
        first = np.tensordot(first, factor, axes=1)
    return first.reshape(-1, made.dense.shape[1])


@pytest.mark.parametrize(
    ("form", "inputs", "kernel", "outputs", "ranks"),
    [
        (Factorization.MATRIX, 6, (), 9, (4,)),
        (Factorization.TUCKER, 6, (3, 3), 9, (4, 5)),
        (Factorization.TUCKER, 6, (3,), 9, (6, 5)),
        (Factorization.SPATIAL, 4, (3, 2), 5, (6,)),
        (Factorization.SEPARABLE, 3, (3, 3), 7, (2,)),
    ],
)
def test_neighbouring_factors_are_equally_large(
    form: Factorization, inputs: int, kernel: tuple[int, ...], outputs: int, ranks: tuple[int, ...]
) -> None:
    of = problem(1, inputs, kernel, outputs)
    large = np.diag(10.0 ** np.arange(outputs))  # some outputs matter more than others
    made = split(dataclasses.replace(of, metric=large), form, ranks)
    np.testing.assert_allclose(product(made), made.dense, rtol=1e-6, atol=1e-9 * np.abs(made.dense).max())
    before, after = made.factors[-2:]
    if form is Factorization.SEPARABLE:
        sizes = np.square(before).mean(axis=tuple(range(1, before.ndim - 1))), np.square(after).mean(axis=2)
    else:
        sizes = (
            np.square(before).mean(axis=tuple(range(before.ndim - 1))),
            np.square(after).mean(axis=tuple(range(1, after.ndim))),
        )
    np.testing.assert_allclose(*sizes, rtol=1e-6)


def test_a_component_of_nothing_stays_so() -> None:
    weight = np.zeros((4, 3))
    weight[0, 0] = 1.0
    made = split(Problem(LayerMoments.plain(weight).damped(weight, 1e-9)), Factorization.MATRIX, (2,))
    assert all(np.isfinite(factor).all() for factor in made.factors)
    np.testing.assert_allclose(product(made), weight, atol=1e-6)
