"""How fast models are on this machine, each against the first: latency in paired blocks, cold start, memory, energy."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np

from onnxslim.commands.reproduction import reproduction
from onnxslim.commands.resources import resource_figures
from onnxslim.data import open_samples, synthetic_samples
from onnxslim.data.trial_run import run_in_child
from onnxslim.errors import BadOptionValue
from onnxslim.model import file_bytes, open_model
from onnxslim.pipeline.records import Reproduction, check_record
from onnxslim.pipeline.request import Data
from onnxslim.runtime.latency import Percentiles
from onnxslim.runtime.session import Session
from onnxslim.runtime.statistics import Interval
from onnxslim.runtime.target import Target, detect_target
from onnxslim.runtime.timing import STARTS, compare_latency, measure_latency

LONGEST = 3600
"""Seconds for which a pair of models may be timed."""


@dataclasses.dataclass(frozen=True)
class SpeedFigures:
    """One model's figures."""

    path: Annotated[str, "where the model lies"]
    size_bytes: Annotated[int, "the file, with external data"]
    latency_ms: Annotated[Percentiles, "time of one inference"]
    load_ms: Annotated[float | None, "time that a fresh process takes to load the model"]
    first_run_ms: Annotated[float | None, "time of the first inference after that, cold"]
    throughput_per_s: Annotated[float, "samples a second"]
    peak_memory_bytes: Annotated[int | None, "most memory that a process running it held, above an empty one"]
    energy_mj: Annotated[float | None, "energy of one inference, in millijoules"]
    speedup: Annotated[Interval | None, "how many times as fast as the first model, with its 95 % interval"]
    load_reason: str | None = None
    first_run_reason: str | None = None
    peak_memory_reason: str | None = None
    energy_reason: str | None = None
    speedup_reason: str | None = None


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Models timed against the first of them."""

    target: Annotated[Target, "what the figures were measured on"]
    seed: Annotated[int, "of random samples and of the intervals"]
    source: Annotated[str, "the sample that was run"]
    models: Annotated[tuple[SpeedFigures, ...], "the first is what the others are compared with"]
    reproduction: Annotated[Reproduction | None, "how to measure it again"] = None

    def __post_init__(self) -> None:
        check_record(self)


def bench(
    paths: Sequence[str | os.PathLike[str]],
    *,
    data: Data | None = None,
    preprocess: str | None = None,
    provider: str = "auto",
    threads: int | None = None,
    seed: int = 0,
    seconds: float = 2.0,
) -> Benchmark:
    """Time the models at `paths` on one sample.

    Args:
        paths: One model or more. They must take the same inputs.
        data: Where to take the sample from (see `open_samples`); None: random numbers.
        preprocess: How images become inputs.
        provider: ``auto``, ``cpu`` or ``cuda``.
        threads: Threads within one operator; None: one a core.
        seed: Of random samples and of the bootstrap.
        seconds: How long to time each pair.

    Raises:
        ModelError, DataError, RunError, ProviderUnavailable, BadOptionValue: As the parts do.
    """
    if not 0 < seconds <= LONGEST:
        raise BadOptionValue(f"{seconds:g} seconds cannot be timed", where="--seconds", hint=f"at most {LONGEST:,}")
    target = detect_target(provider, threads)
    files = [Path(path) for path in paths]
    opened = [open_model(file) for file in files]  # its errors are clearer than those of ONNX Runtime
    for model, file in zip(opened, files, strict=True):
        run_in_child(model, file, target, data=data, preprocess=preprocess)
    first, *_ = sessions = [Session.of(file, target) for file in files]
    if data is None:
        samples = synthetic_samples(opened[0], 1, seed)
    else:
        samples = open_samples(data, first.inputs, preprocess=preprocess)
    feeds = samples.first()
    generator = np.random.default_rng(seed)
    sources = files if target.facts.own_process else sessions
    models = []
    for index, (file, session) in enumerate(zip(files, sessions, strict=True)):
        speedup = None
        if index:
            pair = sources[0], sources[index]
            paired = compare_latency(*pair, feeds, target, generator=generator, seconds=seconds, starts=STARTS)
            latency, speedup = paired.after, paired.ratio
        else:
            latency = measure_latency(sources[0], feeds, target, seconds=seconds)
        models.append(
            SpeedFigures(
                path=str(file),
                size_bytes=file_bytes(file),
                latency_ms=latency.times,
                throughput_per_s=latency.throughput_per_s,
                speedup=speedup,
                speedup_reason=None if speedup else "the model that the others are compared with",
                **resource_figures(file, session, feeds, latency),
            )
        )
    again = reproduction(
        "bench",
        files,
        {
            "--data": data,
            "--preprocess": preprocess,
            "--seconds": seconds,
            "--provider": target.provider,
            "--threads": target.threads,
            "--seed": seed,
        },
    )
    return Benchmark(target, seed, samples.source, tuple(models), again)
