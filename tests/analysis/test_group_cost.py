"""What is at cost in a group is what cutting it saves, counted by hand."""

from __future__ import annotations

import pytest
from channel_models import ATTENTION_OP, CHANNEL_MODELS, RESIDUAL
from onnxslim.passes.prune.cutting import cut

from onnxslim.analysis.cost import measure_cost
from onnxslim.analysis.coupling import couple, groups
from onnxslim.analysis.group_cost import group_costs


def test_a_residual_net() -> None:
    coupling = couple(RESIDUAL)
    (cost,) = group_costs(RESIDUAL, coupling, groups(coupling))
    first, second, last = 8 * 8 * 3 * 9, 8 * 8 * 9, 5 * 4
    assert cost.weights == 8  # b3 stays
    assert cost.tensors == 8 + 7  # and f, which is flattened
    assert cost.macs_per_channel == first + (16 * 16 - 15 * 15) * second + last
    assert cost.macs == 15 * first + (16 * 16 - 1) * second + 15 * last
    assert cost.parameters == 15 * (3 * 9 + 5 + 5 * 4) + (16 * 16 - 1) * 9


@pytest.mark.parametrize("name", [name for name in CHANNEL_MODELS if name != "tied"])
def test_cutting_saves_what_a_group_costs(name: str) -> None:
    coupling = couple(CHANNEL_MODELS[name])
    for group, cost in zip(
        groups(coupling), group_costs(CHANNEL_MODELS[name], coupling, groups(coupling)), strict=True
    ):
        if len(group.roots) < 2 or cost.macs == 0:
            continue
        model = CHANNEL_MODELS[name].clone()
        own = couple(model)
        before = measure_cost(model)
        cut(model, own, own.labels.removed(group.roots[:1]))
        after = measure_cost(model)
        assert before.macs - after.macs == cost.macs_per_channel
        assert cost.parameters >= before.parameters - after.parameters > 0


def test_heads_weigh_more_than_places_in_them() -> None:
    coupling = couple(ATTENTION_OP)
    found = groups(coupling)
    weigh = {
        (len(group.roots), group.width): cost
        for group, cost in zip(found, group_costs(ATTENTION_OP, coupling, found), strict=True)
    }
    assert weigh[2, 16].macs_per_channel > weigh[8, 2].macs_per_channel
