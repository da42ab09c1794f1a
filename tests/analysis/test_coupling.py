"""Coupled channels: the right groups, the reasons of what is frozen, and models that do not notice permutations."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from channel_models import (
    ATTENTION,
    ATTENTION_OP,
    COMPUTED,
    EINSUM,
    GROUPED,
    LSTM,
    PADDED,
    RESIDUAL,
    ROTARY,
    SHIFTED,
    SHUFFLE,
    STRIDED,
    TIED,
    built,
    weight,
)  # fmt: skip
from exactness import permute_groups
from zoo import zoo_file

from onnxslim.analysis.axis_relations import AxisRelations
from onnxslim.analysis.coupling import Coupling, couple, frozen, groups
from onnxslim.analysis.labels import components, solve
from onnxslim.analysis.shapes import infer_shapes
from onnxslim.model import open_model
from onnxslim.ops.relations import FreezeCode
from onnxslim.runtime.session import Session


def sizes(coupling: Coupling) -> dict[str, list[tuple[int, int]]]:
    found: dict[str, list[tuple[int, int]]] = {}
    for group in groups(coupling):
        found.setdefault(group.name, []).append((len(group.roots), group.width))
    return {name: sorted(each) for name, each in found.items()}


MODELS = {
    "residual": (RESIDUAL, {"w1": [(16, 1)]}),
    "grouped": (GROUPED, {"w1": [(3, 2), (4, 1)], "w4": [(2, 3)]}),
    "shuffle": (SHUFFLE, {"w1": [(1, 4), (4, 1), (4, 1), (8, 1)], "w2": [(1, 4)]}),
    # Two query heads share a key head; the size of a head is one thing for queries and keys, another for values.
    "attention": (ATTENTION, {"w": [(2, 16), (2, 16), (8, 2), (8, 6)]}),
    "lstm": (LSTM, {"w0": [(8, 1)], "w": [(6, 1)]}),
    "padded": (PADDED, {"w1": [(4, 1)], "w2": [(4, 1)]}),
    "shifted": (SHIFTED, {"w0": [(6, 1)], "wqkv": [(2, 1), (4, 2)], "wo": [(6, 1)]}),
    # A place within a head goes with the one that it is turned with.
    "rotary": (ROTARY, {"wq": [(3, 8), (4, 2)], "wv": [(8, 3)]}),
    "computed": (COMPUTED, {"wq": [(3, 8), (8, 3)], "wv": [(8, 3)]}),
    "strided": (STRIDED, {"w1": [(2, 1), (2, 1), (4, 1), (4, 1)]}),
    "einsum": (EINSUM, {"wq": [(3, 1), (4, 1)], "wv": [(4, 1)]}),
    "attention op": (ATTENTION_OP, {"wq": [(2, 8), (2, 16), (8, 2)], "wv": [(8, 2)]}),
    "tied": (TIED, {}),
}


@pytest.mark.parametrize("name", MODELS)
def test_channels_form_the_right_groups(name: str) -> None:
    model, expected = MODELS[name]
    assert sizes(couple(model)) == expected


def unnoticed(model: ir.Model, tolerance: float = 1e-4, batch: int = 2) -> int:
    """Permute all groups of `model`, compare its outputs with those of before, and return how many weights changed."""
    generator = np.random.default_rng(0)
    feeds = {
        value.name: generator.random([size if isinstance(size, int) else batch for size in value.shape]).astype(
            np.float32
        )
        for value in model.graph.inputs
    }
    trial = permute_groups(model, feeds)
    assert trial.difference < tolerance
    assert trial.control > 10 * tolerance  # permuting one weight alone is noticed
    return trial.touched


@pytest.mark.parametrize("name", [name for name, (_, expected) in MODELS.items() if expected])
def test_a_model_does_not_notice_permuted_groups(name: str) -> None:
    assert unnoticed(MODELS[name][0]) > 1


def test_a_wrong_coupling_would_be_noticed() -> None:
    """The test above can fail: swap two channels of one weight of the group alone."""
    model = RESIDUAL.clone()
    model.graph.initializers["w1"].const_value = ir.tensor(
        RESIDUAL.graph.initializers["w1"].const_value.numpy()[::-1].copy()
    )
    feeds = {"x": np.random.default_rng(0).random((1, 3, 8, 8)).astype(np.float32)}
    assert not np.allclose(Session.of(model).run(feeds)["y"], Session.of(RESIDUAL).run(feeds)["y"], atol=1e-2)


@pytest.mark.zoo
@pytest.mark.parametrize("name", ["fashion/resnet8.onnx", "onnx/cifar10_resnet20.onnx"])
def test_real_models_do_not_notice_permuted_groups(name: str) -> None:
    model = open_model(zoo_file(*name.split("/")))
    infer_shapes(model)
    assert unnoticed(model) > 10


FROZEN = {
    "Det y has no axis signature": ("a = MatMul (x, w) y = Det (a)", {}),
    "graph output y": ("y = MatMul (x, w)", {}),
    "Shape b: its size is read": (
        "a = MatMul (x, w) b = Shape (a) c = Cast <to=1> (b) y = MatMul (a, v)",
        {"v": weight(8, 3)},
    ),
    "the nested graph of If c reads it": (
        """a = MatMul (x, w)
        c = If (k) <
            then_branch = t () => (float[3,8] p) { p = Relu (a) },
            else_branch = e () => (float[3,8] q) { q = Neg (a) }
        >
        y = MatMul (a, v)""",
        {"v": weight(8, 3), "k": np.array(True)},
    ),
    "its size is read when the model runs": (
        """a = MatMul (x, w) b = Shape <start=1> (a) c = Concat <axis=0> (b, k) d = Reshape (a, c) e = Transpose (d)
        y = MatMul (v, e)""",
        {"v": weight(2, 3), "k": np.array([-1])},
    ),
}


@pytest.mark.parametrize("reason", FROZEN)
def test_what_is_frozen_says_why(reason: str) -> None:
    body, weights = FROZEN[reason]
    model = built(f"g (float[3,4] x) => (float y) {{ {body} }}", w=weight(4, 8), **weights)
    found = {each.name: each.why.reason for each in frozen(couple(model)) if each.axis == 1}
    assert reason in found["w"]
    assert all(group.name != "w" for group in groups(couple(model)))


def test_sizes_that_are_read_of_other_axes_do_not_freeze() -> None:
    model = built(
        """g (float[N,4] x) => (float y) {
            a = MatMul (x, w) b = Shape (a) c = Gather (b, z) d = Concat <axis=0> (c, k) e = Reshape (a, d)
            y = MatMul (e, v)
        }""",
        w=weight(4, 8), z=np.array([0]), k=np.array([-1]), v=weight(8, 3),
    )  # fmt: skip
    assert sizes(couple(model)) == {"w": [(8, 1)]}


def test_values_of_unknown_rank_freeze_what_they_meet() -> None:
    model = built(
        "g (float[3,4] x) => (float y) { a = MatMul (x, w) b = NoSuchOp (a) c = MatMul (x, v) y = Add (b, c) }",
        w=weight(4, 8), v=weight(4, 8),
    )  # fmt: skip
    assert groups(couple(model)) == ()


def test_components_are_the_smallest_labels() -> None:
    assert components(np.arange(6), np.array([5, 3, 4]), np.array([3, 1, 2])).tolist() == [0, 1, 2, 1, 2, 1]


def test_factors_are_refined_to_a_fixpoint() -> None:
    relations = AxisRelations()
    axis, six, four, three, eight, two = (relations.fresh(size) for size in (24, 6, 4, 3, 8, 2))
    relations.multiply(axis, [six, four], None)
    relations.multiply(axis, [three, eight], None)
    relations.refine()
    assert sorted(relations.sizes[each] for _, factors in relations.products for each in factors) == [2, 2, 3, 4, 4, 6]
    relations.equate(two, four, None)
    assert [why.code for _, why in relations.frozen] == [FreezeCode.UNKNOWN_SIZE] * 2


def test_products_that_do_not_nest_keep_their_longest_factor() -> None:
    relations = AxisRelations()
    axis, two, three, slow, fast = (relations.fresh(size) for size in (6, 2, 3, 3, 2))
    relations.multiply(axis, [two, three], None)
    relations.multiply(axis, [slow, fast], None)
    labels = solve(relations)
    for short in (two, fast):
        assert (labels.reason[labels.root[labels.start[short] + np.arange(2)]] >= 0).all()
    # What is left is one channel: every place of one factor meets every place of the other.
    assert len(np.unique(labels.root[labels.start[axis] + np.arange(6)])) == 1


def test_conflicting_sizes_freeze() -> None:
    relations = AxisRelations()
    whole, factor = relations.fresh(7), relations.fresh(None)
    other = relations.fresh(3)
    relations.multiply(whole, [factor, other], None)
    assert len(relations.frozen) == 2


def test_groups_that_an_op_mixes_along_say_so() -> None:
    model = built(
        """g (float[2,4] x) => (float[2,3] y) {
            a = MatMul (x, w) n = LayerNormalization (a, s) b = MatMul (n, v) r = Relu (b) y = MatMul (r, u)
        }""",
        w=weight(4, 8), s=weight(8), v=weight(8, 6), u=weight(6, 3),
    )  # fmt: skip
    assert {group.name: group.mixed for group in groups(couple(model))} == {"w": True, "v": False}


def test_many_layers_are_refined_in_few_rounds() -> None:
    relations = AxisRelations()
    whole = relations.fresh(24)
    for sizes in ((2, 12), (4, 6), (8, 3), (24,)) * 50:
        relations.multiply(whole, [relations.fresh(size) for size in sizes], None)
    labels = solve(relations)
    assert (labels.reason[labels.start[relations.find(whole)] + np.arange(24)] < 0).all()
