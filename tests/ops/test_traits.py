"""Every trait of every op is proved by running the op in ONNX Runtime: operands swapped, shuffled, zero, run twice."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import onnx
import onnx.defs
import onnx.helper
import pytest
from op_runs import (
    KEEPING_THE_SHAPE,
    MOVES,
    OPSET,
    SIZED,
    SMALL,
    UNPROVABLE,
    draw,
    formals,
    name,
    operands,
    params,
    refused,
    run,
    schema_of,
    session,
)

from onnxslim.ops.signatures import OpName, signatures
from onnxslim.ops.traits import Trait, has

f32, i64, u8 = np.float32, np.int64, np.uint8


def test_every_trait_has_ops_that_exist():
    for trait in Trait:
        assert trait.ops, trait
        for domain, op_type in trait.ops:
            assert domain or onnx.defs.has(op_type), op_type


def test_a_node_of_another_domain_has_no_trait_of_onnx():
    assert has(onnx.helper.make_node("Add", ["x", "y"], ["z"]), Trait.COMMUTATIVE)
    assert not has(onnx.helper.make_node("Add", ["x", "y"], ["z"], domain="my.own"), Trait.COMMUTATIVE)


@pytest.mark.parametrize("op", params(Trait.ELEMENTWISE.ops))
def test_elements_of_an_elementwise_op_may_be_shuffled(op):
    if op in UNPROVABLE:
        pytest.skip(UNPROVABLE[op])
    shuffle = np.random.default_rng(1).permutation(12)
    rows = op == ("com.microsoft", "BiasGelu")  # its bias belongs to the last axis
    given = operands(op, [(2, 12) if rows else (3, 4)])
    if op[1] in ("IsNaN", "IsInf"):
        given[0][0, :2] = np.nan, np.inf
    (before,) = run(op, *given)
    moved = [
        each[..., shuffle] if rows else each.reshape(-1)[shuffle] if np.ndim(each) else each  # type: ignore[union-attr]
        for each in given
    ]
    (after,) = run(op, *moved)
    np.testing.assert_array_equal(after, before[..., shuffle] if rows else before.reshape(-1)[shuffle])
    assert len(np.unique(before)) > 1


BINARY = sorted(op for op in Trait.ELEMENTWISE.ops if not op[0] and len(formals(op)) == 2)


@pytest.mark.parametrize("op", params(BINARY))
def test_operands_may_be_swapped_where_an_op_is_commutative_and_nowhere_else(op):
    first, second = operands(op, [(50,)])
    same = not refused(lambda: run(op, second, first)) and np.array_equal(
        run(op, first, second), run(op, second, first), equal_nan=True
    )
    assert same == (op in Trait.COMMUTATIVE.ops)


@pytest.mark.parametrize("op", [pytest.param(op, id=name(op)) for op in BINARY])
def test_only_some_ops_make_the_sum_of_their_operands(op):
    first, second = operands(op, [(50,)])
    added = run(op, first, second)[0] if first.dtype.kind == second.dtype.kind == "f" else None
    assert (added is not None and np.allclose(added, first + second)) == (op in Trait.ADDS.ops)


@pytest.mark.parametrize("op", [pytest.param(op, id=name(op)) for op in BINARY])
def test_only_some_ops_are_affine_in_their_first_operand(op):
    one, two = operands(op, [(50,)])
    if one.dtype.kind != "f" or two.dtype.kind != "f":
        assert op not in Trait.AFFINE.ops
        return
    none, first, second, both = (run(op, each, two)[0] for each in (0 * one, one, two, one + two))
    affine = all(array.dtype.kind == "f" for array in (none, both)) and np.allclose(first + second, none + both)
    assert affine == (op in Trait.AFFINE.ops)


@pytest.mark.parametrize("op", params(Trait.IGNORES_SHIFTS.ops))
def test_a_number_that_is_added_along_the_axis_changes_nothing(op):
    data = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(f32)
    for axis, added in ((2, np.array([[1], [-2], [3]], f32)), (1, np.arange(4, dtype=f32))):
        np.testing.assert_allclose(run(op, data + added, axis=axis)[0], run(op, data, axis=axis)[0], atol=1e-5)


@pytest.mark.parametrize("op", params(Trait.GENERAL_PRODUCT.ops))
def test_a_general_product_scales_and_transposes(op):
    left, right, summand = (np.random.default_rng(at).normal(size=(4, 4)).astype(f32) for at in range(3))
    (result,) = run(op, left, right, summand, alpha=2.0, beta=0.5, transA=1, transB=1)
    np.testing.assert_allclose(result, 2 * left.T @ right.T + 0.5 * summand, atol=1e-5)


@pytest.mark.parametrize("op", params(Trait.COMPOSES.ops))
def test_two_in_a_row_are_one_whose_weight_is_the_product(op):
    generator = np.random.default_rng(0)
    data, one, two = (generator.normal(size=(4, 4)).astype(f32) for _ in range(3))
    axes = (slice(None), slice(None), *[None] * (2 if op[1] == "Conv" else 0))  # a window of one place
    weights = [each.T if op[1] == "Conv" else each for each in (one, two, one @ two)]
    first, second, product = (np.ascontiguousarray(each[axes]) for each in weights)
    in_a_row = run(op, run(op, data[axes], first)[0], second)[0]
    np.testing.assert_allclose(in_a_row, run(op, data[axes], product)[0], atol=1e-4)


@pytest.mark.parametrize("op", params(Trait.COMMUTATIVE.ops))
def test_commutative_ops_have_two_operands(op):
    assert op in BINARY


@pytest.mark.parametrize(
    "op", [pytest.param(op, id=name(op)) for op in sorted({*BINARY, *Trait.BROADCASTING.ops} - {("", "PRelu")})]
)
def test_operands_of_a_broadcasting_op_widen_each_other_and_those_of_others_do_not(op):
    """Only ONNX Runtime lets the data of a PRelu be widened by its slope; ONNX does not."""

    def widens(*shapes: tuple[int, ...]) -> bool:
        given = operands(op, list(shapes))
        if refused(lambda: run(op, *given)):
            return False
        (result,) = run(op, *given)
        full = np.broadcast_shapes(*shapes)
        (whole,) = run(op, *(np.broadcast_to(each, full) for each in given))
        return result.shape == full and np.allclose(result, whole, equal_nan=True)

    both = widens((3, 1), (1, 4)) and widens((4,), (3, 4))
    assert both == (op in Trait.BROADCASTING.ops)
    assert op in Trait.ELEMENTWISE.ops


@pytest.mark.parametrize("op", params(Trait.MOVEMENT.ops))
def test_elements_are_moved_and_nothing_else(op):
    given = MOVES[name(op)]
    results = run(op, *given, outputs=2 if op == ("", "Split") else 1)
    for result in results:
        assert result.size
        assert np.isin(result, given[0]).all()


@pytest.mark.parametrize("op", params(Trait.REARRANGEMENT.ops))
def test_elements_are_rearranged_and_none_is_lost(op):
    assert np.array_equal(np.sort(run(op, *MOVES[name(op)])[0].ravel()), SMALL.ravel())


@pytest.mark.parametrize("op", params(Trait.JOINING.ops))
def test_what_is_joined_are_the_elements_of_all_inputs(op):
    (result,) = run(op, SMALL, SMALL + 24)
    assert np.array_equal(np.sort(result.ravel()), np.arange(48))


IMAGE = np.arange(1, 19, dtype=f32).reshape(1, 2, 3, 3)
ON_IMAGES = {
    "Resize": (IMAGE, None, np.array([1, 1, 2, 2], f32)),
    "Upsample": (IMAGE, np.array([1, 1, 2, 2], f32)),
    **dict.fromkeys(("AveragePool", "MaxPool", "LpPool", "GlobalAveragePool", "GlobalMaxPool"), (IMAGE,)),
}
WINDOWS = {"kernel_shape": [2, 2], "pads": [1, 1, 1, 1]}


def run_on_images(op: OpName, scale: float):
    """Run an op on an image, or on what else it takes, times `scale`."""
    given = MOVES.get(name(op)) or ON_IMAGES.get(name(op), (SMALL,))
    settings = WINDOWS if op[1].endswith("Pool") and not op[1].startswith("Global") else {}
    outputs = 2 if op == ("", "Split") else 1
    opset = 9 if op[1] == "Upsample" else OPSET
    first = np.full_like(given[0], scale)
    return run(op, first, *given[1:], outputs=outputs, opset=opset, **settings)


def run_times(op: OpName, factor: float):
    """Run an op with its first operand times a factor: numbers of both signs, and what follows as it is."""
    given = MOVES.get(name(op)) or ON_IMAGES.get(name(op))
    if given is None:
        given = tuple(operands(op, [(3, 4)])) if op in Trait.ELEMENTWISE.ops else (SMALL,)
    settings = WINDOWS if op[1].endswith("Pool") and not op[1].startswith("Global") else {}
    if op[1] == "Pad":
        given = (SMALL, np.ones(8, i64))
    first = (given[0] - np.mean(given[0], dtype=f32) / 2) * f32(factor)
    return run(
        op,
        first,
        *given[1:],
        outputs=2 if op == ("", "Split") else 1,
        opset=9 if op[1] == "Upsample" else OPSET,
        **settings,
    )


@pytest.mark.parametrize("op", params(Trait.HOMOGENEOUS.ops))
def test_a_factor_on_the_first_operand_is_one_on_the_result(op):
    for once, tripled in zip(run_times(op, 1), run_times(op, 3), strict=True):
        assert once.any()
        np.testing.assert_allclose(tripled, 3 * once, rtol=1e-5)


@pytest.mark.parametrize("op", params(Trait.JOINTLY_HOMOGENEOUS.ops))
def test_a_factor_on_all_operands_is_one_on_the_result(op):
    first, second = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(f32)
    (once,), (tripled,) = run(op, first, second), run(op, 3 * first, 3 * second)
    np.testing.assert_allclose(tripled, 3 * once, rtol=1e-5)


@pytest.mark.parametrize("op", params(Trait.NORMALIZES_AND_SCALES.ops))
def test_the_scale_and_the_shift_of_a_normalisation_are_factors_of_what_it_makes(op):
    rows = signatures()[op][0]
    named = [operand.name for operand in rows.inputs[1:]]
    scale, shift = np.random.default_rng(0).normal(size=(2, 3)).astype(f32)
    data = np.random.default_rng(1).normal(size=(2, 4, 3) if rows.where else (2, 3, 4)).astype(f32)
    given = {"scale": scale, "b": shift, "mean": shift, "var": scale**2}
    factor = np.array([2, 3, 5], f32)
    scaled = {**given, "scale": scale * factor, "b": shift * factor}
    once, twice = (run(op, data, *(each[name] for name in named), opset=23)[0] for each in (given, scaled))
    np.testing.assert_allclose(twice, once * (factor if rows.where else factor[:, None]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("op", params(Trait.CARRIES.ops | Trait.CONVERTS.ops))
def test_some_numbers_come_through_as_they_are(op):
    limits = {"Clip": (f32(2), f32(9)), "Pad": (np.ones(8, i64),)}
    (result,) = run(op, SMALL, *limits.get(op[1], ()))
    assert len(np.intersect1d(result, SMALL)) > 4
    assert op not in Trait.CONVERTS.ops or (result.dtype != SMALL.dtype and np.array_equal(result, SMALL))


@pytest.mark.parametrize("op", params(Trait.AVERAGES.ops))
def test_a_mean_is_one(op):
    np.testing.assert_allclose(run(op, SMALL), [SMALL.mean(keepdims=True)])


@pytest.mark.parametrize("op", params(Trait.RECTIFIES.ops))
def test_a_rectifier_cuts_off_what_is_negative(op):
    np.testing.assert_array_equal(run(op, SMALL - 9)[0], np.maximum(SMALL - 9, 0))


@pytest.mark.parametrize("op", params(Trait.CLAMPS.ops))
def test_a_clamp_cuts_off_at_its_second_and_third_input(op):
    np.testing.assert_array_equal(run(op, SMALL, f32(2), f32(9))[0], np.clip(SMALL, 2, 9))


@pytest.mark.parametrize("op", params(Trait.TAKES_SLICES.ops))
def test_slices_are_those_that_are_listed(op):
    indices = np.array([[2, 0], [1, 1]])
    np.testing.assert_array_equal(run(op, SMALL, indices, axis=2)[0], np.take(SMALL, indices, axis=2))


@pytest.mark.parametrize("op", params(Trait.KEEPS_ZERO.ops))
def test_zeros_make_zeros(op):
    assert all(not result.any() for result in run_on_images(op, 0))


@pytest.mark.parametrize("op", params(Trait.KEEPS_CONSTANT.ops | Trait.MOVEMENT.ops))
def test_a_constant_stays_what_it_is(op):
    assert all((result == 3).all() for result in run_on_images(op, 3))


@pytest.mark.parametrize("op", [pytest.param(op, id=name(op)) for op in BINARY])
def test_only_some_ops_make_zero_of_zero_and_whatever_is_finite(op):
    (finite,) = operands(op, [(50,)])[:1]
    if finite.dtype.kind != "f":
        assert op not in Trait.ABSORBS_ZERO.ops
        return
    finite[:3] = 0
    zeros = np.zeros_like(finite)
    made = [run(op, *given)[0] for given in ((finite, zeros), (zeros, finite))]
    assert any(array.any() for array in made) == (op not in Trait.ABSORBS_ZERO.ops)


@pytest.mark.parametrize("op", params(Trait.IDENTITY_AT_EQUAL_SHAPE.ops))
def test_an_op_that_keeps_the_shape_keeps_the_elements(op):
    given = KEEPING_THE_SHAPE[name(op)]
    reduce = {"keepdims": 1} if op[1].startswith("Reduce") else {"axis": 1} if op[1] == "Flatten" else {}
    (result,) = run(op, *given, opset=9 if op[1] == "Upsample" else OPSET, **reduce)
    np.testing.assert_array_equal(result, given[0])


def test_an_identity_hands_on_what_it_reads():
    for op in Trait.IDENTITY.ops:
        np.testing.assert_array_equal(run(op, SMALL), [SMALL])


def rescaled(op_type: str):
    scales = np.array([1, 1, 2, 2], f32)
    old = op_type == "Upsample"
    return run(("", op_type), SMALL, *([scales] if old else [None, scales]), opset=9 if old else OPSET)[0]


SHAPING: dict[Trait, Callable[[str], bool]] = {
    Trait.PERMUTES: lambda op: np.array_equal(run(("", op), SMALL, perm=[3, 1, 0, 2])[0], SMALL.transpose(3, 1, 0, 2)),
    Trait.RESHAPES: lambda op: np.array_equal(run(("", op), *MOVES[op])[0].ravel(), SMALL.ravel()),
    Trait.JOINING: lambda op: np.array_equal(
        run(("", op), SMALL, -SMALL, axis=1)[0], np.concatenate([SMALL, -SMALL], 1)
    ),
    Trait.PARTS: lambda op: np.array_equal(np.concatenate(run(("", op), *MOVES[op], outputs=2)), MOVES[op][0]),
    Trait.SLICES: lambda op: np.array_equal(run(("", op), *MOVES[op])[0], SMALL[..., 2:0:-1]),
    Trait.WIDENS: lambda op: np.array_equal(run(("", op), *MOVES[op])[0], np.broadcast_to(SMALL, (2, 2, 3, 4))),
    Trait.PADS: lambda op: np.array_equal(run(("", op), SMALL[0, 0], np.ones(4, i64))[0], np.pad(SMALL[0, 0], 1)),
    Trait.FILLS: lambda op: np.array_equal(run(("", op), np.array([2, 3]))[0], np.zeros((2, 3))),
    Trait.RESCALES: lambda op: (
        run(
            ("", op),
            SMALL,
            *[None] * (op != "Upsample"),
            np.array([1, 1, 2, 2], f32),
            opset=9 if op == "Upsample" else OPSET,
        )[0].shape
        == (1, 2, 6, 8)
    ),
    Trait.REDUCES: lambda op: run(("", op), SMALL + 1, np.array([1, 3]), opset=18)[0].shape == (1, 1, 3, 1),
    Trait.REARRANGEMENT: lambda op: np.array_equal(np.sort(run(("", op), *MOVES[op])[0], None), SMALL.ravel()),
}


@pytest.mark.parametrize(
    ("trait", "op"),
    [pytest.param(trait, op[1], id=f"{trait.value} {op[1]}") for trait in SHAPING for op in sorted(trait.ops)],
)
def test_axes_are_ordered_joined_parted_and_stretched_as_the_trait_says(trait, op):
    assert SHAPING[trait](op)


@pytest.mark.parametrize("op", params(Trait.DISTRIBUTION.ops))
def test_a_distribution_sums_to_one_or_its_exponentials_do(op):
    (result,) = run(op, SMALL, axis=-1)
    sums = [array.sum(axis=-1) for array in (result, np.exp(result))]
    assert any(np.allclose(each, 1) for each in sums)


def test_probabilities_places_of_the_largest_and_normalised_axes():
    for op in Trait.LOGISTIC.ops:
        (result,) = run(op, SMALL - 12)
        assert ((result > 0) & (result < 1)).any()
        assert result.min() >= 0
        assert result.max() <= 1
    for op in Trait.LARGEST.ops:
        np.testing.assert_array_equal(run(op, SMALL, axis=-1, keepdims=0)[0], SMALL.argmax(axis=-1))
    for op in Trait.LAYER_NORMALIZATION.ops:
        (result,) = run(op, SMALL, np.ones(4, f32), axis=-1)
        np.testing.assert_allclose(result.mean(axis=-1), 0, atol=1e-5)
        np.testing.assert_allclose(result.std(axis=-1), 1, atol=1e-3)


@pytest.mark.parametrize("op", params(Trait.RECURRENT.ops))
def test_a_recurrence_begins_with_zeros(op):
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op[1]]
    x, w, r = (
        draw(np.dtype(f32), size, np.random.default_rng(0))
        for size in ((3, 2, 4), (1, gates * 5, 4), (1, gates * 5, 5))
    )
    zeros = (np.zeros((1, 2, 5), f32),) * (2 if op[1] == "LSTM" else 1)
    without, given = (run(op, x, w, r, *states, hidden_size=5) for states in ((), (None, None, *zeros)))
    np.testing.assert_array_equal(without, given)
    assert np.any(run(op, x, w, r, None, None, *(np.ones_like(zero) for zero in zeros), hidden_size=5)[0] != given[0])


@pytest.mark.parametrize("op", params(Trait.RANDOM.ops))
def test_two_runs_of_a_random_op_differ(op):
    halves = np.full((1, 64), 0.5, f32)
    given = {
        "Bernoulli": (halves,),
        "Multinomial": (np.zeros((1, 9), f32),),
        "RandomNormalLike": (halves,),
        "RandomUniformLike": (halves,),
        "Dropout": (halves, f32(0.5), np.True_),
    }
    again = session(op, given.get(op[1], ()))
    assert not all(np.array_equal(again(), again()) for _ in range(3))


@pytest.mark.parametrize("op", params(Trait.QUANTIZES.ops))
def test_real_numbers_become_integers(op):
    (result,) = run(op, np.array([0.1, 0.32], f32), f32(0.1), u8(5))
    np.testing.assert_array_equal(result, np.array([6, 8], u8))


@pytest.mark.parametrize("op", params(Trait.DEQUANTIZES.ops))
def test_integers_become_real_numbers(op):
    (result,) = run(op, np.array([6, 8], u8), f32(0.5), u8(5))
    np.testing.assert_array_equal(result, np.array([0.5, 1.5], f32))


@pytest.mark.parametrize("op", params(Trait.SIZED_BY_VALUES.ops))
def test_operands_of_equal_shapes_make_results_of_other_shapes(op):
    (one,), (other,) = (run(op, *given) for given in SIZED[name(op)])
    assert one.shape != other.shape


def test_only_these_ops_end_the_process_where_the_processor_cannot_divide():
    code = """
import sys
import numpy as np
import op_runs
smallest = np.array([np.iinfo(np.int64).min])
op_runs.run(("", sys.argv[1]), smallest, np.array([-1]))
"""
    here = __file__.rpartition("/")[0] + "/.."
    takes = [op for op in BINARY if "tensor(int64)" in schema_of(op[1]).inputs[0].types]
    ended = {
        op for op in takes if subprocess.run([sys.executable, "-c", code, op[1]], cwd=here, check=False).returncode < 0
    }
    assert ended <= Trait.INTEGER_DIVISION.ops <= set(takes)


def test_kinds_and_traits_do_not_contradict_each_other():
    for op in Trait.BROADCASTING.ops:
        assert signatures()[op][0].kind == "broadcast"
    assert Trait.MOVEMENT.ops <= Trait.KEEPS_ZERO.ops
    assert not Trait.RANDOM.ops & Trait.MOVEMENT.ops
