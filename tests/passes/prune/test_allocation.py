"""How many channels each group loses: by one ranking, aligned, and as many MACs as were asked for."""

from __future__ import annotations

import numpy as np
import pytest
from channel_models import CHANNEL_MODELS, built, weight
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxslim.passes.prune.allocation import OVERSHOOT, Limits, allocate, blocks

from onnxslim.analysis.cost import measure_cost
from onnxslim.analysis.coupling import ChannelGroup, couple, groups
from onnxslim.analysis.remaining_cost import macs_left

CHAIN = built(
    """g (float[1,3,8,8] x) => (float[1,4,8,8] y) {
        a = Conv (x, w1) b = Relu (a) c = Conv (b, w2) d = Relu (c) y = Conv (d, w3)
    }""",
    w1=weight(64, 3, 1, 1), w2=weight(48, 64, 1, 1), w3=weight(4, 48, 1, 1),
)  # fmt: skip


def group(count: int, width: int = 1) -> ChannelGroup:
    return ChannelGroup("w", np.arange(count), width)


@pytest.mark.parametrize(
    ("count", "width", "align", "most", "expected"),
    [
        (32, 1, 8, 0.8, [8, 8, 8]),
        (30, 1, 8, 0.8, [2, 4, 4, 4, 4, 4]),
        (15, 1, 8, 0.8, [1, 2, 2, 2, 2, 2]),
        (16, 1, 8, 0.8, [4, 4, 4]),
        (31, 1, 8, 0.8, [3, 4, 4, 4, 4, 4]),
        (8, 1, 8, 0.8, [2, 2, 2]),
        (3, 1, 8, 0.8, []),
        (3, 1, 1, 0.8, [1, 1]),
        (32, 1, 8, 0.3, [8]),
        (8, 4, 8, 0.9, [2, 2, 2]),
        (5, 1, 1, 0.9, [1, 1, 1, 1]),
        (3, 64, 8, 0.9, [1, 1]),
    ],
)
def test_blocks_keep_lengths_aligned(count: int, width: int, align: int, most: float, expected: list[int]) -> None:
    assert blocks(group(count, width), Limits(align, most)) == expected


@given(count=st.integers(1, 300), width=st.integers(1, 16), align=st.integers(1, 32), most=st.floats(0.1, 0.95))
@settings(max_examples=60, deadline=None)
def test_blocks_never_go_below_what_must_stay(count: int, width: int, align: int, most: float) -> None:
    left = count
    step = Limits(align, most).step(count * width)
    assert step == align or (step & (step - 1) == 0 and step <= count * width / 4 < 2 * step)
    for block in blocks(group(count, width), Limits(align, most)):
        left -= block
        assert left * width % step == 0
        assert left * width >= step
        assert left >= count * (1 - most)


@pytest.mark.parametrize("name", CHANNEL_MODELS)
def test_macs_left_are_those_that_cost_counts(name: str) -> None:
    model = CHANNEL_MODELS[name]
    coupling = couple(model)
    assert macs_left(coupling)(np.zeros(coupling.labels.count, np.bool_)) == measure_cost(model).macs


def test_macs_of_what_is_frozen_and_of_long_axes_count() -> None:
    model = built(
        "g (float[2,300000,4] x) => (float y) { a = MatMul (x, w) b = NoSuchOp (a) y = MatMul (b, v) }",
        w=weight(4, 8), v=weight(8, 8),
    )  # fmt: skip
    coupling = couple(model)
    assert macs_left(coupling)(np.zeros(coupling.labels.count, np.bool_)) == measure_cost(model).macs


@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.5])
def test_as_many_macs_go_as_were_asked_for(ratio: float) -> None:
    coupling = couple(CHAIN)
    found = groups(coupling)
    total = measure_cost(CHAIN).macs
    choice = allocate(
        coupling,
        found,
        [np.ones(len(each.roots)) for each in found],
        round(ratio * total),
        Limits(8, 0.8),
        macs_left(coupling),
    )
    saved = 1 - macs_left(coupling)(choice.gone) / total
    assert ratio - 0.1 <= saved <= ratio + OVERSHOOT
    assert all((len(each.roots) - taken) % 8 == 0 for each, taken in zip(found, choice.taken, strict=True))


def test_the_least_important_channels_go_first() -> None:
    coupling = couple(CHAIN)
    found = groups(coupling)
    scores = [np.arange(len(each.roots), dtype=np.float64) for each in found]
    choice = allocate(coupling, found, scores, measure_cost(CHAIN).macs // 8, Limits(8, 0.8), macs_left(coupling))
    assert sorted(choice.taken) == [0, 8]
    (chosen,) = (each for each, taken in zip(found, choice.taken, strict=True) if taken)
    assert choice.gone[chosen.roots].tolist() == [True] * 8 + [False] * (len(chosen.roots) - 8)


def test_nothing_goes_where_nothing_is_asked_for_or_to_be_had() -> None:
    coupling = couple(CHAIN)
    found = groups(coupling)
    scores = [np.ones(len(each.roots)) for each in found]
    assert not allocate(coupling, found, scores, 0, Limits(8, 0.8), macs_left(coupling)).gone.any()
    assert not allocate(coupling, [], [], 100, Limits(8, 0.8), macs_left(coupling)).gone.any()
