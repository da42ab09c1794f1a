"""Does the ratio that onnxslim reports agree with that of two processes, each alone?

    python tests/bench/latency_alone.py [--quick] [--runs 10] [--threads N] MODEL[=SLIM] ...

Each MODEL is made slim with `quant` first (SLIM says: with these passes; or it is a file that is slim already). Then,
so many times: the speed as `onnxslim.runtime.timing` measures it, and the speed of two processes, one after the other,
each of which holds one model, with ONNX Runtime's own options, and runs it for two seconds. Where Linux tells that
other processes took more than a twentieth of a core meanwhile, the run is done again, three times at most. Prints a
Markdown table: the medians of the ratios, their range and its width relative to the median, and how far the medians
are apart. `--quick` does three short runs.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import onnxslim
from onnxslim.data import synthetic_samples
from onnxslim.runtime.target import Target, detect_target
from onnxslim.runtime.timing import STARTS, compare_latency

ALONE = """
import json, sys, time
import numpy as np, onnxruntime
path, feeds, seconds, threads = sys.argv[1], dict(np.load(sys.argv[2])), float(sys.argv[3]), int(sys.argv[4])
options = onnxruntime.SessionOptions()
options.log_severity_level = 4
options.intra_op_num_threads = threads
session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
end = time.perf_counter() + seconds / 4
while time.perf_counter() < end:
    session.run(None, feeds)
times, end = [], time.perf_counter() + seconds
while time.perf_counter() < end or len(times) < 5:
    start = time.perf_counter()
    session.run(None, feeds)
    times.append(time.perf_counter() - start)
print(json.dumps(float(np.median(times))))
"""
"""A user's own process: nothing of onnxslim, one model. 0 threads: what ONNX Runtime chooses."""
BUSY, TRIES = 0.05, 3
"""Cores that others may take meanwhile, and how often to try."""


def work_of_others() -> float | None:
    """Return the seconds that the cores have worked, without those of this process and its children that ended."""
    try:
        fields = [int(each) for each in pathlib.Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    except OSError:
        return None
    busy = (sum(fields[:8]) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")
    return busy - sum(os.times()[:4])


def undisturbed(measure: Callable[[], Any]) -> tuple[Any, float]:
    """Return what `measure` returns, and the cores that others took meanwhile: the quietest of a few tries."""
    best: tuple[Any, float] | None = None
    for _ in range(TRIES):
        before, begin = work_of_others(), time.perf_counter()
        result = measure()
        after = work_of_others()
        others = 0.0 if before is None or after is None else (after - before) / (time.perf_counter() - begin)
        if best is None or others < best[1]:
            best = result, others
        if others < BUSY:
            break
    assert best is not None
    return best


def alone(model: pathlib.Path, feeds: pathlib.Path, seconds: float, threads: int) -> float:
    """Return the median seconds of a run in a process that holds nothing but `model`."""
    arguments = [sys.executable, "-c", ALONE, str(model), str(feeds), str(seconds), str(threads)]
    return float(json.loads(subprocess.run(arguments, check=True, capture_output=True, text=True).stdout))


def spread(ratios: list[float]) -> str:
    middle = float(np.median(ratios))
    return f"{middle:.3f} ({min(ratios):.3f} to {max(ratios):.3f}, {(max(ratios) - min(ratios)) / middle:.1%})"


def row(model: pathlib.Path, slim: pathlib.Path, folder: pathlib.Path, options: argparse.Namespace) -> str:
    """Return a line of the table."""
    target: Target = detect_target("cpu", options.threads)
    feeds = synthetic_samples(onnxslim.open_model(model), 1, 0).first()
    archive = folder / "feeds.npz"
    np.savez(archive, **feeds)
    generator = np.random.default_rng(0)
    threads = options.threads or 0
    ours, truth, noise = [], [], []
    for _ in range(options.runs):
        paired, others = undisturbed(
            lambda: compare_latency(
                model, slim, feeds, target, generator=generator, seconds=options.seconds, starts=STARTS
            )
        )
        ours.append((paired.ratio.value, paired.before.times.p50, paired.after.times.p50))
        noise.append(others)
        times, others = undisturbed(
            lambda: [alone(each, archive, options.seconds * 2 / 3, threads) * 1e3 for each in (model, slim)]
        )
        truth.append((times[0] / times[1], *times))
        noise.append(others)
    apart = float(np.median([each[0] for each in ours]) / np.median([each[0] for each in truth])) - 1
    within = sum(abs(each[0] / np.median([one[0] for one in truth]) - 1) <= 0.05 for each in ours)
    before, after = ([f"{np.median([each[k] for each in one]):.3f}" for one in (ours, truth)] for k in (1, 2))
    return (
        f"| {model.stem} | {' / '.join(before)} | {' / '.join(after)} | {spread([each[0] for each in ours])} "
        f"| {spread([each[0] for each in truth])} | {apart:+.1%} | {within} of {len(ours)} | {max(noise):.2f} |"
    )


def main(options: argparse.Namespace) -> None:
    print(
        "| model | before, ms: ours / alone | after, ms | ratio of ours (spread) | of two processes alone (spread) "
        "| apart | within 5 % | cores that others took, at most |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for argument in options.models:
            path, _, passes = argument.partition("=")
            slim = pathlib.Path(passes)
            if not slim.is_file():
                slim = folder / "slim.onnx"
                onnxslim.optimize(path, passes or "quant", output=slim, measure=False)
            print(row(pathlib.Path(path), slim, folder, options), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL[=PASSES|FILE]")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement of ours")
    parser.add_argument("--threads", type=int, help="as of onnxslim; without it both sides choose")
    parser.add_argument("--quick", action="store_true", help="three runs of one second")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.runs, chosen.seconds = 3, 1.0
    main(chosen)
