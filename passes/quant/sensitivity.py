"""Measures the error that int8 brings, part by part.

The parts are rounded one at a time, on few samples; their errors are independent and nearly add up in energy.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping, Sequence, Set

import onnx_ir as ir

from onnxslim.observe.sensitivity import OutputDeviation
from onnxslim.pipeline.interface import Context

from .gradient_noise import noise_by_gradients
from .mixed import RoundingError
from .plan import QuantPlan, layers_of, sites_of
from .rounded import Part, RoundedModel
from .scales import Scale
from .site import QuantSite
from .weights import QuantizedWeight

PRODUCTS = 1e12
"""Multiply-accumulates that running the model may take: half a minute on two cores."""
SAMPLES = (1, 8)
"""Samples that tell one part from another: at least, and at most."""
SESSIONS, FEWEST = 8, 12
"""Sessions at most, as long as each can round no fewer parts: what could be rounded and is not takes time, and so does
opening a model."""


@dataclasses.dataclass(frozen=True)
class PartErrors:
    """What rounding each part alone brings, by names: nothing of the model is referred to."""

    tensors: Mapping[str, float]
    """For each tensor, by its name, the error as a share of the energy of the outputs."""
    weights: Mapping[str, float]
    """For each site that has a weight, by its key."""

    @property
    def total(self) -> float:
        """Their sum."""
        return sum(self.tensors.values()) + sum(self.weights.values())

    def of_layers(
        self, plan: QuantPlan, layers: Mapping[str, list[QuantSite]] | None = None
    ) -> tuple[RoundingError, ...]:
        """Return the errors by the sets of layers, those of the plan where none are given, that must be float to avoid
        them."""
        parts = layers_of(plan) if layers is None else layers
        shares: dict[frozenset[str], float] = {}
        for key, sites in parts.items():
            for site in sites:
                if site.product is not None:
                    own = frozenset({key})
                    shares[own] = shares.get(own, 0.0) + self.weights.get(site.key, 0.0)
        for name, touching in _layers_of_tensors(plan, parts).items():
            found = self.tensors.get(name)
            if touching and found is not None:
                shares[touching] = shares.get(touching, 0.0) + found
        return tuple(RoundingError(layers, share) for layers, share in shares.items())

    def without_tensors(self, plan: QuantPlan, sites: Set[str]) -> PartErrors:
        """Return them without those of the tensors that only these sites make and read."""
        gone = {name for name, own in _layers_of_tensors(plan, sites_of(plan)).items() if own and own <= sites}
        return dataclasses.replace(
            self, tensors={name: 0.0 if name in gone else error for name, error in self.tensors.items()}
        )


def _layers_of_tensors(plan: QuantPlan, layers: Mapping[str, list[QuantSite]]) -> dict[str, frozenset[str]]:
    """Return the layers that make or read each tensor, or one that shares its scale, by the sources of groups."""
    touching: dict[ir.Value, set[str]] = {}
    for key, sites in layers.items():
        for site in sites:
            for value in (*site.operands(), *site.results):
                touching.setdefault(value, set()).add(key)
    return {
        group.source.name or "": frozenset[str]().union(*(touching.get(member, set()) for member in group.members))
        for group in plan.groups
    }


class Sensitivity(enum.Enum):
    """How it is found out what rounding one part costs the outputs."""

    MEASURED = "measured"
    """The model runs with this part rounded, and nothing else."""
    GRADIENTS = "gradients"
    """To first order, for all parts at once (`gradient_noise`)."""


def part_errors(
    model: ir.Model,
    plan: QuantPlan,
    scales: Mapping[str, Scale],
    weights: Mapping[ir.Node, QuantizedWeight],
    macs: int,
    context: Context,
    how: Sensitivity = Sensitivity.MEASURED,
) -> PartErrors:
    """Return the error that each tensor and each weight of a plan brings.

    The fewer multiply-accumulates one run of the model takes, the more samples are used.

    Args:
        model: It is not changed.
        plan: Of the model.
        scales: For the source of each group of the plan, by its name.
        weights: The weight of each site that has one.
        macs: Multiply-accumulates of one run.
        context: The context of the pass.
        how: By running it, or by gradients.

    Raises:
        NotDifferentiable: Of `GRADIENTS`: an op between a part and an output has no gradient.
        RunError: The model does not run on the samples.
    """
    stored = [(site, weights[site.node]) for site in plan.sites if site.node in weights]
    tensors = [(group.source, scales[group.source.name or ""]) for group in plan.groups]
    noise = noise_by_gradients if how is Sensitivity.GRADIENTS else noise_of_parts
    errors = noise(model, [*stored, *tensors], macs, context)
    of_weights, of_tensors = errors[: len(stored)], errors[len(stored) :]
    return PartErrors(
        {value.name or "": share for (value, _), share in zip(tensors, of_tensors, strict=True)},
        {site.key: share for (site, _), share in zip(stored, of_weights, strict=True)},
    )


def noise_of_parts(model: ir.Model, parts: Sequence[Part], macs: int, context: Context) -> list[float]:
    """Return the energy of the noise of the outputs where each part alone is rounded, as a share of theirs.

    Args:
        model: It is not changed.
        parts: What can be rounded.
        macs: Multiply-accumulates of one run.
        context: The context of the pass.

    Raises:
        RunError: The model does not run on the samples.
    """
    least, most = SAMPLES
    few = context.draw(int(min(most, max(least, PRODUCTS / max(macs * len(parts), 1)))), "quant: sensitivity")
    error = OutputDeviation.on(model, few, context.open_session, context.samples)
    errors: list[float] = []
    height = max(FEWEST, -(-len(parts) // SESSIONS))
    for start in range(0, len(parts), height):
        own = parts[start : start + height]
        rounded = RoundedModel(model, own, context.open_session)
        errors += [error(rounded.rounding(index)) for index in range(len(own))]
        del rounded  # before the next one is opened
        context.progress("quant: sensitivity", len(errors), len(parts))
    return errors
