"""Which channels of a model go together, what is at stake in each group, and what cannot be cut and why."""

from __future__ import annotations

import collections
import dataclasses
import os
from pathlib import Path
from typing import Annotated

from onnxslim.analysis.cost import measure_cost
from onnxslim.analysis.coupling import FrozenAxis, couple, frozen, groups
from onnxslim.analysis.group_cost import group_costs
from onnxslim.analysis.shared_vectors import untie_vectors
from onnxslim.analysis.specialize import infer_and_fold
from onnxslim.model import open_model

EXAMPLES = 3
"""How many weights are named for a reason."""


@dataclasses.dataclass(frozen=True)
class GroupFigures:
    """Channels that are coupled: each can be cut by itself, and takes the same places of the same tensors with it."""

    name: Annotated[str, "the first weight that has them"]
    channels: Annotated[int, "how many can be cut one by one"]
    width: Annotated[int, "places of one axis that go with each: 1, or the number of heads for a place within heads"]
    weights: Annotated[int, "weights that they run through"]
    tensors: Annotated[int, "tensors that they run through, weights included"]
    macs_per_channel: Annotated[int, "multiply-accumulates that go with the first of them"]
    macs: Annotated[int, "multiply-accumulates that go with all but one"]
    parameters: Annotated[int, "numbers in weights that go with all but one"]
    mixed: Annotated[bool, "an op mixes along them (a norm, a mean): cutting a zero is noticed"]


@dataclasses.dataclass(frozen=True)
class FrozenFigures:
    """Channels that cannot be cut, for one reason."""

    reason: Annotated[str, "why, without the names of nodes"]
    axes: Annotated[int, "how many axes of weights"]
    channels: Annotated[int, "how long they are together"]
    examples: Annotated[tuple[str, ...], "some of the weights, with the axis"]
    code: Annotated[str, "the reason as a word that stays the same from version to version"] = ""


@dataclasses.dataclass(frozen=True)
class Grouping:
    """The coupled channels of one model."""

    path: Annotated[str, "where it lies"]
    macs: Annotated[int, "multiply-accumulates of one inference; symbolic dimensions count as 1"]
    parameters: Annotated[int, "numbers in the weights"]
    groups: Annotated[tuple[GroupFigures, ...], "the groups, those with the most MACs first"]
    frozen: Annotated[tuple[FrozenFigures, ...], "what cannot be cut, the most frequent reason first"]


def group_model(path: str | os.PathLike[str], *, inline: bool = True) -> Grouping:
    """Find the coupled channels of the model at `path`. Shape arithmetic on constants is folded first, and vectors
    that several nodes share by chance count as one for each. `inline` inlines local functions before.

    Raises:
        ModelError: As `open_model` does.
    """
    path = Path(path)
    model = open_model(path, inline=inline)
    cost = measure_cost(model)
    infer_and_fold(model)
    untie_vectors(model)
    coupling = couple(model)
    found = groups(coupling)
    figures = [
        GroupFigures(
            name=group.name,
            channels=len(group.roots),
            width=group.width,
            mixed=group.mixed,
            **dataclasses.asdict(cost_of_group),
        )
        for group, cost_of_group in zip(found, group_costs(model, coupling, found), strict=True)
    ]
    by_reason: dict[str, list[FrozenAxis]] = collections.defaultdict(list)
    for axis in frozen(coupling):
        by_reason[axis.why.kind].append(axis)
    reasons = [
        FrozenFigures(
            reason=reason,
            axes=len(axes),
            channels=sum(axis.size for axis in axes),
            examples=tuple(f"{axis.name}[{axis.axis}]" for axis in axes[:EXAMPLES]),
            code=axes[0].why.code.word,
        )
        for reason, axes in by_reason.items()
    ]
    return Grouping(
        path=str(path),
        macs=cost.macs,
        parameters=cost.parameters,
        groups=tuple(sorted(figures, key=lambda group: (-group.macs, -group.parameters))),
        frozen=tuple(sorted(reasons, key=lambda axes: (-axes.axes, -axes.channels, axes.reason))),
    )
