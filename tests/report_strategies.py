"""Reports for tests: one that reads like a real run, and any that the dataclasses allow."""

from __future__ import annotations

import dataclasses

from hypothesis import strategies as st

from onnxslim.diagnostic import Diagnostic
from onnxslim.pipeline.interface import LayerChange, LayerSensitivity, Note
from onnxslim.pipeline.records import (
    AttemptRecord,
    Budget,
    DataSource,
    FidelityFigures,
    Figures,
    ModelFile,
    OutputFigures,
    PassRecord,
    QualityFigures,
    Ratios,
    Report,
    Reproduction,
    SliceFigures,
    reason_key,
)
from onnxslim.quality.measure import MeasuredFigure
from onnxslim.runtime.latency import Percentiles
from onnxslim.runtime.statistics import Interval
from onnxslim.runtime.target import Target


def sample_report() -> Report:
    """Return the report of a run that quantized a model and rolled one pass back."""
    before = Figures(
        size_bytes=1_250_000,
        compressed_bytes=1_140_000,
        parameters=308_000,
        macs=41_300_000,
        nodes=52,
        latency_ms=Percentiles(2.31, 2.9, 3.3, (2.2, 2.31, 3.5)),
        load_ms=41.0,
        first_run_ms=5.2,
        throughput_per_s=433.0,
        peak_memory_bytes=8_400_000,
        energy_mj=None,
        accuracy=0.934,
        accuracy_interval=(0.922, 0.944),
        energy_reason="no RAPL counters here",
    )
    after = dataclasses.replace(
        before,
        size_bytes=330_000,
        compressed_bytes=270_000,
        nodes=61,
        latency_ms=Percentiles(1.0, 1.2, 1.4, (0.9, 1.0, 1.5)),
        load_ms=20.5,
        first_run_ms=2.6,
        throughput_per_s=1000.0,
        peak_memory_bytes=4_200_000,
        accuracy=0.9325,
        accuracy_interval=(0.92, 0.943),
    )
    notes = tuple(Note(f"/layer{index}/Conv[0]", "int8", "per channel") for index in range(6))
    costs = (
        LayerSensitivity(
            *("/layer0/Conv", "Conv", 31.2, "outputs", 0.75, 36_864, 9_216, None, "float"),
            why="it brings 75.0% of the error",
            saved_reason="not measured",
        ),
        LayerSensitivity("/layer1/Conv", "Conv", 36.0, "outputs", 0.25, 36_864, 9_216, 0.31, "int8"),
    )
    quant = PassRecord(
        "quant", {"calibration": "mse"}, "lossy", True, "within the budget", 3.21, (50, 61), notes, sensitivity=costs
    )
    layers = (
        LayerChange("/layer0/Conv", "Conv", "channels", 64, 48, 9_400_000, 7_100_000),
        LayerChange("/layer1/Conv", "Conv", "channels", 64, 64, 9_400_000, 7_100_000),
    )
    lost = "3.10% of accuracy would be lost"
    prune = PassRecord("prune", {"ratio": 0.5}, "lossy", False, lost, 8.0, (52, 50), (), layers)
    closeness = FidelityFigures(
        Interval(0.985, 0.979, 0.99), Interval(28.7, 28.5, 28.9), Interval(0.9993, 0.9991, 0.9995), 0.31
    )
    return Report(
        onnxslim="0.1.0",
        seed=0,
        input=ModelFile("model.onnx", "ab" * 32),
        output=ModelFile("model.slim.onnx", "cd" * 32),
        target=Target("cpu", "AMD EPYC", "avx2", 2),
        data=DataSource("test.npz", 2000, True, False),
        before=before,
        after=after,
        ratio=Ratios(1_250_000 / 330_000, 1.0, 1.0, Interval(2.31, 2.25, 2.37)),
        fidelity=closeness,
        quality=QualityFigures(
            metric="classification",
            chosen="logits [1, 10] holds a score for each of 10 classes",
            lost="top-1 accuracy",
            loss=Interval(0.0015, -0.001, 0.004),
            figures=(
                MeasuredFigure(
                    "top-1",
                    Interval(0.934, 0.922, 0.944),
                    Interval(0.9325, 0.92, 0.943),
                    Interval(-0.0015, -0.004, 0.001),
                    "%",
                ),
            ),
            outputs=(OutputFigures("logits", closeness, (SliceFigures("scores", Interval(8.5, 8.0, 9.0)),)),),
        ),
        budget=Budget(0.01, True, None, 0.95, samples_needed_reason="it is settled"),
        passes=(prune, quant),
        reproduction=Reproduction("onnxslim optimize model.onnx --passes quant", {"onnxslim": "0.1.0"}, "seed = 0\n"),
    )


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
words = text.filter(bool)
counts = st.integers(0, 2**62)
finite = st.floats(allow_nan=False, allow_infinity=False)
intervals = st.builds(Interval, finite, finite, finite)
positive = st.floats(1e-6, 1e9)
speeds = st.lists(positive, min_size=3, max_size=3).map(sorted).map(lambda ends: Interval(ends[1], ends[0], ends[2]))


def records(kind: type, **strategies: st.SearchStrategy) -> st.SearchStrategy:
    """Return a strategy for `kind` in which every null has its reason, and nothing else has one."""

    @st.composite
    def build(draw: st.DrawFn):
        values = {name: draw(strategy) for name, strategy in strategies.items()}
        fields = {field.name for field in dataclasses.fields(kind)}
        for name in list(values):
            if reason_key(name) in fields and values[name] is None:
                values[reason_key(name)] = draw(words)
        return kind(**values)

    return build()


figures = records(
    Figures,
    size_bytes=counts,
    compressed_bytes=counts,
    parameters=counts,
    macs=counts,
    nodes=counts,
    latency_ms=st.none()
    | st.builds(
        Percentiles, positive, positive, positive, st.lists(positive, min_size=101, max_size=101).map(sorted).map(tuple)
    ),
    load_ms=st.none() | finite,
    first_run_ms=st.none() | finite,
    throughput_per_s=st.none() | finite,
    peak_memory_bytes=st.none() | counts,
    energy_mj=st.none() | finite,
    accuracy=st.none() | finite,
    accuracy_interval=st.none() | st.tuples(finite, finite),
)
options = st.dictionaries(text, st.none() | st.booleans() | counts | finite | text | st.lists(text), max_size=3)
attempts = records(
    AttemptRecord,
    options=options,
    strength=finite,
    loss=st.none() | intervals,
    size=st.none() | finite,
    latency=st.none() | intervals,
    kept=st.booleans(),
    reason=text,
    seconds=finite,
)
sensitivities = records(
    LayerSensitivity,
    layer=text,
    op=text,
    sqnr_db=st.none() | finite,
    measured_on=text,
    share=st.none() | finite,
    bytes_before=counts,
    bytes_after=counts,
    saved_ms=st.none() | finite,
    became=text,
    why=text,
)
files = records(ModelFile, path=st.none() | text, sha256=st.none() | text)
reports = st.builds(
    Report,
    onnxslim=text,
    seed=counts,
    input=files,
    output=files,
    target=st.builds(Target, text, text, text, st.integers(1, 64)),
    data=records(DataSource, source=text, samples=counts, labels=st.booleans(), synthetic=st.booleans()),
    before=figures,
    after=figures,
    ratio=records(
        Ratios, size=positive, parameters=st.none() | finite, macs=st.none() | finite, latency=st.none() | speeds
    ),
    fidelity=records(
        FidelityFigures,
        agreement=st.none() | intervals,
        sqnr_db=st.none() | intervals,
        cosine=st.none() | intervals,
        max_abs_error=st.none() | finite,
    ),
    quality=records(
        QualityFigures,
        metric=st.none() | text,
        chosen=text,
        lost=text,
        loss=st.none() | intervals,
        figures=st.lists(st.builds(MeasuredFigure, text, intervals, intervals, intervals, text), max_size=2).map(tuple),
    ),
    budget=records(
        Budget,
        max_drop=st.none() | finite,
        met=st.booleans(),
        samples_needed=st.none() | counts,
        confidence=st.none() | finite,
    ),
    passes=st.lists(
        st.builds(
            PassRecord,
            name=text,
            options=options,
            kind=st.sampled_from(["exact", "lossy"]),
            kept=st.booleans(),
            reason=text,
            seconds=finite,
            nodes=st.tuples(counts, counts),
            asked=options,
            attempts=st.lists(attempts, max_size=2).map(tuple),
            changes=st.lists(st.builds(Note, text, text, text), max_size=2).map(tuple),
            sensitivity=st.lists(sensitivities, max_size=2).map(tuple),
            layers=st.lists(st.builds(LayerChange, text, text, text, counts, counts, counts, counts), max_size=2).map(
                tuple
            ),
        ),
        max_size=2,
    ).map(tuple),
    diagnostics=st.lists(st.builds(Diagnostic, text, text, text), max_size=2).map(tuple),
    reproduction=st.none()
    | records(
        Reproduction,
        command=st.none() | text,
        versions=st.dictionaries(text, text, max_size=2),
        recipe=st.none() | text,
    ),
)
