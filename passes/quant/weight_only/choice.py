"""Chooses which weights get more bits than was asked for, by what they lose and by the bytes that they take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnxslim.model.constants import constant_tensor
from onnxslim.pipeline.interface import Note, remark
from onnxslim.pipeline.reasons import Reason

from ..codes import QuantCode
from ..cost import PlanCosts, PrecisionCost
from ..integers import INT8
from ..mixed import CostLimits, RoundingError, best_within, left_after
from .rounding import LevelType, RoundedWeight
from .stored import StoredWeight

Rounded = Mapping[str, RoundedWeight]
"""Weights on their levels, by name."""
Types = Mapping[StoredWeight, LevelType]
"""What levels each weight was to get."""


def costly_weights(rounded: Rounded, types: Types, share: float) -> dict[str, Reason]:
    """Return the weights that lose most for what they save, by name, so that a share of what is lost is left."""
    left = total = sum(made.lost for made in rounded.values())
    sizes = _sizes(types)
    chosen: list[str] = []
    for name in sorted(rounded, key=lambda name: -rounded[name].lost / sizes[name]):
        if left <= share * total:
            break
        left -= rounded[name].lost
        chosen.append(name)
    return _reasons(chosen, rounded, sizes)


def weights_within(
    rounded: Rounded, types: Types, whole: int, share: float, error: float
) -> tuple[dict[str, Reason], tuple[Note, ...]]:
    """Return the weights that get more bits, so that least is lost in a share of the bytes; and notes.

    Args:
        rounded: All weights that are stored.
        types: What was asked for.
        whole: Bytes of all weights of the model in float.
        share: Of these bytes.
        error: Share of what is lost that may be left; it goes before the bytes.
    """
    costs = PlanCosts({weight.value.name or "": _cost(weight, kind, rounded) for weight, kind in types.items()})
    rest = whole - sum(stored_bytes(weight) for weight in types)
    errors = [RoundingError(frozenset({name}), made.lost) for name, made in rounded.items()]
    chosen = best_within(errors, costs, CostLimits(size=share * whole - rest)) or frozenset()
    if left_after(chosen, errors) > error:
        wide = costly_weights(rounded, types, error)
    else:
        wide = _reasons(sorted(chosen), rounded, _sizes(types))
    taken = (costs.size(wide.keys()) + rest) / max(whole, 1)
    if taken <= share:
        return wide, ()
    missed = Reason(QuantCode.BUDGET_MISSED, ("size", share))
    return wide, (remark("model", f"{taken:.2f} of its size in float", str(missed), missed.code.word),)


def stored_bytes(weight: StoredWeight) -> int:
    """Return the bytes of a weight in float."""
    tensor = constant_tensor(weight.value)
    return 0 if tensor is None else tensor.nbytes


def _cost(weight: StoredWeight, kind: LevelType, rounded: Rounded) -> PrecisionCost:
    """Return the bytes of a weight with more bits, where it has 8 already in float, and as it was asked for."""
    made = rounded[weight.value.name or ""]
    scales = made.grid.scale.nbytes
    if kind.levels.equal_steps and not kind.symmetric:  # a zero point beside each scale
        scales += -(-made.grid.scale.size * kind.bits // 8)
    narrow = -(-made.levels.size * kind.bits // 8) + scales
    wide = made.levels.size + scales if kind.bits < INT8.bits else stored_bytes(weight)
    return PrecisionCost(0.0, 0.0, wide, narrow)


def _sizes(types: Types) -> dict[str, int]:
    return {weight.value.name or "": weight.columns * weight.outputs for weight in types}


def _reasons(chosen: Sequence[str], rounded: Rounded, sizes: Mapping[str, int]) -> dict[str, Reason]:
    total, whole = sum(made.lost for made in rounded.values()), sum(sizes.values())
    return {
        name: Reason(QuantCode.LOSES_MOST, (rounded[name].lost / total if total else 0.0, sizes[name] / whole))
        for name in chosen
    }
