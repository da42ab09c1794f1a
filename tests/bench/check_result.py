"""What became of a model, seen from outside: nodes, largest difference of its outputs, latency against the original.

    python check_result.py ORIGINAL.onnx RESULT.onnx SECONDS [LOCK]

Prints a line of JSON. Differences are computed here, on random inputs that the original runs on, with other sizes for
each symbolic dimension, one after the other; both models run in ONNX Runtime with its default optimisation. As a
yardstick, `noise` is what the original differs from itself when ONNX Runtime leaves it alone. Latency is paired and
in blocks; LOCK is a file that whoever else times something on this machine takes, too.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pathlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime

from onnxslim import open_model
from onnxslim.data import synthetic_samples
from onnxslim.data.synthetic import roles_of_dimensions
from onnxslim.errors import OnnxslimError
from onnxslim.runtime.session import Session
from onnxslim.runtime.timing import compare_latency

SAMPLES = 3
OTHER_SIZES = {"batch": (2, 3), "spatial": (0.5, 1.25), "sequence": (0.5, 1.25)}
"""Sizes to try, too: numbers for a batch, factors of the size that was found for the others."""

Feeds = Mapping[str, "np.ndarray[Any, Any]"]


def count_nodes(path: str) -> dict[str, int]:
    """Return the nodes of a model, those in subgraphs and local functions too, with and without Constant nodes."""
    model = onnx.load(path, load_external_data=False)
    every = [op for body in (model.graph, *model.functions) for op in ops(body.node)]
    return {"nodes": sum(op != "Constant" for op in every), "nodes_with_constants": len(every)}


def ops(nodes: Any) -> Iterator[str]:
    for node in nodes:
        yield node.op_type
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from ops(graph.node)


def draws(path: str, session: Session) -> Iterator[tuple[str, Feeds]]:
    """Yield random inputs that the model runs on, and what is special about their sizes."""
    model = open_model(path)
    found: dict[str, int] = {}
    for batch in synthetic_samples(model, SAMPLES, 1, session=session).batches():
        for spec in session.inputs:
            for axis, size in enumerate(spec.shape):
                if not isinstance(size, int):
                    name = size if isinstance(size, str) else f"{spec.name}[{axis}]"
                    found[name] = batch.feeds[spec.name].shape[axis]
        yield "", batch.feeds
    for name, role in roles_of_dimensions(session.inputs).items():
        for other in OTHER_SIZES[role]:
            size = int(other) if role == "batch" else max(1, round(other * found[name]))
            with contextlib.suppress(OnnxslimError):  # the original does not run at this size: nothing to compare
                for batch in synthetic_samples(model, 1, 2, session=session, sizes={**found, name: size}).batches():
                    yield f"{name} = {size}", batch.feeds


def run(session: onnxruntime.InferenceSession, feeds: Feeds) -> list[Any]:
    wanted = {each.name for each in session.get_inputs()}
    return session.run(None, {name: array for name, array in feeds.items() if name in wanted})


def difference(one: Any, other: Any) -> float:
    """Return the largest difference relative to the largest magnitude; infinite where shapes or finiteness differ."""
    if isinstance(one, list | dict):
        return float(json.dumps(one, default=str) != json.dumps(other, default=str))
    one, other = np.asarray(one), np.asarray(other)
    if one.shape != other.shape or one.dtype != other.dtype:
        return float("inf")
    if one.dtype.kind != "f":
        return float((one != other).any())
    one, other = one.astype(np.float64), other.astype(np.float64)
    if not np.array_equal(np.isfinite(one), np.isfinite(other)):
        return float("inf")
    one, other = one[np.isfinite(one)], other[np.isfinite(other)]
    return float(np.abs(one - other).max(initial=0.0) / (np.abs(one).max(initial=0.0) or 1.0))


def worst(wanted: list[Any], got: list[Any]) -> float:
    if len(wanted) != len(got):
        return float("inf")
    return max(map(difference, wanted, got), default=0.0)


def opened(path: str, level: onnxruntime.GraphOptimizationLevel | None = None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = os.cpu_count() or 1
    if level is not None:
        options.graph_optimization_level = level
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def main(original: str, result: str, seconds: float, lock: str | None = None) -> dict[str, Any]:
    onnxruntime.set_default_logger_severity(4)
    answer: dict[str, Any] = {**count_nodes(result), "bytes": os.path.getsize(result)}
    try:
        candidate = opened(result)
    except Exception as error:  # ONNX Runtime's exceptions have no common base
        return {**answer, "wrong": f"ONNX Runtime refuses it: {str(error).strip().splitlines()[0][:160]}"}
    reference, plain = opened(original), opened(original, onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL)
    answer |= {"difference": 0.0, "noise": 0.0, "inputs": 0}
    session = Session.of(pathlib.Path(original))
    first: Feeds | None = None
    for special, feeds in draws(original, session):
        first = feeds if first is None else first
        wanted = run(reference, feeds)
        try:
            off = worst(wanted, run(candidate, feeds))
        except Exception as error:
            reason = str(error).strip().splitlines()[0][:160]
            return {**answer, "wrong": f"does not run{' at ' + special if special else ''}: {reason}"}
        answer["inputs"] += 1
        answer["noise"] = max(answer["noise"], min(worst(wanted, run(plain, feeds)), 1e30))
        answer["difference"] = max(answer["difference"], min(off, 1e30))
        if off > 1e-4 and "wrong" not in answer:
            answer["wrong"] = f"differs by {off:.1e}{' at ' + special if special else ''}"
    del reference, plain, candidate
    if first is not None and seconds > 0:
        other = Session.of(pathlib.Path(result))
        fed = {spec.name for spec in other.inputs}
        if fed == {spec.name for spec in session.inputs}:
            with locked(lock):
                ratio = compare_latency(
                    *map(pathlib.Path, (original, result)),
                    first,
                    other.target,
                    generator=np.random.default_rng(0),
                    seconds=seconds,
                ).ratio
            answer["speed"] = [ratio.value, ratio.low, ratio.high]
    return answer


@contextlib.contextmanager
def locked(path: str | None) -> Iterator[None]:
    """Hold the lock on a file while the block runs; None: no lock."""
    if path is None:
        yield
        return
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], float(sys.argv[3]), *sys.argv[4:5])))
