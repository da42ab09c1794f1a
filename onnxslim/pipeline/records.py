"""The report of one run as frozen dataclasses. Field names are the keys of the JSON contract, one to one.

What could not be measured is None, and the field that says why stands beside it: its name is the key without the unit,
and ``_reason``: ``energy_mj`` has ``energy_reason``. Building a report that breaks this, or that holds a number which
JSON cannot (NaN, infinity), raises ValueError: both would be bugs in onnxslim. `docs/reference/report.md` lists them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, Any

from onnxslim.data import Subset
from onnxslim.diagnostic import Diagnostic
from onnxslim.pipeline.interface import LayerChange, LayerSensitivity, Note
from onnxslim.pipeline.reasons import Reason
from onnxslim.quality.fidelity import FIGURES
from onnxslim.quality.measure import MeasuredFigure
from onnxslim.runtime.latency import Percentiles
from onnxslim.runtime.statistics import Interval
from onnxslim.runtime.target import Target

NOT_ASKED = "not measured: asked not to"
UNITS = ("_per_s", "_bytes", "_ms", "_mj", "_db")


def reason_key(key: str) -> str:
    """Return the name of the field that says why `key` is null: without its unit, so that it reads as English."""
    unit = next((unit for unit in UNITS if key.endswith(unit)), "")
    return key.removesuffix(unit) + "_reason"


def check_record(record: Any) -> None:
    """Check a record and those within it.

    Raises:
        ValueError: A value is null and nothing says why, or it is a number that JSON cannot hold.
    """
    fields = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    for name, value in fields.items():
        reason = reason_key(name)
        if value is None and reason in fields and not fields[reason]:
            raise ValueError(f"{type(record).__name__}.{name} is None and {reason} does not say why")
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, float) and not math.isfinite(part):
                raise ValueError(f"{type(record).__name__}.{name} is {part}: no number that JSON can hold")
            if dataclasses.is_dataclass(part):
                check_record(part)


@dataclasses.dataclass(frozen=True)
class ModelFile:
    """A model as a file."""

    path: Annotated[str | None, "where it lies; null for a model that was handed over, or kept, in memory"]
    sha256: Annotated[str | None, "hash of the file's bytes, external data not included"]
    path_reason: str | None = None
    sha256_reason: str | None = None


@dataclasses.dataclass(frozen=True)
class DataSource:
    """The samples that calibrated and measured."""

    source: Annotated[str, "where the samples come from; says so where part of them was set aside to measure with"]
    samples: Annotated[int, "how many there are to measure with"]
    labels: Annotated[bool, "whether they carry labels, so that accuracy can be measured"]
    synthetic: Annotated[bool, "true: random numbers that fit the inputs; they say nothing about accuracy"]
    subsets: Annotated[tuple[Subset, ...], "which parts of the samples were used, drawn by chance, and what for"] = ()


@dataclasses.dataclass(frozen=True)
class Figures:
    """What one model costs, and how good it is."""

    size_bytes: Annotated[int, "the file, with external data, not compressed"]
    compressed_bytes: Annotated[int, "the same as it is downloaded: after zstd at its default level"]
    parameters: Annotated[int, "numbers in the weights"]
    macs: Annotated[int, "multiply-accumulates of one inference, on the sample that latency is measured on"]
    nodes: Annotated[int, "nodes in the graph, subgraphs included"]
    latency_ms: Annotated[Percentiles | None, "time of one inference"]
    load_ms: Annotated[float | None, "time that a fresh process takes to load the model"]
    first_run_ms: Annotated[float | None, "time of the first inference after that, cold"]
    throughput_per_s: Annotated[float | None, "samples a second"]
    peak_memory_bytes: Annotated[int | None, "most memory that a process running the model held, above an empty one"]
    energy_mj: Annotated[float | None, "energy of one inference, in millijoules"]
    accuracy: Annotated[float | None, "the metric's first figure on the labelled samples: top-1, mAP"]
    accuracy_interval: Annotated[tuple[float, float] | None, "low and high end of its 95 % interval"] = None
    latency_reason: str | None = None
    load_reason: str | None = None
    first_run_reason: str | None = None
    throughput_reason: str | None = None
    peak_memory_reason: str | None = None
    energy_reason: str | None = None
    accuracy_reason: str | None = None


@dataclasses.dataclass(frozen=True)
class Ratios:
    """Before divided by after: 2 is half the size, or twice as fast."""

    size: Annotated[float, "file sizes, not compressed"]
    parameters: Annotated[float | None, "parameters"]
    macs: Annotated[float | None, "multiply-accumulates"]
    latency: Annotated[Interval | None, "median of paired blocks of runs, with its 95 % interval; above 1 is faster"]
    parameters_reason: str | None = None
    macs_reason: str | None = None
    latency_reason: str | None = None


_FIDELITY: list[Any] = [(figure.key, Annotated[figure.kind | None, figure.help]) for figure in FIGURES]
_FIDELITY += [(reason_key(figure.key), "str | None", None) for figure in FIGURES]


@dataclasses.dataclass(frozen=True)
class FidelityFigures(dataclasses.make_dataclass("_Fidelity", _FIDELITY, frozen=True)):  # type: ignore[misc]  # made of names
    """How close the outputs are to those of the original."""


@dataclasses.dataclass(frozen=True)
class SliceFigures:
    """How close a part of an output is that holds a quantity of its own."""

    name: Annotated[str, "what it holds: boxes, scores"]
    sqnr_db: Annotated[Interval | None, "signal to noise of that part alone, in decibels"]
    sqnr_reason: str | None = None


@dataclasses.dataclass(frozen=True)
class OutputFigures:
    """How close one output is to that of the reference."""

    name: Annotated[str, "of the output"]
    fidelity: Annotated[FidelityFigures, "how close it is"]
    slices: Annotated[tuple[SliceFigures, ...], "parts of it that hold quantities of different scale"] = ()


@dataclasses.dataclass(frozen=True)
class QualityFigures:
    """How good the result is at its task, in the task's own terms."""

    metric: Annotated[str | None, "the metric that it was judged by"]
    chosen: Annotated[str, "why this metric"]
    lost: Annotated[str, "what the loss is a loss of; the truth are the labels, or without them the original"]
    loss: Annotated[Interval | None, "fraction that was lost, with its 95 % interval; below 0: the result is better"]
    figures: Annotated[tuple[MeasuredFigure, ...], "before and after, the most telling one first"] = ()
    outputs: Annotated[tuple[OutputFigures, ...], "each output for itself"] = ()
    metric_reason: str | None = None
    loss_reason: str | None = None


@dataclasses.dataclass(frozen=True)
class Budget:
    """What might be lost, and whether the result obeys."""

    max_drop: Annotated[float | None, "how much may be lost in the metric's terms, as a fraction"]
    met: Annotated[bool, "whether what was kept obeys; true where there is no budget"]
    samples_needed: Annotated[int | None, "samples to measure with that would settle whether the budget holds"]
    confidence: Annotated[float | None, "how sure it had to be that the budget holds"]
    max_drop_reason: str | None = None
    samples_needed_reason: str | None = None
    confidence_reason: str | None = None


@dataclasses.dataclass(frozen=True)
class ReasonRecord:
    """One of the reasons that decided."""

    code: Annotated[str, "a word that stays the same from version to version: over-budget, slower"]
    text: Annotated[str, "the reason in words"]
    values: Annotated[tuple[str, ...], "names of the values of the model that it is about"] = ()


def reason_record(reason: Reason) -> ReasonRecord:
    """Return a reason as the report holds it, with the values that it follows from."""
    values = list(reason.values)
    cause = reason.cause
    while cause is not None:
        values += cause.values
        cause = cause.cause
    return ReasonRecord(reason.code.word, str(reason), tuple(dict.fromkeys(values)))


@dataclasses.dataclass(frozen=True)
class AttemptRecord:
    """One form of a pass that was tried."""

    options: Annotated[Mapping[str, Any], "every option with its value, defaults included"]
    strength: Annotated[float, "how strong it is: 1 is what was asked for, or, where that is open, the most there is"]
    loss: Annotated[Interval | None, "what is lost against the original, as a fraction, with its 95 % interval"]
    size: Annotated[float | None, "bytes of the weights of the original divided by those that are left"]
    latency: Annotated[Interval | None, "speed relative to before the pass, with its 95 % interval"]
    kept: Annotated[bool, "whether this is the form that was kept"]
    reason: Annotated[str, "why it was kept, or not"]
    seconds: Annotated[float, "how long the try took, without timing the model"]
    loss_reason: str | None = None
    size_reason: str | None = None
    latency_reason: str | None = None
    reasons: Annotated[tuple[ReasonRecord, ...], "what `reason` is made of, with codes"] = ()


@dataclasses.dataclass(frozen=True)
class PassRecord:
    """What became of one pass."""

    name: Annotated[str, "the word after -p"]
    options: Annotated[Mapping[str, Any], "every option with its value, defaults included, as it was kept"]
    kind: Annotated[str, "exact: outputs stay the same but for rounding; lossy: the budget decides"]
    kept: Annotated[bool, "false: rolled back, or nothing to do"]
    reason: Annotated[str, "why it was kept or rolled back"]
    seconds: Annotated[float, "how long it took, checks included"]
    nodes: Annotated[tuple[int, int], "nodes before and after it"]
    changes: Annotated[tuple[Note, ...], "what it did and what it left alone: subject, action, reason"] = ()
    layers: Annotated[tuple[LayerChange, ...], "layers that got narrower, or of a lower rank"] = ()
    sensitivity: Annotated[
        tuple[LayerSensitivity, ...], "what each layer costs where it alone is changed, what that saves, what it became"
    ] = ()
    asked: Annotated[Mapping[str, Any], "the options that were asked for; a milder form may have been kept"] = (
        dataclasses.field(default_factory=dict)
    )
    attempts: Annotated[tuple[AttemptRecord, ...], "of a lossy pass: the forms that were tried, in this order"] = ()
    reasons: Annotated[tuple[ReasonRecord, ...], "what `reason` is made of, with codes"] = ()


@dataclasses.dataclass(frozen=True)
class LayerCost:
    """What a layer costs."""

    nodes: Annotated[int, "nodes that belong to it; 0 where there is nothing of it"]
    macs: Annotated[int, "multiply-accumulates of one inference"]
    weight_bytes: Annotated[int, "its weights; those that several layers share are counted at the first"]
    weight_type: Annotated[str | None, "element type of most of its weights"]
    time_ms: Annotated[float | None, "time that ONNX Runtime spends in it; what it fused counts where the MACs are"]
    weight_type_reason: str | None = None
    time_reason: str | None = None


@dataclasses.dataclass(frozen=True)
class LayerFigures:
    """One layer: what lies between two values that both models have by name."""

    name: Annotated[str, "its node with the most MACs, as the file that came in calls it"]
    op: Annotated[str, "the op type of that node"]
    value: Annotated[str, "the value that it makes in both models; empty where only one has it"]
    before: Annotated[LayerCost, "in the original"]
    after: Annotated[LayerCost, "in the result"]
    changes: Annotated[tuple[LayerChange, ...], "what the passes that were kept made of its widths and ranks"]
    sqnr_db: Annotated[float | None, "its value in the result against that in the original, in decibels"]
    sqnr_reason: str | None = None


@dataclasses.dataclass(frozen=True)
class OpFigures:
    """All nodes of one op type."""

    op: Annotated[str, "the op type, with its domain where that is not ONNX's own"]
    before: Annotated[LayerCost, "in the original"]
    after: Annotated[LayerCost, "in the result"]


@dataclasses.dataclass(frozen=True)
class Breakdown:
    """Where size, work, time and error lie."""

    layers: Annotated[tuple[LayerFigures, ...], "in the order of the original"]
    ops: Annotated[tuple[OpFigures, ...], "those with the most time, work and weights first"]


@dataclasses.dataclass(frozen=True)
class Reproduction:
    """What does the same again."""

    command: Annotated[str | None, "the command line, as a POSIX shell takes it; null where something was in memory"]
    versions: Annotated[Mapping[str, str], "of onnxslim, Python and the packages that decide what comes out"]
    recipe: Annotated[str | None, "passes with all their options, budget and seed as TOML, for --recipe"] = None
    command_reason: str | None = None


@dataclasses.dataclass(frozen=True)
class Report:
    """One run: what went in, what came out, and the figures that compare them."""

    onnxslim: Annotated[str, "version of onnxslim"]
    seed: Annotated[int, "seed of the one random generator"]
    input: Annotated[ModelFile, "the model that came in"]
    output: Annotated[ModelFile, "the model that went out"]
    target: Annotated[Target, "what the figures were measured on"]
    data: Annotated[DataSource, "the samples"]
    before: Annotated[Figures, "the original"]
    after: Annotated[Figures, "the result"]
    ratio: Annotated[Ratios, "before / after"]
    fidelity: Annotated[FidelityFigures, "the result against the original"]
    quality: Annotated[QualityFigures, "how good the result is at its task"]
    budget: Annotated[Budget, "what might be lost"]
    passes: Annotated[tuple[PassRecord, ...], "in the order in which they ran"]
    diagnostics: Annotated[tuple[Diagnostic, ...], "warnings: what was found that the user should know"] = ()
    reproduction: Annotated[Reproduction | None, "how to make it again"] = None
    breakdown: Annotated[Breakdown | None, "layer by layer and op by op; only where it was asked for"] = None

    def __post_init__(self) -> None:
        check_record(self)
