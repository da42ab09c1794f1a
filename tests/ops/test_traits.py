"""Every trait of every op is proved by running the op in ONNX Runtime: operands swapped, shuffled, zero, run twice."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable

import numpy as np
import onnx
import onnx.defs
import onnx.helper
import onnxruntime
import pytest

from onnxslim.ops.signatures import OpName, signatures
from onnxslim.ops.traits import Trait, has

f32, i64, u8 = np.float32, np.int64, np.uint8
OPSET = 21
ATTRIBUTES = {
    "BitShift": {"direction": "LEFT"},
    "Cast": {"to": onnx.TensorProto.INT32},
    "DepthToSpace": {"blocksize": 2},
    "SpaceToDepth": {"blocksize": 2},
    "RandomNormal": {"shape": [9]},
    "RandomUniform": {"shape": [9]},
    "Multinomial": {"sample_size": 40},
    "Squeeze": {},
    "Split": {"num_outputs": 2},
    "Resize": {"mode": "linear"},
    "Mod": {"fmod": 1},
    "Constant": {"value_ints": [1, 2]},
    "Concat": {"axis": 1},
}
SCALES = (f32(0.1), u8(3))
OPERANDS: dict[str, tuple[object, ...]] = {
    # What follows the first operand of an elementwise op, where it is no tensor of the same shape.
    "Clip": (f32(-0.5), f32(0.5)),
    "Dropout": (),
    "com.microsoft::QLinearAdd": (*SCALES, "same", *SCALES, *SCALES),
    "com.microsoft::QLinearMul": (*SCALES, "same", *SCALES, *SCALES),
    "com.microsoft::QLinearSigmoid": (*SCALES, *SCALES),
    "com.microsoft::QLinearLeakyRelu": (*SCALES, *SCALES),
    "com.microsoft::QLinearWhere": ("same", *SCALES, "same", *SCALES, *SCALES),
    "com.microsoft::BiasGelu": (),  # its bias has one axis
}
UNPROVABLE = {
    ("com.microsoft", "QLinearWhere"): "ONNX Runtime's kernel wants its scales as constants",
    ("", "Swish"): "ONNX Runtime has no kernel for it yet",
}
SMALL = np.arange(24, dtype=f32).reshape(1, 2, 3, 4)
MOVES: dict[str, tuple[object, ...]] = {
    "Identity": (SMALL,),
    "Transpose": (SMALL,),
    "Reshape": (SMALL, np.array([3, -1])),
    "Flatten": (SMALL,),
    "Squeeze": (SMALL,),
    "Unsqueeze": (SMALL, np.array([1])),
    "Expand": (SMALL, np.array([2, 2, 3, 4])),
    "Slice": (SMALL, np.array([2]), np.array([0]), np.array([3]), np.array([-1])),
    "Split": (SMALL[0],),
    "Tile": (SMALL, np.array([1, 2, 1, 3])),
    "Gather": (SMALL[0], np.array([[1, 0, -1]])),
    "GatherElements": (SMALL, np.zeros((1, 2, 3, 4), i64)),
    "GatherND": (SMALL, np.zeros((2, 3), i64)),
    "DepthToSpace": (np.arange(64, dtype=f32).reshape(1, 4, 4, 4),),
    "SpaceToDepth": (np.arange(64, dtype=f32).reshape(1, 4, 4, 4),),
    "ReverseSequence": (SMALL[0, 0], np.array([2, 1, 1, 3])),
}
KEEPING_THE_SHAPE: dict[str, tuple[object, ...]] = {
    "Reshape": (SMALL, np.array([0, 0, -1, 4])),
    "Flatten": (SMALL[0, 0],),
    "Squeeze": (SMALL[0],),
    "Unsqueeze": (SMALL, np.array([], i64)),
    "Expand": (SMALL, np.array([1, 3, 1])),
    "Slice": (SMALL, np.array([-9]), np.array([9]), np.array([3])),
    "Tile": (SMALL, np.ones(4, i64)),
    "Resize": (SMALL, None, np.ones(4, f32)),
    "Upsample": (SMALL, np.ones(4, f32)),
    **{f"Reduce{kind}": (-SMALL, np.array([0])) for kind in ("Max", "Mean", "Min", "Prod", "Sum")},
}
SIZED: dict[str, tuple[tuple[object, ...], tuple[object, ...]]] = {
    "Compress": ((SMALL, np.array([True, False])), (SMALL, np.array([True, True]))),
    "ConstantOfShape": ((np.array([2]),), (np.array([3]),)),
    "Expand": ((SMALL, np.array([2, 1, 1, 1])), (SMALL, np.array([1, 1, 1, 1]))),
    "NonZero": ((np.zeros(3, f32),), (np.ones(3, f32),)),
    "OneHot": ((np.array([0]), i64(2), np.zeros(2, f32)), (np.array([0]), i64(3), np.zeros(2, f32))),
    "Pad": ((SMALL[0, 0], np.zeros(4, i64)), (SMALL[0, 0], np.ones(4, i64))),
    "Range": ((f32(0), f32(3), f32(1)), (f32(0), f32(4), f32(1))),
    "Resize": ((SMALL, None, np.ones(4, f32)), (SMALL, None, np.array([1, 1, 2, 2], f32))),
    "Tile": ((SMALL, np.ones(4, i64)), (SMALL, np.full(4, 2))),
}


def name(op: OpName) -> str:
    return "::".join(filter(None, op))


def params(ops: Iterable[OpName]) -> list[object]:
    return [pytest.param(op, id=name(op)) for op in sorted(ops)]


def session(op: OpName, operands: tuple[object, ...], outputs: int = 1, opset: int = OPSET, **attributes: object):
    domain, op_type = op
    labels = ["" if operand is None else f"x{at}" for at, operand in enumerate(operands)]
    made = [f"y{at}" for at in range(outputs)]
    node = onnx.helper.make_node(op_type, labels, made, domain=domain, **{**ATTRIBUTES.get(op_type, {}), **attributes})
    inputs = [
        onnx.helper.make_tensor_value_info(label, onnx.helper.np_dtype_to_tensor_dtype(np.asarray(each).dtype), None)
        for label, each in zip(labels, operands, strict=True)
        if label
    ]
    results = [onnx.helper.make_empty_tensor_value_info(label) for label in made]
    opsets = [onnx.helper.make_opsetid("", opset), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "g", inputs, results), opset_imports=opsets, ir_version=10
    )
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    feeds = {label: np.asarray(each) for label, each in zip(labels, operands, strict=True) if label}
    opened = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: opened.run(None, feeds)


def run(op: OpName, *operands: object, **settings: object):
    return session(op, operands, **settings)()


def draw(kind: np.dtype, shape: tuple[int, ...], generator: np.random.Generator, most: int = 5):
    if kind.kind == "b":
        return generator.random(shape) < 0.5
    if kind.kind in "iu":
        return generator.integers(1, most, shape).astype(kind)
    return generator.choice([-2.5, -1, -0.5, -0.2, 0.3, 0.7, 1, 1.5, 3], shape).astype(kind)


def schema_of(op_type: str) -> onnx.defs.OpSchema:
    try:
        return onnx.defs.get_schema(op_type, OPSET)
    except onnx.defs.SchemaError:  # it is newer
        return onnx.defs.get_schema(op_type)


def formals(op: OpName) -> list[tuple[str, np.dtype]]:
    """Return the operands that an op must have: the word for their type, and one that it takes."""
    domain, op_type = op
    if domain:
        return [("T", np.dtype(u8 if op_type.startswith("QLinear") else f32))]
    schema = schema_of(op_type)
    kinds = {"tensor(float)": f32, "tensor(bool)": np.bool_, "tensor(int64)": i64, "tensor(uint8)": u8}
    found = [
        (each.type_str, np.dtype(next(kinds[kind] for kind in kinds if kind in each.types)))
        for each in schema.inputs
        if each.option != onnx.defs.OpSchema.FormalParameterOption.Optional
    ]
    variadic = schema.inputs[-1].option == onnx.defs.OpSchema.FormalParameterOption.Variadic
    return found * 2 if variadic else found


def operands(op: OpName, shapes: list[tuple[int, ...]], seed: int = 0) -> list[object]:
    """Return operands of the given shapes, the last of which serves for all that follow."""
    generator = np.random.default_rng(seed)
    told = OPERANDS.get(name(op))
    if told is None:
        kinds = [kind for _, kind in formals(op)]
        return [draw(kind, shapes[min(at, len(shapes) - 1)], generator) for at, kind in enumerate(kinds)]
    kind = formals(op)[0][1]
    first = draw(kind, shapes[0], generator, 60)
    rest = [draw(kind, shapes[-1], generator, 60) if isinstance(each, str) else each for each in told]
    return [first, *rest] if name(op) != "com.microsoft::BiasGelu" else [first, draw(kind, shapes[0][-1:], generator)]


def refused(call) -> bool:
    try:
        call()
    except Exception:
        return True
    return False


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
    ("trait", "op"), [pytest.param(trait, op[1], id=f"{trait.value} {op[1]}") for trait in SHAPING for op in trait.ops]
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
import test_traits
smallest = np.array([np.iinfo(np.int64).min])
test_traits.run(("", sys.argv[1]), smallest, np.array([-1]))
"""
    here = __file__.rpartition("/")[0]
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
