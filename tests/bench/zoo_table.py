"""One row of figures for each model of a folder: zoo_table.py PASSES FOLDER ...

    python tests/bench/zoo_table.py simplify models
    python tests/bench/zoo_table.py prune:ratio=0.3 models

Each model runs in a process of its own. It is opened, optimised, saved, loaded in ONNX Runtime and, for exact passes,
compared with the original on five random inputs that fit it: the figure is the largest difference of an output relative
to its largest magnitude, computed here and not by onnxslim. Prints a Markdown table, then what was left alone and why.
"""

from __future__ import annotations

import collections
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

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
        for batch in synthetic_samples(onnxslim.open_model(path), SAMPLES, 1).batches():
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
            "left": left.most_common(4),
        }


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
    print(f"| model | nodes | MMACs | MB | largest relative difference | s | `{passes}` |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    notes = []
    for path in sorted((path for folder in folders for path in pathlib.Path(folder).glob("*.onnx")), key=str):
        answer = subprocess.run(
            [sys.executable, __file__, "--one", passes, str(path)], capture_output=True, text=True, check=False
        )
        if answer.returncode:
            print(f"| {path.stem} | | | | | | failed: {answer.stderr.strip().splitlines()[-1][:200]} |", flush=True)
            continue
        row = json.loads(answer.stdout.strip().splitlines()[-1])
        macs, nodes, size = row["macs"], row["nodes"], row["megabytes"]
        share = f" ({1 - macs[1] / macs[0]:+.1%} removed)" if macs[0] and macs[1] != macs[0] else ""
        verdict = "kept" if row["kept"] else f"not kept: {row['reason']}"
        print(
            f"| {path.stem} | {nodes[0]} -> {nodes[1]} | {macs[0] / 1e6:.1f} -> {macs[1] / 1e6:.1f}{share} "
            f"| {size[0]:.2f} -> {size[1]:.2f} | {row['difference']:.1e} | {row['seconds']:.1f} | {verdict} |",
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
