"""One row of figures for each model of a folder: zoo_table.py PASSES FOLDER ...

    python tests/bench/zoo_table.py simplify models
    python tests/bench/zoo_table.py prune:ratio=0.3 models

Each model runs in a process of its own. It is opened, optimised, saved, loaded in ONNX Runtime and, for exact passes,
compared with the original on five random inputs that fit it: the figure is the largest difference of an output relative
to its largest magnitude, computed here and not by onnxslim. Where dimensions are symbolic, both run at other values of
each, too, and must give outputs of the same shapes. Prints a Markdown table, then what was left alone and why.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

SAMPLES = 5


def measure(passes: str, path: str) -> dict[str, object]:
    import numpy as np
    import onnx
    import onnxruntime

    import onnxslim
    from onnxslim.data import synthetic_samples

    onnxruntime.set_default_logger_severity(4)
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "out.onnx")
        started = time.perf_counter()
        result = onnxslim.optimize(path, passes, output=out, measure=False)
        seconds = time.perf_counter() - started
        report = result.report
        original, optimised = (
            onnxruntime.InferenceSession(each, providers=["CPUExecutionProvider"]) for each in (path, out)
        )
        onnx.checker.check_model(out)
        worst = 0.0
        samples = synthetic_samples(onnxslim.open_model(path), SAMPLES, 1)
        sizes = other_sizes(original, optimised, samples.first())
        for batch in samples.batches():
            for one, other in zip(original.run(None, batch.feeds), optimised.run(None, batch.feeds), strict=True):
                worst = max(worst, difference(np, one, other))
        step = report.passes[-1]
        left = collections.Counter(
            f"{note.action}: {note.reason}" for each in report.passes for note in each.changes if note.reason
        )
        return {
            "nodes": [len(onnx.load(each).graph.node) for each in (path, out)],
            "macs": [report.before.macs, report.after.macs],
            "megabytes": [os.path.getsize(each) / 1e6 for each in (path, out)],
            "kept": step.kept,
            "reason": step.reason,
            "difference": worst,
            "seconds": seconds,
            "sizes": sizes,
            "left": left.most_common(4),
        }


def other_sizes(original: Any, optimised: Any, feeds: dict[str, Any]) -> list[int]:
    """Run both at other values of each symbolic dimension: [how many give outputs of the same shapes, how many the
    original runs at]. Inputs of other sizes repeat the values of those that fit."""
    import numpy as np
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException

    errors = (Fail, InvalidArgument, RuntimeException)
    shapes = {each.name: each.shape for each in original.get_inputs() if each.name in feeds}
    known = {
        str(symbol): size
        for name, shape in shapes.items()
        for symbol, size in zip(shape, np.shape(feeds[name]), strict=True)
        if not isinstance(symbol, int)
    }
    good = total = 0
    for symbol, size in known.items():
        for changed in {1, 2, 3, size + 1, 2 * size, size // 2, size + 32} - {0, size}:
            sizes = {**known, symbol: changed}
            fed = {
                name: np.resize(feeds[name], [each if isinstance(each, int) else sizes[str(each)] for each in shape])
                for name, shape in shapes.items()
            }
            try:
                before = [np.shape(each) for each in original.run(None, fed)]
            except errors:
                continue
            total += 1
            with contextlib.suppress(*errors):
                good += [np.shape(each) for each in optimised.run(None, fed)] == before
    return [good, total]


def difference(np: object, one: object, other: object) -> float:
    if isinstance(one, list | dict):
        return float(json.dumps(one, default=str) != json.dumps(other, default=str))
    one, other = np.asarray(one), np.asarray(other)  # type: ignore[attr-defined]
    if one.shape != other.shape:
        return float("inf")
    if one.dtype.kind != "f":
        return float((one != other).any())
    scale = float(np.abs(one).max(initial=0.0)) or 1.0  # type: ignore[attr-defined]
    return float(np.abs(one.astype(float) - other.astype(float)).max(initial=0.0)) / scale  # type: ignore[attr-defined]


def main(passes: str, *folders: str) -> None:
    print(f"| model | nodes | MMACs | MB | largest relative difference | same shapes at other sizes | s | `{passes}` |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    notes = []
    for path in sorted((path for folder in folders for path in pathlib.Path(folder).glob("*.onnx")), key=str):
        answer = subprocess.run(
            [sys.executable, __file__, "--one", passes, str(path)], capture_output=True, text=True, check=False
        )
        if answer.returncode:
            print(f"| {path.stem} | | | | | | | failed: {answer.stderr.strip().splitlines()[-1][:200]} |", flush=True)
            continue
        row = json.loads(answer.stdout.strip().splitlines()[-1])
        macs, nodes, size = row["macs"], row["nodes"], row["megabytes"]
        share = f" ({1 - macs[1] / macs[0]:+.1%} removed)" if macs[0] and macs[1] != macs[0] else ""
        verdict = "kept" if row["kept"] else f"not kept: {row['reason']}"
        print(
            f"| {path.stem} | {nodes[0]} -> {nodes[1]} | {macs[0] / 1e6:.1f} -> {macs[1] / 1e6:.1f}{share} "
            f"| {size[0]:.2f} -> {size[1]:.2f} | {row['difference']:.1e} | {row['sizes'][0]} of {row['sizes'][1]} "
            f"| {row['seconds']:.1f} | {verdict} |",
            flush=True,
        )
        notes += [f"- {path.stem}: {count} x {reason}" for reason, count in row["left"]]
    print("\nLeft alone, the most frequent reasons first:\n")
    print("\n".join(notes))


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        print(json.dumps(measure(*sys.argv[2:])))
    else:
        main(*sys.argv[1:])
