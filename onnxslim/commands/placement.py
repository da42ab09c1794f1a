"""Where a model runs on this machine: which nodes in int8, which in float, and what Q and DQ cost and bring."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypedDict

import onnx_ir as ir

from onnxslim.commands.onnx_text import op_title
from onnxslim.data import open_samples, synthetic_samples
from onnxslim.data.trial_run import run_in_child
from onnxslim.model import open_model
from onnxslim.pipeline.records import check_record
from onnxslim.pipeline.request import Data
from onnxslim.runtime.kernels import first_value
from onnxslim.runtime.placement import KernelPlacement, RunsIn, place
from onnxslim.runtime.session import Session
from onnxslim.runtime.target import Target, detect_target


@dataclass(frozen=True, kw_only=True)
class KernelTime:
    """How long kernels take."""

    time_ms: Annotated[float | None, "time in one inference"]
    share: Annotated[float | None, "of the time of all kernels"]
    time_reason: str | None = None
    share_reason: str | None = None


@dataclass(frozen=True)
class PlaceFigures(KernelTime):
    """How much of a model runs in one way."""

    nodes: Annotated[int, "nodes of the model; QuantizeLinear and DequantizeLinear are not counted"]
    kernels: Annotated[int, "what ONNX Runtime runs for them"]


@dataclass(frozen=True)
class KernelFigures(KernelTime):
    """What ONNX Runtime runs for one node of the model, or for several."""

    name: Annotated[str, "in ONNX Runtime's graph"]
    op_type: Annotated[str, "in ONNX Runtime's graph"]
    runs_in: Annotated[str, "what it computes on: int8, packed weights, float or other"]
    provider: Annotated[str, "the execution provider that it belongs to"]
    nodes: Annotated[tuple[str, ...], "nodes of the model that it does the work of"]
    ops: Annotated[tuple[str, ...], "the ops of these"]


@dataclass(frozen=True)
class ConversionFigures(KernelTime):
    """A QuantizeLinear or DequantizeLinear that is a kernel of its own."""

    name: Annotated[str, "in ONNX Runtime's graph"]
    op_type: Annotated[str, "which of the two"]
    purpose: Annotated[str, "what it is for: into int8, out of int8, interface, pair around floats or stored integers"]
    saves_time: Annotated[bool, "whether time can be saved by it; false: it costs time and brings none"]
    neighbours: Annotated[tuple[str, ...], "ops that it is there for, or in vain"]


@dataclass(frozen=True)
class ModelPlacement:
    """Where one model runs."""

    path: Annotated[str, "where it lies"]
    target: Annotated[Target, "where it was run"]
    source: Annotated[str, "the sample that was run"]
    time_ms: Annotated[float | None, "time of all kernels in one inference"]
    places: Annotated[Mapping[str, PlaceFigures], "how much runs where; nowhere: computed when the model is opened"]
    kernels: Annotated[tuple[KernelFigures, ...], "all but the conversions; those that take longest first"]
    nowhere: Annotated[Mapping[str, int], "how often an op has no kernel of its own, by op"]
    conversions: Annotated[tuple[ConversionFigures, ...] | None, "those that take longest first"]
    time_reason: str | None = None
    conversions_reason: str | None = None

    def __post_init__(self) -> None:
        check_record(self)

    @property
    def wasted(self) -> tuple[ConversionFigures, ...]:
        """The conversions that cost time and save none."""
        return tuple(conversion for conversion in self.conversions or () if not conversion.saves_time)


class _Figures(TypedDict):
    time_ms: float | None
    share: float | None
    time_reason: str | None
    share_reason: str | None


@dataclass(frozen=True)
class _Clock:
    """Times of kernels as figures, or why there are none."""

    total: float
    reason: str | None

    def figures(self, milliseconds: float) -> _Figures:
        """Return the fields of a `KernelTime`."""
        if self.reason is not None:
            return {"time_ms": None, "share": None, "time_reason": self.reason, "share_reason": self.reason}
        share = milliseconds / self.total if self.total else 0.0
        return {"time_ms": milliseconds, "share": share, "time_reason": None, "share_reason": None}


def place_model(
    path: str | os.PathLike[str],
    *,
    data: Data | None = None,
    preprocess: str | None = None,
    provider: str = "auto",
    threads: int | None = None,
    seed: int = 0,
    inline: bool = True,
) -> ModelPlacement:
    """Run the model at `path` on one sample and say where its nodes run.

    Args:
        path: The ONNX file.
        data: Where to take the sample from (see `open_samples`); None: random numbers.
        preprocess: How images become inputs.
        provider: ``auto``, ``cpu`` or ``cuda``.
        threads: Threads within one operator; None: one a core.
        seed: Of random samples.
        inline: Inline local functions first.

    Raises:
        ModelError, DataError, RunError, ProviderUnavailable, BadOptionValue: As the parts do.
    """
    path = Path(path)
    target = detect_target(provider, threads)
    model = open_model(path, inline=inline)
    run_in_child(model, path, target, data=data, preprocess=preprocess)
    if data is None:
        samples = synthetic_samples(model, 1, seed, target=target)
    else:
        samples = open_samples(data, Session.of(path, target).inputs, preprocess=preprocess)
    found = place(model, samples.first(), target)
    timed = target.facts.node_times
    reason = None if timed else f"ONNX Runtime does not tell how long a node takes on {target.provider}"
    clock = _Clock(sum(kernel.milliseconds for kernel in found.kernels.values()), reason)
    return ModelPlacement(
        path=str(path),
        target=target,
        source=samples.source,
        time_ms=clock.total if timed else None,
        places=_places(found, clock),
        kernels=_kernels(found, clock),
        nowhere=dict(Counter(op_title(item.node) for item in found.nodes if item.kernel is None).most_common()),
        conversions=_conversions(found, clock),
        time_reason=reason,
        conversions_reason=None if found.conversions is not None else "ONNX Runtime does not write the graph it runs",
    )


def _places(found: KernelPlacement, clock: _Clock) -> dict[str, PlaceFigures]:
    nodes = Counter(item.place for item in found.nodes)
    kernels = Counter(found.places.values())
    times = dict.fromkeys(RunsIn, 0.0)
    for name, kernel in found.kernels.items():
        times[found.places[name]] += kernel.milliseconds
    return {
        where.value: PlaceFigures(nodes[where], kernels[where], **clock.figures(times[where]))
        for where in RunsIn
        if nodes[where] or kernels[where]
    }


def _kernels(found: KernelPlacement, clock: _Clock) -> tuple[KernelFigures, ...]:
    covered: dict[str, list[ir.Node]] = {}
    for item in found.nodes:
        if item.kernel is not None:
            covered.setdefault(item.kernel.name, []).append(item.node)
    rows = sorted(found.kernels.values(), key=lambda kernel: -kernel.milliseconds)
    return tuple(
        KernelFigures(
            kernel.name,
            kernel.op_type,
            found.places[kernel.name].value,
            kernel.provider,
            tuple(node.name or first_value(node) for node in covered.get(kernel.name, ())),
            _titles(covered.get(kernel.name, ())),
            **clock.figures(kernel.milliseconds),
        )
        for kernel in rows
        if found.places[kernel.name] is not RunsIn.CONVERSION
    )


def _conversions(found: KernelPlacement, clock: _Clock) -> tuple[ConversionFigures, ...] | None:
    if found.conversions is None:
        return None
    rows = sorted(found.conversions, key=lambda conversion: -conversion.kernel.milliseconds)
    return tuple(
        ConversionFigures(
            conversion.kernel.name,
            conversion.kernel.op_type,
            conversion.purpose.value,
            conversion.purpose.saves_time,
            _titles(conversion.neighbours),
            **clock.figures(conversion.kernel.milliseconds),
        )
        for conversion in rows
    )


def _titles(nodes: Iterable[ir.Node]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map(op_title, nodes)))
